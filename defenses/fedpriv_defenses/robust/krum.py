"""Krum: the update that lies nearest to most others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor
from fedpriv.defense.combiner import Combiner
from fedpriv.defense.passed import Passed

#: Values of a block of coordinates of all updates, small enough for a cache.
_BLOCK = 65_536

#: Squared distance over squared norms down to which products are as good as differences, to nine digits.
_CLEAR = 1e-6


class Krum(Combiner):
    """The update with the least sum of squared distances to its m - f - 2 nearest others, or the mean of several such.

    Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent", NeurIPS, arXiv 1703.02757. m is the cohort, f the `liars`; m must be at least 2 f + 3. With `keep` above 1
    it is Multi-Krum. Distances are summed in double precision.

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
        distances = squared_distances(tf.stop_gradient(updates))
        scores = tf.reduce_sum(tf.sort(distances, axis=1)[:, 1 : m - self.liars - 1], axis=1)
        chosen = tf.argsort(scores, stable=True)[: self.keep]
        return Passed(tf.reduce_mean(tf.gather(updates, chosen), axis=0), log={"chosen": chosen[0]})


def squared_distances(updates: Tensor) -> Tensor:
    """Between all pairs of `[m, d]`, float64 `[m, m]`; infinite where a difference is no finite number.

    By products in double precision, of one block of coordinates after another; where a pair lies so close together that
    rounding of its products would show in its distance, from differences, which takes several times as long.
    """
    found: Tensor = _traced()(updates)
    return found


@functools.cache
def _traced() -> Callable[[Tensor], Tensor]:
    """`_distances` as a graph, since a loop of many small operations is slow without one."""
    made: Callable[[Tensor], Tensor] = tf.function(_distances, autograph=False)
    return made


def _distances(updates: Tensor) -> Tensor:
    m, d = (int(n) for n in updates.shape)
    width = min(d, max(64, _BLOCK // m))
    blocks = -(-d // width)
    padded = tf.pad(updates, [[0, 0], [0, blocks * width - d]])
    pairs = np.stack(np.triu_indices(m, 1), axis=1)

    def over_blocks(summed: Callable[[Tensor], Tensor], size: Sequence[int]) -> Tensor:
        def added(i: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            block = tf.cast(tf.slice(padded, [0, i * width], [m, width]), tf.float64)
            return i + 1, total + summed(block)

        start = (tf.constant(0), tf.zeros(size, tf.float64))
        return tf.while_loop(lambda i, _: i < blocks, added, start, parallel_iterations=1)[1]

    def products(block: Tensor) -> Tensor:
        return tf.matmul(block, block, transpose_b=True)

    def differences(block: Tensor) -> Tensor:
        later = [tf.reduce_sum(tf.math.squared_difference(block[j + 1 :], block[j]), axis=1) for j in range(m - 1)]
        return tf.concat([tf.zeros([0], tf.float64), *later], 0)

    multiplied = over_blocks(products, [m, m])
    squares = tf.linalg.diag_part(multiplied)
    norms = tf.gather(squares, pairs[:, 0]) + tf.gather(squares, pairs[:, 1])
    found = norms - 2 * tf.gather_nd(multiplied, pairs)
    # Not "any is near", so that what is no number counts as near.
    clear = tf.reduce_all(found > _CLEAR * norms)
    found = tf.cond(clear, lambda: found, lambda: over_blocks(differences, [len(pairs)]))
    found = tf.where(tf.math.is_nan(found), tf.constant(np.inf, tf.float64), found)
    upper = tf.scatter_nd(pairs, found, [m, m])
    return upper + tf.transpose(upper)
