"""First-order optimizers: Adam, signed Adam and SGD with momentum, entirely inside one TensorFlow graph.

One `tf.while_loop` runs the whole minimization; every pass through its body is one evaluation of the objective and
its gradient and the step from there. Step sizes are tabled before the loop. The point with the lowest objective is
kept, since these methods do not descend from step to step.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested, Scalar, Seed, Tensor, Tensors
from fedpriv_attacks.parts.optimizers.minimum import Leap, Minimum, Optimizer, Projection, Status, ValueAndGradient

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class FirstOrder(Optimizer):
    """Base of the methods that step along a function of the gradients so far.

    A step that leads to where the objective or its gradient is not finite ends the minimization with status
    NON_FINITE at the best point before it.
    """

    projects: ClassVar[bool] = True
    leaps: ClassVar[bool] = True
    paced: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = Field(
        default=1000,
        description="steps taken; the objective is evaluated once more than that.",
    )
    learning_rate: Positive = Field(default=0.1, description="of the first steps.")
    decay: Literal["step", "cosine", "linear", "exponential", "none"] = Field(
        default="none",
        description="`step` multiplies the rate by 0.1 after 3/8, 5/8 and 7/8 of the steps (Geiping et al. 2020), "
        "`cosine` lets it fall to zero along half a cosine, `linear` in a straight line, `exponential` to a hundredth "
        "by the same factor every step (as Balunovic et al. 2022, arXiv 2202.08827), `none` keeps it.",
    )
    warmup: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="steps over which the rate first rises in a straight line.",
    )
    signed: bool | Literal["soft"] = Field(
        default=False,
        description="what becomes of the gradient before anything else: its sign (`true`), a tanh that softens as the "
        "steps go on (`soft`: tanh(c g) / c, c falling from 1 to 0), or itself (`false`).",
    )
    clip: Positive | None = Field(
        default=None, description="Euclidean norm to which larger gradients are scaled, or None."
    )
    langevin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="standard deviation of the normal noise added to the gradient, as a multiple of the learning rate "
        "(Yin et al. 2021, arXiv 2104.07586). The noise is a function of the start: the same start, the "
        "same noise.",
    )

    def slowed(self, factor: float) -> Optimizer:
        """With the learning rate times `factor`."""
        changed: Optimizer = self.with_(learning_rate=self.learning_rate * factor)
        return changed

    @abstractmethod
    def slots(self, start: Flat) -> tuple[Tensor, ...]:
        """What the method remembers from step to step, at the start."""

    @abstractmethod
    def table(self, rates: Tensor) -> Tensor:
        """`[steps, m]` scalars for `advance`, from the learning rates `[steps]`, both float64."""

    @abstractmethod
    def advance(self, gradient: Flat, slots: tuple[Tensor, ...], scalars: Tensors) -> tuple[Flat, tuple[Tensor, ...]]:
        """(what to subtract from the point, new slots), given one row of the table as a list of scalars."""

    def rates(self) -> Tensor:
        """The learning rate of each step, `[steps]` float64."""
        t, total = tf.range(self.steps, dtype=tf.float64), float(self.steps)
        scale = {
            "step": lambda: 0.1 ** tf.add_n([tf.cast(t >= self.steps * q // 8, t.dtype) for q in (3, 5, 7)]),
            "cosine": lambda: 0.5 * (1 + tf.math.cos(3.141592653589793 * t / total)),
            "linear": lambda: 1 - t / total,
            "exponential": lambda: tf.constant(0.01, t.dtype) ** (t / total),
            "none": lambda: tf.ones_like(t),
        }[self.decay]()
        if self.warmup:
            scale *= tf.minimum((t + 1) / self.warmup, 1.0)
        return self.learning_rate * scale

    def rows(self) -> np.ndarray:
        """The history's row of each evaluation, `[steps + 1]`: every one at first, log-spaced later."""
        total = self.steps + 1
        kept = np.maximum(np.rint(np.geomspace(1, total, self.history)), np.arange(1, self.history + 1))
        return np.searchsorted(np.unique(np.minimum(kept, total)), np.arange(1, total + 1))

    def direction(self, gradient: Flat, t: Scalar, rate: Scalar, seed: Seed | None) -> Flat:
        """The gradient as the method gets to see it."""
        if self.langevin:
            noise = tf.random.stateless_normal(
                tf.shape(gradient), tf.random.experimental.stateless_fold_in(seed, t), dtype=gradient.dtype
            )
            gradient += self.langevin * rate * noise
        if self.clip is not None:
            gradient *= tf.minimum(1.0, self.clip / tf.maximum(tf.norm(gradient), 1e-30))
        if self.signed == "soft":
            left = 1 - tf.cast(t, gradient.dtype) / self.steps
            return tf.tanh(gradient * left) / left
        return tf.sign(gradient) if self.signed else gradient

    def trace(
        self,
        value_and_gradient: ValueAndGradient,
        start: Flat,
        target: Scalar | float | None,
        project: Projection | None,
        memory: tuple[Tensor, ...] = (),
        leap: Leap | None = None,
        pace: Scalar | None = None,
    ) -> Minimum:
        """See `Optimizer.minimize`."""
        start = tf.convert_to_tensor(start)
        seed = _seed(start) if self.langevin else None
        dtype, steps = start.dtype, self.steps
        rates = self.rates() if pace is None else self.rates() * tf.cast(pace, tf.float64)
        # One row more, never used, for the last pass through the loop, which only evaluates.
        table = tf.cast(tf.pad(tf.concat([rates[:, None], self.table(rates)], 1), [[0, 1], [0, 0]]), dtype)
        row_of = tf.constant(self.rows(), tf.int32)
        # Written in place, so they must not be constants: TensorFlow would fold those and keep what was written.
        history = tf.raw_ops.Empty(shape=[self.history, 2], dtype=tf.float64, init=True)
        path = tf.raw_ops.Empty(shape=[self.history if self.path else 0, tf.size(start)], dtype=dtype, init=True)
        path.set_shape([None, start.shape[0]])

        def body(*values: Nested) -> tuple[Nested, ...]:
            z = _State(*values)
            f, g = value_and_gradient(z.x)
            f, g = tf.reshape(f, []), tf.ensure_shape(g, start.shape)
            finite = tf.math.is_finite(f) & tf.math.is_finite(tf.nn.l2_loss(g))
            f = tf.where(finite, f, tf.constant(float("inf"), dtype))
            better = f < z.f
            best = tf.where(better, f, z.f)
            status = tf.where(z.t < steps, int(Status.RUNNING), int(Status.BUDGET))
            if target is not None:
                status = tf.where(tf.cast(best, tf.float64) <= tf.cast(target, tf.float64), int(Status.TARGET), status)
            status = tf.where(finite, status, int(Status.NON_FINITE))
            row = row_of[z.t][None]
            now = tf.stack([tf.cast(z.t + 1, tf.float64), tf.cast(f, tf.float64)])
            scalars = tf.unstack(table[z.t])
            change, slots = self.advance(self.direction(g, z.t, scalars[0], seed), z.slots, scalars[1:])
            x = z.x - change
            if leap is not None:
                step = z.t + 1
                due = (step % leap.every == 0) & (step >= round(leap.burn_in * steps)) & (status == int(Status.RUNNING))
                x, other = tf.cond(due, lambda: leap.make(x, step), lambda: (x, tf.constant(False)))
                best = tf.where(other, tf.constant(float("inf"), dtype), best)
            return tuple(
                _State(
                    t=z.t + 1,
                    status=status,
                    x=x if project is None else project(x),
                    slots=slots,
                    position=tf.where(better, z.x, z.position),
                    f=best,
                    g=tf.where(better, tf.reduce_max(tf.abs(g)), z.g),
                    history=tf.raw_ops.InplaceUpdate(x=z.history, i=row, v=now[None]),
                    path=tf.raw_ops.InplaceUpdate(x=z.path, i=row, v=z.x[None]) if self.path else z.path,
                )
            )

        z = _State(
            t=tf.constant(0),
            status=tf.constant(int(Status.RUNNING)),
            x=start,
            slots=self.slots(start),
            position=start,
            f=tf.constant(float("inf"), dtype),
            g=tf.zeros([], dtype),
            history=history,
            path=path,
        )
        z = _State(
            *tf.while_loop(
                lambda *v: tf.equal(_State(*v).status, int(Status.RUNNING)), body, tuple(z), parallel_iterations=1
            )
        )
        used = (tf.range(self.history) <= row_of[z.t - 1])[:, None]
        history = tf.where(used, z.history, tf.constant(float("nan"), tf.float64))
        return Minimum(z.position, z.f, z.g, z.t, z.t - 1, z.status, history, z.path)


