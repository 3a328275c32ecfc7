"""Evaluate: a model's loss and quality on examples, on this machine, whichever engine trained it."""

from __future__ import annotations

from functools import lru_cache

from fedpriv.base.lazy import default_threads, tf
from fedpriv.base.types import Array, Examples, Flat, Labels, Scalar
from fedpriv.data.kind import unit_floats
from fedpriv.models.model import Model

EVALUATION_BATCH = 500


def evaluator(model: Model) -> Evaluator:
    """The model's evaluation, compiled once for all federations that train it."""
    try:
        hash(model)
    except TypeError:  # one of somebody's own, with a list in a field
        return Evaluator(model)
    return _evaluator(model)


@lru_cache(maxsize=8)
def _evaluator(model: Model) -> Evaluator:
    return Evaluator(model)


class Evaluator:
    """Compiled evaluation of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.lanes = max(1, default_threads()[1])
        self._run = tf.function(self._graph, reduce_retracing=True, autograph=False)

    def _graph(self, flat: Flat, x: Examples, y: Labels) -> tuple[Scalar, Scalar]:
        dtype = self.model.spec.dtype
        weights = self.model.spec.unflatten(flat)
        count = tf.shape(y)[0]
        batches = -(-count // EVALUATION_BATCH)

        def one(i: Scalar) -> tuple[Scalar, Scalar]:
            part = slice(i * EVALUATION_BATCH, (i + 1) * EVALUATION_BATCH)
            outputs = self.model.apply(weights, unit_floats(x[part], dtype), False)
            losses = self.model.task.losses(outputs, y[part])
            qualities = self.model.task.qualities(outputs, y[part])
            return tf.reduce_sum(tf.cast(losses, tf.float64)), tf.reduce_sum(tf.cast(qualities, tf.float64))

        signature = (tf.TensorSpec([], tf.float64), tf.TensorSpec([], tf.float64))
        losses, good = tf.map_fn(one, tf.range(batches), fn_output_signature=signature, parallel_iterations=self.lanes)
        return tf.reduce_sum(losses), tf.reduce_sum(good)

    def __call__(self, weights: Flat | Array, x: Examples, y: Labels) -> tuple[float, float]:
        """(mean loss, mean of the task's quality) of `weights [d]`."""
        loss, good = self._run(tf.constant(weights, self.model.spec.dtype), x, y)
        return float(loss) / len(y), float(good) / len(y)
