"""Formats: reads whatever dataset lies at a path, told apart by the files that are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data.cifar import cifar_kind, read_cifar_folder
from fedpriv.data.dataset import Dataset
from fedpriv.data.idx import idx_files, read_idx_folder
from fedpriv.data.image_folder import is_photo, photos, read_image_folder, subfolders
from fedpriv.data.known import KNOWN, KnownSet, known_by_file_name
from fedpriv.data.npz import read_npz
from fedpriv.data.table import is_table, table
from fedpriv.data.text import is_text, text

EXPECTED = (
    "an .npz file with arrays x and y, a folder of IDX files (train-images-idx3-ubyte, ..., .gz or not), "
    "a folder of CIFAR batches (data_batch_1, ... or train, with or without .bin), an image folder "
    "(one subfolder a class), a photo or a folder of them, a table (a CSV file with a heading, or an .npz with one "
    "array a column), or texts (a .txt or .jsonl file, or a CSV file with a column 'text')"
)


def detect(path: Path) -> str | None:
    """`npz`, `text`, `table`, `idx`, `cifar`, `images` or `photos`: the format of what lies at `path`, or None."""
    if path.is_file():
        if is_text(path):
            return "text"
        if is_table(path):
            return "table"
        return "npz" if path.suffix.lower() == ".npz" else "photos" if is_photo(path) else None
    if not path.is_dir():
        return None
    if idx_files(path):
        return "idx"
    if cifar_kind(path) is not None:
        return "cifar"
    return "images" if subfolders(path) else "photos" if is_photo(path) else None


def read_path(
    path: str | Path, image_size: int | None = None, num_classes: int | None = None, known: KnownSet | None = None
) -> tuple[Dataset, Dataset | None]:
    """Training set, and test set if there is one, from `path`.

    A file or folder named after a public set, such as `cifar100_test.npz`, takes that set's number of classes and
    class names when its examples have that set's shape.

    Args:
      path: an `.npz` file, a table, a file of texts, a folder of IDX files, a folder of CIFAR batches, or an image
        folder.
      image_size: height and width that an image folder's images are resized to (default 32).
      num_classes: number of classes, for `.npz` and IDX; None to find out.
      known: the public set that this must be; None to go by the name.

    Raises:
      DataError: missing, of no known format, or malformed; names the file and what was expected.
      ParameterError: an option that the format does not have.
    """
    path = Path(path).expanduser()
    try:
        kind = detect(path)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e})") from e
    if kind is None:
        raise DataError(_undetected(path))
    if image_size is not None and kind not in ("images", "photos"):
        raise ParameterError(f"image_size={image_size}: {path} is no image folder, and only those are resized")
    if num_classes is not None and kind not in ("npz", "idx", "photos"):
        raise ParameterError(f"num_classes={num_classes}: {path} says itself how many classes it has; leave it out")
    if num_classes is not None and num_classes < 1:
        raise ParameterError(f"num_classes={num_classes}: expected a positive number")
    if kind == "text":
        return text(str(path))
    if kind == "table":
        return table(str(path))
    if kind == "photos":
        return photos(str(path), 32 if image_size is None else image_size, num_classes)
    resolved = path.resolve()
    stem = resolved.stem if kind == "npz" else resolved.name
    if kind == "images":
        return read_image_folder(path, stem, 32 if image_size is None else image_size)
    if kind == "cifar":
        kind10 = cifar_kind(path)
        known = KNOWN["cifar10" if kind10 and kind10[0] == 10 else "cifar100"]
        return read_cifar_folder(path, known.name, known.class_names)
    read = read_npz if kind == "npz" else read_idx_folder
    name = known.name if known is not None else stem
    train, test = read(path, name, num_classes if known is None else known.num_classes)
    if known is None and num_classes is None and (guess := known_by_file_name(stem)) is not None:
        return _adopt(train, guess), None if test is None else _adopt(test, guess)
    if known is not None:
        return _adopt(train, known), None if test is None else _adopt(test, known)
    return train, test


def _adopt(dataset: Dataset, known: KnownSet) -> Dataset:
    fits = dataset.input_shape == known.shape and int(np.max(dataset.y)) < known.num_classes
    if not fits or dataset.class_names:
        return dataset
    return replace(dataset, num_classes=known.num_classes, class_names=known.class_names)


def _undetected(path: Path) -> str:
    if not path.exists():
        return f"{path} is missing; expected {EXPECTED}"
    if path.is_file():
        if path.name.endswith((".tar.gz", ".tgz", ".zip", ".tar")):
            return f"{path} is an archive; unpack it and give the folder"
        if "ubyte" in path.name:
            return f"{path} is a single IDX file; give its folder, which must hold the images and the labels"
        return f"{path}: no known data format; expected {EXPECTED}"
    found = sorted(p.name for p in path.iterdir())
    listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") if found else "nothing"
    return f"{path}: no data found in this folder (it holds {listed}); expected {EXPECTED}"
