"""Exposure: rounds run only to be attacked. Each trial has clients with examples of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.plugin import Plugin
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.attrition import Attrition, NoAttrition
from fedpriv.defense.stations import Defense
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure, Sampling, Schedule
from fedpriv.procedure.sampling import check_cohorts, cohort, trial_sampling
from fedpriv.rounds.record import Record
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.enact import carried, enacted
from fedpriv.threat.observation import Episode, Observation
from fedpriv.threat.observe import episodes
from fedpriv.threat.tap import Tap
from fedpriv.topology.carrier import settings_of
from fedpriv.topology.gossip import Gossip


@dataclass(frozen=True, eq=False)
class Exposure:
    """`trials` times `rounds` rounds, each with `cohort` clients that hold `batch` examples each.

    Every trial has clients that have never been seen before. With one round a trial, the usual case, all of them take
    part in it; with several, the adversary listens in all of them, while the server's model moves on from one to the
    next, and each round's cohort is drawn from the trial's `clients`.

    Attributes:
      model: the model.
      data: examples, taken in order from the first.
      trials: how often, each time with other clients and from the same weights, or fresh ones.
      batch: examples a client.
      cohort: clients a round.
      procedure: local training and the server's step between a trial's rounds; its sampling is replaced by the trial's
        cohort, its client schedule by none.
      defenses: in order.
      adversary: who listens.
      seed: fixes initial weights, batches and noise.
      weights: `[d]` to attack a trained model; None draws fresh initial weights for every trial.
      engine: engine name.
      engine_options: what that engine takes besides.
      rounds: rounds a trial.
      clients: of a trial, from which its cohorts are drawn; None is the cohort itself.
      selection: the strategy that draws them, as on a command line, such as `batch_partition(size=4,batch=2)`; None
        draws `cohort` clients a round without replacement.
      attrition: who drops out of a round, and when.
      topology: as of a Federation. Without a server a trial's clients are the peers of a graph of that many, and what
        is looked for are the examples of whoever the adversary sees.
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
    rounds: int = 1
    clients: int | None = None
    selection: str | None = None
    attrition: Attrition = field(default_factory=NoAttrition)
    topology: str | Plugin = "server"

    def __post_init__(self) -> None:
        settings = settings_of(self.topology)[1]
        if isinstance(settings, Gossip):
            if self.population != self.cohort or self.selection is not None:
                raise ParameterError(
                    "in gossip all of a trial's clients take part in every round; leave out clients and selection, and "
                    "give cohort"
                )
            settings.wiring(self.population)  # says what is wrong with the graph
            object.__setattr__(self, "topology", settings.with_(peers=self.population))
        needed = self.trials * self.population * self.batch
        if min(self.trials, self.cohort, self.population, self.batch) < 1:
            raise ParameterError(
                f"{self.trials} trials of {self.population} clients x {self.batch} images: give at least 1"
            )
        if self.rounds < 1:
            raise ParameterError(f"rounds={self.rounds} a trial: give at least 1")
        if needed > len(self.data):
            raise ParameterError(
                f"{self.trials} trials of {self.population} clients x {self.batch} images need {needed} images, but "
                f"'{self.data.name}' has {len(self.data)}; ask for fewer, or give more data"
            )
        check_cohorts(self.sampling, self.cohort, self.population)

    @property
    def population(self) -> int:
        """Clients a trial."""
        return self.cohort if self.clients is None else self.clients

    @property
    def sampling(self) -> Sampling:
        """How a round's cohort is drawn from the trial's clients."""
        return trial_sampling(self.cohort, self.population, self.selection)

    @cached_property
    def _silent(self) -> dict[int, list[str]]:
        """By trial, why rounds were aborted."""
        return {}

    @cached_property
    def _alarmed(self) -> dict[int, list[dict[str, float]]]:
        """By trial and round, what the clients' checks said; see `alarms`."""
        return {}

    @cached_property
    def federation(self) -> Federation:
        """One federation that holds the clients of all trials, so that everything is compiled once."""
        clients = self.trials * self.population
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
            attrition=self.attrition,
            topology=self.topology,
        )
        return enacted(federation, self.adversary.acts)

    def observe(self, trial: int) -> list[Observation]:
        """What the adversary gets in one trial, round by round: each client's update, or one secure sum."""
        federation = self.federation
        weights = self.weights
        if weights is None:
            weights = federation.model.initial_weights(integer_seed(self.seed, Purpose.WEIGHTS, trial))
        elif federation.model is not self.model:
            weights = carried(self.model, self.adversary.acts, weights)
        state = federation.opened(trial * self.rounds, weights, self._members(trial))
        found: list[Observation] = []
        self._silent[trial], self._alarmed[trial] = [], []
        for _ in range(self.rounds):
            number = state.round
            cohort = self._cohort(trial, number)
            state, record = federation.step(state, [Tap(self.adversary)], evaluate=False, clients=cohort)
            warnings = (*record.warnings, *self._warned(trial, number, record))
            found += [replace(seen, warnings=warnings) for seen in record.observations]
            self._alarmed[trial].append(self._checked(record))
            if record.aborted:
                self._silent[trial].append(record.aborted)
        return found

    def episodes(self, trial: int) -> list[Episode]:
        """What the adversary gets in all rounds of one trial, as one; none if it saw nothing."""
        return self.together(self.observe(trial), trial)

    def together(self, observations: Sequence[Observation], trial: int) -> list[Episode]:
        """These observations of one trial as one; what is looked for are the examples of all of the trial's clients."""
        return episodes(self.federation, observations, None if self.federation.serverless else self._members(trial))

    def silence(self, trial: int) -> str:
        """Why nothing was observed in a trial that was run."""
        reasons = self._silent.get(trial) or ["nobody else took part in a round, or nothing of theirs reached it"]
        return f"the adversary saw nothing of others: {reasons[0]}"

    def alarms(self, trial: int) -> dict[str, float]:
        """By check of what clients were sent, the share of clients that alarmed or refused, over a trial's rounds."""
        by: dict[str, list[float]] = {}
        for said in self._alarmed.get(trial, ()):
            for check, share in said.items():
                by.setdefault(check, []).append(share)
        return {check: float(np.mean(shares)) for check, shares in by.items()}

    def _checked(self, record: Record) -> dict[str, float]:
        line = self.federation.line
        found = {}
        for label, link in zip(line.labels, line.links, strict=True):
            if link.alarms:
                found[label] = record.metrics.get(f"{label}/alarm", 0.0)
            elif type(link).refusal is not Defense.refusal:  # all of them refuse, or none
                found[label] = float(f"{link.name}: " in record.aborted)
        return found

    def _members(self, trial: int) -> range:
        return range(trial * self.population, (trial + 1) * self.population)

    def _cohort(self, trial: int, number: int) -> list[int]:
        drawn = cohort(self.sampling, self.population, self._draws(trial), number)
        return [int(self._members(trial)[c]) for c in drawn]

    def _draws(self, trial: int) -> int:
        """The seed of a trial's cohorts: whoever is in a batch stays there over its rounds."""
        return integer_seed(self.seed, Purpose.COHORT, trial)

    def _warned(self, trial: int, number: int, record: Record) -> list[str]:
        selection, gone = self.sampling.selection, [*record.lost, *record.dropped]
        if selection is None or not gone or record.aborted:
            return []
        first = self._members(trial)[0]
        said = selection.warn(self.population, self._draws(trial), number, [c - first for c in gone])
        return [said] if said else []

    def __iter__(self) -> Iterator[Observation]:
        return (o for trial in range(self.trials) for o in self.observe(trial))


def single_steps(steps: int) -> Procedure:
    """FedSGD for one local step; FedAvg with `steps` full-batch local steps otherwise."""
    if steps == 1:
        return Procedure.fedsgd()
    from fedpriv.procedure.procedure import make_procedure

    return make_procedure(local_epochs=steps, batch_size=None)
