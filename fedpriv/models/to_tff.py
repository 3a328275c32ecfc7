"""Models for TensorFlow Federated: a fedpriv `Model` as `tff.learning.models.FunctionalModel`."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf, tff
from fedpriv.base.types import Examples, Labels, Nested, Scalar, Tensor
from fedpriv.models.model import Model


def to_functional_model(model: Model, seed: int) -> Any:
    """The same model for `tff.learning`: same function, same loss, same initial weights.

    TFF's own conversion of Keras models cannot be called in an eager program and refuses batch normalization; this
    one has neither limit, as a fedpriv model is a pure function already.

    Args:
      model: any fedpriv model.
      seed: of the initial weights; `model.initialize(seed)` gives the same.

    Raises:
      ModelError: the model has buffers, which TFF's processes never move; or draws, or a loss of its own.

    Returns:
      A `tff.learning.models.FunctionalModel` on batches `(x, y)`: x `[n, *input_shape]` in the model's precision and
      y the task's targets. Its loss is the mean of the task's, in float32 as TFF wants it (weighted by
      `sample_weight` where given); its metrics are the task's quality by its name (such as `accuracy`), `loss` and
      `num_examples`. Its initial weights are
      `(trainable weights, ())`, in the order of `model.spec`.
    """

    if model.buffers:
        raise ModelError(
            f"model '{model.name}' keeps running statistics among its weights, and TFF's learning processes never move "
            "those; build it with batch_norm=train, or train it with fedpriv's own Federation(engine='tff')"
        )
    if model.stochastic is not None:
        raise ModelError(
            f"model '{model.name}' draws random numbers in training or adds to the loss, for which TFF's learning "
            "processes have no place; train it with fedpriv's own Federation(engine='tff')"
        )
    task = model.task

    @tf.function
    def predict_on_batch(model_weights: Nested, x: Examples, training: bool) -> Tensor:
        trainable, _ = model_weights
        return model.apply(list(trainable), x, training)

    def loss(output: Tensor, label: Labels, sample_weight: Tensor | None = None) -> Scalar:
        losses = task.losses(output, label)
        if sample_weight is None:
            return tf.cast(tf.reduce_mean(losses), tf.float32)
        weight = tf.cast(sample_weight, losses.dtype)
        return tf.cast(tf.math.divide_no_nan(tf.reduce_sum(losses * weight), tf.reduce_sum(weight)), tf.float32)

    @tf.function
    def initialize_metrics() -> dict[str, Scalar]:
        return collections.OrderedDict(
            quality_sum=tf.constant(0.0), loss_sum=tf.constant(0.0), num_examples=tf.constant(0)
        )

    @tf.function
    def update_metrics(
        state: Mapping[str, Scalar], labels: Labels, batch_output: Any, sample_weight: Tensor | None = None
    ) -> dict[str, Scalar]:
        outputs = batch_output.predictions
        qualities = task.qualities(outputs, labels)
        return collections.OrderedDict(
            quality_sum=state["quality_sum"] + tf.cast(tf.reduce_sum(qualities), tf.float32),
            loss_sum=state["loss_sum"] + tf.cast(tf.reduce_sum(task.losses(outputs, labels)), tf.float32),
            num_examples=state["num_examples"] + tf.shape(outputs)[0],
        )

    @tf.function
    def finalize_metrics(state: Mapping[str, Scalar]) -> dict[str, Scalar]:
        n = tf.cast(state["num_examples"], tf.float32)
        means = {
            task.quality.name: tf.math.divide_no_nan(state["quality_sum"], n),
            "loss": tf.math.divide_no_nan(state["loss_sum"], n),
        }
        return collections.OrderedDict(**means, num_examples=state["num_examples"])

    return tff.learning.models.FunctionalModel(
        initial_weights=(tuple(model.initialize(seed)), ()),
        predict_on_batch_fn=predict_on_batch,
        loss_fn=loss,
        metrics_fns=(initialize_metrics, update_metrics, finalize_metrics),
        input_spec=(
            tf.TensorSpec((None, *model.input_shape), model.spec.dtype),
            tf.TensorSpec((None, *task.target_shape), task.target_dtype),
        ),
    )
