"""Confidence intervals: how far a rate, or a mean, measured on few images can be trusted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Literal

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike


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
    if not 0 <= successes <= trials:
        raise ParameterError(f"{successes} successes of {trials} trials is impossible")
    _check(confidence)
    if trials == 0:
        return 0.0, 1.0
    return _score_interval(successes / trials, float(trials), confidence)


def clustered_wilson(
    successes: Sequence[bool] | np.ndarray,
    batches: Sequence[Hashable],
    runs: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    quality: Sequence[float] | np.ndarray | None = None,
) -> tuple[float, float]:
    """Wilson's interval of a success rate among images that share the luck of their batch and of their run.

    The number of trials is replaced by the effective one (Korn and Graubard, 1998, Survey Methodology 24, 193):
    n over the design effect, the variance of the rate under `cluster_bootstrap` over that of independent images,
    where it is larger. Where all or none succeed the rate has no variance to measure. Then the design effect is that of
    `quality`, the number whose passing a threshold is success: images of a batch or a run are more alike in it than
    in whether it passes, so the interval is rather too wide than too narrow. Without it, or where it does not vary
    either, the effective number is that of the batches, or of the runs if there are fewer (but two at least). One
    batch in one run shows nothing of how batches vary; its images are then taken as independent, and the truth is
    wider.

    Args:
      successes: bool `[n]`.
      batches: `[n]`, which batch of images each belongs to.
      runs: `[n]`, which run (seed) each belongs to; None for a single one.
      confidence: between 0 and 1.
      seed: seed of the resampling.
      quality: `[n]`, finite, such as PSNR in dB.

    Returns:
      (low, high).

    Raises:
      ParameterError: lengths that differ, or an impossible confidence.
    """
    values = np.asarray(successes, np.float64)
    n, count = len(values), int(values.sum())
    batch, run = _levels(batches, n, "batches"), _levels(runs, n, "runs")
    sizes = [len(np.unique(f)) for f in (batch, run)]
    if max(sizes) < 2 or (sizes[1] == 1 and sizes[0] == n):
        return wilson(count, n, confidence)
    if quality is not None and len(quality) != n:
        raise ParameterError(f"{len(quality)} qualities given for {n} values; give one each")
    measured = values
    if count in (0, n) and quality is not None:
        measured = np.asarray(quality, np.float64)
    fewest = float(min(s for s in sizes if s > 1))
    effective = fewest if count in (0, n) else float(n)
    if np.ptp(measured) > 0:
        variance = float(_resampled_means(measured, batch, run, seed, 9999).var())
        if sizes[1] == 1:
            variance *= sizes[0] / (sizes[0] - 1)  # the bootstrap's own bias with few batches
        effective = min(float(n), float(measured.var()) / variance) if variance > 0 else float(n)
    if count in (0, n):
        effective = max(effective, fewest)
    return _score_interval(count / n, effective, confidence)


def cluster_bootstrap(
    values: Sequence[float] | np.ndarray,
    batches: Sequence[Hashable],
    runs: Sequence[Hashable] | None = None,
    statistic: Literal["mean", "median"] = "mean",
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 9999,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval over batches of images and, where there are several, over runs.

    Whole batches are drawn, not single values: images attacked in one batch share that batch's luck, and drawing
    them one by one would make the interval too narrow. Likewise all images attacked under one seed share the weights
    and starts that it drew. Batches and runs are drawn independently, and a value counts as often as its batch
    times its run: the pigeonhole bootstrap (Owen 2007, doi 10.1214/07-AOAS122), right or a little wide for runs
    that attack the same batches. With one value a batch and one run it is the usual bootstrap (Efron 1979,
    doi 10.1214/aos/1176344552).

    Args:
      values: `[n]`, finite for the mean; infinities are allowed for the median.
      batches: `[n]`, which batch each value belongs to; runs that attacked the same images name it alike.
      runs: `[n]`, which run each belongs to; None for a single one.
      statistic: what the interval is of.
      confidence: between 0 and 1.
      seed: seed of the resampling; the same seed gives the same interval.
      resamples: number of resamples.

    Returns:
      (low, high), or None for a single batch in a single run, which says nothing about how they vary.

    Raises:
      ParameterError: values that are not finite, lengths that differ, or an impossible confidence.
    """
    _check(confidence)
    array = np.asarray(values, np.float64)
    batch, run = _levels(batches, len(array), "batches"), _levels(runs, len(array), "runs")
    if max(batch.max(initial=0), run.max(initial=0)) < 1:
        return None
    if np.isnan(array).any() or (statistic == "mean" and not np.isfinite(array).all()):
        raise ParameterError("a bootstrap interval needs finite values; cap or drop infinities and not-a-number first")
    resampled = _resampled_means if statistic == "mean" else _resampled_medians
    drawn = np.sort(resampled(array, batch, run, seed, resamples))
    tail = (1 - confidence) / 2
    if not np.isfinite(drawn).all():  # interpolating between infinities gives not-a-number
        low, high = drawn[round(tail * (len(drawn) - 1))], drawn[round((1 - tail) * (len(drawn) - 1))]
    else:
        low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def effective_wilson(
    value: float, variance: float, most: int, whole: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's interval of a share whose variance was measured by resampling.

    The effective number of trials is that of independent ones with this variance (Korn and Graubard, 1998).

    Args:
      value: in [0, 1].
      variance: of it.
      most: no more trials than this.
      whole: trials where the value is 0 or 1, so that resampling shows no variance.
      confidence: between 0 and 1.
    """
    _check(confidence)
    if variance > 0 and 0 < value < 1:
        trials = min(float(most), value * (1 - value) / variance)
    else:
        trials = float(whole)
    return _score_interval(value, max(trials, 1.0), confidence)


def resampled_weights(
    strata: np.ndarray,
    batches: Sequence[Hashable],
    runs: Sequence[Hashable],
    resamples: int,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """How often each value counts in each resample: runs, trials and values within strata are drawn independently.

    The pigeonhole bootstrap (Owen, 2007) with the values themselves as one more factor, so that one trial in one run
    has an interval as well: that of its values, at its own luck. A factor with a single level is not drawn. Where
    every trial holds one value, the values are the trials and are drawn once.

    Args:
      strata: `[n]`, values are drawn within equal ones.
      batches, runs: `[n]`, which trial and run each belongs to.
      resamples: how many.
      seed: of the resampling.

    Yields:
      Weights `[r, n]`, some resamples at a time.
    """
    n = len(strata)
    batch, run = _levels(batches, n, "batches"), _levels(runs, n, "runs")
    rng = np.random.default_rng(seed)
    single = len({*zip(run.tolist(), batch.tolist())}) == n
    levels = [run] if single else [run, batch]
    members = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    chunk = max(1, 2_000_000 // max(n, 1))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = np.zeros((size, n))
        for mine in members:
            weights[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=size)
        for level in levels:
            count = int(level.max(initial=0)) + 1
            if count > 1:
                weights *= rng.multinomial(count, np.full(count, 1 / count), size=size)[:, level]
        yield weights


def bootstrap_mean(
    groups: Sequence[ArrayLike], confidence: float = 0.95, seed: int = 0, resamples: int = 9999
) -> tuple[float, float] | None:
    """`cluster_bootstrap` of a mean in a single run.

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
    arrays = [np.asarray(g, np.float64).ravel() for g in groups]
    batches = [i for i, a in enumerate(arrays) for _ in a]
    values = np.concatenate([*arrays, np.zeros(0)])
    return cluster_bootstrap(values, batches, confidence=confidence, seed=seed, resamples=resamples)


def _levels(names: Sequence[Hashable] | None, n: int, what: str) -> np.ndarray:
    """Names as indices 0, 1, ... in the order they appear."""
    if names is None:
        return np.zeros(n, np.int64)
    if len(names) != n:
        raise ParameterError(f"{len(names)} {what} given for {n} values; give one each")
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(name, len(index)) for name in names], np.int64).reshape(n)


