"""Draws: the random numbers of a model in training, such as dropout's masks, as inputs of a pure function.

A model never draws by itself. It says what it needs (`Draw`), whoever trains it draws that from the run's seed, and
attacks may take it for unknowns. At the means the model is the one that is evaluated.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child, gaussian, uniform
from fedpriv.base.types import Scalar, Seed, Tensor, Tensors


@dataclass(frozen=True)
class Draw:
    """What a layer draws for each example.

    Attributes:
      name: the layer's.
      shape: of one example's values.
      law: `normal` is standard normal, `keep` is 1 with probability `keep` and else 0.
      keep: that probability.
      before: how many of the first weight tensors belong to layers before it, which it does not enter; None where the
        order of the layers is unknown.
    """

    name: str
    shape: tuple[int, ...]
    law: Literal["normal", "keep"] = "normal"
    keep: float = 1.0
    before: int | None = None

    @property
    def mean(self) -> float:
        """Of each value; there the layer does what it does in evaluation."""
        return self.keep if self.law == "keep" else 0.0

    def values(self, seed: Seed, rows: Scalar | int, dtype: str) -> Tensor:
        """`[rows, *shape]`, a pure function of an int64 seed `[2]` or key `[4]`; traceable."""
        shape = tf.concat([tf.reshape(tf.cast(rows, tf.int64), [1]), tf.constant(self.shape, tf.int64)], 0)
        if self.law == "keep":
            found = tf.cast(uniform(seed, shape) < self.keep, dtype)
        else:
            found = gaussian(seed, shape, dtype)
        return tf.ensure_shape(found, [tf.get_static_value(rows), *self.shape])


def drawn(draws: Sequence[Draw], seed: Seed, rows: Scalar | int, dtype: str) -> tuple[Tensor, ...]:
    """One tensor `[rows, *shape]` a draw, each from a child of `seed`, int64 `[2]` or key `[4]`; traceable."""
    return tuple(draw.values(child(seed, i), rows, dtype) for i, draw in enumerate(draws))


def means(draws: Sequence[Draw], rows: Scalar | int, dtype: str) -> tuple[Tensor, ...]:
    """The means in place of values, `[rows, *shape]` a draw."""
    return tuple(tf.fill([rows, *d.shape], tf.constant(d.mean, dtype)) for d in draws)


class Source(threading.local):
    """Where the layers of a model get their draws while it is applied, and leave what the loss adds for them.

    Attributes:
      penalties: `[n]` each, what layers added to the examples' losses.
      charging: whether anybody wants them.
    """

    def __init__(self) -> None:
        self.penalties: list[Tensor] = []
        self.charging = False
        self._given: Iterator[Tensor] | None = None
        self._found: list[Draw] | None = None

    @contextmanager
    def giving(self, values: Tensors | None) -> Iterator[list[Tensor]]:
        """Inside, layers take these values in turn, or go by the means where they are None; gives the penalties.

        Raises:
          ModelError: the layers draw in another way than when the model was looked at.
        """
        self.penalties, self.charging = [], True
        self._given = None if values is None else iter(values)
        try:
            yield self.penalties
            if self._given is not None and next(self._given, None) is not None:
                raise ModelError(
                    "layers drew fewer values than when the model was built; call layers that draw in the same way in "
                    "every call, and outside of loops of the graph"
                )
        finally:
            self.penalties, self.charging, self._given = [], False, None

    @contextmanager
    def finding(self) -> Iterator[list[Draw]]:
        """Inside, layers go by the means; gives what each would draw, in the order they are called."""
        self.penalties, self.charging, self._found = [], True, []
        try:
            yield self._found
        finally:
            self.charging, self._found = False, None

    def take(self, draw: Draw, rows: int | None) -> Tensor | None:
        """`[n, *shape]`, what a layer is to use; None where it is to go by the mean.

        Args:
          draw: what it draws.
          rows: how many rows enter it, where that is static; inside `finding` one example is looked at.

        Raises:
          ModelError: the model calls its layers in another way than when it was looked at, or rows are no examples.
        """
        if self._found is not None:
            if rows not in (None, 1):
                raise ModelError(
                    f"layer '{draw.name}' draws for {rows} rows of one example (as inside TimeDistributed), where it "
                    "needs a row an example; call it on the whole example"
                )
            self._found.append(draw)
        if self._given is None:
            return None
        value = next(self._given, None)
        if value is None or tuple(value.shape[1:]) != draw.shape:
            raise ModelError(
                f"layer '{draw.name}' draws values of shape {draw.shape}, which it did not when the model was built; "
                "call layers that draw in the same way in every call"
            )
        return value

    def charge(self, penalty: Tensor) -> None:
        """Adds `penalty [n]` to the examples' losses in training."""
        self.penalties.append(penalty)
