"""Binary: yes or no, by one logit and the logistic loss."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedpriv.base.column import Column
from fedpriv.base.lazy import tf
from fedpriv.base.types import Labels, Tensor
from fedpriv.models.task import Task
from fedpriv.models.tasks.classes import ACCURACY


class Binary(Task):
    """Class 0 or 1 from one logit z: the loss is log(1 + exp(z)) - y z, in nats, and class 1 is predicted for z > 0."""

    name: ClassVar[str] = "binary"
    quality: ClassVar[Column] = ACCURACY
    label: ClassVar[str] = "a class"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit."""
        return (1,)

    @property
    def classes(self) -> int:
        """Two."""
        return 2

    @property
    def relaxed_shape(self) -> tuple[int, ...]:
        """The probability of class 1."""
        return ()

    def losses(self, outputs: Tensor, y: Labels) -> Tensor:
        """Logistic loss `[n]` in nats; `y` classes `[n]`, or probabilities of class 1 in floating point."""
        logit = outputs[:, 0]
        return tf.nn.softplus(logit) - tf.cast(y, logit.dtype) * logit

    def predict(self, outputs: Tensor) -> Labels:
        """Whether the logit is positive, int32 `[n]`."""
        return tf.cast(outputs[:, 0] > 0, tf.int32)

    def relax(self, v: Tensor) -> Labels:
        """A sigmoid."""
        return tf.sigmoid(v)

    def harden(self, relaxed: np.ndarray) -> np.ndarray:
        """The likelier class."""
        return (np.asarray(relaxed) > 0.5).astype(np.int32)

    def soften(self, y: Labels) -> Labels:
        """The class as a probability."""
        return tf.cast(y, tf.float32)
