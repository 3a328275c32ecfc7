"""L-BFGS: limited-memory quasi-Newton minimization, entirely inside one TensorFlow graph.

One `tf.while_loop` runs the whole minimization, and every pass through its body is exactly one evaluation of
the objective and its gradient: the line search (`line_search.py`) is a small state machine rather than a loop in the
loop, so the objective is traced once and evaluation counts are honest. Directions come from the last pairs of steps and
gradient changes (`pairs.py`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor
from fedpriv_attacks.parts.optimizers.line_search import LineSearch
from fedpriv_attacks.parts.optimizers.minimum import Minimum, Optimizer, Projection, Status, ValueAndGradient
from fedpriv_attacks.parts.optimizers.pairs import Pairs
from fedpriv_attacks.parts.optimizers.trail import Trail

__all__ = ["LBFGS", "Minimum", "Status"]

Count = Annotated[int, Field(ge=1)]


class LBFGS(Optimizer):
    """L-BFGS with a strong Wolfe line search.

    Liu, Nocedal 1989, "On the limited memory BFGS method for large scale optimization", Math. Programming 45. A
    point where the objective or its gradient is not finite counts as an infinitely high one: the line search backs
    away from it. Not finite at the start: status NON_FINITE, position the start. Objectives fall from step to step,
    up to rounding. It cannot project; bound the examples by the `box` prior instead.
    """

    kind: ClassVar[str] = "lbfgs"
    paper: ClassVar[str] = "Liu, Nocedal 1989, Math. Programming 45, 503"

    memory: Count = Field(default=100, description="pairs kept, at least 1.")
    max_evaluations: Count = Field(default=10_000, description="budget of objective-and-gradient evaluations.")
    gradient_tolerance: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="stop once every entry of the gradient is at most this in size.",
    )
    stagnation_window: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="evaluations after which progress is looked at; 0 never looks.",
    )
    stagnation_decrease: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.01,
        description="stop if the objective fell by less than this fraction over a window.",
    )
    max_line_search: Annotated[int, Field(ge=2)] = Field(
        default=25,
        description="evaluations in one line search before the best point so far is taken.",
    )
    armijo: float = Field(default=1e-4, description="sufficient-decrease constant c1 of the strong Wolfe conditions.")
    wolfe: float = Field(default=0.9, description="curvature constant c2, in (c1, 1).")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.armijo < self.wolfe < 1:
            raise ParameterError(f"L-BFGS needs 0 < armijo < wolfe < 1, not {self.armijo} and {self.wolfe}")
        return self

    def blank(self, k: int, dtype: str) -> tuple[np.ndarray, ...]:
        """No pairs."""
        return Pairs.blank(self.memory, k, dtype)

    def trace(
        self,
        value_and_gradient: ValueAndGradient,
        start: Flat,
        target: Scalar | float | None,
        project: Projection | None,
        memory: tuple[Tensor, ...] = (),
    ) -> Minimum:
        """See `Optimizer.minimize`."""
        if project is not None:
            raise ParameterError(
                "optimizer 'lbfgs' cannot project, since its model of the curvature would no longer hold; use 'adam', "
                "'signed_adam' or 'sgd', or bound the examples by the prior 'box'"
            )
        return _Minimization(value_and_gradient, tf.convert_to_tensor(start), self, target, memory).run()


class _State(NamedTuple):
    """The loop's variables."""

    evaluations: Scalar
    iterations: Scalar
    status: Scalar
    x: Flat  # the iterate, its value and gradient
    f: Scalar
    g: Flat
    search: LineSearch
    pairs: Pairs
    mark: Tensor  # (evaluations, objective) at the last look for stagnation
    trail: Trail


