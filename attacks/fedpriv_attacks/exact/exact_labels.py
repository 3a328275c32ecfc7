"""Exact labels: once the examples are known, their labels and how often each occurs are a linear problem.

For cross-entropy, an example's share of the gradient in the first layer's pre-activations z is

    d = w (dlogits/dz)^T (m p - c),

with its probabilities p, the times m it occurs, how often c `[classes]` with which label, and its weight w in the mean.
Everything but m p - c is known, and m follows from p and the labels that do not occur.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseInput


@dataclass(frozen=True)
class Labels:
    """Labels of distinct examples.

    Attributes:
      multiplicities: `[k]` int, how often each of the distinct examples occurs.
      y: `[sum of multiplicities]` int32, their labels, in that order.
      residual: how much of the examples' gradients no labels explain, relative.
      misfits: `[k]`, how far each example's gradient in the logits is from that of its labels, relative to its length.
    """

    multiplicities: np.ndarray
    y: np.ndarray
    residual: float
    misfits: np.ndarray


def count_labels(view: View, layer: DenseInput, x: np.ndarray, d: np.ndarray, examples: int | None) -> Labels:
    """Labels for exact examples.

    Args:
      view: whose model it is.
      layer: its first dense layer.
      x: `[k, *input_shape]`, distinct.
      d: `[k, units]`, each one's share of the mean gradient in the layer's pre-activations.
      examples: how many examples there are; None, or k, means that none is repeated.
    """
    model = view.model
    weights = [tf.constant(w) for w in model.spec.unflatten_numpy(np.asarray(view.weights, model.spec.dtype))]
    dummy = tf.constant(x, model.spec.dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(dummy)
        logits = model.apply(weights, dummy, False)
        sums = [tf.reduce_sum(logits[:, k]) for k in range(model.num_classes)]
    slopes = np.stack([np.asarray(tape.gradient(s, dummy), np.float64).reshape(len(x), -1) for s in sums], axis=1)
    del tape
    p = np.asarray(tf.nn.softmax(tf.cast(logits, tf.float64)))
    # The gradient in the example is that in the pre-activations times the kernel.
    target = d @ layer.kernel_weights.T
    # Adding the same to all logits changes nothing, so the factors are sought with a sum of zero.
    error = np.stack([np.linalg.lstsq(s.T, t, rcond=1e-6)[0] for s, t in zip(slopes, target, strict=True)])
    error -= error.mean(axis=1, keepdims=True)
    explained = np.einsum("kc,kci->ki", error, slopes)
    residual = float(np.linalg.norm(explained - target)) / max(float(np.linalg.norm(target)), 1e-300)
    k = len(x)
    if examples is None or examples <= k:
        single = np.argmin(error, axis=1).astype(np.int32)
        return Labels(np.ones(k, np.int64), single, residual, _misfits(error, p - np.eye(model.num_classes)[single]))
    # Where a label does not occur, error / p is m w; most labels do not occur, or occur with other examples.
    often = np.median(error / np.maximum(p, 1e-12), axis=1)
    scale = _weight(view, often, examples)
    times = np.maximum(np.rint(often / scale), 1).astype(np.int64)
    counts = times[:, None] * p - error / scale
    whole = np.array([_integers(c, t) for c, t in zip(counts, times, strict=True)]).reshape(-1, model.num_classes)
    y = np.concatenate([np.repeat(np.arange(model.num_classes), c) for c in whole]).astype(np.int32)
    return Labels(times, y, residual, _misfits(error, times[:, None] * p - whole))


def _misfits(error: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of each row of `error` `[k, classes]`, the part that no multiple of that of `expected` explains, relative."""
    unit = expected / np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-300)
    rest = error - np.sum(error * unit, axis=1, keepdims=True) * unit
    return np.linalg.norm(rest, axis=1) / np.maximum(np.linalg.norm(error, axis=1), 1e-300)


def _weight(view: View, often: np.ndarray, examples: int) -> float:
    """One example's weight in the mean: 1 / n, unless a defense scaled the update as a whole."""
    plain = 1.0 / examples
    if not view.client_rate or abs(often.sum() - 1.0) > 0.5 * plain:
        positive = often[often > 0]
        guess = float(positive.min()) if len(positive) else plain
        if int(np.rint(often / guess).sum()) == examples:
            return guess
    return plain


def _integers(counts: np.ndarray, total: int) -> np.ndarray:
    """Non-negative integers near `counts` that sum to `total`."""
    whole = np.maximum(np.floor(counts + 1e-3), 0).astype(np.int64)
    while whole.sum() > total:
        whole[np.argmax(whole - counts)] -= 1
    rest = total - int(whole.sum())
    whole[np.argsort(whole - counts, kind="stable")[:rest]] += 1
    return whole
