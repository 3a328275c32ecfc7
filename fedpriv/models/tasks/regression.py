"""Regression: quantities, by squared error."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.lazy import tf
from fedpriv.base.types import Labels, Tensor
from fedpriv.models.task import Task


class Regression(Task):
    """One or several real targets; the loss is the mean squared error over them.

    Attributes:
      targets: how many an example has. With one, a target is a scalar.
    """

    name: ClassVar[str] = "regression"
    discrete: ClassVar[bool] = False
    quality: ClassVar[Column] = Column(
        name="error",
        label="Mean absolute error",
        better="lower",
        format=".4f",
        description="Mean absolute error of the predictions, in units of the targets as the model gets them.",
    )
    label: ClassVar[str] = "a quantity"

    targets: Annotated[int, Field(ge=1)] = 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One output a target."""
        return (self.targets,)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """A scalar, or one number a target."""
        return () if self.targets == 1 else (self.targets,)

    @property
    def relaxed_shape(self) -> tuple[int, ...]:
        """As the target's."""
        return self.target_shape

    def losses(self, outputs: Tensor, y: Labels) -> Tensor:
        """Squared error, averaged over an example's targets, `[n]`."""
        return tf.reduce_mean(tf.math.squared_difference(outputs, self._columns(outputs, y)), axis=-1)

    def predict(self, outputs: Tensor) -> Labels:
        """The outputs `[n, *target_shape]`."""
        return outputs[:, 0] if self.targets == 1 else outputs

    def qualities(self, outputs: Tensor, y: Labels) -> Tensor:
        """Absolute error, averaged over an example's targets, float64 `[n]`."""
        return tf.cast(tf.reduce_mean(tf.abs(outputs - self._columns(outputs, y)), axis=-1), tf.float64)

    def relax(self, v: Tensor) -> Labels:
        """The numbers themselves."""
        return v

    def harden(self, relaxed: np.ndarray) -> np.ndarray:
        """The numbers themselves, float32."""
        return np.asarray(relaxed, np.float32)

    def soften(self, y: Labels) -> Labels:
        """The numbers themselves."""
        return tf.cast(y, tf.float32)

    def _columns(self, outputs: Tensor, y: Labels) -> Tensor:
        return tf.reshape(tf.cast(y, outputs.dtype), tf.shape(outputs))
