"""Exposure: rounds run only to be attacked. Each trial is one cohort with examples of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.stations import Defense
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure, Sampling, Schedule
from fedpriv.rounds.server import State
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.enact import enacted
from fedpriv.threat.observation import Observation
from fedpriv.threat.tap import Tap


@dataclass(frozen=True, eq=False)
class Exposure:
    """`trials` rounds, each with `cohort` clients that hold `batch` examples each and have never been seen before.

    Attributes:
      model: the model.
      data: examples, taken in order from the first.
      trials: number of rounds.
      batch: examples a client.
      cohort: clients a round.
      procedure: local training; its sampling is replaced by the trial's cohort, its client schedule by none.
      defenses: in order.
      adversary: who listens.
      seed: fixes initial weights, batches and noise.
      weights: `[d]` to attack a trained model; None draws fresh initial weights for every trial.
      engine: engine name.
      engine_options: what that engine takes besides.
    """

    model: Model
    data: Dataset
    trials: int
    batch: int = 1
    cohort: int = 1
    procedure: Procedure = field(default_factory=Procedure.fedsgd)
    defenses: tuple[Defense, ...] = ()
    adversary: Adversary = field(default_factory=Adversary)
    seed: int = 0
    weights: np.ndarray | None = None
    engine: str = "graph"
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = self.trials * self.cohort * self.batch
        if min(self.trials, self.cohort, self.batch) < 1:
            raise ParameterError(
                f"{self.trials} trials of {self.cohort} clients x {self.batch} images: give at least 1"
            )
        if needed > len(self.data):
            raise ParameterError(
                f"{self.trials} trials of {self.cohort} clients x {self.batch} images need {needed} images, but "
                f"'{self.data.name}' has {len(self.data)}; ask for fewer, or give more data"
            )

    @cached_property
    def federation(self) -> Federation:
        """One federation that holds the clients of all trials, so that everything is compiled once."""
        clients = self.trials * self.cohort
        parts = np.arange(clients * self.batch).reshape(clients, self.batch)
        # The account and the secure sum's head-room are those of one trial's cohort.
        # Trials are not rounds of one run, so rates do not follow a schedule.
        client = self.procedure.client.model_copy(update={"schedule": Schedule()})
        procedure = self.procedure.model_copy(update={"sampling": Sampling.fixed(self.cohort), "client": client})
        federation = Federation(
            self.model,
            self.data,
            Partition(f"exposure(clients={clients}, batch={self.batch})", tuple(parts)),
            procedure,
            self.defenses,
            seed=self.seed,
            engine=self.engine,
            engine_options=self.engine_options,
        )
        return enacted(federation, self.adversary.acts)

    def observe(self, trial: int) -> list[Observation]:
        """What the adversary gets in one trial: a client's update each, or one secure sum."""
        federation = self.federation
        weights = self.weights
        if weights is None:
            weights = self.model.initial_weights(integer_seed(self.seed, Purpose.WEIGHTS, trial))
        start = federation.start(weights)
        state = State(trial, start.weights, start.server, start.defenses, start.clients)
        clients = range(trial * self.cohort, (trial + 1) * self.cohort)
        _, record = federation.step(state, [Tap(self.adversary)], evaluate=False, clients=list(clients))
        return [replace(seen, warnings=tuple(record.warnings)) for seen in record.observations]

    def __iter__(self) -> Iterator[Observation]:
        return (o for trial in range(self.trials) for o in self.observe(trial))


def single_steps(steps: int) -> Procedure:
    """FedSGD for one local step; FedAvg with `steps` full-batch local steps otherwise."""
    if steps == 1:
        return Procedure.fedsgd()
    from fedpriv.procedure.procedure import make_procedure

    return make_procedure(local_epochs=steps, batch_size=None)
