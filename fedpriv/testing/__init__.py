"""Testing: a kit for authors of plug-ins. `check_attack` and `check_defense` say whether they keep their promises."""

from fedpriv.testing.attack import Checked, check_attack
from fedpriv.testing.case import CASES, Case
from fedpriv.testing.defense import CheckedDefense, check_defense

__all__ = ["CASES", "Case", "Checked", "CheckedDefense", "check_attack", "check_defense"]
