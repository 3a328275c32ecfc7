"""Spec: how one flat vector `[d]` maps to and from a model's list of weight tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Tensor, Tensors


@dataclass(frozen=True)
class Spec:
    """Names and shapes of a model's trainable weights, in the order they lie in the flat vector.

    Attributes:
      names: one unique name a tensor, such as `dense/kernel`.
      shapes: one static shape a tensor.
      dtype: the weights' dtype name, `float32` or `float64`.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes):
            raise ParameterError(f"spec has {len(self.names)} names for {len(self.shapes)} shapes; give one name each")
        if len(set(self.names)) != len(self.names):
            raise ParameterError(f"spec names repeat: {self.names}; make them unique")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """d, the length of the flat vector."""
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in the flat vector."""
        return tuple(int(o) for o in np.cumsum((0, *self.sizes[:-1]))) if self.sizes else ()

    def slice_of(self, name: str) -> slice:
        """The part of the flat vector that holds tensor `name`."""
        i = self.names.index(name)
        return slice(self.offsets[i], self.offsets[i] + self.sizes[i])

    def flatten(self, weights: Tensors) -> Flat:
        """Tensors in this spec's shapes to one `[d]` tensor (traceable)."""
        return tf.concat([tf.reshape(w, [-1]) for w in weights], axis=0)

    def unflatten(self, flat: Flat) -> list[Tensor]:
        """A `[d]` tensor to the list of tensors (traceable)."""
        parts = tf.split(flat, self.sizes)
        return [tf.reshape(p, s) for p, s in zip(parts, self.shapes, strict=True)]

    def flatten_numpy(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """As `flatten`, for arrays."""
        return np.concatenate([np.asarray(w, self.dtype).reshape(-1) for w in weights])

    def unflatten_numpy(self, flat: np.ndarray) -> list[np.ndarray]:
        """As `unflatten`, for arrays; the results are views into `flat`."""
        return [flat[o : o + n].reshape(s) for o, n, s in zip(self.offsets, self.sizes, self.shapes, strict=True)]
