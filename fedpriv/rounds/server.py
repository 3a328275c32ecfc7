"""Server rounds: FedSGD and FedAvg with one server, round after round.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, 2017, arXiv 1602.05629.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.account.budget import Budget, Guard
from fedpriv.account.ledger import Ledger
from fedpriv.base import registry
from fedpriv.base.errors import (
    AbortError,
    CheckpointError,
    DivergenceError,
    LedgerError,
    ModelError,
    ParameterError,
    StackError,
    one_line,
)
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, child, fresh, fresh_keys, integer_seed, secret
from fedpriv.base.types import Array, Examples, Labels, Nested, Tensor
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.parties import Phase
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.passed import passed
from fedpriv.defense.protocol import Session
from fedpriv.defense.stations import Context, Station
from fedpriv.defense.walker import Walked
from fedpriv.engine.base import Engine
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.federation.clients import ClientStates
from fedpriv.federation.federation import Federation
from fedpriv.procedure import optimizers, sampling
from fedpriv.rounds.checkpoint import Checkpoint
from fedpriv.rounds.record import History, Record
from fedpriv.threat.enact import planted
from fedpriv.threat.observe import check_taps, observe, watching
from fedpriv.threat.tap import Tap

#: The phase in which clients send their update where no protocol has phases of its own.
_SENDING = Phase("message", takes_input=True)
#: What server stations' draws are told apart by.
_SERVER_STATIONS = (Station.BROADCAST, Station.AGGREGATE, Station.STEP)


@dataclass
class State:
    """What is carried from round to round.

    Attributes:
      round: rounds done.
      weights: `[d]`.
      server: server optimizer state.
      defenses: one server state a link.
      clients: what clients keep for themselves.
    """

    round: int
    weights: np.ndarray
    server: Nested
    defenses: tuple[Nested, ...]
    clients: ClientStates = field(default_factory=ClientStates)


class ServerRounds:
    """The rounds of one federation with one server."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.line, self.plan = federation.line, federation.plan
        self._read: set[str] = set()
        self._check_attrition()

    def _check_attrition(self) -> None:
        rule = self.federation.attrition
        if self.line.protocol is not None:
            self.line.protocol.check_attrition(rule)
        else:
            rule.check((_SENDING,), ())

    @cached_property
    def engine(self) -> Engine:
        """The federation's engine."""
        made: Engine = registry.engines.load(self.federation.engine)(self.federation)
        return made

    @cached_property
    def _server_optimizer(self) -> optimizers.Stepper:
        return optimizers.build(self.federation.procedure.server)

    def start(self, weights: np.ndarray | None = None) -> State:
        """The state before round 0, from the model's initializer or from given weights `[d]`.

        Where no seed was chosen every start draws another, so that two runs share no noise.
        """
        if not self.federation.seeded:
            object.__setattr__(self.federation, "seed", fresh())
        return self._start(weights)

    def opened(self, number: int, weights: np.ndarray | None = None, members: Sequence[int] | None = None) -> State:
        """The state before round `number`, as if the run began with it.

        Args:
          number: of the round, from 0.
          weights: as for `start`.
          members: ids of those who take part; here each round's cohort says it.
        """
        begun = self.start(weights)
        return State(number, begun.weights, begun.server, begun.defenses, begun.clients)

    def notes(self) -> list[str]:
        """What a user should know of the topology beforehand, as sentences without a full stop."""
        return []

    def account_notes(self, delta: float, rounds: int) -> list[str]:
        """What the topology does for privacy beside the ledger, as sentences."""
        return []

    def _start(self, weights: np.ndarray | None) -> State:
        model, spec = self.federation.model, self.plan.spec
        if weights is None:
            weights = model.initial_weights(integer_seed(self.federation.seed or 0, Purpose.WEIGHTS))
        if np.shape(weights) != (spec.size,):
            raise ModelError(f"weights of shape {np.shape(weights)} given; model '{model.name}' has [{spec.size}]")
        server = tf.nest.map_structure(np.asarray, self._server_optimizer.initialize([[spec.size]], spec.dtype))
        return State(0, np.asarray(weights, spec.dtype), server, self.engine.start(), self.engine.start_clients())

    def ledger(self) -> Ledger | None:
        """The privacy account of this federation's defenses, or None if none of them makes a formal claim."""
        claims, refusals = self.line.claims(), self.line.refusals()
        if not claims and not refusals and not self.federation.earlier:
            return None
        return Ledger(
            self.plan,
            claims,
            self.federation.accountant,
            self.line.objections(),
            refusals=refusals,
            seeded=self.federation.seeded,
            earlier=self.federation.earlier,
        )

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
        """Runs to `rounds` rounds, or until the federation's budget allows no further one.

        Args:
          rounds: total number of rounds, those of a resumed checkpoint included.
          taps: adversaries listening; without any, nothing is kept or copied for them.
          evaluate_every: test every n rounds and after the last; 0 only after the last.
          delta: the delta at which records state epsilon.
          weights: initial weights `[d]` instead of the model's initializer; a checkpoint of a run from others is
            refused.
          checkpoint: file to save to, and to resume from if it exists and `resume` is set. It holds the run's seed and
            the clients' own states, so it is as secret as they are; only its owner may read it.
          checkpoint_every: rounds between saves; one more is made at the end, however the run ends.
          on_round: called with each new record.
          stop_when: ends the run early when true of a record.

        Returns:
          The History. Ctrl-C between or within rounds ends it cleanly after the last whole round.

        Raises:
          DivergenceError: a client's update or the model is not finite; names the round and the client.
          AbortError: a round was aborted, and `on_abort` is `stop`; names the round, the phase and the reason.
          BudgetError: the federation's budget is spent already, or does not reach for one round.
          CheckpointError: the checkpoint is damaged, of another federation, or already beyond `rounds`.
          CapabilityError: a tap at a position that does not exist here.
        """
        taps = tuple(taps)
        check_taps(self.federation, taps)
        self._check_rounds(rounds)
        saved_run = None
        if checkpoint is not None and resume and Path(checkpoint).exists():
            saved_run = Checkpoint.load(checkpoint)
            if not self.federation.seeded:
                object.__setattr__(self.federation, "seed", saved_run.seed)
        state = self.start(weights) if saved_run is None else self._start(weights)
        records = list[Record]()
        digest = hashlib.sha256(state.weights.tobytes()).hexdigest()[:16]
        identity = {**self.federation.config(), "initial_weights": digest}
        if saved_run is not None:
            assert checkpoint is not None
            saved_run.require(identity, checkpoint)
            state, records = self._restored(saved_run, state, checkpoint)
            if state.round > rounds:
                raise CheckpointError(
                    f"checkpoint {checkpoint} has {state.round} rounds already, more than the {rounds} asked for; ask "
                    f"for at least {state.round}, start anew without resuming, or give another checkpoint file"
                )
        ledger = self.ledger()
        if ledger is not None:
            for record in records:
                ledger.spend(broken=record.broken())
        history, saved = History(records, state.weights, ledger=ledger), state.round
        budget = Budget.of(self.federation.budget)
        guard = None if budget is None else Guard(budget, ledger, rounds)

        def save() -> None:
            if checkpoint is not None:
                Checkpoint(
                    config=identity,
                    seed=self.federation.seed or 0,
                    round=state.round,
                    weights=state.weights,
                    server=[np.asarray(a) for a in tf.nest.flatten(state.server)],
                    defenses=[np.asarray(a) for a in tf.nest.flatten(state.defenses)],
                    clients=state.clients,
                    records=records[: state.round],
                    spent=history.spent,
                    dealt=self.federation.clients(),
                ).save(checkpoint)

        try:
            history.stopped = "" if guard is None else guard.stop()
            while state.round < rounds and not history.stopped:
                due = evaluate_every and (state.round + 1) % evaluate_every == 0
                last = state.round + 1 == (rounds if guard is None else guard.allowed)
                after, record = self.step(state, taps, evaluate=bool(due) or last)
                if ledger is not None:
                    ledger.spend(broken=record.broken())
                    record.epsilon = _epsilon(ledger, delta)
                stopped = "" if guard is None else guard.stop()
                if stopped:
                    record.warnings.append(stopped)
                records.append(record)
                state = after  # last: an interruption at any line above leaves the round undone
                history.stopped = stopped
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

    def _check_rounds(self, rounds: int) -> None:
        """Raises ParameterError where a defense, or the selection, works for fewer rounds."""
        for label, link in zip(self.line.labels, self.line.links, strict=True):
            most = link.rounds_limit(self.plan)
            if most is not None and rounds > most:
                raise ParameterError(
                    f"{label} has room for {most} rounds, and {rounds} are asked for; plan them with "
                    f"Federation(rounds={rounds})"
                )
        selection = self.federation.procedure.sampling.selection
        if selection is not None:
            selection.check_rounds(len(self.federation.partition), self.federation.seed or 0, rounds)

    def step(
        self,
        state: State,
        taps: Sequence[Tap] = (),
        evaluate: bool = True,
        clients: Sequence[int] | None = None,
        sent: Mapping[int, np.ndarray] | None = None,
    ) -> tuple[State, Record]:
        """One round: (next state, record). A pure function of its arguments and this federation.

        Args:
          state: from `start` or an earlier step.
          taps: adversaries listening.
          evaluate: whether to test the new model.
          clients: this cohort instead of a sampled one (claims that rest on the sampling then do not hold).
          sent: weights `[d]` that some clients are sent in place of the broadcast, by a malicious server; beside
            those that the acts of a listening adversary plant.

        Raises:
          ParameterError: `clients` names one that does not exist, or one twice.
          OverflowDetected: more clients than a secure sum was checked to have room for.
          AbortError: the protocol could not finish the round, and `on_abort` is `stop`.
        """
        began, number, federation = time.perf_counter(), state.round, self.federation
        cohort = self._cohort(number) if clients is None else [int(c) for c in clients]
        population = len(federation.partition)
        if clients is not None and sorted(set(cohort) & set(range(population))) != sorted(cohort):
            raise ParameterError(
                f"clients={cohort} must name some of the {population} clients, numbered from 0, each once"
            )
        listening = [t for t in taps if t.listens(number)]
        check_taps(federation, listening)
        entered = self._serve(Station.BROADCAST, state.weights, state, state.defenses)
        weights, states = np.asarray(entered.value), _following(state.defenses, entered, self.line.labels)
        present = self._present(cohort, number)
        task = CohortTask(
            weights=weights,
            clients=present,
            round=number,
            rate=self._rate(number),
            states=self.line.broadcast_states(states),
            own=state.clients,
            wanted=self._wanted(listening, cohort),
            session=self._session(cohort, number, listening, weights),
            sent={**planted(listening, weights, present, number, federation), **(sent or {})},
        )
        result = self._refused(task) or self.engine.cohort(task)
        if self.line.combiner is not None:
            result = self._combined(result, self._watched(listening, cohort))
        if result.aborted and federation.on_abort == "stop":
            raise AbortError(
                f"round {number} was aborted: {result.aborted}; it moved nothing. Go on with the next round by "
                "on_abort='continue' (--on-abort continue)"
            )
        self._read.clear()
        mean, summed, states = self._aggregate(state, states, result)
        after, server, stepped, states = self._server_step(state, states, mean, result)
        observations = observe(federation, listening, task, result, mean, self.engine.decode)
        test_loss = accuracy = None
        if evaluate and federation.test is not None:
            test_loss, quality = self.engine.evaluate(after, *self._test_tensors)
            measured = federation.model.task.quality.name
            if measured == "accuracy":
                accuracy = quality
            else:
                stepped = {**stepped, f"test_{measured}": quality}
            told = federation.model.task.read(test_loss)
            stepped = {**stepped, **{f"test_{name}": value for name, value in told.items()}}
        lost = [c for c in cohort if c not in {*result.survivors, *result.dropped}]
        fresh = state.clients.report(task.clients, number)
        metrics = {**fresh, **entered.log, **result.log, **summed, **stepped}
        record = Record(
            round=number,
            cohort=len(cohort),
            survivors=len(result.survivors),
            dropped=result.dropped,
            lost=lost,
            aborted=result.aborted,
            drawn=clients is None,
            alike=federation.attrition.alike or not (lost or result.aborted),
            size_used="count" in self._read and not self.plan.sampling.equal_cohorts,
            loss=None if math.isnan(result.loss) else result.loss,
            test_loss=test_loss,
            accuracy=accuracy,
            seconds=time.perf_counter() - began,
            bytes_up=result.bytes_up,
            bytes_down=len(cohort) * weights.nbytes + result.bytes_down,
            metrics=metrics,
            warnings=[
                *self._warnings(metrics),
                *self._warned_of(lost if clients is None else [], number, result),
                *self._warned_of_one(result),
            ],
            observations=observations,
        )
        own = state.clients.after(result.own, number)
        return State(number + 1, after, server, states, own), record

    def _refused(self, task: CohortTask) -> CohortResult | None:
        """The outcome of a round that clients refuse before they train, or None where none does."""
        received = {c: task.sent.get(c, task.weights) for c in task.clients}
        why = "; ".join(filter(None, (link.refusal(received, task.round) for link in self.line.links)))
        if not why:
            return None
        nothing = np.zeros(self.plan.spec.size, np.float64)
        return CohortResult(total=nothing, weight=0.0, survivors=[], dropped=[], loss=math.nan, aborted=why)

    def _combined(self, result: CohortResult, watched: Collection[int]) -> CohortResult:
        """The outcome with the combiner's update in place of the sum; of single updates only those that are watched."""
        rule, there = self.line.combiner, result.survivors
        assert rule is not None
        kept = {c: u for c, u in result.updates.items() if c in watched}
        if result.aborted or not there:
            return replace(result, updates=kept)
        if len(there) < rule.least():
            why = f"{rule.name} needs {rule.least()} updates, and {len(there)} arrived"
            nothing = np.zeros_like(result.total)
            return replace(result, total=nothing, weight=0.0, survivors=[], updates=kept, aborted=why)
        sizes = np.array([self.federation.partition.sizes[c] for c in there], self.plan.spec.dtype)
        weights = np.ones_like(sizes) if self.plan.weighting == "uniform" else sizes / self.plan.max_examples
        updates = tf.constant(np.stack([result.updates[c] for c in there]))
        made = passed(rule.combine(updates, tf.constant(weights)), rule.name, "combine")
        label = self.line.labels[self.line.links.index(rule)]
        log = {f"{label}/{k}": float(v) for k, v in made.log.items()}
        total = np.asarray(made.value, np.float64) * result.weight
        return replace(result, total=total, updates=kept, log={**result.log, **log})

    def _rate(self, number: int) -> float:
        """The clients' learning rate in a round."""
        client = self.federation.procedure.client
        return client.learning_rate * client.schedule.factor(number)

    def _warnings(self, metrics: Mapping[str, float]) -> list[str]:
        """What the links say of the means of their logs."""
        said = []
        for label, link in zip(self.line.labels, self.line.links, strict=True):
            own = {k.removeprefix(f"{label}/"): v for k, v in metrics.items() if k.startswith(f"{label}/")}
            if own and (warning := link.warn(own)):
                said += [f"{label}: {line}" for line in warning.splitlines()]
        return said

    def _warned_of(self, lost: Sequence[int], number: int, result: CohortResult) -> list[str]:
        """What the selection says of clients that are in no sum; nothing where no sum came out."""
        selection, federation = self.federation.procedure.sampling.selection, self.federation
        gone = [] if result.aborted else [*lost, *result.dropped]
        if selection is None or not gone:
            return []
        said = selection.warn(len(federation.partition), federation.seed or 0, number, gone)
        return [said] if said else []

    def _warned_of_one(self, result: CohortResult) -> list[str]:
        """That a secure sum over one client hides nothing."""
        protocol = self.line.protocol
        if protocol is None or result.aborted or len(result.survivors) != 1:
            return []
        return [f"{protocol.name}: a sum over one client is its update; min_clients=2 would abort such a round"]

    def close(self) -> None:
        """Ends the engine's processes, if it has any."""
        engine = self.__dict__.pop("engine", None)
        if engine is not None:
            engine.close()

    def _cohort(self, round_number: int) -> list[int]:
        federation = self.federation
        drawn = sampling.cohort(
            federation.procedure.sampling, len(federation.partition), federation.seed or 0, round_number
        )
        return [int(c) for c in drawn]

    def _present(self, cohort: Sequence[int], number: int) -> list[int]:
        """The clients that are there to send; where a protocol runs, its session asks phase by phase."""
        if self.line.protocol is not None:
            return list(cohort)
        parties = [client_party(c) for c in cohort]
        alive = set(self.federation.attrition.alive(_SENDING, parties, number, self.federation.seed or 0))
        return [c for c, party in zip(cohort, parties, strict=True) if party in alive]

    def _session(self, cohort: Sequence[int], number: int, taps: Sequence[Tap], weights: np.ndarray) -> Session | None:
        protocol = self.line.protocol
        if protocol is None:
            return None
        watched, wire = watching(protocol, cohort, taps)
        return protocol.open(
            self.plan,
            cohort,
            round=number,
            seed=self.federation.seed or 0,
            attrition=self.federation.attrition,
            watched=watched,
            wire=wire,
            tallies=len(self.line.tallies),
            model=self.federation.model,
            weights=weights,
        )

    @cached_property
    def _test_tensors(self) -> tuple[Examples, Labels]:
        assert self.federation.test is not None
        return tf.constant(self.federation.test.x), tf.constant(self.federation.test.y)

    def _wanted(self, taps: Sequence[Tap], clients: Sequence[int]) -> frozenset[int]:
        """Clients whose own message some adversary can see."""
        if self.line.protocol is not None:
            return frozenset()
        if self.line.combiner is not None:
            return frozenset(int(c) for c in clients)
        return self._watched(taps, clients)

    def _watched(self, taps: Sequence[Tap], clients: Sequence[int]) -> frozenset[int]:
        """Clients whose own message a tap is on."""
        seeing = [t for t in taps if t.adversary.at.sees_messages]
        chosen = [clients if t.clients is None else t.clients for t in seeing]
        return frozenset(int(c) for part in chosen for c in part)

    def _serve(self, station: Station, value: Nested, state: State, states: Sequence[Nested], **facts: Any) -> Walked:
        """`value` through the links at one of the server's stations; the value and its logs as arrays."""
        if not self.line.acts(station):
            return Walked(value)
        secure = self.plan.secure_rng
        drawn = fresh_keys(1)[0] if secure else secret(self.federation.seed or 0, Purpose.SERVER, state.round)
        drawn = tf.constant(drawn)
        tally = facts.pop("tally", {})

        def context(i: int) -> Context:
            more: dict[str, Any] = {"tally": self.line.own_tallies(i, tally)} if "count" in facts else {}
            return Context(
                plan=self.plan,
                seed=child(drawn, (_SERVER_STATIONS.index(station) << 12) + i),
                state=tf.nest.map_structure(tf.convert_to_tensor, states[i]),
                round=tf.constant(state.round),
                **facts,
                **more,
            )

        walked = self.line.walk(station, tf.constant(value), context)
        walked.log = {k: float(v) for k, v in walked.log.items()}
        return walked

    def _server_facts(self, state: State, result: CohortResult) -> dict[str, Any]:
        dtype = self.plan.spec.dtype
        return {
            "read": self._read,
            "count": tf.constant(len(result.survivors)),
            "tally": {k: tf.constant(v, dtype) for k, v in result.tally.items()},
            "weights": tf.constant(state.weights),
        }

    def _aggregate(
        self, state: State, states: tuple[Nested, ...], result: CohortResult
    ) -> tuple[np.ndarray, dict[str, float], tuple[Nested, ...]]:
        """The mean update `[d]` after the aggregate station, what was reported there, and the states after it."""
        if result.aggregate is not None:
            place = next(i for i, d in enumerate(self.line.links) if isinstance(d, Aggregator))
            label = self.line.labels[place]
            log = {f"{label}/{k}": v for k, v in result.aggregate.metrics.items()}
            return result.aggregate.mean, log, _replaced(states, place, result.aggregate.state)
        dtype = self.plan.spec.dtype
        if result.aborted:
            return np.zeros(self.plan.spec.size, dtype), {}, states
        total, log = result.total, dict[str, float]()
        if self.line.acts(Station.AGGREGATE):
            walked = self._serve(
                Station.AGGREGATE, total.astype(dtype), state, states, **self._server_facts(state, result)
            )
            total, log, states = (
                np.asarray(walked.value, np.float64),
                walked.log,
                _following(states, walked, self.line.labels),
            )
        fixed = self.line.fixed_denominator
        denominator = result.weight if fixed is None else fixed
        mean = total / denominator if denominator > 0 else np.zeros_like(total)
        return mean.astype(dtype), log, states

    def _server_step(
        self, state: State, states: tuple[Nested, ...], mean: np.ndarray, result: CohortResult
    ) -> tuple[np.ndarray, Nested, dict[str, float], tuple[Nested, ...]]:
        """(weights `[d]`, server optimizer state, reports, defenses' states) after the step station."""
        nobody = not result.survivors and result.aggregate is None and self.line.fixed_denominator is None
        if nobody or result.aborted:
            return state.weights, state.server, {}, states  # an empty cohort, or no sum, moves nothing
        procedure = self.federation.procedure
        rate = procedure.server.learning_rate * procedure.server.schedule.factor(state.round)
        server = tf.nest.map_structure(tf.convert_to_tensor, state.server)
        # A model delta is a step, so the server's "gradient" is its negative (Reddi et al., 2021).
        server, (moved,) = self._server_optimizer.next(
            server, (tf.constant(state.weights),), (-tf.constant(mean),), tf.constant(rate, self.plan.spec.dtype)
        )
        if buffers := self.federation.model.buffer_size:  # statistics are averaged, whatever the server's optimizer
            moved = tf.concat([(state.weights + mean)[:buffers], moved[buffers:]], 0)
        facts = self._server_facts(state, result) if self.line.acts(Station.STEP) else {}
        walked = self._serve(Station.STEP, moved, state, states, **facts)
        weights = np.asarray(walked.value)
        if not np.isfinite(weights).all():
            raise DivergenceError(
                f"round {state.round}: the global model is not finite after the server's step; lower the server "
                f"learning rate (now {rate:g}) or the client's"
            )
        return (
            weights,
            tf.nest.map_structure(np.asarray, server),
            walked.log,
            _following(states, walked, self.line.labels),
        )

    def _restored(self, saved: Checkpoint, like: State, path: str | Path) -> tuple[State, list[Record]]:
        theirs = [saved.weights, *saved.server, *saved.defenses]
        ours = [like.weights, *tf.nest.flatten(like.server), *tf.nest.flatten(like.defenses)]
        forms = [[(np.shape(a), np.asarray(a).dtype) for a in some] for some in (theirs, ours)]
        if forms[0] != forms[1]:
            raise CheckpointError(
                f"checkpoint {path} is damaged (its arrays have other shapes or types than this run's); give another "
                "file, or delete it to start anew"
            )
        server = tf.nest.pack_sequence_as(like.server, saved.server)
        defenses = tf.nest.pack_sequence_as(like.defenses, saved.defenses)
        clients = ClientStates(like.clients.initial, saved.clients.leaves, saved.clients.last)
        return State(saved.round, saved.weights, server, defenses, clients), saved.records


