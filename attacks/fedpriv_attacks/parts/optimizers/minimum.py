"""Minimum: what every optimizer of an attack returns, and the base of the optimizers."""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested, Scalar, Tensor
from fedpriv_attacks.parts.component import Component

ValueAndGradient = Callable[[Flat], tuple[Scalar, Flat]]
Projection = Callable[[Flat], Flat]


class Leap(NamedTuple):
    """A change that no gradient leads to.

    Attributes:
      every: steps from one to the next.
      burn_in: share of the steps before the first.
      make: `([k], step) -> ([k], whether it is another point)`, traceable.
    """

    every: int
    burn_in: float
    make: Callable[[Flat, Scalar], tuple[Flat, Scalar]]


class Status(enum.IntEnum):
    """Why a minimization ended."""

    RUNNING = 0
    TARGET = 1
    GRADIENT = 2
    STAGNATED = 3
    BUDGET = 4
    LINE_SEARCH = 5
    NON_FINITE = 6

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met (the objective's target, or the gradient's)."""
        return self in (Status.TARGET, Status.GRADIENT)

    def describe(self) -> str:
        """One plain sentence."""
        return {
            Status.RUNNING: "has not ended",
            Status.TARGET: "the objective reached its target",
            Status.GRADIENT: "the gradient fell below its tolerance",
            Status.STAGNATED: "the objective stopped falling",
            Status.BUDGET: "the evaluation budget was used up",
            Status.LINE_SEARCH: "no step along the negative gradient lowers the objective in this precision",
            Status.NON_FINITE: "the objective or its gradient is not finite where the next step would start",
        }[self]


class Minimum(NamedTuple):
    """What a minimization found; tensors.

    Attributes:
      position: `[k]`, the point with the lowest objective among those accepted.
      objective: scalar, its value.
      gradient_norm: scalar, largest absolute entry of the gradient there.
      evaluations: int32, evaluations of objective and gradient, all counted.
      iterations: int32, steps taken.
      status: int32, a `Status`.
      history: `[rows, 2]` float64 of (evaluations so far, objective), thinned; unused rows are NaN.
      path: `[rows, k]`, the points at the rows of `history` (zeros at unused ones); `[0, k]` unless asked for.
      memory: what the optimizer has learned, for `minimize` to go on with; empty for one that learns nothing.
    """

    position: Flat
    objective: Scalar
    gradient_norm: Scalar
    evaluations: Scalar
    iterations: Scalar
    status: Scalar
    history: Tensor
    path: Tensor
    memory: tuple[Tensor, ...] = ()


class Optimizer(Component):
    """Base of the optimizers: minimizes a function of a vector inside one graph."""

    #: Whether `minimize` takes a projection.
    projects: ClassVar[bool] = False
    #: Whether `minimize` takes leaps.
    leaps: ClassVar[bool] = False
    #: Whether `minimize` takes a pace; others are slowed by other settings, which makes another graph.
    paced: ClassVar[bool] = False

    target: float | None = Field(default=None, description="stop once the objective is at most this (None: never).")
    history: Annotated[int, Field(ge=2)] = Field(default=128, description="rows of the history kept, at least 2.")
    path: bool = Field(default=False, description="whether to keep the points at those rows as well.")

    def slowed(self, factor: float) -> Optimizer:
        """With steps smaller by this factor, where their size is a setting."""
        return self

    def blank(self, k: int, dtype: str) -> tuple[np.ndarray, ...]:
        """A `memory` of `k` variables in which nothing is yet."""
        return ()

    def minimize(
        self,
        value_and_gradient: ValueAndGradient,
        start: Flat,
        target: Scalar | float | None = None,
        project: Projection | None = None,
        memory: tuple[Tensor, ...] = (),
        leap: Leap | None = None,
        pace: Scalar | None = None,
    ) -> Minimum:
        """Minimizes from `start`; traceable, pure and deterministic.

        Args:
          value_and_gradient: `[k] -> (scalar, [k])` in the dtype of `start` (float32 or float64), without Python
            control flow on tensors; traced once.
          start: `[k]`.
          target: scalar tensor that takes the place of the setting of the same name.
          project: `[k] -> [k]`, applied after each step, such as onto a box.
          memory: that of a minimum of a like objective, whose `position` is `start`; empty sets out anew.
          leap: made every so many steps; what was found before counts no longer once one has led to another point.
          pace: scalar tensor, factor on the learning rate, as `slowed` but in the same graph.

        Raises:
          ParameterError: this optimizer cannot project, leap, or take a pace.
        """
        target = self.target if target is None else target
        if leap is not None and not self.leaps:
            raise ParameterError(f"optimizer '{self.kind}' takes no moves between its steps; use 'adam', or moves=none")
        if pace is not None and not self.paced:
            raise ParameterError(f"optimizer '{self.kind}' has no learning rate to pace; use 'adam', or its `slowed`")
        more = {name: given for name, given in (("leap", leap), ("pace", pace)) if given is not None}
        if tf.executing_eagerly():

            def run(x: Flat) -> tuple[Nested, ...]:
                return tuple(self.trace(value_and_gradient, x, target, project, memory, **more))

            return Minimum(*tf.function(run, autograph=False)(start))
        return self.trace(value_and_gradient, start, target, project, memory, **more)

    @abstractmethod
    def trace(
        self,
        value_and_gradient: ValueAndGradient,
        start: Flat,
        target: Scalar | float | None,
        project: Projection | None,
        memory: tuple[Tensor, ...] = (),
    ) -> Minimum:
        """`minimize`, always called inside a graph and with the target that counts."""
