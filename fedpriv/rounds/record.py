"""Record: what one round left. History: a run's records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedpriv.account.ledger import Ledger
from fedpriv.account.phase import Phase
from fedpriv.base.types import Row
from fedpriv.defense.claim import Check
from fedpriv.threat.observation import Observation

#: Where rounds without defenses log the median of their updates' norms.
NORM_MEDIAN = "update_norm/median"


@dataclass
class Record:
    """One round's outcome.

    Attributes:
      round: from 0.
      cohort: clients drawn.
      survivors: clients in the sum.
      dropped: ids left out for a non-finite update.
      lost: ids of clients that dropped out on the way, as `Federation.attrition` says.
      aborted: why the protocol could not finish the round, which then revealed nothing; empty if it did.
      drawn: whether the cohort was drawn as the sampling says, rather than given by hand.
      size_used: whether a defense at the server computed with the size of a cohort, where cohorts differ in size.
      loss: mean training loss over the cohort's local steps, in the task's unit (nats, or squared units); None where
        nobody trained.
      test_loss, accuracy: on the test set after this round's step, or None when not evaluated, or where the task has no
        accuracy; its quality is then among the metrics, as `test_` and its name.
      seconds: wall-clock of the round, evaluation included.
      bytes_up, bytes_down: bytes sent by all clients, and to them.
      metrics: cohort means of the defenses' diagnostics.
      warnings: what defenses have to say of this round (`Defense.warn`).
      epsilon: privacy spent so far at the run's delta, or None where no formal claim was made.
      observations: what the taps got (not part of `row`).
    """

    round: int
    cohort: int
    survivors: int
    dropped: list[int]
    loss: float | None
    test_loss: float | None
    accuracy: float | None
    seconds: float
    bytes_up: int
    bytes_down: int
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    epsilon: float | None = None
    lost: list[int] = field(default_factory=list)
    aborted: str = ""
    drawn: bool = True
    size_used: bool = False
    alike: bool = True
    observations: list[Observation] = field(default_factory=list)

    def broken(self) -> frozenset[Check]:
        """Assumptions of claims that this round broke."""
        found: set[Check] = set()
        if self.survivors != self.cohort and not self.aborted:
            found.add("everyone arrives")
        if self.aborted:
            found.add("rounds are finished")
        if self.size_used:
            found.add("cohort sizes stay unpublished")
        if not self.alike:
            found.add("drop-outs are alike")
        if not self.drawn:
            found.add("cohorts are drawn")
        return frozenset(found)

    def row(self) -> Row:
        """JSON-able fields, observations left out."""
        return {k: v for k, v in vars(self).items() if k != "observations"}


def warnings_of(rounds: Iterable[Sequence[str]]) -> dict[str, int]:
    """The warnings of each round, those that differ in numbers alone as one, with how many rounds had them."""
    found: dict[str, tuple[str, int]] = {}
    for said in (w for warnings in rounds for w in warnings):
        without_numbers = re.sub(r"\d[\d.]*", "#", said)
        first, count = found.get(without_numbers, (said, 0))
        found[without_numbers] = (first, count + 1)
    return dict(found.values())


def in_words(rounds: Iterable[Sequence[str]], of: str) -> list[str]:
    """As `warnings_of`, each with how many rounds `of` all had it."""
    return [f"{said} (in {count} of {of})" for said, count in warnings_of(rounds).items()]


def alarms_of(records: Sequence[Record]) -> dict[str, str]:
    """What clients' checks of what they were sent came to, in words, by the check's label; see `Defense.alarms`."""
    found = {}
    for name in sorted({n for r in records for n in r.metrics if n.endswith("/alarm")}):
        looked = [r for r in records if name in r.metrics]
        rounds = sum(r.metrics[name] > 0 for r in looked)
        visits = sum(r.cohort for r in looked)
        alarmed = sum(r.metrics[name] * r.cohort for r in looked)
        found[name.removesuffix("/alarm")] = (
            f"clients alarmed in {rounds} of {len(looked)} rounds, {100 * alarmed / max(visits, 1):.1f}% of {visits} "
            "client visits"
            if rounds
            else f"no client alarmed in {len(looked)} rounds"
        )
    return found


def recommended_clip(records: Sequence[Record]) -> float | None:
    """A clip to begin with: the median update norm of undefended rounds (McMahan et al. 2018, arXiv 1710.06963).

    The median over rounds of the logged `update_norm/median`; where defenses acted, of the mean norm that `clip` and
    its like log of updates before they clip them. It is computed from unprotected updates, so that choosing a clip by
    it is not private. None where no norm was logged.
    """
    names = sorted({name for r in records for name in r.metrics if name == NORM_MEDIAN or name.endswith("/norm")})
    if not names:
        return None
    name = NORM_MEDIAN if NORM_MEDIAN in names else names[0]
    return float(np.median([r.metrics[name] for r in records if name in r.metrics]))


@dataclass
class History:
    """A run: its records, the final weights, and how it ended.

    Attributes:
      records: one a round, earlier rounds of a resumed run included (without their observations).
      weights: final flat weights `[d]`.
      interrupted: whether it was stopped before its last round.
      ledger: the privacy account as it stands after the last round, or None where no defense makes a claim.
      stopped: why the privacy budget allowed no further round; empty where it did, or there is none.
    """

    records: list[Record]
    weights: np.ndarray
    interrupted: bool = False
    ledger: Ledger | None = None
    stopped: str = ""

    @property
    def spent(self) -> tuple[Phase, ...]:
        """The privacy spent by it and before it, for `Federation(earlier=...)`; rounds without a claim count too."""
        return Phase.undefended(len(self.records)) if self.ledger is None else self.ledger.phases()

    @property
    def observations(self) -> list[Observation]:
        """All observations, in order."""
        return [o for r in self.records for o in r.observations]

    @property
    def accuracy(self) -> float | None:
        """The last evaluated test accuracy."""
        return next((r.accuracy for r in reversed(self.records) if r.accuracy is not None), None)

    def rounds_to(self, accuracy: float) -> int | None:
        """Number of rounds until test accuracy first reached `accuracy` (counted from 1), or None.

        McMahan et al. (2017) count the same on a curve made monotonic by taking the best value so far.
        """
        return next((r.round + 1 for r in self.records if r.accuracy is not None and r.accuracy >= accuracy), None)
