"""Label metrics by class, beside the accuracy by example in `matching`: which classes are there, and how often.

After Ma et al. 2023, "Instance-wise Batch Label Restoration via Gradients in Federated Learning", ICLR (OpenReview
FIrQfNSOoTr). Their instance-level recall, found labels over n, is `matching.label_accuracy`.
"""

from __future__ import annotations

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike


def label_existence_accuracy(claimed: ArrayLike, true: ArrayLike, num_classes: int) -> float:
    """Fraction of all classes rightly said to be in the batch or not (label existence accuracy, LeAcc).

    Classes that are absent and not claimed count as right, so on few examples of many classes it is high for any
    attack.

    Args:
      claimed: int labels `[m]`.
      true: int labels `[n]`.
      num_classes: how many classes there are.

    Raises:
      ParameterError: labels that are no integers `[n]` in 0..num_classes - 1.
    """
    found, there = _counts(claimed, "claimed", num_classes), _counts(true, "true", num_classes)
    return float(np.mean((found > 0) == (there > 0)))


def label_count_accuracy(claimed: ArrayLike, true: ArrayLike, num_classes: int) -> float:
    """Fraction of all classes whose number of examples in the batch is exactly right (label number accuracy, LnAcc).

    Args:
      claimed: int labels `[m]`.
      true: int labels `[n]`.
      num_classes: how many classes there are.

    Raises:
      ParameterError: labels that are no integers `[n]` in 0..num_classes - 1.
    """
    return float(np.mean(_counts(claimed, "claimed", num_classes) == _counts(true, "true", num_classes)))


def _counts(labels: ArrayLike, what: str, num_classes: int) -> np.ndarray:
    array = np.asarray(labels)
    integers = array.ndim == 1 and (np.issubdtype(array.dtype, np.integer) or array.size == 0)
    if num_classes < 1 or not integers or (array.size and not 0 <= array.min() <= array.max() < num_classes):
        raise ParameterError(
            f"{what} labels must be integers [n] from 0 to {num_classes - 1}, not {array.dtype} {list(array.shape)}"
            + (f" from {array.min()} to {array.max()}" if array.size and integers else "")
        )
    return np.bincount(array.astype(np.int64), minlength=num_classes)
