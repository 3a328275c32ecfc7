"""Pairs: what L-BFGS remembers of the curvature, and the direction that follows from it.

The compact representation of Byrd, Nocedal & Schnabel (1994, "Representations of quasi-Newton matrices and their use in
limited memory methods", Math. Programming 63) in its product form. With the pairs scaled to s_i.y_i = 1, S and Y their
rows and R the upper triangle of S Y^T,

    H = gamma V^T V + S^T R^-T R^-1 S,    V = I - Y^T R^-1 S,

so that H g costs four matrix-vector products and two small triangular solves, where the two-loop recursion needs
2m sequential steps. H is positive semi-definite whatever rounding does to R; R and its solves are float64 for
any dtype of the variables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor


class Pairs(NamedTuple):
    """The last m pairs of step and change of gradient; tensors.

    Attributes:
      s: `[m, k]` steps in ring order, scaled.
      y: `[m, k]` changes of the gradient, scaled.
      r: `[m, m]` float64, the upper triangle of S Y^T, oldest pair first, unit diagonal.
      gamma: float64, the curvature's scale by the newest pair.
      head: the ring slot of the oldest pair.
      count: pairs held; slots that hold none are the oldest.
    """

    s: Tensor
    y: Tensor
    r: Tensor
    gamma: Scalar
    head: Scalar
    count: Scalar

    @classmethod
    def none(cls, m: int, k: Scalar | int, dtype: tf.DType) -> Pairs:
        """Room for m pairs of `[k]`."""
        # Empty, not zeros: a folded constant must not be updated in place.
        s, y = (tf.raw_ops.Empty(shape=[m, k], dtype=dtype, init=True) for _ in range(2))
        return cls(s, y, tf.eye(m, dtype=tf.float64), tf.zeros([], tf.float64), tf.constant(0), tf.constant(0))

    @staticmethod
    def blank(m: int, k: int, dtype: str) -> tuple[np.ndarray, ...]:
        """As `none`, as arrays for `taken_up`."""
        s = np.zeros((m, k), dtype)
        return s, s, np.eye(m), np.zeros([]), np.zeros([], np.int32), np.zeros([], np.int32)

    @classmethod
    def taken_up(cls, s: Tensor, y: Tensor, r: Tensor, gamma: Scalar, head: Scalar, count: Scalar) -> Pairs:
        """Those of another minimization, in buffers of their own."""
        return cls(tf.raw_ops.DeepCopy(x=s), tf.raw_ops.DeepCopy(x=y), r, gamma, head, count)

    @property
    def most(self) -> int:
        """m."""
        return int(self.r.shape[0])

    def forgotten(self) -> Pairs:
        """The same room without any pair."""
        return self._replace(r=tf.eye(self.most, dtype=tf.float64), count=tf.constant(0))

    def with_pair(self, step: Flat, change: Flat, curvature: Scalar) -> Pairs:
        """The pairs with one more; the oldest goes if there is no room.

        Args:
          step: `[k]`.
          change: `[k]`, of the gradient over that step.
          curvature: float64, their product, above zero.
        """
        m, dtype = self.most, step.dtype
        scale = tf.cast(tf.math.rsqrt(curvature), dtype)
        s_new, y_new = step * scale, change * scale
        # In place: the loop is the only holder of these buffers, and copying them costs as much as the algebra.
        s = tf.raw_ops.InplaceUpdate(x=self.s, i=self.head[None], v=s_new[None])
        y = tf.raw_ops.InplaceUpdate(x=self.y, i=self.head[None], v=y_new[None])
        head, count = tf.math.floormod(self.head + 1, m), tf.minimum(self.count + 1, m)
        valid = tf.cast(tf.range(m) >= m - count, tf.float64)
        column = tf.cast(tf.gather(tf.linalg.matvec(s, y_new), _ages(head, m)), tf.float64) * valid
        r = tf.concat(
            [
                tf.concat([self.r[1:, 1:], column[:-1, None]], 1),
                tf.concat([tf.zeros([1, m - 1], tf.float64), tf.ones([1, 1], tf.float64)], 1),
            ],
            0,
        )
        return Pairs(s, y, r, 1 / tf.cast(tf.tensordot(y_new, y_new, 1), tf.float64), head, count)

    def direction(self, g: Flat) -> Flat:
        """-H g, for a gradient `[k]`; slots that hold no pair get coefficient zero."""
        m, dtype = self.most, g.dtype
        order, slots = _ages(self.head, m), _ages(-self.head, m)
        valid = tf.cast(tf.range(m) >= m - self.count, tf.float64)
        a = tf.cast(tf.gather(tf.linalg.matvec(self.s, g), order), tf.float64) * valid
        q = tf.linalg.triangular_solve(self.r, a[:, None], lower=False)[:, 0]
        w = g - tf.linalg.matvec(self.y, tf.gather(tf.cast(q, dtype), slots), transpose_a=True)
        c = tf.cast(tf.gather(tf.linalg.matvec(self.y, w), order), tf.float64) * valid
        rest = (q - self.gamma * c)[:, None]
        p = tf.linalg.triangular_solve(self.r, rest, lower=False, adjoint=True)[:, 0] * valid
        across = tf.linalg.matvec(self.s, tf.gather(tf.cast(p, dtype), slots), transpose_a=True)
        return -(tf.cast(self.gamma, dtype) * w + across)


def _ages(head: Scalar, m: int) -> Tensor:
    return tf.math.floormod(head + tf.range(m), m)
