"""Krum: the update that lies nearest to most others."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor
from fedpriv.defense.combiner import Combiner
from fedpriv.defense.passed import Passed


class Krum(Combiner):
    """The update with the least sum of squared distances to its m - f - 2 nearest others, or the mean of several such.

    Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent", NeurIPS, arXiv 1703.02757. m is the cohort, f the `liars`; m must be at least 2 f + 3. With `keep` above 1
    it is Multi-Krum.

    No privacy, and less than none for whoever is chosen: with `keep=1` the released step *is* one client's update.
    Formal guarantee: none. Log: `chosen`, the first of the chosen ones' place in the cohort.
    """

    name: ClassVar[str] = "krum"
    paper: ClassVar[str] = "Blanchard, El Mhamdi, Guerraoui, Stainer 2017, arXiv 1703.02757"

    liars: Annotated[int, Field(ge=0)] = Field(default=1, description="f, how many of a cohort may lie.")
    keep: Annotated[int, Field(ge=1)] = Field(default=1, description="how many updates are averaged.")

    def least(self) -> int:
        """2 f + 3, or f and those that are kept."""
        return max(2 * self.liars + 3, self.keep + self.liars)

    def combine(self, updates: Tensor, weights: Tensor) -> Passed:
        """`[m, d]` to `[d]`; differentiable in those that are chosen."""
        m = int(updates.shape[0])
        apart = tf.stop_gradient(updates - tf.reduce_mean(updates, axis=0))  # the differences of near updates are kept
        squares = tf.reduce_sum(tf.square(apart), axis=1)
        distances = squares[:, None] + squares[None] - 2 * tf.matmul(apart, apart, transpose_b=True)
        nearest = tf.sort(tf.linalg.set_diag(distances, tf.zeros([m], distances.dtype)), axis=1)
        scores = tf.reduce_sum(nearest[:, 1 : m - self.liars - 1], axis=1)
        chosen = tf.argsort(scores, stable=True)[: self.keep]
        return Passed(tf.reduce_mean(tf.gather(updates, chosen), axis=0), log={"chosen": chosen[0]})
