"""The TFF engine: the cohort as a TensorFlow Federated computation, on this machine's runtime or on several workers.

The clients' part of the line is the same pure function as in the graph engine, placed at CLIENTS. What comes back is
the weighted sum, sums of losses and reports, and of each client whether its update was finite and what it keeps for
itself; a client's own update only if a tap asks for it, and integers if links encode, with the masks on that a protocol
dealt where it deals any. A cohort goes out in chunks, which are summed in order, so that results do not depend on which
worker did what, nor, but for rounding in double precision, on how many there are.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpriv.base.errors import EngineError, FedprivError, ModelError
from fedpriv.base.lazy import tf, tff
from fedpriv.base.seeds import KEY_WORDS, fold
from fedpriv.base.types import Array, Nested, Tensor
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.ring import KEY_BYTES
from fedpriv.engine.base import Engine
from fedpriv.engine.collect import Collector
from fedpriv.engine.masking import Masking
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.engine.tff.merging import Merging, sent
from fedpriv.engine.tff.pool import Pool
from fedpriv.engine.tff.traced import traced
from fedpriv.federation.client import Visit
from fedpriv.federation.federation import Federation

#: Most clients, and about the most bytes of examples and results, in one call of a worker.
CHUNK_CLIENTS, CHUNK_BYTES = 32, 256 << 20


class TffEngine(Engine):
    """TensorFlow Federated.

    Args:
      federation: the federation; its `engine_options` may hold `workers`, a list of `host:port` (none starts one
        runtime on this machine), and `timeout`, seconds after which a worker that has not answered is given up.
    """

    aggregates = True
    trains_elsewhere = True

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._labels = federation.train.y
        self._states = super().start()
        self._told = self.line.broadcast_states(self._states)
        aggregator = federation.line.aggregator
        self._merging = None if aggregator is None else Merging(aggregator, self.plan)
        self._computations: dict[tuple[bool, int | None], Any] = {}
        self.chunk_clients = CHUNK_CLIENTS
        self._own = [np.asarray(a) for a in tf.nest.flatten(self.own_like)]
        self.pool = Pool(**federation.engine_options)
        self._process = os.getpid()

    def start(self) -> tuple[Nested, ...]:
        """See Engine."""
        if self._merging is None:
            return self._states
        own = self._merging.start(self.pool)
        return tuple(own if isinstance(d, Aggregator) else s for d, s in zip(self.line.links, self._states))

    def _single(self, bits: int | None) -> list[str]:
        """What comes back of each client by itself."""
        coded = [] if not self.line.encodes else ["encoded"] if bits is None else ["masked"]
        norm = ["norm"] if self.measures_norms else []
        return ["finite", "bounded", "ok", "bits", *norm, *(["own"] if self._own else []), *coded]

    def computation(self, give: bool, bits: int | None = None) -> Any:
        """The cohort's computation.

        Args:
          give: whether clients that are asked send their own update as well.
          bits: b, where clients put masks of integers mod 2^b on their contributions; None where they do not.

        Raises:
          ModelError: TFF cannot serialize the client's part.
        """
        if (give, bits) not in self._computations:
            try:
                made = self._build(give, bits)
                if b"PyFunc" in tff.framework.serialize_computation(made).SerializeToString():
                    raise ValueError("it calls Python (py_function or numpy_function), which stays in this process")
            except FedprivError:
                raise
            except Exception as e:
                raise ModelError(
                    f"TFF cannot serialize local training of model '{self.client.model.name}': "
                    f"{str(e).splitlines()[0] if str(e) else type(e).__name__}; use TensorFlow operations alone (no "
                    "py_function, no variables), or engine='graph'"
                ) from e
            self._computations[give, bits] = made
        return self._computations[give, bits]

    def _build(self, give: bool, bits: int | None) -> Any:
        spec, data, merging = self.plan.spec, self.federation.train, self._merging
        states = [(a.dtype.type, a.shape) for a in tf.nest.flatten(self._told)]
        server_type = tff.to_type(
            collections.OrderedDict(
                weights=tff.TensorType(np.dtype(spec.dtype).type, [spec.size]),
                seed=tff.TensorType(np.int32, [2]),
                rate=tff.TensorType(np.dtype(spec.dtype).type),
                round=tff.TensorType(np.int32),
                states=[tff.TensorType(*state) for state in states],
            )
        )
        masks = {}
        if bits is not None:
            masks = {"keys": tff.TensorType(np.uint8, [None, KEY_BYTES]), "signs": tff.TensorType(np.int8, [None])}
        client_type = tff.to_type(
            collections.OrderedDict(
                id=np.int32,
                asked=np.bool_,
                secret=tff.TensorType(np.int64, [KEY_WORDS if self.plan.secure_rng else 2]),
                slot=np.int32,
                away=np.int32,
                own=[tff.TensorType(a.dtype.type, a.shape) for a in self._own],
                x=tff.TensorType(data.x.dtype.type, [None, *data.input_shape]),
                y=tff.TensorType(data.y.dtype.type, [None, *data.y.shape[1:]]),
                **masks,
            )
        )

        one = traced(lambda server, own: self._train(server, own, give, bits), server_type, client_type)

        @tff.tensorflow.computation(server_type, client_type)
        def train(server: Any, own: Any) -> Any:
            return one(server, own)

        # An aggregator's state is for its own computations to send, not for every client.
        state_type = tff.to_type([] if merging is None else merging.leaves)

        @tff.federated_computation(
            tff.FederatedType(server_type, tff.SERVER),
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(client_type, tff.CLIENTS),
        )
        def cohort(server: Any, state: Any, clients: Any) -> Any:
            out = tff.federated_map(train, (tff.federated_broadcast(server), clients))
            back = collections.OrderedDict((name, getattr(out, name)) for name in self._single(bits))
            back["reports"] = tff.federated_sum(out.reports)
            if merging is not None:
                back["partial"] = merging.partial(state, out.value, out.weight)
            elif not self.line.encodes:
                back["total"] = tff.federated_sum(out.total)
            if give:
                back["update"] = out.update
            return back

        return cohort

    def cohort(self, task: CohortTask) -> CohortResult:
        """See Engine."""
        self._check_process()
        dtype = self.plan.spec.dtype
        collector = Collector(self, task)
        links = self.line.links
        own = [a for s, d in zip(task.states, links) if isinstance(d, Aggregator) for a in s]
        others = [a for s, d in zip(task.states, links) if not isinstance(d, Aggregator) for a in _leaves(s)]
        state = [sent(a) for a in own]
        seed, secrets = self.round_seeds(task, task.clients)
        places = {int(c): slot for slot, c in enumerate(task.clients)}
        servers, chunks = [], []
        for weights, clients in collector.sent_alike():
            server = collections.OrderedDict(
                weights=np.asarray(weights, dtype),
                seed=np.asarray(seed, np.int32),
                rate=np.asarray(task.rate, dtype),
                round=np.int32(task.round),
                states=[np.asarray(a) for a in others],
            )
            for chunk in self._chunks(clients):
                chunks.append(chunk)
                servers.append(server)

        bits = collector.mask_bits

        def held(client: int) -> Nested:
            found = self._held(client, places[client], secrets[places[client]], task)
            if bits is not None:
                dealt = collector.deal(client)
                found |= {"keys": dealt.keys, "signs": dealt.signs}
            return found

        # One by one, as workers get free.
        jobs = ((server, state, [held(c) for c in chunk]) for server, chunk in zip(servers, chunks, strict=True))
        computation, single = self.computation(bool(task.wanted), bits), self._single(bits)
        total, partial = np.zeros([self.plan.spec.size], np.float64), []
        for chunk, out in zip(chunks, self.pool.map(computation, jobs), strict=True):
            if self._merging is not None:
                partial.append(out["partial"])
            elif not self.line.encodes:
                total = total + np.asarray(out["total"])
            columns = {name: [np.asarray(v) for v in out[name]] for name in single if name != "own"}
            if self._own:
                columns["own"] = [np.stack([np.asarray(one[j]) for one in out["own"]]) for j in range(len(self._own))]
            if task.wanted:
                columns["update"] = out["update"]
            collector.take(chunk, columns)
            loss, *rest = (float(v) for v in np.asarray(out["reports"]))
            logs, tallies = rest[: len(self.all_logs)], rest[len(self.all_logs) :]
            collector.report(
                [loss],
                {name: [v] for name, v in zip(self.all_logs, logs, strict=True)},
                {name: [v] for name, v in zip(self.tally_names, tallies, strict=True)},
            )
        result = collector.result(total)
        if self._merging is not None:
            result.aggregate = self._merging.finish(self.pool, own, partial)
        return result

    def _held(self, client: int, slot: int, secret: np.ndarray, task: CohortTask) -> Nested:
        """What a client holds and is told alone, and whether its own update is asked for."""
        indices = self.federation.partition.indices[client]
        return collections.OrderedDict(
            id=np.int32(client),
            asked=client in task.wanted,
            secret=secret,
            slot=np.int32(slot),
            away=np.int32(task.own.away([client], task.round)[0]),
            own=[a[0] for a in task.own.of([client])],
            x=self.federation.train.x[indices],
            y=self._labels[indices],
        )

    def _chunks(self, clients: Sequence[int]) -> list[list[int]]:
        """The cohort in order, cut so that a call stays small and every worker has something to do."""
        most = min(self.chunk_clients, -(-len(clients) // len(self.pool.workers)))
        example = self.federation.train.x[:1].nbytes + 4
        held = self.federation.partition.sizes
        chunks: list[list[int]] = []
        used = 0
        for client in (int(c) for c in clients):
            size = int(held[client]) * example + 8 * self.plan.spec.size
            if not chunks or len(chunks[-1]) >= most or used + size > CHUNK_BYTES:
                chunks.append([])
                used = 0
            chunks[-1].append(client)
            used += size
        return chunks

    def _check_process(self) -> None:
        """gRPC's threads do not come along into a forked child, which then crashes without a word.

        Raises:
          EngineError: this is one.
        """
        if os.getpid() != self._process:
            raise EngineError(
                f"the TFF engine was started by process {self._process}, and this one was forked from it: gRPC does "
                "not work in a forked child. Make the federation in the child, or start it with "
                "multiprocessing.get_context('spawn')"
            )

    def close(self) -> None:
        """Ends the runtime, if it is ours."""
        self.pool.close()

    def _train(self, server: Nested, own: Nested, give: bool, bits: int | None) -> Nested:
        """One client, from what the server broadcast and what the client holds; traced."""
        seed, mine = fold(server["seed"], own["id"]), tf.range(tf.shape(own["y"])[0])
        states = tf.nest.pack_sequence_as(self._told, list(server["states"]))
        kept_state = tf.nest.pack_sequence_as(self.own_like, list(own["own"]))
        visit = Visit(own["secret"], states, kept_state, tf.size(mine), server["round"], own["slot"], own["away"])
        masking = None if bits is None else Masking(own["keys"], own["signs"], bits)
        made = self.contribution(server["weights"], own["x"], own["y"], mine, seed, server["rate"], visit, masking)
        finite, update, weight = made["finite"], made["update"], made["weight"]

        def kept(value: Tensor) -> Tensor:
            return tf.where(finite, tf.cast(value, tf.float64), tf.zeros_like(value, tf.float64))

        sums = [kept(made["loss"]), *(kept(made["log"][name]) for name in self.all_logs)]
        # Tallies are part of the contribution: where that is encoded they come out of the sum of these alone.
        tallies = [kept(made["tally"][name]) for name in self.tally_names]
        sums += [tf.zeros_like(t) for t in tallies] if self.line.encodes else tallies
        out = collections.OrderedDict((name, made[name]) for name in self._single(bits) if name != "own")
        if self._own:
            out["own"] = tf.nest.flatten(made["own"])
        out["reports"] = tf.stack(sums)
        if self._merging is not None:
            out["value"] = self.plan.spec.unflatten(tf.where(finite, update, tf.zeros_like(update)))
            out["weight"] = tf.cast(weight, tf.float32)
        elif not self.line.encodes:
            out["total"] = kept(weight * update)
        if give:
            out["update"] = tf.cond(own["asked"] & finite, lambda: update, lambda: update[:0])
        return out


def _leaves(state: Nested) -> list[Tensor | Array]:
    return list(tf.nest.flatten(state))
