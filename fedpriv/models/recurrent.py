"""Recurrent networks: LSTM and GRU over tokens, written out place by place.

Keras's layers run in fused or while-loop kernels, whose second derivatives are slow or missing. Here the products with
what enters are taken for all places at once, and the recurrence is one small product a place, so that a graph grows
with the length. With the same weights the outputs are Keras's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor, Tensors
from fedpriv.models.model import Model
from fedpriv.models.sequences import Embedding
from fedpriv.models.spec import Spec
from fedpriv.models.task import Task
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.models.token_inputs import points_and_presence, task_of
from fedpriv.models.zoo import Precision, label

#: What a cell carries from place to place; the first is its output.
Carried = tuple[Tensor, ...]


def lstm(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int,
    padding: int | None = None,
    target_shape: tuple[int, ...] | None = None,
    layers: int = 1,
    width: int = 64,
    units: int = 64,
    tied: bool = False,
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """An LSTM (Hochreiter, Schmidhuber 1997; with the forget gate of Gers et al. 2000, its bias starting at 1).

    An embedding, `layers` layers of `units`, and a dense layer: on the output at each place for next tokens, else on
    the last. A place with padding leaves the state as it is, as Keras's mask does. McMahan et al. 2017 (arXiv
    1602.05629) train such a network federated on Shakespeare's plays.

    Args:
      input_shape: `(length,)`.
      num_classes: number of classes, 0 where the targets are quantities; the vocabulary for next tokens.
      vocabulary: number of tokens; follows from the data.
      padding: the token that fills up short sequences, or None; follows from the data.
      target_shape: one target's; follows from the data. `(length,)` makes the task `next_token`.
      layers: number of recurrent layers.
      width: of the embedding.
      units: of each recurrent layer.
      tied: whether the next-token head is the table itself, with a bias; `units` must then be `width`.
      task: as for `mlp`, or `next_token`; None goes by the data.
      dtype: precision of weights and arithmetic.

    Raises:
      ModelError: examples that are no tokens.
      ParameterError: an impossible size, or a tied head that does not fit.
    """
    made = task_of("lstm", input_shape, num_classes, target_shape, task, padding)
    shape = _Shape("lstm", input_shape[0], vocabulary, padding, layers, width, units, tied, made, dtype)
    return _model(shape)


def gru(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int,
    padding: int | None = None,
    target_shape: tuple[int, ...] | None = None,
    layers: int = 1,
    width: int = 64,
    units: int = 64,
    tied: bool = False,
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """A GRU (Cho et al. 2014, arXiv 1406.1078), its reset gate after the product, as Keras has it.

    All else is as for `lstm`.

    Args:
      input_shape: `(length,)`.
      num_classes: number of classes, 0 where the targets are quantities; the vocabulary for next tokens.
      vocabulary: number of tokens; follows from the data.
      padding: the token that fills up short sequences, or None; follows from the data.
      target_shape: one target's; follows from the data. `(length,)` makes the task `next_token`.
      layers: number of recurrent layers.
      width: of the embedding.
      units: of each recurrent layer.
      tied: whether the next-token head is the table itself, with a bias; `units` must then be `width`.
      task: as for `mlp`, or `next_token`; None goes by the data.
      dtype: precision of weights and arithmetic.

    Raises:
      ModelError: examples that are no tokens.
      ParameterError: an impossible size, or a tied head that does not fit.
    """
    made = task_of("gru", input_shape, num_classes, target_shape, task, padding)
    shape = _Shape("gru", input_shape[0], vocabulary, padding, layers, width, units, tied, made, dtype)
    return _model(shape)


@dataclass(frozen=True)
class _Shape:
    """What makes a recurrent network besides its weights."""

    name: Literal["lstm", "gru"]
    length: int
    vocabulary: int
    padding: int | None
    layers: int
    width: int
    units: int
    tied: bool
    task: Task
    dtype: str

    @property
    def outputs_each(self) -> bool:
        """Whether there is an output at each place."""
        return isinstance(self.task, NextToken)

    @property
    def gates(self) -> int:
        """How many vectors of `units` one place computes."""
        return 4 if self.name == "lstm" else 3


def _model(shape: _Shape) -> Model:
    for what in ("layers", "width", "units"):
        if getattr(shape, what) < 1:
            raise ParameterError(f"model '{shape.name}': {what}={getattr(shape, what)}; at least 1 is needed")
    if shape.tied and not shape.outputs_each:
        raise ParameterError(
            f"model '{shape.name}': tied=true ties the next-token head to the table, but the task is "
            f"'{shape.task.name}'; leave it out"
        )
    if shape.tied and shape.units != shape.width:
        raise ParameterError(
            f"model '{shape.name}': a tied head needs units={shape.units} to be width={shape.width}; make them equal"
        )
    tensors = _tensors(shape)
    spec = Spec(tuple(tensors), tuple(s for s, _, _ in tensors.values()), shape.dtype)
    where = {n: i for i, n in enumerate(spec.names)}

    def apply(weights: Tensors, x: Examples, training: bool) -> Tensor:
        return _outputs(shape, dict(zip(spec.names, weights)), x)

    def initialize(seed: int) -> list[np.ndarray]:
        draws = np.random.default_rng(seed)
        return [start(draws, s).astype(shape.dtype) for s, start, _ in tensors.values()]

    name = label(
        shape.name,
        layers=(shape.layers, 1),
        width=(shape.width, 64),
        units=(shape.units, 64),
        tied=(shape.tied, False),
        dtype=(shape.dtype, "float32"),
    )
    head = where.get("head/kernel") if shape.outputs_each else None
    return Model(
        name=name,
        input_shape=(shape.length,),
        num_classes=shape.task.classes,
        spec=spec,
        apply=apply,
        initialize=initialize,
        layers=tuple(kind for _, _, kind in tensors.values()),
        task=shape.task,
        embedding=Embedding(where["embedding/table"], shape.tied, head),
    )


#: How a tensor starts.
Start = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def table_start(draws: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """U(-0.05, 0.05), as Keras's embeddings start."""
    return draws.uniform(-0.05, 0.05, shape)


