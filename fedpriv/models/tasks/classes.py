"""Classes: one of several classes, by softmax cross-entropy."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.lazy import tf
from fedpriv.base.types import Labels, Tensor
from fedpriv.models.task import Task

ACCURACY = Column(
    name="accuracy",
    label="Accuracy",
    better="higher",
    format=".4f",
    description="Fraction of held-out targets that the model predicts.",
)


class Categorical(Task):
    """Base of tasks whose outputs end in one logit for each of `num_classes` names, `[..., num_classes]`."""

    quality: ClassVar[Column] = ACCURACY

    num_classes: Annotated[int, Field(ge=2)]

    @property
    def classes(self) -> int:
        """The number of names."""
        return self.num_classes

    @property
    def relaxed_shape(self) -> tuple[int, ...]:
        """One probability a logit."""
        return self.output_shape

    def predict(self, outputs: Tensor) -> Labels:
        """The name of the largest logit, int32 `[n, ...]`."""
        return tf.argmax(outputs, -1, tf.int32)

    def relax(self, v: Tensor) -> Labels:
        """A softmax over the last axis."""
        return tf.nn.softmax(v)

    def harden(self, relaxed: np.ndarray) -> np.ndarray:
        """The likeliest name."""
        return np.argmax(relaxed, -1).astype(np.int32)

    def soften(self, y: Labels) -> Labels:
        """One-hot."""
        return tf.one_hot(y, self.num_classes)


class Classes(Categorical):
    """One class of `num_classes`; the loss is the cross-entropy of a softmax, in nats.

    Attributes:
      num_classes: how many classes, and logits.
    """

    name: ClassVar[str] = "classes"
    softmax: ClassVar[bool] = True
    label: ClassVar[str] = "a class"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit a class."""
        return (self.num_classes,)

    def losses(self, outputs: Tensor, y: Labels) -> Tensor:
        """Cross-entropy `[n]` in nats; `y` class numbers `[n]` or probabilities `[n, num_classes]`."""
        return cross_entropy(outputs, y)


def cross_entropy(logits: Tensor, y: Labels) -> Tensor:
    """Cross-entropy `[...]` in nats of `logits [..., k]` with integer labels `[...]` or probabilities `[..., k]`.

    Probabilities are written out rather than given to TensorFlow's fused operation, whose second derivative with
    respect to the labels is missing a term; attacks that optimize dummy labels need it. Integer labels, which nobody
    can differentiate by, take the fused one.
    """
    if y.dtype.is_integer:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return -tf.reduce_sum(tf.cast(y, logits.dtype) * tf.nn.log_softmax(logits), axis=-1)
