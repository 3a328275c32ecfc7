"""Label counts: from real-valued evidence to how many examples of each class there were. Pure NumPy functions."""

from __future__ import annotations

import numpy as np

from fedpriv.base.errors import CapabilityError, DivergenceError


def simplex_projection(values: np.ndarray, total: float) -> np.ndarray:
    """The nearest non-negative vector with sum `total`, in Euclidean distance.

    By sorting (Duchi, Shalev-Shwartz, Singer, Chandra 2008, "Efficient Projections onto the l1-Ball").

    Args:
      values: `[c]` finite.
      total: positive.
    """
    values = np.asarray(values, np.float64)
    falling = np.sort(values)[::-1]
    shifts = (np.cumsum(falling) - total) / np.arange(1, len(values) + 1)
    return np.maximum(values - shifts[np.nonzero(falling > shifts)[0][-1]], 0.0)


def nearest_counts(values: np.ndarray, total: int) -> np.ndarray:
    """The nearest non-negative integers with sum `total`, in Euclidean distance; int64 `[c]`.

    The projection onto the simplex is rounded down, and what is missing goes to the largest remainders. This is
    exact: the cost is separable and convex, so handing out units one by one where each costs least is optimal, and
    the projection says where that stands when the units are almost used up. Ties go to the lower class.

    Args:
      values: unrounded counts `[c]`.
      total: how many examples there are.

    Raises:
      DivergenceError: values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise DivergenceError(
            f"label counts to round hold {int(np.sum(~np.isfinite(values)))} non-finite values of {values.size}; the "
            "update or the model's weights are too large to read labels from"
        )
    projected = simplex_projection(values, float(total))
    counts = np.floor(projected + 1e-9).astype(np.int64)  # a projection of 2.9999999999 is the integer 3
    missing = int(total - counts.sum())
    counts[np.argsort(counts - projected, kind="stable")[:missing]] += 1
    return counts


def misfit(values: np.ndarray, counts: np.ndarray) -> float:
    """How far unrounded counts lie from whole ones, relative to chance: 0 for integers, about 1 for noise.

    Chance is what rounding errors that are uniform in [-1/2, 1/2] give on average; negative counts make it larger.
    """
    return float(np.linalg.norm(np.asarray(values) - counts) / np.sqrt(len(counts) / 12))


def solve_counts(bias_gradient: np.ndarray, probabilities: np.ndarray, total: int) -> np.ndarray:
    """Unrounded counts `[c]` from the last bias's gradient and each class's mean predictions.

    With k_j examples of class j, predicted p_j on average, the gradient is g = (1/n) sum_j k_j (p_j - e_j). These are
    c equations of rank c - 1, which sum k = n completes; solved by the Moore-Penrose pseudo-inverse as in iLRG (Ma et
    al. 2023, "Instance-wise Batch Label Restoration via Gradients in Federated Learning", ICLR).

    Args:
      bias_gradient: `[c]`, mean over the examples.
      probabilities: `[c, c]`, row j the mean prediction for examples of class j.
      total: n.

    Raises:
      DivergenceError: predictions or a gradient that are not finite.
    """
    if not (np.isfinite(bias_gradient).all() and np.isfinite(probabilities).all()):
        raise DivergenceError(
            "the predictions at the features read off this update are not finite, so label counts cannot be solved "
            "for; use labels=bias, or lower the client's learning rate"
        )
    c = len(bias_gradient)
    matrix = np.vstack([np.ones(c), (probabilities - np.eye(c)).T])
    return np.linalg.pinv(matrix) @ np.concatenate([[total], total * np.asarray(bias_gradient, np.float64)])


def greedy_counts(gradients: np.ndarray, impact: float, offsets: np.ndarray | float, total: int) -> np.ndarray:
    """LLG's assignment: int64 `[c]` counts, taken one example at a time.

    Wainakh et al. 2022, "User-Level Label Leakage from Gradients in Federated Learning", arXiv 2105.09369. Every
    class with a negative gradient has at least one example. Each example found is subtracted with its `impact`; the
    class that is then lowest gets the next one. If more classes are negative than there are examples, the most
    negative come first.

    Args:
      gradients: `[c]`, the last kernel's gradient summed over its features.
      impact: what one example of a class adds to that class's gradient; negative.
      offsets: `[c]` what the examples of other classes add to each class, or a scalar.
      total: n.

    Raises:
      CapabilityError: an impact that is not negative, which would never use up a class.
    """
    if not impact < 0:
        raise CapabilityError(
            f"one example's impact on its class is estimated as {impact:.3g}, but only a negative one tells classes "
            "apart; LLG needs non-negative features, as after ReLU or sigmoid. Use 'ilrg' or 'bias', which do not"
        )
    counts = np.zeros(len(gradients), np.int64)
    remaining = np.asarray(gradients, np.float64) - offsets
    for c in np.argsort(gradients, kind="stable")[:total]:
        if gradients[c] < 0:
            counts[c] += 1
            remaining[c] -= impact
    for _ in range(int(total - counts.sum())):
        c = int(np.argmin(remaining))
        counts[c] += 1
        remaining[c] -= impact
    return counts


def regressed_counts(
    bias_gradient: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, total: int
) -> np.ndarray:
    """Unrounded counts `[c]` by the best linear rule, in mean squared error, on examples whose labels are known.

    Every example adds its own p - y to the gradient. The rule that predicts y from p - y with the smallest error on
    the known examples is applied to the batch's sum. Where predictions are the same for all examples it is the exact
    y = p - (p - y); where they already agree with the labels and p - y says little, it falls back on the known
    examples' label frequencies.

    Args:
      bias_gradient: `[c]`, mean over the batch.
      probabilities: `[m, c]` predictions on the known examples.
      labels: int `[m]`, their labels.
      total: n.
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    errors = probabilities - one_hot
    rule = np.linalg.lstsq(errors - errors.mean(0), one_hot - one_hot.mean(0), rcond=1e-8)[0]
    return total * (one_hot.mean(0) + (np.asarray(bias_gradient, np.float64) - errors.mean(0)) @ rule)