def _weights(batch: np.ndarray, run: np.ndarray, seed: int, resamples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each batch `[r, batches]` and each run `[r, runs]` was drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    counts = [int(f.max(initial=0)) + 1 for f in (batch, run)]
    chunk = max(1, 1_000_000 // max(len(batch), *counts))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = [rng.multinomial(c, np.full(c, 1 / c), size=size).astype(np.float64) for c in counts]
        yield drawn[0], drawn[1]


def _resampled_means(values: np.ndarray, batch: np.ndarray, run: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    shape = (int(run.max()) + 1, int(batch.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (run, batch), values)
    np.add.at(counts, (run, batch), 1.0)
    means = []
    for of_batch, of_run in _weights(batch, run, seed, resamples):
        total, number = (((of_run @ table) * of_batch).sum(1) for table in (sums, counts))
        means.append(total[number > 0] / number[number > 0])  # a sparse table may lose all its values
    return np.concatenate(means)


def _resampled_medians(values: np.ndarray, batch: np.ndarray, run: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    ordered, medians = values[order], []
    for of_batch, of_run in _weights(batch[order], run[order], seed, resamples):
        weight = np.cumsum(of_batch[:, batch[order]] * of_run[:, run[order]], axis=1)
        weight = weight[weight[:, -1] > 0]
        half = weight[:, -1:] / 2
        low, high = (weight >= half).argmax(1), (weight > half).argmax(1)
        medians.append((ordered[low] + ordered[high]) / 2)
    return np.concatenate(medians)


def _score_interval(rate: float, trials: float, confidence: float) -> tuple[float, float]:
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return (0.0 if rate == 0 else max(0.0, middle - half)), (1.0 if rate == 1 else min(1.0, middle + half))


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence={confidence} must lie between 0 and 1, such as 0.95")
