"""OneBit: one bit a coordinate, with two levels for each weight tensor's columns."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested, Tensor
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits


class OneBit(Compressor):
    """Signs, and for each column of a weight tensor the mean of its positive and of its negative values.

    Seide, Fu, Droppo, Li, Yu 2014, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
    Distributed Training of Speech DNNs", Interspeech. The two levels are those with the least squared error for the
    threshold zero. A column is what enters one unit: all values with the same last index; a bias is one column. The
    paper's error feedback is on unless it is turned off.

    Formal guarantee: none. An attack that replays it matches its signs and levels. Log: `error`.
    """

    name: ClassVar[str] = "one_bit"
    paper: ClassVar[str] = "Seide et al. 2014"
    adaptive_attack: ClassVar[str] = "dlg"
    contracts: ClassVar[bool] = True

    error_feedback: bool = Field(
        default=True, description="keep what the message left out, and add it to the client's next update."
    )

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """Which are not negative, bool `[d]`; levels of the columns `[2, columns]`, those of negative values first."""
        spec = context.plan.spec
        positive = whole >= 0
        levels = []
        for side in (tf.logical_not(positive), positive):
            counted = tf.cast(side, whole.dtype)
            total, count = (_column_sums(v, spec) for v in (whole * counted, counted))
            levels.append(tf.math.divide_no_nan(total, count))
        return (positive, tf.stack(levels)), own

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """Each coordinate's level, `[d]`."""
        found, sizes = [], list(spec.sizes)
        for signs, levels in zip(tf.split(message[0], sizes), tf.split(message[1], _widths(spec), 1), strict=True):
            rows = tf.reshape(signs, [-1, int(levels.shape[1])])
            found.append(tf.reshape(tf.where(rows, levels[1], levels[0]), [-1]))
        return tf.concat(found, 0)

    def bits(self, message: Message, spec: Spec) -> int:
        """One a coordinate, and two levels a column."""
        return spec.size + 2 * sum(_widths(spec)) * float_bits(spec)

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Signs, then levels."""
        return np.concatenate([message[0].astype(np.uint8), bits.of_floats(message[1].reshape(-1))])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        levels = bits.to_floats(bits_[spec.size :], np.dtype(spec.dtype))
        return bits_[: spec.size].astype(bool), levels.reshape(2, -1)


def _column_sums(values: Flat, spec: Spec) -> Tensor:
    """Sums of the columns, in their order, `[columns]`."""
    parts = zip(tf.split(values, list(spec.sizes)), _widths(spec), strict=True)
    sums = [tf.reduce_sum(tf.reshape(part, [-1, width]), 0) for part, width in parts]
    return tf.concat(sums, 0)


def _widths(spec: Spec) -> list[int]:
    """How many columns each tensor has: its outputs, or one."""
    return [shape[-1] if len(shape) > 1 else 1 for shape in spec.shapes]
