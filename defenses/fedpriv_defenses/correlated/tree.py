"""Tree: noise on prefix sums by a binary tree, in TensorFlow, with a state whose shape stays.

Dwork, Naor, Pitassi, Rothblum 2010; Chan, Shi, Song 2011; with Honaker's estimate, which averages a node with its
children and so has about half the variance, as in DP-FTRL (Kairouz, McMahan, Song, Thakkar, Thakurta, Xu 2021, arXiv
2103.00039, appendix B). The numbers are those of TF Privacy's EfficientTreeAggregator, whose state changes its shape
from round to round, and cannot be a graph's or a checkpoint's.
"""

from __future__ import annotations

from collections.abc import Callable

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor


def tree_levels(leaves: int) -> int:
    """Levels that a tree of so many leaves has nodes on."""
    return leaves.bit_length()


def grown(nodes: Tensor, leaf: Scalar, draw: Callable[[Scalar], Flat]) -> tuple[Flat, Tensor]:
    """One more leaf: (noise on the sum of all leaves so far `[d]`, the nodes with it).

    Args:
      nodes: `[levels, d]`, by level the estimate of its last left child; what is at unused levels does not matter.
      leaf: int32 scalar, leaves there are already.
      draw: a fresh node's noise `[d]`, told apart by an int32 scalar from 0.
    """

    def carries(level: Scalar, _: Flat) -> Tensor:
        return _bit(leaf, level)

    def carried(level: Scalar, value: Flat) -> tuple[Scalar, Flat]:
        return level + 1, 0.5 * (nodes[level] + value) + draw(level + 1)

    level, value = tf.while_loop(carries, carried, (tf.constant(0), draw(tf.constant(0))), parallel_iterations=1)
    nodes = tf.tensor_scatter_nd_update(nodes, [[level]], [value])
    levels = tf.range(nodes.shape[0])
    shares = 1 / (2 - tf.pow(tf.constant(0.5, nodes.dtype), tf.cast(levels, nodes.dtype)))
    shares = tf.where(_bit(leaf + 1, levels), shares, tf.zeros_like(shares))
    used = tf.where(_bit(leaf + 1, levels)[:, None], nodes, tf.zeros_like(nodes))
    return tf.linalg.matvec(used, shares, transpose_a=True), nodes


def _bit(number: Scalar, place: Tensor) -> Tensor:
    one = tf.ones_like(place)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(number * one, place), one) > 0


def tree_variance(leaves: int) -> float:
    """Variance of the noise on the sum of that many leaves, for nodes of variance 1.

    A complete tree of height h counts 1 / (2 - 2^-h), and there is one for each binary digit of `leaves`.
    """
    return sum(1 / (2 - 2.0**-h) for h in range(leaves.bit_length()) if leaves >> h & 1)
