"""Rotation: a random orthonormal map that spreads a vector evenly over its coordinates.

The randomized Walsh-Hadamard transform that the papers use, H S x with random signs S from a public seed, exists where
the size is a power of two; they fill vectors up with zeros. Here nothing is filled up: with m the largest power of two
that is not above d, the first m coordinates are transformed, and then, under other signs, the last m. As a product of
orthonormal maps this is one. Every coordinate of the outcome is a sum of independent terms of mean 0, sub-Gaussian with
variance at most |x|^2 / m, which is below 2 |x|^2 / d, and on average |x|^2 / d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor

#: log2 of the largest matrix that a transform is put together of.
_RADIX = 4


@dataclass(frozen=True)
class Rotation:
    """The map of vectors of one size under one public seed.

    Attributes:
      size: d.
      seed: of the signs; everybody may know it.
    """

    size: int
    seed: int = 0

    @property
    def block(self) -> int:
        """m, of whose size the transforms are."""
        return 1 << (self.size.bit_length() - 1)

    def rotate(self, x: Tensor) -> Tensor:
        """Float64 `[d]` to float64 `[d]`, of the same norm (traceable)."""
        m, (first, last) = self.block, self._signs()
        x = tf.concat([hadamard(x[:m] * first, m), x[m:]], 0)
        return x if m == self.size else tf.concat([x[:-m], hadamard(x[-m:] * last, m)], 0)

    def unrotate(self, y: Tensor) -> Tensor:
        """Undoes `rotate`."""
        m, (first, last) = self.block, self._signs()
        if m < self.size:
            y = tf.concat([y[:-m], hadamard(y[-m:], m) * last], 0)
        return tf.concat([hadamard(y[:m], m) * first, y[m:]], 0)

    def _signs(self) -> tuple[Tensor, Tensor]:
        drawn = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.size])))
        both = tf.constant(drawn.integers(0, 2, (2, self.block), np.int8) * 2 - 1, tf.int8)
        return tf.cast(both[0], tf.float64), tf.cast(both[1], tf.float64)


def hadamard(x: Tensor, size: int) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of float64 `[size]`, a power of two (traceable); its own inverse.

    As a Kronecker product of small ones: each pass transforms the last few bits of the index and moves them to the
    front, until all have been there.
    """
    left = bits = size.bit_length() - 1
    while left:
        some = min(_RADIX, left)
        matrix = tf.constant(scipy.linalg.hadamard(1 << some), tf.float64)
        x = tf.reshape(tf.transpose(tf.matmul(tf.reshape(x, [-1, 1 << some]), matrix)), [-1])
        left -= some
    return x * 2.0 ** (-bits / 2)
