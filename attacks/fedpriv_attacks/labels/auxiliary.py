"""Auxiliary data: public examples of the same kind as the client's, for attacks whose adversary has some."""

from __future__ import annotations

import functools

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.models.model import Model


def auxiliary(source: str, model: Model, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `per_class` training examples of each class of a dataset.

    Args:
      source: a dataset's name or path, as `fedpriv.data.load` takes it.
      model: what they are for.
      per_class: at most that many of each class.

    Returns:
      `x [m, *input_shape]` float32 in [0, 1] and labels `y [m]` int64, in the dataset's order.

    Raises:
      ParameterError: the examples or classes do not fit the model.
      UnknownNameError, DataError: no such data.
    """
    x, y, classes = _load(source, per_class)
    if x.shape[1:] != tuple(model.input_shape) or classes != model.num_classes:
        raise ParameterError(
            f"auxiliary data '{source}' have examples {list(x.shape[1:])} of {classes} classes, but model "
            f"'{model.name}' takes {list(model.input_shape)} and {model.num_classes} classes; give data of that shape"
        )
    return x, y


@functools.lru_cache(maxsize=4)
def _load(source: str, per_class: int) -> tuple[np.ndarray, np.ndarray, int]:
    from fedpriv.data import load

    train, _ = load(source)
    chosen = np.sort(np.concatenate([np.flatnonzero(train.y == c)[:per_class] for c in range(train.num_classes)]))
    return train.floats(chosen), train.y[chosen].astype(np.int64), train.num_classes
