"""Separation: single examples among the columns of a rectified dense layer's gradient.

A unit that fires for one example of the batch alone has a gradient column that is a multiple of that example, and
the ratio to its bias's gradient is the example itself; of a unit that several fire it is a mixture. Passive case of
Boenisch et al. 2021, "When the Curious Abandon Honesty", arXiv 2112.02918, and Fowl et al. 2021, "Robbing the Fed",
arXiv 2110.13057; exclusive activation in Pan et al. 2020, "Exploring the Security Boundary of Data Reconstruction via
Neuron Exclusivity Analysis", arXiv 2010.13356.

Columns of single examples are told from mixtures by evidence, not by looks. Take a candidate c and the units that c
would not fire. If c is an example, their columns are mixtures of the others, and c does not lie in their span (as long
as the examples are linearly independent). If c is a mixture, it mostly does: what some of its parts fire is among
them, and enough such units span all of the batch. What passes is kept apart by the direction that it alone has,
orthogonal to that span; along it, its own share of every unit's gradient can be seen. A mixture that is nearly all
one example may pass too, so a candidate is believed only if two units give the same, which mixtures do not, or if its
share is the gradient that the candidate itself causes (`FirstLayer` compares them).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv_attacks.exact.dense_input import DenseInput, rank_above_rounding


@dataclass(frozen=True, eq=False)
class Separated:
    """One example found.

    Attributes:
      x: `[inputs]`.
      units: which fire for it alone.
      apart: how far it is from the span of the columns of the units that it does not fire, over its length.
      error: standard deviation of an entry, from the update's rounding.
      own: `[r]`, of length one: the direction that it alone has, in a basis of the batch's span. Two findings that
        share it are the same example, at least one of them with a trace of another.
      signal: `[units]`, its own share of the gradient in the layer's pre-activations, up to a common factor.
    """

    x: np.ndarray
    units: tuple[int, ...]
    apart: float
    error: float
    own: np.ndarray
    signal: np.ndarray


def separate(layer: DenseInput, most: int | None, steps: bool = False) -> list[Separated]:
    """Candidates for examples that some unit fires for alone, those with most units first.

    Args:
      layer: the first dense layer, with a bias and rectified.
      most: the number of examples in the batch, if known: the largest rank the gradient can have.
      steps: whether the update is of several steps, in which units may begin to fire for an example.
    """
    assert layer.bias is not None
    basis, mixtures = _column_space(layer, most)
    groups: list[list[int]] = []
    for unit in _candidates(layer):  # from the loudest on, so that a group's first is its best
        x, error = layer.kernel[:, unit] / layer.bias[unit], layer.rounding / abs(layer.bias[unit])
        if not _plausible(layer, unit, x, error):
            continue
        for group in groups:
            first = group[0]
            other = layer.kernel[:, first] / layer.bias[first]
            allowed = 6 * (error + layer.rounding / abs(layer.bias[first])) + 1e-6
            if np.sqrt(np.mean(np.square(x - other))) <= allowed:
                group.append(int(unit))
                break
        else:
            groups.append([int(unit)])
    found = []
    for group in groups:
        power = float(np.sum(layer.bias[group] ** 2))
        x = layer.kernel[:, group] @ layer.bias[group] / power
        error = layer.rounding / float(np.sqrt(power))
        own, limit = _own(layer, basis, mixtures, x, error, steps)
        apart = float(np.linalg.norm(own)) / max(float(np.linalg.norm(x)), 1e-300)
        if apart > limit:
            signal = own @ mixtures / float(own @ own)
            found.append(Separated(x, tuple(group), apart, error, own / np.linalg.norm(own), signal))
    found.sort(key=lambda s: (-len(s.units), s.error))
    return found


def _candidates(layer: DenseInput) -> np.ndarray:
    """Units whose ratio is accurate enough to be an image, the most accurate first."""
    assert layer.bias is not None
    size = np.abs(layer.bias)
    loud = np.flatnonzero(size > 20 * layer.rounding)
    return loud[np.argsort(-size[loud], kind="stable")]


def _plausible(layer: DenseInput, unit: int, x: np.ndarray, error: float) -> bool:
    """Whether x is an image, and one that fires the unit it came from."""
    slack = 6 * error + 1e-5
    inside = x.min() >= -slack and x.max() <= 1 + slack
    drive = float(x @ layer.kernel_weights[:, unit] + layer.bias_weights[unit])
    return bool(inside and drive >= -slack * float(np.linalg.norm(layer.kernel_weights[:, unit])))


def _column_space(layer: DenseInput, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of the kernel gradient's columns `[inputs, r]`, and the columns in it `[r, units]`."""
    left, sizes, right = np.linalg.svd(layer.kernel, full_matrices=False)
    rank = max(1, rank_above_rounding(sizes, layer.kernel.shape, layer.rounding))
    rank = rank if most is None else min(rank, most)
    return left[:, :rank], sizes[:rank, None] * right[:rank]


def _silent(layer: DenseInput, x: np.ndarray, steps: bool) -> np.ndarray:
    """Units that x does not fire, with a margin for x's own error; over several steps, neither before nor after."""
    drive = x @ layer.kernel_weights + layer.bias_weights
    silent = drive < -1e-4 * (np.abs(drive).max() + 1e-30)
    if steps:
        after = x @ layer.kernel_after + layer.bias_after
        silent &= after < -1e-4 * (np.abs(after).max() + 1e-30)
    return np.asarray(silent)


def _own(
    layer: DenseInput, basis: np.ndarray, mixtures: np.ndarray, x: np.ndarray, error: float, steps: bool
) -> tuple[np.ndarray, float]:
    """What the silent units' columns leave of x `[r]`, and the relative length that errors alone can give it."""
    inner = basis.T @ x
    length = float(np.linalg.norm(x))
    directions, sizes, _ = np.linalg.svd(mixtures[:, _silent(layer, x, steps)], full_matrices=False)
    floor = 3 * layer.rounding * (np.sqrt(len(basis)) + np.sqrt(layer.units))
    span, kept = directions[:, sizes > floor], sizes[sizes > floor]
    rest = inner - span @ (span.T @ inner)
    # Errors tilt the span by rounding over its smallest singular value, and move x by its own error.
    tilt = floor / float(kept[-1]) if len(kept) else 0.0
    limit = 3 * tilt + 10 * error * np.sqrt(layer.inputs) / max(length, 1e-300) + 1e-6
    return rest, limit
