"""Sources: the public datasets by name, through Keras's loaders or from files on disk."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.data.check import make_dataset
from fedpriv.data.dataset import Dataset
from fedpriv.data.formats import detect, read_path
from fedpriv.data.known import KNOWN, KnownSet

_PROBE_SECONDS = 8.0
_STALL_SECONDS = 30.0


def mnist(data_dir: str | None = None) -> tuple[Dataset, Dataset]:
    """MNIST: handwritten digits, 60,000 training and 10,000 test images, 28 x 28 grey, 10 classes.

    Scanned digits of American census employees and high-school students, size-normalized and centred; the usual first
    benchmark of federated learning (Table 1 of McMahan et al., 2017, arXiv 1602.05629). Classes are nearly balanced.
    Read from `data_dir` (IDX files, plain or .gz, or `mnist.npz`), else fetched and cached by Keras.

    Paper: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.

    Args:
      data_dir: folder of the four IDX files, or a folder that holds it as `mnist` or `MNIST/raw`; None to use Keras's
        loader.

    Returns:
      Training and test set, uint8 `[n, 28, 28, 1]`.

    Raises:
      DataError: files missing or malformed, or neither a network nor a cached copy.
    """
    return _obtain(KNOWN["mnist"], data_dir)


def fashion_mnist(data_dir: str | None = None) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST: clothing articles, 60,000 training and 10,000 test images, 28 x 28 grey, 10 classes.

    Product photographs of an online shop in MNIST's format, harder than digits and with more texture to reconstruct;
    6,000 training images a class. Read from `data_dir` (IDX files, plain or .gz), else from Debian's package
    dataset-fashion-mnist where it is installed, else fetched and cached by Keras. `fashion_small` is a subset that
    needs no files at all.

    Paper: Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747. Licence: MIT.

    Args:
      data_dir: folder of the four IDX files, or a folder that holds it as `fashion_mnist`, `fashion-mnist` or
        `FashionMNIST/raw`; None for Debian's copy or Keras's loader.

    Returns:
      Training and test set, uint8 `[n, 28, 28, 1]`.

    Raises:
      DataError: files missing or malformed, or neither a network nor a cached copy.
    """
    return _obtain(KNOWN["fashion_mnist"], data_dir)


def cifar10(data_dir: str | None = None) -> tuple[Dataset, Dataset]:
    """CIFAR-10: photographs of animals and vehicles, 50,000 training and 10,000 test images, 32 x 32 RGB, 10 classes.

    The usual colour benchmark of federated learning and of gradient inversion; 5,000 training images a class. Read
    from `data_dir` (python or binary batches; a python batch is a pickle and is read with everything but arrays and
    plain containers refused), else fetched and cached by Keras.

    Paper: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

    Args:
      data_dir: folder of `data_batch_1` to `data_batch_5` and `test_batch` (or the same with `.bin`), or a folder that
        holds it as `cifar-10-batches-py`, `cifar-10-batches-bin` or `cifar10`; None to use Keras's loader.

    Returns:
      Training and test set, uint8 `[n, 32, 32, 3]`.

    Raises:
      DataError: files missing or malformed, or neither a network nor a cached copy.
    """
    return _obtain(KNOWN["cifar10"], data_dir)


def cifar100(data_dir: str | None = None) -> tuple[Dataset, Dataset]:
    """CIFAR-100 with fine labels: 50,000 training and 10,000 test images, 32 x 32 RGB, 100 classes.

    Photographs of 100 kinds of animals, plants, things and scenes, 500 training images a class; the images on which
    the first gradient-inversion papers report (Zhu, Liu, Han, 2019, arXiv 1906.08935). Read from `data_dir` (python
    or binary form; see `cifar10`), else fetched and cached by Keras.

    Paper: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

    Args:
      data_dir: folder of `train` and `test` (or the same with `.bin`), or a folder that holds it as
        `cifar-100-python`, `cifar-100-binary` or `cifar100`; None to use Keras's loader.

    Returns:
      Training and test set, uint8 `[n, 32, 32, 3]`.

    Raises:
      DataError: files missing or malformed, or neither a network nor a cached copy.
    """
    return _obtain(KNOWN["cifar100"], data_dir)


