"""A chain of layers in PyTorch, for benchmarks beside PyTorch. It takes nothing of this project at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fedpriv.models.chain import ChainLayer

#: A function of images `[n, channels, height, width]` and weights, and what it gives, `[n, classes]`.
Forward = Callable[[Any, Sequence[Any]], Any]


def network(
    chain: Sequence[ChainLayer], names: Sequence[str], arrays: Sequence[np.ndarray]
) -> tuple[Forward, list[Any], Callable[[Sequence[np.ndarray]], list[Any]]]:
    """The chain in PyTorch: its function, its weights, and how arrays shaped like them are mapped.

    Args:
      chain: the layers; anything with the attributes of `ChainLayer`.
      names: of the arrays, as the layers name their kernels and biases.
      arrays: the weights as the chain has them, channels last.
    """
    import torch
    from torch.nn import functional

    where = [(layer, name) for layer in chain for name in (layer.kernel, layer.bias) if name is not None]

    def mapped(parts: Sequence[np.ndarray]) -> list[Any]:
        by_name = dict(zip(names, parts, strict=True))
        tensors = []
        for layer, name in where:
            a = np.asarray(by_name[name], np.float32)
            if name == layer.kernel:
                a = a.T if layer.kind == "dense" else a.transpose(3, 2, 0, 1)
            tensors.append(torch.tensor(np.ascontiguousarray(a)))
        return tensors

    functions: dict[str, Callable[[Any, float], Any]] = {
        "linear": lambda h, _: h,
        "sigmoid": lambda h, _: torch.sigmoid(h),
        "tanh": lambda h, _: torch.tanh(h),
        "relu": lambda h, _: torch.relu(h),
        "leaky_relu": lambda h, slope: functional.leaky_relu(h, slope),
        "elu": lambda h, slope: functional.elu(h, slope),
        "softplus": lambda h, _: functional.softplus(h),
    }

    def forward(x: Any, weights: Sequence[Any]) -> Any:
        by_name = {name: w for (_, name), w in zip(where, weights, strict=True)}
        h = x
        for layer in chain:
            kernel = by_name.get(layer.kernel or "")
            bias = by_name.get(layer.bias or "")
            if layer.kind == "dense":
                if h.dim() == 4:
                    h = h.permute(0, 2, 3, 1)  # values lie with channels last
                h = functional.linear(h.flatten(1), kernel, bias)
            else:
                (above, below), (left, right) = layer.padding
                if (above, left) == (below, right):
                    sides: Any = (above, left)
                else:
                    h, sides = functional.pad(h, (left, right, above, below)), (0, 0)
                if layer.kind == "conv":
                    h = functional.conv2d(h, kernel, bias, layer.stride, sides)
                else:
                    pool = functional.avg_pool2d if layer.kind == "average_pool" else functional.max_pool2d
                    h = pool(h, layer.window, layer.stride)
            h = functions[layer.activation](h, layer.slope)
        return h

    return forward, [w.requires_grad_() for w in mapped(arrays)], mapped
