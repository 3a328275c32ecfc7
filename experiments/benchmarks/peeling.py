"""Peeling: how far it carries, by batch, data and local steps, beside what decides it, and the CPU seconds it takes.

What decides it is how many units fire for one example alone. Let the batch's images be m + d_i with d_i across m and of
like lengths, and let r = |m| / |d_i|. Under a kernel of normal weights and no bias, a unit whose weight on the
direction of m is t standard deviations fires for an example with probability Phi(r t), so of u units

    u * B * E[q (1 - q)^(B - 1)],  q = Phi(r t),  t normal,

fire for one of B examples alone. Beside this number stands the count in the batches themselves, which takes the truth.
Batches are drawn from the data with the seeds 0, 1, ...; each has an untrained model of its own, unless `--checkpoint`
gives a trained one. CPU seconds are of one process, TensorFlow on one thread; the first batch, which compiles,
is left out of their median. `OMP_NUM_THREADS=1 python -m experiments.benchmarks.peeling`
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from fedpriv_attacks.exact.peel import Peel
from scipy.stats import norm

from fedpriv.base.errors import ParameterError
from fedpriv.data import load
from fedpriv.data.dataset import Dataset
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.checkpoint import Checkpoint
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.attack import Finding
from fedpriv.threat.observation import Observation


def expected_lone(x: np.ndarray, units: int) -> tuple[float, float]:
    """r of the examples `[n, inputs]` as a batch, and how many of `units` fire for one alone; see the module."""
    mean = x.mean(axis=0)
    length = float(np.linalg.norm(mean))
    along = mean / max(length, 1e-30)
    across = x - np.outer(x @ along, along)
    r = length / max(float(np.sqrt(np.mean(np.sum(across**2, axis=1)))), 1e-30)
    t = np.linspace(-8, 8, 4001)
    q = norm.cdf(r * t)
    return r, float(units * len(x) * np.trapz(norm.pdf(t) * q * (1 - q) ** (len(x) - 1), t))


def _procedure(steps: int, rate: float) -> Procedure:
    """Steps of one batch each. The update is a difference of weights, whose rounding weighs less at a high rate."""
    return make_procedure(batch_size=None, local_epochs=steps, client={"learning_rate": rate})


def _in_turn(on: np.ndarray) -> float:
    """What part of the examples units `on` `[n, units]` give that fire for one alone, taken off one after the other."""
    known = np.zeros(len(on), bool)
    while (lone := on[:, np.sum(on[~known], axis=0) == 1] & ~known[:, None]).any():
        known |= lone.any(axis=1)
    return float(known.mean())


def _apart(finding: Finding, truth: np.ndarray) -> np.ndarray:
    """How far each claim is from each of `truth` `[n, inputs]` in its worst value, `[claims, n]`."""
    assert finding.x is not None
    claims = finding.x[: finding.extra["recovered"]].reshape(-1, 1, truth.shape[1])
    return np.asarray(np.abs(claims - truth[None]).max(axis=2))


def _peeled(observation: Observation, units: int, seconds: float) -> tuple[float, ...]:
    """r, lone units expected and counted, the part that they give in turn, the part recovered, how many finds lie
    farther than 0.01 from any example in some value, the farthest's distance, and CPU seconds.
    """
    view, x = observation.view, observation.truth.x.reshape(len(observation.truth.x), -1)
    began = time.process_time()
    finding = Peel(seconds=seconds).run(view)
    cpu = time.process_time() - began
    weights = view.model.spec.unflatten_numpy(np.asarray(view.weights))
    bias = weights[1] if weights[1].shape == (units,) else 0.0
    on = x @ weights[0] + bias > 0
    alone = int(np.sum(np.sum(on, axis=0) == 1))
    apart = _apart(finding, x)
    right = apart.min(axis=1) < 1e-2
    part = len(set(apart.argmin(axis=1)[right])) / len(x)
    worst = float(apart.min(axis=1).max(initial=0.0))
    return *expected_lone(x, units), alone, _in_turn(on), part, int(np.sum(~right)), worst, cpu


def _whole(data: str, data_dir: str | None) -> Dataset:
    training, test = load(data, data_dir) if data_dir else load(data)
    return training if test is None else test


def _random(batches: int, seconds: float, steps: int, rate: float) -> None:
    """Counts false claims in small batches of noise, 2 to 39 examples of 6 x 7 pixels, 300 units."""
    shape, classes, found, total, farthest, false = (6, 7, 1), 5, 0, 0, 0.0, 0
    model = load_model("2nn(hidden=[300])", shape, classes)
    base = model.initialize(0)
    limit = np.sqrt(6 / sum(base[2].shape))
    for seed in range(batches):
        rng = np.random.default_rng(seed)
        n = 2 + seed % 38
        x = rng.integers(0, 256, (n, *shape), np.uint8)
        noise = Dataset("noise", x, rng.integers(0, classes, n).astype(np.int32), classes)
        first = rng.normal(0, 0.5, base[0].shape) if steps == 1 else base[0]
        kernels = [first, base[1], rng.uniform(-limit, limit, base[2].shape), base[3]]
        weights = model.spec.flatten_numpy(kernels).astype(np.float32)
        (observation,) = Exposure(model, noise, 1, n, procedure=_procedure(steps, rate), seed=seed, weights=weights)
        finding, truth = Peel(seconds=seconds).run(observation.view), observation.truth.x.reshape(n, -1)
        apart = _apart(finding, truth).min(axis=1)
        found, total, false = found + len(apart), total + n, false + int(np.sum(apart >= 1e-2))
        farthest = max(farthest, float(apart.max(initial=0.0)))
        if seed % 100 == 99 or seed == batches - 1:
            typer.echo(
                f"{seed + 1} random batches, {steps} steps of {rate:g}: {found} of {total} examples claimed, "
                f"farther than 0.01: {false}, farthest {farthest:.1e}, CPU {time.process_time():.0f} s"
            )


def main(
    data: Annotated[str, typer.Argument(help="A dataset's name or path.")] = "fashion_small",
    data_dir: Annotated[str | None, typer.Option(help="Folder of a named dataset's files.")] = None,
    model: Annotated[str, typer.Option(help="The attacked network.")] = "2nn(hidden=[1000],spread=0.5)",
    batches: Annotated[str, typer.Option(help="Examples of a batch, between commas.")] = "16,32,64,128,256",
    draws: Annotated[int, typer.Option(min=1, help="Batches of each size.")] = 5,
    steps: Annotated[str, typer.Option(help="Full-batch local steps, between commas.")] = "1",
    rates: Annotated[str, typer.Option(help="Clients' learning rates, between commas.")] = "1",
    seconds: Annotated[float, typer.Option(min=1, help="After which a peeling ends with what it has.")] = 60.0,
    checkpoint: Annotated[Path | None, typer.Option(help="A trained model, in place of untrained ones.")] = None,
    random: Annotated[int, typer.Option(min=0, help="So many small batches of noise, in place of the data.")] = 0,
) -> None:
    """Prints, for each setting, lone units expected and counted, the part recovered, wrong finds and CPU seconds."""
    os.environ.setdefault("FEDPRIV_INTER_OP_THREADS", "1")  # one core; read when TensorFlow is first used
    os.environ.setdefault("FEDPRIV_INTRA_OP_THREADS", "1")
    if random:
        for count in map(int, steps.split(",")):
            for rate in map(float, rates.split(",")):
                _random(random, seconds, count, rate)
        return
    whole = _whole(data, data_dir)
    made = load_model(model, whole.input_shape, whole.num_classes)
    if len(made.spec.shapes[0]) != 2:
        raise ParameterError(f"--model '{model}' begins with no dense layer; take '2nn(hidden=[1000])'")
    units = made.spec.shapes[0][1]
    weights = None if checkpoint is None else Checkpoint.load(checkpoint).weights
    if weights is not None and weights.shape != (made.spec.size,):
        raise ParameterError(
            f"{checkpoint} has {weights.size} weights, --model '{model}' {made.spec.size}; give its own"
        )
    trained = ", trained" if checkpoint else ""
    typer.echo(f"{data}, {model}{trained}; {draws} batches each; load {os.getloadavg()[0]:.1f}")
    for size in map(int, batches.split(",")):
        for count in map(int, steps.split(",")):
            for rate in map(float, rates.split(",")):
                procedure = _procedure(count, rate)
                rows = []
                for seed in range(draws):
                    drawn = whole.take(np.random.default_rng(seed).choice(len(whole), size, replace=False))
                    exposure = Exposure(made, drawn, 1, size, procedure=procedure, seed=seed, weights=weights)
                    (observation,) = exposure
                    rows.append(_peeled(observation, units, seconds))
                r, wanted, lone, turn, part, wrong, worst, cpu = np.array(rows).T
                typer.echo(
                    f"batch {size}, {count} steps of {rate:g}: r {r.mean():.2f}, lone units expected "
                    f"{wanted.mean():.0f}, counted {lone.mean():.0f}, in turn {turn.mean():.3f}, "
                    f"recovered {part.mean():.3f} ({part.min():.3f} to {part.max():.3f}), "
                    f"farther than 0.01: {wrong.sum():.0f}, farthest {worst.max():.1e}, "
                    f"CPU {np.median(cpu[1:] if len(cpu) > 1 else cpu):.2f} s"
                )


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
