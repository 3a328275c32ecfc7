"""Claim: what a defense formally promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.event import RenyiEvent

Unit = Literal["client", "example", "user"]
Relation = Literal["add_or_remove_one", "replace_one", "replace_special"]
Against = Literal["released", "server"]
#: Assumptions that a run can break, and that it checks: all clients of a cohort arrive; cohorts are drawn as the
#: sampling says; no round is aborted, which tells something of who took part; no defense computes with the size of
#: cohorts that differ in size.
#: Drop-outs are alike where who drops out depends on nothing that tells one client from another.
Check = Literal[
    "everyone arrives",
    "cohorts are drawn",
    "rounds are finished",
    "cohort sizes stay unpublished",
    "drop-outs are alike",
]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one defense formally promises about everything an adversary sees of a run.

    Several claims are several true statements about the same run, not several releases: the ledger reports the
    strongest that applies. A defense that releases more than one thing a round reports one composed event.

    Attributes:
      event: a `dp_accounting.DpEvent` or `RenyiEvent` for one round, before amplification by sampling. A Gaussian's
        noise multiplier is sigma over the sensitivity under `relation`.
      unit: what is protected.
      relation: neighbouring relation the event is stated for.
      against: who the guarantee holds against: `released` (whoever sees only released models) or `server`
        (whoever sees the client's message; it then also holds for whatever is computed from the messages).
      amplified: whether cohort sampling may amplify it (only if the cohort is secret from `against`).
      assumes: plain-words assumptions.
      sensitivity: L2 sensitivity, in update units, that the event was computed for, of the sum that noise is added to
        at the server; None if the noise is in the messages already.
      about_sum: the claim is about the sum of what the clients send at this defense's place (such as the sum of their
        own noises): it holds only if that very sum is what leaves.
      covers_tally: the event covers this defense's tallies as well, so that a state made of them is protected.
      checks: assumptions that the run itself checks; a run that breaks one gets no number from this claim.
      run: the event of that many rounds as a whole, for noise that is correlated over rounds or participation that
        is limited; None composes `event`, the common case.
    """

    event: dp_accounting.DpEvent | RenyiEvent
    unit: Unit
    relation: Relation
    against: Against
    amplified: bool
    assumes: tuple[str, ...] = ()
    sensitivity: float | None = None
    about_sum: bool = False
    covers_tally: bool = False
    checks: frozenset[Check] = frozenset()
    run: Callable[[int], dp_accounting.DpEvent | RenyiEvent] | None = field(default=None, repr=False)
