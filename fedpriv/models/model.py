"""Model: the one contract both engines and every attack use. Pure functions over a list of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples, Flat, Labels, Tensor, Tensors
from fedpriv.models.chain import ChainLayer
from fedpriv.models.draws import Draw
from fedpriv.models.sequences import Attention, Embedding
from fedpriv.models.spec import Spec
from fedpriv.models.task import Task
from fedpriv.models.tasks.classes import Classes, cross_entropy
from fedpriv.models.tasks.regression import Regression

__all__ = ["Model", "Moments", "cross_entropy"]

#: One (mean `[c]`, variance `[c]`) a batch normalization.
Moments = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Model:
    """A model as pure functions of its weights.

    The weights are those that gradients train; before them come buffers, if it has any: running statistics of batch
    normalizations, which `advance` moves.

    Attributes:
      name: how users name it, with its parameters.
      input_shape: one example, `(height, width, channels)` or `(features,)`, as the data's kind says.
      num_classes: how many classes its targets have; 0 where they are quantities.
      spec: the weights, buffers first.
      apply: `(weights, x [n, *input_shape], training) -> outputs [n, *task.output_shape]`; traceable, twice
        differentiable in `weights` and `x`, creates no variable and draws no random number. Of a model with `draws`
        it is the one with their means.
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
      buffers: how many of the first tensors of the spec are buffers.
      advance: for a model with buffers, `(weights, x [n, *input_shape]) -> (outputs, buffers after this batch)`, the
        outputs being those of `apply` in training.
      estimates: for a model with buffers, `weights -> ((mean, variance), ...)`: the statistics that evaluation takes,
        one pair a batch normalization, in the order of `moments`.
      sent: for a model with buffers whose batch normalizations are each applied once, `(weights, update) -> ((mean,
        variance), ...)`: the statistics of the one batch that an update of one local step was made from.
      running: the frozen statistics of the same layers in the same order, arrays `((mean, variance), ...)`, where the
        model normalizes with them; None where it uses the batch's own. Two models with different ones have different
        `apply`, by which models are compared.
      task: what its outputs are for; None is softmax cross-entropy over `num_classes`, or squared error without
        classes.
      embedding: for a model of tokens, where it keeps their vectors; `apply` then takes points of that space as well.
      attention: its self-attentions in the order they are applied; empty when there are none, or unknown.
      draws: the random numbers that training takes for each example, in the order of `stochastic`; empty for none.
      stochastic: for a model with draws, or whose loss in training has more than the task's, `(weights, x [n,
        *input_shape], draws) -> (outputs, penalties [n] or None, buffers after this batch)`. `draws` is one tensor `[n,
        *shape]` a draw, or None for their means; penalties are added to the examples' losses; buffers are () where the
        model has none. Pure as `apply`, and twice differentiable in the draws as well.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    spec: Spec
    apply: Callable[[Tensors, Examples, bool], Tensor]
    initialize: Callable[[int], list[np.ndarray]]
    layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    couples_examples: bool = False
    chain: tuple[ChainLayer, ...] = ()
    moments: Callable[[Tensors, Examples], Moments] | None = None
    buffers: int = 0
    advance: Callable[[Tensors, Examples], tuple[Tensor, tuple[Tensor, ...]]] | None = None
    estimates: Callable[[Tensors], Moments] | None = None
    sent: Callable[[Tensors, Tensors], Moments] | None = None
    running: tuple[tuple[Array, Array], ...] | None = field(default=None, compare=False, repr=False)
    task: Task = None  # type: ignore[assignment]  # filled in below
    embedding: Embedding | None = None
    attention: tuple[Attention, ...] = ()
    draws: tuple[Draw, ...] = ()
    stochastic: (
        Callable[[Tensors, Examples, Tensors | None], tuple[Tensor, Tensor | None, tuple[Tensor, ...]]] | None
    ) = None

    def __post_init__(self) -> None:
        if self.task is None:
            task = Classes(num_classes=self.num_classes) if self.num_classes else Regression()
            object.__setattr__(self, "task", task)
        if self.task.classes != self.num_classes:
            raise ModelError(
                f"model '{self.name}' says num_classes={self.num_classes}, but its task '{self.task.name}' has "
                f"{self.task.classes}; leave num_classes to the task"
            )

    @property
    def buffer_size(self) -> int:
        """How many of the first numbers of the flat vector are buffers."""
        return sum(self.spec.sizes[: self.buffers])

    def statistics(self, flat: Array) -> tuple[tuple[Array, Array], ...] | None:
        """What batch normalizations are evaluated with at the flat weights `[d]`, arrays in the order of `moments`.

        None where that is the batch's own statistics, or the mean 0 and variance 1 that every layer starts with.
        """
        found = self.running
        if self.estimates is not None:
            pairs = self.estimates([tf.constant(a) for a in self.spec.unflatten_numpy(np.asarray(flat))])
            found = tuple((mean.numpy(), variance.numpy()) for mean, variance in pairs)
        if found is None or not any(np.any(m != 0) or np.any(v != 1) for m, v in found):
            return None
        return found

    def logits(self, flat: Flat, x: Examples, training: bool = False) -> Tensor:
        """Outputs `[n, *task.output_shape]` for flat weights `[d]` and examples `[n, *input_shape]`."""
        return self.apply(self.spec.unflatten(flat), x, training)

    def example_losses(
        self, weights: Tensors, x: Examples, y: Labels, training: bool = True, draws: Tensors | None = None
    ) -> Tensor:
        """The loss of each example, `[n]`: the task's and, in training, what the model adds.

        Args:
          weights: tensors in the spec's shapes.
          x: `[n, *input_shape]`.
          y: targets `[n, *task.target_shape]`, or relaxed ones; see `Task`.
          training: passed to `apply`.
          draws: in training, one tensor `[n, *shape]` a draw; None for their means.
        """
        if training and self.stochastic is not None:
            return self.trained(weights, x, y, draws)[0]
        return self.task.losses(self.apply(weights, x, training), y)

    def trained(
        self, weights: Tensors, x: Examples, y: Labels, draws: Tensors | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(loss of each example in training `[n]`, buffers after the batch); arguments as of `example_losses`."""
        buffers: tuple[Tensor, ...] = ()
        if self.stochastic is not None:
            outputs, penalties, buffers = self.stochastic(weights, x, draws)
            losses = self.task.losses(outputs, y)
            return losses if penalties is None else losses + penalties, buffers
        if self.advance is None:
            return self.task.losses(self.apply(weights, x, True), y), buffers
        outputs, buffers = self.advance(weights, x)
        return self.task.losses(outputs, y), buffers

    def initial_weights(self, seed: int) -> np.ndarray:
        """Initial flat weights `[d]`."""
        weights = self.initialize(seed)
        shapes = tuple(tuple(w.shape) for w in weights)
        if shapes != self.spec.shapes:
            raise ModelError(f"model '{self.name}' initializes shapes {shapes}, but its spec says {self.spec.shapes}")
        return self.spec.flatten_numpy(weights)

    def classifier_bias(self) -> slice | None:
        """Where the bias of a softmax classifier's last layer lies in the flat vector, or None if there is none."""
        if self.task.softmax and self.spec.shapes and self.spec.shapes[-1] == (self.num_classes,):
            return self.spec.slice_of(self.spec.names[-1])
        return None

    def classifier_kernel(self) -> slice | None:
        """Where a softmax classifier's last kernel `[features, num_classes]` lies in the flat vector, or None."""
        if not self.task.softmax:
            return None
        for name, shape in list(zip(self.spec.names, self.spec.shapes, strict=True))[::-1][:2]:
            if len(shape) == 2 and shape[1] == self.num_classes:
                return self.spec.slice_of(name)
        return None
