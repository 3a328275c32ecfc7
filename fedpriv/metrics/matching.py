"""One-to-one matching of what an attack found to what was there.

An attack returns a batch in its own order. Letting every reconstruction look for its nearest original would let one
original be counted many times; here each original is matched to at most one reconstruction and each reconstruction
to at most one original, at the smallest total cost (Hungarian method: Kuhn, 1955).
"""

from __future__ import annotations

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.features import squared_errors

#: Stands for an original that got no reconstruction.
UNMATCHED = -1


def match(reconstructions: ArrayLike, originals: ArrayLike, kind: Kind | None = None) -> np.ndarray:
    """The one-to-one matching with the smallest sum of costs, squared errors unless the kind has others.

    Args:
      reconstructions: `[m, ...]`; ones that are not finite match anything equally badly.
      originals: `[n, ...]`, examples of the same shape.
      kind: what examples are; None takes squared errors of values in [0, 1].

    Returns:
      int64 `[n]`: the index of each original's reconstruction, or UNMATCHED (-1) if m < n left it without one.
      With m = n it is a permutation: `reconstructions[match(...)]` is in the originals' order.

    Raises:
      ParameterError: the examples' shapes differ, or the originals are not finite.
    """
    from scipy.optimize import linear_sum_assignment

    found, true = np.asarray(reconstructions, np.float64), np.asarray(originals, np.float64)
    if found.shape[1:] != true.shape[1:] or found.ndim < 2:
        raise ParameterError(
            f"reconstructions of shape {list(found.shape[1:])} cannot match originals of shape {list(true.shape[1:])}"
        )
    if not np.isfinite(true).all():
        raise ParameterError("originals to match must be finite; these hold infinities or not-a-number")
    finite = np.isfinite(found).reshape(len(found), -1).all(axis=1) if kind is None else kind.claimed(found)
    with np.errstate(invalid="ignore"):
        cost = squared_errors(found, true) if kind is None else kind.costs(found, true)
    bounded = cost[:, finite]
    worst = 2.0 * bounded[np.isfinite(bounded)].max(initial=0.5)
    cost = np.where(finite[None, :] & np.isfinite(cost), cost, worst)
    which = np.full(len(true), UNMATCHED, np.int64)
    rows, columns = linear_sum_assignment(cost)
    which[rows] = columns
    return which


def match_labels(claimed: ArrayLike, true: ArrayLike) -> np.ndarray:
    """Which true labels were found, when labels are all there is: each claim accounts for one example.

    Args:
      claimed: int `[m]`.
      true: int `[n]`.

    Returns:
      bool `[n]`; of several examples with one label the first count as found.
    """
    claims = list(_labels(claimed, "claimed"))
    right = np.zeros(len(_labels(true, "true")), bool)
    for i, label in enumerate(np.asarray(true).tolist()):
        if label in claims:
            claims.remove(label)
            right[i] = True
    return right


def label_accuracy(claimed: ArrayLike, true: ArrayLike) -> float:
    """Fraction of a batch's labels an attack found, matched one-to-one: claiming (3, 3) for (3, 7) is one half.

    Args:
      claimed: int `[m]`, in any order.
      true: int `[n]`, n > 0.

    Returns:
      Found labels over n.

    Raises:
      ParameterError: labels that are not a flat array of integers, or no true labels.
    """
    if not len(_labels(true, "true")):
        raise ParameterError("label accuracy of no labels is undefined; give at least one true label")
    return float(match_labels(claimed, true).mean())


def _labels(labels: ArrayLike, what: str) -> list[int]:
    array = np.asarray(labels)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ParameterError(
            f"{what} labels must be integers [n], not {array.dtype} {list(array.shape)}; "
            "take the argmax of probabilities first"
        )
    return array.tolist()
