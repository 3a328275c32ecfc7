"""Transformers: a decoder like GPT and an encoder like BERT, written out: second derivatives are right and fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor, Tensors
from fedpriv.models.model import Model
from fedpriv.models.sequences import Attention, Embedding, Product
from fedpriv.models.spec import Spec
from fedpriv.models.task import Task
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.models.token_inputs import last_present, points_and_presence, task_of

Precision = Literal["float32", "float64"]
Positions = Literal["learned", "sinusoidal"]

#: Standard deviation of initial kernels and tables, as in GPT-2 and BERT.
SPREAD = 0.02


@dataclass(frozen=True)
class _Shape:
    """What makes a transformer besides its weights."""

    name: str
    length: int
    vocabulary: int
    padding: int | None
    layers: int
    width: int
    heads: int
    causal: bool
    positions: Positions
    tied: bool
    task: Task
    dtype: str

    @property
    def outputs_each(self) -> bool:
        """Whether there is an output at each place."""
        return isinstance(self.task, NextToken)


def gpt(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int,
    padding: int | None = None,
    target_shape: tuple[int, ...] | None = None,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    positions: Positions = "learned",
    tied: bool = True,
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """A decoder like GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

    Layer normalization comes before each self-attention and each dense part of 4 `width` GELU units, and once at the
    end; places see only themselves and those before. The next-token head is `tied` to the table or a kernel of its
    own. For other tasks the last place that is no padding is read, by a dense layer.

    Args:
      input_shape: `(length,)`.
      num_classes: number of classes; the vocabulary for next tokens.
      vocabulary: number of tokens; follows from the data.
      padding: the token that fills up short sequences, or None; follows from the data.
      target_shape: one target's; follows from the data. `(length,)` makes the task `next_token`.
      layers: number of blocks.
      width: of the embedding; a multiple of `heads`.
      heads: of each attention.
      positions: a learned table, or fixed sines and cosines (Vaswani et al. 2017, arXiv 1706.03762).
      tied: whether the next-token head is the table itself.
      task: as for `mlp`; None goes by the data.
      dtype: precision of weights and arithmetic.
    """
    made = task_of("gpt", input_shape, num_classes, target_shape, task, padding)
    kept = (layers, width, heads, True, positions, tied, made, dtype)
    shape = _Shape("gpt", input_shape[0], vocabulary, padding, *kept)
    return _model(_name("gpt", shape, tied=True), shape)


def bert(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int,
    padding: int | None = None,
    target_shape: tuple[int, ...] | None = None,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    positions: Positions = "learned",
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """An encoder like BERT (Devlin et al. 2018, arXiv 1810.04805), for tasks with one target a sequence.

    Layer normalization comes after the embedding, each self-attention and each dense part of 4 `width` GELU units;
    all places see each other, but for padding. The first place is read by a dense tanh layer and one of logits.

    Args:
      input_shape: `(length,)`.
      num_classes: number of classes, 0 where the targets are quantities.
      vocabulary: number of tokens; follows from the data.
      padding: the token that fills up short sequences, or None; follows from the data.
      target_shape: one target's; follows from the data.
      layers: number of blocks.
      width: of the embedding; a multiple of `heads`.
      heads: of each attention.
      positions: a learned table, or fixed sines and cosines (Vaswani et al. 2017, arXiv 1706.03762).
      task: as for `mlp`; None goes by the data.
      dtype: precision of weights and arithmetic.
    """
    made = task_of("bert", input_shape, num_classes, target_shape, task, padding)
    shape = _Shape(
        "bert", input_shape[0], vocabulary, padding, layers, width, heads, False, positions, False, made, dtype
    )
    if shape.outputs_each:
        raise ModelError(
            "model 'bert' sees the tokens that follow, so it cannot be asked for them; use 'gpt' for next tokens, or "
            "data with one target a sequence"
        )
    return _model(_name("bert", shape, tied=False), shape)


def _name(kind: str, shape: _Shape, tied: bool) -> str:
    from fedpriv.models.zoo import label

    return label(
        kind,
        layers=(shape.layers, 2),
        width=(shape.width, 64),
        heads=(shape.heads, 4),
        positions=(shape.positions, "learned"),
        tied=(shape.tied, tied),
        dtype=(shape.dtype, "float32"),
    )


def _model(name: str, shape: _Shape) -> Model:
    for what, value in (("layers", shape.layers), ("width", shape.width), ("heads", shape.heads)):
        if value < 1:
            raise ParameterError(f"model '{name}': {what}={value}; at least 1 is needed")
    if shape.width % shape.heads:
        raise ParameterError(f"model '{name}': width={shape.width} is no multiple of heads={shape.heads}")
    if shape.positions == "sinusoidal" and shape.width % 2:
        raise ParameterError(f"model '{name}': sinusoidal positions need an even width, got {shape.width}")
    tensors = _tensors(shape)
    spec = Spec(tuple(t[0] for t in tensors), tuple(t[1] for t in tensors), shape.dtype)
    where = {n: i for i, n in enumerate(spec.names)}

    def apply(weights: Tensors, x: Examples, training: bool) -> Tensor:
        return _outputs(shape, dict(zip(spec.names, weights)), x)

    def initialize(seed: int) -> list[np.ndarray]:
        draws = np.random.default_rng(seed)
        made: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
            "normal": lambda s: draws.normal(0, SPREAD, s),
            "zeros": np.zeros,
            "ones": np.ones,
        }
        return [made[start](s).astype(shape.dtype) for _, s, start, _ in tensors]

    def entering(block: int) -> Callable[[Tensors, Examples], Tensor]:
        def inputs(weights: Tensors, x: Examples) -> Tensor:
            rows, length, _ = _blocks(shape, dict(zip(spec.names, weights)), x, block)
            return tf.reshape(rows, [-1, length, shape.width])

        return inputs

    def narrowed(block: int) -> Callable[[Tensors, Examples], Tensor]:
        def inputs(weights: Tensors, x: Examples) -> Tensor:
            w = dict(zip(spec.names, weights))
            rows, length, present = _blocks(shape, w, x, block, normed=False)
            rows = _attended(shape, w, f"block{block}", rows, length, _hidden(shape, present, length, rows.dtype))
            rows = _norm(rows, w, f"block{block}/norm2") if shape.causal else rows
            return tf.reshape(_widened(w, f"block{block}", rows), [-1, length, 4 * shape.width])

        return inputs

    return Model(
        name=name,
        input_shape=(shape.length,),
        num_classes=shape.task.classes,
        spec=spec,
        apply=apply,
        initialize=initialize,
        layers=tuple(t[3] for t in tensors),
        task=shape.task,
        embedding=Embedding(
            where["embedding/table"],
            shape.tied and shape.outputs_each,
            where["head/kernel"] if shape.outputs_each and not shape.tied else None,
            where.get("positions/table"),
        ),
        attention=tuple(
            Attention(
                where[f"block{i}/query/kernel"],
                entering(i),
                shape.causal,
                (where[f"block{i}/key/kernel"], where[f"block{i}/value/kernel"]),
                Product(where[f"block{i}/narrow/kernel"], narrowed(i)),
                shape.heads,
            )
            for i in range(shape.layers)
        ),
    )


#: A tensor's name, shape, how it starts, and its layer's kind.
_Tensor = tuple[str, tuple[int, ...], Literal["normal", "zeros", "ones"], str]


def _tensors(shape: _Shape) -> list[_Tensor]:
    d = shape.width

    def dense(name: str, inputs: int, outputs: int) -> list[_Tensor]:
        return [
            (f"{name}/kernel", (inputs, outputs), "normal", "dense"),
            (f"{name}/bias", (outputs,), "zeros", "dense"),
        ]

    def norm(name: str) -> list[_Tensor]:
        return [(f"{name}/gamma", (d,), "ones", "norm"), (f"{name}/beta", (d,), "zeros", "norm")]

    found: list[_Tensor] = [("embedding/table", (shape.vocabulary, d), "normal", "embedding")]
    if shape.positions == "learned":
        found.append(("positions/table", (shape.length, d), "normal", "embedding"))
    if not shape.causal:
        found += norm("embedding_norm")
    for i in range(shape.layers):
        block = f"block{i}"
        attention = [t for part in ("query", "key", "value", "attended") for t in dense(f"{block}/{part}", d, d)]
        wide = [*dense(f"{block}/wide", d, 4 * d), *dense(f"{block}/narrow", 4 * d, d)]
        found += [*norm(f"{block}/norm1"), *attention, *norm(f"{block}/norm2"), *wide]
    if shape.causal:
        found += norm("norm")
    if not shape.causal:
        found += dense("pooled", d, d)
    outputs = shape.task.output_shape[-1]
    if not shape.outputs_each:
        found += dense("head", d, outputs)
    elif not shape.tied:
        found.append(("head/kernel", (d, outputs), "normal", "dense"))
    return found


def _outputs(shape: _Shape, w: dict[str, Tensor], x: Examples) -> Tensor:
    rows, length, present = _blocks(shape, w, x, shape.layers)
    if shape.causal:
        rows = _norm(rows, w, "norm")
    if shape.outputs_each:
        logits = (
            tf.matmul(rows, w["embedding/table"], transpose_b=True) if shape.tied else tf.matmul(rows, w["head/kernel"])
        )
        return tf.reshape(logits, [-1, length, shape.task.output_shape[-1]])
    h = tf.reshape(rows, [-1, length, shape.width])
    if not shape.causal:
        return _dense(tf.tanh(_dense(h[:, 0], w, "pooled")), w, "head")
    return _dense(last_present(h, present), w, "head")


def _blocks(
    shape: _Shape, w: dict[str, Tensor], x: Examples, count: int, normed: bool = True
) -> tuple[Tensor, int, Tensor | None]:
    """What enters the attention of block `count`, or leaves the last block if there are only that many; what enters
    the normalization before that attention, if not `normed`.

    Places lie in the rows of a matrix `[n length, width]`: a product of a batch of matrices with one kernel would have
    a kernel's gradient for each of them. Returns (rows, length, which places hold tokens).
    """
    longest = shape.length if shape.positions == "learned" else None
    h, present = points_and_presence(shape.name, x, w["embedding/table"], shape.padding, longest)
    length = h.shape[1]
    if shape.positions == "learned":
        table = w["positions/table"]
        h += table if length == shape.length else table[:length]
    else:
        h += tf.constant(sinusoids(length, shape.width), h.dtype)
    h = tf.reshape(h, [-1, shape.width])
    if not shape.causal:
        h = _norm(h, w, "embedding_norm")
    hidden = _hidden(shape, present, length, h.dtype)
    for i in range(count):
        block = f"block{i}"
        h = _attended(shape, w, block, h, length, hidden)
        if shape.causal:
            h += _wide(w, block, _norm(h, w, f"{block}/norm2"))
        else:
            h = _norm(h + _wide(w, block, h), w, f"{block}/norm2")
    normed = normed and shape.causal and count < shape.layers
    return _norm(h, w, f"block{count}/norm1") if normed else h, length, present


def _attended(shape: _Shape, w: dict[str, Tensor], block: str, h: Tensor, length: int, hidden: Tensor | None) -> Tensor:
    """A block's rows after its attention, before its dense part."""
    if shape.causal:
        return h + _attend(shape, w, block, _norm(h, w, f"{block}/norm1"), length, hidden)
    return _norm(h + _attend(shape, w, block, h, length, hidden), w, f"{block}/norm1")


