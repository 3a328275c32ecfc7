"""Tap: an adversary listening to some rounds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from fedpriv.base.errors import ParameterError
from fedpriv.threat.adversary import Adversary


@dataclass(frozen=True)
class Tap:
    """Asks for an adversary's views.

    Attributes:
      adversary: who listens.
      rounds: round numbers to listen in; None is every round.
      clients: clients to listen to, where single clients are visible; None is the whole cohort.
    """

    adversary: Adversary = field(default_factory=Adversary)
    rounds: Collection[int] | None = None
    clients: Collection[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.adversary, str):
            raise ParameterError(f"a tap takes an Adversary, not '{self.adversary}'; write Tap(Adversary('server'))")

    def listens(self, round_number: int) -> bool:
        """Whether it wants that round."""
        return self.rounds is None or round_number in self.rounds
