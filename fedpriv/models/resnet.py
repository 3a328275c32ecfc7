"""ResNet-20: the residual network for small images, with a choice of normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, KerasModel, Tensor
from fedpriv.models.keras_model import from_keras
from fedpriv.models.model import Model
from fedpriv.models.normalization import MOMENTUM, NORMS
from fedpriv.models.padded_conv import padded_conv2d
from fedpriv.models.zoo import Precision, check_classes, check_image, label

_WIDTHS, _BLOCKS = (16, 32, 64), 3


def resnet20(
    input_shape: tuple[int, ...] = (32, 32, 3),
    num_classes: int = 10,
    norm: Literal["group", "batch_eval", "batch_train", "batch_running"] = "group",
    groups: int = 8,
    statistics: list[Array] | None = None,
    dtype: Precision = "float32",
) -> Model:
    """ResNet-20 for small images (He et al. 2015, arXiv 1512.03385, section 4.2: 6n+2 layers with n=3).

    A 3x3 convolution, three stages of three residual blocks (16, 32, 64 channels, halving the image between stages),
    global average pooling and the logits. Where a block changes the size, its shortcut takes every other pixel and
    fills new channels with zeros (the paper's option A). 269,722 weights on 32x32x3 images and 10 classes. Kernels
    start from He's normal initialization. Images must be at least 4x4.

    Batch normalization is stateful, a fedpriv model is a pure function of its weights, and TFF's functional models
    refuse Keras's batch normalization outright; so its modes are these:

    - `batch_eval`: frozen running statistics, in training too. Examples stay independent of each other, as
      per-example clipping needs; with the initial statistics it is a mere scale and shift, so pass `statistics` from
      a trained network where that matters.
    - `batch_train`: the statistics of the batch at hand, in evaluation too. An example's logits then depend on the
      batch it is in.
    - `batch_running`: the statistics of the batch at hand in training, running ones in evaluation, as FedAvg's users
      know it. The running ones are 1,395 numbers before the weights; a client's update has their change.

    Args:
      input_shape: `(height, width, channels)`.
      num_classes: number of logits.
      norm: `group` for group normalization (Wu and He 2018, arXiv 1803.08494), the usual choice in federated
        learning, or one of the above.
      groups: number of groups of group normalization; divides 16.
      statistics: for `batch_eval`: mean and variance of each normalization, from the input on: 38 arrays.
      dtype: precision of weights and arithmetic.

    Raises:
      ModelError: images too small, or `statistics` of other shapes than the network's.
      ParameterError: parameters that do not fit each other.
    """
    name = label("resnet20", norm=(norm, "group"), groups=(groups, 8), dtype=(dtype, "float32"))
    check_classes(name, input_shape, num_classes)
    check_image(name, input_shape, 4)
    if groups < 1 or _WIDTHS[0] % groups:
        raise ParameterError(f"model 'resnet20': groups={groups} does not divide 16 channels; use 1, 2, 4, 8 or 16")
    if statistics is not None and norm != "batch_eval":
        raise ParameterError(f"model 'resnet20': statistics are for norm=batch_eval, not norm={norm}")

    def build() -> KerasModel:
        model = _build(input_shape, num_classes, norm, groups, dtype)
        if statistics is not None:
            _set_statistics(model, statistics, name)
        return model

    return from_keras(build, name, input_shape, num_classes, batch_norm=NORMS.get(norm, "eval"), verify=False)


def _build(input_shape: tuple[int, ...], num_classes: int, norm: str, groups: int, dtype: str) -> KerasModel:
    kl = tf.keras.layers

    def normalize(x: Tensor, name: str) -> Tensor:
        if norm == "group":
            return kl.GroupNormalization(groups, epsilon=1e-5, name=name, dtype=dtype)(x)
        return kl.BatchNormalization(momentum=MOMENTUM, epsilon=1e-5, name=name, dtype=dtype)(x)

    def conv(x: Tensor, channels: int, stride: int, name: str) -> Tensor:
        # one pixel on every side, so that strided kernels are centred on the pixels the shortcut takes
        return padded_conv2d(
            channels, 3, stride, 1, use_bias=False, kernel_initializer="he_normal", name=name, dtype=dtype
        )(x)

    def relu(x: Tensor, name: str) -> Tensor:
        return kl.ReLU(name=name, dtype=dtype)(x)

    inputs = tf.keras.Input(input_shape, dtype=dtype)
    x = relu(normalize(conv(inputs, _WIDTHS[0], 1, "conv"), "norm"), "relu")
    for s, width in enumerate(_WIDTHS, 1):
        for b in range(1, _BLOCKS + 1):
            at, stride, shortcut = f"stage{s}_block{b}", 2 if s > 1 and b == 1 else 1, x
            x = relu(normalize(conv(x, width, stride, f"{at}_conv1"), f"{at}_norm1"), f"{at}_relu1")
            x = normalize(conv(x, width, 1, f"{at}_conv2"), f"{at}_norm2")
            if stride > 1:
                shortcut = kl.Lambda(_every_other, name=f"{at}_shortcut", dtype=dtype)(shortcut)
            x = relu(kl.Add(name=f"{at}_add", dtype=dtype)([x, shortcut]), f"{at}_relu2")
    x = kl.GlobalAveragePooling2D(name="pool", dtype=dtype)(x)
    return tf.keras.Model(inputs, kl.Dense(num_classes, name="dense", dtype=dtype)(x))


def _every_other(x: Tensor) -> Tensor:
    """Every other pixel, and as many channels of zeros as there are channels, half of them before."""
    before = x.shape[-1] // 2
    return tf.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [before, x.shape[-1] - before]])


def _set_statistics(model: KerasModel, statistics: Sequence[Array], name: str) -> None:
    variables = model.non_trainable_variables
    arrays = [np.asarray(s) for s in statistics]
    expected, got = [tuple(v.shape) for v in variables], [a.shape for a in arrays]
    if expected != got:
        raise ModelError(
            f"model '{name}': statistics of shapes {got}, expected {expected} (mean and variance of each "
            "normalization in turn)"
        )
    for variable, array in zip(variables, arrays):
        variable.assign(array)
