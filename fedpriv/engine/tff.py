"""The TFF engine: the cohort as a TensorFlow Federated computation, on this machine's runtime or on several workers.

The clients' part of the line is the same pure function as in the graph engine, placed at CLIENTS. What comes back is
the weighted sum, sums of losses and metrics, and of each client whether its update was finite; a client's own update
only if a tap asks for it, and ring elements if a protocol runs. A cohort goes out in chunks, which are summed in
order, so that results do not depend on which worker did what, nor, but for rounding in double precision, on how many
there are.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import FedprivError, ModelError
from fedpriv.base.lazy import tf, tff
from fedpriv.base.seeds import Purpose, fold, graph_seed
from fedpriv.defense.aggregator import Aggregator
from fedpriv.engine.base import CohortResult, Engine
from fedpriv.engine.collect import Collector
from fedpriv.engine.merging import Merging, sent
from fedpriv.engine.pool import Pool

if TYPE_CHECKING:
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

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._labels = federation.train.y
        self._states = super().start()
        aggregator = federation.stack.aggregator
        self._merging = None if aggregator is None else Merging(aggregator, self.plan)
        self._computations: dict[bool, Any] = {}
        self.chunk_clients = CHUNK_CLIENTS
        self.pool = Pool(**federation.engine_options)

    def start(self) -> tuple[Any, ...]:
        """See Engine."""
        if self._merging is None:
            return self._states
        own = self._merging.start(self.pool)
        return tuple(own if isinstance(d, Aggregator) else s for d, s in zip(self.client.defenses, self._states))

    def computation(self, give: bool) -> Any:
        """The cohort's computation; with `give`, clients that are asked send their own update as well.

        Raises:
          ModelError: TFF cannot serialize the client's part.
        """
        if give not in self._computations:
            try:
                made = self._build(give)
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
            self._computations[give] = made
        return self._computations[give]

    def _build(self, give: bool) -> Any:
        spec, data, merging = self.plan.spec, self.federation.train, self._merging
        states = [(a.dtype.type, a.shape) for a in tf.nest.flatten(self._states)]
        server_type = tff.to_type(
            collections.OrderedDict(
                weights=tff.TensorType(np.dtype(spec.dtype).type, [spec.size]),
                seed=tff.TensorType(np.int32, [2]),
                rate=tff.TensorType(np.dtype(spec.dtype).type),
                states=[tff.TensorType(*state) for state in states],
            )
        )
        client_type = tff.to_type(
            collections.OrderedDict(
                id=np.int32,
                asked=np.bool_,
                x=tff.TensorType(data.x.dtype.type, [None, *data.input_shape]),
                y=tff.TensorType(data.y.dtype.type, [None, *data.y.shape[1:]]),
            )
        )

        # TFF builds graphs of its own; within a function the model's layers are traced, not rebuilt.
        traced = tf.function(lambda server, own: self._train(server, own, give), autograph=False)

        @tff.tensorflow.computation(server_type, client_type)
        def train(server: Any, own: Any) -> Any:
            return traced(server, own)

        # An aggregator's state is for its own computations to send, not for every client.
        state_type = tff.to_type([] if merging is None else merging.leaves)

        @tff.federated_computation(
            tff.FederatedType(server_type, tff.SERVER),
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(client_type, tff.CLIENTS),
        )
        def cohort(server: Any, state: Any, clients: Any) -> Any:
            out = tff.federated_map(train, (tff.federated_broadcast(server), clients))
            back = collections.OrderedDict(finite=out.finite, reports=tff.federated_sum(out.reports))
            if merging is not None:
                back["partial"] = merging.partial(state, out.value, out.weight)
            elif self.protocol is None:
                back["total"] = tff.federated_sum(out.total)
            else:
                back["encoded"], back["fits"] = out.encoded, out.fits
            if give:
                back["update"] = out.update
            return back

        return cohort

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
        """See Engine."""
        dtype = self.plan.spec.dtype
        collector = Collector(self.federation, clients, round_number, rate, watched)
        own = [a for s, d in zip(states, self.client.defenses) if isinstance(d, Aggregator) for a in s]
        others = [a for s, d in zip(states, self.client.defenses) if not isinstance(d, Aggregator) for a in _leaves(s)]
        server = collections.OrderedDict(
            weights=np.asarray(weights, dtype),
            seed=np.asarray(graph_seed(self.federation.seed, Purpose.CLIENT, round_number), np.int32),
            rate=np.asarray(rate, dtype),
            states=[np.asarray(a) for a in others],
        )
        chunks = self._chunks(clients)
        state = [sent(a) for a in own]
        jobs = ((server, state, [self._held(c, c in wanted) for c in chunk]) for chunk in chunks)
        total, partial = np.zeros([self.plan.spec.size], np.float64), []
        for chunk, out in zip(chunks, self.pool.map(self.computation(bool(wanted)), jobs), strict=True):
            finite = np.asarray(out["finite"], bool)
            if self._merging is not None:
                partial.append(out["partial"])
            elif self.protocol is None:
                total = total + np.asarray(out["total"])
            messages = {name: out[name] for name in ("encoded", "fits") if self.protocol is not None}
            collector.take(chunk, finite, out["update"] if wanted else None, wanted, **messages)
            loss, *metrics = (float(v) for v in np.asarray(out["reports"]))
            collector.report([loss], {name: [v] for name, v in zip(self.metric_names, metrics, strict=True)})
        result = collector.result(total)
        if self._merging is not None:
            result.aggregate = self._merging.finish(self.pool, own, partial)
        return result

    def _held(self, client: int, asked: bool) -> Any:
        """What a client holds, and whether its own update is asked for."""
        indices = self.federation.partition.indices[client]
        return collections.OrderedDict(
            id=np.int32(client), asked=asked, x=self.federation.train.x[indices], y=self._labels[indices]
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

    def close(self) -> None:
        """Ends the runtime, if it is ours."""
        self.pool.close()

    def _train(self, server: Any, own: Any, give: bool) -> Any:
        """One client, from what the server broadcast and what the client holds; traced."""
        seed, mine = fold(server["seed"], own["id"]), tf.range(tf.shape(own["y"])[0])
        states = tf.nest.pack_sequence_as(self._states, list(server["states"]))
        update, loss, metrics, finite, weight = self.contribution(
            server["weights"], own["x"], own["y"], mine, seed, server["rate"], states
        )

        def kept(value: Any) -> Any:
            return tf.where(finite, tf.cast(value, tf.float64), tf.zeros_like(value, tf.float64))

        sums = [kept(loss), *(kept(metrics[name]) for name in self.metric_names)]
        out = collections.OrderedDict(finite=finite, reports=tf.stack(sums))
        if self._merging is not None:
            out["value"] = self.plan.spec.unflatten(tf.where(finite, update, tf.zeros_like(update)))
            out["weight"] = tf.cast(weight, tf.float32)
        elif self.protocol is None:
            out["total"] = kept(weight * update)
        else:
            out["encoded"], out["fits"] = self.encoded(update, weight, seed)
        if give:
            out["update"] = tf.cond(own["asked"] & finite, lambda: update, lambda: update[:0])
        return out


def _leaves(state: Any) -> list[Any]:
    return list(tf.nest.flatten(state))
