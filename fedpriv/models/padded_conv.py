"""PaddedConv2D: a convolution with the same number of zeros on every side, as PyTorch's `padding=p`."""

from __future__ import annotations

import functools
from typing import Any

from fedpriv.base.lazy import tf
from fedpriv.base.types import Layer, Tensor


def padded_conv2d(filters: int, kernel_size: int, stride: int, padding: int, **options: Any) -> Layer:
    """A Keras layer: convolution of `(height, width, channels)` after `padding` zeros on all four sides.

    Keras's `same` puts the odd zero of a strided convolution after the image only, so networks defined by explicit
    padding come out shifted with it. A `ZeroPadding2D` before the convolution is right but slow: padding inside the
    convolution makes a gradient-matching step on the DLG LeNet about a third faster, as every differentiation would
    add operations for the padding.

    Args:
      filters: output channels.
      kernel_size: side of the square kernel, in pixels.
      stride: in pixels.
      padding: zeros on every side, in pixels.
      **options: as for `tf.keras.layers.Conv2D`.
    """
    return _layer_class()(filters, kernel_size, stride, padding, **options)


def is_padded_conv2d(layer: Layer) -> bool:
    """Whether `layer` was made by `padded_conv2d`; its `zeros` are the padding."""
    return type(layer) is _layer_class()


@functools.cache
def _layer_class() -> type[Layer]:
    class PaddedConv2D(tf.keras.layers.Conv2D):
        def __init__(self, filters: int, kernel_size: int, stride: int, zeros: int, **options: Any) -> None:
            super().__init__(filters, kernel_size, stride, **options)
            self.zeros = zeros

        def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
            zeros = [self.zeros, self.zeros]
            return tf.nn.conv2d(inputs, kernel, self.strides, [[0, 0], zeros, zeros, [0, 0]])

        def compute_output_shape(self, input_shape: Any) -> Any:
            n, height, width, channels = tf.TensorShape(input_shape)
            grown = [None if side is None else side + 2 * self.zeros for side in (height, width)]
            return super().compute_output_shape([n, *grown, channels])

    return PaddedConv2D
