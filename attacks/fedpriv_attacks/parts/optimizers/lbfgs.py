"""L-BFGS: limited-memory quasi-Newton minimization, entirely inside one TensorFlow graph.

One `tf.while_loop` runs the whole minimization, and every pass through its body is exactly one evaluation of
the objective and its gradient: the line search is a small state machine rather than a loop in the loop, so the
objective is traced once and evaluation counts are honest.

The direction uses the compact representation of Byrd, Nocedal & Schnabel (1994, "Representations of quasi-Newton
matrices and their use in limited memory methods", Math. Programming 63) in its product form. With the pairs
scaled to s_i.y_i = 1, S and Y their rows and R the upper triangle of S Y^T,

    H = gamma V^T V + S^T R^-T R^-1 S,    V = I - Y^T R^-1 S,

so that H g costs four matrix-vector products and two small triangular solves, where the two-loop recursion needs
2m sequential steps. H is positive semi-definite whatever rounding does to R; R and its solves are float64 for
any dtype of the variables.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv_attacks.parts.optimizers.minimum import Minimum, Optimizer, Projection, Status, ValueAndGradient

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

    def trace(
        self, value_and_gradient: ValueAndGradient, start: Any, target: Any, project: Projection | None
    ) -> Minimum:
        """See `Optimizer.minimize`."""
        if project is not None:
            raise ParameterError(
                "optimizer 'lbfgs' cannot project, since its model of the curvature would no longer hold; use 'adam', "
                "'signed_adam' or 'sgd', or bound the examples by the prior 'box'"
            )
        return _minimize(value_and_gradient, start, self, target)


class _State(NamedTuple):
    """The loop's variables. Scalars of the line search are float64; `lo`, `hi` are (step, value, slope)."""

    evaluations: Any
    iterations: Any
    status: Any
    x: Any  # the iterate, its value and gradient
    f: Any
    g: Any
    direction: Any
    slope: Any
    step: Any  # the next trial
    lo: Any  # best step meeting the decrease condition; step 0 at first
    hi: Any  # other end of the bracket; step inf until one is known
    g_lo: Any
    searched: Any  # evaluations in this line search
    s: Any  # the memory, in ring order
    y: Any
    r: Any  # upper triangle of S Y^T, oldest pair first, unit diagonal
    gamma: Any
    head: Any  # the ring slot of the oldest pair
    pairs: Any
    mark: Any  # (evaluations, objective) at the last look for stagnation
    history: Any
    path: Any  # the points at its rows; no rows unless asked for
    recorded: Any
    stride: Any


