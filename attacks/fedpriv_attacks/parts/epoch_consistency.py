"""Epoch consistency: the dummy batches of all local epochs hold the same examples, in any order."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Scalar
from fedpriv_attacks.parts.priors import Prior, Scene


class EpochConsistency(Prior):
    """Squared distance between order-invariant summaries of the dummy batches of different epochs.

    Dimitrov, Balunovic, Konstantinov, Vechev 2022, "Data Leakage in Federated Averaging", TMLR, arXiv 2206.12395,
    equation 4: the mean over pairs of epochs of the distance between g(batch of one) and g(batch of the other),
    with g blind to order. Zero when every epoch holds the same examples, in whatever order. Used with
    `replay=epochs`; zero where the replay keeps one batch for all epochs.
    """

    kind: ClassVar[str] = "epoch_consistency"
    paper: ClassVar[str] = "Dimitrov et al. 2022, arXiv 2206.12395"
    over: ClassVar[str] = "epochs"

    statistic: Literal["mean", "max", "moments"] = Field(
        default="moments",
        description="g: the `mean` example, the pixelwise `max`, or `moments`, the mean and the mean square.",
    )

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The penalty of `x [epochs, n, *input_shape]`; scalar."""
        if self.statistic == "max":
            summaries = tf.reduce_max(x, 1)[None]
        elif self.statistic == "mean":
            summaries = tf.reduce_mean(x, 1)[None]
        else:
            summaries = tf.stack([tf.reduce_mean(x, 1), tf.reduce_mean(tf.square(x), 1)])
        # The mean squared distance over pairs is twice the variance over epochs.
        centre = tf.reduce_mean(summaries, 1, keepdims=True)
        spread = tf.reduce_sum(tf.square(summaries - centre)) / int(x.shape[0])
        return tf.cast(2 * self.weight, x.dtype) * spread
