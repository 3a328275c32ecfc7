"""Crossing: after how many rounds a learning curve reaches an accuracy, counted as the paper counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_so_far(accuracy: Sequence[float]) -> np.ndarray:
    """The curve made monotonic: each round's best accuracy up to then, `[rounds]`."""
    return np.maximum.accumulate(np.asarray(accuracy, np.float64))


def crossing(accuracy: Sequence[float], target: float) -> float | None:
    """Rounds until the monotonic curve crosses `target`, linearly interpolated between rounds, or None.

    McMahan et al. 2017 (arXiv 1602.05629, section 3) take the best test accuracy over all prior rounds and
    interpolate between the points of that curve. Round r's accuracy (r from 1) is that after r rounds; a curve that
    starts at or above the target crosses it at 1.

    Args:
      accuracy: one value a round, in [0, 1].
      target: in [0, 1].
    """
    curve = best_so_far(accuracy)
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return None
    first = int(reached[0])
    if first == 0:
        return 1.0
    below, above = curve[first - 1], curve[first]
    return first + float((target - below) / (above - below))