def glorot(draws: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """U(-r, r), r being the root of 6 over the sum of both sides (Glorot, Bengio 2010)."""
    bound = math.sqrt(6 / (shape[0] + shape[1]))
    return draws.uniform(-bound, bound, shape)


def zeros(draws: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros."""
    return np.zeros(shape)


def _orthogonal(draws: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Orthonormal rows (Saxe et al. 2014, arXiv 1312.6120), as Keras's recurrent kernels start."""
    q, r = np.linalg.qr(draws.normal(size=(shape[1], shape[0])))
    return (q * np.sign(np.diag(r))).T


def _forget(draws: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, but for ones at the forget gate."""
    found = np.zeros(shape)
    found[shape[0] // 4 : shape[0] // 2] = 1
    return found


def _tensors(shape: _Shape) -> dict[str, tuple[tuple[int, ...], Start, str]]:
    """By name in the spec's order: shape, how it starts, kind of layer."""
    found: dict[str, tuple[tuple[int, ...], Start, str]] = {
        "embedding/table": ((shape.vocabulary, shape.width), table_start, "embedding")
    }
    inputs, wide = shape.width, shape.gates * shape.units
    for i in range(shape.layers):
        layer = f"{shape.name}{i}"
        found[f"{layer}/kernel"] = (inputs, wide), glorot, "recurrent"
        found[f"{layer}/recurrent_kernel"] = (shape.units, wide), _orthogonal, "recurrent"
        found[f"{layer}/bias"] = (wide,), _forget if shape.name == "lstm" else zeros, "recurrent"
        if shape.name == "gru":
            found[f"{layer}/recurrent_bias"] = (wide,), zeros, "recurrent"
        inputs = shape.units
    outputs = shape.task.output_shape[-1]
    if not shape.tied:
        found["head/kernel"] = (shape.units, outputs), glorot, "dense"
    found["head/bias"] = (outputs,), zeros, "dense"
    return found


def _outputs(shape: _Shape, w: dict[str, Tensor], x: Examples) -> Tensor:
    table = w["embedding/table"]
    points, present = points_and_presence(shape.name, x, table, shape.padding)
    length, entering = points.shape[1], tf.reshape(points, [-1, shape.width])
    places = [None] * length if present is None else [p[:, None] for p in tf.unstack(present, axis=1)]
    cell = _lstm_cell if shape.name == "lstm" else _gru_cell
    states: list[Tensor] = []
    for i in range(shape.layers):
        layer = {k.partition("/")[2]: v for k, v in w.items() if k.startswith(f"{shape.name}{i}/")}
        given = tf.matmul(entering, layer["kernel"]) + layer["bias"]
        given = tf.reshape(given, [-1, length, shape.gates * shape.units])
        zero = tf.zeros([tf.shape(given)[0], shape.units], given.dtype)
        carried: Carried = (zero, zero) if shape.name == "lstm" else (zero,)
        states = []
        for entered, here in zip(tf.unstack(given, axis=1), places):
            after = cell(layer, entered, carried, shape.units)
            if here is not None:
                after = tuple(tf.where(here, new, old) for new, old in zip(after, carried))
            carried = after
            states.append(carried[0])
        if i + 1 < shape.layers or shape.outputs_each:
            entering = tf.reshape(tf.stack(states, axis=1), [-1, shape.units])
    last = entering if shape.outputs_each else states[-1]
    product = tf.matmul(last, table, transpose_b=True) if shape.tied else tf.matmul(last, w["head/kernel"])
    logits = product + w["head/bias"]
    return tf.reshape(logits, [-1, length, shape.task.output_shape[-1]]) if shape.outputs_each else logits


def _lstm_cell(layer: dict[str, Tensor], entered: Tensor, carried: Carried, units: int) -> Carried:
    """(Output, cell) `[n, units]`; gates lie in the order input, forget, candidate, output."""
    h, c = carried
    enter, forget, candidate, out = tf.split(entered + tf.matmul(h, layer["recurrent_kernel"]), 4, axis=1)
    c = tf.sigmoid(forget) * c + tf.sigmoid(enter) * tf.tanh(candidate)
    return tf.sigmoid(out) * tf.tanh(c), c


def _gru_cell(layer: dict[str, Tensor], entered: Tensor, carried: Carried, units: int) -> Carried:
    """(Output,) `[n, units]`; gates lie in the order update, reset, candidate."""
    (h,) = carried
    update, reset, candidate = tf.split(entered, 3, axis=1)
    own = tf.split(tf.matmul(h, layer["recurrent_kernel"]) + layer["recurrent_bias"], 3, axis=1)
    update, reset = tf.sigmoid(update + own[0]), tf.sigmoid(reset + own[1])
    candidate = tf.tanh(candidate + reset * own[2])
    return (candidate + update * (h - candidate),)
