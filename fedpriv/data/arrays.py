"""Arrays: datasets from arrays in memory, however another language lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from fedpriv.base.errors import DataError, ParameterError, did_you_mean
from fedpriv.base.types import ArrayLike
from fedpriv.data.check import make_dataset
from fedpriv.data.dataset import Dataset

#: What R's NA is among its whole numbers, which have 32 bits.
MISSING_INT32 = np.iinfo(np.int32).min

#: What R's NA is among texts by the time it gets here.
MISSING_TEXT = "NA"

Fraction = Annotated[float, Field(ge=0, lt=1)]


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    name: str = "arrays",
    class_names: Sequence[str] = (),
    num_classes: int | None = None,
    test_fraction: Fraction = 0.2,
    keys: ArrayLike | None = None,
    kind: str | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Training and test set from arrays as R and others hand them over.

    Args:
      x: `[n, height, width, channels]`, `[n, height, width]` or `[n, features]`, by rows or by columns in memory. Whole
        numbers from 0 to 255, of which one is above 1, are levels of 1/255; other numbers are taken as they are.
      y: `[n]` names of classes, or their numbers from 0, or quantities where `num_classes` is 0.
      name: what to call it.
      class_names: in the order of the numbers, such as a factor's levels; with names in `y`, empty takes those found,
        in alphabetical order.
      num_classes: number of classes, or 0 for quantities; None for as many as there are.
      test_fraction: share held out for testing, drawn once and for all; 0 for none.
      keys: `[n]`, whose each example is, for the partition `natural`.
      kind: what examples are, such as `features` for numbers of any range; None goes by the shape.

    Raises:
      DataError: malformed arrays, or missing values, also those that R has for whole numbers and texts.
      ParameterError: `test_fraction` is no share.
    """
    class_names = (class_names,) if isinstance(class_names, str) else tuple(class_names)  # R's vector of one is a text
    what = f"dataset '{name}'"
    examples = _numbers(np.asarray(x), f"{what}: x")
    targets = np.asarray(y)
    if targets.dtype.kind in "OUS":
        if num_classes == 0:
            raise DataError(f"{what}: y holds names, but num_classes=0 says that targets are quantities; leave it out")
        targets, class_names = _numbered(targets, class_names, what)
    else:
        targets = _numbers(targets, f"{what}: y")
        if num_classes != 0 and targets.dtype.kind == "f" and not np.isnan(targets).any():
            if (targets != np.rint(targets)).any():
                raise DataError(f"{what}: y holds numbers that are not whole; with num_classes=0 they are quantities")
            targets = targets.astype(np.int64)
    if num_classes is None and class_names:
        num_classes = len(class_names)
    count = None if num_classes is None else int(num_classes)
    owners = None if keys is None else np.asarray(keys)
    made = make_dataset(
        name, examples, targets, file=what, num_classes=count, class_names=class_names, keys=owners, kind=kind
    )
    training, held_out = split(len(made), test_fraction)
    return made.take(training), made.take(held_out) if len(held_out) else None


def split(examples: int, test_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and test examples, in an order drawn once and for all; none for a share of 0.

    Raises:
      ParameterError: `test_fraction` is no share.
    """
    if not 0 <= test_fraction < 1:
        raise ParameterError(f"test_fraction={test_fraction}: give a share from 0 to below 1")
    order = np.random.RandomState(0).permutation(examples)
    count = round(test_fraction * examples) if test_fraction else 0
    count = min(max(count, int(test_fraction > 0)), examples - 1)
    return order[: examples - count], order[examples - count :]


def check_missing(values: np.ndarray, where: str) -> None:
    """Refuses R's NA among whole numbers, which is a number like any other here.

    Raises:
      DataError: names `where` and the first row, counted from 1.
    """
    if values.dtype != np.int32 or not values.size:
        return
    missing = (values == MISSING_INT32).reshape(len(values), -1).any(axis=1)
    if missing.any():
        raise DataError(
            f"{where} has {int(missing.sum())} missing values (the first in row {int(np.argmax(missing)) + 1}): "
            f"{MISSING_INT32} is what R's NA is among whole numbers; fill them, or leave those rows out"
        )


def _numbers(values: np.ndarray, where: str) -> np.ndarray:
    """By rows in memory; levels as uint8, whole numbers as they are, others as float32."""
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where} has dtype {values.dtype}; expected numbers")
    check_missing(values, where)
    if values.ndim > 1 and values.dtype.kind in "biu":
        levels = values.size and values.min() >= 0 and 1 < values.max() <= 255
        return np.ascontiguousarray(values, np.uint8 if levels else np.float32)
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    return np.ascontiguousarray(values)


def _numbered(names: np.ndarray, class_names: tuple[str, ...], what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers of names, and the classes' names."""
    texts = names.astype(str)
    if texts.ndim != 1:
        raise DataError(f"{what}: y has shape {texts.shape}; expected one name an example")
    absent = np.array([n is None or n != n for n in names.tolist()])
    if not class_names or MISSING_TEXT not in class_names:
        absent |= texts == MISSING_TEXT
    if absent.any():
        raise DataError(
            f"{what}: y has {int(absent.sum())} missing values (the first in row {int(np.argmax(absent)) + 1}); leave "
            f"those rows out (R hands over NA as the text '{MISSING_TEXT}'; a class of that name must be among "
            "class_names)"
        )
    known = class_names or tuple(sorted(set(texts.tolist())))
    number = {name: i for i, name in enumerate(known)}
    for row, text in enumerate(texts.tolist(), 1):
        if text not in number:
            raise DataError(f"{what}: y is '{text}' in row {row}, which is no class.{did_you_mean(text, known)}")
    return np.array([number[t] for t in texts.tolist()], np.int64), known
