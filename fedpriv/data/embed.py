"""Rebuilds the embedded data: `python -m fedpriv.data.embed SOURCE`, from the IDX files of Fashion-MNIST.

Debian's package dataset-fashion-mnist installs them under /usr/share/datasets/fashion-mnist. The same source gives
the same images in the same order; `--check` compares with what the package holds instead of writing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from fedpriv.base.errors import DataError, FedprivError
from fedpriv.data.embedded import FILES, FOLDER, TEST_PER_CLASS, TRAIN_PER_CLASS
from fedpriv.data.idx import idx_files, read_idx, write_idx


def subset(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first `per_class` examples of each class, sorted by class, then by position.

    Raises:
      DataError: a class has fewer.
    """
    chosen = []
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)[:per_class]
        if len(members) < per_class:
            raise DataError(f"class {c} has {len(members)} examples; expected at least {per_class}")
        chosen.append(members)
    return np.concatenate(chosen)


def extract(source: Path) -> dict[str, np.ndarray]:
    """The embedded files' arrays by file name, cut from the IDX files in `source`.

    Raises:
      DataError: a file is missing or malformed.
    """
    found = idx_files(source) if source.is_dir() else {}
    arrays = {}
    for split, per_class in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
        for part in ("images", "labels"):
            if (split, part) not in found:
                raise DataError(f"{source}: no {split} {part}; expected the four IDX files of Fashion-MNIST")
        images, labels = read_idx(found[split, "images"], 3), read_idx(found[split, "labels"], 1)
        chosen = subset(labels, per_class)
        arrays[FILES[split, "images"]] = images[chosen]
        arrays[FILES[split, "labels"]] = labels[chosen]
    return arrays


def main(arguments: list[str] | None = None) -> int:
    """Writes, or with `--check` compares, the embedded files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedpriv.data.embed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="folder of Fashion-MNIST's IDX files, .gz or not")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / FOLDER, help="folder to write")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the files in --out differ")
    options = parser.parse_args(arguments)
    try:
        arrays = extract(options.source)
        if options.check:
            different = [n for n, a in arrays.items() if not np.array_equal(read_idx(options.out / n), a)]
            print(f"different: {', '.join(different)}" if different else "the embedded files match their source")
            return int(bool(different))
        options.out.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            write_idx(options.out / name, array)
            print(f"{name}: {array.shape}, {(options.out / name).stat().st_size:,} bytes")
    except FedprivError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
