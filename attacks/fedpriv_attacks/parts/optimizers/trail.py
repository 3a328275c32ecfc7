"""Trail: what is kept of a minimization's way, in a fixed number of rows."""

from __future__ import annotations

from typing import NamedTuple

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor


class Trail(NamedTuple):
    """Every stride-th step so far; tensors.

    Attributes:
      history: `[rows, 2]` float64 of (evaluations so far, objective); unused rows are NaN.
      path: `[rows, k]`, the points; `[0, k]` if they are not kept.
      recorded: rows used.
      stride: steps from one row to the next.
    """

    history: Tensor
    path: Tensor
    recorded: Scalar
    stride: Scalar

    @classmethod
    def begun(cls, rows: int, path: bool, f: Scalar, x: Flat) -> Trail:
        """With the start in it, where the objective is f."""
        history = tf.fill([rows, 2], tf.constant(float("nan"), tf.float64))
        history = tf.tensor_scatter_nd_update(history, [[0]], tf.stack([tf.ones([], tf.float64), f])[None])
        k = tf.shape(x)[0]
        points = tf.concat([x[None], tf.zeros([rows - 1, k], x.dtype)], 0) if path else tf.zeros([0, k], x.dtype)
        return cls(history, points, tf.constant(1), tf.constant(1))

    def with_step(self, iterations: Scalar, evaluations: Scalar, f: Scalar, x: Flat) -> Trail:
        """With this step in it, if it is due; every other row goes when the rows are used up."""
        due = tf.equal(tf.math.floormod(iterations, self.stride), 0)
        row = tf.stack([tf.cast(evaluations, tf.float64), f])[None]
        return Trail(*tf.cond(due, lambda: self._with_row(row, x), lambda: tuple(self)))

    def _with_row(self, row: Tensor, x: Flat) -> tuple[Tensor, ...]:
        full = self.recorded >= self.history.shape[0]
        history, path, recorded, stride = tf.cond(full, self._thinned, lambda: tuple(self))
        history = tf.tensor_scatter_nd_update(history, [[recorded]], row)
        path = tf.tensor_scatter_nd_update(path, [[recorded]], x[None]) if path.shape[0] != 0 else path
        return history, path, recorded + 1, stride

    def _thinned(self) -> tuple[Tensor, ...]:
        kept = self.history[::2]
        rest = self.history.shape[0] - kept.shape[0]
        history = tf.concat([kept, tf.fill([rest, 2], tf.constant(float("nan"), tf.float64))], 0)
        path = self.path
        if path.shape[0] != 0:
            path = tf.concat([path[::2], tf.zeros([rest, tf.shape(path)[1]], path.dtype)], 0)
        return history, path, tf.constant(kept.shape[0]), self.stride * 2
