"""Next token: at each place of a sequence, one of a vocabulary."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.lazy import tf
from fedpriv.models.task import Task
from fedpriv.models.tasks.classes import ACCURACY, cross_entropy


class NextToken(Task):
    """The token that follows each place of a sequence; the loss is the mean cross-entropy over places, in nats.

    Attributes:
      num_classes: size of the vocabulary.
      length: places of a sequence.
    """

    name: ClassVar[str] = "next_token"
    quality: ClassVar[Column] = ACCURACY
    label: ClassVar[str] = "a token"

    num_classes: Annotated[int, Field(ge=2)]
    length: Annotated[int, Field(ge=1)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit a place and token."""
        return (self.length, self.num_classes)

    @property
    def classes(self) -> int:
        """The vocabulary's size."""
        return self.num_classes

    @property
    def target_shape(self) -> tuple[int, ...]:
        """One token a place."""
        return (self.length,)

    @property
    def relaxed_shape(self) -> tuple[int, ...]:
        """One probability a place and token."""
        return (self.length, self.num_classes)

    def losses(self, outputs: Any, y: Any) -> Any:
        """Cross-entropy `[n]` in nats, averaged over places."""
        return tf.reduce_mean(cross_entropy(outputs, y), axis=-1)

    def predict(self, outputs: Any) -> Any:
        """The likeliest token at each place, int32 `[n, length]`."""
        return tf.argmax(outputs, -1, tf.int32)

    def relax(self, v: Any) -> Any:
        """A softmax at each place."""
        return tf.nn.softmax(v)

    def harden(self, relaxed: np.ndarray) -> np.ndarray:
        """The likeliest token at each place."""
        return np.argmax(relaxed, -1).astype(np.int32)

    def soften(self, y: Any) -> Any:
        """One-hot."""
        return tf.one_hot(y, self.num_classes)
