"""Gossip rounds: peers train models of their own and exchange them with neighbours, without a server.

D-PSGD: Lian et al. 2017, arXiv 1705.09056; push-sum: Assran et al. 2019, arXiv 1811.10792; GoSGD: Blot et al. 2016,
arXiv 1611.09726; CHOCO-SGD: Koloskova, Stich, Jaggi 2019, arXiv 1902.00340.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fedpriv.account import network
from fedpriv.account.ledger import Ledger
from fedpriv.base import registry
from fedpriv.base.errors import DivergenceError, EngineError, LedgerError, ParameterError, StackError
from fedpriv.base.lazy import dp_accounting, tf
from fedpriv.base.seeds import Purpose, generator, secret
from fedpriv.base.types import Nested
from fedpriv.defense.claim import Claim
from fedpriv.defense.line import Line
from fedpriv.defense.stations import Context, Defense, Station
from fedpriv.defense.walker import Walker
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.federation.federation import Federation
from fedpriv.procedure.procedure import Optimizer
from fedpriv.rounds.masked import BITS, mix_masked
from fedpriv.rounds.record import Record
from fedpriv.rounds.server import ServerRounds, State
from fedpriv.threat.exchange import Exchange, peer_name
from fedpriv.threat.observe import check_taps, observe_exchange
from fedpriv.threat.tap import Tap
from fedpriv.topology.average import mean, mean_and_spread, mix, spread
from fedpriv.topology.buffers import Buffers
from fedpriv.topology.gossip import Gossip, Wiring, receives_from_one
from fedpriv.topology.protocol import Compress, Exchanged, Moment

#: Stations of a server, which nobody walks here.
_SERVERS = (Station.BROADCAST, Station.ENCODE, Station.MESSAGE, Station.AGGREGATE, Station.STEP)
#: What a claim against the server is about here.
AGAINST = (
    "'server' is here whoever sees a peer's messages: its neighbours and the wire. Every message is computed from the "
    "defended updates, and a peer keeps no other"
)


class GossipRounds(ServerRounds):
    """The rounds of one federation without a server.

    A round: every peer that is there trains from its own model; its defenses act on its update as they would before a
    server; its model after the defended update is what it keeps and what the protocol exchanges. Checkpoints, records,
    the account's rounds and how a run ends are those of rounds with a server.

    The state's `weights` are the mean of all models, which nobody holds; `server` has the peers' own arrays: `models`
    `[n, d]` (times the sum-weights), `masses` `[n]`, what the protocol keeps, and how the last exchange mixed.
    """

    serverless: ClassVar[bool] = True
    settings: ClassVar[type[Gossip]] = Gossip

    def __init__(self, federation: Federation) -> None:
        wiring = federation.wiring
        assert isinstance(wiring, Gossip)
        self.gossip, population = wiring, len(federation.partition)
        self.n = population if wiring.peers is None else wiring.peers
        self.wiring: Wiring = wiring.wiring(self.n)
        self.protocol = self.wiring.protocol
        super().__init__(federation)
        # A mixing matrix, not examples, says how peers count.
        self.plan = replace(federation.plan, weighting="uniform")
        self._check(federation, population)
        self._compression = self._made_compression()
        self._buffers = Buffers()

    def _check(self, federation: Federation, population: int) -> None:
        if self.n > population:
            raise ParameterError(
                f"peers={self.n} exceeds the {population} clients that hold examples; a peer without examples cannot "
                "train, so give at most that many"
            )
        if not registry.engines.load(federation.engine).trains_peers:
            raise EngineError(
                f"engine='{federation.engine}' trains all clients from one server's model, and gossip has none; use "
                "engine='graph'"
            )
        acting = [(i, s) for i, link in enumerate(self.line.links) for s in _SERVERS if link.acts_at(s)]
        if acting or self.line.aggregator is not None:
            name, station = (
                (self.line.labels[acting[0][0]], acting[0][1].value)
                if acting
                else (getattr(self.line.aggregator, "name", "an aggregator"), "aggregate")
            )
            # A stack, such as secret_sharing, has parts of other names.
            name = next((d.name for d in federation.defenses if station in [s.value for s in d.stations]), name) or name
            hint = {
                Station.STEP.value: "as compression, give it to the protocol: choco(compression=...)",
                Station.MESSAGE.value: "masks=true of the topology hides messages among neighbours",
                Station.ENCODE.value: "masks=true of the topology hides messages among neighbours",
            }.get(station, "noise before sending, such as local_dp, needs no server")
            raise StackError(f"{name} acts at the {station} station, which needs a server, and gossip has none; {hint}")
        sampling = federation.procedure.sampling
        if self.gossip.peers is None and (sampling.kind != "full"):
            raise ParameterError(
                f"gossip has no cohorts: all peers take part in every round, but the sampling is "
                f"'{sampling.describe(population)}'; leave it out, and say who is missing by attrition"
            )
        if federation.procedure.server != Optimizer() and self.gossip.peers is None:
            raise ParameterError(
                "gossip has no server, so a server optimizer, rate or schedule does nothing; leave it out, and set the "
                "client's"
            )
        if federation.on_nonfinite == "abort":
            raise ParameterError("on_nonfinite='abort' ends a server's round, and gossip has none; use stop or drop")
        attrition = federation.attrition
        if attrition.name != "none" and not self.protocol.bears_absence:
            raise ParameterError(
                f"protocol '{self.protocol.name}' needs all peers in every round (copies at neighbours would part), "
                f"but attrition is '{attrition.name}'; leave it out, or use d_psgd, push_sum or gosgd"
            )
        if attrition.name != "none" and self.protocol.mixes and self.wiring.graph.directed:
            raise ParameterError(
                f"attrition '{attrition.name}' makes peers miss rounds, and the weights of graph "
                f"'{self.wiring.graph.name}', whose links go one way, are then not doubly stochastic; use "
                "protocol=push_sum, or a graph whose links go both ways"
            )

    def _made_compression(self) -> Defense | None:
        written = getattr(self.protocol, "compression", None)
        return None if written is None else registry.defenses.create(written)

    @cached_property
    def _walker(self) -> Walker:
        assert self._compression is not None
        return Walker([self._compression], self.plan)

    def notes(self) -> list[str]:
        """The graph with its spectral gap, and what does not apply to it."""
        found = [f"topology 'gossip': {note}" for note in self.wiring.notes()]
        if self.federation.procedure.weighting == "examples":
            found.append(
                "topology 'gossip': peers count by the mixing weights, alike over time, whatever number of examples "
                "they hold; weighting by examples is a server's"
            )
        attrition = self.federation.attrition
        if self.gossip.masks and attrition.name != "none":
            found.append(
                f"topology 'gossip': where attrition '{attrition.name}' leaves a peer one other to receive from, masks "
                "have nothing to cancel with, and it sees that peer's model in the clear; the round's warnings say "
                "where"
            )
        return found

    def _warned_of_bare(self, matrix: Any, number: int) -> list[str]:
        """That masks hide nothing at peers who are left with one sender, beside those that `notes` names."""
        if not self.gossip.masks or matrix is None:
            return []
        bare = sorted(set(receives_from_one(matrix)) - set(receives_from_one(self.wiring.at(number)[1])))
        if not bare:
            return []
        who = f"peer {bare[0]}" if len(bare) == 1 else f"{len(bare)} peers (such as peer {bare[0]})"
        return [
            f"masks hide nothing at {who}: with the others missing, one peer alone sends there, and its model is in "
            "the clear"
        ]

    # -- State ---------------------------------------------------------------------------------------------------------

    def _start(self, weights: np.ndarray | None) -> State:
        begun = super()._start(weights)
        if self.gossip.peers is not None and self.gossip.peers != len(self.federation.partition):
            raise ParameterError(
                f"peers={self.gossip.peers}, but {len(self.federation.partition)} clients hold examples; leave peers "
                "out, so that every client is one"
            )
        return self._opened(begun, 0, range(self.n))

    def opened(self, number: int, weights: np.ndarray | None = None, members: Sequence[int] | None = None) -> State:
        """The state before round `number`, with these clients as the peers 0, 1, ..., all with the same weights."""
        if not self.federation.seeded:
            return super().opened(number, weights, members)
        return self._opened(super()._start(weights), number, range(self.n) if members is None else members)

    def _opened(self, begun: State, number: int, members: Sequence[int]) -> State:
        models = self._room()
        models[:] = begun.weights
        server: dict[str, np.ndarray] = {
            "models": models,
            "masses": np.ones(self.n),
            "masses_before": np.ones(self.n),
            "there": np.ones(self.n, bool),
            "begun": np.asarray(number, np.int64),
            "members": np.asarray(list(members), np.int64),
        }
        server |= {f"protocol_{name}": a for name, a in self.protocol.begin(models).items()}
        if self._compression is not None:
            leaves = tf.nest.flatten(self._walker.initial_states())
            server |= {f"compression_{i}": np.asarray(a) for i, a in enumerate(leaves)}
        return State(number, begun.weights, server, begun.defenses, begun.clients)

    def models_of(self, state: State, peers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The models `[k, d]` that peers train from and are tested with."""
        models, masses = state.server["models"][peers], state.server["masses"][peers]
        return models if (masses == 1).all() else models / masses[:, None].astype(models.dtype)

    # -- A round -------------------------------------------------------------------------------------------------------

    def step(
        self,
        state: State,
        taps: Sequence[Tap] = (),
        evaluate: bool = True,
        clients: Sequence[int] | None = None,
        sent: Mapping[int, np.ndarray] | None = None,
    ) -> tuple[State, Record]:
        """One round: (next state, record).

        Args:
          state: from `start` or an earlier step.
          taps: adversaries listening.
          evaluate: whether to test some peers' new models, and the mean of all.
          clients: ids of those who are there, instead of all but those who drop out.
          sent: nobody sends other weights here.

        Raises:
          ParameterError: `clients` names one that is no peer; weights sent by a server; or peers are missing where the
            weights then do not keep the mean.
          DivergenceError: a peer's update or the mean model is not finite.
        """
        began, number, federation = time.perf_counter(), state.round, self.federation
        if sent:
            raise ParameterError("no server sends weights in gossip; leave out sent")
        members = [int(c) for c in state.server["members"]]
        strangers = sorted(set(clients or ()) - set(members))
        if strangers:
            raise ParameterError(f"client {strangers[0]} is none of the {self.n} peers; name some of them")
        listening = [t for t in taps if t.listens(number)]
        check_taps(federation, listening)
        there = set(self._present(members if clients is None else [int(c) for c in clients], number))
        present = np.array([c in there for c in members])
        links, matrix = self.wiring.among(number - int(state.server["begun"]), present)
        result, trained = self._train(state, members, present, number)
        exchanged, states = self._exchange(state, trained, links, matrix, kept=bool(listening))
        server = {**state.server, "models": exchanged.models, "masses": exchanged.masses}
        server |= {"masses_before": state.server["masses"], "there": present}
        server |= {f"protocol_{name}": a for name, a in exchanged.own.items()} | states
        average, distance = self._average(exchanged)
        after = State(number + 1, average, server, state.defenses, state.clients.after(result.own, number))
        if not np.isfinite(average).all():
            raise DivergenceError(
                f"round {number}: the mean of the peers' models is not finite; lower the client learning rate"
            )
        observations = []
        if listening:
            passed = self._passed(state, exchanged, members, matrix)
            observations = observe_exchange(
                federation, listening, passed, self.plan, number, self._rate(number), self._known(state)
            )
        metrics = {"consensus_distance": distance} | {f"gossip/{k}": v for k, v in exchanged.log.items()}
        test_loss = accuracy = None
        if evaluate and federation.test is not None:
            test_loss, accuracy, tested = self._tested(after)
            metrics |= tested
        metrics |= {**state.clients.report([c for c in members if c in there], number), **result.log}
        lost = [c for c, here in zip(members, present, strict=True) if not here]
        return after, Record(
            round=number,
            cohort=self.n,
            survivors=len(result.survivors),
            dropped=result.dropped,
            lost=lost,
            drawn=clients is None,
            loss=None if math.isnan(result.loss) else result.loss,
            test_loss=test_loss,
            accuracy=accuracy,
            seconds=time.perf_counter() - began,
            bytes_up=-(-self._bits(exchanged) // 8),
            bytes_down=0,  # a message among peers is counted once, as sent
            metrics=metrics,
            warnings=[
                *self._warnings(metrics),
                *self._warned_of_bare(matrix, number - int(state.server["begun"])),
            ],
            observations=observations,
        )

    def _train(
        self, state: State, members: Sequence[int], present: np.ndarray, number: int
    ) -> tuple[CohortResult, np.ndarray]:
        """The cohort's result, and all models after local training, times their sum-weights."""
        places = np.flatnonzero(present)
        models, masses = state.server["models"], state.server["masses"]
        trained = self._room()
        if not present.all():
            trained[~present] = models[~present]
        weighs = self.protocol.weighs_updates

        def rows(chosen: slice) -> slice | np.ndarray:
            found = places[chosen]
            alike = len(found) == found[-1] - found[0] + 1
            return slice(int(found[0]), int(found[-1]) + 1) if alike else found

        def begin(chosen: slice) -> np.ndarray:
            return self.models_of(state, rows(chosen))

        def take(chosen: slice, updates: np.ndarray) -> None:
            at = rows(chosen)
            if weighs:
                updates = updates * masses[at, None].astype(models.dtype)
            if isinstance(at, slice):
                np.add(models[at], updates, out=trained[at])
            else:
                trained[at] = models[at] + updates

        task = CohortTask(
            weights=state.weights,
            clients=[members[p] for p in places],
            round=number,
            rate=self._rate(number),
            states=state.defenses,
            own=state.clients,
        )
        return self.engine.peers(task, begin, take), trained

    def _room(self) -> np.ndarray:
        """An array for all models, with anything in it."""
        return self._buffers.take((self.n, self.plan.spec.size), np.dtype(self.plan.spec.dtype))

    def _exchange(
        self, state: State, trained: np.ndarray, links: np.ndarray, matrix: Any, *, kept: bool
    ) -> tuple[Exchanged, dict[str, np.ndarray]]:
        """The peers after the exchange, and the compression's states."""
        server, number = state.server, state.round - int(state.server["begun"])
        prefix = "protocol_"
        compress, states = None, dict[str, np.ndarray]()
        if self._compression is not None:
            compress, states = self._compressing(state)
        moment = Moment(
            models=trained,
            masses=server["masses"],
            own={k.removeprefix(prefix): a for k, a in server.items() if k.startswith(prefix)},
            links=links,
            matrix=matrix,
            number=number,
            rng=generator(self.federation.seed or 0, Purpose.GOSSIP, state.round),
            compress=compress,
            mix=mix_masked if self.gossip.masks else mix,
            kept=kept or bool(self.protocol.late),
            room=self._room,
        )
        return self.protocol.exchange(moment), states

    def _compressing(self, state: State) -> tuple[Compress, dict[str, np.ndarray]]:
        """The compression as of this round, and its states after it."""
        like = self._walker.initial_states()
        held = [state.server[f"compression_{i}"] for i in range(len(tf.nest.flatten(like)))]
        states = tf.nest.pack_sequence_as(like, [tf.constant(a) for a in held])
        drawn = secret(self.federation.seed or 0, Purpose.GOSSIP, state.round)

        def compress(lacking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            sent, bits = self._compiled(tf.constant(lacking), states, tf.constant(drawn), tf.constant(state.round))
            return sent.numpy(), bits.numpy()

        def context(i: int) -> Context:
            return Context(plan=self.plan, seed=tf.constant(drawn), state=states[i], round=tf.constant(state.round))

        # What a server's step would tell its clients, such as which random coordinates come next, all peers know.
        walked = self._walker.walk(Station.STEP, tf.zeros([self.plan.spec.size], self.plan.spec.dtype), context)
        after = list(states)
        for i, given in walked.states.items():
            after[i] = given
        leaves = tf.nest.flatten(tuple(after))
        return compress, {f"compression_{i}": np.asarray(a, held[i].dtype) for i, a in enumerate(leaves)}

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        size, dtype = self.plan.spec.size, self.plan.spec.dtype
        whole = 8 * size * tf.as_dtype(dtype).size
        own = self._walker.initial_client_states()  # nothing is kept: what shortens needs no memory beside the copies

        def one(lacking: Any, states: Nested, seed: Any, number: Any) -> Any:
            def context(i: int) -> Context:
                return Context(plan=self.plan, seed=seed, state=states[i], own=own[i], round=number)

            walked = self._walker.walk(Station.UPDATE, lacking, context)
            return walked.value, tf.cast(whole if walked.bits is None else walked.bits, tf.int64)

        def all_of(lacking: Any, states: Nested, seed: Any, number: Any) -> Any:
            form = (tf.TensorSpec([size], dtype), tf.TensorSpec([], tf.int64))
            return tf.map_fn(lambda row: one(row, states, seed, number), lacking, fn_output_signature=form)

        made: Callable[..., Any] = tf.function(all_of, reduce_retracing=True, autograph=False)
        return made

    # -- What is measured ----------------------------------------------------------------------------------------------

    def _average(self, exchanged: Exchanged) -> tuple[np.ndarray, float]:
        """The mean of all models by their sum-weights, what is on its way included, and the peers' distance from it."""
        dtype = self.plan.spec.dtype
        flying = exchanged.own.get("flying")
        if flying is None and (exchanged.masses == 1).all():
            found, distance = exchanged.summary or mean_and_spread(exchanged.models)
            return found.astype(dtype), distance
        found = mean(exchanged.models) + sum((mean(part) for part in (() if flying is None else flying)), np.zeros(1))
        return found.astype(dtype), spread(exchanged.models, found, exchanged.masses)

    def _bits(self, exchanged: Exchanged) -> int:
        return len(exchanged.links) * BITS * self.plan.spec.size if self.gossip.masks else exchanged.bits

    def _tested(self, state: State) -> tuple[float, float | None, dict[str, float]]:
        """Means over the tested peers of test loss and accuracy; the mean model's, and the worst peer's."""
        chosen = np.unique(np.linspace(0, self.n - 1, min(self.n, self.gossip.tested)).round().astype(int))
        models = [self.models_of(state, chosen[i : i + 1])[0] for i in range(len(chosen))]
        found = [self.engine.evaluate(m, *self._test_tensors) for m in (*models, state.weights)]
        losses, qualities = (np.array([f[k] for f in found]) for k in (0, 1))
        name = self.federation.model.task.quality.name
        told = {
            f"average_model_{name}": float(qualities[-1]),
            "average_model_loss": float(losses[-1]),
            f"worst_peer_{name}": float(qualities[:-1].min() if name == "accuracy" else qualities[:-1].max()),
            "peers_tested": float(len(chosen)),
        }
        accuracy = float(qualities[:-1].mean())
        if name != "accuracy":
            told[f"test_{name}"] = accuracy
        read = self.federation.model.task.read(float(losses[:-1].mean()))
        told.update({f"test_{key}": value for key, value in read.items()})
        return float(losses[:-1].mean()), accuracy if name == "accuracy" else None, told

    # -- What adversaries and the account see --------------------------------------------------------------------------

    def _origin(self, state: State) -> Callable[[int], Mapping[str, float] | None]:
        """By peer, how its model at the beginning of this round came of the last round's messages."""
        server, begun = state.server, int(state.server["begun"])
        if state.round == begun:
            return lambda _: None
        links, matrix = self.wiring.among(state.round - begun - 1, server["there"])
        rows = self.protocol.rows(
            Moment(
                models=server["models"],
                masses=server["masses_before"],
                own={},
                links=links,
                matrix=matrix,
                number=state.round - begun - 1,
                rng=generator(self.federation.seed or 0, Purpose.GOSSIP, state.round - 1),
            )
        )

        def origin(peer: int) -> Mapping[str, float] | None:
            return None if rows is None else {peer_name(j): w for j, w in _row(rows, peer).items()}

        return origin

    def _passed(self, state: State, exchanged: Exchanged, members: Sequence[int], matrix: Any) -> Exchange:
        number = state.round - int(state.server["begun"])

        def begun(peer: int) -> np.ndarray:
            return self.models_of(state, np.array([peer]))[0]

        def sums(receiver: int) -> Mapping[int, float] | None:
            if not self.gossip.masks:
                return None
            return {j: w for j, w in _row(matrix, receiver).items() if j != receiver}

        return Exchange(
            number=number,
            clients=tuple(members),
            start=begun(0) if number == 0 else None,
            begun=begun,
            message=exchanged.message,
            last=exchanged.last,
            links=exchanged.links,
            origin=self._origin(state),
            public=self.protocol.public,
            sent=exchanged.sent,
            sums=sums,
        )

    def _known(self, state: State) -> tuple[tuple[Defense, ...], tuple[Nested, ...]]:
        """The defenses that a replay runs, with their states; the compression comes last, as on a message's way."""
        if self._compression is None:
            return self.federation.defenses, state.defenses
        like = self._walker.initial_states()
        held = [state.server[f"compression_{i}"] for i in range(len(tf.nest.flatten(like)))]
        states = tf.nest.pack_sequence_as(like, held)
        return (*self.federation.defenses, self._compression), (*state.defenses, *states)

    def network(self, observers: Sequence[int], delta: float, rounds: int = 1) -> tuple[np.ndarray | None, list[str]]:
        """Epsilon of each peer towards some that pool what they are sent, `[n]`, where the graph amplifies privacy.

        Cyffers, Even, Bellet, Massoulié 2022, arXiv 2206.05091; see `fedpriv.account.network`. The defenses' claims
        against whoever sees a peer's messages hold besides.

        Args:
          observers: numbers of the peers.
          delta: in (0, 1).
          rounds: that are run.

        Returns:
          The epsilons, or None; and why there are none.
        """
        ledger, why = self.ledger(), []
        events = [] if ledger is None else self._noised_last(ledger)
        if not events:
            why.append(
                "no defense that adds Gaussian noise to each update and claims what it hides, such as local_dp, is the "
                "last that acts on what is sent"
            )
        if self.federation.earlier:
            why.append(
                "training before this has spent privacy on the same data, which the theorem does not cover; the ledger "
                "counts it"
            )
        elif ledger is not None and events:
            try:
                ledger.epsilon(delta, against="server", rounds=1)
            except LedgerError as e:
                why.append(f"the account gives no number: {str(e).rstrip('.')}")
        if rounds != 1:
            why.append(
                f"noise is added once and then averaged in one round alone, but these are {rounds}: later updates "
                "depend on models that hold earlier noise, which the theorem does not cover"
            )
        if self.protocol.name != "d_psgd" or self.protocol.late:
            why.append(f"the theorem is about d_psgd in time, not about {self.gossip.protocol}")
        if self.federation.attrition.name != "none":
            why.append("peers may be missing, so that the weights are not those of the graph")
        if why:
            return None, why
        links, matrix = self.wiring.at(0)
        assert matrix is not None
        found = network.shares(matrix, links, self.protocol.steps_a_round(), observers, self.gossip.masks)
        best = max(events, key=_multiplier)
        multiplier, accountant = _multiplier(best), self.federation.accountant
        return network.epsilons(found, multiplier, best.relation, accountant, delta), []

    def _noised_last(self, ledger: Ledger) -> list[Claim]:
        """The claims that stand of the last link that acts on an update, where it adds Gaussian noise to each."""
        places = [i for station in (Station.UPDATE, Station.ENCODE) for i in self.line.at(station)]
        if not places:
            return []
        last = self.line.links[max(places)]
        noise = last.noise(self.plan)
        if noise is None or noise.where != "update":
            return []
        own = [(c.event, c.relation) for c in last.claims(self.plan, self.line.contribution) if c.unit == "client"]
        return [
            c
            for c in ledger.claims
            if isinstance(c.event, dp_accounting.GaussianDpEvent)
            and c.sensitivity is None
            and c.unit == "client"
            and (c.event, c.relation) in own
        ]

    def account_notes(self, delta: float, rounds: int) -> list[str]:
        """What the graph does for privacy, or why nothing is claimed, as sentences; none without claims."""
        if self.ledger() is None:
            return []
        walk = "that by a walking token (Cyffers, Bellet 2022) is for protocols with one"
        found, why = self.network([0], delta, rounds)
        if found is None:
            return [f"Network amplification is not claimed: {'; '.join([*why, walk])}."]
        others = np.sort(np.delete(found, 0))
        median = others[len(others) // 2]  # one that a peer has
        return [
            f"Towards peer 0 alone (Cyffers et al. 2022): epsilon {others.max():.4g} for the peer it learns most of, "
            f"{median:.4g} for the median peer, {others.min():.4g} for the least; {walk}."
        ]

    @staticmethod
    def counted(line: Line) -> tuple[list[Claim], list[str]]:
        """The claims of a line that hold without a server, and why others do not."""
        claims, refusals = line.claims(), list(line.refusals())
        kept = [replace(c, assumes=(AGAINST, *c.assumes)) for c in claims if c.against == "server"]
        refusals += [
            f"a claim against '{c.against}' is about the sum of all updates, which no server makes here"
            for c in claims
            if c.against != "server"
        ]
        return kept, refusals

    def ledger(self) -> Ledger | None:
        """The account against whoever sees a peer's messages; no claim about what a server releases holds here."""
        claims, refusals = self.counted(self.line)
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


def _multiplier(claim: Claim) -> float:
    return float(claim.event.noise_multiplier)  # type: ignore[union-attr]


def _row(matrix: Any, peer: int) -> dict[int, float]:
    """The weights other than 0 in a row."""
    row = matrix.getrow(peer)
    return {int(j): float(w) for j, w in zip(row.indices, row.data, strict=True) if w}
