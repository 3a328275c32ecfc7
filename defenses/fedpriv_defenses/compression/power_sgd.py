"""PowerSGD: weight tensors' updates as products of two thin matrices."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits


class PowerSGD(Compressor):
    """Each weight tensor's update as P Q^T of a low rank, by one step of subspace iteration.

    Vogels, Karimireddy, Jaggi 2019, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization",
    NeurIPS, arXiv 1905.13727. A tensor M is read as a matrix `[all other axes, last axis]`; P is an orthonormal basis
    of M Q of before, and Q becomes M^T P. A client keeps its Q for its next round (the warm start); the first one is
    drawn from a public seed. The paper sums P, then Q, over all workers before it goes on; here each client makes its
    own factors and sends both, so that every client's message is there to be attacked. Tensors of one axis, and those
    whose factors would be as large as they are, go as they are. Error feedback is on, as in the paper, unless it is
    turned off.

    Without feedback what is sent is a projection of the update, no longer than it is. Formal guarantee: none. Log:
    `error`.
    """

    name: ClassVar[str] = "power_sgd"
    paper: ClassVar[str] = "Vogels, Karimireddy, Jaggi 2019, arXiv 1905.13727"
    adaptive_attack: ClassVar[str] = "dlg(replay=exact)"
    contracts: ClassVar[bool] = True

    error_feedback: bool = Field(
        default=True, description="keep what the message left out, and add it to the client's next update."
    )
    rank: Annotated[int, Field(ge=1)] = Field(default=2, description="columns of each factor.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="public; of the first Q.")

    def _shapes(self, spec: Spec) -> list[tuple[int, int] | None]:
        """Each tensor's as a matrix, None for those sent as they are."""
        found: list[tuple[int, int] | None] = []
        for shape, size in zip(spec.shapes, spec.sizes, strict=True):
            columns = shape[-1] if len(shape) > 1 else 0
            rows = size // columns if columns else 0
            found.append((rows, columns) if size > self.rank * (rows + columns) and columns else None)
        return found

    def initial_own(self, spec: Spec) -> Nested:
        """Q of each tensor, `[columns, rank]`; of those sent as they are nothing."""
        rng = np.random.default_rng(self.seed)
        shapes = [s for s in self._shapes(spec) if s is not None]
        return tuple(rng.normal(size=(s[1], self.rank)).astype(spec.dtype) for s in shapes)

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """For each tensor P `[rows, rank]` and Q `[columns, rank]`, or its values."""
        spec, message, kept = context.plan.spec, [], []
        left = iter(own)
        for part, shape in zip(tf.split(whole, spec.sizes), self._shapes(spec), strict=True):
            if shape is None:
                message.append(part)
                continue
            matrix, before = tf.reshape(part, shape), next(left)
            p = tf.linalg.qr(tf.matmul(matrix, before))[0]
            q = tf.matmul(matrix, p, transpose_a=True)
            message += [p, q]
            # A matrix of zeros would leave a Q that nothing comes out of any more.
            kept.append(tf.where(tf.reduce_any(tf.not_equal(q, 0)), q, before))
        return tuple(message), tuple(kept)

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """The products, `[d]`."""
        left, parts = iter(message), []
        for shape in self._shapes(spec):
            first = next(left)
            parts.append(first if shape is None else tf.matmul(first, next(left), transpose_b=True))
        return tf.concat([tf.reshape(p, [-1]) for p in parts], 0)

    def passing(self, whole: Flat, message: Message, context: Context) -> Flat:
        """The derivative is the projection's, whose bases are held fast."""
        spec = context.plan.spec
        left, parts = iter(message), []
        for part, shape in zip(tf.split(whole, spec.sizes), self._shapes(spec), strict=True):
            p = next(left)
            if shape is None:
                parts.append(part)
                continue
            made = tf.matmul(p, next(left), transpose_b=True)
            parts.append(tf.reshape(_projected(tf.reshape(part, shape), p, made), [-1]))
        return tf.concat(parts, 0)

    def bits(self, message: Message, spec: Spec) -> int:
        """All factors' and values' floats."""
        sizes = zip(spec.sizes, self._shapes(spec), strict=True)
        return float_bits(spec) * sum(size if s is None else self.rank * sum(s) for size, s in sizes)

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Factors and values in the order of tensors."""
        return np.concatenate([bits.of_floats(np.reshape(m, -1)) for m in message])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        values, made, at = bits.to_floats(bits_, np.dtype(spec.dtype)), [], 0
        for size, shape in zip(spec.sizes, self._shapes(spec), strict=True):
            wanted = [(size,)] if shape is None else [(shape[0], self.rank), (shape[1], self.rank)]
            for one in wanted:
                count = int(np.prod(one))
                made.append(values[at : at + count].reshape(one))
                at += count
        return tuple(made)


def _projected(matrix: Flat, basis: Flat, made: Flat) -> Flat:
    """`made`, with the derivative of `basis basis^T matrix`."""

    @tf.custom_gradient
    def through(given: Flat) -> Flat:
        def back(upstream: Flat) -> Flat:
            return tf.matmul(basis, tf.matmul(basis, upstream, transpose_a=True))

        return tf.identity(made), back

    return through(matrix)
