"""Federation: model, clients' data, procedure and defenses; `run` carries it round after round.

FedSGD and FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, 2017, arXiv 1602.05629.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fedpriv.account.budget import Budget
from fedpriv.account.calibration import calibrated
from fedpriv.account.ledger import Ledger
from fedpriv.account.phase import Phase, as_phases
from fedpriv.base import registry, seeds
from fedpriv.base.errors import DataError, ModelError, ParameterError, StackError, did_you_mean
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Config
from fedpriv.data import users
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.attrition import Attrition, NoAttrition
from fedpriv.defense.line import Line
from fedpriv.defense.noise import leaves_noise_open
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense, Station, labels
from fedpriv.models.model import Model
from fedpriv.procedure import sampling
from fedpriv.procedure.procedure import Procedure, Simulated
from fedpriv.topology.carrier import carrier


@dataclass(frozen=True, eq=False, repr=False)
class Federation:
    """A federation, checked as a whole when it is made.

    Attributes:
      model: the model's pure functions, as defenses at the model station left it.
      train: all clients' examples.
      partition: which example is whose.
      procedure: local training, sampling, weighting, server step.
      defenses: in order.
      test: held-out examples, or None for no evaluation.
      seed: fixes initial weights, cohorts, batches, noise and drop-outs. None draws 128 bits from the operating system,
        as protection needs; a seed that was chosen makes runs repeat, and voids every claim against whoever knows it.
      engine: registered engine name.
      engine_options: what that engine takes besides, such as the TFF engine's `workers`; results do not depend on it.
      on_nonfinite: `stop` a run whose client diverges, `drop` that client from the round, or `abort` the round.
      on_overflow: `stop` a run in which a contribution does not fit its encoding, or `abort` the round.
      on_abort: `continue` with the next round after one that its protocol could not finish, or `stop` the run there.
      rounds: planned number of rounds, for checks and accounts that need it.
      accountant: `rdp` or `pld`.
      attrition: who drops out of a round, and when; or as on a command line, such as `bernoulli(rate=0.1)`.
      topology: how rounds are carried, as on a command line: `server` is FedAvg's star, `gossip(graph=ring)` has none.
      secure_rng: whether noise is drawn from the operating system and expanded by a cipher; such runs do not repeat.
      budget: what the run may spend, such as `Budget(epsilon=2, delta=1e-6)` or `"epsilon=2, delta=1e-6"`: a noise
        multiplier that a defense leaves open is calibrated to it for all `rounds`, and a run stops before the round
        that would break it. None for no limit.
      earlier: what was spent on the same clients' data before this federation (`History.spent` or
        `Checkpoint.spent` of an earlier run, which has a phase for rounds without any defense too; or a ledger, or its
        `phases()`); its account and budget count it, and a seed that was chosen is mixed with it, so that no noise
        repeats.
      seeded: whether somebody chose the seed, and so may know it.
      calibrated: the noise multiplier that was found for the defense with this label, if one was left open.
      dealt: the partition as it was given; a defense that bounds users leaves out some of its examples.

    Raises:
      DataError, ModelError, ParameterError, StackError: something does not fit together.
    """

    model: Model
    train: Dataset
    partition: Partition
    procedure: Procedure = field(default_factory=Procedure)
    defenses: tuple[Defense, ...] = ()
    test: Dataset | None = None
    seed: int | None = None
    engine: str = "graph"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    on_nonfinite: Literal["stop", "drop", "abort"] = "stop"
    on_overflow: Literal["stop", "abort"] = "stop"
    on_abort: Literal["continue", "stop"] = "continue"
    rounds: int | None = None
    accountant: Literal["rdp", "pld"] = "rdp"
    attrition: Attrition = field(default_factory=NoAttrition)
    topology: str | Plugin = "server"
    secure_rng: bool = False
    budget: Budget | str | None = None
    earlier: tuple[Phase, ...] = ()
    seeded: bool = field(init=False, default=False)
    calibrated: Mapping[str, float] = field(init=False, default_factory=dict)
    dealt: Partition = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "defenses", tuple(self.defenses))
        object.__setattr__(self, "earlier", as_phases(self.earlier))
        object.__setattr__(self, "budget", Budget.of(self.budget))
        if isinstance(self.attrition, str):
            object.__setattr__(self, "attrition", registry.attrition.create(self.attrition))
        object.__setattr__(self, "seeded", self.seed is not None)
        if self.seed is None:
            object.__setattr__(self, "seed", seeds.fresh())
        elif self.earlier:  # the same seed would give the same noise again, and the difference would have none
            past = json.dumps([self.seed, [phase.state() for phase in self.earlier]])
            object.__setattr__(self, "seed", int(hashlib.sha256(past.encode()).hexdigest()[:32], 16))
        for data in (self.train, self.test):
            if data is None:
                continue
            if data.input_shape != self.model.input_shape:
                raise ModelError(
                    f"model '{self.model.name}' takes examples of shape {self.model.input_shape}, but "
                    f"'{data.name}' has {data.input_shape}; build the model for that shape"
                )
            if problem := self.model.task.problem(data.y):
                raise ModelError(
                    f"model '{self.model.name}' has {self.model.task.describe()}, but '{data.name}' {problem}; "
                    f"build the model with num_classes={data.num_classes}, or give it another task"
                )
        for field_name, allowed in (
            ("on_nonfinite", ("stop", "drop", "abort")),
            ("on_overflow", ("stop", "abort")),
            ("on_abort", ("continue", "stop")),
            ("accountant", ("rdp", "pld")),
        ):
            if getattr(self, field_name) not in allowed:
                given = getattr(self, field_name)
                raise ParameterError(f"{field_name}='{given}' is unknown.{did_you_mean(str(given), allowed)}")
        sizes = self.partition.sizes
        if not len(sizes) or sizes.min() == 0:
            empty = "there are no clients" if not len(sizes) else f"client {int(sizes.argmin())} has no examples"
            raise DataError(f"partition {self.partition.name}: {empty}; every client needs at least one example")
        named = [int(end) for i in self.partition.indices for end in (i.min(), i.max())]
        strange = [i for i in named if not 0 <= i < len(self.train)]
        if strange:
            raise DataError(
                f"partition {self.partition.name} names example {strange[0]}, but '{self.train.name}' has "
                f"{len(self.train)}; partition this dataset's own labels"
            )
        sampling.check(self.procedure.sampling, len(sizes))
        if (large := self.procedure.simulates) is not None:
            sampling.check(large.sampling(self.procedure.sampling), large.population)
            self._check_simulated(large)
        if self.procedure.batch_selection == "poisson" and self.model.couples_examples:
            raise StackError(
                f"batch_selection=poisson may draw a batch of no examples, of which model '{self.model.name}' "
                "has no batch statistics; use batch_selection=fixed, or a model with group normalization or none"
            )
        self.attrition.check_population(len(sizes))
        self._check_aggregator()
        self._bound_users()
        self.procedure.check_sizes(int(self.partition.sizes.min()))
        for defense in self.defenses:
            for part in defense.parts() if isinstance(defense, Defense) else ():
                if part.acts_at(Station.MODEL):
                    object.__setattr__(self, "model", self._replaced(part))
        self._calibrate()
        self.line  # noqa: B018  validates before anything runs
        for policy in ("on_nonfinite", "on_overflow"):
            if getattr(self, policy) == "abort" and self.line.protocol is None:
                raise StackError(
                    f"{policy}='abort' needs a protocol: without one the server has the other clients' updates by "
                    "then, and there is nothing to call off; add e.g. secagg, or use 'stop'"
                )
        splitting = [
            d
            for d in self.line.links
            if d.acts_at(Station.GRADIENT) and (d.per_example or d.example_clip(self.plan) is not None)
        ]
        if splitting and self.model.couples_examples:
            raise StackError(
                f"{labels(splitting)[0]} needs each example's own gradient, but in model '{self.model.name}' an "
                "example's logits depend on its batch (batch statistics); use a model with group normalization or none"
            )

    def __repr__(self) -> str:
        """What it is made of, in short, without data and without the seed, which may be a secret."""
        facts = [f"model='{self.model.name}'", f"train='{self.train.name}'", f"partition='{self.partition.name}'"]
        facts += [f"clients={len(self.partition)}", f"defenses=[{', '.join(labels(self.defenses))}]"]
        facts += [] if self.rounds is None else [f"rounds={self.rounds}"]
        facts += [] if self.budget is None else [f"budget='{self.budget}'"]
        return f"Federation({', '.join(facts)})"

    def _bound_users(self) -> None:
        """Leaves out what a user has beyond what a defense is to be given.

        A chosen seed draws which, so that repetitions differ. Without one the draw is the same in every run: a run that
        resumes goes on with the same examples, and nothing is lost, since the guarantee covers whichever are kept.
        """
        object.__setattr__(self, "dealt", self.partition)
        most = self._most_of_a_user
        if most is not None:
            seed = (self.seed or 0) if self.seeded else 0
            object.__setattr__(self, "partition", users.bounded(self.train, self.partition, most, seed))

    def _check_simulated(self, large: Simulated) -> None:
        cohort, population = self.procedure.sampling.expected(len(self.partition)), len(self.partition)
        for what, ours, theirs in (("cohort", cohort, large.cohort), ("population", population, large.population)):
            if theirs < ours:
                raise ParameterError(
                    f"a simulated {what}={theirs} is smaller than the real one of {ours:g}, and only a larger "
                    f"federation can be simulated; give at least {math.ceil(ours)}, or leave it out"
                )

    @property
    def _most_of_a_user(self) -> int | None:
        parts = [part for d in self.defenses if isinstance(d, Defense) for part in d.parts()]
        bounds = [most for part in parts if (most := part.records_per_user()) is not None]
        return min(bounds) if bounds else None

    def _replaced(self, defense: Defense) -> Model:
        made = defense.model(self.model, None)
        if not isinstance(made, Model):
            name = labels([defense])[0]
            raise StackError(f"{name} gives a {type(made).__name__} from its model station; give a Model")
        return made

    def _calibrate(self) -> None:
        """Sets the noise multiplier that a defense leaves to the budget."""
        budget = Budget.of(self.budget)
        unset = [i for i, defense in enumerate(self.defenses) if leaves_noise_open(defense)]
        if budget is None or not unset:
            return  # without a budget the line says what is missing
        if not self.rounds:
            raise ParameterError(
                f"{labels(self.defenses)[unset[0]]} leaves its noise to the budget of {budget}, which is for a planned "
                "number of rounds; give rounds, or noise_multiplier"
            )
        made = calibrated(
            self.defenses,
            self.plan,
            budget,
            rounds=self.rounds,
            accountant=self.accountant,
            earlier=self.earlier,
            **({"counted": self._carrier[0].counted} if self.serverless else {}),
        )
        found = {labels(self.defenses)[i]: float(made[i].noise_multiplier) for i in unset}  # type: ignore[attr-defined]
        object.__setattr__(self, "defenses", made)
        object.__setattr__(self, "calibrated", found)

    def _check_aggregator(self) -> None:
        found = next((d for d in self.defenses if isinstance(d, Aggregator)), None)
        if found is None:
            return
        if not registry.engines.load(self.engine).aggregates:
            raise StackError(
                f"{found.name} is an aggregator of TFF's, which engine='{self.engine}' lacks; use engine='tff'"
            )
        if self.on_nonfinite == "drop":
            raise StackError(
                f"{found.name} counts all clients of a cohort, so none can be left out; use on_nonfinite='stop'"
            )

    @cached_property
    def plan(self) -> Plan:
        """Static facts, for defenses and views."""
        population = len(self.partition)
        return Plan(
            spec=self.model.spec,
            population=population,
            cohort=self.procedure.sampling.largest(population),
            expected_cohort=self.procedure.sampling.expected(population),
            sampling=self.procedure.sampling,
            weighting=self.procedure.weighting,
            max_examples=int(self.partition.sizes.max()),
            sizes=tuple(int(n) for n in np.unique(self.partition.sizes)),
            records_per_user=self._most_of_a_user,
            rounds=self.rounds,
            procedure=self.procedure,
            on_nonfinite=self.on_nonfinite,
            simulates=self.procedure.simulates,
            secure_rng=self.secure_rng,
        )

    @cached_property
    def line(self) -> Line:
        """The defenses on their stations, checked against each other and the plan."""
        return Line(self.defenses, self.plan)

    @cached_property
    def _carrier(self) -> tuple[Any, Plugin | None]:
        """What carries the rounds, and its settings where it has any."""
        return carrier(self.topology)

    @property
    def wiring(self) -> Any:
        """The topology's settings, such as a `fedpriv.topology.gossip.Gossip`; None for one server."""
        return self._carrier[1]

    @property
    def serverless(self) -> bool:
        """Whether no server takes part."""
        return bool(getattr(self._carrier[0], "serverless", False))

    @cached_property
    def _rounds(self) -> Any:
        return self._carrier[0](self)

    @property
    def _engine(self) -> Any:
        """The engine that carries its cohorts."""
        return self._rounds.engine

    def config(self) -> Config:
        """JSON-able identity: two federations with equal configs produce the same bits on one machine.

        `on_abort` is no part of it: it changes no round, so that a run it stopped can be resumed with `continue`.
        """
        return {
            "model": self.model.name,
            "train": self.train.fingerprint,
            "test": self.test.fingerprint if self.test else None,
            "partition": self.partition.name,
            "layout": self.partition.layout,
            "procedure": self.procedure.model_dump(mode="json"),
            "defenses": [d.config() for d in self.defenses],
            "seed": self.seed if self.seeded else None,
            "engine": self.engine,
            "on_nonfinite": self.on_nonfinite,
            **({} if self.on_overflow == "stop" else {"on_overflow": self.on_overflow}),
            "attrition": self.attrition.config(),
            **({"secure_rng": True} if self.secure_rng else {}),
            **({"rounds": self.rounds} if any(link.plans_rounds for link in self.line.links) else {}),
            **({} if self.budget is None else {"budget": str(self.budget)}),
            **({"earlier": [phase.state() for phase in self.earlier]} if self.earlier else {}),
            "topology": self.topology if self.wiring is None else self.wiring.config(),
        }

    def clients(self) -> Config:
        """JSON-able identity of the clients and their data, which an account of several runs must share."""
        dealt = self.dealt
        return {
            "data": self.train.name,
            "train": self.train.fingerprint,
            "partition": dealt.name,
            "layout": dealt.layout,
            "seed": dealt.seed,
        }

    def start(self, weights: np.ndarray | None = None) -> Any:
        """The state before round 0; see the topology's rounds, such as `fedpriv.rounds.server.ServerRounds.start`."""
        return self._rounds.start(weights)

    def opened(self, number: int, weights: np.ndarray | None = None, members: Sequence[int] | None = None) -> Any:
        """The state before round `number` of rounds that are run to be attacked; see the topology's rounds."""
        return self._rounds.opened(number, weights, members)

    def notes(self) -> list[str]:
        """What a user should know of its topology beforehand; see the topology's rounds."""
        return list(self._rounds.notes())

    def account_notes(self, delta: float, rounds: int) -> list[str]:
        """What its topology does for privacy beside the ledger, as sentences; see the topology's rounds."""
        return list(self._rounds.account_notes(delta, rounds))

    def run(self, rounds: int, **options: Any) -> Any:
        """Runs to `rounds` rounds; see the topology's rounds, such as `fedpriv.rounds.server.ServerRounds.run`."""
        return self._rounds.run(rounds, **options)

    def step(self, state: Any, *positional: Any, **options: Any) -> Any:
        """One round; see the topology's rounds, such as `fedpriv.rounds.server.ServerRounds.step`."""
        return self._rounds.step(state, *positional, **options)

    def ledger(self) -> Ledger | None:
        """The privacy account; see the topology's rounds, such as `fedpriv.rounds.server.ServerRounds.ledger`."""
        return self._rounds.ledger()

    def close(self) -> None:
        """Ends the engine's processes, if it has any; another run starts them anew."""
        made = self.__dict__.pop("_rounds", None)
        if made is not None:
            made.close()
