"""Objectives: how far a simulated update is from the observed one.

An objective takes both flat updates `[d]`, already divided by the observed update's Euclidean norm, so that its
value does not depend on the client's learning rate or the number of local steps, and float32 neither overflows
nor underflows. It returns a scalar, lower is better, differentiable in the first argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedpriv._lazy import tf

Objective = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class SquaredError:
    """Squared Euclidean distance, relative to the observed update's squared norm: 0 at the truth, 1 at no update.

    The objective of DLG (Zhu, Liu, Han 2019, arXiv 1906.08935).
    """

    def __call__(self, simulated: Any, observed: Any) -> Any:
        """The scalar distance of two updates `[d]`."""
        return tf.reduce_sum(tf.math.squared_difference(simulated, observed))