def _following(states: tuple[Nested, ...], walked: Walked, names: Sequence[str]) -> tuple[Nested, ...]:
    """States after a server's station, as arrays in the shapes and dtypes they had.

    Raises:
      StackError: a state of another structure or shape; names the defense.
    """

    def cast(old: Tensor | Array, new: Tensor | Array) -> np.ndarray:
        made = np.asarray(new, np.asarray(old).dtype)
        if made.shape != np.shape(old):
            raise ValueError(f"shape {list(made.shape)} in place of {list(np.shape(old))}")
        return made

    found = list(states)
    for i, given in walked.states.items():
        try:
            found[i] = tf.nest.map_structure(cast, states[i], given)
        except (TypeError, ValueError) as e:
            raise StackError(
                f"{names[i]} gives a server state unlike its initial_state(plan): {one_line(e)[:200]}; give the same "
                "structure"
            ) from e
    return tuple(found)


def _replaced(states: tuple[Nested, ...], place: int, new: Nested) -> tuple[Nested, ...]:
    return (*states[:place], new, *states[place + 1 :])


def _epsilon(ledger: Ledger, delta: float) -> float | None:
    """Epsilon of the released models, by the cheap accountant; None where none can be justified."""
    try:
        value = float(ledger.epsilon(delta, accountant="rdp").value)
    except LedgerError:
        return None
    return value if math.isfinite(value) else None
