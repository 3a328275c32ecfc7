"""Dataset: examples of one kind and their targets, held in memory, with a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from fedpriv.base.errors import DataError
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of


@dataclass(frozen=True)
class Dataset:
    """Examples and their targets.

    Attributes:
      name: what users call it.
      x: `[n, *kind.shape]`, uint8 (levels of 1/255), or float32 in the kind's range.
      y: `[n]` int32 in [0, num_classes); or, where targets are quantities, float32 `[n]` or `[n, k]`.
      num_classes: number of classes; 0 where targets are quantities.
      class_names: one a class, or empty.
      keys: `[n]` natural client key of each example (such as its writer), or None.
      source: where it came from, for reports (never a machine path in committed results).
      notes: what was lost or added on the way to these examples, one sentence each without a full stop.
      kind: what its examples are; None is images for `[n, height, width, channels]`, else features in [0, 1].
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] = ()
    keys: np.ndarray | None = None
    source: str = field(default="", compare=False)
    kind: Kind = None  # type: ignore[assignment]  # filled in below
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        self._check_types()
        if len(self.x) != len(self.y):
            raise DataError(f"dataset '{self.name}': {len(self.x)} examples but {len(self.y)} labels; they must match")
        if len(self.x) == 0:
            raise DataError(f"dataset '{self.name}' is empty; at least one example is needed")
        if 0 in self.x.shape:
            raise DataError(f"dataset '{self.name}': examples have shape {self.input_shape}, with nothing in them")
        x, y = self.x.dtype, self.y.dtype
        if x.kind == "O":
            raise DataError(f"dataset '{self.name}': examples differ in shape; all must be arrays of one shape")
        if self.kind is None:
            object.__setattr__(self, "kind", kind_of(self.input_shape))
        if x != np.uint8 and x.kind != "f" and self.kind.dtype == "float32":
            raise DataError(
                f"dataset '{self.name}': examples have dtype {x}; use uint8 (0 to 255) or floats in [0, 1], such as "
                "x.astype(np.float32)"
            )
        if self.input_shape != tuple(self.kind.shape):
            raise DataError(
                f"dataset '{self.name}': examples have shape {self.input_shape}, but kind '{self.kind.name}' has "
                f"{tuple(self.kind.shape)}; give a kind of that shape"
            )
        if self.num_classes:
            self._check_labels()
        elif y.kind not in "iuf" or self.y.ndim not in (1, 2):
            raise DataError(
                f"dataset '{self.name}': targets have dtype {y} and shape {list(self.y.shape)}; with num_classes=0 "
                "they are quantities: use one number an example, or [n, k]"
            )
        object.__setattr__(self, "y", self.y.astype(np.int32 if self.num_classes else np.float32, copy=False))
        if self.keys is not None and self.keys.shape != (len(self.x),):
            found = (
                f"{len(self.keys)} client keys" if self.keys.ndim == 1 else f"client keys of shape {self.keys.shape}"
            )
            raise DataError(f"dataset '{self.name}': {found} for {len(self.x)} examples; give one an example")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise DataError(
                f"dataset '{self.name}': {len(self.class_names)} class names for {self.num_classes} classes; give one "
                "a class, or none"
            )

    def _check_types(self) -> None:
        for what, array in (("x", self.x), ("y", self.y)):
            if not isinstance(array, np.ndarray) or not array.ndim:
                found = "a single value" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
                raise DataError(
                    f"dataset '{self.name}': {what} is {found}; use a NumPy array with one entry an example"
                )
        whole = isinstance(self.num_classes, int | np.integer)
        if not whole or not 0 <= self.num_classes <= np.iinfo(np.int32).max:
            raise DataError(
                f"dataset '{self.name}': num_classes={self.num_classes!r}; use a whole number of classes, or 0 where "
                "targets are quantities"
            )
        object.__setattr__(self, "num_classes", int(self.num_classes))
        if self.kind is not None and not isinstance(self.kind, Kind):
            raise DataError(f"dataset '{self.name}': kind is {self.kind!r:.80}; use a Kind, or None to go by the shape")
        listed = isinstance(self.class_names, list | tuple)
        if not listed or not all(isinstance(n, str) for n in self.class_names):
            raise DataError(f"dataset '{self.name}': class_names={self.class_names!r:.80}; use one text a class")
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.keys is not None:
            keys = np.asarray(self.keys)
            if keys.dtype == object:  # which may not be ordered
                keys = np.array([str(k) for k in keys.tolist()]).reshape(keys.shape)
            object.__setattr__(self, "keys", keys)

    def _check_labels(self) -> None:
        sequences = self.kind.dtype != "float32"  # each place of which may have a label of its own
        if self.y.dtype.kind not in "iu" or (self.y.ndim != 1 and not sequences):
            raise DataError(
                f"dataset '{self.name}': labels have dtype {self.y.dtype} and shape {list(self.y.shape)}; "
                "use one integer an example, or num_classes=0 if they are quantities"
            )
        outside = ((self.y < 0) | (self.y >= self.num_classes)).reshape(len(self.y), -1).any(axis=1)
        if outside.any():
            first, largest = int(np.argmax(outside)), int(self.y.max())
            way = f"give num_classes={largest + 1}, or correct it" if int(self.y.min()) >= 0 else "number them from 0"
            raise DataError(
                f"dataset '{self.name}': example {first} has label {self.y[first]}, but num_classes={self.num_classes} "
                f"allows 0 to {self.num_classes - 1}; {way}"
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])

    @cached_property
    def contents(self) -> str:
        """SHA-256, 16 hex digits, over examples and targets alone."""
        h = hashlib.sha256()
        for a in (self.x, self.y):
            h.update(f"{a.shape}{a.dtype}".encode())
            h.update(np.ascontiguousarray(a).tobytes())
        return h.hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, 16 hex digits, over all that results depend on: contents, kind, classes and their names, keys."""
        h = hashlib.sha256(self.contents.encode())
        keys = None if self.keys is None else [str(k) for k in np.asarray(self.keys).tolist()]
        h.update(repr((self.num_classes, self.class_names, keys, self.kind.config())).encode())
        return h.hexdigest()[:16]

    def take(self, indices: np.ndarray) -> Dataset:
        """The examples at `indices`, in that order."""
        keys = None if self.keys is None else self.keys[indices]
        return replace(self, x=self.x[indices], y=self.y[indices], keys=keys)

    def targets(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Class numbers as int64, or quantities as float32."""
        return self.y[indices].astype(np.int64 if self.num_classes else np.float32)

    def floats(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Examples as float32, as the model gets them."""
        x = self.x[indices]
        return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
