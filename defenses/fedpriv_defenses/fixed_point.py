"""FixedPoint: float vectors as integers modulo 2^b, with room for the sum of a cohort."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedpriv.base.lazy import tf


@dataclass(frozen=True)
class FixedPoint:
    """Encodes a contribution `[d + 1]`: d values and, last, the client's weight, each with its own resolution.

    A value x with |x| <= limit becomes round(x / step), ties to even, in two's complement modulo 2^bits. The
    quantization error is at most step / 2 a coordinate and client, so at most clients * step / 2 in a decoded sum.
    Sums of encoded vectors wrap; decoding is right as long as the true sum of integers lies in
    [-2^(bits-1), 2^(bits-1)), which the maker of this object sees to.

    Attributes:
      bits: b, from 8 to 64.
      limit: largest absolute value that fits.
      step: resolution of the values.
      weight_step: resolution of the weight, which lies in [0, 1].
    """

    bits: int
    limit: float
    step: float
    weight_step: float

    @property
    def mask(self) -> int:
        """2^b - 1."""
        return (1 << self.bits) - 1

    def encode(self, contribution: Any) -> tuple[Any, Any]:
        """Float `[d + 1]` to (int64 `[d + 1]`: bit patterns in [0, 2^b), scalar bool: whether all of it fits).

        Where something does not fit, or is not finite, its element is 0 and the bool is False.
        """
        exact = tf.cast(contribution, tf.float64)  # scaling by a power of two is then free of rounding
        values, weight = exact[:-1], exact[-1:]
        fits = tf.concat([tf.abs(values) <= self.limit, (weight >= 0) & (weight <= 1)], 0)
        scaled = tf.concat([values / self.step, weight / self.weight_step], 0)
        integers = tf.cast(tf.round(tf.where(fits, scaled, tf.zeros_like(scaled))), tf.int64)
        if self.bits < 64:
            integers = tf.bitwise.bitwise_and(integers, tf.constant(self.mask, tf.int64))
        return integers, tf.reduce_all(fits)

    def decode(self, total: Any) -> Any:
        """A sum of encoded vectors, int64 `[d + 1]`, to float64 `[d + 1]`.

        Exact while the integers stay below 2^53, beyond that rounded to float64.
        """
        unused = tf.constant(64 - self.bits, tf.int64)
        signed = tf.bitwise.right_shift(tf.bitwise.left_shift(total, unused), unused)  # arithmetic: copies the sign
        floats = tf.cast(signed, tf.float64)
        return tf.concat([floats[:-1] * self.step, floats[-1:] * self.weight_step], 0)


def finest_power_of_two(limit: float, largest: int) -> float:
    """The smallest power of two s with limit / s <= largest."""
    exponent = math.frexp(limit)[1] - largest.bit_length() - 1
    while Fraction(limit) > largest * Fraction(2) ** exponent:
        exponent += 1
    return math.ldexp(1.0, exponent)
