"""Targets: what sequences that are known were to be answered with, and how often each occurs, from an update.

Cross-entropy is linear in its targets, and so is the gradient in a sequence's weight. With the sequences known, the
unknown targets and the weights are a linear least-squares problem, solved by conjugate gradients (Hestenes, Stiefel
1952) on products with its matrix alone, which is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor
from fedpriv.models.model import Model
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.threat.view import View

#: Steps of conjugate gradients at most, the squared distance that ends them, and the progress that ten must make.
_STEPS, _CLOSE, _PROGRESS = 100, 1e-9, 1e-3


@dataclass(frozen=True, eq=False)
class Targets:
    """What was found for sequences `[m, length]`.

    Attributes:
      counts: `[m]` int, how often each occurs; 0 for one that is not behind the update.
      y: for each occurrence, in order, its target: `[sum of counts]` or, for next tokens, `[sum of counts, length]`.
      x: `[sum of counts, length]`, the sequences repeated, with a last token that only its being a target shows.
      residual: relative distance of the gradient they explain from the one observed.
    """

    counts: np.ndarray
    y: np.ndarray
    x: np.ndarray
    residual: float


def find_targets(view: View, x: np.ndarray, lengths: np.ndarray, n: int | None, weights: np.ndarray) -> Targets | None:
    """The targets of sequences.

    Args:
      view: what was observed.
      x: int32 `[m, length]`, filled up with padding.
      lengths: `[m]` int, places of each that are known to be inputs.
      n: how many sequences there are; None if unknown, which takes each once.
      weights: `[d]`, where to take the gradient.

    Returns:
      None for tasks without cross-entropy over classes, or where nothing of the head moved.
    """
    model = view.model
    if not (isinstance(model.task, NextToken) or model.task.softmax) or not len(x):
        return None
    where = _head(model)
    observed = -np.asarray(view.observed, np.float64)
    parts = [observed[model.spec.slice_of(model.spec.names[i])] for i in where]
    if not any(np.any(p) for p in parts):
        return None
    each = isinstance(model.task, NextToken)
    products = _Products(model, weights, x, lengths, where)
    scale = float(np.linalg.norm(np.concatenate(parts))) or 1.0
    known, free, residual = _solve(products, [p / scale for p in parts], each)
    if each:
        # A target's row of weights is free by a multiple of the prediction, which gives no gradient. Most are 0.
        shares = known * scale
    else:
        shares = free.sum(1) * scale
    total = float(shares.sum())
    if n is None:
        counts = np.ones(len(x), np.int64)
    else:
        raw = shares * n / total if total > 0 else np.zeros(len(x))
        counts = _whole(raw, n)
    rows: list[np.ndarray] = []
    ys: list[np.ndarray] = []
    for i, count in enumerate(counts):
        if not count:
            continue
        order = _whole(free[i] / max(free[i].sum(), 1e-300) * count, int(count))
        for target in np.repeat(np.arange(len(order)), order):
            row = x[i].copy()
            if each:
                y = np.append(row[1:], target).astype(np.int32)
                last = int(lengths[i])
                if last < len(row):
                    row[last] = target
                    y = np.append(row[1:], view.model.task.padding or 0).astype(np.int32)  # type: ignore[attr-defined]
                ys.append(y)
            else:
                ys.append(np.asarray(target, np.int32))
            rows.append(row)
    if not rows:
        return None
    return Targets(counts, np.stack(ys), np.stack(rows), residual)


def _whole(values: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers with this sum near to values, by largest remainders."""
    counts = np.floor(np.maximum(values, 0) + 1e-9).astype(np.int64)
    while counts.sum() > total:
        counts[np.argmax(np.where(counts > 0, counts - values, -np.inf))] -= 1
    short = total - int(counts.sum())
    for i in np.argsort(-(values - counts), kind="stable")[:short]:
        counts[i] += 1
    return counts


def _head(model: Model) -> list[int]:
    """The tensors that the logits are made with: table, head, or last kernel and bias; all, if none is known."""
    if isinstance(model.task, NextToken) and model.embedding is not None:
        if model.embedding.head is not None:
            return [model.embedding.head]
        if model.embedding.tied:
            return [model.embedding.table]
    found = [
        i
        for i, name in enumerate(model.spec.names)
        for part in (model.classifier_kernel(), model.classifier_bias())
        if part is not None and model.spec.slice_of(name) == part
    ]
    return found or list(range(model.buffers, len(model.spec.names)))


