"""Refine: Gauss-Newton steps on all of the gradient's equations at once, from the recursion's solution.

The recursion takes each layer's k from the layers after it as exact, though it has their errors. The joint problem
has the example alone as unknown: with k = p - y at the logits held at what was observed, the kernels' and biases'
gradients of the linear loss k . logits(x) must be those observed, and the last layer's input must be what its
rank-one gradient shows. All in float64 and weighed by the errors of the update, solved by conjugate gradients
preconditioned with the recursion's own first system.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor, Tensors
from fedpriv.models.chain import ChainLayer
from fedpriv_attacks.rgap.activations import forward_graph


@dataclass(frozen=True, eq=False)
class Refined:
    """The refined example.

    Attributes:
      x: `[inputs]`.
      misfits: mean squared weighted residual before and after each step taken; 1 is what rounding leaves.
      evaluations: passes forward and backward through the network, and products with their derivatives.
    """

    x: np.ndarray
    misfits: tuple[float, ...]
    evaluations: int


def refine(
    chain: tuple[ChainLayer, ...],
    weights: Sequence[np.ndarray],
    k: np.ndarray,
    target: np.ndarray,
    scale: np.ndarray,
    start: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray],
    steps: int,
    iterations: int,
) -> Refined:
    """Minimizes the squared length of `scale * (equations(x) - target)`.

    Args:
      chain: the network.
      weights: kernel and bias of every layer that has them, in the chain's order, float64.
      k: `[classes]`, the gradient in the logits.
      target: `[m]`: the last layer's input, then the gradients of all weights but the last layer's, in their order.
      scale: `[m]`, one over each entry's standard deviation.
      start: `[inputs]`.
      precondition: `[inputs] -> [inputs]`, nearly the inverse of the equations' normal matrix at `start`.
      steps: Gauss-Newton steps at most; a step that does not lower the residual is halved, then given up.
      iterations: conjugate-gradient iterations a step.
    """
    functions = _functions(chain)
    constants = ([tf.constant(w, tf.float64) for w in weights], tf.constant(k), tf.constant(scale))

    def residual(x: np.ndarray) -> np.ndarray:
        return scale * target - functions[0](tf.constant(x), *constants).numpy()

    x, left, evaluations = start, residual(start), 1
    misfits = [float(np.mean(left**2))]
    for _ in range(steps):
        point = tf.constant(x)

        def pull(u: np.ndarray, point: Tensor = point) -> np.ndarray:
            return np.asarray(functions[2](point, tf.constant(u), *constants).numpy())

        def product(d: np.ndarray, point: Tensor = point) -> np.ndarray:
            return np.asarray(functions[3](point, tf.constant(d), *constants).numpy())

        direction, used = _conjugate_gradients(product, pull(left), precondition, iterations)
        evaluations += 1 + 2 * used
        length = 1.0
        for _ in range(6):
            trial = x + length * direction
            remaining = residual(trial)
            evaluations += 1
            if np.mean(remaining**2) < misfits[-1]:
                break
            length /= 2
        else:
            break
        x, left = trial, remaining
        misfits.append(float(np.mean(left**2)))
        if misfits[-1] > 0.999 * misfits[-2]:
            break
    return Refined(x, tuple(misfits), evaluations)


def _conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray],
    b: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray],
    iterations: int,
) -> tuple[np.ndarray, int]:
    x, residual = np.zeros_like(b), b.copy()
    z = precondition(residual)
    p, before = z, float(residual @ z)
    stop = 1e-10 * before
    for used in range(1, iterations + 1):
        q = product(p)
        curvature = float(p @ q)
        if not curvature > 0:
            return x, used
        x = x + before / curvature * p
        residual = residual - before / curvature * q
        z = precondition(residual)
        now = float(residual @ z)
        if not now > stop:
            return x, used
        p, before = z + now / before * p, now
    return x, iterations


@lru_cache(maxsize=8)
def _functions(chain: tuple[ChainLayer, ...]) -> tuple[Callable[..., Tensor], ...]:
    """Compiled: the weighted equations at x; J d; J^T u; J^T J d."""

    def equations(x: Tensor, weights: Tensors, k: Tensor, scale: Tensor) -> Tensor:
        inner = weights[: -1 - (chain[-1].bias is not None)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inner)
            features, logits = run(chain, x, weights)
            value = tf.tensordot(k, logits, 1)
        gradients = tape.gradient(value, inner) if inner else []
        return scale * tf.concat([features, *(tf.reshape(g, [-1]) for g in gradients)], 0)

    def push(x: Tensor, d: Tensor, weights: Tensors, k: Tensor, scale: Tensor) -> Tensor:
        with tf.autodiff.ForwardAccumulator(x, d) as forward:
            value = equations(x, weights, k, scale)
        return forward.jvp(value)

    def pull(x: Tensor, u: Tensor, weights: Tensors, k: Tensor, scale: Tensor) -> Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = equations(x, weights, k, scale)
        return tape.gradient(value, x, u)

    def both(x: Tensor, d: Tensor, weights: Tensors, k: Tensor, scale: Tensor) -> Tensor:
        return pull(x, push(x, d, weights, k, scale), weights, k, scale)

    return tuple(tf.function(f, autograph=False) for f in (equations, push, pull, both))


atexit.register(_functions.cache_clear)  # compiled functions must go before TensorFlow does


def run(chain: tuple[ChainLayer, ...], x: Tensor, weights: Tensors) -> tuple[Tensor, Tensor]:
    """The last layer's input `[n]` and the logits `[classes]` of one flat example, in the precision of `x`."""
    given = list(weights)
    features = x
    for layer in chain:
        features = x
        kernel = None if layer.kernel is None else given.pop(0)
        if layer.kind == "dense":
            z = tf.linalg.matvec(kernel, tf.reshape(x, [-1]), transpose_a=True)
        else:
            image = tf.reshape(x, [1, *layer.input_shape])
            if layer.kind == "conv":
                padding = [[0, 0], *map(list, layer.padding), [0, 0]]
                z = tf.nn.conv2d(image, kernel, layer.stride, padding)
            else:
                z = tf.nn.avg_pool2d(image, layer.window, layer.stride, "VALID")
        z = tf.reshape(z, layer.output_shape)
        if layer.bias is not None:
            z += given.pop(0)
        x = tf.reshape(forward_graph(layer, z), [-1])
    return features, x
