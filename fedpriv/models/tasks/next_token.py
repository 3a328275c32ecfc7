"""Next token: at each place of a sequence, one of a vocabulary."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Labels, Tensor
from fedpriv.models.tasks.classes import Categorical, cross_entropy


class NextToken(Categorical):
    """The token that follows each place of a sequence; the loss is the mean cross-entropy over places, in nats.

    Attributes:
      num_classes: size of the vocabulary.
      length: places of a sequence.
    """

    name: ClassVar[str] = "next_token"
    label: ClassVar[str] = "a token"

    length: Annotated[int, Field(ge=1)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit a place and token."""
        return (self.length, self.num_classes)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """One token a place."""
        return (self.length,)

    def losses(self, outputs: Tensor, y: Labels) -> Tensor:
        """Cross-entropy `[n]` in nats, averaged over places."""
        return tf.reduce_mean(cross_entropy(outputs, y), axis=-1)
