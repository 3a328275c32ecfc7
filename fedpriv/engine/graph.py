"""The graph engine: the cohort on this machine, as compiled TensorFlow.

A cohort is streamed in chunks, so memory does not grow with it. Within a chunk, as many clients run side by side
as there are lanes, one lane a core; each client's result depends only on its own seed, and sums are
taken in client order, so results depend neither on the lanes nor on the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.lazy import default_threads, tf
from fedpriv.base.seeds import Purpose, fold, graph_seed
from fedpriv.engine.base import CohortResult, Engine
from fedpriv.engine.collect import Collector

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

#: Memory for one chunk of updates, in bytes, and its largest number of clients.
CHUNK_BYTES, CHUNK_CLIENTS = 128 << 20, 64


class GraphEngine(Engine):
    """Compiled local training on this machine's cores."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.lanes = max(1, default_threads()[1])
        partition, train = federation.partition, federation.train
        self._x, self._y = tf.constant(train.x), tf.constant(train.y)
        self._indices = tf.constant(np.concatenate(partition.indices).astype(np.int32))
        self._sizes = partition.sizes.astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]).astype(np.int32)
        # Without AutoGraph, whose rewriting of every function on the way takes longer than tracing them.
        self._chunk = tf.function(self._chunk_graph, reduce_retracing=True, autograph=False)
        size = 4 * (self.plan.spec.size + 1)
        self.chunk_clients = max(self.lanes, min(CHUNK_CLIENTS, CHUNK_BYTES // size))

    def _chunk_graph(
        self, flat: Any, data: Any, ids: Any, starts: Any, sizes: Any, seed: Any, rate: Any, states: Any, total: Any
    ) -> dict[str, Any]:
        dtype = self.plan.spec.dtype
        x, y, indices = data

        def run(i: Any) -> Any:
            mine = indices[starts[i] : starts[i] + sizes[i]]
            return self.contribution(flat, x, y, mine, fold(seed, ids[i]), rate, states)

        count = tf.shape(ids)[0]
        signature = (
            tf.TensorSpec([self.plan.spec.size], dtype),
            tf.TensorSpec([], dtype),
            {name: tf.TensorSpec([], dtype) for name in self.metric_names},
            tf.TensorSpec([], tf.bool),
            tf.TensorSpec([], dtype),
        )
        update, loss, metrics, finite, weight = tf.map_fn(
            run, tf.range(count), fn_output_signature=signature, parallel_iterations=self.lanes
        )
        result = {"update": update, "loss": loss, "metrics": metrics, "finite": finite, "weight": weight}
        if self.protocol is None:
            result["total"] = _add_weighted(total, update, weight)
        else:

            def encode(row: Any) -> Any:
                value, share, client = row
                return self.encoded(value, share, fold(seed, client))

            ring = (tf.TensorSpec([self.plan.spec.size + 1], tf.int64), tf.TensorSpec([], tf.bool))
            result["encoded"], result["fits"] = tf.map_fn(
                encode, (update, weight, ids), fn_output_signature=ring, parallel_iterations=1
            )
        return result

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
        plan = self.plan
        seed = tf.constant(graph_seed(self.federation.seed, Purpose.CLIENT, round_number))
        collector = Collector(self.federation, clients, round_number, rate, watched)
        flat, rate = tf.constant(weights, plan.spec.dtype), tf.constant(rate, plan.spec.dtype)
        states = tf.nest.map_structure(tf.convert_to_tensor, tuple(states))
        total: Any = tf.zeros([plan.spec.size], tf.float64)
        for first in range(0, len(clients), self.chunk_clients):
            ids = np.asarray(clients[first : first + self.chunk_clients], np.int32)
            out = self._chunk(
                flat,
                (self._x, self._y, self._indices),
                tf.constant(ids),
                tf.constant(self._starts[ids]),
                tf.constant(self._sizes[ids]),
                seed,
                rate,
                states,
                total,
            )
            finite = out["finite"].numpy()
            total = out.get("total", total)
            messages = {name: out[name].numpy() for name in ("encoded", "fits") if name in out}
            collector.take(ids, finite, out["update"], wanted, **messages)
            metrics = {name: values.numpy()[finite] for name, values in out["metrics"].items()}
            collector.report(out["loss"].numpy()[finite], metrics)
        return collector.result(total.numpy())


def _add_weighted(total: Any, update: Any, weight: Any) -> Any:
    """`total` float64 `[d]` plus the rows of `update [c, d]` times `weight [c]`, in order; zero weights drop NaNs."""

    def add(i: Any, total: Any) -> Any:
        row = tf.where(weight[i] > 0, weight[i] * update[i], tf.zeros_like(update[i]))
        return i + 1, total + tf.cast(row, tf.float64)

    return tf.while_loop(lambda i, _: i < tf.shape(update)[0], add, (tf.constant(0), total), parallel_iterations=1)[1]
