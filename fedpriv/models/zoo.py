"""The zoo: the models that federated learning and gradient inversion are usually studied on.

Every function takes `input_shape` and `num_classes` and returns a `Model`; all but `logistic` and `mlp` are
classifiers. Initial weights follow Keras's defaults (Glorot uniform kernels, zero biases) unless a parameter says
otherwise. `dtype="float64"` gives the same network in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import KerasModel, Layer
from fedpriv.models.keras_model import from_keras
from fedpriv.models.model import Model
from fedpriv.models.normalization import MOMENTUM, NORMS, BatchNorm
from fedpriv.models.padded_conv import padded_conv2d
from fedpriv.models.random_layers import bottleneck, check_random, dropped
from fedpriv.models.task import Task, create

Precision = Literal["float32", "float64"]


def label(name: str, **parameters: tuple[Any, Any]) -> str:
    """`name(key=value)` with those of `parameters`, each a pair (value, default), that are not at their default."""
    changed = [f"{k}={v}" for k, (v, default) in parameters.items() if v != default]
    return f"{name}({','.join(changed)})".replace(" ", "") if changed else name


def check_image(name: str, input_shape: tuple[int, ...], least: int = 1) -> None:
    """Refuses what is not `(height, width, channels)` of at least `least` pixels a side."""
    if len(input_shape) != 3:
        raise ModelError(
            f"model '{name}' needs images (height, width, channels), got examples of shape {input_shape}; "
            "'mlp', 'logistic' and '2nn' take any shape"
        )
    height, width, channels = input_shape
    if min(height, width) < least or channels < 1:
        raise ModelError(
            f"model '{name}' needs images of at least {least}x{least} pixels, got shape {input_shape}; resize the "
            "images, or use 'mlp', 'logistic' or '2nn'"
        )


def check_classes(name: str, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Refuses fewer than two classes and empty examples."""
    if num_classes == 0:
        raise ModelError(
            f"model '{name}' is a classifier, but the data's targets are quantities; use 'mlp' or 'logistic'"
        )
    if num_classes < 2:
        raise ModelError(f"model '{name}' needs at least 2 classes, got num_classes={num_classes}")
    if not input_shape or min(input_shape) < 1:
        raise ModelError(f"model '{name}' needs examples with at least one value, got shape {input_shape}")


def _task(name: str, input_shape: tuple[int, ...], num_classes: int, task: str | None) -> Task:
    """The task of a model that takes any; refuses a single class and empty examples."""
    if num_classes:
        check_classes(name, input_shape, num_classes)
    return create(task, num_classes)


def sequential(
    name: str,
    layers: Callable[[dict[str, str]], list[Layer]],
    input_shape: tuple[int, ...],
    num_classes: int,
    dtype: str,
    batch_norm: BatchNorm = "eval",
    task: Task | None = None,
) -> Model:
    """A model from `layers(common)`, which lists the Keras layers given the arguments `common` to all of them."""

    def build() -> KerasModel:
        return tf.keras.Sequential([tf.keras.Input(input_shape, dtype=dtype), *layers({"dtype": dtype})])

    return from_keras(build, name, input_shape, num_classes, batch_norm=batch_norm, verify=False, task=task)


