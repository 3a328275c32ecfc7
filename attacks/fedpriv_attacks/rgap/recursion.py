"""Recursion: from the last layer's input back to the example, one weighted linear system a layer.

Going backwards, layer i's output activation(z) is known from the step before, with an error. It gives z, the slope, and
k = slope * (W^T k of the layer after). Then x solves, together,

    W x = z - b       each row as wrong as z is,
    K(k) x = dL/dW    each row as wrong as the update's rounding.

The paper (Zhu & Blaschko 2021, arXiv 2010.07733, algorithm 1) stacks both and gives all rows the same weight. Rows
differ in accuracy by orders of magnitude, since inverting a saturated activation magnifies errors. Here every row is
weighed by its variance, which the solution of the layer before gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpriv_attacks.rgap.activations import centre, invert
from fedpriv_attacks.rgap.solve import Solution, solve
from fedpriv_attacks.rgap.unrolled import Unrolled

#: Standard deviation given to what a layer's equations leave open, for the layer before.
_OPEN = 1.0


@dataclass(frozen=True)
class Step:
    """One layer of the recursion.

    Attributes:
      name: the layer's.
      unknowns: values of its input.
      equations: rows of its system.
      rank: its numerical rank.
      condition: the weighted system's condition number; infinite if its rank is below the number of unknowns.
      expected_error: root mean square error to expect of the input, from the rows' variances; the errors of k, which
        is part of the matrix, come on top.
    """

    name: str
    unknowns: int
    equations: int
    rank: int
    condition: float
    expected_error: float

    @property
    def determined(self) -> bool:
        """Whether the equations leave one solution."""
        return self.rank == self.unknowns


@dataclass(frozen=True, eq=False)
class Recursion:
    """What the recursion found.

    Attributes:
      x: `[inputs]`, the example.
      steps: one a layer, from the last to the first.
      features: `[n]`, the last layer's input, where the recursion began.
      feature_variance: `[n]`, of its error.
      solution: the first layer's system; None if the last layer is the first.
    """

    x: np.ndarray
    steps: tuple[Step, ...]
    features: np.ndarray
    feature_variance: np.ndarray
    solution: Solution | None

    @property
    def invertible(self) -> bool:
        """Whether every layer's equations leave one solution."""
        return all(step.determined for step in self.steps)


def recur(
    layers: Sequence[Unrolled],
    gradients: Sequence[np.ndarray | None],
    noise: Sequence[float],
    features: np.ndarray,
    k: np.ndarray,
    epsilon: float,
    weighted: bool = True,
) -> Recursion:
    """The example behind the gradients of one layer after the other.

    Args:
      layers: of the chain, in forward order.
      gradients: of every layer's kernel; None for pooling.
      noise: standard deviation of the error of an entry of each.
      features: `[n]`, the last layer's input.
      k: `[classes]`, the gradient in the logits; a common factor of `k` and `gradients` cancels.
      epsilon: relative rounding error of the client's arithmetic, which blurs every z.
      weighted: False gives every row the same weight, as the paper does.
    """
    last = layers[-1]
    variance = np.full(last.unknowns, noise[-1] ** 2 / float(k @ k))
    steps = [_step(last, last.unknowns * last.filters, last.unknowns, 1.0, variance)]
    x, backward, solution = features, last.weight_matrix.T @ k, None
    feature_variance = variance
    for index in range(len(layers) - 2, -1, -1):
        layer, gradient = layers[index], gradients[index]
        z, slope = invert(layer.layer, x, np.sqrt(variance))
        known = slope > 0
        blur = variance + np.square(slope * epsilon * np.maximum(1.0, np.abs(z)))
        row_information = np.divide(slope**2, blur, out=np.zeros_like(blur), where=known)
        if not weighted:
            row_information = known.astype(np.float64)
        if index == len(layers) - 2:
            feature_variance = np.where(known, blur, variance)
        k = slope * backward
        matrix = layer.weight_matrix
        information = (matrix.T.multiply(row_information) @ matrix).toarray()
        vector = matrix.T @ (row_information * np.where(known, z - layer.offsets(), 0.0))
        if gradient is not None:
            block, sides = layer.gradient_block(k), layer.gradient_rows(gradient)
            precision = 1.0 / noise[index] ** 2 if weighted else 1.0
            # The same block for every channel: a view of N's entries of equal channel takes the sum.
            size = (layer.positions[1], layer.channels) * 2
            same = np.einsum("pcqc->cpq", information.reshape(size))
            same += precision * (block.T @ block)
            vector = vector + precision * (block.T @ sides).reshape(-1)
        solution = solve(information, vector, centre(layers[index - 1].layer if index else None))
        x, variance = solution.x, solution.variance
        rows = int(np.sum(known)) + (0 if gradient is None else gradient.size)
        steps.append(_step(layer, rows, solution.rank, solution.condition, variance))
        variance = np.where(np.isfinite(variance), variance, _OPEN)
        backward = matrix.T @ k
    return Recursion(x, tuple(steps), features, feature_variance, solution)


def _step(layer: Unrolled, equations: int, rank: int, condition: float, variance: np.ndarray) -> Step:
    return Step(layer.layer.name, layer.unknowns, equations, rank, condition, float(np.sqrt(np.mean(variance))))
