"""The graph engine: the cohort on this machine, as compiled TensorFlow.

A cohort is streamed in chunks, so memory does not grow with it. Within a chunk, as many clients run side by side
as there are lanes, one lane a core; each client's result depends only on its own seed, and sums are
taken in client order, so results depend neither on the lanes nor on the chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv._lazy import default_threads, tf
from fedpriv.client import Client, shuffled_epochs, unit_floats
from fedpriv.engine.base import CohortResult, Engine
from fedpriv.errors import DivergenceError, OverflowDetected
from fedpriv.seeds import Purpose, fold, graph_seed
from fedpriv.stations import Setup

if TYPE_CHECKING:
    from fedpriv.federation import Federation

#: Memory for one chunk of updates, in bytes, and its largest number of clients.
CHUNK_BYTES, CHUNK_CLIENTS = 128 << 20, 64
EVALUATION_BATCH = 500


class GraphEngine(Engine):
    """Compiled local training on this machine's cores."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.setup: Setup = federation.setup
        self.client = Client(federation.model, federation.procedure, federation.defenses, self.setup)
        self.protocol = federation.stack.protocol
        self.lanes = max(1, default_threads()[1])
        partition, train = federation.partition, federation.train
        self._x, self._y = tf.constant(train.x), tf.constant(train.y.astype(np.int32))
        self._indices = tf.constant(np.concatenate(partition.indices).astype(np.int32))
        self._sizes = partition.sizes.astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]).astype(np.int32)
        # Without AutoGraph, whose rewriting of every function on the way takes longer than tracing them.
        self._chunk = tf.function(self._chunk_graph, reduce_retracing=True, autograph=False)
        self._evaluate = tf.function(self._evaluate_graph, reduce_retracing=True, autograph=False)
        size = 4 * (self.setup.spec.size + 1)
        self.chunk_clients = max(self.lanes, min(CHUNK_CLIENTS, CHUNK_BYTES // size))

    def _one_client(self, flat: Any, data: Any, start: Any, size: Any, seed: Any, rate: Any, states: Any) -> Any:
        x, y, indices = data
        mine = indices[start : start + size]
        dtype = self.setup.spec.dtype
        epochs = shuffled_epochs(x, y, mine, self.client.procedure, seed, dtype)
        update, loss, metrics = self.client.train(flat, epochs, size, seed, rate, states)
        finite = tf.reduce_all(tf.math.is_finite(update))
        weight = tf.ones([], dtype)
        if self.setup.weighting == "examples":
            weight = tf.cast(size, dtype) / tf.constant(self.setup.max_examples, dtype)
        return update, loss, metrics, finite, tf.where(finite, weight, tf.zeros_like(weight))

    def _chunk_graph(
        self, flat: Any, data: Any, ids: Any, starts: Any, sizes: Any, seed: Any, rate: Any, states: Any, total: Any
    ) -> dict[str, Any]:
        dtype = self.setup.spec.dtype

        def run(i: Any) -> Any:
            return self._one_client(flat, data, starts[i], sizes[i], fold(seed, ids[i]), rate, states)

        count = tf.shape(ids)[0]
        metric_names = self._metric_names(flat, data, seed, rate, states)
        signature = (
            tf.TensorSpec([self.setup.spec.size], dtype),
            tf.TensorSpec([], dtype),
            {name: tf.TensorSpec([], dtype) for name in metric_names},
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
            protocol = self.protocol

            def encode(row: Any) -> Any:
                value, share, client = row
                contribution = tf.concat([tf.where(share > 0, share * value, tf.zeros_like(value)), [share]], 0)
                return protocol.encode(tf.cast(contribution, tf.float32), self.setup, fold(fold(seed, client), 3))

            ring = (tf.TensorSpec([self.setup.spec.size + 1], tf.int64), tf.TensorSpec([], tf.bool))
            result["encoded"], result["fits"] = tf.map_fn(
                encode, (update, weight, ids), fn_output_signature=ring, parallel_iterations=1
            )
        return result

    def _metric_names(self, flat: Any, data: Any, seed: Any, rate: Any, states: Any) -> list[str]:
        if not self.client.defenses:
            return []
        with tf.Graph().as_default():
            like = tf.nest.map_structure(lambda t: tf.zeros(t.shape, t.dtype), (flat, seed, rate, states))
            x, y, _ = data
            tiny = (tf.zeros([1, *x.shape[1:]], x.dtype), tf.zeros([1], y.dtype), tf.zeros([1], tf.int32))
            one = tf.constant(1)
            outcome = self._one_client(like[0], tiny, tf.constant(0), one, like[1], like[2], like[3])
        return sorted(outcome[2])

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
        setup, d = self.setup, self.setup.spec.size
        seed = tf.constant(graph_seed(self.federation.seed, Purpose.CLIENT, round_number))
        flat, rate = tf.constant(weights, setup.spec.dtype), tf.constant(rate, setup.spec.dtype)
        states = tf.nest.map_structure(tf.convert_to_tensor, tuple(states))
        session = None
        if self.protocol is not None and len(clients):
            session = self.protocol.open(setup, [int(c) for c in clients], watched)
        total: Any = tf.zeros([d], tf.float64)
        # Summed at the end and exactly, so that these sums do not depend on the chunks either.
        shares: list[float] = []
        losses: list[float] = []
        metrics: dict[str, list[float]] = {}
        survivors: list[int] = []
        dropped: list[int] = []
        updates: dict[int, np.ndarray] = {}
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
            if not finite.all():
                lost = [int(i) for i in ids[~finite]]
                if self.federation.on_nonfinite == "stop":
                    raise DivergenceError(
                        f"round {round_number}: the update of client {lost[0]} is not finite"
                        f"{f' (and of {len(lost) - 1} more)' if len(lost) > 1 else ''}; lower the client learning "
                        f"rate (now {float(rate):g}), or drop such clients with on_nonfinite='drop'"
                    )
                dropped += lost
            if session is None:
                total = out["total"]
                shares += out["weight"].numpy()[finite].tolist()
            else:
                fits, encoded = out["fits"].numpy(), out["encoded"].numpy().view(np.uint64)
                for row, client in enumerate(ids):
                    if finite[row] and not fits[row]:
                        raise OverflowDetected(
                            f"round {round_number}: the contribution of client {client} exceeds the fixed-point range "
                            f"of {self.protocol.name}; clip the update first, or raise its range"  # type: ignore[union-attr]
                        )
                    if finite[row]:
                        session.send(int(client), encoded[row])
            for row, client in enumerate(ids):
                if finite[row]:
                    survivors.append(int(client))
                    if int(client) in wanted:
                        updates[int(client)] = out["update"][row].numpy()
            losses += out["loss"].numpy()[finite].tolist()
            for name, values in out["metrics"].items():
                metrics.setdefault(name, []).extend(values.numpy()[finite].tolist())
        transcript, weight = None, math.fsum(shares)
        bytes_up = len(survivors) * (d * tf.as_dtype(setup.spec.dtype).size + 4 * (setup.weighting == "examples"))
        if session is not None and survivors:
            transcript = session.close()
            decoded = self.protocol.decode(  # type: ignore[union-attr]
                tf.constant(transcript.total.view(np.int64)), tf.constant(transcript.count), setup
            ).numpy()
            total, bytes_up = tf.constant(decoded[:d]), transcript.bytes_up
            weight = float(len(survivors)) if setup.weighting == "uniform" else float(decoded[d])
        return CohortResult(
            total.numpy(),
            weight,
            survivors,
            dropped,
            _mean(losses),
            {name: _mean(values) for name, values in metrics.items() if values},
            bytes_up,
            updates,
            transcript,
        )

    def _evaluate_graph(self, flat: Any, x: Any, y: Any) -> Any:
        dtype = self.setup.spec.dtype
        weights = self.client.model.spec.unflatten(flat)
        count = tf.shape(y)[0]
        batches = -(-count // EVALUATION_BATCH)

        def one(i: Any) -> Any:
            part = slice(i * EVALUATION_BATCH, (i + 1) * EVALUATION_BATCH)
            logits = self.client.model.apply(weights, unit_floats(x[part], dtype), False)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y[part], logits)
            right = tf.equal(tf.argmax(logits, -1, tf.int32), y[part])
            return tf.reduce_sum(tf.cast(losses, tf.float64)), tf.reduce_sum(tf.cast(right, tf.int32))

        signature = (tf.TensorSpec([], tf.float64), tf.TensorSpec([], tf.int32))
        losses, right = tf.map_fn(one, tf.range(batches), fn_output_signature=signature, parallel_iterations=self.lanes)
        return tf.reduce_sum(losses), tf.reduce_sum(right)

    def evaluate(self, weights: np.ndarray, x: Any, y: Any) -> tuple[float, float]:
        """See Engine."""
        loss, right = self._evaluate(tf.constant(weights, self.setup.spec.dtype), x, y)
        return float(loss) / len(y), int(right) / len(y)


def _add_weighted(total: Any, update: Any, weight: Any) -> Any:
    """`total` float64 `[d]` plus the rows of `update [c, d]` times `weight [c]`, in order; zero weights drop NaNs."""

    def add(i: Any, total: Any) -> Any:
        row = tf.where(weight[i] > 0, weight[i] * update[i], tf.zeros_like(update[i]))
        return i + 1, total + tf.cast(row, tf.float64)

    return tf.while_loop(lambda i, _: i < tf.shape(update)[0], add, (tf.constant(0), total), parallel_iterations=1)[1]


def _mean(values: list[float]) -> float:
    """The mean, correctly rounded; 0 of nothing, NaN where a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    return math.fsum(values) / max(len(values), 1)
