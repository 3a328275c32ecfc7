"""Chain: the structure of a plain sequential network, for attacks that go through a model layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedpriv.base.lazy import tf
from fedpriv.base.types import KerasModel, Layer

Kind = Literal["dense", "conv", "average_pool", "max_pool"]
Activation = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus"]
Sides = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class ChainLayer:
    """One linear map and the elementwise function after it: `x -> activation(linear(x) + bias)`.

    Values lie in row-major order, so flattening between two layers changes nothing and is no layer of its own.

    Attributes:
      name: the layer's name.
      kind: `dense` on the flattened input, `conv` in two dimensions with zero padding, or a pooling without padding.
      input_shape: of one example; `(height, width, channels)` for all but `dense`.
      output_shape: of one example, `(units,)` for `dense`.
      activation: what follows; `linear` is none.
      slope: of `leaky_relu` below zero, or the scale of `elu`; positive for those.
      kernel: the kernel's name in the model's spec, `[inputs, units]` or `[height, width, channels, filters]`; None
        for pooling.
      bias: the bias's name in the spec, or None.
      window: height and width of kernel or pool.
      stride: rows and columns between windows.
      padding: rows of zeros (above, below) and columns of zeros (left, right).
    """

    name: str
    kind: Kind
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    activation: Activation = "linear"
    slope: float = 0.0
    kernel: str | None = None
    bias: str | None = None
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Sides = ((0, 0), (0, 0))


def describe(
    layers: Sequence[Layer], input_shape: tuple[int, ...], names: dict[int, str], without_softmax: bool = False
) -> tuple[ChainLayer, ...]:
    """The chain that Keras layers, called one after the other, amount to.

    Known are dense and two-dimensional convolution layers, average and maximum pooling without padding, zero padding
    before a convolution, flattening and reshaping, and elementwise activations, as arguments or layers. Subclasses
    are not, as they may do anything.

    Args:
      layers: in order, without the input layer.
      input_shape: of one example.
      names: the spec's name of each weight variable, by the variable's `id`.
      without_softmax: the last layer's softmax is left out.

    Returns:
      The layers, or () if one of them is not known to fit.
    """
    from fedpriv.models.padded_conv import is_padded_conv2d

    kl = tf.keras.layers
    chain: list[ChainLayer] = []
    layers = list(layers)
    last = layers[-1] if layers and without_softmax else None
    if type(last) in (kl.Softmax, kl.Activation):
        layers.pop()
    shape = tuple(int(s) for s in input_shape)
    pending: Sides = ((0, 0), (0, 0))
    for layer in layers:
        kind = type(layer)
        if kind is kl.ZeroPadding2D and layer.data_format == "channels_last":
            pending = _add(pending, tuple(tuple(side) for side in layer.padding))
            continue
        convolves = kind is kl.Conv2D or is_padded_conv2d(layer)
        if not convolves and pending != ((0, 0), (0, 0)):
            return ()
        if kind in (kl.Flatten, kl.Reshape):
            if getattr(layer, "data_format", "channels_last") != "channels_last":
                return ()
            shape = tuple(int(s) for s in layer.compute_output_shape((None, *shape))[1:])
            continue
        if kind in (kl.Activation, kl.ReLU, kl.LeakyReLU, kl.ELU):
            if not chain or chain[-1].activation != "linear":
                return ()
            known = _activation_layer(layer)
            if known is None:
                return ()
            chain[-1] = replace(chain[-1], activation=known[0], slope=known[1])
            continue
        made = None
        if kind is kl.Dense and len(shape) == 1:
            made = ChainLayer(layer.name, "dense", shape, (int(layer.units),))
        elif convolves and len(shape) == 3:
            made = _convolution(layer, shape, pending)
            pending = ((0, 0), (0, 0))
        elif kind in (kl.AveragePooling2D, kl.MaxPooling2D) and len(shape) == 3:
            made = _pooling(layer, shape, "average_pool" if kind is kl.AveragePooling2D else "max_pool")
        if made is None:
            return ()
        if made.kind in ("dense", "conv"):
            known = ("linear", 0.0) if layer is last else _activation(layer.activation)
            bias = names.get(id(layer.bias)) if layer.use_bias else None
            if known is None or id(layer.kernel) not in names or (layer.use_bias and bias is None):
                return ()
            made = replace(made, activation=known[0], slope=known[1], kernel=names[id(layer.kernel)], bias=bias)
        chain.append(made)
        shape = made.output_shape
    kernels = [layer.kernel for layer in chain if layer.kernel]
    return tuple(chain) if pending == ((0, 0), (0, 0)) and len(set(kernels)) == len(kernels) else ()


def layers_of(model: KerasModel) -> list[Layer] | None:
    """The layers of a Keras `Sequential` model in order, those of nested ones in their place; None for other models."""
    if type(model) is not tf.keras.Sequential or not model._is_graph_network:
        return None
    inputs = [layer for layer in model._self_tracked_trackables if isinstance(layer, tf.keras.layers.InputLayer)]
    if len(model._network_nodes) != len(model.layers) + len(inputs):  # a layer that is called twice is listed once
        return None
    found: list[Layer] = []
    for layer in model.layers:
        inner = layers_of(layer) if isinstance(layer, tf.keras.Model) else [layer]
        if inner is None:
            return None
        found += inner
    return found


def _add(a: Sides, b: Sequence[Sequence[int]]) -> Sides:
    return ((a[0][0] + b[0][0], a[0][1] + b[0][1]), (a[1][0] + b[1][0], a[1][1] + b[1][1]))


def _convolution(layer: Layer, shape: tuple[int, ...], zeros: Sides) -> ChainLayer | None:
    from fedpriv.models.padded_conv import is_padded_conv2d

    if layer.data_format != "channels_last" or layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
        return None
    window, stride = tuple(layer.kernel_size), tuple(layer.strides)
    padded = (shape[0] + sum(zeros[0]), shape[1] + sum(zeros[1]))
    if is_padded_conv2d(layer):
        zeros = _add(zeros, ((layer.zeros,) * 2,) * 2)
    elif layer.padding == "same":
        missing = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(padded, window, stride)]
        zeros = _add(zeros, tuple((m // 2, m - m // 2) for m in missing))
    elif layer.padding != "valid":
        return None
    out = [(n + sum(z) - k) // s + 1 for n, z, k, s in zip(shape, zeros, window, stride)]
    return ChainLayer(
        layer.name, "conv", shape, (*out, int(layer.filters)), window=window, stride=stride, padding=zeros
    )


def _pooling(layer: Layer, shape: tuple[int, ...], kind: Kind) -> ChainLayer | None:
    window, stride = tuple(layer.pool_size), tuple(layer.strides)
    out = tuple((n - k) // s + 1 for n, k, s in zip(shape, window, stride))
    if layer.data_format != "channels_last":
        return None
    if layer.padding == "same" and any(-(-n // s) != o for n, s, o in zip(shape, stride, out)):
        return None
    return ChainLayer(layer.name, kind, shape, (*out, shape[2]), window=window, stride=stride)


def _activation(function: Any) -> tuple[Activation, float] | None:
    known = tf.keras.activations
    table: list[tuple[Any, Activation, float]] = [
        (None, "linear", 0.0),
        (known.linear, "linear", 0.0),
        (known.sigmoid, "sigmoid", 0.0),
        (tf.nn.sigmoid, "sigmoid", 0.0),
        (known.tanh, "tanh", 0.0),
        (tf.nn.tanh, "tanh", 0.0),
        (known.relu, "relu", 0.0),
        (tf.nn.relu, "relu", 0.0),
        (known.softplus, "softplus", 0.0),
        (tf.nn.softplus, "softplus", 0.0),
        (known.elu, "elu", 1.0),
        (tf.nn.leaky_relu, "leaky_relu", 0.2),
    ]
    for one, name, slope in table:
        if function is one:
            return name, slope
    return _activation_layer(function) if isinstance(function, tf.keras.layers.Layer) else None


def _activation_layer(layer: Layer) -> tuple[Activation, float] | None:
    kl = tf.keras.layers
    if type(layer) is kl.Activation:
        return _activation(layer.activation)
    if type(layer) is kl.ELU and layer.alpha > 0:
        return "elu", float(layer.alpha)
    if type(layer) is kl.LeakyReLU:
        slope = float(layer.alpha)
    elif type(layer) is kl.ReLU and layer.max_value is None and not layer.threshold:
        slope = float(layer.negative_slope)
    else:
        return None
    if slope < 0:  # a fold: two inputs give one output
        return None
    return ("leaky_relu", slope) if slope else ("relu", 0.0)