class _Products:
    """Products with the matrix that takes weights of sequences and targets to the head's gradient, and its adjoint."""

    def __init__(self, model: Model, flat: np.ndarray, x: np.ndarray, lengths: np.ndarray, where: list[int]) -> None:
        dtype = model.spec.dtype
        weights = [tf.constant(w) for w in model.spec.unflatten_numpy(np.asarray(flat, dtype))]
        given = tf.constant(x, dtype)
        each = isinstance(model.task, NextToken)
        self.shape = (len(x), model.num_classes)
        last = tf.constant(lengths - 1, tf.int32)
        # Known targets, their places' shares of a sequence's loss, and that of the place whose target is unknown.
        mask = (np.arange(x.shape[1])[None] < lengths[:, None] - 1).astype(dtype)
        shares = tf.constant(mask / lengths[:, None].astype(dtype))
        share = tf.constant(1.0 / lengths if each else np.ones(len(x)), dtype)
        following = tf.constant(np.roll(x, -1, 1), tf.int32)

        def losses(head: list[Tensor]) -> tuple[Tensor, Tensor]:
            """Each sequence's loss at known targets `[m]`, and by target at the unknown place `[m, classes]`."""
            own = list(weights)
            for i, value in zip(where, head, strict=True):
                own[i] = value
            found = -tf.nn.log_softmax(model.apply(own, given, True))
            if not each:
                return tf.zeros([self.shape[0]], found.dtype), found
            known = tf.reduce_sum(shares * tf.gather(found, following, batch_dims=2), axis=1)
            return known, share[:, None] * tf.gather(found, last, batch_dims=1)

        head = [weights[i] for i in where]

        @tf.function(autograph=False)
        def forward(known: Tensor, free: Tensor) -> list[Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(head)
                a, b = losses(head)
                value = tf.reduce_sum(known * a) + tf.reduce_sum(free * b)
            return [tf.reshape(tf.convert_to_tensor(g), [-1]) for g in tape.gradient(value, head)]

        @tf.function(autograph=False)
        def adjoint(*parts: Tensor) -> tuple[Tensor, Tensor]:
            along = [tf.reshape(p, h.shape) for p, h in zip(parts, head, strict=True)]
            with tf.autodiff.ForwardAccumulator(head, along) as forward:
                a, b = losses(head)
            return forward.jvp(a, "zero"), forward.jvp(b, "zero")

        self._forward, self._adjoint, self._dtype = forward, adjoint, dtype
        self._nats = lambda: np.asarray(losses(head)[1], np.float64) / np.asarray(share, np.float64)[:, None]

    def forward(self, known: np.ndarray, free: np.ndarray) -> list[np.ndarray]:
        """The head's gradient, flat by tensor, for weights `[m]` and targets `[m, classes]`."""
        found = self._forward(tf.constant(known, self._dtype), tf.constant(free, self._dtype))
        return [np.asarray(f, np.float64) for f in found]

    def predictions(self) -> np.ndarray:
        """Probabilities `[m, classes]` at the places whose targets are unknown."""
        return np.maximum(np.exp(-self._nats()), 1e-12)

    def adjoint(self, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The other way."""
        known, free = self._adjoint(*(tf.constant(p, self._dtype) for p in parts))
        return np.asarray(known, np.float64), np.asarray(free, np.float64)


def _solve(products: _Products, observed: list[np.ndarray], each: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights `[m]`, targets `[m, classes]` whose smallest is 0 relative to the predictions, and what is left."""
    known, free = np.zeros(products.shape[0]), np.zeros(products.shape)
    left = [o.copy() for o in observed]
    a, b = products.adjoint(left)
    direction = (a, b)
    power = float((a**2).sum() + (b**2).sum())
    start, sizes = power, []
    for _ in range(_STEPS):
        if power <= 1e-13 * start:
            break
        image = products.forward(*direction)
        bent = sum(float(i @ i) for i in image)
        if bent <= 0:
            break
        step = power / bent
        known += step * direction[0]
        free += step * direction[1]
        left = [r - step * i for r, i in zip(left, image, strict=True)]
        sizes.append(sum(float(r @ r) for r in left))
        if sizes[-1] < _CLOSE or (len(sizes) > 10 and sizes[-1] > sizes[-11] * (1 - _PROGRESS)):
            break
        a, b = products.adjoint(left)
        new = float((a**2).sum() + (b**2).sum())
        direction = (a + new / power * direction[0], b + new / power * direction[1])
        power = new
    predictions = products.predictions()
    free = free - predictions * (free / predictions).min(1, keepdims=True)
    total = float(np.sqrt(sum(float(o @ o) for o in observed))) or 1.0
    return known, free, float(np.sqrt(sum(float(r @ r) for r in left))) / total
