"""A capture of what Flower's server gets of one client: python flower_client.py FOLDER. Needs flwr and torch.

The client is a `NumPyClient` that trains a perceptron in PyTorch. The strategy is FedAvg that writes down what passes
through it; `configure_fit` and `aggregate_fit` are where any server sees the weights of both sides of a round. Messages
pass as Flower makes them, without a network between.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import FedAvg
from images import fashion
from torch import nn


class Client(NumPyClient):
    """Two epochs of SGD on both of its images at once."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = torch.from_numpy(x.reshape(len(x), -1)), torch.from_numpy(y)
        torch.manual_seed(2)
        self.model = nn.Sequential(nn.Linear(196, 40), nn.ReLU(), nn.Linear(40, 10))

    def get_parameters(self, config: dict) -> list[np.ndarray]:
        """A list without names, as Flower passes them."""
        return [v.detach().numpy().copy() for v in self.model.state_dict().values()]

    def fit(self, parameters: list[np.ndarray], config: dict) -> tuple[list[np.ndarray], int, dict]:
        """Trains, and gives the weights back."""
        state = zip(self.model.state_dict(), map(torch.from_numpy, parameters), strict=True)
        self.model.load_state_dict(dict(state))
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(self.model(self.x), self.y).backward()
            optimizer.step()
        return self.get_parameters({}), len(self.x), {}


class Capturing(FedAvg):
    """FedAvg, and a file of the weights that each client sent."""

    def __init__(self, folder: Path, **given: object) -> None:
        super().__init__(**given)
        self.folder = folder

    def aggregate_fit(self, server_round: int, results: list, failures: list) -> tuple:
        """Writes down what came in, then averages."""
        for number, (_, result) in enumerate(results):
            np.savez(self.folder / f"flower_client{number}_after.npz", *parameters_to_ndarrays(result.parameters))
        return super().aggregate_fit(server_round, results, failures)


def main(folder: Path) -> None:
    """Writes the capture."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = fashion(60, 2)
    client, strategy = Client(x, y), Capturing(folder)
    sent = client.get_parameters({})
    np.savez(folder / "flower_before.npz", *sent)
    result = client.to_client().fit(FitIns(ndarrays_to_parameters(sent), {}))
    strategy.aggregate_fit(1, [(None, result)], [])
    np.savez_compressed(folder / "flower_truth.npz", x=x, y=y, num_classes=10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
