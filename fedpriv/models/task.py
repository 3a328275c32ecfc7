"""Task: what a model's outputs are for, that is its loss, its prediction, and what a target is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from fedpriv.base import registry
from fedpriv.base.column import Column
from fedpriv.base.errors import ParameterError
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Labels, Tensor


class Task(Plugin):
    """Base of tasks: frozen, hashable parameters and pure functions of a model's outputs.

    A target (the `y` of an example) has one static shape and type. Attacks that look for targets too need them
    continuous: `relax` makes such a target of any real numbers, `losses` takes it, `harden` reads a target off it.

    Attributes:
      discrete: whether targets are names (class numbers, tokens), which are equal or not, rather than quantities.
      softmax: whether the loss is the cross-entropy of one softmax an example with its one class. What reads labels off
        a last layer's update relies on that.
      quality: what is measured on held-out examples besides the loss.
      told: what the mean loss on held-out examples says in other units; `read` gives it.
      label: what a target is, in words.
    """

    discrete: ClassVar[bool] = True
    softmax: ClassVar[bool] = False
    quality: ClassVar[Column]
    told: ClassVar[tuple[Column, ...]] = ()
    label: ClassVar[str]

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the model's output for one example."""

    @property
    def classes(self) -> int:
        """How many values a target can take; 0 where targets are quantities."""
        return 0

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one example's target."""
        return ()

    @property
    def target_dtype(self) -> str:
        """`int32` for discrete targets, else `float32`."""
        return "int32" if self.discrete else "float32"

    @abstractmethod
    def losses(self, outputs: Tensor, y: Labels) -> Tensor:
        """Loss of each example, `[n]`.

        Args:
          outputs: `[n, *output_shape]`.
          y: targets `[n, *target_shape]`, or relaxed ones in floating point, `[n, *relaxed_shape]`. Twice
            differentiable in `outputs`, and in relaxed targets.
        """

    @abstractmethod
    def predict(self, outputs: Tensor) -> Labels:
        """The model's answers as targets `[n, *target_shape]`; traceable."""

    def qualities(self, outputs: Tensor, y: Labels) -> Tensor:
        """`[n]`, float: the mean over examples is the quality. By default whether the prediction is right."""
        from fedpriv.base.lazy import tf

        right = tf.cast(tf.equal(self.predict(outputs), y), "float64")
        return tf.reduce_mean(tf.reshape(right, [tf.shape(right)[0], -1]), axis=1)

    def read(self, loss: float) -> dict[str, float]:
        """The mean loss in the units of `told`, by name."""
        return {}

    @property
    @abstractmethod
    def relaxed_shape(self) -> tuple[int, ...]:
        """Shape of one relaxed target."""

    @abstractmethod
    def relax(self, v: Tensor) -> Labels:
        """Relaxed targets `[n, *relaxed_shape]` from as many unconstrained numbers; traceable, differentiable."""

    @abstractmethod
    def harden(self, relaxed: np.ndarray) -> np.ndarray:
        """The targets `[n, *target_shape]` nearest to relaxed ones."""

    @abstractmethod
    def soften(self, y: Labels) -> Labels:
        """Targets `[n, *target_shape]` as relaxed ones, float; traceable."""

    def problem(self, y: np.ndarray) -> str | None:
        """What keeps `y [n, ...]` from being targets of this task, such as "has label 7"; None if nothing does."""
        if y.shape[1:] != self.target_shape:
            return (
                f"has targets of shape {list(y.shape[1:])}, where one is {self.label} of shape {[*self.target_shape]}"
            )
        if self.discrete and y.dtype.kind not in "iu":
            return f"has targets of type {y.dtype}, where one is {self.label}, an integer"
        if not self.discrete and not np.isfinite(y).all():
            return "has targets that are NaN or infinite"
        if self.discrete and len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
            return f"has label {int(y.min()) if int(y.min()) < 0 else int(y.max())}"
        return None

    def describe(self) -> str:
        """What its targets are, such as "10 classes"."""
        return f"{self.classes} classes" if self.discrete else "targets that are quantities"


def create(task: Task | str | None, num_classes: int) -> Task:
    """The task that is written, or that follows from the data.

    Args:
      task: a task, `name` or `name(key=value,...)`; None for `classes`, or `regression` without classes.
      num_classes: the data's number of classes, 0 where its targets are quantities. A task that has a parameter of
        that name gets it.

    Raises:
      UnknownNameError: no such task.
      ParameterError: a parameter that it does not have, or one that contradicts the data.
    """
    if isinstance(task, Task):
        return task
    written = task if task is not None else ("classes" if num_classes else "regression")
    name, given = registry.parse_call(written, "task")
    kind = registry.tasks.load(name)
    if num_classes and not getattr(kind, "discrete", True):
        binary = " or task=binary" if num_classes == 2 else ""
        raise ParameterError(
            f"task '{name}' needs targets that are quantities, but the data has {num_classes} classes; "
            f"use task=classes{binary}"
        )
    if not num_classes and getattr(kind, "discrete", False):
        raise ParameterError(
            f"task '{name}' takes targets each of which is {kind.label}, but the data's are quantities; "
            "use task=regression"
        )
    if "num_classes" in registry.parameters_of(kind):
        if "num_classes" in given and given["num_classes"] != str(num_classes):
            raise ParameterError(f"task '{name}': num_classes follows from the data ({num_classes}); leave it out")
        given["num_classes"] = str(num_classes)
    made: Task = registry.tasks.create(name, **given)
    if made.classes != num_classes:
        raise ParameterError(
            f"task '{name}' has {made.classes} classes, but the data has {num_classes}; use task=classes"
        )
    return made
