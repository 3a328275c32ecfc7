"""Paired: the difference of two columns of numbers that belong together, with its interval and its test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.base.types import Row
from fedpriv.metrics.interval import cluster_bootstrap


@dataclass(frozen=True)
class Paired:
    """One quantity of two settings on the same images (or seeds).

    Attributes:
      quantity: its name.
      pairs: how many.
      first, second: means.
      difference: second minus first.
      interval: bootstrap 95% interval of the difference, drawing trials and seeds; None where there is one of each,
        or where all pairs differ alike, which leaves nothing to draw from.
      p_value: two-sided, of a sign-flip permutation test of the mean difference (Fisher, 1935) that flips whole trials;
        None with fewer than six of them, where it cannot be small.
      batches: how many trials, or seeds where there are more of them: what the interval draws. One gives none.
    """

    quantity: str
    pairs: int
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    batches: int

    def row(self, **labels: Any) -> Row:
        """One flat row of the numbers themselves."""
        return {**labels, **{k: v for k, v in vars(self).items() if k != "batches"}}


def paired(
    quantity: str,
    first: Sequence[float],
    second: Sequence[float],
    batches: Sequence[Any],
    runs: Sequence[Any],
    flipped: Sequence[Any] | None = None,
) -> Paired:
    """The difference of two columns of numbers that belong together.

    Args:
      quantity: its name.
      first, second: `[n]` each.
      batches: `[n]`, which trial each pair belongs to.
      runs: `[n]`, which seed.
      flipped: `[n]`, which pairs change signs together in the test; None is the trials of each seed.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    apart = b - a
    p_value = _sign_flip(apart, [*zip(runs, batches, strict=True)] if flipped is None else flipped)
    interval = cluster_bootstrap(apart, batches, runs, "mean") if np.ptp(apart) > 0 else None
    means = float(a.mean()), float(b.mean()), float(apart.mean())
    return Paired(quantity, len(a), *means, interval, p_value, max(len(set(batches)), len(set(runs))))


def _sign_flip(apart: np.ndarray, clusters: Sequence[Any]) -> float | None:
    """Exact for up to 12 clusters, else by 9,999 random flips, the observed one counted."""
    number = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    if len(number) < 6:
        return None
    sums = np.bincount([number[c] for c in clusters], apart, len(number))
    if len(sums) <= 12:
        signs = 1 - 2 * ((np.arange(1 << len(sums))[:, None] >> np.arange(len(sums))) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (9999, len(sums)))
        signs = np.concatenate([np.ones((1, len(sums)), int), signs])
    # Rounding must not make an equal sum a smaller one.
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    return float(extreme.mean())
