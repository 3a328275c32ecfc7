"""NPZ: arrays `x` and `y` in one NumPy archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from fedpriv.base.errors import DataError, printable, reason
from fedpriv.data.check import check_pair, checked_labels, make_dataset, stated_kind
from fedpriv.data.dataset import Dataset

_ALIASES = {"x": ("x", "x_train"), "y": ("y", "y_train")}


def read_npz(
    path: str | Path, name: str, num_classes: int | None = None, class_names: tuple[str, ...] = ()
) -> tuple[Dataset, Dataset | None]:
    """Training set, and test set if there is one, from an `.npz` archive.

    Args:
      path: holds `x` `[n, height, width, channels]` (or `[n, height, width]`, or `[n, features]`), uint8 or floats in
        [0, 1], and `y` `[n]` integers. Optional: `x_test` and `y_test`; `keys` `[n]`, each example's natural client,
        such as its writer; `class_names`; `num_classes`, 0 where `y` holds quantities; `kind`, what examples are, such
        as `features` (numbers of any range) or `tokens(length=20,vocabulary=500)`. Keras's names `x_train` and
        `y_train` do too. Pickled (object) arrays are refused.
      name: the datasets' name.
      num_classes: number of classes; None for what the archive says, else one more than the largest label.
      class_names: one a class; the archive's own come first.

    Raises:
      DataError: missing, corrupt, or an array that is absent, pickled or malformed.
    """
    path = Path(path)
    arrays = read_arrays(path)
    for role, accepted in _ALIASES.items():
        given = next((a for a in accepted if a in arrays), None)
        if given is None:
            raise DataError(f"{path}: no array '{role}'; found {_listed(arrays)}")
        arrays[role] = arrays[given]
    if ("x_test" in arrays) != ("y_test" in arrays):
        lone = "x_test" if "x_test" in arrays else "y_test"
        raise DataError(f"{path}: '{lone}' stands alone; expected both x_test and y_test, or neither")
    if "class_names" in arrays:
        named = arrays["class_names"]
        if named.ndim != 1 or named.dtype.kind not in "Uiu":
            raise DataError(
                f"{path}: class_names have shape {named.shape} and dtype {named.dtype}; expected one text a class"
            )
        class_names = tuple(str(c) for c in named)
    splits = ["", "_test"] if "x_test" in arrays else [""]
    if num_classes is None:
        num_classes = _stated_classes(arrays, path)
    if num_classes is None and class_names:
        num_classes = len(class_names)
    if num_classes is None:
        num_classes = max(int(checked_labels(arrays[f"y{s}"], f"{path} (y{s})").max()) for s in splits) + 1
    kind = None
    if "kind" in arrays:
        kind = stated_kind(_text(arrays["kind"], path), [arrays[f"x{s}"] for s in splits], f"{path} (kind)")
    sets = [
        make_dataset(
            name,
            arrays[f"x{s}"],
            arrays[f"y{s}"],
            file=f"{path} (x{s})",
            labels_file=f"{path} (y{s})",
            num_classes=num_classes,
            class_names=class_names,
            keys=None if s else arrays.get("keys"),
            source=f"arrays in {path.name}",
            kind=kind,
        )
        for s in splits
    ]
    test = sets[1] if len(sets) == 2 else None
    check_pair(sets[0], test, str(path))
    return sets[0], test


def _stated_classes(arrays: dict[str, np.ndarray], path: Path) -> int | None:
    if "num_classes" not in arrays:
        return None
    stated = arrays["num_classes"]
    if stated.size != 1 or stated.dtype.kind not in "iu" or int(stated.item()) < 0:
        found = stated.item() if stated.size == 1 else f"an array of shape {stated.shape}"
        raise DataError(f"{path}: num_classes is {found!s:.60}; expected one positive integer, or 0 for quantities")
    return int(stated.item())


def _listed(arrays: dict[str, np.ndarray]) -> str:
    names = [printable(name) for name in sorted(arrays)]
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"


def _text(array: np.ndarray, path: Path) -> str:
    if array.size != 1 or array.dtype.kind != "U":
        raise DataError(
            f"{path}: kind has shape {array.shape} and dtype {array.dtype}; expected one text, such as 'features'"
        )
    return str(array.item())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, by name; pickled objects are refused.

    Raises:
      DataError: missing, corrupt, or with pickled objects.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; expected an .npz archive")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: corrupt or truncated: expected an .npz archive, as numpy.savez writes it")
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                try:
                    arrays[key] = archive[key]
                except ValueError as e:
                    if "allow_pickle" not in str(e):
                        raise
                    raise DataError(
                        f"{path}: array '{printable(key)}' holds pickled Python objects; expected numbers; "
                        "save it with a numeric dtype"
                    ) from e
    except DataError:
        raise
    except Exception as e:  # a damaged archive can fail anywhere in zipfile, zlib and NumPy
        raise DataError(f"{path}: corrupt ({reason(e)}); expected an .npz archive, as numpy.savez writes it") from e
    return {k: _as_text(v, k, path) for k, v in arrays.items() if isinstance(v, np.ndarray)}


def _as_text(array: np.ndarray, key: str, path: Path) -> np.ndarray:
    """The array, bytes read as UTF-8: `str` would make "b'cat'" of the name `b"cat"`."""
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as e:
        raise DataError(
            f"{path}: array '{printable(key)}' holds bytes that are not UTF-8 text; save it as text or numbers"
        ) from e
