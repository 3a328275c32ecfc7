"""Random layers: Keras's layers that draw when training, and PRECODE's, with draws that come from outside."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Layer, Scalar, Tensor
from fedpriv.models.draws import Draw, Source

#: What a bottleneck's first layer is called, and the prefix of all of its layers.
ENCODER, PRECODE = "precode_encoder", "precode"


def random_call(layer: Layer, source: Source) -> Callable[..., Tensor] | None:
    """A pure `call` for a layer that draws, with what it draws taken from `source`; None for all other layers.

    Known are dropout (Srivastava et al. 2014, JMLR 15), with its own shape of noise or not, spatial dropout (Tompson et
    al. 2015, arXiv 1411.4280), Gaussian noise and Gaussian dropout, and `variational_sample`.
    """
    kl = tf.keras.layers
    dropouts = (kl.Dropout, kl.SpatialDropout1D, kl.SpatialDropout2D, kl.SpatialDropout3D)
    if is_variational_sample(layer):
        return _sample(layer, source)
    if type(layer) in dropouts and 0 < layer.rate < 1:
        return _dropout(layer, source)
    if type(layer) is kl.GaussianNoise and layer.stddev > 0:
        return _normal(layer, source, lambda x, eps: x + float(layer.stddev) * eps)
    if type(layer) is kl.GaussianDropout and 0 < layer.rate < 1:
        spread = math.sqrt(layer.rate / (1 - layer.rate))
        return _normal(layer, source, lambda x, eps: x * (1 + spread * eps))
    return None


def variational_sample(beta: float, **options: Any) -> Layer:
    """PRECODE's sampling layer: `[n, 2k]` (means, then log-variances) to `[n, k]`.

    z = mean + exp(log-variance / 2) eps with standard normal eps in training, the mean in evaluation. `beta` times the
    Kullback-Leibler divergence of N(mean, variance) from N(0, 1), summed over the k in nats, is added to an example's
    loss.
    """
    return _layer_class()(beta, **options)


def is_variational_sample(layer: Layer) -> bool:
    """Whether `layer` was made by `variational_sample`."""
    return type(layer) is _layer_class()


def bottleneck(features: int, size: int, beta: float, common: dict[str, Any]) -> list[Layer]:
    """PRECODE between `features` values and the layer that they enter; see `check_random`. None for `size=0`."""
    if not size:
        return []
    dense = tf.keras.layers.Dense
    return [
        dense(2 * size, name=ENCODER, **common),
        variational_sample(beta, name=PRECODE, **common),
        dense(features, name=f"{PRECODE}_decoder", **common),
    ]


def dropped(rate: float, name: str, common: dict[str, Any]) -> list[Layer]:
    """A dropout layer, or none for `rate=0`."""
    return [tf.keras.layers.Dropout(rate, name=name, **common)] if rate else []


def check_random(name: str, dropout: float, precode: int, beta: float) -> None:
    """Refuses a rate outside [0, 1), a bottleneck of negative size, a negative weight."""
    if not 0 <= dropout < 1:
        raise ParameterError(
            f"model '{name}': dropout={dropout} is the share of values left out; it lies in [0, 1), 0 is none"
        )
    if precode < 0:
        raise ParameterError(f"model '{name}': precode={precode} is the size of a bottleneck; 0 is none, 256 is usual")
    if not 0 <= beta < math.inf:
        raise ParameterError(f"model '{name}': precode_beta={beta} is a weight in the loss; it is finite and 0 or more")


@functools.cache
def _layer_class() -> type[Layer]:
    class VariationalSample(tf.keras.layers.Layer):
        def __init__(self, beta: float, **options: Any) -> None:
            super().__init__(**options)
            self.beta_kl = float(beta)

        def call(self, inputs: Tensor, training: Scalar | bool | None = None) -> Tensor:
            return tf.split(inputs, 2, axis=-1)[0]

        def compute_output_shape(self, input_shape: Any) -> Any:
            *outer, both = tf.TensorShape(input_shape)
            return tf.TensorShape([*outer, both // 2])

    return VariationalSample


def _sample(layer: Any, source: Source) -> Callable[..., Tensor]:
    def call(inputs: Tensor, training: Scalar | bool | None = None) -> Tensor:
        mean, log_variance = tf.split(inputs, 2, axis=-1)
        eps = source.take(Draw(layer.name, _static(mean, layer.name)), mean.shape[0])
        if source.charging:
            divergence = (tf.square(mean) + tf.exp(log_variance) - 1 - log_variance) / 2
            source.charge(layer.beta_kl * tf.reduce_sum(divergence, -1))
        return mean if eps is None else mean + tf.exp(log_variance / 2) * eps

    return call


def _dropout(layer: Any, source: Source) -> Callable[..., Tensor]:
    keep = 1 - float(layer.rate)

    def call(inputs: Tensor, training: Scalar | bool | None = None) -> Tensor:
        if training is False:
            return inputs
        mask = source.take(Draw(layer.name, _noise_shape(layer, inputs), "keep", keep), inputs.shape[0])
        return inputs if mask is None else inputs * (mask / keep)

    return call


def _normal(layer: Layer, source: Source, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def call(inputs: Tensor, training: Scalar | bool | None = None) -> Tensor:
        if training is False:
            return inputs
        eps = source.take(Draw(layer.name, _static(inputs, layer.name)), inputs.shape[0])
        return inputs if eps is None else change(inputs, eps)

    return call


def _static(x: Tensor, name: str) -> tuple[int, ...]:
    if x.shape.rank is None or None in x.shape[1:]:
        raise ModelError(f"layer '{name}' draws for inputs {x.shape} whose size is not static; build it for one size")
    return tuple(int(s) for s in x.shape[1:])


def _noise_shape(layer: Any, x: Tensor) -> tuple[int, ...]:
    """Of one example's mask; sides of 1 are shared along that axis."""
    whole = _static(x, layer.name)
    given: Sequence[int | None] | None = layer.noise_shape
    if type(layer) is not tf.keras.layers.Dropout:
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        return (whole[0], *[1] * (len(whole) - 1)) if first else (*[1] * (len(whole) - 1), whole[-1])
    if given is None:
        return whole
    if given[0] is not None:
        raise ModelError(
            f"layer '{layer.name}' has noise_shape={tuple(given)}, whose first side says that examples share a mask; "
            "let it be None, so that each example has its own"
        )
    return tuple(w if g is None else int(g) for g, w in zip(given[1:], whole, strict=True))
