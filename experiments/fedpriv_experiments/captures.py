"""Captures: the networks of `experiments/captures`, as Keras writes them."""

from __future__ import annotations

from fedpriv.base.lazy import tf
from fedpriv.base.types import KerasModel
from fedpriv.models.padded_conv import padded_conv2d


def cnn(input_shape: tuple[int, ...], num_classes: int) -> KerasModel:
    """`cnn` of torch_loop.py: zeros on every side of a strided convolution, which Keras's `same` does not put there."""
    kl = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input(input_shape),
            padded_conv2d(4, 5, 2, 2, activation="sigmoid", name="conv1"),
            padded_conv2d(6, 3, 2, 1, activation="sigmoid", name="conv2"),
            kl.Flatten(),
            kl.Dense(num_classes, name="logits"),
        ]
    )


def normalized(input_shape: tuple[int, ...], num_classes: int) -> KerasModel:
    """`normalized` of torch_loop.py; PyTorch's momentum of 0.1 is 0.9 in Keras, and its epsilon 1e-5."""
    kl = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input(input_shape),
            padded_conv2d(4, 3, 2, 1, use_bias=False, name="conv"),
            kl.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm"),
            kl.Activation("sigmoid"),
            kl.Flatten(),
            kl.Dense(num_classes, name="logits"),
        ]
    )
