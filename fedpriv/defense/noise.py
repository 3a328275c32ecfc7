"""Noise: what a defense declares of the random values it adds, so that an attack can use it without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fedpriv.base.errors import ParameterError


@dataclass(frozen=True)
class Noise:
    """Independent noise on each coordinate.

    Attributes:
      distribution: such as `gaussian`, `laplace`, `discrete_gaussian` or `skellam`.
      scale: standard deviation of one coordinate, in update units; None where the data decide it.
      where: the station it is added at: `gradient`, `update`, `encode`, or `aggregate` for noise on the sum.
    """

    distribution: str
    scale: float | None
    where: Literal["gradient", "update", "encode", "aggregate"]


def leaves_noise_open(defense: Any) -> bool:
    """Whether a defense leaves its `noise_multiplier` to a budget, by None."""
    return "noise_multiplier" in getattr(type(defense), "model_fields", {}) and defense.noise_multiplier is None


def given_multiplier(defense: Any) -> float:
    """The noise multiplier of a defense that may leave it to a budget.

    Raises:
      ParameterError: it is open still.
    """
    if defense.noise_multiplier is None:
        name = defense.name or type(defense).__name__
        raise ParameterError(
            f"{name} says not how much noise it adds; give noise_multiplier, or a budget that it is set by, such as "
            "--budget 'epsilon=2, delta=1e-6'"
        )
    return float(defense.noise_multiplier)
