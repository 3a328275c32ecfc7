"""Coordinates: the variables an optimizer sees in place of pixels.

A change of variables leaves an attack's objective and its minima as they are and changes only how fast a
gradient method gets there: it is a preconditioner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedpriv._lazy import tf
from fedpriv.errors import ParameterError


class Coordinates(Protocol):
    """A differentiable bijection between examples `[n, ...]` and variables of the same shape."""

    def encode(self, x: Any) -> Any:
        """Examples to variables."""

    def decode(self, v: Any) -> Any:
        """Variables to examples."""


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves."""

    def encode(self, x: Any) -> Any:
        """Examples to variables."""
        return x

    def decode(self, v: Any) -> Any:
        """Variables to examples."""
        return v


@dataclass(frozen=True)
class Smooth:
    """Cosine-transform coefficients of an image, low frequencies magnified as natural images have them.

    Along each axis, frequency k (half periods over the axis) is scaled by 1 / sqrt(1 + (k / cutoff)^2), about the
    amplitude spectrum of photographs. One unit of a variable is then equally likely to be needed in any
    direction, and a quasi-Newton method spends its first steps on what matters. Examples that are not images
    `[n, height, width, channels]` stay as they are.

    Attributes:
      cutoff: frequency from which the scale falls; larger is nearer to plain pixels.
    """

    cutoff: float = 8.0

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise ParameterError(f"smooth coordinates' cutoff is {self.cutoff}; it must be positive")

    def encode(self, x: Any) -> Any:
        """Examples to variables."""
        return self._apply(x, inverse=True)

    def decode(self, v: Any) -> Any:
        """Variables to examples."""
        return self._apply(v, inverse=False)

    def _apply(self, images: Any, inverse: bool) -> Any:
        if len(images.shape) != 4:
            return images
        rows = tf.constant(self._matrix(images.shape[1], inverse), images.dtype)
        columns = tf.constant(self._matrix(images.shape[2], inverse), images.dtype)
        return tf.einsum("ik,nklc,jl->nijc", rows, images, columns)

    def _matrix(self, size: int, inverse: bool) -> np.ndarray:
        k = np.arange(size)
        dct = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / size) * np.sqrt(2 / size)
        dct[0] /= np.sqrt(2)
        scale = 1 / np.sqrt(1 + (k / self.cutoff) ** 2)
        return dct / scale[:, None] if inverse else dct.T * scale
