"""Checks that every source passes: examples, labels, keys and counts, with errors that name the file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedpriv.base import registry
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.data.dataset import Dataset
from fedpriv.data.kind import Kind, check_finite
from fedpriv.data.kinds.default import kind_of
from fedpriv.data.kinds.image import looks_channels_first

MAX_INFERRED_CLASSES = 65536


def checked_examples(x: np.ndarray, file: str, kind: Kind | str | None = None) -> tuple[np.ndarray, Kind]:
    """Examples as they are kept, and their kind.

    Args:
      x: `[n, height, width, channels]`, `[n, height, width]` (a channel axis is added), `[n, features]`, or whatever
        `kind` takes; uint8, or floats in the kind's range.
      file: what to name in errors.
      kind: a kind, or how it is written (see `stated_kind`); None goes by the shape, with values in [0, 1].

    Raises:
      DataError: another rank or dtype, channels first, an empty axis, NaN or infinite values, values out of range.
    """
    if isinstance(kind, str):
        kind = stated_kind(kind, [x], file)
    if isinstance(kind, Kind):
        check_some(x, file)
        x = x[..., None] if kind.name == "image" and x.shape[1:] == tuple(kind.shape[:2]) else x
        return kind.checked(x, file), kind
    if x.ndim not in (2, 3, 4):
        raise DataError(
            f"{file}: images have shape {x.shape}; expected [n, height, width, channels], [n, height, width] "
            "or [n, features]"
        )
    check_some(x, file)
    if x.ndim == 3:
        x = x[..., None]
    if looks_channels_first(x.shape[1:]):
        raise DataError(
            f"{file}: images have shape {x.shape}, which looks like channels first; expected [n, height, width, "
            "channels]: use np.moveaxis(x, 1, -1); if there really are that many channels, let the kind be 'features'"
        )
    guessed = kind_of(x.shape[1:])
    return guessed.checked(x, file), guessed


def check_some(x: np.ndarray, file: str) -> None:
    """Refuses an array that is no list of examples, or that has nothing in it."""
    if x.ndim < 2:
        raise DataError(f"{file}: examples have shape {x.shape}; expected [n, ...], one array an example")
    if 0 in x.shape:
        raise DataError(f"{file}: images have shape {x.shape}: there is nothing in them; expected at least one example")


def stated_kind(text: str, arrays: Sequence[np.ndarray], file: str) -> Kind:
    """The kind that is written as `name` or `name(key=value,...)`, for arrays of examples `[n, ...]`.

    What a kind takes of an array's shape need not be written: `image` is as large as the examples, and `features` span
    all values there are.

    Raises:
      UnknownNameError: no such kind.
      ParameterError: a parameter that it does not have, or lacks.
      DataError: there are no examples; names `file`.
    """
    name, given = registry.parse_call(text, "kind")
    for a in arrays:
        check_some(np.asarray(a), file)
    first = np.asarray(arrays[0])
    parameters: dict[str, Any] = {**given}
    if "shape" in registry.parameters_of(registry.kinds.load(name)):
        parameters.setdefault(
            "shape", (*first.shape[1:], 1) if name == "image" and first.ndim == 3 else first.shape[1:]
        )
    if name == "features" and not {"low", "high"} & set(given) and first.dtype != np.uint8:
        finite = [a[np.isfinite(a)] for a in map(np.asarray, arrays) if a.dtype.kind in "iuf"]
        if all(a.size for a in finite) and finite:
            low, high = float(min(a.min() for a in finite)), float(max(a.max() for a in finite))
            parameters |= {"low": low, "high": high if high > low else low + max(1.0, abs(low))}
    try:
        made: Kind = registry.kinds.create(name, **parameters)
    except ParameterError as e:
        raise ParameterError(f"{file}: {'; '.join(str(e).splitlines())}") from e
    return made


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
        hint = "give their class numbers, as integers"
        if y.dtype.kind == "f":
            hint = "convert class numbers with .astype(int); or num_classes=0 for quantities"
        elif y.dtype.kind in "US":
            hint = "convert names to class numbers with np.unique(y, return_inverse=True)"
        raise DataError(f"{file}: labels have dtype {y.dtype}; expected integers: {hint}")
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


def checked_targets(y: np.ndarray, file: str) -> np.ndarray:
    """Targets that are quantities, as float32 `[n]` or `[n, k]`.

    Raises:
      DataError: no numbers, another rank, or NaN or infinite ones.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.dtype.kind not in "iuf" or not y.size:
        raise DataError(f"{file}: targets have shape {y.shape} and dtype {y.dtype}; expected [n] or [n, k] numbers")
    check_finite(y, file, "targets", "finite numbers")
    with np.errstate(over="ignore"):
        single = y.astype(np.float32)
    check_finite(single, file, "targets", f"numbers up to {np.finfo(np.float32).max:.1e}; rescale them", "out of range")
    return single


