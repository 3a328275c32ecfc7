"""Embedded data: a small, class-balanced Fashion-MNIST inside the package, so that everything runs at once."""

from __future__ import annotations

import importlib.resources

import numpy as np

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data.check import make_dataset
from fedpriv.data.dataset import Dataset
from fedpriv.data.idx import parse_idx
from fedpriv.data.known import KNOWN

FOLDER = "fashion_small_idx"
FILES = {
    ("train", "images"): "train-images-idx3-ubyte.xz",
    ("train", "labels"): "train-labels-idx1-ubyte.xz",
    ("test", "images"): "t10k-images-idx3-ubyte.xz",
    ("test", "labels"): "t10k-labels-idx1-ubyte.xz",
}
TRAIN_PER_CLASS = 1000
TEST_PER_CLASS = 200


def fashion_small(data_dir: str | None = None) -> tuple[Dataset, Dataset]:
    """A subset of Fashion-MNIST inside the package: 10,000 training and 2,000 test images, 28 x 28 grey, 10 classes.

    The default data: needs no files and no network. It holds the first 1,000 training and 200 test images of each
    class of Fashion-MNIST, unchanged, in an order that walks through the classes, so that any first 10k examples are
    balanced too. Expect a few points less test accuracy than with the full 60,000 images (`fashion_mnist`).

    Paper: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
    2017, arXiv 1708.07747. Licence: MIT, copyright 2017 Zalando SE; its text lies beside the data.

    Args:
      data_dir: must be None: there is nothing to read.

    Returns:
      Training and test set, uint8 `[n, 28, 28, 1]`.

    Raises:
      ParameterError: a `data_dir` was given.
      DataError: the package's copy is damaged.
    """
    if data_dir is not None:
        raise ParameterError(
            f"data_dir={data_dir}: fashion_small is built in and reads no folder; use fashion_mnist with data_dir, "
            "or give the folder itself as the data"
        )
    known = KNOWN["fashion_mnist"]
    folder = importlib.resources.files("fedpriv.data") / FOLDER
    sets = []
    for split in ("train", "test"):
        arrays = []
        for part, rank in (("images", 3), ("labels", 1)):
            name = FILES[split, part]
            try:
                data = (folder / name).read_bytes()
            except OSError as e:
                raise DataError(f"fedpriv/data/{FOLDER}/{name} is missing from the package; reinstall fedpriv") from e
            arrays.append(parse_idx(data, f"fedpriv/data/{FOLDER}/{name}", rank))
        order = interleaved(arrays[1])
        sets.append(
            make_dataset(
                "fashion_small",
                arrays[0][order],
                arrays[1][order],
                file=f"fedpriv/data/{FOLDER}",
                num_classes=known.num_classes,
                class_names=known.class_names,
                source="inside the package",
            )
        )
    return sets[0], sets[1]


def interleaved(labels: np.ndarray) -> np.ndarray:
    """Indices that visit the classes in turn: the first example of each class, then the second of each, ..."""
    rank = np.empty(len(labels), np.int64)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))
