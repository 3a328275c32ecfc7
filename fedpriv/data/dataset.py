"""Dataset: images (or feature vectors) and integer labels held in memory, with a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedpriv.base.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Examples and labels.

    Attributes:
      name: what users call it.
      x: `[n, height, width, channels]` (or `[n, features]`), uint8, or float32 in [0, 1].
      y: `[n]` int32 in [0, num_classes).
      num_classes: number of classes.
      class_names: one a class, or empty.
      keys: `[n]` natural client key of each example (such as its writer), or None.
      source: where it came from, for reports (never a machine path in committed results).
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] = ()
    keys: np.ndarray | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"dataset '{self.name}': {len(self.x)} examples but {len(self.y)} labels; they must match")
        if len(self.x) == 0:
            raise DataError(f"dataset '{self.name}' is empty; at least one example is needed")
        x, y = self.x.dtype, self.y.dtype
        if x.kind == "O":
            raise DataError(f"dataset '{self.name}': examples differ in shape; all must be arrays of one shape")
        if x != np.uint8 and x.kind != "f":
            raise DataError(
                f"dataset '{self.name}': examples have dtype {x}; use uint8 (0 to 255) or floats in [0, 1], such as "
                "x.astype(np.float32)"
            )
        if y.kind not in "iu" or self.y.ndim != 1:
            raise DataError(
                f"dataset '{self.name}': labels have dtype {y} and shape {list(self.y.shape)}; "
                "use one integer an example"
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shapes, dtypes and contents, 16 hex digits."""
        h = hashlib.sha256()
        for a in (self.x, self.y):
            h.update(f"{a.shape}{a.dtype}".encode())
            h.update(np.ascontiguousarray(a).tobytes())
        return h.hexdigest()[:16]

    def take(self, indices: np.ndarray) -> Dataset:
        """The examples at `indices`, in that order."""
        keys = None if self.keys is None else self.keys[indices]
        return Dataset(
            self.name, self.x[indices], self.y[indices], self.num_classes, self.class_names, keys, self.source
        )

    def floats(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Examples as float32 in [0, 1]."""
        x = self.x[indices]
        return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
