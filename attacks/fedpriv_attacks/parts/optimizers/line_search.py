"""Line search: how far to go along a direction, as a small state machine, one trial an evaluation.

The strong Wolfe conditions (Nocedal & Wright 2006, "Numerical Optimization", 2nd ed., section 3.5): the objective must
fall by a share of what its slope promises, and the slope must flatten.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor


class LineSearch(NamedTuple):
    """One search from a point; tensors, float64 but for the gradients and the count.

    Attributes:
      direction: `[k]`.
      slope: the objective's at the point, along the direction; below zero.
      step: the next trial.
      lo: `[3]` (step, value, slope) of the best step that meets the decrease condition; step 0 at first.
      hi: `[3]`, the bracket's other end; step infinite until one is known.
      g_lo: `[k]`, the gradient at `lo`.
      trials: evaluations so far.
    """

    direction: Flat
    slope: Scalar
    step: Scalar
    lo: Tensor
    hi: Tensor
    g_lo: Flat
    trials: Scalar

    @classmethod
    def along(cls, f: Scalar, g: Flat, direction: Flat, slope: Scalar, step: Scalar) -> LineSearch:
        """From where the objective is f and its gradient g."""
        inf = tf.constant(float("inf"), tf.float64)
        lo = tf.stack([tf.zeros([], tf.float64), f, slope])
        return cls(direction, slope, step, lo, tf.stack([inf, inf, tf.zeros([], tf.float64)]), g, tf.constant(0))

    @classmethod
    def steepest(cls, f: Scalar, g: Flat) -> LineSearch:
        """Along the negative gradient."""
        length = tf.cast(tf.reduce_sum(tf.abs(g)), tf.float64)
        step = tf.minimum(tf.ones([], tf.float64), 1 / tf.maximum(length, 1e-300))
        return cls.along(f, g, -g, -tf.cast(tf.tensordot(g, g, 1), tf.float64), step)

    def tried(
        self, f: Scalar, g: Flat, finite: Scalar, start: Scalar, armijo: float, wolfe: float
    ) -> tuple[LineSearch, Scalar]:
        """The search after its trial, and whether that one meets both conditions.

        Args:
          f: the objective at the trial; infinite if it is not finite.
          g: `[k]`, its gradient.
          finite: whether both are.
          start: the objective where the search began.
          armijo, wolfe: the conditions' constants.
        """
        slope = tf.where(finite, tf.cast(tf.tensordot(self.direction, g, 1), tf.float64), 0.0)
        trial = tf.stack([self.step, f, slope])
        flat = tf.abs(slope) <= -wolfe * self.slope
        high = (f > start + armijo * self.step * self.slope) | (f >= self.lo[1])
        # Where rounding hides the decrease, the slopes still show it (Hager & Zhang 2005, "approximate Wolfe").
        rounding = 16 * float(np.finfo(g.dtype.as_numpy_dtype).eps)
        level = tf.abs(f - start) <= rounding * tf.abs(start)
        # A step may be so short that its decrease is hidden and its slope still falls: then it must grow.
        short = level & (slope < 0)
        high = ~finite | (high & ~(flat & (f <= start + rounding * tf.abs(start))) & ~short)
        turned = slope * (self.hi[0] - self.lo[0]) >= 0
        after = self._replace(
            trials=self.trials + 1,
            hi=tf.where(high, trial, tf.where(turned, self.lo, self.hi)),
            lo=tf.where(high, self.lo, trial),
            g_lo=tf.where(high, self.g_lo, g),
        )
        return after, ~high & flat

    def narrow(self) -> Scalar:
        """Whether the bracket is as small as the variables' precision."""
        resolution = 1e-9 if self.g_lo.dtype == tf.float64 else 1e-6
        small = tf.abs(self.hi[0] - self.lo[0]) <= resolution * tf.maximum(self.lo[0], self.hi[0])
        return small & tf.math.is_finite(self.hi[0])

    def onward(self) -> LineSearch:
        """With the next trial: a safeguarded cubic step inside the bracket, or beyond it while there is none."""
        lo, hi = self.lo, self.hi
        bracketed = tf.math.is_finite(hi[0])
        width = hi[0] - lo[0]
        inner = _cubic(lo, hi)
        margin = 0.1 * tf.abs(width)
        low, high = tf.minimum(lo[0], hi[0]), tf.maximum(lo[0], hi[0])
        inner = tf.where(tf.math.is_finite(inner), inner, 0.5 * (lo[0] + hi[0]))
        inner = tf.clip_by_value(inner, low + margin, high - margin)
        outer = 4.0 * lo[0]
        return self._replace(step=tf.where(bracketed, inner, outer))


def _cubic(a: Tensor, b: Tensor) -> Scalar:
    """The minimizer of the cubic through two (step, value, slope) triples (Nocedal & Wright, 2nd ed., eq. 3.59)."""
    d1 = a[2] + b[2] - 3 * (a[1] - b[1]) / (a[0] - b[0])
    d2 = tf.sign(b[0] - a[0]) * tf.sqrt(d1 * d1 - a[2] * b[2])
    return b[0] - (b[0] - a[0]) * (b[2] + d2 - d1) / (b[2] - a[2] + 2 * d2)
