"""Matching beside PyTorch: the same steps of one attack by this project and by a plain PyTorch loop.

Adam on the absolute distance of gradients plus total variation within the pixels' box, one image, its label known, one
thread, from the same start: the last member of `modern`, in one stage. The loop is what frameworks built on PyTorch run
at every step: a forward pass, a gradient that keeps its graph, and a gradient of the distance through it. Both
objectives at the start are compared before anything is timed. Ours and theirs alternate, so that what else the machine
does falls on both. PyTorch is needed for this and `matching_breaching` alone:
`uv run --with torch==2.13.0 python -m experiments.benchmarks.matching_torch --data cifar100 --data-dir FOLDER`
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from experiments.benchmarks.matching import view as view_of

if TYPE_CHECKING:
    from fedpriv.threat.view import View

RATE = 0.05
#: Relative difference of both objectives at one start, above which they are not the same problem.
SAME = 1e-3


def main(
    steps: Annotated[int, typer.Option(min=10, help="Steps of both.")] = 100,
    pairs: Annotated[int, typer.Option(min=1, help="Timed pairs.")] = 5,
    model: Annotated[str, typer.Option(help="The model, a plain chain of layers.")] = "convnet(width=32)",
    data: Annotated[str, typer.Option(help="A dataset's name or path; its test images are attacked.")] = "cifar100",
    data_dir: Annotated[str | None, typer.Option(help="Where a named dataset finds its files.")] = None,
    image: Annotated[int, typer.Option(min=0, help="Which test image, from 0.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/matching_torch.json"),
) -> None:
    """Times both and writes milliseconds of CPU time an evaluation, and paired ratios."""
    os.environ |= {
        "FEDPRIV_INTRA_OP_THREADS": "1",
        "FEDPRIV_INTER_OP_THREADS": "1",
    }  # read when TensorFlow is first used
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import ParameterError
    from fedpriv.base.provenance import provenance

    if importlib.util.find_spec("torch") is None:
        raise ParameterError(
            "PyTorch is not installed; run this as "
            "`uv run --with torch==2.13.0 python -m experiments.benchmarks.matching_torch`"
        )
    seen, truth = view_of(model, data, data_dir, image)
    load_before = os.getloadavg()
    result = compared(seen, truth, steps, pairs)
    settings = {"model": model, "data": data, "image": image, "steps": steps, "pairs": pairs, "torch": version("torch")}
    command = ["uv", "run", "--with", "torch", "python", "-m", "experiments.benchmarks.matching_torch", *sys.argv[1:]]
    whole = {
        **result,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    write_json(out, jsonable(whole))
    low, high = result["range"]
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; PyTorch {version('torch')}")
    typer.echo(f"CPU ms an evaluation: ours {result['ours_ms']:.2f}, PyTorch {result['torch_ms']:.2f}")
    typer.echo(f"PyTorch takes {result['times_ours']:.2f} times ours ({low:.2f} to {high:.2f})")
    typer.echo(f"after {steps} steps: ours {result['ours_psnr']:.1f} dB, PyTorch {result['torch_psnr']:.1f} dB")


def compared(seen: View, truth: np.ndarray, steps: int, pairs: int) -> dict[str, Any]:
    """CPU milliseconds an evaluation of both, the ratio pair by pair, and what both found.

    Raises:
      ParameterError: the model is no chain of layers, or both objectives differ at the start.
    """
    from fedpriv.base.errors import ParameterError
    from fedpriv.metrics.image import psnr

    start = np.random.default_rng(0).normal(0.5, 0.25, seen.model.input_shape).astype(np.float32)
    sides = (ours(seen, start, steps), theirs(seen, start, steps))
    spent: tuple[list[float], list[float]] = ([], [])
    found: list[tuple[np.ndarray, float]] = []
    for turn in range(pairs + 1):
        ends = []
        for side, kept in zip(sides, spent, strict=True):
            began = time.process_time()
            ends.append(side())
            if turn:  # the first one compiles
                kept.append((time.process_time() - began) / (steps + 1))
        found = ends
        (_, first), (_, other) = found
        if not turn and abs(first - other) > SAME * abs(other):
            raise ParameterError(
                f"at the same start our objective is {first:.6g} and PyTorch's {other:.6g}; they must be the same"
            )
    mine, torches = np.array(spent)
    ratios = torches / mine
    return {
        "ours_ms": 1e3 * float(np.median(mine)),
        "torch_ms": 1e3 * float(np.median(torches)),
        "times_ours": float(np.median(ratios)),
        "range": (float(ratios.min()), float(ratios.max())),
        "objective_at_start": [value for _, value in found],
        "ours_psnr": float(psnr(found[0][0], truth)),
        "torch_psnr": float(psnr(found[1][0], truth)),
    }


Side = Callable[[], tuple[np.ndarray, float]]


def ours(seen: View, start: np.ndarray, steps: int) -> Side:
    """This project's run: what it found `[height, width, channels]`, and its objective at the start."""
    from fedpriv_attacks.inversion.matching import Restarts, reconstruct

    from fedpriv.base import registry

    attack: Any = registry.attacks.create(
        f"inverting_gradients(objective=l1,optimizer=adam(steps={steps},learning_rate={RATE},decay=cosine),"
        "priors.total_variation.weight=1)"
    )
    label = attack.labels(seen, 0).y

    def run() -> tuple[np.ndarray, float]:
        found = reconstruct(
            seen, attack.recipe(), Restarts(), attack.initializer, label, 0, variables=start.reshape(1, -1)
        )
        assert found.x is not None
        assert found.history is not None
        return found.x[0], float(found.history[0, 1])

    return run