class _Minimization:
    """One minimization's steps as graph functions of its state."""

    def __init__(
        self,
        value_and_gradient: ValueAndGradient,
        start: Flat,
        settings: LBFGS,
        target: Scalar | float | None,
        memory: tuple[Tensor, ...],
    ) -> None:
        # Traced once; the graph inlines both calls.
        self.value_and_gradient = tf.function(value_and_gradient, autograph=False)
        self.start, self.settings, self.target, self.memory = start, settings, target, memory

    def run(self) -> Minimum:
        """Until a status ends it."""
        z = self.begun()
        (z,) = tf.while_loop(
            lambda z: tf.equal(z.status, int(Status.RUNNING)),
            lambda z: (self.evaluated(z),),
            (z,),
            shape_invariants=(tf.nest.map_structure(lambda v: v.shape, z),),
            parallel_iterations=1,
        )
        f = tf.cast(z.f, self.start.dtype)
        trail = z.trail
        ended = (_largest(z.g), z.evaluations, z.iterations, z.status, trail.history, trail.path)
        return Minimum(z.x, f, *ended, tuple(z.pairs))

    def begun(self) -> _State:
        """The state after the first evaluation, at the start."""
        o, start = self.settings, self.start
        f, g, finite = self.evaluate(start)
        g = tf.where(finite, g, tf.zeros_like(g))
        status = tf.where(finite, int(Status.RUNNING), int(Status.NON_FINITE))
        status = tf.where(
            finite & (tf.cast(_largest(g), tf.float64) <= o.gradient_tolerance), int(Status.GRADIENT), status
        )
        status = self.at_target(f, status)
        status = tf.where((status == 0) & (o.max_evaluations <= 1), int(Status.BUDGET), status)
        pairs = Pairs.none(o.memory, tf.shape(start)[0], start.dtype)
        search = LineSearch.steepest(f, g)
        if self.memory:
            pairs = Pairs.taken_up(*self.memory)
            search, pairs = self.set_out(f, g, pairs)
        return _State(
            evaluations=tf.constant(1),
            iterations=tf.constant(0),
            status=status,
            x=start,
            f=f,
            g=g,
            search=search,
            pairs=pairs,
            mark=tf.stack([tf.ones([], tf.float64), f]),
            trail=Trail.begun(o.history, o.path, f, start),
        )

    def evaluate(self, x: Flat) -> tuple[Scalar, Flat, Scalar]:
        """Value (float64), gradient and whether both are finite; the value is infinite if not."""
        f, g = self.value_and_gradient(x)
        f, g = tf.reshape(f, []), tf.ensure_shape(g, self.start.shape)
        finite = tf.math.is_finite(f) & tf.math.is_finite(tf.tensordot(g, g, 1))
        return tf.where(finite, tf.cast(f, tf.float64), tf.constant(float("inf"), tf.float64)), g, finite

    def evaluated(self, z: _State) -> _State:
        """The state one evaluation later."""
        o, search = self.settings, z.search
        f, g, finite = self.evaluate(z.x + tf.cast(search.step, self.start.dtype) * search.direction)
        search, met = search.tried(f, g, finite, z.f, o.armijo, o.wolfe)
        z = z._replace(evaluations=z.evaluations + 1, search=search)
        exhausted = (search.trials >= o.max_line_search) | (z.evaluations >= o.max_evaluations)
        exhausted |= search.narrow()
        taken = met | (exhausted & (search.lo[0] > 0) & (search.lo[1] < z.f))
        return tf.cond(
            taken,
            lambda: self.advanced(z),
            lambda: tf.cond(exhausted, lambda: self.given_up(z), lambda: self.searched_on(z)),
        )

    def advanced(self, z: _State) -> _State:
        """Takes the search's best step and sets out in a new direction."""
        f, g = z.search.lo[1], z.search.g_lo
        step = tf.cast(z.search.lo[0], self.start.dtype) * z.search.direction
        change = g - z.g
        curvature = tf.cast(tf.tensordot(step, change, 1), tf.float64)
        sizes = tf.cast(tf.norm(step), tf.float64) * tf.cast(tf.norm(change), tf.float64)
        useful = curvature > tf.maximum(1e-8 * sizes, 1e-300)
        pairs = tf.cond(useful, lambda: z.pairs.with_pair(step, change, curvature), lambda: z.pairs)
        x, iterations = z.x + step, z.iterations + 1

        search, pairs = self.set_out(f, g, pairs)
        status, mark = self.judged(z, f, g)
        trail = z.trail.with_step(iterations, z.evaluations, f, x)
        return _State(z.evaluations, iterations, status, x, f, g, search, pairs, mark, trail)

    def set_out(self, f: Scalar, g: Flat, pairs: Pairs) -> tuple[LineSearch, Pairs]:
        """A search in the direction of the pairs; along the negative gradient, without them, where that is none."""
        direction = pairs.direction(g)
        slope = tf.cast(tf.tensordot(direction, g, 1), tf.float64)
        usable = (slope < 0) & tf.math.is_finite(slope) & (pairs.count > 0)
        search = tf.cond(
            usable,
            lambda: LineSearch.along(f, g, direction, slope, tf.ones([], tf.float64)),
            lambda: LineSearch.steepest(f, g),
        )
        count = tf.where(usable, pairs.count, 0)
        return search, pairs._replace(count=count, r=tf.cond(usable, lambda: pairs.r, lambda: pairs.forgotten().r))

    def judged(self, z: _State, f: Scalar, g: Flat) -> tuple[Scalar, Tensor]:
        """The status where the objective is f and its gradient g, and the new mark."""
        o, mark = self.settings, z.mark
        status = tf.where(z.evaluations >= o.max_evaluations, int(Status.BUDGET), int(Status.RUNNING))
        if o.stagnation_window:
            due = tf.cast(z.evaluations, tf.float64) - mark[0] >= o.stagnation_window
            stuck = due & (f > (1 - o.stagnation_decrease) * mark[1])
            mark = tf.where(due, tf.stack([tf.cast(z.evaluations, tf.float64), f]), mark)
            status = tf.where(stuck, int(Status.STAGNATED), status)
        small = tf.cast(_largest(g), tf.float64) <= o.gradient_tolerance
        return self.at_target(f, tf.where(small, int(Status.GRADIENT), status)), mark

    def at_target(self, f: Scalar, status: Scalar) -> Scalar:
        """TARGET where the objective has reached it, the status otherwise."""
        if self.target is None:
            return status
        return tf.where(f <= tf.cast(self.target, tf.float64), int(Status.TARGET), status)

    def given_up(self, z: _State) -> _State:
        """The line search found nothing: forget the pairs, or end if there is none left to forget."""
        status = tf.where(z.pairs.count > 0, int(Status.RUNNING), int(Status.LINE_SEARCH))
        return z._replace(
            status=self.in_budget(z, status), pairs=z.pairs.forgotten(), search=LineSearch.steepest(z.f, z.g)
        )

    def searched_on(self, z: _State) -> _State:
        """The next trial along the same direction."""
        return z._replace(status=self.in_budget(z, int(Status.RUNNING)), search=z.search.onward())

    def in_budget(self, z: _State, status: Scalar) -> Scalar:
        """BUDGET where it is used up, the status otherwise."""
        return tf.where(z.evaluations >= self.settings.max_evaluations, int(Status.BUDGET), status)


def _largest(g: Flat) -> Scalar:
    return tf.reduce_max(tf.abs(g))
