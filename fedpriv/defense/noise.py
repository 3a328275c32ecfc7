"""Noise: what a defense declares of the random values it adds, so that an attack can use it without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
