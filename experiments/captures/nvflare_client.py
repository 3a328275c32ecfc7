"""The client of nvflare_round.py, which NVFlare's simulator starts: a PyTorch loop with the Client API around it."""

import sys
from pathlib import Path

import numpy as np
import nvflare.client as flare
import torch
from torch import nn


def perceptron() -> nn.Module:
    """40 ReLU units between images of 14 x 14 pixels and 10 classes."""
    layers = {"flatten": nn.Flatten(), "fc1": nn.Linear(196, 40), "relu": nn.ReLU(), "fc2": nn.Linear(40, 10)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Three epochs of SGD with momentum on all images at once."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()


def main(folder: Path) -> None:
    """Trains in each round on the images that `folder` holds of this site."""
    flare.init()
    with np.load(folder / "nvflare_truth.npz") as held:
        x, y = torch.from_numpy(held["x"]), torch.from_numpy(held["y"])
    while flare.is_running():
        received = flare.receive()
        model = perceptron()
        model.load_state_dict({name: torch.as_tensor(array) for name, array in received.params.items()})
        train(model, x, y)
        flare.send(flare.FLModel(params=model.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": 3}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
