"""Mixture: the Gaussian mechanism on a sum in which a random number of a user's records takes part.

If each of a user's k records, clipped to norm C, enters a batch independently with probability q, then removing the
user moves the sum by at most i C with probability Binomial(k, q)(i), and the mixture of Gaussians with these means
dominates (Charles, Ganesh, McKenna, McMahan, Mitchell, Pillutla, Rush 2024, "Fine-Tuning Large Language Models with
User-Level Differential Privacy", arXiv 2407.07737; Choquette-Choo, Ganesh, Steinke, Thakurta 2024, arXiv 2310.15526).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from fedpriv.defense.event import RenyiEvent

#: Orders above this take the bound without sampling; epsilons of use lie at smaller ones.
LARGEST_ORDER = 64.0
#: Steps of the integration for a standard deviation, and standard deviations beyond the outermost means.
_STEPS, _BEYOND = 50, 15.0


def renyi_divergence(order: float, multiplier: float, records: int, rate: float) -> float:
    """Renyi divergence of one step, the larger of both directions, in nats.

    Args:
      order: above 1.
      multiplier: noise standard deviation over the norm that a record is clipped to.
      records: k, a user's.
      rate: q, with which each is drawn.
    """
    unsampled = order * records**2 / (2 * multiplier**2)
    if order > LARGEST_ORDER or rate >= 1:
        return unsampled
    means = np.arange(records + 1) / multiplier
    with np.errstate(divide="ignore"):
        weights = stats.binom.logpmf(np.arange(records + 1), records, rate)
    # The integrand of order a has its mass between -a and a times the largest mean.
    low, high = -_BEYOND - (order - 1) * means[-1], _BEYOND + order * means[-1]
    grid = np.linspace(low, high, math.ceil((high - low) * _STEPS) + 1)
    # Of the mixture over the standard normal density, in logarithms.
    ratio = special.logsumexp(weights + grid[:, None] * means - means**2 / 2, axis=1)
    normal = -(grid**2) / 2 - math.log(2 * math.pi) / 2
    width = math.log(grid[1] - grid[0])
    added = special.logsumexp(normal + order * ratio) + width
    removed = special.logsumexp(normal + (1 - order) * ratio) + width
    found = max(added, removed) / (order - 1)
    return float(min(max(found, 0.0), unsampled))


def mixture_event(multiplier: float, records: int, rate: float, steps: int) -> RenyiEvent:
    """So many steps of it, of which the Renyi divergence is known."""
    parameters = (
        ("noise_multiplier", float(multiplier)),
        ("records", float(records)),
        ("rate", float(rate)),
        ("steps", float(steps)),
    )
    return RenyiEvent(
        "user-level DP-SGD", parameters, lambda order: steps * renyi_divergence(order, multiplier, records, rate)
    )
