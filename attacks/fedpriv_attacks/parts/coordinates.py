"""Coordinates: the variables an optimizer sees in place of pixels.

A one-to-one change of variables leaves an attack's objective and its minima as they are and changes only how fast a
gradient method gets there: it is a preconditioner. Coordinates that are not one-to-one, such as a generator's latent
space, restrict what can be found as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels, Seed, Tensor
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models.model import Model
from fedpriv.models.task import Task
from fedpriv.threat.view import View
from fedpriv_attacks.parts.component import Component

Shape = Sequence[int]


class Coordinates(Component):
    """A differentiable map from a flat vector of variables `[k]` to examples `[n, *input_shape]`."""

    #: Whether `start` inverts `decode`, so that examples may be projected and variables follow.
    invertible: ClassVar[bool] = False
    #: What is decoded, as an initializer must give it: `examples`, or `points` of an embedding.
    space: ClassVar[str] = "examples"

    def check(self, view: View) -> None:
        """Raises an error if these coordinates do not fit the view's examples or model."""
        if isinstance(view.data_kind, Tokens):
            raise CapabilityError(
                f"coordinates '{self.kind}' follow gradients in an example's values, but the numbers of tokens are "
                "names; use coordinates=embedding, or an attack made for text: dlg, tag or lamp"
            )

    def shape(self, model: Model) -> tuple[int, ...]:
        """Of one example as it is decoded."""
        return model.input_shape

    def tensors(self, view: View) -> tuple[np.ndarray, ...]:
        """Arrays read off the view that `entering` and `relaxed_targets` get as tensors."""
        return ()

    def entering(self, x: Examples, tensors: tuple[Tensor, ...], kind: Kind) -> Examples:
        """What the model gets in place of decoded examples `[n, *shape]` of that kind; traceable, differentiable."""
        return x

    def compared(self, model: Model) -> list[int]:
        """Which of the model's weight tensors an objective may compare."""
        return list(range(len(model.spec.shapes)))

    def free_targets(self, task: Task) -> tuple[int, ...]:
        """Shape of what is free of one example's relaxed targets, when targets are optimized."""
        return task.relaxed_shape

    def relaxed_targets(
        self, free: Labels, x: Examples, weights: Flat, tensors: tuple[Tensor, ...], model: Model
    ) -> Labels:
        """Relaxed targets `[n, *relaxed_shape]` from the free part of them and what entered the model; traceable."""
        return free

    def found(self, view: View, x: np.ndarray) -> np.ndarray:
        """Examples as their kind has them, from what entered the model."""
        return x

    def size(self, shape: Shape) -> int:
        """k, for examples of that whole shape `(n, *shape)`."""
        return int(np.prod(shape))

    @abstractmethod
    def start(self, x: Examples, seed: Seed) -> Flat:
        """Variables `[k]` to start from, given examples and a stateless seed, int32 `[2]`; traceable."""

    @abstractmethod
    def decode(self, v: Flat, shape: Shape) -> Examples:
        """Examples of `shape` for variables `[k]`; traceable and differentiable."""


class Pixels(Coordinates):
    """The pixels themselves."""

    kind: ClassVar[str] = "pixels"
    invertible: ClassVar[bool] = True

    def start(self, x: Examples, seed: Seed) -> Flat:
        """The examples, flat."""
        return tf.reshape(x, [-1])

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """The variables as examples."""
        return tf.reshape(v, shape)


class Smooth(Coordinates):
    """Cosine-transform coefficients of an image, low frequencies magnified as natural images have them.

    Along each axis, frequency k (half periods over the axis) is scaled by 1 / sqrt(1 + (k / cutoff)^2), about the
    amplitude spectrum of photographs. One unit of a variable is then equally likely to be needed in any
    direction, and a quasi-Newton method spends its first steps on what matters. Examples that are not images
    `[n, height, width, channels]` stay as they are.
    """

    kind: ClassVar[str] = "smooth"
    invertible: ClassVar[bool] = True

    cutoff: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=8.0,
        description="frequency from which the scale falls; larger is nearer to plain pixels.",
    )

    def start(self, x: Examples, seed: Seed) -> Flat:
        """The coefficients of the examples, flat."""
        return tf.reshape(self._apply(x, inverse=True), [-1])

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """The examples with those coefficients."""
        return self._apply(tf.reshape(v, shape), inverse=False)

    def _apply(self, images: Examples, inverse: bool) -> Examples:
        if len(images.shape) != 4:
            return images
        rows = tf.constant(self._matrix(images.shape[1], inverse), images.dtype)
        columns = tf.constant(self._matrix(images.shape[2], inverse), images.dtype)
        return tf.einsum("ik,nklc,jl->nijc", rows, images, columns)

    def _matrix(self, size: int, inverse: bool) -> np.ndarray:
        k = np.arange(size)
        dct = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / size) * np.sqrt(2 / size)
        dct[0] /= np.sqrt(2)
        scale = 1 / np.sqrt(1 + (k / self.cutoff) ** 2)
        return dct / scale[:, None] if inverse else dct.T * scale