def _hidden(shape: _Shape, present: Tensor | None, length: int, dtype: str) -> Tensor | None:
    """What is added to attention's scores, `[1 or n, 1, length, length]`: a large negative number where one may not
    look."""
    never = -1e9
    found = None
    if shape.causal:
        found = tf.constant(np.triu(np.full((length, length), never), 1)[None, None], dtype)
    if present is not None:
        padded = tf.cast(tf.where(present, 0.0, never), dtype)[:, None, None, :]
        found = padded if found is None else found + padded
    return found


def _attend(shape: _Shape, w: dict[str, Tensor], block: str, h: Tensor, length: int, hidden: Tensor | None) -> Tensor:
    each = shape.width // shape.heads

    def heads(part: str) -> Tensor:
        split = tf.reshape(_dense(h, w, f"{block}/{part}"), [-1, length, shape.heads, each])
        return tf.transpose(split, [0, 2, 1, 3])

    scores = tf.matmul(heads("query") * (1 / math.sqrt(each)), heads("key"), transpose_b=True)
    if hidden is not None:
        scores += hidden
    mixed = tf.matmul(tf.nn.softmax(scores), heads("value"))
    joined = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, shape.width])
    return _dense(joined, w, f"{block}/attended")


def _wide(w: dict[str, Tensor], block: str, h: Tensor) -> Tensor:
    return _dense(_widened(w, block, h), w, f"{block}/narrow")


def _widened(w: dict[str, Tensor], block: str, h: Tensor) -> Tensor:
    return gelu(_dense(h, w, f"{block}/wide"))


def gelu(x: Tensor) -> Tensor:
    """The GELU with a tanh (Hendrycks, Gimpel 2016, arXiv 1606.08415), written as a sigmoid: 0.5 (1 + tanh z) is
    sigmoid(2 z). TensorFlow's own takes a power, which is slow, and slower at each derivative."""
    rate = 2 * math.sqrt(2 / math.pi)
    return x * tf.sigmoid(x * (rate + 0.044715 * rate * tf.square(x)))


def _dense(h: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return tf.matmul(h, w[f"{name}/kernel"]) + w[f"{name}/bias"]


def _norm(h: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    # Written out: second derivatives of tf.nn.moments are wrong.
    centred = h - tf.reduce_mean(h, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + 1e-5) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def sinusoids(length: int, width: int) -> np.ndarray:
    """Fixed positions `[length, width]` (Vaswani et al. 2017, arXiv 1706.03762): sines in the first half of a row,
    cosines in the second."""
    rates = np.exp(-math.log(10000.0) * np.arange(width // 2) / (width // 2))
    angles = np.arange(length)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
