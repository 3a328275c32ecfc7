"""Captures of rounds that a plain PyTorch loop trained: python torch_loop.py FOLDER. Needs torch and safetensors.

Three small networks on Fashion-MNIST of 14 x 14 pixels:

- `torch_cnn_before.pt`, `torch_cnn_after.pt`: two epochs over eight images in batches of 4, SGD with momentum and
  weight decay; `torch_cnn_truth.npz` has the images and the order in which each epoch took them.
- `torch_gradient_weights.safetensors`, `torch_gradient.safetensors`: the gradient of one image.
- `torch_norm_before.pt`, `torch_norm_after.pt`: one step on eight images through a batch normalization in train mode.
"""

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from images import fashion
from safetensors.torch import save_file
from torch import nn


def cnn() -> nn.Module:
    """Two convolutions, flattened channels first, and the logits."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2, padding=2),
        nn.Sigmoid(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 10),
    )


def normalized() -> nn.Module:
    """One convolution with batch normalization, and the logits."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(4 * 7 * 7, 10),
    )


def channels_first(x: np.ndarray) -> torch.Tensor:
    """As PyTorch takes images."""
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def wide(model: nn.Module) -> nn.Module:
    """Weights uniform in [-0.5, 0.5], as in Zhu, Liu, Han 2019 (arXiv 1906.08935)."""
    for p in model.parameters():
        nn.init.uniform_(p, -0.5, 0.5)
    return model


def train(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, orders: list[list[int]], batch_size: int, **sgd: float
) -> None:
    """Local training as everybody writes it."""
    optimizer, loss = torch.optim.SGD(model.parameters(), **sgd), nn.CrossEntropyLoss()
    model.train()
    for order in orders:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimizer.step()


def main(folder: Path) -> None:
    """Writes the captures."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    x, y = fashion(40, 8)
    inputs, targets = channels_first(x), torch.from_numpy(y)

    model = cnn()
    orders = [torch.randperm(len(x)).tolist() for _ in range(2)]
    before = deepcopy(model.state_dict())  # state_dict() alone refers to weights that training changes
    train(model, inputs, targets, orders, 4, lr=0.1, momentum=0.9, weight_decay=0.01)
    torch.save(before, folder / "torch_cnn_before.pt")
    torch.save(model.state_dict(), folder / "torch_cnn_after.pt")
    np.savez_compressed(folder / "torch_cnn_truth.npz", x=x, y=y, num_classes=10, order=np.array(orders))

    model = wide(cnn())
    nn.CrossEntropyLoss()(model(inputs[:1]), targets[:1]).backward()
    save_file(model.state_dict(), folder / "torch_gradient_weights.safetensors")
    save_file({n: p.grad for n, p in model.named_parameters()}, folder / "torch_gradient.safetensors")
    np.savez_compressed(folder / "torch_gradient_truth.npz", x=x[:1], y=y[:1], num_classes=10)

    model = normalized()
    before = deepcopy(model.state_dict())
    train(model, inputs, targets, [list(range(8))], 8, lr=0.1)
    torch.save(before, folder / "torch_norm_before.pt")
    torch.save(model.state_dict(), folder / "torch_norm_after.pt")
    np.savez_compressed(folder / "torch_norm_truth.npz", x=x, y=y, num_classes=10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
