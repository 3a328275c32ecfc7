"""Amplification: what sampling makes of a mechanism known by its Renyi divergence alone.

General bounds, for any mechanism, at whole orders; between two of them `(order - 1) * divergence` is convex and lies
below the chord. A bound is never above the divergence without sampling, which holds too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from fedpriv.defense.event import RenyiEvent

_Curve = Callable[[float], float]


def poisson_sampled(event: RenyiEvent, rate: float) -> RenyiEvent:
    """`event`, stated for add_or_remove_one, where each unit takes part independently with probability `rate`.

    Zhu, Wang 2019, "Poisson Subsampled Renyi Differential Privacy", ICML (PMLR 97), theorem 5.
    """

    def bound(order: int, terms: np.ndarray) -> float:
        out, taken = math.log1p(-rate), math.log(rate)
        j = np.arange(2, order + 1)
        logs = _log_comb(order, j) + (order - j) * out + j * taken + (j - 1) * terms[: order - 1]
        logs[1:] += math.log(3)
        first = (order - 1) * out + math.log1p((order - 1) * rate)
        return float(np.logaddexp.reduce([first, *logs])) / (order - 1)

    return _sampled(event, f"{event.name}, Poisson-sampled", (("rate", rate),), bound)


def fixed_sampled(event: RenyiEvent, size: int, population: int) -> RenyiEvent:
    """`event`, stated for replace_one, where `size` of `population` units take part, drawn without replacement.

    Wang, Balle, Kasiviswanathan 2019, arXiv 1808.00087, theorem 9, without a bound on the divergence of order infinity.
    """
    rate = size / population

    def bound(order: int, terms: np.ndarray) -> float:
        j = np.arange(2, order + 1)
        logs = j * math.log(rate) + _log_comb(order, j) + (j - 1) * terms[: order - 1] + math.log(2)
        small = math.log(4) + math.log(math.expm1(terms[0])) if 0 < terms[0] < 700 else np.inf
        small = -np.inf if terms[0] == 0 else small
        logs[0] = 2 * math.log(rate) + _log_comb(order, np.array([2]))[0] + min(small, math.log(2) + terms[0])
        return float(np.logaddexp.reduce([0.0, *logs])) / (order - 1)

    return _sampled(event, f"{event.name}, sampled", (("size", size), ("population", population)), bound)


def _sampled(
    event: RenyiEvent,
    name: str,
    facts: tuple[tuple[str, float], ...],
    bound: Callable[[int, np.ndarray], float],
) -> RenyiEvent:
    plain: _Curve = functools.cache(event.curve)

    @functools.cache
    def whole(order: int) -> float:
        terms = np.array([plain(float(j)) for j in range(2, order + 1)])
        if not np.isfinite(terms).all():
            return plain(float(order))
        return min(max(0.0, bound(order, terms)), plain(float(order)))

    def curve(order: float) -> float:
        low = math.floor(order)
        above = whole(low + 1) if order > low or low < 2 else whole(low)
        if order == low or low < 2:
            return min(above, plain(order))
        share = order - low
        chord = (1 - share) * (low - 1) * whole(low) + share * low * above
        return min(chord / (order - 1), plain(order))

    return RenyiEvent(name, (*event.parameters, *facts), curve)


def _log_comb(n: int, k: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln

    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
