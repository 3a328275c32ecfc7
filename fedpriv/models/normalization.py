"""Normalization: batch and group normalization as pure functions of their weights.

They stand in for the `call` of Keras's own layers when a model is made functional. Keras's batch normalization
writes its running statistics while it is called, which a pure function cannot do (TFF's functional models refuse
such layers for that reason); Keras's group normalization reads shapes at run time and weights every element by 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Layer, Scalar, Tensor
from fedpriv.models.running import untouched

BatchNorm = Literal["eval", "train", "running"]
#: What a user may choose; `auto` becomes one of the others.
BatchNormChoice = Literal["auto", "eval", "train", "running"]

#: How much of its running statistics a batch normalization of this package keeps at a step: Keras's 0.99 lags a hundred
#: steps behind weights that move, and federated clients take a few a round.
MOMENTUM = 0.9

#: Modes by the names that the networks of this package give them.
NORMS: dict[str, BatchNorm] = {"batch_eval": "eval", "batch_train": "train", "batch_running": "running"}

NOTES: dict[str, str] = {
    "eval": (
        "batch normalization uses frozen running statistics, in training as in evaluation: they are constants of the "
        "model (mean 0 and variance 1 unless the model came with others), are never updated, and no client sends any"
    ),
    "train": (
        "batch normalization uses the statistics of the batch at hand, in training and in evaluation: logits depend on "
        "which examples share the batch, and no client sends statistics"
    ),
    "running": (
        "batch normalization uses the statistics of the batch at hand in training, and running ones in evaluation: "
        "these are part of the weights, so every client sends how its data moved them, in its update, and the server "
        "sees it"
    ),
}


def chosen_mode(choice: BatchNormChoice, layers: Sequence[Layer]) -> BatchNorm:
    """What a choice means for these batch normalizations.

    Frozen at their initial values (mean 0, variance 1) statistics normalize nothing, and a deep network does not learn;
    so `auto` keeps running ones unless some layer came with statistics. Where no layer is trainable there are none to
    keep.
    """
    if choice == "auto":
        choice = "running" if all(untouched(layer) for layer in layers) else "eval"
    return "eval" if choice == "running" and not any(layer.trainable for layer in layers) else choice


def is_batch_norm(layer: Layer) -> bool:
    """Whether `layer` is one of Keras's batch normalizations (plain, synchronized or version 1)."""
    return any(c.__name__ == "BatchNormalizationBase" for c in type(layer).__mro__)


def is_group_norm(layer: Layer) -> bool:
    """Whether `layer` is Keras's group normalization."""
    return isinstance(layer, tf.keras.layers.GroupNormalization)


def _refuse_mask(layer: Layer, mask: Tensor | None) -> None:
    if mask is not None:
        raise ModelError(f"layer '{layer.name}' gets a mask, which normalization here does not support; remove masking")


def moments(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `axes`, of size 1 in the results.

    Not `tf.nn.moments`: that stops the gradient of the mean inside the variance, which leaves first derivatives right
    and makes second derivatives, and so gradient matching, wrong.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    return mean, tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True)


#: What is told when a batch normalization is called: (the layer, mean `[c]`, biased variance `[c]`, whether it
#: normalizes with them).
Listener = Callable[[Layer, Tensor, Tensor, bool], None]


def batch_norm_call(
    layer: Layer,
    mode: BatchNorm,
    listener: Callable[[], Listener | None] = lambda: None,
    trains: Callable[[], bool] = lambda: False,
) -> Callable[..., Tensor]:
    """A pure `call` for a Keras batch normalization (Ioffe and Szegedy 2015, arXiv 1502.03167).

    Args:
      layer: the built layer; its `gamma`, `beta`, `moving_mean` and `moving_variance` are read when called.
      mode: `eval` normalizes with the moving statistics, `train` with the biased moments of the batch, over all
        axes but the layer's; either way whatever `training` says. `running` is `train` for a trainable layer in a
        model that trains, unless `training` is False, else `eval`.
      listener: asked at every call for whom to tell the moments of the inputs, or None if nobody wants them.
      trains: asked at every call whether the model is applied in training.

    Raises:
      ModelError: renormalization or virtual batches, which are not plain batch normalization.
    """
    for option in ("renorm", "virtual_batch_size"):
        if getattr(layer, option, None):
            raise ModelError(
                f"batch normalization '{layer.name}' has {option}={getattr(layer, option)}; only plain batch "
                "normalization can be a pure function: set it to None, or use group normalization"
            )

    def call(inputs: Tensor, training: Scalar | bool | None = None, mask: Tensor | None = None) -> Tensor:
        _refuse_mask(layer, mask)
        rank = inputs.shape.rank
        kept = {a % rank for a in (layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis])}
        shape = [inputs.shape[a] if a in kept else 1 for a in range(rank)]

        def spread(weight: Tensor | None) -> Tensor | None:
            return weight if weight is None or kept == {rank - 1} else tf.reshape(weight, shape)

        told = listener()
        if mode == "running":
            own = layer.trainable and trains() and training is not False
        else:
            own = mode == "train"
        if own or told is not None:
            mean, variance = moments(inputs, [a for a in range(rank) if a not in kept])
            if told is not None:
                told(layer, tf.reshape(mean, [-1]), tf.reshape(variance, [-1]), own)
        if not own:
            mean, variance = spread(layer.moving_mean), spread(layer.moving_variance)
        return tf.nn.batch_normalization(inputs, mean, variance, spread(layer.beta), spread(layer.gamma), layer.epsilon)

    return call


def group_norm_call(layer: Layer) -> Callable[..., Tensor]:
    """A pure `call` for Keras's group normalization (Wu and He 2018, arXiv 1803.08494): the same numbers, fewer ops.

    Args:
      layer: the built layer, normalizing the last axis of inputs whose other axes but the batch are static.
    """

    def call(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        _refuse_mask(layer, mask)
        *inner, channels = inputs.shape.as_list()[1:]
        if layer.axis not in (-1, inputs.shape.rank - 1) or None in inner:
            raise ModelError(
                f"group normalization '{layer.name}' over axis {layer.axis} of {inputs.shape}: only the last axis "
                "of inputs of static size is supported; use channels-last data"
            )
        pixels, groups = 1, layer.groups
        for size in inner:
            pixels *= size
        grouped = tf.reshape(inputs, [-1, pixels, groups, channels // groups])
        mean, variance = moments(grouped, [1, 3])
        gamma = None if layer.gamma is None else tf.reshape(layer.gamma, [groups, channels // groups])
        beta = None if layer.beta is None else tf.reshape(layer.beta, [groups, channels // groups])
        normalized = tf.nn.batch_normalization(grouped, mean, variance, beta, gamma, layer.epsilon)
        return tf.reshape(normalized, [-1, *inner, channels])

    return call