def logistic(
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """Logistic regression: one dense layer on the flattened example. With `task=regression` it is linear regression.

    The convex case; a single example's gradient gives the example away exactly (Phong et al. 2018, "Privacy-Preserving
    Deep Learning via Additively Homomorphic Encryption").

    Args:
      input_shape: one example's, of any rank; it is flattened.
      num_classes: number of classes, 0 where the targets are quantities.
      task: `classes` (multinomial), `binary` (one logit) or `regression`; None goes by the data.
      dtype: precision of weights and arithmetic.
    """
    name = label("logistic", task=(task, None), dtype=(dtype, "float32"))
    made = _task(name, input_shape, num_classes, task)

    def layers(common: dict[str, str]) -> list[Layer]:
        kl = tf.keras.layers
        return [kl.Flatten(name="flatten", **common), kl.Dense(made.output_shape[-1], name="dense", **common)]

    return sequential(name, layers, input_shape, num_classes, dtype, task=made)


def mlp(
    input_shape: tuple[int, ...] = (8,),
    num_classes: int = 2,
    hidden: list[int] = [32],  # noqa: B006  never changed
    activation: Literal["tanh", "sigmoid", "softplus", "relu"] = "tanh",
    task: str | None = None,
    dtype: Precision = "float32",
) -> Model:
    """A multilayer perceptron, by default of two layers: the usual network on tabular data.

    Takes examples of any shape and targets of any task that has a flat output. The default activation is smooth, as
    gradient matching needs second derivatives.

    Args:
      input_shape: one example's, of any rank; it is flattened.
      num_classes: number of classes, 0 where the targets are quantities.
      hidden: units of each hidden layer.
      activation: of the hidden layers.
      task: `classes` (a softmax), `binary` (one logit) or `regression` (squared error); None goes by the data.
      dtype: precision of weights and arithmetic.

    Raises:
      ParameterError: a layer without units, or a task that does not fit the data's targets.
    """
    name = label(
        "mlp",
        hidden=(list(hidden), [32]),
        activation=(activation, "tanh"),
        task=(task, None),
        dtype=(dtype, "float32"),
    )
    made = _task(name, input_shape, num_classes, task)
    if len(made.output_shape) != 1:
        raise ParameterError(
            f"model 'mlp' gives one flat output an example, but task '{made.name}' needs {made.output_shape}"
        )
    if any(units < 1 for units in hidden):
        raise ParameterError(f"model 'mlp': hidden={hidden}: each hidden layer needs at least one unit")

    def layers(common: dict[str, str]) -> list[Layer]:
        kl = tf.keras.layers
        return [
            kl.Flatten(name="flatten", **common),
            *(kl.Dense(n, activation, name=f"dense{i}", **common) for i, n in enumerate(hidden, 1)),
            kl.Dense(made.output_shape[-1], name=f"dense{len(hidden) + 1}", **common),
        ]

    return sequential(name, layers, input_shape, num_classes, dtype, task=made)


def mlp_2nn(
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    hidden: list[int] = [200, 200],  # noqa: B006  never changed
    spread: float | None = None,
    first_bias: bool = True,
    dropout: float = 0.0,
    precode: int = 0,
    precode_beta: float = 1e-3,
    dtype: Precision = "float32",
) -> Model:
    """The "2NN" of McMahan et al. 2017 (arXiv 1602.05629): two hidden layers of 200 ReLU units.

    199,210 weights on 28x28x1 images and 10 classes, as in the paper. With `hidden=[1000],spread=0.5` it is the network
    that Shariati, Meybodi 2026 peel.

    Args:
      input_shape: one example's, of any rank; it is flattened.
      num_classes: number of logits.
      hidden: units of each hidden layer.
      spread: standard deviation of the first layer's kernel, normal with mean zero; None draws it as the others.
      first_bias: whether the first layer has a bias.
      dropout: share of the values of each hidden layer that each example leaves out in training.
      precode: size of PRECODE's bottleneck before the last layer, 0 for none (Scheliga, Mäder, Seeland 2022, arXiv
        2108.04725, take 256).
      precode_beta: weight in the loss of the bottleneck's divergence from N(0, 1), in nats.
      dtype: precision of weights and arithmetic.

    Raises:
      ParameterError: a layer without units, a spread that is not above zero, or, of these two, one without a hidden
        layer that it is about.
    """
    name = label(
        "2nn",
        hidden=(list(hidden), [200, 200]),
        spread=(spread, None),
        first_bias=(first_bias, True),
        dropout=(dropout, 0.0),
        precode=(precode, 0),
        precode_beta=(precode_beta, 1e-3),
        dtype=(dtype, "float32"),
    )
    check_random("2nn", dropout, precode, precode_beta)
    check_classes(name, input_shape, num_classes)
    if dropout and not hidden:
        raise ParameterError(
            f"model '2nn': dropout={dropout} is of hidden layers, but hidden=[] has none; give hidden=[200,200]"
        )
    if any(units < 1 for units in hidden):
        raise ParameterError(f"model '2nn': hidden={hidden}: each hidden layer needs at least one unit")
    if spread is not None and not 0 < spread < math.inf:
        raise ParameterError(f"model '2nn': spread={spread}: a standard deviation is finite and above 0; leave it out")
    if not hidden and (spread is not None or not first_bias):
        raise ParameterError(
            f"model '2nn': spread={spread}, first_bias={first_bias} are about the first hidden layer, but hidden=[] "
            "has none; give hidden=[1000], or use 'logistic'"
        )

    def layers(common: dict[str, str]) -> list[Layer]:
        kl = tf.keras.layers
        first: dict[str, Any] = {} if first_bias else {"use_bias": False}
        if spread is not None:
            first["kernel_initializer"] = tf.keras.initializers.RandomNormal(0.0, spread)
        return [
            kl.Flatten(name="flatten", **common),
            *(
                layer
                for i, n in enumerate(hidden, 1)
                for layer in (
                    kl.Dense(n, "relu", name=f"dense{i}", **(first if i == 1 else {}), **common),
                    *dropped(dropout, f"dropout{i}", common),
                )
            ),
            *bottleneck(hidden[-1] if hidden else math.prod(input_shape), precode, precode_beta, common),
            kl.Dense(num_classes, name=f"dense{len(hidden) + 1}", **common),
        ]

    return sequential(name, layers, input_shape, num_classes, dtype)


def cnn(
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    dropout: float = 0.0,
    precode: int = 0,
    precode_beta: float = 1e-3,
    dtype: Precision = "float32",
) -> Model:
    """The MNIST CNN of McMahan et al. 2017 (arXiv 1602.05629).

    Two 5x5 convolutions (32 and 64 channels, zero padding to the same size), each followed by ReLU and 2x2 max
    pooling, a dense layer of 512 ReLU units and the logits: 1,663,370 weights on 28x28x1 images and 10 classes, as
    in the paper. Images must be at least 4x4.

    Args:
      input_shape: (height, width, channels).
      num_classes: number of classes.
      dropout: share of the values entering the last layer that each example leaves out in training.
      precode: size of PRECODE's bottleneck before the last layer, 0 for none (Scheliga, Mäder, Seeland 2022, arXiv
        2108.04725, take 256).
      precode_beta: weight in the loss of the bottleneck's divergence from N(0, 1), in nats.
      dtype: precision of weights and arithmetic.
    """
    name = label(
        "cnn", dropout=(dropout, 0.0), precode=(precode, 0), precode_beta=(precode_beta, 1e-3), dtype=(dtype, "float32")
    )
    check_random("cnn", dropout, precode, precode_beta)
    check_classes(name, input_shape, num_classes)
    check_image(name, input_shape, 4)

    def layers(common: dict[str, str]) -> list[Layer]:
        kl = tf.keras.layers
        return [
            kl.Conv2D(32, 5, padding="same", activation="relu", name="conv1", **common),
            kl.MaxPooling2D(2, name="pool1", **common),
            kl.Conv2D(64, 5, padding="same", activation="relu", name="conv2", **common),
            kl.MaxPooling2D(2, name="pool2", **common),
            kl.Flatten(name="flatten", **common),
            kl.Dense(512, "relu", name="dense1", **common),
            *dropped(dropout, "dropout", common),
            *bottleneck(512, precode, precode_beta, common),
            kl.Dense(num_classes, name="dense2", **common),
        ]

    return sequential(name, layers, input_shape, num_classes, dtype)


def tanh_cnn(
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    activation: Literal["tanh", "relu", "sigmoid", "softplus"] = "tanh",
    dtype: Precision = "float32",
) -> Model:
    """The small CNN of Papernot, Thakurta, Song, Chien, Erlingsson 2020 (arXiv 2007.14191) for DP-SGD.

    An 8x8 convolution of 16 channels at stride 2, zero padded, and a 4x4 one of 32 channels at stride 2, each followed
    by tanh and 2x2 max pooling at stride 1, a dense layer of 32 tanh units and the logits: 26,010 weights on 28x28x1
    images and 10 classes. Bounded activations keep gradients short, so that clipping takes less from them. The
    tutorial of TensorFlow Privacy has the same network with ReLU. Images must be at least 16x16.

    Args:
      input_shape: (height, width, channels).
      num_classes: number of classes.
      activation: of the hidden layers.
      dtype: precision of weights and arithmetic.
    """
    name = label("tanh_cnn", activation=(activation, "tanh"), dtype=(dtype, "float32"))
    check_classes(name, input_shape, num_classes)
    check_image(name, input_shape, 16)

    def layers(common: dict[str, str]) -> list[Layer]:
        kl = tf.keras.layers
        return [
            kl.Conv2D(16, 8, strides=2, padding="same", activation=activation, name="conv1", **common),
            kl.MaxPooling2D(2, 1, name="pool1", **common),
            kl.Conv2D(32, 4, strides=2, padding="valid", activation=activation, name="conv2", **common),
            kl.MaxPooling2D(2, 1, name="pool2", **common),
            kl.Flatten(name="flatten", **common),
            kl.Dense(32, activation, name="dense1", **common),
            kl.Dense(num_classes, name="dense2", **common),
        ]

    return sequential(name, layers, input_shape, num_classes, dtype)


def lenet(
    input_shape: tuple[int, ...] = (32, 32, 3),
    num_classes: int = 100,
    init: Literal["default", "uniform"] = "default",
    dropout: float = 0.0,
    precode: int = 0,
    precode_beta: float = 1e-3,
    dtype: Precision = "float32",
) -> Model:
    """The LeNet of "Deep Leakage from Gradients" (Zhu, Liu, Han 2019, arXiv 1906.08935).

    Three 5x5 convolutions of 12 channels with strides 2, 2, 1 and two pixels of zero padding on every side, each
    followed by a sigmoid (smooth, as matching gradients needs second derivatives; strides rather than pooling for the
    same reason), then the logits. 85,036 weights on 32x32x3 images and 100 classes.

    Args:
      input_shape: `(height, width, channels)`.
      num_classes: number of logits.
      init: `uniform` draws all weights and biases from U(-0.5, 0.5), as the paper's experiments do, but for PRECODE's;
        `default` is Keras's Glorot uniform with zero biases.
      dropout: share of the values entering the last layer that each example leaves out in training.
      precode: size of PRECODE's bottleneck before the last layer, 0 for none (Scheliga, Mäder, Seeland 2022, arXiv
        2108.04725, take 256).
      precode_beta: weight in the loss of the bottleneck's divergence from N(0, 1), in nats.
      dtype: precision of weights and arithmetic.
    """
    name = label(
        "lenet",
        init=(init, "default"),
        dropout=(dropout, 0.0),
        precode=(precode, 0),
        precode_beta=(precode_beta, 1e-3),
        dtype=(dtype, "float32"),
    )
    check_random("lenet", dropout, precode, precode_beta)
    check_classes(name, input_shape, num_classes)
    check_image(name, input_shape)
    features = 12 * ((input_shape[0] + 3) // 4) * ((input_shape[1] + 3) // 4)

    def layers(common: dict[str, Any]) -> list[Layer]:
        kl = tf.keras.layers

        def weights() -> dict[str, Any]:  # a new initializer for each tensor: one that is reused repeats its values
            if init == "default":
                return common
            uniform = tf.keras.initializers.RandomUniform
            return {**common, "kernel_initializer": uniform(-0.5, 0.5), "bias_initializer": uniform(-0.5, 0.5)}

        return [
            *(
                padded_conv2d(12, 5, stride, 2, activation="sigmoid", name=f"conv{i}", **weights())
                for i, stride in enumerate((2, 2, 1), 1)
            ),
            kl.Flatten(name="flatten", **common),
            *dropped(dropout, "dropout", common),
            *bottleneck(features, precode, precode_beta, common),
            kl.Dense(num_classes, name="dense", **weights()),
        ]

    return sequential(name, layers, input_shape, num_classes, dtype)


def convnet(
    input_shape: tuple[int, ...] = (32, 32, 3),
    num_classes: int = 10,
    width: int = 32,
    norm: Literal["none", "batch_eval", "batch_train", "batch_running", "group"] = "none",
    dropout: float = 0.0,
    precode: int = 0,
    precode_beta: float = 1e-3,
    dtype: Precision = "float32",
) -> Model:
    """A small ConvNet after the one in "Inverting Gradients" (Geiping et al. 2020, arXiv 2003.14053).

    The paper's ConvNet has eight 3x3 convolutions whose channels grow from `width`=64 to 4 `width`, batch
    normalization and max pooling. This one keeps the 3x3 ReLU convolutions and the growth, with four of them (width,
    2 width, 2 width, 4 width), average pooling after the second and the fourth, and one dense layer, so that attacks
    on it are affordable without an accelerator; normalization is optional. Images must be at least 4x4.

    Args:
      input_shape: `(height, width, channels)`.
      num_classes: number of logits.
      width: channels of the first convolution.
      norm: what stands between each convolution and its ReLU: nothing, group normalization (groups of 8 channels, or
        all of them), or batch normalization with frozen statistics (`batch_eval`), with the batch's own
        (`batch_train`) or with running ones (`batch_running`); see `resnet20` for what these mean.
      dropout: share of the values entering the last layer that each example leaves out in training.
      precode: size of PRECODE's bottleneck before the last layer, 0 for none (Scheliga, Mäder, Seeland 2022, arXiv
        2108.04725, take 256).
      precode_beta: weight in the loss of the bottleneck's divergence from N(0, 1), in nats.
      dtype: precision of weights and arithmetic.
    """
    name = label(
        "convnet",
        width=(width, 32),
        norm=(norm, "none"),
        dropout=(dropout, 0.0),
        precode=(precode, 0),
        precode_beta=(precode_beta, 1e-3),
        dtype=(dtype, "float32"),
    )
    check_random("convnet", dropout, precode, precode_beta)
    check_classes(name, input_shape, num_classes)
    check_image(name, input_shape, 4)
    if width < 1:
        raise ParameterError(f"model 'convnet': width={width}: at least one channel is needed")

    features = 4 * width * (input_shape[0] // 4) * (input_shape[1] // 4)

    def layers(common: dict[str, str]) -> list[Layer]:
        kl = tf.keras.layers

        def conv(i: int, channels: int) -> list[Layer]:
            if norm == "none":
                return [kl.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv{i}", **common)]
            normal = kl.BatchNormalization(momentum=MOMENTUM, name=f"norm{i}", **common)
            if norm == "group":
                groups = channels // 8 if channels % 8 == 0 else 1
                normal = kl.GroupNormalization(groups, name=f"norm{i}", **common)
            linear = kl.Conv2D(channels, 3, padding="same", name=f"conv{i}", **common)
            return [linear, normal, kl.ReLU(name=f"relu{i}", **common)]

        return [
            *conv(1, width),
            *conv(2, 2 * width),
            kl.AveragePooling2D(2, name="pool1", **common),
            *conv(3, 2 * width),
            *conv(4, 4 * width),
            kl.AveragePooling2D(2, name="pool2", **common),
            kl.Flatten(name="flatten", **common),
            *dropped(dropout, "dropout", common),
            *bottleneck(features, precode, precode_beta, common),
            kl.Dense(num_classes, name="dense", **common),
        ]

    return sequential(name, layers, input_shape, num_classes, dtype, NORMS.get(norm, "eval"))