def make_dataset(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    file: str,
    num_classes: int | None = None,
    class_names: tuple[str, ...] = (),
    keys: ArrayLike | None = None,
    source: str = "",
    labels_file: str | None = None,
    kind: Kind | str | None = None,
) -> Dataset:
    """A `Dataset` from checked arrays (see `checked_examples`, `checked_labels`, `checked_targets`).

    Args:
      name: the dataset's name.
      x: examples.
      y: labels, or targets.
      file: the file the examples came from, for errors.
      num_classes: number of classes, 0 where `y` holds quantities, or None for one more than the largest label.
      class_names: one a class, or empty.
      keys: `[n]` natural client key of each example, or None.
      source: where it came from, for reports.
      labels_file: the file the labels came from, if another.
      kind: what examples are; see `checked_examples`.

    Raises:
      DataError: anything malformed, or counts that do not match.
    """
    labels_file = labels_file or file
    quantities = num_classes == 0
    y = (
        checked_targets(np.asarray(y), labels_file)
        if quantities
        else checked_labels(np.asarray(y), labels_file, num_classes)
    )
    x, made = checked_examples(np.asarray(x), file, kind)
    if len(x) != len(y):
        where = file if labels_file == file else f"{file} and {labels_file}"
        raise DataError(f"{where}: {len(x)} {made.noun}s but {len(y)} labels; expected as many of each")
    if keys is not None:
        keys = checked_keys(np.asarray(keys), len(y), file)
    classes = num_classes if num_classes is not None else int(y.max()) + 1
    if class_names and len(class_names) != classes:
        raise DataError(f"{file}: {len(class_names)} class names for {classes} classes; expected one a class")
    return Dataset(name, x, y, classes, tuple(class_names), keys, source, made)


def checked_keys(keys: np.ndarray, examples: int, file: str) -> np.ndarray:
    """Client keys, one an example.

    Raises:
      DataError: another shape, or a key that is no value, such as NaN.
    """
    if keys.shape != (examples,):
        raise DataError(f"{file}: client keys have shape {keys.shape}; expected one an example, [{examples}]")
    if keys.dtype.kind in "fcmM" and np.isnan(keys).any():
        raise DataError(f"{file}: the client key of example {int(np.argmax(np.isnan(keys)))} is NaN; give it an owner")
    return keys


def checked_dataset(dataset: Dataset, file: str) -> Dataset:
    """A dataset that somebody's own code made, put through the checks that files pass.

    Raises:
      DataError: NaN or infinite values, values out of range, channels first.
    """
    inferred = dataset.kind == kind_of(dataset.input_shape)
    x, kind = checked_examples(dataset.x, file, None if inferred else dataset.kind)
    y = dataset.y if dataset.num_classes else checked_targets(dataset.y, file)
    keys = None if dataset.keys is None else checked_keys(dataset.keys, len(y), file)
    return replace(dataset, x=x, y=y, kind=kind, keys=keys)


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
    if test.kind != train.kind:
        raise DataError(f"{file}: training and test examples differ in kind or range; give both one kind")
    if test.y.shape[1:] != train.y.shape[1:]:
        raise DataError(
            f"{file}: training targets have shape {train.y.shape[1:]} but test targets {test.y.shape[1:]}; "
            "expected the same"
        )


def warn_of_duplicates(train: Dataset, test: Dataset | None, file: str) -> None:
    """Warns where test examples are training examples too: held-out quality is then too good."""
    if test is None or train.x.dtype != test.x.dtype:
        return
    seen = {example.tobytes() for example in train.x}
    count = sum(example.tobytes() in seen for example in test.x)
    if count:
        warnings.warn(
            f"{file}: {count} of {len(test)} test examples are in the training set too, so what is measured on them "
            "is not held out",
            stacklevel=3,
        )
