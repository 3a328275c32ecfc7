"""Ledger: the formal privacy account. (Filled in by the accounting built on dp-accounting.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Claim:
    """One round's formal privacy event, as reported by a defense.

    Attributes:
      event: a `dp_accounting.DpEvent` for one round, before amplification by sampling.
      unit: what is protected.
      relation: neighbouring relation the event's noise multiplier is stated for.
      against: who the guarantee holds against: `released` (whoever sees only released models) or `server`
        (whoever sees the client's message).
      amplified: whether cohort sampling may amplify it (only if the cohort is secret from `against`).
      assumes: plain-words assumptions.
    """

    event: Any
    unit: Literal["client", "example"]
    relation: Literal["add_or_remove_one", "replace_one", "replace_special"]
    against: Literal["released", "server"]
    amplified: bool
    assumes: tuple[str, ...] = ()
