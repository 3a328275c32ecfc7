"""Attack: a function of a view, or of a dossier, that makes a finding."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from fedpriv.base.errors import CapabilityError
from fedpriv.base.plugin import Plugin
from fedpriv.threat.capability import Capability
from fedpriv.threat.decay import undecayed
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.finding import Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.replays import measured
from fedpriv.threat.view import View

__all__ = ["Attack", "Capability", "Finding"]

#: What TensorFlow says where an operation has no derivative.
_NO_GRADIENT = re.compile(r"gradient registry has no entry for: (\w+)")


class Attack(Plugin):
    """Base of all attacks: parameters, the capabilities needed, and `run`.

    Override `attack`, which gets one view, or `attack_dossier`, which gets all that its adversary holds, or both.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    #: Rounds that it must have listened in.
    least_rounds: ClassVar[int] = 1
    #: Whether it can do with some coordinates of an update, where a protocol hides the others (`View.visible`).
    reads_parts: ClassVar[bool] = False
    #: Names of the goals whose questions it answers; the first is meant where none is named.
    goals: ClassVar[tuple[str, ...]] = ("reconstruction", "labels")

    def requirements(self) -> frozenset[Capability]:
        """What it needs of each view with these parameters."""
        return self.needs

    def brings(self) -> tuple[Knowledge, ...]:
        """What it knows through its parameters and not from its adversary, such as auxiliary data.

        The trial adds it to the threat line, since whoever makes the attack must have it.
        """
        return ()

    def equipped(self, view: View) -> Attack:
        """This attack with what the adversary holds where its parameters say `held`; called before `attack`."""
        return self

    @classmethod
    def remembers(cls) -> bool:
        """Whether it attacks a whole dossier rather than one view."""
        return cls.attack_dossier is not Attack.attack_dossier

    def require(self, view: View) -> None:
        """Raises CapabilityError naming what the view lacks."""
        needed = self.requirements()
        if Capability.REAL_UPDATE in needed and Capability.REAL_UPDATE in view.capabilities and not self.reads_parts:
            needed |= {Capability.WHOLE_UPDATE}
        missing = sorted(needed - view.capabilities, key=lambda c: c.name)
        if missing:
            raise CapabilityError(
                f"attack '{self.name}' needs {'; and '.join(c.value for c in missing)}, which this view does not "
                f"give: {view.describe()} Choose another attack, or an adversary that has it."
            )

    def run(self, held: View | Dossier, seed: int = 0) -> Finding:
        """Attacks one view, or all that an adversary holds; the same seed gives the same finding on one machine.

        Raises:
          CapabilityError: it lacks something this attack needs, has several pages for an attack on one, or the model
            has no derivative that the attack needs.
        """
        dossier = held if isinstance(held, Dossier) else Dossier.of(held)
        if len(dossier.rounds) < self.least_rounds:
            raise CapabilityError(
                f"attack '{self.name}' needs views of {self.least_rounds} rounds, but this is {dossier.describe()} "
                "Let the adversary listen in more rounds, or choose another attack."
            )
        for view in dossier.pages:
            self.require(view)
        if "reconstruction" in self.goals or "labels" in self.goals:  # others look at where the weights went
            pages = tuple(map(undecayed, dossier.pages))
            dossier = dossier if pages == dossier.pages else Dossier(pages)
        equipped = self.equipped(dossier.pages[0])
        with measured() as replayed:
            try:
                if self.remembers():
                    finding = equipped.attack_dossier(dossier, seed)
                else:
                    finding = equipped.attack(dossier.only(f"attack '{self.name}'"), seed)
            except LookupError as e:
                if (missing := _NO_GRADIENT.search(str(e))) is None:
                    raise
                raise CapabilityError(
                    f"attack '{self.name}' differentiates model '{dossier.pages[0].model.name}' twice, and TensorFlow "
                    f"has no gradient of {missing[1]}; leave out the layer that uses it, or choose another attack"
                ) from e
        return replace(finding, replayed=tuple(sorted(replayed)))

    def attack(self, view: View, seed: int) -> Finding:
        """The attack on one view; called with the needs met."""
        raise CapabilityError(f"attack '{self.name}' has no method 'attack'; write one, or 'attack_dossier'")

    def attack_dossier(self, dossier: Dossier, seed: int) -> Finding:
        """The attack on all views of one adversary; called with the needs met on each of them."""
        return self.attack(dossier.only(f"attack '{self.name}'"), seed)
