"""Model: the one contract both engines and every attack use. Pure functions over a list of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.models.chain import ChainLayer
from fedpriv.models.spec import Spec

#: One (mean `[c]`, variance `[c]`) a batch normalization.
Moments = tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Model:
    """A classifier as pure functions of its weights.

    Attributes:
      name: how users name it, with its parameters.
      input_shape: one example, `(height, width, channels)` or `(features,)`, values in [0, 1].
      num_classes: size of the logits.
      spec: the trainable weights.
      apply: `(weights, x [n, *input_shape], training) -> logits [n, num_classes]`; traceable, twice
        differentiable in `weights` and `x`, creates no variable and draws no random number.
      initialize: `(seed: int) -> list of arrays` in the spec's shapes; the same seed gives the same arrays.
      layers: for each weight tensor, the kind of the layer it belongs to (`dense`, `conv`, `norm`, ...); empty
        when unknown. Attacks that read single layers use it.
      couples_examples: whether an example's logits depend on the others in its batch, as with batch statistics.
      chain: the structure of a plain sequential network, for attacks that go through it layer by layer; empty for
        other models and when unknown.
      notes: limits worth telling a user (such as how batch-norm statistics are treated).
      moments: for a model with batch normalization, `(weights, x [n, *input_shape]) -> ((mean, variance), ...)`: the
        mean and biased variance, one value a channel, of what enters each batch normalization, in the order they are
        applied; traceable and twice differentiable. None without batch normalization.
      running: the frozen statistics of the same layers in the same order, arrays `((mean, variance), ...)`, where the
        model normalizes with them; None where it uses the batch's own. Two models with different ones have different
        `apply`, by which models are compared.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    spec: Spec
    apply: Callable[[Sequence[Any], Any, bool], Any]
    initialize: Callable[[int], list[np.ndarray]]
    layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    couples_examples: bool = False
    chain: tuple[ChainLayer, ...] = ()
    moments: Callable[[Sequence[Any], Any], Moments] | None = None
    running: Moments | None = field(default=None, compare=False, repr=False)

    @property
    def has_trained_statistics(self) -> bool:
        """Whether its frozen statistics are others than the mean 0 and variance 1 that every layer starts with."""
        return self.running is not None and any(np.any(m != 0) or np.any(v != 1) for m, v in self.running)

    def logits(self, flat: Any, x: Any, training: bool = False) -> Any:
        """Logits `[n, num_classes]` for flat weights `[d]` and examples `[n, *input_shape]`."""
        return self.apply(self.spec.unflatten(flat), x, training)

    def example_losses(self, weights: Sequence[Any], x: Any, y: Any, training: bool = True) -> Any:
        """Cross-entropy of each example, `[n]`, in nats.

        Args:
          weights: tensors in the spec's shapes.
          x: `[n, *input_shape]`.
          y: integer labels `[n]`, or label probabilities `[n, num_classes]`.
          training: passed to `apply`.
        """
        return cross_entropy(self.apply(weights, x, training), y)

    def initial_weights(self, seed: int) -> np.ndarray:
        """Initial flat weights `[d]`."""
        weights = self.initialize(seed)
        shapes = tuple(tuple(w.shape) for w in weights)
        if shapes != self.spec.shapes:
            raise ModelError(f"model '{self.name}' initializes shapes {shapes}, but its spec says {self.spec.shapes}")
        return self.spec.flatten_numpy(weights)

    def classifier_bias(self) -> slice | None:
        """Where the last layer's bias lies in the flat vector, or None if the model has none."""
        if self.spec.shapes and self.spec.shapes[-1] == (self.num_classes,):
            return self.spec.slice_of(self.spec.names[-1])
        return None

    def classifier_kernel(self) -> slice | None:
        """Where the last layer's kernel `[features, num_classes]` lies in the flat vector, or None."""
        for name, shape in list(zip(self.spec.names, self.spec.shapes, strict=True))[::-1][:2]:
            if len(shape) == 2 and shape[1] == self.num_classes:
                return self.spec.slice_of(name)
        return None


def cross_entropy(logits: Any, y: Any) -> Any:
    """Cross-entropy `[n]` in nats of `logits [n, k]` with integer labels `[n]` or probabilities `[n, k]`.

    Probabilities are written out rather than given to TensorFlow's fused operation, whose second derivative with
    respect to the labels is missing a term; attacks that optimize dummy labels need it. Integer labels, which nobody
    can differentiate by, take the fused one.
    """
    if y.dtype.is_integer:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return -tf.reduce_sum(tf.cast(y, logits.dtype) * tf.nn.log_softmax(logits), axis=-1)