def _obtain(known: KnownSet, data_dir: str | None) -> tuple[Dataset, Dataset]:
    if data_dir is not None:
        return _from_dir(known, Path(data_dir).expanduser())
    for folder in map(Path, known.system_folders):
        if folder.is_dir() and detect(folder) is not None:
            return _official(known, folder)
    return _through_keras(known)


def _from_dir(known: KnownSet, data_dir: Path) -> tuple[Dataset, Dataset]:
    if not data_dir.exists():
        raise DataError(f"data_dir {data_dir} is missing; expected a folder with {known.files}")
    places = [data_dir] if data_dir.is_file() else [data_dir, *(data_dir / f for f in known.folders)]
    if data_dir.is_dir():
        places.append(data_dir / f"{known.name}.npz")
    for place in places:
        if detect(place) in ("npz", "idx", "cifar"):
            return _official(known, place)
    raise DataError(
        f"data_dir {data_dir}: no {known.title} files in it, nor in its subfolders {', '.join(known.folders)}; "
        f"expected {known.files}"
    )


def _official(known: KnownSet, place: Path) -> tuple[Dataset, Dataset]:
    train, test = read_path(place, known=known)
    if train.name != known.name:
        raise DataError(f"{place}: holds {KNOWN[train.name].title}, not {known.title}; use --data {train.name}")
    if test is None:
        raise DataError(f"{place}: {known.title}'s test set is missing; expected {known.files}")
    for what, dataset, count in (("training", train, known.train), ("test", test, known.test)):
        if dataset.input_shape != known.shape or len(dataset) != count:
            raise DataError(
                f"{place}: found {len(dataset)} {what} images of shape {dataset.input_shape}; {known.title} has "
                f"{count} of shape {known.shape}; to use other images, give the path itself: --data {place}"
            )
    return train, test


def keras_cache() -> Path:
    """The folder where Keras's loaders keep datasets."""
    home = Path("~/.keras").expanduser()
    return (home if not home.exists() or os.access(home, os.W_OK) else Path("/tmp/.keras")) / "datasets"


def _through_keras(known: KnownSet) -> tuple[Dataset, Dataset]:
    cache = keras_cache()
    cached = all((cache / f).exists() for f in known.cached)
    by_hand = (
        f"get the files ({known.files}) on a machine with a network and give their folder with --data-dir; "
        "or use --data fashion_small, which is built in"
    )
    if not cached and not _reachable(known.url):
        raise DataError(
            f"{known.title} is not in Keras's cache ({cache}) and {known.url} does not answer; connect to the "
            f"network once, or {by_hand}"
        )
    try:
        with _timeout(_STALL_SECONDS), contextlib.redirect_stdout(sys.stderr):
            loader = getattr(tf.keras.datasets, known.name)
            (x, y), (x_test, y_test) = loader.load_data()
    except Exception as e:
        damaged = f"; if the copy in {cache} is damaged, delete it" if cached else ""
        raise DataError(f"{known.title}: Keras's loader failed ({e}){damaged}; or {by_hand}") from e

    def make(images: np.ndarray, labels: np.ndarray) -> Dataset:
        return make_dataset(
            known.name,
            images,
            labels,
            file=f"{known.title} from Keras",
            num_classes=known.num_classes,
            class_names=known.class_names,
            source="tf.keras.datasets",
        )

    return make(x, y), make(x_test, y_test)


def _reachable(url: str) -> bool:
    """Whether `url` answers within seconds; a thread, because name resolution has no timeout of its own."""
    answered = threading.Event()

    def probe() -> None:
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=_PROBE_SECONDS):
            answered.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return answered.is_set()


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
