"""The graph engine: the cohort on this machine, as compiled TensorFlow.

A cohort is streamed in chunks, so memory does not grow with it. Within a chunk, as many clients run side by side
as there are lanes, one lane a core; each client's result depends only on its own seed, and sums are
taken in client order, so results depend neither on the lanes nor on the chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedpriv.base.lazy import default_threads, tf
from fedpriv.base.seeds import fold
from fedpriv.base.types import Examples, Flat, Labels, Nested, Scalar, Seed, Tensor
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.ring import KEY_BYTES
from fedpriv.engine.base import Begin, Engine, Take
from fedpriv.engine.collect import Collector
from fedpriv.engine.masking import Masking
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.federation.client import Visit
from fedpriv.federation.federation import Federation

#: Memory for one chunk of updates, in bytes, and its largest number of clients.
CHUNK_BYTES, CHUNK_CLIENTS = 128 << 20, 64
#: The same where each client has weights of its own: what the C library keeps for the next chunk (at most 32 MB), since
#: fresh memory for updates costs more than the training of a small model.
PEERS_BYTES = 26 << 20
#: What a tensor's address has to be a multiple of, to be read where it lies.
ALIGNMENT = 64


class GraphEngine(Engine):
    """Compiled local training on this machine's cores."""

    trains_peers = True

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
        own = sum(a.nbytes for a in tf.nest.flatten(self.own_like))
        size = 4 * self.contribution_length + 2 * own
        self.chunk_clients = max(self.lanes, min(CHUNK_CLIENTS, CHUNK_BYTES // size))
        self.chunk_peers = max(self.lanes, min(self.chunk_clients, PEERS_BYTES // size))
        even = ALIGNMENT // np.dtype(self.plan.spec.dtype).itemsize
        if self.chunk_peers > even:  # so that every chunk of an aligned array of weights is aligned
            self.chunk_peers -= self.chunk_peers % even

    def _chunk_graph(
        self,
        flat: Flat,
        data: tuple[Examples, Labels, Tensor],
        chunk: dict[str, Nested],
        seed: Seed,
        rate: Scalar,
        number: Scalar,
        states: Nested,
        total: Flat | None,
        bits: int | None = None,
    ) -> dict[str, Nested]:
        x, y, indices = data
        together = flat.shape.rank == 1  # all begin with the same weights

        def run(i: Scalar) -> dict[str, Nested]:
            start, size = chunk["starts"][i], chunk["sizes"][i]
            own = tf.nest.map_structure(lambda a: a[i], chunk["own"])
            visit = Visit(chunk["secrets"][i], states, own, size, number, chunk["slots"][i], chunk["away"][i])
            mine = indices[start : start + size]
            masking = None
            if bits is not None:
                masking = Masking(chunk["keys"][i], chunk["signs"][i], bits)
            begin = flat if together else flat[i]
            return self.contribution(begin, x, y, mine, fold(seed, chunk["ids"][i]), rate, visit, masking)

        count = tf.shape(chunk["ids"])[0]
        form = self.signature(None if bits is None else Masking(chunk["keys"], chunk["signs"], bits).dtype)
        result = tf.map_fn(run, tf.range(count), fn_output_signature=form, parallel_iterations=self.lanes)
        if total is not None and not self.line.encodes:
            result["total"] = _add_weighted(total, result["update"], result["weight"])
        return result

    def cohort(self, task: CohortTask) -> CohortResult:
        """See Engine."""
        spec = self.plan.spec
        collector = Collector(self, task)
        rate = tf.constant(task.rate, spec.dtype)
        states = tf.nest.map_structure(tf.convert_to_tensor, tuple(task.states))
        total: Flat = tf.zeros([spec.size], tf.float64)
        slots = {int(c): slot for slot, c in enumerate(task.clients)}
        for weights, clients in collector.sent_alike():
            flat = tf.constant(weights, spec.dtype)
            for first in range(0, len(clients), self.chunk_clients):
                ids = np.asarray(clients[first : first + self.chunk_clients], np.int32)
                seed, chunk = self._chunk_of(task, ids, slots)
                if collector.mask_bits is not None:
                    chunk |= _stacked([collector.deal(int(c)) for c in ids])
                out = self._chunk(
                    flat,
                    (self._x, self._y, self._indices),
                    chunk,
                    tf.constant(seed),
                    rate,
                    tf.constant(task.round),
                    states,
                    total,
                    collector.mask_bits,
                )
                total = out.pop("total", total)
                update = out.pop("update")
                collector.take(ids, {**tf.nest.map_structure(lambda a: a.numpy(), out), "update": update})
        return collector.result(total.numpy())

    def peers(self, task: CohortTask, begin: Begin, take: Take) -> CohortResult:
        """See Engine."""
        spec = self.plan.spec
        collector = Collector(self, task)
        rate, number = tf.constant(task.rate, spec.dtype), tf.constant(task.round)
        states = tf.nest.map_structure(tf.convert_to_tensor, tuple(task.states))
        slots = {int(c): slot for slot, c in enumerate(task.clients)}
        for first in range(0, len(collector.clients), self.chunk_peers):
            places = slice(first, first + self.chunk_peers)
            ids = np.asarray(collector.clients[places], np.int32)
            seed, chunk = self._chunk_of(task, ids, slots)
            data = self._x, self._y, self._indices
            flat = _borrowed(begin(places), spec.dtype)
            out = self._chunk(flat, data, chunk, tf.constant(seed), rate, number, states, None, None)
            update = np.asarray(memoryview(out.pop("update")))  # its own memory, where numpy() would copy
            out = tf.nest.map_structure(lambda a: a.numpy(), out)
            collector.take(ids, out)
            take(places, update if out["finite"].all() else np.where(out["finite"][:, None], update, 0))
        return collector.result(np.zeros(spec.size))

    def _chunk_of(
        self, task: CohortTask, ids: np.ndarray, slots: Mapping[int, int]
    ) -> tuple[np.ndarray, dict[str, Nested]]:
        """The round's seed, and what a chunk of clients is made of but for their weights."""
        seed, secrets = self.round_seeds(task, ids)
        return seed, {
            "ids": tf.constant(ids),
            "starts": tf.constant(self._starts[ids]),
            "sizes": tf.constant(self._sizes[ids]),
            "secrets": tf.constant(secrets),
            "slots": tf.constant([slots[int(c)] for c in ids], tf.int32),
            "away": tf.constant(task.own.away(ids, task.round)),
            "own": tf.nest.pack_sequence_as(self.own_like, [tf.constant(a) for a in task.own.of(ids)]),
        }


def _borrowed(weights: np.ndarray, dtype: str) -> Tensor:
    """A tensor over an array's own memory where that can be, else over a copy; the array must not change meanwhile."""
    fits = weights.dtype == dtype and weights.flags.c_contiguous and weights.flags.writeable
    if not fits or weights.ctypes.data % ALIGNMENT:
        return tf.constant(weights, dtype)
    return tf.experimental.dlpack.from_dlpack(weights.__dlpack__())


def _stacked(dealt: Sequence[Dealt]) -> dict[str, Tensor]:
    """Clients' masks, filled up with keys of sign 0 to as many as the longest has."""
    longest = max(len(one.signs) for one in dealt)
    keys = np.zeros((len(dealt), longest, KEY_BYTES), np.uint8)
    signs = np.zeros((len(dealt), longest), np.int8)
    for i, one in enumerate(dealt):
        keys[i, : len(one.signs)], signs[i, : len(one.signs)] = one.keys, one.signs
    return {"keys": tf.constant(keys), "signs": tf.constant(signs)}


def _add_weighted(total: Flat, update: Tensor, weight: Tensor) -> Flat:
    """`total` float64 `[d]` plus the rows of `update [c, d]` times `weight [c]`, in order; zero weights drop NaNs."""

    def add(i: Scalar, total: Flat) -> tuple[Scalar, Flat]:
        row = tf.where(weight[i] > 0, weight[i] * update[i], tf.zeros_like(update[i]))
        return i + 1, total + tf.cast(row, tf.float64)

    return tf.while_loop(lambda i, _: i < tf.shape(update)[0], add, (tf.constant(0), total), parallel_iterations=1)[1]
