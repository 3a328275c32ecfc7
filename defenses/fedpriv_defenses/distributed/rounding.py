"""Rounding: real vectors to integer ones at random, without becoming longer than a bound.

Conditional stochastic rounding of Kairouz, Liu, Steinke, 2021, arXiv 2102.06387, proposition 22.
"""

from __future__ import annotations

import math

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child, uniform
from fedpriv.base.types import Scalar, Seed, Tensor

#: Attempts before a vector is rounded towards zero, which lengthens none; each fails with probability at most beta.
ATTEMPTS = 64


def rounded_norm(norm: float, size: int, beta: float) -> float:
    """What L2 norm a vector of `size` values of at most `norm` keeps to in an attempt, but for probability `beta`.

    Theorem 1 of the paper: the square root of min{norm^2 + d/4 + sqrt(2 log(1/beta)) (norm + sqrt(d)/2),
    (norm + sqrt(d))^2}.
    """
    root = math.sqrt(size)
    likely = norm**2 + size / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + root / 2)
    return math.sqrt(min(likely, (norm + root) ** 2))


def conditional_rounding(values: Tensor, bound: float, seed: Seed) -> tuple[Tensor, Scalar]:
    """Each value becomes one of the two integers about it, at random with the value as mean, until the norm fits.

    Args:
      values: float64 `[d]`, of a norm below `bound`.
      bound: largest L2 norm of the outcome.
      seed: int64 `[2]`.

    Returns:
      (whole numbers, float64 `[d]`, of norm at most `bound`; attempts that it took).
    """
    below = tf.floor(values)
    most = tf.constant(bound**2, tf.float64)

    def fits(rounded: Tensor) -> Scalar:
        return tf.reduce_sum(tf.square(rounded)) <= most

    def attempt(i: Scalar, _: Tensor) -> tuple[Scalar, Tensor]:
        up = uniform(child(seed, i), tf.shape(values)) < values - below
        return i + 1, below + tf.cast(up, tf.float64)

    def unfit(i: Scalar, rounded: Tensor) -> Scalar:
        return (i < ATTEMPTS) & ~fits(rounded)

    begun = attempt(tf.constant(0, tf.int64), values)
    tries, rounded = tf.while_loop(unfit, attempt, begun, parallel_iterations=1)
    towards_zero = tf.sign(values) * tf.floor(tf.abs(values))
    return tf.where(fits(rounded), rounded, towards_zero), tries
