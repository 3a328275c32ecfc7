"""Breaching's side of `matching_breaching`, run by an interpreter that has it: its attack, through its public API.

Reads a problem from the file in the first argument and runs it once for every line on standard input. Each run's line
of JSON has its CPU seconds, its objectives, and the file of the image that it found. Nothing of this project but
`torch_chain` is imported.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.benchmarks.torch_chain import network


def main(problem: Path) -> None:
    """Answers the lines of standard input until it ends; the first answer, before any, has the versions."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # breaching prints what it loads
        run = prepared(problem)
        print(json.dumps({name: version(name) for name in ("breaching", "torch")}), file=answers, flush=True)
        for turn, _ in enumerate(sys.stdin):
            began = time.process_time()
            image, objectives = run()
            cpu = time.process_time() - began
            found = problem.with_name(f"found{turn}.npy")
            np.save(found, image)
            answer = {"cpu": cpu, "first": objectives[0], "last": objectives[-1], "image": str(found)}
            print(json.dumps(answer), file=answers, flush=True)


def prepared(problem: Path) -> Callable[[], tuple[np.ndarray, list[float]]]:
    """One run of breaching's attack on the problem: the image `[height, width, channels]` and every step's objective.

    The settings are those of its `invertinggradients` but for what the problem says: steps, rate, weight of total
    variation, and whether that counts the rim. Images are in [0, 1] without normalization, the start and the label are
    the problem's.
    """
    warnings.simplefilter("ignore")
    import breaching
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    with np.load(problem) as file:
        arrays = {name: file[name] for name in file.files}
    said = json.loads(str(arrays["said"]))
    names = said["names"]
    chain: Any = [SimpleNamespace(**layer) for layer in said["chain"]]
    forward, weights, mapped = network(chain, names, [arrays[f"weights {name}"] for name in names])
    gradients = mapped([arrays[f"gradient {name}"] for name in names])
    start = torch.tensor(np.ascontiguousarray(arrays["start"].transpose(2, 0, 1)[None]))

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ParameterList(weights)

        def forward(self, x: Any) -> Any:
            return forward(x, list(self.parts))

    class Within(torch.nn.Module):
        """Total variation of neighbours within the image."""

        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = weight

        def initialize(self, *_: Any) -> None:
            pass

        def forward(self, x: Any) -> Any:
            return self.weight * (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean())

    model, loss = Chain(), torch.nn.CrossEntropyLoss()
    settings = breaching.get_attack_config(
        "invertinggradients",
        overrides=[
            f"optim.max_iterations={said['steps']}",
            f"optim.step_size={said['rate']}",
            f"regularization.total_variation.scale={said['weight']}",
        ],
    )
    attack = breaching.attacks.prepare_attack(model, loss, settings)
    if not said["rim"]:
        attack.regularizers = [Within(said["weight"])]
    server = [
        {
            "parameters": [w.detach() for w in weights],
            "buffers": [],
            "metadata": SimpleNamespace(shape=tuple(start.shape[1:]), modality="vision"),
        }
    ]

    def run() -> tuple[np.ndarray, list[float]]:
        user = {
            "gradients": gradients,
            "buffers": None,
            "metadata": {
                "num_data_points": 1,
                "labels": torch.tensor(arrays["label"], dtype=torch.long),
                "local_hyperparams": None,
            },
        }
        found, stats = attack.reconstruct(server, [user], {}, initial_data=start)
        return found["data"][0].numpy().transpose(1, 2, 0), stats["Trial_0_Val"]

    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
