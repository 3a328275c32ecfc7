"""Bag of embeddings: the mean of a sequence's embeddings, and dense layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor, Tensors
from fedpriv.models.model import Model
from fedpriv.models.recurrent import Start, glorot, table_start, zeros
from fedpriv.models.sequences import Embedding
from fedpriv.models.spec import Spec
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.models.token_inputs import points_and_presence, task_of
from fedpriv.models.zoo import Precision, label


def bag_of_embeddings(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int,
    padding: int | None = None,
    target_shape: tuple[int, ...] | None = None,
    width: int = 64,
    hidden: list[int] = [64],  # noqa: B006  never changed
    activation: Literal["tanh", "sigmoid", "softplus", "relu"] = "tanh",
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """The mean of the embeddings of a sequence's tokens, padding left out, then dense layers.

    The order of the tokens plays no part. With `hidden=[]` it is the linear classifier of Joulin et al. 2017, "Bag of
    Tricks for Efficient Text Classification" (arXiv 1607.01759), on single tokens. A sequence of padding alone counts
    as zeros.

    Args:
      input_shape: `(length,)`.
      num_classes: number of classes, 0 where the targets are quantities.
      vocabulary: number of tokens; follows from the data.
      padding: the token that fills up short sequences, or None; follows from the data.
      target_shape: one target's; follows from the data.
      width: of the embedding.
      hidden: units of each hidden layer.
      activation: of the hidden layers.
      task: as for `mlp`; None goes by the data.
      dtype: precision of weights and arithmetic.

    Raises:
      ModelError: examples that are no tokens, or targets at each place, which a bag cannot tell apart.
      ParameterError: an impossible size.
    """
    made = task_of("bag_of_embeddings", input_shape, num_classes, target_shape, task, padding)
    if isinstance(made, NextToken) or len(made.output_shape) != 1:
        raise ModelError(
            "model 'bag_of_embeddings' gives one answer a sequence, as it knows no places; use 'gpt', 'lstm' or 'gru' "
            "for next tokens, or data with one target a sequence"
        )
    if width < 1 or any(units < 1 for units in hidden):
        what = f"width={width}" if width < 1 else f"hidden={hidden}"
        raise ParameterError(f"model 'bag_of_embeddings': {what}; each needs at least 1")
    sides = [width, *hidden, made.output_shape[-1]]
    tensors: dict[str, tuple[tuple[int, ...], Start, str]] = {
        "embedding/table": ((vocabulary, width), table_start, "embedding")
    }
    for i, (inputs, outputs) in enumerate(pairwise(sides), 1):
        tensors[f"dense{i}/kernel"] = (inputs, outputs), glorot, "dense"
        tensors[f"dense{i}/bias"] = (outputs,), zeros, "dense"
    spec = Spec(tuple(tensors), tuple(s for s, _, _ in tensors.values()), dtype)

    def apply(weights: Tensors, x: Examples, training: bool) -> Tensor:
        points, present = points_and_presence("bag_of_embeddings", x, weights[0], padding)
        if present is None:
            h = tf.reduce_mean(points, axis=1)
        else:
            counted = tf.cast(present, points.dtype)
            h = tf.linalg.matvec(points, counted, transpose_a=True)
            h = tf.math.divide_no_nan(h, tf.reduce_sum(counted, axis=1, keepdims=True))
        for i in range(len(sides) - 1):
            h = tf.matmul(h, weights[1 + 2 * i]) + weights[2 + 2 * i]
            if i < len(hidden):
                h = getattr(tf.nn, activation)(h)
        return h

    def initialize(seed: int) -> list[np.ndarray]:
        draws = np.random.default_rng(seed)
        return [start(draws, s).astype(dtype) for s, start, _ in tensors.values()]

    name = label(
        "bag_of_embeddings",
        width=(width, 64),
        hidden=(list(hidden), [64]),
        activation=(activation, "tanh"),
        dtype=(dtype, "float32"),
    )
    return Model(
        name=name,
        input_shape=(int(input_shape[0]),),
        num_classes=made.classes,
        spec=spec,
        apply=apply,
        initialize=initialize,
        layers=tuple(kind for _, _, kind in tensors.values()),
        task=made,
        embedding=Embedding(0),
    )
