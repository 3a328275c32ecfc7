"""Logits: where the recursion starts, from the gradient of the last dense layer.

For softmax cross-entropy the gradient in the logits is k = p - y, and the last kernel's gradient is the rank-one
matrix x k^T of the layer's input x. With a bias, whose gradient is k itself, x follows. Without one, x = s u and
k = v / s for a known rank-one pair u v^T and an unknown s, and the forward pass tells: k + y must be the softmax of the
logits of s u. The paper solves the same question for one logit (Zhu & Blaschko 2021, arXiv 2010.07733, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedpriv.base.errors import CapabilityError


@dataclass(frozen=True, eq=False)
class Start:
    """One way to explain the last layer's gradient.

    Attributes:
      x: `[n]`, the last layer's input.
      k: `[classes]`, the gradient in the logits, p - y.
      label: y.
      misfit: distance of k from the softmax of x's logits minus y, relative to k's length.
      residual: root mean square of what x k^T leaves of the kernel's gradient.
    """

    x: np.ndarray
    k: np.ndarray
    label: int
    misfit: float
    residual: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def with_bias(gradient: np.ndarray, bias_gradient: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> Start:
    """The start from a layer with a bias: exact, whatever the update was multiplied with.

    Args:
      gradient: of the kernel, `[n, classes]`.
      bias_gradient: `[classes]`.
      kernel: `[n, classes]`.
      bias: `[classes]`.

    Raises:
      CapabilityError: the bias did not move.
    """
    k = bias_gradient
    power = float(k @ k)
    if power == 0:
        raise CapabilityError(
            "the last layer's bias did not move, so the gradient in the logits is zero to rounding: the model is "
            "already certain of this example, and its update holds nothing to recur from"
        )
    x = gradient @ k / power
    label = int(np.argmin(k))
    expected = softmax(x @ kernel + bias)
    expected[label] -= 1
    misfit = float(np.linalg.norm(expected - k) / np.sqrt(power))
    return Start(x, k, label, misfit, _rms(gradient - np.outer(x, k)))


def without_bias(gradient: np.ndarray, kernel: np.ndarray, grid: int = 400) -> list[Start]:
    """Every start that explains a layer without a bias, the best first.

    k has one negative entry, the label's, which fixes the sign for more than two classes; for two, both are tried.

    Args:
      gradient: of the kernel, `[n, classes]`.
      kernel: `[n, classes]`.
      grid: scales tried between 1e-4 and 1e4 of the size that explains k best at zero logits.

    Raises:
      CapabilityError: no scale explains the gradient as that of one example.
    """
    left, sizes, right = np.linalg.svd(gradient, full_matrices=False)
    u, v = left[:, 0], sizes[0] * right[0]
    found: list[Start] = []
    for sign in (1.0, -1.0):
        if np.sum(sign * v < -1e-6 * np.abs(v).max()) != 1:
            continue
        a, b = sign * u, sign * v
        label, slopes = int(np.argmin(b)), a @ kernel

        misfits = partial(_misfits, b, slopes, label)

        # |k| lies between 0 and sqrt(2), so s = |b| / |k| is at least |b| / sqrt(2).
        scales = np.linalg.norm(b) * np.geomspace(0.5, 1e4, grid)
        values = misfits(scales)
        for i in range(grid):
            if values[i] <= values[max(i - 1, 0)] and values[i] <= values[min(i + 1, grid - 1)]:
                s = _golden(misfits, scales[max(i - 1, 0)], scales[min(i + 1, grid - 1)])
                misfit = float(misfits(np.array([s]))[0])
                found.append(Start(s * a, b / s, label, misfit, _rms(gradient - np.outer(a, b))))
    found = [f for f in found if f.misfit < 0.1]
    if not found:
        raise CapabilityError(
            "no scale of its input explains the last layer's gradient as that of a single example trained by "
            "cross-entropy; the update may be noised, or of several examples. Use 'dlg'"
        )
    found.sort(key=lambda f: f.misfit)
    return found


def _misfits(b: np.ndarray, slopes: np.ndarray, label: int, s: np.ndarray) -> np.ndarray:
    k = softmax(np.multiply.outer(s, slopes))
    k[..., label] -= 1
    return np.asarray(np.linalg.norm(s[..., None] * k - b, axis=-1) / np.linalg.norm(b))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _golden(function: Callable[[np.ndarray], np.ndarray], low: float, high: float, steps: int = 80) -> float:
    ratio = (np.sqrt(5.0) - 1) / 2
    for _ in range(steps):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        values = function(np.array([a, b]))
        low, high = (low, b) if values[0] <= values[1] else (a, high)
    return 0.5 * (low + high)
