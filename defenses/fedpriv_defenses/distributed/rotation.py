"""Rotation: a random orthonormal map that spreads a vector evenly over its coordinates.

y = H S x, with random signs S from a public seed and the discrete Hartley transform H, the real form of the Fourier
transform (Bracewell, 1983): H_jk = (cos(2 pi j k / d) + sin(2 pi j k / d)) / sqrt(d). It exists for every d, so that
nothing is padded, and is its own inverse. Each coordinate of y is a sum of independent terms of mean 0 that are at
most sqrt(2 / d) |x_j|, hence sub-Gaussian with variance at most 2 |x|^2 / d, and on average |x|^2 / d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor


@dataclass(frozen=True)
class Rotation:
    """The map of vectors of one size under one public seed.

    Attributes:
      size: d.
      seed: of the signs; everybody may know it.
    """

    size: int
    seed: int = 0

    def rotate(self, x: Tensor) -> Tensor:
        """Float64 `[d]` to float64 `[d]`, of the same norm (traceable)."""
        return hartley(x * self._signs(), self.size)

    def unrotate(self, y: Tensor) -> Tensor:
        """Undoes `rotate`."""
        return hartley(y, self.size) * self._signs()

    def _signs(self) -> Tensor:
        drawn = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.size])))
        return tf.cast(tf.constant(drawn.integers(0, 2, self.size, np.int8) * 2 - 1, tf.int8), tf.float64)


def hartley(x: Tensor, size: int) -> Tensor:
    """The orthonormal discrete Hartley transform of float64 `[size]` (traceable)."""
    found = tf.signal.rfft(x)
    real, imaginary = tf.math.real(found), tf.math.imag(found)
    # The transform at d - k is the complex conjugate of that at k.
    mirrored = tf.reverse((real + imaginary)[1 : (size + 1) // 2], [0])
    return tf.concat([real - imaginary, mirrored], 0) / np.sqrt(float(size))
