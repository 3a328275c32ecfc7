"""Loading: the one door to data, by registered name, `package.module:function` or path."""

from __future__ import annotations

import os
from pathlib import Path

from fedpriv.base import registry
from fedpriv.base.errors import DataError, FedprivError, ParameterError, UnknownNameError, did_you_mean, reason
from fedpriv.data.check import check_pair, checked_dataset, warn_of_duplicates
from fedpriv.data.dataset import Dataset
from fedpriv.data.formats import EXPECTED, read_path


def load(
    name_or_path: str | os.PathLike[str],
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Training set, and test set if there is one.

    Args:
      name_or_path: a registered name (`fedpriv list datasets`), a `package.module:function`, or a path: an `.npz` file
        with arrays `x` and `y`, a folder of IDX files, a folder of CIFAR batches, an image folder, a table (a CSV
        file, or an `.npz` of columns), or texts (`.txt`, `.jsonl`, or a CSV file with a column `text`). A
        registered name wins over a file of the same name; write `./name` for the file.
      data_dir: where a named set finds its files.
      image_size: height and width that an image folder's images are resized to (default 32).
      num_classes: number of classes of an `.npz` or IDX folder, where the labels alone do not tell.

    Raises:
      UnknownNameError: neither a dataset nor a path.
      DataError: missing or malformed data; names the file and what was expected.
      ParameterError: an option that this source does not have.
    """
    text = os.fspath(name_or_path)
    name = registry.parse_call(text, "dataset")[0] if text.strip().endswith(")") else text.strip()
    if name in registry.datasets.names():
        return _named(text, data_dir, image_size, num_classes)
    try:
        path = Path(text).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as e:  # such as a name that is too long, or the home of nobody
        raise DataError(f"{text:.200} cannot be read ({reason(e)}); expected a dataset's name or {EXPECTED}") from e
    if exists:
        if data_dir is not None:
            raise ParameterError(
                f"data_dir={data_dir}: {text} is a path and complete in itself; give data_dir with a dataset's name"
            )
        found = read_path(path, image_size, num_classes)
        warn_of_duplicates(*found, text)
        return found
    if ":" in name:
        return _named(text, data_dir, image_size, num_classes)
    known = registry.datasets.names()
    if os.sep in text or path.suffix:
        raise DataError(f"{text} is missing; expected a dataset's name ({', '.join(known)}) or {EXPECTED}")
    raise UnknownNameError(f"no dataset or path is named '{text}'.{did_you_mean(text, known)}")


def _named(
    text: str, data_dir: str | None, image_size: int | None, num_classes: int | None
) -> tuple[Dataset, Dataset | None]:
    options = {"data_dir": data_dir, "image_size": image_size, "num_classes": num_classes}
    try:
        result = registry.datasets.create(text, **{k: v for k, v in options.items() if v is not None})
    except FedprivError:
        raise
    except Exception as e:  # somebody's own function may raise anything
        raise DataError(f"dataset '{text}' failed to load: {type(e).__name__}: {reason(e)}") from e
    if isinstance(result, Dataset):
        result = (result, None)
    if (
        not isinstance(result, tuple)
        or len(result) != 2
        or not isinstance(result[0], Dataset)
        or not isinstance(result[1], Dataset | None)
    ):
        raise DataError(f"dataset '{text}' returned {type(result).__name__}; expected (train Dataset, test Dataset)")
    what = f"dataset '{text}'"
    train = checked_dataset(result[0], f"{what}, training set")
    test = None if result[1] is None else checked_dataset(result[1], f"{what}, test set")
    check_pair(train, test, what)
    if ":" in text:
        warn_of_duplicates(train, test, what)
    return train, test
