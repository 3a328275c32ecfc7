"""Checks that every source passes: pixels, labels and counts, with errors that name the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedpriv.base.errors import DataError
from fedpriv.data.dataset import Dataset

MAX_INFERRED_CLASSES = 65536


def checked_images(x: np.ndarray, file: str) -> np.ndarray:
    """Pixels as `[n, height, width, channels]` or `[n, features]`, uint8 or float32 in [0, 1].

    Args:
      x: `[n, height, width, channels]`, `[n, height, width]` (a channel axis is added) or `[n, features]`; uint8, or
        floats in [0, 1].
      file: what to name in errors.

    Raises:
      DataError: another rank or dtype, an empty axis, NaN or infinite pixels, floats outside [0, 1].
    """
    if x.ndim not in (2, 3, 4):
        raise DataError(
            f"{file}: images have shape {x.shape}; expected [n, height, width, channels], [n, height, width] "
            "or [n, features]"
        )
    if 0 in x.shape:
        raise DataError(f"{file}: images have shape {x.shape}: there is nothing in them; expected at least one example")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(
            f"{file}: images have dtype {x.dtype}; expected uint8 (0 to 255) or floats in [0, 1]; "
            "convert with .astype(np.uint8) if the values allow it"
        )
    if x.dtype.kind == "f":
        _check_floats(x, file)
        x = x.astype(np.float32)
    return np.ascontiguousarray(x[..., None] if x.ndim == 3 else x)


def _check_floats(x: np.ndarray, file: str) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        first = int(np.argmin(finite.reshape(len(x), -1).all(axis=1)))
        raise DataError(
            f"{file}: {int(finite.size - finite.sum())} pixels are NaN or infinite (the first in example {first}); "
            "expected finite values in [0, 1]"
        )
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        hint = "divide by 255, or store uint8" if low >= 0 and high <= 255 else "rescale them"
        raise DataError(f"{file}: float pixels span [{low:g}, {high:g}]; expected [0, 1]; {hint}")


def checked_labels(y: np.ndarray, file: str, num_classes: int | None = None) -> np.ndarray:
    """Labels as `[n]` int32, each in [0, num_classes).

    Args:
      y: `[n]` or `[n, 1]` integers.
      file: what to name in errors.
      num_classes: number of classes, or None to accept any number up to `MAX_INFERRED_CLASSES`.

    Raises:
      DataError: another rank or dtype, or a label out of range.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(
            f"{file}: labels have shape {y.shape}; expected [n] class numbers "
            "(from one-hot rows, take argmax over axis 1)"
        )
    if y.dtype.kind not in "iu":
        raise DataError(f"{file}: labels have dtype {y.dtype}; expected integers")
    if len(y) == 0:
        raise DataError(f"{file}: there are no labels; expected at least one example")
    limit = num_classes if num_classes is not None else MAX_INFERRED_CLASSES
    outside = (y < 0) | (y >= limit)
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"{file}: {int(outside.sum())} labels are out of range (example {first} has label {int(y[first])}); "
            f"expected 0 to {limit - 1}"
        )
    return y.astype(np.int32)


def make_dataset(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    file: str,
    num_classes: int | None = None,
    class_names: tuple[str, ...] = (),
    keys: Any = None,
    source: str = "",
    labels_file: str | None = None,
) -> Dataset:
    """A `Dataset` from checked arrays (see `checked_images`, `checked_labels`).

    Args:
      name: the dataset's name.
      x: images.
      y: labels.
      file: the file the images came from, for errors.
      num_classes: number of classes, or None for one more than the largest label.
      class_names: one a class, or empty.
      keys: `[n]` natural client key of each example, or None.
      source: where it came from, for reports.
      labels_file: the file the labels came from, if another.

    Raises:
      DataError: anything malformed, or counts that do not match.
    """
    labels_file = labels_file or file
    y = checked_labels(np.asarray(y), labels_file, num_classes)
    x = checked_images(np.asarray(x), file)
    if len(x) != len(y):
        where = file if labels_file == file else f"{file} and {labels_file}"
        raise DataError(f"{where}: {len(x)} images but {len(y)} labels; expected as many of each")
    if keys is not None:
        keys = np.asarray(keys)
        if keys.shape != (len(y),):
            raise DataError(f"{file}: client keys have shape {keys.shape}; expected one an example, [{len(y)}]")
    classes = num_classes if num_classes is not None else int(y.max()) + 1
    if class_names and len(class_names) != classes:
        raise DataError(f"{file}: {len(class_names)} class names for {classes} classes; expected one a class")
    return Dataset(name, x, y, classes, tuple(class_names), keys, source)


def check_pair(train: Dataset, test: Dataset | None, file: str) -> None:
    """Refuses a test set whose examples differ in shape, or in number type, from the training set's."""
    if test is None:
        return
    if test.input_shape != train.input_shape:
        raise DataError(
            f"{file}: training examples have shape {train.input_shape} but test examples {test.input_shape}; "
            "expected the same"
        )
    if test.num_classes != train.num_classes:
        raise DataError(
            f"{file}: {train.num_classes} classes in training but {test.num_classes} in test; expected the same"
        )
