"""Next token: at each place of a sequence, one of a vocabulary."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.lazy import tf
from fedpriv.base.types import Labels, Tensor
from fedpriv.models.tasks.classes import Categorical, cross_entropy

PERPLEXITY = Column(
    name="perplexity",
    label="Perplexity",
    better="lower",
    format=".1f",
    description="Exponential of the mean loss in nats: so many tokens, all alike, would be as hard to tell apart.",
)


class NextToken(Categorical):
    """The token that follows each place of a sequence; the loss is the mean cross-entropy over places, in nats.

    Attributes:
      num_classes: size of the vocabulary.
      length: places of a sequence.
      padding: the token that fills up short sequences; a place whose target it is does not count. None: all count.
    """

    name: ClassVar[str] = "next_token"
    label: ClassVar[str] = "a token"
    told: ClassVar[tuple[Column, ...]] = (PERPLEXITY,)

    length: Annotated[int, Field(ge=1)]
    padding: Annotated[int, Field(ge=0)] | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit a place and token."""
        return (self.length, self.num_classes)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """One token a place."""
        return (self.length,)

    def losses(self, outputs: Tensor, y: Labels) -> Tensor:
        """Cross-entropy `[n]` in nats, averaged over places whose target is no padding."""
        return self._averaged(cross_entropy(outputs, y), y)

    def qualities(self, outputs: Tensor, y: Labels) -> Tensor:
        """Fraction of places predicted, float64 `[n]`, of those whose target is no padding."""
        return self._averaged(tf.cast(tf.equal(self.predict(outputs), tf.cast(y, tf.int32)), tf.float64), y)

    def read(self, loss: float) -> dict[str, float]:
        """Perplexity: exp(loss), where each sequence counts alike, whatever its length."""
        return {PERPLEXITY.name: math.exp(loss) if loss < 700 else math.inf}

    def _averaged(self, values: Tensor, y: Labels) -> Tensor:
        if self.padding is None or not y.dtype.is_integer:  # relaxed targets are looked for at every place
            return tf.reduce_mean(values, axis=-1)
        counts = tf.cast(tf.not_equal(y, self.padding), values.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(values * counts, axis=-1), tf.reduce_sum(counts, axis=-1))
