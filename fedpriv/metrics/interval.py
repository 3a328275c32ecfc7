"""Confidence intervals: how far a rate, or a mean, measured on few images can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpriv.errors import ParameterError


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson, 1927, doi 10.1080/01621459.1927.10502953).

    Unlike the textbook interval it stays inside [0, 1] and is not empty at 0 or all successes.

    Args:
      successes: how many succeeded.
      trials: how many were tried, independently.
      confidence: between 0 and 1.

    Returns:
      (low, high); (0, 1) without trials.

    Raises:
      ParameterError: successes outside 0..trials, or an impossible confidence.
    """
    from scipy.special import ndtri

    if not 0 <= successes <= trials:
        raise ParameterError(f"{successes} successes of {trials} trials is impossible")
    _check(confidence)
    if trials == 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    rate = successes / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return low, high


def bootstrap_mean(
    groups: Sequence[Any], confidence: float = 0.95, seed: int = 0, resamples: int = 9999
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a mean (Efron, 1979, doi 10.1214/aos/1176344552).

    Whole groups are drawn, not single values: images attacked in one batch share that batch's luck, and drawing
    them one by one would make the interval too narrow. With one value a group it is the usual bootstrap.

    Args:
      groups: one array of finite values for each independent trial (batch).
      confidence: between 0 and 1.
      seed: seed of the resampling; the same seed gives the same interval.
      resamples: number of resamples.

    Returns:
      (low, high), or None for fewer than two groups, which say nothing about how trials vary.

    Raises:
      ParameterError: values that are not finite, or an impossible confidence.
    """
    from scipy.stats import bootstrap

    _check(confidence)
    arrays = [np.asarray(g, np.float64).ravel() for g in groups]
    arrays = [a for a in arrays if a.size]
    if len(arrays) < 2:
        return None
    sums, counts = np.array([a.sum() for a in arrays]), np.array([float(a.size) for a in arrays])
    if not np.isfinite(sums).all():
        raise ParameterError("a bootstrap interval needs finite values; cap or drop infinities and not-a-number first")
    result = bootstrap(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(arrays)),
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence={confidence} must lie between 0 and 1, such as 0.95")
