"""Sampler: integers from a given distribution by inversion of its distribution function, in integer arithmetic.

The distribution function is computed in whole numbers with hundreds of bits and kept to 126. A draw compares 63 random
bits with the first halves of these numbers, and in the rare case that they are equal, 63 more with the second halves.
No floating-point number takes part, so that no draw has the artefacts of one (Mironov, 2012). What is drawn is within
2^-TV_BITS of the distribution in total variation: the values beyond the table, and what rounding to 126 bits moves,
together have a smaller probability.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from typing import Literal

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Scalar, Tensor

Mechanism = Literal["discrete_gaussian", "skellam"]
#: (count, stream) to uniformly random int64 `[count]`; such as `Context.words`.
Words = Callable[[int, int], Tensor]

#: Largest standard deviation that tables are made for: 230,000 integers, 3.7 MB.
LARGEST_DEVIATION = 8192.0
#: A draw's distance in total variation from the distribution it stands for is at most 2^-this.
TV_BITS = 100

_HALF = 63
_BITS = 2 * _HALF
#: Bits of the whole numbers that weights are computed in, and the share of 2^_WORKING below which a weight is left out.
_WORKING, _NEGLIGIBLE = 320, 140


@dataclass(frozen=True, eq=False)
class Table:
    """A distribution function on the integers from `first` on.

    Attributes:
      first: the smallest value.
      high: int64 `[k - 1]`, not decreasing: the first 63 bits of the probability of values up to the i-th.
      low: int64 `[k - 1]`: their last 63 bits.
    """

    first: int
    high: np.ndarray = field(repr=False)
    low: np.ndarray = field(repr=False)

    @property
    def largest(self) -> int:
        """The largest absolute value that is ever drawn."""
        return max(-self.first, self.first + len(self.high))

    @classmethod
    def of(cls, first: int, weights: Sequence[int]) -> Table:
        """The table of the values from `first` on, with probabilities proportional to whole numbers."""
        total = sum(weights)
        ends = [(below << _BITS) // total for below in itertools.accumulate(weights[:-1])]
        mask = (1 << _HALF) - 1
        high, low = [e >> _HALF for e in ends], [e & mask for e in ends]
        return cls(first, np.array(high, np.int64), np.array(low, np.int64))

    def draw(self, count: int, words: Words, stream: int = 0) -> Tensor:
        """Int64 `[count]`, independent draws (traceable).

        Args:
          count: how many; static.
          words: where randomness comes from.
          stream: draws take words of this stream and of the next.
        """
        positive = tf.constant(np.iinfo(np.int64).max, tf.int64)
        first = tf.bitwise.bitwise_and(words(count, stream), positive)
        return self.inverted(first, lambda: tf.bitwise.bitwise_and(words(count, stream + 1), positive))

    def inverted(self, first: Tensor, second: Callable[[], Tensor]) -> Tensor:
        """The values at 126-bit numbers: `first`, int64 `[n]`, their first 63 bits, and `second()` the last ones."""
        high, low = tf.constant(self.high), tf.constant(self.low)
        if not len(self.high):
            return tf.fill(tf.shape(first), tf.constant(self.first, tf.int64))
        above = tf.searchsorted(high, first, side="right")
        reached = tf.gather(high, tf.maximum(above - 1, 0))
        tied = tf.where((above > 0) & tf.equal(reached, first))[:, 0]

        def settled() -> Tensor:
            """Of the entries with these first bits, those whose last bits are reached, by bisection."""
            numbers, rest = tf.gather(first, tied), tf.gather(second(), tied)
            begin, end = tf.searchsorted(high, numbers, side="left"), tf.gather(above, tied)

            def halve(begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
                middle = (begin + end) // 2
                below = tf.gather(low, tf.minimum(middle, len(self.low) - 1)) <= rest
                open_ = begin < end
                return tf.where(open_ & below, middle + 1, begin), tf.where(open_ & ~below, middle, end)

            found, _ = tf.while_loop(lambda b, e: tf.reduce_any(b < e), halve, (begin, end))
            return tf.tensor_scatter_nd_update(above, tied[:, None], found)

        index = tf.cond(tf.size(tied) > 0, settled, lambda: above)
        return tf.cast(index, tf.int64) + self.first


@functools.lru_cache(maxsize=8)
def table(mechanism: Mechanism, variance: Fraction) -> Table:
    """The distribution with this parameter; see `half` for its two kinds."""
    side = half(mechanism, variance)
    return Table.of(1 - len(side), [*side[:0:-1], *side])


def half(mechanism: Mechanism, variance: Fraction) -> list[int]:
    """Whole numbers proportional to the probabilities of 0, 1, 2, ... of a distribution that is symmetric about 0.

    - `discrete_gaussian`: probabilities proportional to exp(-k^2 / (2 variance)), of a variance that is at most that
      (Canonne, Kamath, Steinke, 2020, arXiv 2004.00010).
    - `skellam`: the difference of two Poisson values of mean variance / 2: exp(-variance) I_k(variance), I being the
      modified Bessel function (Agarwal, Kairouz, Liu, 2021, arXiv 2110.04995).
    """
    weights = _gaussian_weights(variance) if mechanism == "discrete_gaussian" else _skellam_weights(variance)
    least = weights[0] >> _NEGLIGIBLE
    return list(itertools.takewhile(lambda w: w > least, weights))


def _gaussian_weights(variance: Fraction) -> list[int]:
    one = 1 << _WORKING
    shrinking, step = _exp_minus(1 / (2 * variance)), _exp_minus(1 / variance)
    weights = [one]
    while weights[-1] > one >> (_NEGLIGIBLE + 2):
        weights.append(weights[-1] * shrinking >> _WORKING)
        shrinking = shrinking * step >> _WORKING
    return weights


def _skellam_weights(variance: Fraction) -> list[int]:
    """By Miller's algorithm: I_{k-1} = I_{k+1} + (2 k / variance) I_k, from an order where I_k is negligible down."""
    v, last = float(variance), 8
    while last * math.asinh(last / v) - math.hypot(last, v) + v < 0.7 * (_NEGLIGIBLE + 60):
        last += 1 + last // 64
    weights = [0, 1 << _WORKING]
    for k in range(last, 0, -1):
        weights.append(weights[-2] + 2 * k * variance.denominator * weights[-1] // variance.numerator)
    return weights[:0:-1]


def _exp_minus(x: Fraction) -> int:
    """exp(-x) in units of 2^-_WORKING."""
    exact = Context(prec=130)
    power = exact.exp(exact.divide(Decimal(-x.numerator), Decimal(x.denominator)))
    return int(exact.multiply(power, Decimal(1 << _WORKING)))


def variance_above(value: float) -> Fraction:
    """The least multiple of 2^-16 that is not below `value`."""
    return Fraction(max(1, math.ceil(value * (1 << 16))), 1 << 16)


def reach(mechanism: Mechanism, variance: Scalar | float) -> int:
    """A bound on the largest absolute value that a table of at most this variance draws."""
    v, k = float(variance), 8
    if mechanism == "discrete_gaussian":
        return 8 + math.ceil(math.sqrt(2 * 0.6932 * (_NEGLIGIBLE + 2) * v))
    # P(k) / P(0) is at least exp(-(k asinh(k / v) - hypot(k, v) + v)) / (1 + k).
    while k * math.asinh(k / v) - math.hypot(k, v) + v < 0.6932 * _NEGLIGIBLE + math.log1p(k):
        k += 1 + k // 64
    return k + 8
