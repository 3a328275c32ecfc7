"""CIFAR batches: the python (pickle) and binary forms of CIFAR-10 and CIFAR-100 (Krizhevsky, 2009).

Pickles can run code when read, and a data folder may come from anywhere: only plain containers and NumPy arrays are
let through, everything else in a pickle is refused by name.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base.errors import DataError, printable, reason
from fedpriv.data.check import make_dataset
from fedpriv.data.dataset import Dataset

_PIXELS = 3 * 32 * 32
_TRAIN_10 = tuple(f"data_batch_{i}" for i in range(1, 6))


def _encode_latin1(text: str, encoding: str) -> bytes:
    # Protocol 2 pickles written by Python 3 store bytes this way.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return codecs.encode(text, "latin1")


def _empty_array(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    # What NumPy writes first of each array; its true shape and data follow. Any other shape would only take memory.
    if subtype is not _ARRAY or shape != (0,):
        raise pickle.UnpicklingError(f"array that starts with shape {shape!r:.40}")
    return np.empty(0, np.uint8)


_ARRAY = object()  # stands for numpy.ndarray, which must not be called


class _Whole:
    """A file's content, of which no more can be asked for than there is."""

    def __init__(self, content: bytes) -> None:
        self.stream = io.BytesIO(content)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        if size > len(self.stream.getbuffer()) - self.stream.tell():
            raise EOFError
        return self.stream.read(size)

    def readline(self) -> bytes:
        """A line with its end."""
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line


class _Restricted(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Builds containers, numbers, text and NumPy arrays, nothing else.

    Python's own unpickler, because C's takes any amount of memory for a damaged number of an object.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) == ("numpy", "ndarray"):
            return _ARRAY
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) == ("numpy.core.multiarray", "scalar"):
            return np.core.multiarray.scalar  # type: ignore[attr-defined]
        if (module, name) == ("numpy.core.numeric", "_frombuffer"):
            return np.core.numeric._frombuffer  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_pickle_batch(path: str | Path, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 32, 32, 3]` uint8 and labels `[n]` of one python-form batch.

    Args:
      path: the file.
      labels_key: `labels` (CIFAR-10) or `fine_labels` (CIFAR-100).

    Raises:
      DataError: missing, truncated, holding anything but containers and arrays, or of another shape.
    """
    try:
        content = _Restricted(_Whole(Path(path).read_bytes()), encoding="bytes").load()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); expected a CIFAR batch") from e
    except EOFError as e:
        raise DataError(f"{path}: truncated: the pickle ends early; get the file again") from e
    except pickle.UnpicklingError as e:
        if "asks for" in str(e):
            raise DataError(
                f"{path}: refused: {reason(e)}; expected a CIFAR batch, which holds only arrays and lists"
            ) from e
        raise DataError(f"{path}: no readable pickle, or truncated ({reason(e)}); expected a CIFAR batch") from e
    except Exception as e:  # a damaged pickle can fail in any of its opcodes
        raise DataError(f"{path}: damaged ({type(e).__name__}: {reason(e)}); expected a CIFAR batch") from e
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; expected a dict with data and {labels_key}")
    entries = {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in content.items()}
    for key in ("data", labels_key):
        if key not in entries:
            raise DataError(
                f"{path}: no '{key}' in it; found {printable(', '.join(sorted(entries)[:10])) or 'nothing'}"
            )
    data = entries["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: data is {found}; expected uint8 [n, {_PIXELS}]")
    try:
        labels = np.asarray(entries[labels_key])
    except ValueError as e:
        raise DataError(f"{path}: {labels_key} is ragged ({reason(e)}); expected a list of integers") from e
    return _images(data), labels


def read_binary_batch(path: str | Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 32, 32, 3]` uint8 and labels `[n]` of one binary-form batch.

    Args:
      path: the file.
      label_bytes: 1 (CIFAR-10), or 2 (CIFAR-100: coarse, then fine; the fine one is returned).

    Raises:
      DataError: missing, or truncated: its size is no whole number of records.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); expected a CIFAR batch") from e
    record = label_bytes + _PIXELS
    if len(data) == 0 or len(data) % record:
        raise DataError(
            f"{path}: truncated: found {len(data)} bytes; expected whole records of {record} bytes "
            f"(the last has {len(data) % record}); get the file again"
        )
    rows = data.reshape(-1, record)
    return _images(rows[:, label_bytes:]), rows[:, label_bytes - 1].copy()


def _images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def cifar_kind(folder: Path) -> tuple[int, bool] | None:
    """(number of classes, binary form?) if `folder` holds CIFAR batches, else None."""
    files = {p.name for p in folder.iterdir() if p.is_file()}
    for classes, train, test in ((10, _TRAIN_10, "test_batch"), (100, ("train",), "test")):
        for binary in (False, True):
            suffix = ".bin" if binary else ""
            if files & {f"{n}{suffix}" for n in (*train, test)}:
                return classes, binary
    return None


def read_cifar_folder(
    folder: str | Path, name: str, class_names: tuple[str, ...] = ()
) -> tuple[Dataset, Dataset | None]:
    """Training and test set from a folder of CIFAR batches, python or binary form.

    Args:
      folder: holds `data_batch_1` to `data_batch_5` and `test_batch` (CIFAR-10), or `train` and `test` (CIFAR-100,
        fine labels); in the binary form each name ends in `.bin`.
      name: the datasets' name.
      class_names: one a class, or empty.

    Returns:
      Training set and test set (None without a test batch); uint8 `[n, 32, 32, 3]`.

    Raises:
      DataError: a file that is missing, truncated or malformed, batches of unequal length, or labels out of range.
    """
    folder = Path(folder)
    kind = cifar_kind(folder)
    if kind is None:
        raise DataError(f"{folder}: no CIFAR batches in it; expected {_TRAIN_10[0]} or train, with or without .bin")
    classes, binary = kind
    names, test_name = (_TRAIN_10, "test_batch") if classes == 10 else (("train",), "test")
    suffix = ".bin" if binary else ""

    def read(file: str) -> tuple[np.ndarray, np.ndarray]:
        path = folder / (file + suffix)
        if not path.is_file():
            raise DataError(f"{path} is missing; expected {', '.join(n + suffix for n in names)} in {folder}")
        if binary:
            x, y = read_binary_batch(path, 1 if classes == 10 else 2)
        else:
            x, y = read_pickle_batch(path, "labels" if classes == 10 else "fine_labels")
        part = make_dataset(name, x, y, file=str(path), num_classes=classes)
        return part.x, part.y

    batches = [read(n) for n in names]
    sizes = [len(y) for _, y in batches]
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{n}{suffix}: {s}" for n, s in zip(names, sizes))
        raise DataError(f"{folder}: batches of unequal length ({listed}); expected as many images in each")
    form = "CIFAR binary batches" if binary else "CIFAR python batches"

    def assemble(parts: list[tuple[np.ndarray, np.ndarray]]) -> Dataset:
        x, y = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        return Dataset(name, x, y, classes, class_names, None, form)

    has_test = (folder / (test_name + suffix)).is_file()
    return assemble(batches), assemble([read(test_name)]) if has_test else None
