"""WatchWeights: what the weights a client was sent look like, beside honest ones and those of its last round."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Labels, Nested, Scalar, Tensor
from fedpriv.defense.stations import Context, Plan
from fedpriv.models.spec import Spec
from fedpriv_defenses.watch.watch import Watch

#: Kernels with fewer rows or columns than this are too small for their columns to be told from chance.
_LEAST = 16
_POWER_STEPS = 30


class WatchWeights(Watch):
    """Clients look at the weights before they train: similar units, low rank, a large change, a loss that jumps.

    In the manner of Carletti, Foggia, Mazzocca, Parrella, Vento 2025, arXiv 2511.10502, who look for improbable
    structure in weights and for anomalous losses; of that paper only the abstract was at hand, and measures and
    thresholds are this project's own. On dense kernels `[inputs, units]` of at least 16 by 16:

    - `similarity`: the median over units of the largest absolute cosine to another unit; the largest over kernels.
      About sqrt(2 ln(units) / inputs) at an honest start, and 1 where all units measure the same.
    - `rank`: the stable rank, the squared Frobenius norm over the squared spectral norm; the least over kernels.
      1 where all units measure the same. It alarms below its threshold.
    - `balance`: the share of units with exactly as many negative weights as others; the largest over kernels. About
      sqrt(2 / (pi inputs)) by chance, and 1 in trap weights as published (Boenisch et al. 2023, arXiv 2112.02918).
    - `change`: the distance of all weights from those of the client's last round, relative to these.
    - `loss`: the loss on the client's own examples, over that of its last round.

    The last two say nothing (0) in a client's first round, and by default do not alarm beyond what honest training
    from a start with a large rate was seen to do. An act that adds no structure, such as one that plants for a few
    units only, passes; so does an honest-looking model that was trained to be malicious.
    """

    name: ClassVar[str] = "watch_weights"
    paper: ClassVar[str] = "after Carletti et al. 2025, arXiv 2511.10502"
    measures: ClassVar[tuple[str, ...]] = ("similarity", "rank", "balance", "change", "loss")

    similarity: Annotated[float, Field(gt=0)] = Field(default=0.95, description="alarms above.")
    rank: Annotated[float, Field(ge=0)] = Field(default=1.5, description="alarms below.")
    balance: Annotated[float, Field(gt=0)] = Field(default=0.5, description="alarms above.")
    change: Annotated[float, Field(gt=0)] = Field(default=1.0, description="alarms above.")
    loss: Annotated[float, Field(gt=0)] = Field(default=3.0, description="alarms above.")

    def check(self, plan: Plan) -> None:
        """Raises StackError where no kernel is large enough to look at."""
        if not _kernels(plan.spec):
            raise StackError(
                f"{self.name}: the model has no dense kernel of at least {_LEAST} by {_LEAST}; use watch_gradients"
            )

    def remembered(self, plan: Plan) -> Nested:
        """The weights of the last round, the loss on them, and whether there was one."""
        return (np.zeros(plan.spec.size, plan.spec.dtype), np.zeros([], plan.spec.dtype), np.zeros([], np.bool_))

    def measured(self, x: Examples, y: Labels, context: Context) -> tuple[dict[str, Scalar], dict[str, Scalar], Nested]:
        """All five measures."""
        spec, flat = context.plan.spec, context.weights
        tensors = spec.unflatten(flat)
        kernels = [tensors[i] for i in _kernels(spec)]
        similarity = tf.reduce_max(tf.stack([_similarity(k) for k in kernels]))
        rank = tf.reduce_min(tf.stack([_rank(k) for k in kernels]))
        balance = tf.reduce_max(tf.stack([_balance(k) for k in kernels]))
        _, last, before, there = context.own
        own = tf.reduce_mean(context.model.example_losses(tensors, x, y, training=False))
        zero = tf.zeros([], spec.dtype)
        change = tf.where(there, tf.math.divide_no_nan(tf.norm(flat - last), tf.norm(last)), zero)
        jump = tf.where(there, tf.math.divide_no_nan(own, before), zero)
        values = {"similarity": similarity, "rank": rank, "balance": balance, "change": change, "loss": jump}
        alarms = {
            "similarity": similarity > self.similarity,
            "rank": rank < self.rank,
            "balance": balance > self.balance,
            "change": change > self.change,
            "loss": jump > self.loss,
        }
        return values, alarms, (flat, own, tf.constant(True))


def _kernels(spec: Spec) -> list[int]:
    return [
        i
        for i, (name, shape) in enumerate(zip(spec.names, spec.shapes, strict=True))
        if name.endswith("kernel") and len(shape) == 2 and min(shape) >= _LEAST
    ]


def _similarity(kernel: Tensor) -> Scalar:
    """The median over columns of the largest absolute cosine to another; columns of zeros are like no other."""
    unit = tf.math.l2_normalize(kernel, axis=0, epsilon=1e-30)
    cosines = tf.abs(tf.matmul(unit, unit, transpose_a=True))
    largest = tf.reduce_max(tf.linalg.set_diag(cosines, tf.zeros_like(kernel[0])), axis=1)
    return tf.sort(largest)[kernel.shape[1] // 2]


def _rank(kernel: Tensor) -> Scalar:
    """The squared Frobenius norm over the squared spectral norm, by power iterations."""
    vector = tf.random.stateless_normal([kernel.shape[1], 1], (0, 1), dtype=kernel.dtype)
    for _ in range(_POWER_STEPS):
        vector = tf.math.l2_normalize(tf.matmul(kernel, tf.matmul(kernel, vector), transpose_a=True), epsilon=1e-30)
    largest = tf.reduce_sum(tf.matmul(kernel, vector) ** 2)
    return tf.math.divide_no_nan(tf.reduce_sum(kernel**2), largest)


def _balance(kernel: Tensor) -> Scalar:
    """The share of columns of which exactly half are negative."""
    negative = tf.reduce_sum(tf.cast(kernel < 0, tf.int32), axis=0)
    return tf.reduce_mean(tf.cast(tf.equal(2 * negative, kernel.shape[0]), kernel.dtype))