class _State(NamedTuple):
    """The loop's variables."""

    t: Scalar  # evaluations so far
    status: Scalar
    x: Flat
    slots: tuple[Tensor, ...]
    position: Flat  # the best point, its value and its gradient's largest entry
    f: Scalar
    g: Scalar
    history: Tensor
    path: Tensor


def _seed(start: Flat) -> Seed:
    """An int32 `[2]` seed from the bits of `[k]` floats; each float's place counts."""
    bits = tf.reshape(tf.bitcast(start, tf.int32), [-1])
    place = 2 * tf.range(tf.size(bits)) + 1
    return tf.stack([tf.reduce_sum(bits * place), tf.reduce_sum(bits)])


class Adam(FirstOrder):
    """Adam: steps along the mean gradient over its root mean square, both running and bias-corrected.

    Kingma, Ba 2015, "Adam: A Method for Stochastic Optimization", ICLR, arXiv 1412.6980.
    """

    kind: ClassVar[str] = "adam"
    paper: ClassVar[str] = "Kingma, Ba 2015, arXiv 1412.6980"

    beta_1: Share = Field(default=0.9, description="how slowly the mean gradient forgets.")
    beta_2: Share = Field(default=0.999, description="how slowly the mean square forgets.")
    epsilon: Positive = Field(default=1e-8, description="added to the root mean square.")

    def slots(self, start: Flat) -> tuple[Tensor, ...]:
        """Mean gradient and mean square."""
        return tf.zeros_like(start), tf.zeros_like(start)

    def table(self, rates: Tensor) -> Tensor:
        """Both bias corrections, moved into the step size and epsilon."""
        t = tf.range(1, self.steps + 1, dtype=tf.float64)
        root = tf.sqrt(1 - tf.constant(self.beta_2, t.dtype) ** t)
        return tf.stack([rates * root / (1 - tf.constant(self.beta_1, t.dtype) ** t), self.epsilon * root], 1)

    def advance(self, gradient: Flat, slots: tuple[Tensor, ...], scalars: Tensors) -> tuple[Flat, tuple[Tensor, ...]]:
        """One step."""
        (mean, square), (rate, epsilon) = slots, scalars
        mean += (1 - self.beta_1) * (gradient - mean)
        square += (1 - self.beta_2) * (tf.square(gradient) - square)
        return rate * mean / (tf.sqrt(square) + epsilon), (mean, square)


