"""Lab: where an adversary trains models of its own, by the public procedure, on data it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.seeds import Purpose, generator, integer_seed
from fedpriv.base.types import Nested
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.stations import Defense
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure, Sampling, Schedule
from fedpriv.threat.adversary import Adversary

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

#: Federations kept, so that shadow clients that serve many views are compiled once.
_KEPT = 4


@dataclass(frozen=True, eq=False)
class Lab:
    """What an adversary with auxiliary data can do offline. Holds nothing of any view, so one serves them all.

    Shokri, Stronati, Song, Shmatikov, 2017, arXiv 1610.05820, call what it trains shadow models.

    Attributes:
      data: what the adversary holds; none of it is attacked.
      model: the public model.
      procedure: local training, or None if this adversary does not know it; nothing can be trained then.
      defenses: those it knows to run, in order.
      adversary: whose lab it is: `observe` shows what its position would have seen.
      seed: of draws that are to be alike for all views, such as which shadow clients there are.
    """

    data: Dataset
    model: Model
    procedure: Procedure | None = None
    defenses: tuple[Defense, ...] = ()
    adversary: Adversary = field(default_factory=Adversary)
    seed: int = 0
    _federations: dict[Any, Any] = field(default_factory=dict, repr=False)

    def generator(self, *coordinates: int) -> np.random.Generator:
        """Draws that are alike for all views."""
        return generator(self.seed, Purpose.LAB, *coordinates)

    def train(
        self,
        clients: Sequence[np.ndarray],
        rounds: int = 1,
        seed: int = 0,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """Trains a shadow federation in which all clients take part in each round.

        Args:
          clients: indices into `data`, one array a client.
          rounds: how many.
          seed: of initial weights, batches and noise.
          weights: `[d]` to start from; None draws initial ones.

        Returns:
          The trained weights `[d]`.

        Raises:
          CapabilityError: the adversary does not know the procedure.
          ParameterError: no clients, or examples that do not exist.
        """
        federation = self._federation(clients, len(clients), seed)
        return np.asarray(federation.run(rounds, weights=weights, evaluate_every=0).weights)

    def observe(
        self,
        cohorts: Sequence[Sequence[np.ndarray]],
        weights: np.ndarray,
        seed: int = 0,
        rate: float | None = None,
        states: Sequence[Nested] = (),
    ) -> np.ndarray:
        """What this adversary would have observed of shadow clients: `[k, d]`, one row a view.

        Args:
          cohorts: k of them, each with the indices into `data` of its clients; all of one size. Where single updates
            are visible, each client makes a row.
          weights: `[d]` that they receive.
          seed: of batches and noise.
          rate: client learning rate of the round, where rates follow a schedule; None is the procedure's own.
          states: of the defenses in that round; none are those of the first.

        Raises:
          CapabilityError: the adversary does not know the procedure, or would see no real-valued update.
          ParameterError: no cohorts, or of several sizes.
        """
        from fedpriv.threat.tap import Tap

        sizes = {len(c) for c in cohorts}
        if len(sizes) != 1 or 0 in sizes:
            raise ParameterError(f"shadow cohorts have {sorted(sizes)} clients; give at least one, all of one size")
        size = sizes.pop()
        federation = self._federation([client for cohort in cohorts for client in cohort], size, seed, rate)
        start = federation.start(weights)
        rows: list[np.ndarray] = []
        for k in range(len(cohorts)):
            state = replace(start, round=k, defenses=tuple(states) or start.defenses)
            members = list(range(k * size, (k + 1) * size))
            _, record = federation.step(state, [Tap(self.adversary)], evaluate=False, clients=members)
            for observation in record.observations:
                if observation.view.observed is None:
                    raise CapabilityError(f"shadow updates are {observation.view.describe()} Choose another attack")
                rows.append(observation.view.observed)
        return np.stack(rows)

    def losses(self, weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cross-entropy of each example, in nats: float64 `[n]`."""
        return example_losses(self.model, weights, x, y)

    def _federation(
        self, clients: Sequence[np.ndarray], cohort: int, seed: int, rate: float | None = None
    ) -> Federation:
        from fedpriv.federation.federation import Federation

        if self.procedure is None:
            raise CapabilityError(
                "this adversary cannot train as the clients do: it does not know the procedure; use one that knows "
                "'procedure'"
            )
        if not len(clients):
            raise ParameterError("a shadow federation needs at least one client")
        parts = tuple(np.asarray(c, np.int64) for c in clients)
        key = (cohort, seed, rate, tuple(p.tobytes() for p in parts))
        if key not in self._federations:
            while len(self._federations) >= _KEPT:
                self._federations.pop(next(iter(self._federations))).close()
            procedure = self.procedure.model_copy(
                update={"sampling": Sampling.full() if cohort == len(parts) else Sampling.fixed(cohort)}
            )
            if rate is not None:
                fixed = procedure.client.model_copy(update={"learning_rate": rate, "schedule": Schedule()})
                procedure = procedure.model_copy(update={"client": fixed})
            self._federations[key] = Federation(
                self.model,
                self.data,
                Partition(f"shadow(clients={len(parts)})", parts),
                procedure,
                self.defenses,
                seed=integer_seed(self.seed, Purpose.LAB, seed),
            )
        return self._federations[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_federations": {}}


def example_losses(model: Model, weights: np.ndarray, x: np.ndarray, y: np.ndarray, chunk: int = 512) -> np.ndarray:
    """Cross-entropy of each example at these weights, in nats, as at test time: float64 `[n]`.

    Args:
      model: the model.
      weights: `[d]`.
      x: `[n, *input_shape]`.
      y: int `[n]`.
      chunk: examples at once.
    """
    from fedpriv.base.lazy import tf

    parts = model.spec.unflatten_numpy(np.asarray(weights, model.spec.dtype))
    found = [
        model.example_losses(
            parts, tf.constant(x[i : i + chunk], model.spec.dtype), tf.constant(y[i : i + chunk]), training=False
        ).numpy()
        for i in range(0, len(y), chunk)
    ]
    return np.concatenate([np.asarray(f, np.float64) for f in found]) if found else np.zeros(0)
