"""Banded: noise correlated over the last few rounds, by a Toeplitz matrix that is optimized for a run's length.

A matrix factorization A = B C of the prefix sums A releases A x + B z, that is x + C^-1 z in each round. Where C has no
more bands than rounds lie between a client's participations, no two of these meet in a row of C, and the sensitivity is
that of a single one times the root of their number (Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu 2023,
arXiv 2306.08153). With a Toeplitz C, scaled to columns of norm 1, the noise takes the last bands - 1 noises alone, and
the optimization as many parameters (McKenna 2024, "Scaling up the Banded Matrix Factorization Mechanism for
Differentially Private ML", arXiv 2405.15913).
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from scipy import optimize, signal

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Tensor

ErrorKind = Literal["mean", "max"]


def prefix_deviations(coefficients: np.ndarray, rounds: int) -> np.ndarray:
    """Standard deviation of the noise on each prefix sum, `[rounds]`, for z of deviation 1.

    The rows of A C^-1 are ever longer parts of one series, the prefix sums of 1 / c.
    """
    return np.sqrt(np.cumsum(signal.lfilter([1.0], coefficients, np.ones(rounds)) ** 2))


@functools.lru_cache(maxsize=64)
def banded_coefficients(rounds: int, bands: int, error: ErrorKind = "mean") -> tuple[float, ...]:
    """The first column of C, `[bands]`, of norm 1, that leaves least noise on the prefix sums of `rounds` rounds.

    Args:
      rounds: of the run.
      bands: of C, at most `rounds`.
      error: `mean` minimizes the mean over the rounds of the squared deviation, `max` the last and largest one.
    """
    share = np.arange(rounds, 0, -1.0) / rounds if error == "mean" else np.ones(rounds)

    def loss(tail: np.ndarray) -> tuple[float, np.ndarray]:
        c = np.concatenate([[1.0], tail])
        series = signal.lfilter([1.0], c, np.ones(rounds))
        turned = signal.lfilter([1.0], c, series)
        weighted = share * series
        squared, length = float(weighted @ series), float(c @ c)
        slopes = np.array([-2 * (weighted[j:] @ turned[: rounds - j]) for j in range(1, bands)])
        return np.log(squared) + np.log(length), slopes / squared + 2 * tail / length

    # Where bands are not limited the best are near those of 1 / sqrt(1 - x) (Fichtenberger, Henzinger, Upadhyay 2023).
    start = np.cumprod([(2 * j - 1) / (2 * j) for j in range(1, bands)])
    found = start
    if bands > 1:
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * (bands - 1)).x
    c = np.concatenate([[1.0], found])
    return tuple(float(v) for v in c / np.linalg.norm(c))


def unmixed(fresh: Flat, last: Tensor, coefficients: tuple[float, ...]) -> tuple[Flat, Tensor]:
    """One round of C^-1 z: (this round's noise `[d]`, the last bands - 1 with it, the newest first).

    Args:
      fresh: z of this round, `[d]`.
      last: `[bands - 1, d]`, what came out in the rounds before; zeros before the first.
      coefficients: C's first column, `[bands]`.
    """
    first, *rest = coefficients
    noise = fresh / first
    if rest:
        noise -= tf.linalg.matvec(last, tf.constant(rest, last.dtype) / first, transpose_a=True)
        last = tf.concat([noise[None], last[:-1]], 0)
    return noise, last
