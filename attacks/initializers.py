"""Initializers: where the dummy examples start. Functions of a stateless seed, hashable by value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedpriv._lazy import tf

#: `(shape, seed int32 [2], dtype) -> tensor`, traceable.
Initializer = Callable[[Sequence[int], Any, Any], Any]


@dataclass(frozen=True)
class Normal:
    """Independent normal pixels.

    Attributes:
      mean: their mean; 0.5 is mid-grey.
      spread: their standard deviation. The DLG paper starts from mean 0, spread 1. A small spread around grey
        ends nearer to natural images: what the update hardly determines stays as it started.
    """

    mean: float = 0.5
    spread: float = 0.02

    def __call__(self, shape: Sequence[int], seed: Any, dtype: Any) -> Any:
        """A start of that shape."""
        return tf.random.stateless_normal(shape, seed, self.mean, self.spread, dtype)


@dataclass(frozen=True)
class Uniform:
    """Independent uniform pixels in [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, shape: Sequence[int], seed: Any, dtype: Any) -> Any:
        """A start of that shape."""
        return tf.random.stateless_uniform(shape, seed, self.low, self.high, dtype)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere; restarts then differ in the dummy labels only."""

    value: float = 0.5

    def __call__(self, shape: Sequence[int], seed: Any, dtype: Any) -> Any:
        """A start of that shape."""
        return tf.fill(shape, tf.constant(self.value, dtype))
