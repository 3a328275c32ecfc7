"""QSGD: values rounded at random to a few levels, unbiased."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import uniform
from fedpriv.base.types import Flat, Nested, Scalar, Tensor
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits


class QSGD(Compressor):
    """Each value as a random one of the two levels around it, its mean the value itself.

    Alistarh, Grubic, Li, Tomioka, Vojnović 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization and
    Encoding", NeurIPS, arXiv 1610.02132. Of a bucket of coordinates v with norm |v| a value becomes
    |v| sign(v_i) l / s, l one of the two integers around s |v_i| / |v|. What is sent is unbiased; its variance is at
    most min(n / s^2, sqrt(n) / s) |v|^2 for buckets of n with the Euclidean norm (their Lemma 3.1).

    On the wire, whichever is shorter: every level in as many bits as 2 s + 1 of them need, or, where most are zero,
    the levels that are not with the gaps between them in Elias's gamma code (the paper takes the omega code); one bit
    says which. A norm for each bucket is sent in full.

    Formal guarantee: none: the randomness is no noise of a mechanism. A replay leaves the rounding out, since its mean
    is zero. `objective=consistent` knows its levels with `norm=max`, where each bucket's norm shows; with the Euclidean
    norm a message tells no cells, and `objective=informed` takes the squared error. Log: `error`.
    """

    name: ClassVar[str] = "qsgd"
    paper: ClassVar[str] = "Alistarh et al. 2017, arXiv 1610.02132"
    adaptive_attack: ClassVar[str] = "dlg(objective=informed)"
    replayable: ClassVar[bool] = False

    levels: Annotated[int, Field(ge=1, lt=2**15)] = Field(
        default=15, description="s, how many levels above zero; 1 sends signs and zeros."
    )
    bucket: Annotated[int, Field(ge=1)] | None = Field(
        default=512, description="coordinates that share a norm; None takes all of the update."
    )
    norm: Literal["l2", "max"] = Field(
        default="l2", description="what a bucket is divided by: its Euclidean norm, or its largest absolute value."
    )

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """Levels with their signs, int32 `[d]`, and the norms `[buckets]`."""
        size = int(whole.shape[0])
        norms = self._norms(whole)
        share = tf.math.divide_no_nan(tf.abs(whole), self._spread(norms, size)) * self.levels
        drawn = tf.cast(uniform(context.seed, [size]), whole.dtype)
        level = tf.minimum(tf.floor(share + drawn), float(self.levels))
        return (tf.cast(tf.sign(whole) * level, tf.int32), norms), own

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """The levels in units of their buckets' norms, `[d]`."""
        step = self._spread(message[1], spec.size) / self.levels
        return tf.cast(message[0], step.dtype) * step

    def _n(self, size: int) -> int:
        return size if self.bucket is None else min(self.bucket, size)

    def _norms(self, values: Flat) -> Tensor:
        n = self._n(int(values.shape[0]))
        rows = tf.reshape(tf.pad(values, [[0, -int(values.shape[0]) % n]]), [-1, n])
        if self.norm == "max":
            return tf.reduce_max(tf.abs(rows), axis=1)
        return tf.sqrt(tf.reduce_sum(tf.square(rows), axis=1))

    def _spread(self, norms: Tensor, size: int) -> Flat:
        return tf.repeat(norms, self._n(size))[:size]

    @property
    def _width(self) -> int:
        return math.ceil(math.log2(2 * self.levels + 1))

    def bits(self, message: Message, spec: Spec) -> Scalar:
        """One, the norms, and the shorter of the two codes."""
        found = tf.where(tf.not_equal(message[0], 0))[:, 0]
        gaps = tf.concat([found, [spec.size]], 0) - tf.concat([[-1], found], 0)  # the last one says that it is over
        level = tf.abs(tf.gather(message[0], found))
        sparse = tf.reduce_sum(_gamma_bits(gaps)) + tf.reduce_sum(_gamma_bits(level) + 1)
        dense = tf.constant(self._width * spec.size, sparse.dtype)
        return 1 + int(message[1].shape[0]) * float_bits(spec) + tf.minimum(dense, sparse)

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Norms, which code, the code."""
        levels = message[0]
        dense = bits.packed(levels + self.levels, self._width)
        found = np.flatnonzero(levels)
        gaps = np.append(found, spec.size) - np.append(-1, found)
        parts: list[np.ndarray] = []
        for gap, level in zip(gaps, np.append(levels[found], 0), strict=True):
            parts.append(bits.gamma([gap]))
            if level:
                parts += [bits.gamma([abs(level)]), np.array([level < 0], np.uint8)]
        sparse = np.concatenate(parts)
        short = len(sparse) < len(dense)
        head = [bits.of_floats(message[1]), np.array([short]), sparse if short else dense]
        return np.concatenate(head).astype(np.uint8)

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        at = -(-spec.size // self._n(spec.size)) * float_bits(spec)
        norms, short, code = bits.to_floats(bits_[:at], np.dtype(spec.dtype)), bits_[at], bits_[at + 1 :]
        if not short:
            return (bits.unpacked(code, self._width) - self.levels).astype(np.int32), norms
        levels, place, at = np.zeros(spec.size, np.int32), -1, 0
        while True:
            gap, at = bits.read_gamma(code, at)
            place += gap
            if place >= spec.size:
                return levels, norms
            level, at = bits.read_gamma(code, at)
            levels[place], at = (-level if code[at] else level), at + 1

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat] | None:
        """A step to either side, where each bucket shows a level that tells its norm: `norm=max` always does."""
        if self.norm != "max":
            return None
        half = self._spread(self._norms(sent), spec.size) / self.levels
        return sent - half, sent + half


def _gamma_bits(values: Tensor) -> Tensor:
    """How long positive integers are in Elias's gamma code, int64."""
    values = tf.cast(values, tf.int64)
    length = tf.zeros_like(values)
    for shift in (32, 16, 8, 4, 2, 1):  # the place of the highest bit, exactly
        more = tf.bitwise.right_shift(values, tf.cast(shift, tf.int64)) > 0
        length += tf.where(more, tf.cast(shift, tf.int64), tf.zeros_like(values))
        values = tf.where(more, tf.bitwise.right_shift(values, tf.cast(shift, tf.int64)), values)
    return 2 * length + 1
