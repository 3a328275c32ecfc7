"""Optimizers: one step of a client or of the server, as a pure function of state, weights and gradient.

They are written out here, not taken from a library, so that every number in them has the weights' precision, the
learning rate comes in anew each round, and the adaptive ones are the formulas below to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedpriv.base.lazy import tf
from fedpriv.base.types import Nested, Scalar, Tensor
from fedpriv.procedure.procedure import Optimizer

State = tuple[Nested, ...]
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Stepper:
    """A parameter set as functions. With rate r, gradient g, weights w and element-wise operations:

    - `sgd`: w <- w - r g.
    - `momentum` (Polyak): a <- momentum a + g; w <- w - r a.
    - `adam` (Kingma, Ba, 2015, arXiv 1412.6980): a <- beta_1 a + (1 - beta_1) g; v <- beta_2 v + (1 - beta_2) g^2;
      w <- w - r c a / (sqrt(v) + epsilon), c = sqrt(1 - beta_2^t) / (1 - beta_1^t) in step t = 1, 2, ...
    - `yogi` (Zaheer et al., 2018): as adam, but v <- v + (1 - beta_2) sign(g^2 - v) g^2 from v = epsilon^2.
    - `adagrad` (Duchi et al., 2011): v <- v + g^2 from v = epsilon^2; w <- w - r g / (sqrt(v) + epsilon).

    On the server, with g the negative mean update, the last three are FedAdam, FedYogi and FedAdagrad (Reddi et al.,
    2021, arXiv 2003.00295), epsilon being that paper's tau. The correction c is not in its listing, but in the
    optimizers its experiments used.

    With weight decay, g is the gradient plus `weight_decay` w.

    Attributes:
      optimizer: the parameters; its schedule is the caller's business.
    """

    optimizer: Optimizer

    def initialize(self, shapes: Sequence[Sequence[int]], dtype: str) -> State:
        """The state before the first step, for weights of these shapes."""
        kind = self.optimizer.kind

        def filled(value: float) -> Tensors:
            return tuple(tf.fill(shape, tf.constant(value, dtype)) for shape in shapes)

        if kind == "momentum":
            return (filled(0.0),)
        if kind == "adagrad":
            return (filled(self.optimizer.epsilon**2),)
        if kind in ("adam", "yogi"):
            start = self.optimizer.epsilon**2 if kind == "yogi" else 0.0
            return tf.zeros([], tf.int64), filled(0.0), filled(start)
        return ()

    def next(self, state: State, weights: Tensors, gradient: Tensors, rate: Scalar) -> tuple[State, Tensors]:
        """(state, weights) after one step; traceable.

        Args:
          state: from `initialize` or an earlier step.
          weights: tensors in the shapes it was made for.
          gradient: one tensor a weight.
          rate: scalar learning rate, in the weights' precision.
        """
        o = self.optimizer
        if o.weight_decay:
            gradient = _each(lambda w, g: g + o.weight_decay * w, weights, gradient)
        if o.kind == "sgd":
            return (), _each(lambda w, g: w - rate * g, weights, gradient)
        if o.kind == "momentum":
            velocity = _each(lambda a, g: o.momentum * a + g, state[0], gradient)
            return (velocity,), _each(lambda w, a: w - rate * a, weights, velocity)
        if o.kind == "adagrad":
            squares = _each(lambda v, g: v + tf.square(g), state[0], gradient)
            step = _each(lambda g, v: g / (tf.sqrt(v) + o.epsilon), gradient, squares)
            return (squares,), _each(lambda w, s: w - rate * s, weights, step)
        count = state[0] + 1
        t = tf.cast(count, tf.float64)
        correction = tf.sqrt(1.0 - tf.pow(tf.constant(o.beta_2, tf.float64), t))
        correction /= 1.0 - tf.pow(tf.constant(o.beta_1, tf.float64), t)
        first = _each(lambda a, g: a + (1.0 - o.beta_1) * (g - a), state[1], gradient)
        second = _each(self._second_moment, state[2], gradient)
        step = _each(lambda a, v: a / (tf.sqrt(v) + o.epsilon), first, second)
        rate = rate * tf.cast(correction, rate.dtype)
        return (count, first, second), _each(lambda w, s: w - rate * s, weights, step)

    def _second_moment(self, v: Tensor, g: Tensor) -> Tensor:
        square, fresh = tf.square(g), 1.0 - self.optimizer.beta_2
        change = tf.sign(square - v) * square if self.optimizer.kind == "yogi" else square - v
        return v + fresh * change


def _each(function: Callable[..., Tensor], *tensors: Tensors) -> Tensors:
    return tuple(function(*row) for row in zip(*tensors, strict=True))


def build(optimizer: Optimizer) -> Stepper:
    """The functions of a parameter set."""
    return Stepper(optimizer)