def theirs(seen: View, start: np.ndarray, steps: int) -> Side:
    """The same by PyTorch.

    Raises:
      ParameterError: the model is no chain of layers.
    """
    import torch

    from experiments.benchmarks.torch_chain import network
    from fedpriv.base import registry
    from fedpriv.base.errors import ParameterError

    model = seen.model
    if not model.chain:
        raise ParameterError(f"model '{model.name}' is no plain chain of layers; take 'convnet', 'lenet' or '2nn'")
    torch.set_num_threads(1)
    label = torch.tensor(np.asarray(registry.attacks.create("inverting_gradients").labels(seen, 0).y), dtype=torch.long)
    forward, weights, mapped = network(model.chain, model.spec.names, model.spec.unflatten_numpy(seen.weights))
    rate = 1.0 if seen.client_rate is None else float(seen.client_rate)
    observed = [-g / rate for g in mapped(model.spec.unflatten_numpy(np.asarray(seen.observed)))]
    whole = sum(g.abs().sum() for g in observed)

    def objective(x: Any) -> Any:
        loss = torch.nn.functional.cross_entropy(forward(x, weights), label)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        distance = sum((g - o).abs().sum() for g, o in zip(gradients, observed, strict=True)) / whole
        return distance + total_variation(x)

    def run() -> tuple[np.ndarray, float]:
        x = torch.tensor(start.transpose(2, 0, 1)[None], requires_grad=True)
        optimizer = torch.optim.Adam([x], lr=RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + np.cos(np.pi * t / steps)))
        best, lowest, first = x.detach().clone(), float("inf"), float("nan")
        for t in range(steps + 1):
            value = objective(x)
            (x.grad,) = torch.autograd.grad(value, x)
            now = float(value.detach())
            first = now if t == 0 else first
            if now < lowest:
                best, lowest = x.detach().clone(), now
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(0, 1)
        return best[0].numpy().transpose(1, 2, 0), first

    return run


def total_variation(x: Any) -> Any:
    """As the prior `total_variation(weight=1,opponents=auto)`, of `[n, channels, height, width]`."""
    import torch

    total = 0.0
    for d in (x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]):
        size = d.numel()
        if x.shape[1] == 3:
            r, g, b = d[:, 0:1], d[:, 1:2], d[:, 2:3]
            d, size = torch.cat([d, r - g, r - b, g - b], 1), 2 * size
        total = total + d.abs().sum() / size
    return total


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
