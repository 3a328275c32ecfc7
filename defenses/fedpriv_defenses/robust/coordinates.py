"""Median, TrimmedMean: each coordinate by itself."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Tensor
from fedpriv.defense.combiner import Combiner


class Median(Combiner):
    """The median of the clients' values, coordinate by coordinate; of an even number the mean of the middle two.

    Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML, arXiv 1803.01498. Holds while fewer than half of a cohort lie.

    No privacy: the server sees every update, so no secure sum goes with it, and in each coordinate the result is one or
    two clients' own values. Formal guarantee: none.
    """

    name: ClassVar[str] = "median"
    paper: ClassVar[str] = "Yin, Chen, Ramchandran, Bartlett 2018, arXiv 1803.01498"

    def combine(self, updates: Tensor, weights: Tensor) -> Flat:
        """`[m, d]` to `[d]`."""
        ordered, m = tf.sort(updates, axis=0), int(updates.shape[0])
        return (ordered[(m - 1) // 2] + ordered[m // 2]) / 2


class TrimmedMean(Combiner):
    """The mean of what is left, coordinate by coordinate, when the `liars` largest and smallest values are taken away.

    Yin, Chen, Ramchandran, Bartlett 2018, arXiv 1803.01498. Holds while at most `liars` of a cohort lie.

    No privacy, as with `median`. Formal guarantee: none.
    """

    name: ClassVar[str] = "trimmed_mean"
    paper: ClassVar[str] = "Yin, Chen, Ramchandran, Bartlett 2018, arXiv 1803.01498"

    liars: Annotated[int, Field(ge=1)] = Field(
        default=1, description="values taken away at either end; a cohort must have more than twice as many."
    )

    def least(self) -> int:
        """One that is left."""
        return 2 * self.liars + 1

    def combine(self, updates: Tensor, weights: Tensor) -> Flat:
        """`[m, d]` to `[d]`."""
        ordered = tf.sort(updates, axis=0)
        return tf.reduce_mean(ordered[self.liars : int(updates.shape[0]) - self.liars], axis=0)
