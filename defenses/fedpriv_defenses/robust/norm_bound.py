"""NormBound: the server shortens each update before it takes the mean."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor
from fedpriv.defense.combiner import Combiner
from fedpriv.defense.passed import Passed


class NormBound(Combiner):
    """The weighted mean of updates that the server has clipped to a norm.

    Sun, Kairouz, Suresh, McMahan 2019, "Can You Really Backdoor Federated Learning?", arXiv 1911.07963. Without a
    `norm` it is the median norm of the round's updates. `clip` bounds the same at the client, where a secure sum may
    follow, but a client that lies need not clip; here the server does it, so it must see each update.

    No privacy. Formal guarantee: none. Log: `norm`, the bound, and `clipped`, the part of the clients beyond it.
    """

    name: ClassVar[str] = "norm_bound"
    paper: ClassVar[str] = "Sun, Kairouz, Suresh, McMahan 2019, arXiv 1911.07963"
    weighs: ClassVar[bool] = True

    norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="L2 norm bound in update units; None takes the round's median norm."
    )

    def combine(self, updates: Tensor, weights: Tensor) -> Passed:
        """`[m, d]` to `[d]`."""
        squares = tf.reduce_sum(tf.square(updates), axis=1)
        norms = tf.sqrt(tf.where(squares > 0, squares, tf.ones_like(squares))) * tf.cast(squares > 0, squares.dtype)
        m = int(updates.shape[0])
        ordered = tf.sort(norms)
        bound = (ordered[(m - 1) // 2] + ordered[m // 2]) / 2 if self.norm is None else tf.cast(self.norm, norms.dtype)
        bound = tf.stop_gradient(bound) if self.norm is None else bound
        factors = tf.minimum(1.0, tf.math.divide_no_nan(bound, norms))
        factors = tf.where(norms > 0, factors, tf.ones_like(factors))
        mean = tf.linalg.matvec(updates, factors * weights, transpose_a=True) / tf.reduce_sum(weights)
        clipped = tf.reduce_mean(tf.cast(norms > bound, norms.dtype))
        return Passed(mean, log={"norm": bound, "clipped": clipped})
