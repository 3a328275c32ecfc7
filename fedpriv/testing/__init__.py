"""Testing: a kit for authors of plug-ins. `check_attack(MyAttack)` says whether an attack keeps its promises."""

from fedpriv.testing.attack import Checked, check_attack
from fedpriv.testing.case import CASES, Case

__all__ = ["CASES", "Case", "Checked", "check_attack"]
