"""Engine: carries the cohort's data along the client's part of the line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.protocol import Transcript

if TYPE_CHECKING:
    from fedpriv.federation import Federation


@dataclass
class CohortResult:
    """What the server's side gets from one cohort.

    Attributes:
      total: weighted sum of the updates, float64 `[d]`, as decoded (before the aggregate station).
      weight: sum of the clients' weights.
      survivors: ids of the clients in the sum, in order.
      dropped: ids left out because their update was not finite.
      loss: mean training loss over the survivors.
      metrics: cohort means of what the defenses reported.
      bytes_up: bytes all clients sent.
      updates: `[d]` float array for each client whose message was asked for (after the client's defenses).
      transcript: what the protocol left, if one ran.
    """

    total: np.ndarray
    weight: float
    survivors: list[int]
    dropped: list[int]
    loss: float
    metrics: dict[str, float]
    bytes_up: int
    updates: dict[int, np.ndarray] = field(default_factory=dict)
    transcript: Transcript | None = None


class Engine(ABC):
    """Runs cohorts and evaluations for one federation. Same federation, same seed: same results."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation

    @abstractmethod
    def cohort(
        self,
        weights: np.ndarray,
        clients: Sequence[int],
        round_number: int,
        rate: float,
        states: Sequence[Any],
        wanted: frozenset[int] = frozenset(),
        watched: Sequence[int] = (),
    ) -> CohortResult:
        """Trains `clients` from `weights [d]`.

        Args:
          weights: broadcast weights.
          clients: ids.
          round_number: from 0.
          rate: client learning rate this round.
          states: one broadcast state a defense.
          wanted: clients whose own update is asked for (by a tap).
          watched: protocol parties whose received messages are asked for.

        Raises:
          DivergenceError: a client's update is not finite and the policy is to stop.
          OverflowDetected: a contribution does not fit the protocol's range.
        """

    @abstractmethod
    def evaluate(self, weights: np.ndarray, x: Any, y: Any) -> tuple[float, float]:
        """(mean cross-entropy in nats, accuracy) of `weights [d]` on examples."""

    def close(self) -> None:
        """Releases processes and memory; the graph engine holds none."""
        return None