def _minimize(value_and_gradient: ValueAndGradient, start: Any, o: LBFGS, target: Any) -> Minimum:
    f64 = tf.float64
    value_and_gradient = tf.function(value_and_gradient, autograph=False)  # traced once; the graph inlines both calls
    start = tf.convert_to_tensor(start)
    dtype, n, m = start.dtype, tf.shape(start)[0], o.memory
    inf = tf.constant(float("inf"), f64)
    rounding = 16 * float(np.finfo(dtype.as_numpy_dtype).eps)

    def dot(a: Any, b: Any) -> Any:
        return tf.tensordot(a, b, 1)

    def first_step(g: Any) -> Any:
        length = tf.cast(tf.reduce_sum(tf.abs(g)), f64)
        return tf.minimum(tf.ones([], f64), 1 / tf.maximum(length, 1e-300))

    def evaluate(x: Any) -> tuple[Any, Any, Any]:
        f, g = value_and_gradient(x)
        f, g = tf.reshape(f, []), tf.ensure_shape(g, start.shape)
        finite = tf.math.is_finite(f) & tf.math.is_finite(dot(g, g))
        return tf.where(finite, tf.cast(f, f64), inf), g, finite

    def search_from(f: Any, g: Any, direction: Any, slope: Any, step: Any) -> dict[str, Any]:
        return {
            "direction": direction,
            "slope": slope,
            "step": step,
            "lo": tf.stack([tf.zeros([], f64), f, slope]),
            "hi": tf.stack([inf, inf, tf.zeros([], f64)]),
            "g_lo": g,
            "searched": tf.constant(0),
        }

    def steepest(f: Any, g: Any) -> dict[str, Any]:
        return search_from(f, g, -g, -tf.cast(dot(g, g), f64), first_step(g))

    def ages(head: Any) -> Any:
        return tf.math.floormod(head + tf.range(m), m)

    def remember(z: _State, step_taken: Any, change: Any, curvature: Any) -> tuple[Any, ...]:
        scale = tf.cast(tf.math.rsqrt(curvature), dtype)
        s_new, y_new = step_taken * scale, change * scale
        # In place: the loop is the only holder of these buffers, and copying them costs as much as the algebra.
        s = tf.raw_ops.InplaceUpdate(x=z.s, i=z.head[None], v=s_new[None])
        y = tf.raw_ops.InplaceUpdate(x=z.y, i=z.head[None], v=y_new[None])
        head, pairs = tf.math.floormod(z.head + 1, m), tf.minimum(z.pairs + 1, m)
        valid = tf.cast(tf.range(m) >= m - pairs, f64)
        column = tf.cast(tf.gather(tf.linalg.matvec(s, y_new), ages(head)), f64) * valid
        r = tf.concat(
            [
                tf.concat([z.r[1:, 1:], column[:-1, None]], 1),
                tf.concat([tf.zeros([1, m - 1], f64), tf.ones([1, 1], f64)], 1),
            ],
            0,
        )
        return s, y, r, 1 / tf.cast(dot(y_new, y_new), f64), head, pairs

    def quasi_newton(g: Any, s: Any, y: Any, r: Any, gamma: Any, head: Any, pairs: Any) -> Any:
        """-H g; slots that hold no pair get coefficient zero."""
        order, slots = ages(head), ages(-head)
        valid = tf.cast(tf.range(m) >= m - pairs, f64)
        a = tf.cast(tf.gather(tf.linalg.matvec(s, g), order), f64) * valid
        q = tf.linalg.triangular_solve(r, a[:, None], lower=False)[:, 0]
        w = g - tf.linalg.matvec(y, tf.gather(tf.cast(q, dtype), slots), transpose_a=True)
        c = tf.cast(tf.gather(tf.linalg.matvec(y, w), order), f64) * valid
        p = tf.linalg.triangular_solve(r, (q - gamma * c)[:, None], lower=False, adjoint=True)[:, 0] * valid
        return -(tf.cast(gamma, dtype) * w + tf.linalg.matvec(s, tf.gather(tf.cast(p, dtype), slots), transpose_a=True))

    def record(z: _State, evaluations: Any, iterations: Any, f: Any, x: Any) -> dict[str, Any]:
        """The history with this step in it, if it is due; every other row goes when the rows are used up."""
        now = (z.history, z.path, z.recorded, z.stride)
        row = tf.stack([tf.cast(evaluations, f64), f])[None]

        def thin() -> tuple[Any, ...]:
            kept = z.history[::2]
            rest = o.history - kept.shape[0]
            history = tf.concat([kept, tf.fill([rest, 2], tf.constant(float("nan"), f64))], 0)
            path = tf.concat([z.path[::2], tf.zeros([rest, n], dtype)], 0) if o.path else z.path
            return history, path, tf.constant(kept.shape[0]), z.stride * 2

        def write() -> tuple[Any, ...]:
            history, path, recorded, stride = tf.cond(z.recorded >= o.history, thin, lambda: now)
            history = tf.tensor_scatter_nd_update(history, [[recorded]], row)
            path = tf.tensor_scatter_nd_update(path, [[recorded]], x[None]) if o.path else path
            return history, path, recorded + 1, stride

        due = tf.equal(tf.math.floormod(iterations, z.stride), 0)
        return dict(zip(("history", "path", "recorded", "stride"), tf.cond(due, write, lambda: now), strict=True))

    def advance(z: _State) -> _State:
        """Takes the step `lo` and sets out in a new direction."""
        f, g = z.lo[1], z.g_lo
        step_taken = tf.cast(z.lo[0], dtype) * z.direction
        change = g - z.g
        curvature = tf.cast(dot(step_taken, change), f64)
        sizes = tf.cast(tf.norm(step_taken), f64) * tf.cast(tf.norm(change), f64)
        useful = curvature > tf.maximum(1e-8 * sizes, 1e-300)
        memory = (z.s, z.y, z.r, z.gamma, z.head, z.pairs)
        memory = tf.cond(useful, lambda: remember(z, step_taken, change, curvature), lambda: memory)
        x, iterations = z.x + step_taken, z.iterations + 1

        direction = quasi_newton(g, *memory)
        slope = tf.cast(dot(direction, g), f64)
        usable = (slope < 0) & tf.math.is_finite(slope) & (memory[5] > 0)
        search = tf.cond(
            usable,
            lambda: search_from(f, g, direction, slope, tf.ones([], f64)),
            lambda: steepest(f, g),
        )
        s, y, r, gamma, head, pairs = memory
        pairs = tf.where(usable, pairs, 0)
        r = tf.cond(usable, lambda: r, lambda: tf.eye(m, dtype=f64))

        status = tf.where(z.evaluations >= o.max_evaluations, int(Status.BUDGET), int(Status.RUNNING))
        mark = z.mark
        if o.stagnation_window:
            due = tf.cast(z.evaluations, f64) - mark[0] >= o.stagnation_window
            stuck = due & (f > (1 - o.stagnation_decrease) * mark[1])
            mark = tf.where(due, tf.stack([tf.cast(z.evaluations, f64), f]), mark)
            status = tf.where(stuck, int(Status.STAGNATED), status)
        status = tf.where(tf.cast(largest(g), f64) <= o.gradient_tolerance, int(Status.GRADIENT), status)
        if target is not None:
            status = tf.where(f <= tf.cast(target, f64), int(Status.TARGET), status)
        recorded = record(z, z.evaluations, iterations, f, x)
        changes = {"x": x, "f": f, "g": g, "iterations": iterations, "status": status, "mark": mark}
        changes |= {"s": s, "y": y, "r": r, "gamma": gamma, "head": head, "pairs": pairs}
        return z._replace(**changes, **search, **recorded)

    def give_up(z: _State) -> _State:
        """The line search found nothing: forget the memory, or end if there is none left to forget."""
        status = tf.where(z.pairs > 0, int(Status.RUNNING), int(Status.LINE_SEARCH))
        status = tf.where(z.evaluations >= o.max_evaluations, int(Status.BUDGET), status)
        return z._replace(status=status, pairs=tf.constant(0), r=tf.eye(m, dtype=f64), **steepest(z.f, z.g))

    def search_on(z: _State) -> _State:
        """The next trial: a safeguarded cubic step inside the bracket, or beyond it while there is none."""
        lo, hi = z.lo, z.hi
        bracketed = tf.math.is_finite(hi[0])
        width = hi[0] - lo[0]
        inner = _cubic(lo, hi)
        margin = 0.1 * tf.abs(width)
        low, high = tf.minimum(lo[0], hi[0]), tf.maximum(lo[0], hi[0])
        inner = tf.where(tf.math.is_finite(inner), inner, 0.5 * (lo[0] + hi[0]))
        inner = tf.clip_by_value(inner, low + margin, high - margin)
        outer = 4.0 * lo[0]
        status = tf.where(z.evaluations >= o.max_evaluations, int(Status.BUDGET), int(Status.RUNNING))
        return z._replace(step=tf.where(bracketed, inner, outer), status=status)

    def body(*values: Any) -> tuple[Any, ...]:
        z = _State(*values)
        f, g, finite = evaluate(z.x + tf.cast(z.step, dtype) * z.direction)
        slope = tf.where(finite, tf.cast(dot(z.direction, g), f64), 0.0)
        trial = tf.stack([z.step, f, slope])
        flat = tf.abs(slope) <= -o.wolfe * z.slope
        high = (f > z.f + o.armijo * z.step * z.slope) | (f >= z.lo[1])
        # Where rounding hides the decrease, the slopes still show it (Hager & Zhang 2005, "approximate Wolfe").
        high = ~finite | (high & ~(flat & (f <= z.f + rounding * tf.abs(z.f))))
        turned = slope * (z.hi[0] - z.lo[0]) >= 0
        wolfe = ~high & flat
        z = z._replace(
            evaluations=z.evaluations + 1,
            searched=z.searched + 1,
            hi=tf.where(high, trial, tf.where(turned, z.lo, z.hi)),
            lo=tf.where(high, z.lo, trial),
            g_lo=tf.where(high, z.g_lo, g),
        )
        exhausted = (z.searched >= o.max_line_search) | (z.evaluations >= o.max_evaluations)
        narrow = tf.abs(z.hi[0] - z.lo[0]) <= _resolution(dtype) * tf.maximum(z.lo[0], z.hi[0])
        exhausted |= narrow & tf.math.is_finite(z.hi[0])
        taken = wolfe | (exhausted & (z.lo[0] > 0))
        z = tf.cond(
            taken,
            lambda: advance(z),
            lambda: tf.cond(exhausted, lambda: give_up(z), lambda: search_on(z)),
        )
        return tuple(z)

    def largest(g: Any) -> Any:
        return tf.reduce_max(tf.abs(g))

    f, g, finite = evaluate(start)
    g = tf.where(finite, g, tf.zeros_like(g))
    status = tf.where(finite, int(Status.RUNNING), int(Status.NON_FINITE))
    status = tf.where(finite & (tf.cast(largest(g), f64) <= o.gradient_tolerance), int(Status.GRADIENT), status)
    if target is not None:
        status = tf.where(f <= tf.cast(target, f64), int(Status.TARGET), status)
    status = tf.where((status == 0) & (o.max_evaluations <= 1), int(Status.BUDGET), status)
    history = tf.fill([o.history, 2], tf.constant(float("nan"), f64))
    path = tf.concat([start[None], tf.zeros([o.history - 1, n], dtype)], 0) if o.path else tf.zeros([0, n], dtype)
    z = _State(
        evaluations=tf.constant(1),
        iterations=tf.constant(0),
        status=status,
        x=start,
        f=f,
        g=g,
        **steepest(f, g),
        # Empty, not zeros: a folded constant must not be updated in place.
        s=tf.raw_ops.Empty(shape=[m, n], dtype=dtype, init=True),
        y=tf.raw_ops.Empty(shape=[m, n], dtype=dtype, init=True),
        r=tf.eye(m, dtype=f64),
        gamma=tf.zeros([], f64),
        head=tf.constant(0),
        pairs=tf.constant(0),
        mark=tf.stack([tf.ones([], f64), f]),
        history=tf.tensor_scatter_nd_update(history, [[0]], tf.stack([tf.ones([], f64), f])[None]),
        path=path,
        recorded=tf.constant(1),
        stride=tf.constant(1),
    )
    shapes = _State(*(v.shape for v in z))
    z = _State(
        *tf.while_loop(
            lambda *v: tf.equal(_State(*v).status, int(Status.RUNNING)),
            body,
            tuple(z),
            shape_invariants=tuple(shapes),
            parallel_iterations=1,
        )
    )
    return Minimum(z.x, tf.cast(z.f, dtype), largest(z.g), z.evaluations, z.iterations, z.status, z.history, z.path)


def _resolution(dtype: Any) -> float:
    return 1e-9 if dtype == tf.float64 else 1e-6


def _cubic(a: Any, b: Any) -> Any:
    """The minimizer of the cubic through two (step, value, slope) triples (Nocedal & Wright, 2nd ed., eq. 3.59)."""
    d1 = a[2] + b[2] - 3 * (a[1] - b[1]) / (a[0] - b[0])
    d2 = tf.sign(b[0] - a[0]) * tf.sqrt(d1 * d1 - a[2] * b[2])
    return b[0] - (b[0] - a[0]) * (b[2] + d2 - d1) / (b[2] - a[2] + 2 * d2)
