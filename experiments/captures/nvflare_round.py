"""A capture of what NVFlare's server gets of one client: python nvflare_round.py FOLDER. Needs nvflare and torch.

One round of NVFlare's FedAvg in its simulator. `nvflare_client.py` is the client, which sends the difference of its
weights, as NVFlare's `TransferType.DIFF` has it. The controller is FedAvg that writes down what it sends, and an
aggregator that writes down what comes in.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.client.config import TransferType
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner


class Writing(ModelAggregator):
    """The mean of updates, and a file of the one that came in last."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder, self.received = folder, []

    def accept_model(self, model: FLModel) -> None:
        """Writes down what a client sent."""
        self.received.append(model)
        np.savez(Path(self.folder) / "nvflare_update.npz", **model.params)

    def aggregate_model(self) -> FLModel:
        """Their mean."""
        names = self.received[0].params
        mean = {name: np.mean([m.params[name] for m in self.received], axis=0) for name in names}
        return FLModel(params=mean, params_type=self.received[0].params_type)

    def reset_stats(self) -> None:
        """Begins a round."""
        self.received = []


class Capturing(FedAvg):
    """One round of FedAvg from weights that are written down before they are sent."""

    def __init__(self, folder: str) -> None:
        super().__init__(num_clients=1, num_rounds=1, aggregator=Writing(folder))
        self.folder = folder

    def load_model(self) -> FLModel:
        """The weights that the round begins with."""
        import torch
        from nvflare_client import perceptron

        torch.manual_seed(4)
        weights = {name: value.numpy() for name, value in perceptron().state_dict().items()}
        np.savez(Path(self.folder) / "nvflare_before.npz", **weights)
        return FLModel(params=weights)

    def save_model(self, model: FLModel) -> None:
        """Nothing is kept."""


def main(folder: Path) -> None:
    """Writes the capture."""
    from images import fashion

    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    x, y = fashion(120, 3)
    np.savez_compressed(folder / "nvflare_truth.npz", x=x, y=y, num_classes=10)
    job = FedJob(name="capture", min_clients=1)
    job.to_server(Capturing(str(folder)))
    client = str(Path(__file__).with_name("nvflare_client.py"))
    job.to_clients(ScriptRunner(client, str(folder), params_transfer_type=TransferType.DIFF))
    job.to_server(client)
    with tempfile.TemporaryDirectory() as workspace:
        job.simulator_run(workspace, n_clients=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
