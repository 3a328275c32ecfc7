"""Round average: all rounds of one client, or of one fixed cohort, matched at once, so that noise averages out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.inversion import Inversion, by_optimization
from fedpriv_attacks.modern import AttackPart


def _inversion(value: Attack) -> Attack:
    return by_optimization(value, "dlg, inverting_gradients or maximum_posterior")


class RoundAverage(Attack):
    """Matches all that it saw of one client at once: the sum over rounds of distance(simulate_t(x), observed_t).

    Noise that is fresh in each round averages out: T rounds tell as much as one with the noise's standard deviation
    over sqrt(T), whether or not the model moves in between, for each round is replayed at its own weights. With the
    objective `known_noise` the sum is the likelihood of all rounds, each weighed by its own noise; that is why a
    guarantee is about all rounds that a client takes part in, and why the one of a single round says little. (Averaging
    as an attack on repeated noisy answers: Dwork, Roth 2014, "The Algorithmic Foundations of Differential Privacy",
    section 3.5.)

    What it assumes: a client holds the same examples in all rounds and takes them in the same order, and the
    adversary can tell which updates are whose: a server whose clients connect under their names, or who sees who is in
    each sum. Rounds of one sum whose members it does not know count as one cohort's with `same_cohort`, for everybody
    takes part. With a single round it is the inner attack. It gains nothing where the noise is the same in each
    round, and less where it is correlated (DP-FTRL).

    `measures`: `rounds`, the median number of rounds that a client was seen in.
    """

    name: ClassVar[str] = "round_average"
    paper: ClassVar[str] = "Dwork, Roth 2014, section 3.5 (averaging)"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})

    inner: Annotated[AttackPart, AfterValidator(_inversion)] = Field(
        default="maximum_posterior",  # type: ignore[assignment]
        description="the optimization attack whose objective is added over rounds, such as `dlg`.",
        validate_default=True,
    )
    same_cohort: bool = Field(
        default=False, description="take sums without known members for those of the same clients every time."
    )

    def requirements(self) -> frozenset[Capability]:
        """The inner attack's too."""
        return self.needs | self.inner.requirements()

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.inner.brings()

    def attack_dossier(self, dossier: Dossier, seed: int) -> Finding:
        """One joint match for each client, or cohort, in the order it was first seen.

        Raises:
          CapabilityError: it cannot tell which views are of the same clients.
        """
        began = time.perf_counter()
        inner = self.inner.equipped(dossier.pages[0])
        assert isinstance(inner, Inversion)
        groups = self._groups(dossier)
        found = [inner.attack_together(g, integer_seed(seed, Purpose.ATTACK, k)) for k, g in enumerate(groups)]
        if len(found) == 1:
            return replace(found[0], measures={**found[0].measures, "rounds": float(len(groups[0]))})
        compiled = sum(f.compile_seconds for f in found)
        xs, ys = [f.x for f in found if f.x is not None], [f.y for f in found if f.y is not None]
        extra: dict[str, Any] = {"objectives": [f.objective for f in found]}
        return Finding(
            x=np.concatenate(xs) if len(xs) == len(found) else None,
            y=np.concatenate(ys) if len(ys) == len(found) else None,
            objective=float(np.mean([f.objective for f in found])),
            evaluations=sum(f.evaluations for f in found),
            seconds=time.perf_counter() - began - compiled,
            compile_seconds=compiled,
            restarts=max(f.restarts for f in found),
            measures={"rounds": float(np.median([len(g) for g in groups]))},
            extra=extra,
        )

    def _groups(self, dossier: Dossier) -> list[list[View]]:
        """The views of each client or cohort."""
        if len(dossier.pages) == 1:
            return [list(dossier.pages)]
        groups: dict[Any, list[View]] = {}
        for view in dossier.pages:
            who: Any = view.pseudonym if view.kind == "update" else view.members
            if who is None and self.same_cohort and view.kind != "update":
                who = ()
            if who is None:
                raise CapabilityError(
                    f"attack '{self.name}' needs to know which views are of the same clients, which this does not "
                    f"tell: {dossier.describe()} Let the adversary be a server whose clients connect under their "
                    "names, or set same_cohort=true where everybody takes part in each round"
                )
            groups.setdefault(who, []).append(view)
        return list(groups.values())
