"""Unrolled: a layer of a chain as the matrices of its two systems of linear equations in its input.

For an input x, output z = W x + b and backpropagated k = dL/dz, the weights give W x = z - b, and the kernel's gradient
gives dL/dkernel = K(k) x: the gradient of a convolution is linear in its input too (Zhu & Blaschko 2021, arXiv
2010.07733, eq. 6 to 20). K treats every input channel alike, so only its block for one channel is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.models.chain import ChainLayer
from fedpriv.models.model import Model


@dataclass(frozen=True, eq=False)
class Unrolled:
    """One layer with its weights; a dense layer is a convolution with one position and one tap.

    Attributes:
      layer: what it is.
      kernel: `[taps, channels, filters]` float64; None for average pooling, which has no gradient.
      bias: `[filters]` float64, zeros without.
      positions: number of output positions and of input positions.
      links: int `[3, m]`: output position, tap and input position of every product, those with padding left out.
    """

    layer: ChainLayer
    kernel: np.ndarray | None
    bias: np.ndarray
    positions: tuple[int, int]
    links: np.ndarray

    @property
    def taps(self) -> int:
        """Values of the window, or 1."""
        return int(np.prod(self.layer.window))

    @property
    def channels(self) -> int:
        """Input channels; all inputs of a dense layer."""
        return int(self.layer.input_shape[-1])

    @property
    def filters(self) -> int:
        """Output channels; the units of a dense layer."""
        return int(self.layer.output_shape[-1])

    @property
    def unknowns(self) -> int:
        """Number of values of the input."""
        return self.positions[1] * self.channels

    @cached_property
    def weight_matrix(self) -> Any:
        """W as a sparse matrix (CSR) `[outputs, inputs]`, rows and columns in row-major order."""
        from scipy import sparse

        o, t, i = self.links
        c, f = np.arange(self.channels), np.arange(self.filters)
        if self.kernel is None:
            rows, columns = o[:, None] * self.filters + f, i[:, None] * self.channels + c
            values = np.full(rows.shape, 1.0 / self.taps)
        else:
            values = self.kernel[t]
            rows = np.broadcast_to(o[:, None, None] * self.filters + f, values.shape)
            columns = np.broadcast_to(i[:, None, None] * self.channels + c[:, None], values.shape)
        shape = (self.positions[0] * self.filters, self.unknowns)
        return sparse.csr_matrix((values.ravel(), (rows.ravel(), columns.ravel())), shape=shape)

    def gradient_block(self, k: np.ndarray) -> np.ndarray:
        """K's block for one input channel, `[taps * filters, input positions]`, from k `[outputs]`."""
        o, t, i = self.links
        block = np.zeros((self.taps, self.positions[1], self.filters))
        block[t, i] = k.reshape(-1, self.filters)[o]  # a tap and an input position meet in one output position
        return block.transpose(0, 2, 1).reshape(self.taps * self.filters, self.positions[1])

    def gradient_rows(self, gradient: np.ndarray) -> np.ndarray:
        """The kernel's gradient as right-hand sides of `gradient_block`, `[taps * filters, channels]`."""
        by_tap = gradient.reshape(self.taps, self.channels, self.filters)
        return by_tap.transpose(0, 2, 1).reshape(self.taps * self.filters, self.channels)

    def offsets(self) -> np.ndarray:
        """The bias of every output, `[outputs]`."""
        return np.tile(self.bias, self.positions[0])


def unroll(layer: ChainLayer, weights: Mapping[str, np.ndarray]) -> Unrolled:
    """The layer with its weights, given by name, in float64."""
    bias = np.zeros(layer.output_shape[-1]) if layer.bias is None else np.asarray(weights[layer.bias], np.float64)
    if layer.kind == "dense":
        kernel = np.asarray(weights[layer.kernel or ""], np.float64)[None]
        return Unrolled(layer, kernel, bias, (1, 1), np.zeros((3, 1), np.int64))
    taps = None
    if layer.kind == "conv":
        taps = np.asarray(weights[layer.kernel or ""], np.float64)
        taps = taps.reshape(-1, *taps.shape[2:])
    height, width, _ = layer.input_shape
    rows, columns, _ = layer.output_shape
    oy, ox, ty, tx = np.meshgrid(*map(np.arange, (rows, columns, *layer.window)), indexing="ij")
    iy = oy * layer.stride[0] + ty - layer.padding[0][0]
    ix = ox * layer.stride[1] + tx - layer.padding[1][0]
    inside = (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
    links = np.stack([oy * columns + ox, ty * layer.window[1] + tx, iy * width + ix])[:, inside]
    return Unrolled(layer, taps, bias, (rows * columns, height * width), links)


def unroll_model(model: Model, flat: np.ndarray) -> list[Unrolled]:
    """All layers of a plain chain that ends in a dense layer of logits, with flat weights `[d]`.

    Raises:
      CapabilityError: the model is no such chain, or pools by maximum.
    """
    if not model.chain:
        raise CapabilityError(
            f"the recursive attack goes through a model layer by layer, but the structure of model '{model.name}' is "
            "not known to be a plain sequence of dense, convolution and average-pooling layers; build it as a "
            "tf.keras.Sequential of those, or use 'dlg', which needs no structure"
        )
    last = model.chain[-1]
    if last.kind != "dense" or last.activation != "linear":
        raise CapabilityError(
            f"the recursive attack starts at a dense layer of logits, but model '{model.name}' ends in "
            f"'{last.name}' ({last.kind}, {last.activation}); end it in a dense layer without activation, or use 'dlg'"
        )
    pooled = [layer.name for layer in model.chain if layer.kind == "max_pool"]
    if pooled:
        raise CapabilityError(
            f"layer '{pooled[0]}' of model '{model.name}' pools by maximum: which input won is not known, so there is "
            "no linear equation to solve; use a model with strides or average pooling, or 'dlg'"
        )
    weights = dict(zip(model.spec.names, model.spec.unflatten_numpy(np.asarray(flat, np.float64)), strict=True))
    return [unroll(layer, weights) for layer in model.chain]
