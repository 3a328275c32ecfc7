"""Keras tokens: a Keras model's embedding layer, made to take points in place of the rows it would look up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples, KerasModel, Layer, Tensor
from fedpriv.models.slots import Slots

#: Where a tensor of the recorded call stands: the layer, what it was called with, and what else it was told.
Called = tuple[Layer, Any]


@dataclass
class Attended:
    """One multi-head attention, applied.

    Attributes:
      layer: which.
      query: what its queries are made of, `[n, length, width]`.
      output: what it gave.
      alone: whether keys and values are made of the same.
    """

    layer: Layer
    query: Tensor
    output: Any
    alone: bool


@dataclass
class KerasTokens:
    """The embedding layers of a Keras model, and which of their calls take the model's tokens.

    A model is called on token numbers as it is. On points, it is called on numbers that stand for nothing but whether a
    place is padding, and the embedding layer gives out the points. Attach it once (`attach`), then let it look at one
    call (`find`).

    Attributes:
      name: the model's, for errors.
      layers: its `tf.keras.layers.Embedding`, those of subclasses too.
      attentions: its `tf.keras.layers.MultiHeadAttention`.
      padding: the data's padding token, or None.
      layer: the one that takes the tokens, once found.
      reason: why points cannot be taken, or "".
    """

    name: str
    layers: list[Layer]
    attentions: list[Layer] = field(default_factory=list)
    padding: int | None = None
    layer: Layer | None = None
    reason: str = ""
    _taken: frozenset[int] = frozenset()
    _points: Tensor | None = None
    _count: int = 0
    _heard: list[Called] | None = field(default=None, repr=False)
    _here: Any = field(default_factory=threading.local, repr=False)

    @classmethod
    def of(cls, model: KerasModel, name: str, padding: int | None) -> KerasTokens:
        """Those of `model`."""
        kl, layers = tf.keras.layers, list(model._flatten_layers())
        embeddings = [layer for layer in layers if isinstance(layer, kl.Embedding)]
        attentions = [layer for layer in layers if type(layer) is kl.MultiHeadAttention]
        return cls(name, embeddings, attentions, padding, reason="it has no Embedding layer that takes its tokens")

    @property
    def rows(self) -> int | None:
        """The least number of rows of any embedding layer; None without one."""
        return min((int(layer.input_dim) for layer in self.layers), default=None)

    @property
    def width(self) -> int:
        """Numbers of a point, once found."""
        assert self.layer is not None
        return int(self.layer.output_dim)

    def attach(self, slots: Slots) -> None:
        """Puts itself before the layers' `call`, whenever the model is called with given weights."""
        for layer in self.layers:
            slots.overrides.append((layer, "call", tf.autograph.experimental.do_not_convert(self._call(layer))))
        for layer in self.attentions:
            slots.overrides.append((layer, "call", tf.autograph.experimental.do_not_convert(self._attend(layer))))

    def _call(self, layer: Layer) -> Callable[..., Tensor]:
        original = layer.call

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
            place, self._count = self._count, self._count + 1
            if self._heard is not None:
                self._heard.append((layer, inputs))
            if self._points is not None and place in self._taken:
                return self._points
            return original(inputs, *args, **kwargs)

        return call

    def _attend(self, layer: Layer) -> Callable[..., Tensor]:
        original = layer.call

        def call(query: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            out = original(query, value, *args, **kwargs)
            key = kwargs.get("key", args[0] if args else None)
            attended = getattr(self._here, "attended", None)
            if attended is not None:
                attended.append(Attended(layer, query, out, value is query and (key is None or key is query)))
            return out

        return call

    def attended(self, run: Callable[[], Any]) -> list[Attended]:
        """The attentions applied while `run()` calls the model, in turn."""
        found: list[Attended] = []
        self._here.attended = found
        try:
            run()
        finally:
            self._here.attended = None
        return found

    def filled(self, x: Examples, length: int) -> Tensor:
        """Numbers or points, filled up with padding to `length` places."""
        x = tf.convert_to_tensor(x)
        more = length - x.shape[1]
        if not more:
            return x
        if x.shape.rank == 2:
            return tf.pad(x, [[0, 0], [0, more]], constant_values=tf.cast(self.padding or 0, x.dtype))
        if x.shape[2] == self.width:
            x = tf.concat([x, tf.ones_like(x[:, :, :1])], axis=2)
        return tf.pad(x, [[0, 0], [0, more], [0, 0]])

    def split(self, x: Examples) -> tuple[Tensor, Tensor | None]:
        """(Numbers `[n, length]`, points `[n, length, width]` or None) of what `Model.apply` gets.

        Raises:
          ModelError: points of another width, or for a model that cannot take any.
        """
        if x.shape.rank != 3:
            return x, None
        if self.layer is None:
            raise ModelError(f"model '{self.name}' takes token numbers alone, no points: {self.reason}")
        width = self.width
        if x.shape[2] not in (width, width + 1):
            raise ModelError(
                f"model '{self.name}' takes points of {width} numbers, or {width + 1} with presence last; got shape "
                f"{tuple(x.shape)}"
            )
        absent = 0 if self.padding is None else self.padding
        token, table = int(absent == 0), self.layer.embeddings.dtype
        numbers = tf.fill(tf.shape(x)[:2], token)
        if x.shape[2] == width + 1:
            numbers = tf.where(x[:, :, -1] > 0.5, token, absent)
        numbers.set_shape(x.shape[:2])
        return numbers, tf.cast(x[:, :, :width], table)

    @contextmanager
    def standing(self, points: Tensor | None) -> Iterator[None]:
        """The points, until the block ends, in place of what is looked up for the tokens."""
        self._points, self._count = points, 0
        try:
            yield
        finally:
            self._points = None

    def find(self, apply: Callable[[Examples], Tensor], x: Array, table: Callable[[Layer], Array]) -> None:
        """Finds the layer that takes the tokens, or `reason`.

        Args:
          apply: outputs at one set of weights; called eagerly.
          x: token numbers `[n, length]`.
          table: a layer's rows among these weights.
        """
        self._heard = []
        try:
            outputs = apply(x).numpy()
            heard = self._heard
        finally:
            self._heard = None
        taking = [i for i, (_, inputs) in enumerate(heard) if _is(inputs, x)]
        found = list({id(heard[i][0]): heard[i][0] for i in taking}.values())
        if not found:
            return
        if len(found) > 1:
            names = " and ".join(f"'{layer.name}'" for layer in found)
            self.reason = f"its layers {names} both look the tokens up, and points could stand for one's rows only"
            return
        self.layer, self._taken = found[0], frozenset(taking)
        absent = 0 if self.padding is None else self.padding
        points = np.concatenate([table(found[0])[x], (x != absent)[:, :, None]], axis=2)
        standing = apply(points.astype(outputs.dtype)).numpy()
        if not np.allclose(standing, outputs, atol=1e-4 * max(1.0, float(np.abs(outputs).max())), rtol=1e-3):
            self.layer = None
            others = [i for i, (layer, _) in enumerate(heard) if layer is found[0] and i not in taking]
            self.reason = (
                f"its layer '{found[0].name}' is applied to the tokens and, another time, to what is made of them"
                if others and not getattr(found[0], "tie_weights", False)
                else f"its outputs depend on the tokens otherwise than by layer '{found[0].name}'"
            )

    def positions(self, apply: Callable[[Examples], Tensor], x: Array) -> Layer | None:
        """The layer that looks up places 0, 1, ... of a sequence, if one does; arguments as for `find`."""
        self._heard = []
        try:
            apply(x)
            heard = self._heard
        finally:
            self._heard = None
        places = np.arange(x.shape[1])
        for layer, inputs in heard:
            if layer is not self.layer and int(layer.output_dim) == self.width and _is(inputs, places):
                return layer
        return None


def _is(inputs: Any, numbers: Array) -> bool:
    """Whether a call's input has these numbers, a leading axis of any size aside."""
    if not hasattr(inputs, "numpy"):  # inside a loop's graph
        return False
    found = np.asarray(inputs)
    if found.ndim == numbers.ndim + 1 and found.ndim == 2:
        return found.shape[1:] == numbers.shape and bool(np.all(found == numbers[None]))
    return found.shape == numbers.shape and bool(np.all(found == numbers))


def unseen_rows_move(gradient: Array, x: Array) -> bool:
    """Whether a gradient of the table `[vocabulary, width]` has rows other than those of the tokens `x`."""
    others = np.setdiff1d(np.arange(len(gradient)), np.unique(x))
    return bool(len(others)) and bool(np.any(gradient[others] != 0))


def untied_head(shapes: Sequence[tuple[int, ...]], vocabulary: int, kinds: Sequence[str]) -> int | None:
    """The last dense kernel `[units, vocabulary]` among the weights, by its number, or None."""
    for i in reversed(range(len(shapes))):
        if kinds[i] == "dense" and len(shapes[i]) == 2 and shapes[i][1] == vocabulary:
            return i
    return None
