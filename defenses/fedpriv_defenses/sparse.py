"""TopK, RandomK: sparse updates, of each client's own largest coordinates or of the same random ones for all."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.select import mask_of_largest
from fedpriv.base.types import Flat, Nested, Tensor
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.spec import Spec


def kept(fraction: float, size: int) -> int:
    """k, how many of d coordinates that fraction is; at least one."""
    return min(size, max(1, round(fraction * size)))


def cells_of_largest(sent: Flat) -> tuple[Flat, Flat]:
    """`Defense.cells` of the largest coordinates alone: those left out are no larger than the smallest one sent."""
    size = tf.abs(sent)
    least = tf.reduce_min(tf.where(size > 0, size, tf.fill(tf.shape(size), tf.cast(math.inf, size.dtype))))
    return tf.where(size > 0, sent, -least), tf.where(size > 0, sent, least)


def _bits(dtype: object) -> int:
    return 8 * int(tf.as_dtype(dtype).size)


class _Sparse(Defense):
    """Base of the two: a client sends k of its update's d coordinates as they are, and no others."""

    adaptive_attack: ClassVar[str] = "dlg"
    sparsifies: ClassVar[bool] = True
    compresses: ClassVar[bool] = True

    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="part of the coordinates that is sent; k is that times d, rounded, at least 1."
    )

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Leaving coordinates out lengthens nothing."""
        return given if isinstance(given, Real) else Real()

    def _sent(self, update: Flat, mask: Tensor, bits: int) -> Passed:
        # Not a number in what is left out must still stop the client, not hide.
        sparse = tf.where(mask | ~tf.math.is_finite(update), update, tf.zeros_like(update))
        whole, part = tf.reduce_sum(tf.square(update)), tf.reduce_sum(tf.square(sparse))
        return Passed(sparse, log={"energy": tf.math.divide_no_nan(part, whole)}, bits=bits)


class TopK(_Sparse):
    """A client sends only the coordinates of its update with the largest absolute values.

    Compression, not privacy: Aji, Heafield 2017, "Sparse Communication for Distributed Gradient Descent", arXiv
    1704.05021, here per client over the whole vector, without error feedback: what is left out is lost. Among equal
    values the first ones are sent.

    Formal guarantee: the norm does not grow, and no epsilon follows. *Which* coordinates are sent depends on the data,
    and tells of it: the largest ones are where the loss is steepest (the rows of its classes in the last layer). Behind
    a secure sum it depends on the data where the sum is zero; and what only one client has sent stands in the sum as it
    was. `random_k` sends the same coordinates for all, so that the places tell nothing.

    On the wire a coordinate takes its value's bits and those of its index. Behind a secure sum, which encodes every
    coordinate, nothing is saved. Log: `energy`, the part of the update's squared norm that is sent.
    """

    name: ClassVar[str] = "top_k"
    paper: ClassVar[str] = "Aji, Heafield 2017, arXiv 1704.05021"

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`, all but k of them 0; differentiable in the k that are sent."""
        size = int(update.shape[0])
        k = kept(self.fraction, size)
        magnitudes = tf.where(tf.math.is_finite(update), tf.abs(update), tf.zeros_like(update))
        index = max(1, math.ceil(math.log2(size))) if k < size else 0
        return self._sent(update, mask_of_largest(magnitudes, k), k * (_bits(update.dtype) + index))

    def cells(self, sent: Flat, spec: Spec) -> tuple[Flat, Flat]:
        """What was left out is no larger than the smallest value sent."""
        return cells_of_largest(sent)


class RandomK(_Sparse):
    """All clients send the same coordinates of their updates, drawn anew each round from a public seed.

    Random sparsification with shared randomness: Konečný, McMahan, Yu, Richtárik, Suresh, Bacon 2016, "Federated
    Learning: Strategies for Improving Communication Efficiency", arXiv 1610.05492 (there each client draws a mask of
    its own). Values are sent as they are, not scaled by d / k.

    Formal guarantee: the norm does not grow, and no epsilon follows. The mask is known to everybody, so that the places
    tell nothing of the data, unlike those of `top_k`; an attack that knows it matches the update there. On the wire a
    coordinate takes its value's bits alone. Log: `energy`, as for `top_k`.
    """

    name: ClassVar[str] = "random_k"
    paper: ClassVar[str] = "Konečný et al. 2016, arXiv 1610.05492"
    draws_coordinates: ClassVar[bool] = True

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="public; of the rounds' masks.")

    def initial_state(self, plan: Plan) -> Nested:
        """How many masks have been drawn, int32; clients are sent it with the model."""
        return np.zeros([], np.int32)

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`, all but the round's k coordinates 0; differentiable in these."""
        size = int(update.shape[0])
        k = kept(self.fraction, size)
        drawn = tf.random.stateless_uniform(
            [size], tf.stack([tf.constant(self.seed), tf.cast(context.state, tf.int32)])
        )
        return self._sent(update, mask_of_largest(drawn, k), k * _bits(update.dtype))

    def cells(self, sent: Flat, spec: Spec) -> tuple[Flat, Flat]:
        """Of what was left out nothing is known."""
        left, none = tf.equal(sent, 0), tf.fill(tf.shape(sent), tf.cast(math.inf, sent.dtype))
        return tf.where(left, -none, sent), tf.where(left, none, sent)

    def step(self, weights: Flat, context: Context) -> Passed:
        """The weights as they are; the next round has another mask."""
        return Passed(weights, state=context.state + 1)
