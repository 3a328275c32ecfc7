"""Divergence: bounds on the Renyi divergence of sums of discrete noises, and of such sums under sampling.

Everything is in integers, as they are before the modulus: taking a sum modulo 2^b is post-processing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from fedpriv_defenses.distributed.sampler import Mechanism

Curve = Callable[[float], float]


@dataclass(frozen=True)
class NoisySum:
    """A sum of integer vectors, of which one client may change one, under independent noises of several clients.

    Attributes:
      mechanism: of each client's noise.
      variance: the parameter of one client's noise (of a discrete Gaussian its sigma^2), in integers squared.
      shares: clients whose noise counts. That more add theirs is post-processing.
      l2, l1: by how much one client can move the sum, in integers.
      size: coordinates.
    """

    mechanism: Mechanism
    variance: float
    shares: int
    l2: float
    l1: float
    size: int

    def curve(self, order: float) -> float:
        """A bound on the Renyi divergence of that order, above 1, in nats."""
        return self._gaussian(order) if self.mechanism == "discrete_gaussian" else between(self._skellam, order)

    @functools.cached_property
    def tau(self) -> float:
        """10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1)): how far the sum of n is from one discrete Gaussian."""
        k = np.arange(1, self.shares)
        return float(10 * np.exp(-2 * math.pi**2 * self.variance * k / (k + 1)).sum())

    def _gaussian(self, order: float) -> float:
        """Kairouz, Liu, Steinke, 2021, arXiv 2102.06387, proposition 14."""
        deviation, tau, d = math.sqrt(self.shares * self.variance), self.tau, self.size
        l2, l1 = self.l2 / deviation, self.l1 / deviation
        return min(
            order / 2 * l2**2 + tau * d,
            order / 2 * (l2**2 + 2 * l1 * tau + tau**2 * d),
            order / 2 * (l2 + math.sqrt(d) * tau) ** 2,
        )

    def _skellam(self, order: int) -> float:
        """Agarwal, Kairouz, Liu, 2021, arXiv 2110.04995, theorem 3.5, for whole orders."""
        mu = self.shares * self.variance
        more = min(((2 * order - 1) * self.l2**2 + 6 * self.l1) / (4 * mu**2), 3 * self.l1 / (2 * mu))
        return order * self.l2**2 / (2 * mu) + more


def between(whole: Callable[[int], float], order: float) -> float:
    """A bound at any order above 1 from whole ones: (order - 1) times the divergence is convex in it, and 0 at 1."""
    low, part = math.floor(order), order - math.floor(order)
    ends = [(n - 1) * whole(n) if n > 1 else 0.0 for n in ((low, low + 1) if part else (low,))]
    mixed = ends[0] if not part else (1 - part) * ends[0] + part * ends[1]
    return mixed / (order - 1)


def sampled_without_replacement(curve: Curve, share: float) -> Curve:
    """The curve of a mechanism that sees a random `share` of the clients, one of whom is replaced by another.

    Wang, Balle, Kasiviswanathan, 2019, arXiv 1808.00087, theorem 9, for mechanisms whose pure epsilon is not bounded;
    never more than the curve itself.
    """

    @functools.cache
    def at(order: int) -> float:
        return curve(order)

    @functools.cache
    def whole(order: int) -> float:
        j = np.arange(2, order + 1)
        choose = gammaln(order + 1) - gammaln(j + 1) - gammaln(order - j + 1)
        powers = np.array([(n - 1) * at(int(n)) for n in j]) + math.log(2)
        second = at(2)
        # log(4 (e^x - 1)), without overflow
        powers[0] = min(powers[0], math.log(4) + second + math.log(-math.expm1(-second)))
        terms = choose + j * math.log(share) + powers
        top = float(terms.max())
        total = np.exp(terms - top).sum()
        grown = math.log1p(math.exp(top) * total) if top < 30 else top + math.log(total + math.exp(-top))
        return grown / (order - 1)

    return lambda order: min(curve(order), between(whole, order))
