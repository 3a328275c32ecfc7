"""Engine: carries the cohort's data along the client's part of the line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import fold
from fedpriv.defense.aggregator import Aggregate
from fedpriv.defense.protocol import Transcript
from fedpriv.defense.stations import Plan, state_array
from fedpriv.engine.evaluate import Evaluator
from fedpriv.federation.client import Client, shuffled_epochs

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation


@dataclass
class CohortResult:
    """What the server's side gets from one cohort.

    Attributes:
      total: weighted sum of the updates, float64 `[d]`, as decoded (before the aggregate station); zeros where an
        aggregator took its place.
      weight: sum of the clients' weights.
      survivors: ids of the clients in the sum, in order.
      dropped: ids left out because their update was not finite.
      loss: mean training loss over the survivors.
      metrics: cohort means of what the defenses reported.
      bytes_up: bytes all clients sent.
      updates: `[d]` float array for each client whose message was asked for (after the client's defenses).
      transcript: what the protocol left, if one ran.
      aggregate: what the aggregator made, if one ran.
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
    aggregate: Aggregate | None = None


class Engine(ABC):
    """Runs cohorts and evaluations for one federation. Same federation, same seed: same results."""

    #: Whether TFF's aggregators run on it.
    aggregates: ClassVar[bool] = False

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.plan: Plan = federation.plan
        self.client = Client(federation.model, federation.procedure, federation.defenses, self.plan)
        self.protocol = federation.stack.protocol
        self.metric_names = self.client.metric_names()
        self._evaluator = Evaluator(federation.model)

    def start(self) -> tuple[Any, ...]:
        """The defenses' states before the first round."""
        return tuple(tf.nest.map_structure(state_array, d.initial_state(self.plan)) for d in self.client.defenses)

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

    def contribution(
        self, flat: Any, x: Any, y: Any, indices: Any, seed: Any, rate: Any, states: Sequence[Any]
    ) -> tuple[Any, Any, dict[str, Any], Any, Any]:
        """One client, from the broadcast to its update; traced into the engine's own graph.

        Args:
          flat: broadcast weights `[d]`.
          x: examples `[n, *input_shape]`, uint8 or float.
          y: labels `[n]`.
          indices: the client's own among them, int32 `[m]`.
          seed: int32 `[2]`, unique to run, round and client.
          rate: scalar client learning rate.
          states: one broadcast state a defense.

        Returns:
          (update `[d]`, mean training loss, the defenses' metrics, whether the update is finite, its weight in the sum,
          0 if it is not).
        """
        dtype, size = self.plan.spec.dtype, tf.shape(indices)[0]
        epochs = shuffled_epochs(x, y, indices, self.client.procedure, seed, dtype)
        update, loss, metrics = self.client.train(flat, epochs, size, seed, rate, states)
        finite = tf.reduce_all(tf.math.is_finite(update))
        weight = tf.ones([], dtype)
        if self.plan.weighting == "examples":
            weight = tf.cast(size, dtype) / tf.constant(self.plan.max_examples, dtype)
        return update, loss, metrics, finite, tf.where(finite, weight, tf.zeros_like(weight))

    def encoded(self, update: Any, weight: Any, seed: Any) -> tuple[Any, Any]:
        """A client's ring elements, int64 `[d + 1]`, and whether they fit; traced. `seed` is the client's."""
        assert self.protocol is not None
        share = tf.where(weight > 0, weight * update, tf.zeros_like(update))
        contribution = tf.cast(tf.concat([share, [weight]], 0), tf.float32)
        return self.protocol.encode(contribution, self.plan, fold(seed, 3))

    def evaluate(self, weights: np.ndarray, x: Any, y: Any) -> tuple[float, float]:
        """(mean loss, mean of the task's quality) of `weights [d]` on `x [n, *input_shape]` and targets `y`."""
        return self._evaluator(weights, x, y)

    def close(self) -> None:
        """Releases processes and memory; the graph engine holds none."""
        return None
