"""Activations: forward, inverse and slope of the elementwise functions of a chain, in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor
from fedpriv.models.chain import ChainLayer


class Inverted(NamedTuple):
    """What an activation's output says of its input.

    Attributes:
      z: `[n]`, the input; meaningless where the slope is 0.
      slope: `[n]`, the activation's derivative at z; 0 where the output says nothing of the input (a ReLU at 0).
    """

    z: np.ndarray
    slope: np.ndarray


def forward(layer: ChainLayer, z: np.ndarray) -> np.ndarray:
    """activation(z)."""
    if layer.activation == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * z))
    if layer.activation == "tanh":
        return np.tanh(z)
    if layer.activation == "softplus":
        return np.logaddexp(0.0, z)
    below = {
        "relu": 0.0,
        "leaky_relu": layer.slope * np.minimum(z, 0),
        "elu": layer.slope * np.expm1(np.minimum(z, 0)),
        "linear": np.minimum(z, 0),
    }[layer.activation]
    return np.maximum(z, 0) + below


def forward_graph(layer: ChainLayer, z: Tensor) -> Tensor:
    """activation(z) of a tensor, differentiable."""
    if layer.activation == "leaky_relu":
        return tf.where(z > 0, z, tf.cast(layer.slope, z.dtype) * z)
    if layer.activation == "elu":
        return tf.where(z > 0, z, tf.cast(layer.slope, z.dtype) * tf.math.expm1(tf.minimum(z, 0)))
    functions = {"sigmoid": tf.sigmoid, "tanh": tf.tanh, "relu": tf.nn.relu, "softplus": tf.math.softplus}
    return functions.get(layer.activation, tf.identity)(z)


def invert(layer: ChainLayer, x: np.ndarray, deviation: np.ndarray) -> Inverted:
    """z with activation(z) = x, and the slope there.

    Args:
      layer: whose activation it is.
      x: `[n]`, the activation's output, with errors; values outside its range are moved into it.
      deviation: `[n]`, standard deviation of those errors. A ReLU counts as active if x is above four of them.
    """
    tiny = 1e-12
    if layer.activation == "sigmoid":
        x = np.clip(x, tiny, 1 - tiny)
        return Inverted(np.log(x) - np.log1p(-x), x * (1 - x))
    if layer.activation == "tanh":
        x = np.clip(x, -1 + tiny, 1 - tiny)
        return Inverted(np.arctanh(x), (1 - x) * (1 + x))
    if layer.activation == "softplus":
        x = np.maximum(x, tiny)
        return Inverted(x + np.log(-np.expm1(-x)), -np.expm1(-x))
    if layer.activation == "relu":
        return Inverted(x, (x > 4 * deviation).astype(np.float64))
    if layer.activation == "leaky_relu":
        slope = np.where(x < 0, layer.slope, 1.0)
        return Inverted(x / slope, slope)
    if layer.activation == "elu":
        low = np.clip(x / layer.slope, tiny - 1, 0.0)
        return Inverted(np.where(x < 0, np.log1p(low), x), np.where(x < 0, layer.slope * (1 + low), 1.0))
    return Inverted(x, np.ones_like(x))


def centre(layer: ChainLayer | None) -> float:
    """The middle of what an activation gives: where a value that nothing determines is put."""
    return 0.5 if layer is None or layer.activation == "sigmoid" else 0.0
