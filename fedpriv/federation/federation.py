"""Federation: model, clients' data, procedure and defenses; `run` carries it round after round.

FedSGD and FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, 2017, arXiv 1602.05629.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedpriv.account.ledger import Ledger
from fedpriv.base import registry
from fedpriv.base.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    LedgerError,
    ModelError,
    ParameterError,
    StackError,
    did_you_mean,
)
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, fold, graph_seed, integer_seed
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.stack import Stack
from fedpriv.defense.stations import Context, Defense, Plan, Station, labels
from fedpriv.engine.base import CohortResult, Engine
from fedpriv.models.model import Model
from fedpriv.procedure import optimizers, sampling
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.checkpoint import Checkpoint
from fedpriv.rounds.record import History, Record
from fedpriv.threat.observe import check_taps, observe
from fedpriv.threat.tap import Tap


@dataclass
class State:
    """What the server carries from round to round.

    Attributes:
      round: rounds done.
      weights: `[d]`.
      server: server optimizer state.
      defenses: one state a defense.
    """

    round: int
    weights: np.ndarray
    server: Any
    defenses: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Federation:
    """A federation, checked as a whole when it is made.

    Attributes:
      model: the model's pure functions.
      train: all clients' examples.
      partition: which example is whose.
      procedure: local training, sampling, weighting, server step.
      defenses: in order.
      test: held-out examples, or None for no evaluation.
      seed: fixes initial weights, cohorts, batches and noise.
      engine: registered engine name.
      engine_options: what that engine takes besides, such as the TFF engine's `workers`; results do not depend on it.
      on_nonfinite: `stop` a run whose client diverges, or `drop` that client from the round.
      rounds: planned number of rounds, for checks and accounts that need it.
      accountant: `rdp` or `pld`.

    Raises:
      DataError, ModelError, ParameterError, StackError: something does not fit together.
    """

    model: Model
    train: Dataset
    partition: Partition
    procedure: Procedure = field(default_factory=Procedure)
    defenses: tuple[Defense, ...] = ()
    test: Dataset | None = None
    seed: int = 0
    engine: str = "graph"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    on_nonfinite: Literal["stop", "drop"] = "stop"
    rounds: int | None = None
    accountant: Literal["rdp", "pld"] = "rdp"

    def __post_init__(self) -> None:
        object.__setattr__(self, "defenses", tuple(self.defenses))
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
        for field_name, allowed in (("on_nonfinite", ("stop", "drop")), ("accountant", ("rdp", "pld"))):
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
        self._check_aggregator()
        self.stack  # noqa: B018  validates before anything runs
        splitting = [d for d in self.defenses if d.acts_at(Station.GRADIENT) and d.per_example]
        if splitting and self.model.couples_examples:
            raise StackError(
                f"{labels(splitting)[0]} needs each example's own gradient, but in model '{self.model.name}' an "
                "example's logits depend on its batch (batch statistics); use a model with group normalization or none"
            )

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
            rounds=self.rounds,
        )

    @cached_property
    def stack(self) -> Stack:
        """The defenses, checked against each other and the plan."""
        return Stack(self.defenses, self.plan)

    @cached_property
    def _engine(self) -> Engine:
        return registry.engines.load(self.engine)(self)

    @cached_property
    def _server_optimizer(self) -> optimizers.Stepper:
        return optimizers.build(self.procedure.server)

    def config(self) -> dict[str, Any]:
        """JSON-able identity: two federations with equal configs produce the same bits on one machine."""
        layout = hashlib.sha256()
        for part in self.partition.indices:
            layout.update(np.int64(len(part)).tobytes() + np.ascontiguousarray(part, np.int64).tobytes())
        return {
            "model": self.model.name,
            "train": self.train.fingerprint,
            "test": self.test.fingerprint if self.test else None,
            "partition": self.partition.name,
            "layout": layout.hexdigest()[:16],
            "procedure": self.procedure.model_dump(mode="json"),
            "defenses": [d.config() for d in self.defenses],
            "seed": self.seed,
            "engine": self.engine,
            "on_nonfinite": self.on_nonfinite,
        }

    def start(self, weights: np.ndarray | None = None) -> State:
        """The state before round 0, from the model's initializer or from given weights `[d]`."""
        spec = self.model.spec
        if weights is None:
            weights = self.model.initial_weights(integer_seed(self.seed, Purpose.WEIGHTS))
        if np.shape(weights) != (spec.size,):
            raise ModelError(f"weights of shape {np.shape(weights)} given; model '{self.model.name}' has [{spec.size}]")
        server = tf.nest.map_structure(np.asarray, self._server_optimizer.initialize([[spec.size]], spec.dtype))
        return State(0, np.asarray(weights, spec.dtype), server, self._engine.start())

    def ledger(self) -> Ledger | None:
        """The privacy account of this federation's defenses, or None if none of them makes a formal claim."""
        return self.stack.ledger(self.accountant) if self.stack.claims() else None

    def run(
        self,
        rounds: int,
        *,
        taps: Iterable[Tap] = (),
        evaluate_every: int = 1,
        delta: float = 1e-5,
        weights: np.ndarray | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1,
        resume: bool = True,
        on_round: Callable[[Record], None] | None = None,
        stop_when: Callable[[Record], bool] | None = None,
    ) -> History:
        """Runs to `rounds` rounds.

        Args:
          rounds: total number of rounds, those of a resumed checkpoint included.
          taps: adversaries listening; without any, nothing is kept or copied for them.
          evaluate_every: test every n rounds and after the last; 0 only after the last.
          delta: the delta at which records state epsilon.
          weights: initial weights `[d]` instead of the model's initializer; a checkpoint of a run from others is
            refused.
          checkpoint: file to save to, and to resume from if it exists and `resume` is set.
          checkpoint_every: rounds between saves; one more is made at the end, however the run ends.
          on_round: called with each new record.
          stop_when: ends the run early when true of a record.

        Returns:
          The History. Ctrl-C between or within rounds ends it cleanly after the last whole round.

        Raises:
          DivergenceError: a client's update or the model is not finite; names the round and the client.
          CheckpointError: the checkpoint is damaged, of another federation, or already beyond `rounds`.
          CapabilityError: a tap at a position that does not exist here.
        """
        taps = tuple(taps)
        check_taps(self, taps)
        state, records = self.start(weights), list[Record]()
        identity = {**self.config(), "initial_weights": hashlib.sha256(state.weights.tobytes()).hexdigest()[:16]}
        if checkpoint is not None and resume and Path(checkpoint).exists():
            state, records = self._restore(checkpoint, state, identity)
            if state.round > rounds:
                raise CheckpointError(
                    f"checkpoint {checkpoint} has {state.round} rounds already, more than the {rounds} asked for; ask "
                    f"for at least {state.round}, start anew without resuming, or give another checkpoint file"
                )
        ledger = self.ledger()
        if ledger is not None and state.round:
            ledger.spend(state.round)
        history, saved = History(records, state.weights), state.round

        def save() -> None:
            if checkpoint is not None:
                leaves = [np.asarray(a) for a in tf.nest.flatten(state.server)]
                defense_leaves = [np.asarray(a) for a in tf.nest.flatten(state.defenses)]
                done = records[: state.round]
                Checkpoint(identity, state.round, state.weights, leaves, defense_leaves, done).save(checkpoint)

        try:
            while state.round < rounds:
                due = evaluate_every and (state.round + 1) % evaluate_every == 0
                after, record = self.step(state, taps, evaluate=bool(due) or state.round + 1 == rounds)
                if ledger is not None:
                    ledger.spend()
                    record.epsilon = _epsilon(ledger, delta)
                records.append(record)
                state = after  # last: an interruption at any line above leaves the round undone
                if checkpoint is not None and state.round % checkpoint_every == 0:
                    save()
                    saved = state.round
                if on_round is not None:
                    on_round(record)
                if stop_when is not None and stop_when(record):
                    break
        except KeyboardInterrupt:
            history.interrupted = True
        finally:
            del records[state.round :]
            history.weights = state.weights
            if saved != state.round:
                save()
        return history

    def step(
        self,
        state: State,
        taps: Sequence[Tap] = (),
        evaluate: bool = True,
        clients: Sequence[int] | None = None,
    ) -> tuple[State, Record]:
        """One round: (next state, record). A pure function of its arguments and this federation.

        Args:
          state: from `start` or an earlier step.
          taps: adversaries listening.
          evaluate: whether to test the new model.
          clients: this cohort instead of a sampled one (the ledger's sampling then does not hold).

        Raises:
          ParameterError: `clients` names one that does not exist, or one twice.
        """
        began, number = time.perf_counter(), state.round
        cohort = self._cohort(number) if clients is None else [int(c) for c in clients]
        if clients is not None and sorted(set(cohort) & set(range(len(self.partition)))) != sorted(cohort):
            raise ParameterError(
                f"clients={cohort} must name some of the {len(self.partition)} clients, numbered from 0, each once"
            )
        listening = [t for t in taps if t.listens(number)]
        check_taps(self, listening)
        watched = sorted({p for t in listening for p in t.adversary.corrupted})
        sent = self._broadcast(state)
        rate = self.procedure.client.learning_rate * self.procedure.client.schedule.factor(number)
        result = self._engine.cohort(
            sent, cohort, number, rate, state.defenses, self._wanted(listening, cohort), watched
        )
        mean, metrics = self._aggregate(state, result)
        after = self._server_step(state, mean, result)
        defenses = self._next_states(state, {**result.metrics, **metrics}, result)
        observations = observe(self, listening, number, sent, rate, state.defenses, result, mean)
        test_loss = accuracy = None
        if evaluate and self.test is not None:
            test_loss, quality = self._engine.evaluate(after[0], *self._test_tensors)
            if self.model.task.quality.name == "accuracy":
                accuracy = quality
            else:
                metrics = {**metrics, f"test_{self.model.task.quality.name}": quality}
        record = Record(
            round=number,
            cohort=len(cohort),
            survivors=len(result.survivors),
            dropped=result.dropped,
            loss=result.loss,
            test_loss=test_loss,
            accuracy=accuracy,
            seconds=time.perf_counter() - began,
            bytes_up=result.bytes_up,
            bytes_down=len(cohort) * sent.nbytes,
            metrics={**result.metrics, **metrics},
            observations=observations,
        )
        return State(number + 1, after[0], after[1], defenses), record

    def close(self) -> None:
        """Ends the engine's processes, if it has any; another run starts them anew."""
        engine = self.__dict__.pop("_engine", None)
        if engine is not None:
            engine.close()

    def _cohort(self, round_number: int) -> list[int]:
        drawn = sampling.cohort(self.procedure.sampling, len(self.partition), self.seed, round_number)
        return [int(c) for c in drawn]

    @cached_property
    def _test_tensors(self) -> tuple[Any, Any]:
        assert self.test is not None
        return tf.constant(self.test.x), tf.constant(self.test.y)

    def _wanted(self, taps: Sequence[Tap], clients: Sequence[int]) -> frozenset[int]:
        """Clients whose own message some adversary can see."""
        if self.stack.protocol is not None:
            return frozenset()
        seeing = [t for t in taps if t.adversary.position in ("server", "eavesdropper")]
        chosen = [clients if t.clients is None else t.clients for t in seeing]
        return frozenset(int(c) for part in chosen for c in part)

    def _server_context(self, state: State, i: int, station: int, count: int = 0) -> Context:
        seed = fold(fold(tf.constant(graph_seed(self.seed, Purpose.SERVER, state.round)), station), i)
        states = tf.nest.map_structure(tf.convert_to_tensor, state.defenses[i])
        return Context(self.plan, states, seed, count=tf.constant(count))

    def _broadcast(self, state: State) -> np.ndarray:
        sent = state.weights
        for i, defense in enumerate(self.defenses):
            if defense.acts_at(Station.BROADCAST):
                sent = np.asarray(defense.broadcast(tf.constant(sent), self._server_context(state, i, 0)))
        return sent

    def _aggregate(self, state: State, result: CohortResult) -> tuple[np.ndarray, dict[str, float]]:
        """The mean update `[d]` after the aggregate station, and what the defenses reported there."""
        if result.aggregate is not None:
            assert self.stack.aggregator is not None
            label = labels(self.defenses)[self.defenses.index(self.stack.aggregator)]
            return result.aggregate.mean, {f"{label}/{k}": v for k, v in result.aggregate.metrics.items()}
        total, metrics, dtype = result.total, dict[str, float](), self.model.spec.dtype
        if self.stack.server_defenses:
            count = len(result.survivors)
            value, reported = self.stack.aggregate(
                tf.constant(total, dtype), lambda i: self._server_context(state, i, 1, count)
            )
            total, metrics = np.asarray(value, np.float64), {k: float(v) for k, v in reported.items()}
        denominator = result.weight if self.stack.fixed_denominator is None else self.stack.fixed_denominator
        mean = total / denominator if denominator > 0 else np.zeros_like(total)
        return mean.astype(dtype), metrics

    def _server_step(self, state: State, mean: np.ndarray, result: CohortResult) -> tuple[np.ndarray, Any]:
        if not result.survivors and result.aggregate is None and self.stack.fixed_denominator is None:
            return state.weights, state.server  # an empty cohort moves nothing
        rate = self.procedure.server.learning_rate * self.procedure.server.schedule.factor(state.round)
        server = tf.nest.map_structure(tf.convert_to_tensor, state.server)
        # A model delta is a step, so the server's "gradient" is its negative (Reddi et al., 2021).
        server, (moved,) = self._server_optimizer.next(
            server, (tf.constant(state.weights),), (-tf.constant(mean),), tf.constant(rate, self.model.spec.dtype)
        )
        weights = np.asarray(moved)
        if not np.isfinite(weights).all():
            raise DivergenceError(
                f"round {state.round}: the global model is not finite after the server's step; lower the server "
                f"learning rate (now {rate:g}) or the client's"
            )
        return weights, tf.nest.map_structure(np.asarray, server)

    def _next_states(self, state: State, metrics: dict[str, float], result: CohortResult) -> tuple[Any, ...]:
        following, count = [], len(result.survivors)
        for i, (defense, label) in enumerate(zip(self.defenses, labels(self.defenses))):
            now = state.defenses[i]
            if isinstance(defense, Aggregator):
                assert result.aggregate is not None
                now = result.aggregate.state
            elif count or defense.private_state:
                own = {k.removeprefix(f"{label}/"): v for k, v in metrics.items() if k.startswith(f"{label}/")}
                after = defense.next_state(now, own, self._server_context(state, i, 2, count))
                now = tf.nest.map_structure(lambda old, new: np.asarray(new, old.dtype), now, after)
            following.append(now)
        return tuple(following)

    def _restore(self, path: str | Path, fresh: State, identity: dict[str, Any]) -> tuple[State, list[Record]]:
        saved = Checkpoint.load(path)
        saved.require(identity, path)
        server = tf.nest.pack_sequence_as(fresh.server, saved.server)
        defenses = tf.nest.pack_sequence_as(fresh.defenses, saved.defenses)
        return State(saved.round, saved.weights, server, defenses), saved.records


def _epsilon(ledger: Ledger, delta: float) -> float | None:
    """Epsilon of the released models, by the cheap accountant; None where none can be justified."""
    try:
        return float(ledger.epsilon(delta, accountant="rdp").value)
    except LedgerError:
        return None