class SignedAdam(Adam):
    """Adam on the sign of the gradient, with a learning rate that falls in steps.

    Geiping, Bauermeister, Droege, Moeller 2020, "Inverting Gradients - How easy is it to break privacy in federated
    learning?", NeurIPS, arXiv 2003.14053. The paper takes 24,000 steps at rate 0.1, on images normalized by the
    data's mean and standard deviation.
    """

    kind: ClassVar[str] = "signed_adam"
    paper: ClassVar[str] = "Geiping, Bauermeister, Droege, Moeller 2020, arXiv 2003.14053"

    steps: Annotated[int, Field(ge=1)] = 24_000
    decay: Literal["step", "cosine", "linear", "exponential", "none"] = "step"
    signed: bool | Literal["soft"] = True


class SGD(FirstOrder):
    """Gradient descent with momentum.

    Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; Nesterov's variant as in Sutskever
    et al. 2013.
    """

    kind: ClassVar[str] = "sgd"
    paper: ClassVar[str] = "Polyak 1964, USSR Comput. Math. Math. Phys. 4(5)"

    momentum: Share = Field(default=0.0, description="share of the last change that is added to the next.")
    nesterov: bool = Field(default=False, description="look ahead along the momentum.")

    def slots(self, start: Flat) -> tuple[Tensor, ...]:
        """The velocity, if there is momentum."""
        return (tf.zeros_like(start),) if self.momentum else ()

    def table(self, rates: Tensor) -> Tensor:
        """The rates."""
        return rates[:, None]

    def advance(self, gradient: Flat, slots: tuple[Tensor, ...], scalars: Tensors) -> tuple[Flat, tuple[Tensor, ...]]:
        """One step."""
        if not self.momentum:
            return scalars[0] * gradient, ()
        velocity = self.momentum * slots[0] + gradient
        change = gradient + self.momentum * velocity if self.nesterov else velocity
        return scalars[0] * change, (velocity,)
