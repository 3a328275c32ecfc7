"""What `peel` claims where examples are hard to tell from mixtures: python -m experiments.benchmarks.peel_alike.

Batches of pairs (an image and itself at 0.9 times its brightness), of two classes, and of two classes with one logit.
A claim is false if its worst value is farther than 0.01 from that of every example of the batch.
"""

from __future__ import annotations

import argparse

import numpy as np

from fedpriv import load, load_model, make_attack
from fedpriv.data.dataset import Dataset
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure

FALSE = 0.01


def pairs(count: int, darker: float) -> Dataset:
    """The first test images of Fashion-MNIST, each followed by itself at `darker` times its brightness."""
    test = load("fashion_small")[1]
    assert test is not None
    x, y = test.floats()[:count], test.y[:count]
    both = np.stack([x, np.float32(darker) * x], 1).reshape(-1, *x.shape[1:])
    return Dataset(name="pairs", x=both, y=np.repeat(y, 2), num_classes=10)


def two_classes(count: int) -> Dataset:
    """The first test images of Fashion-MNIST's first two classes."""
    test = load("fashion_small")[1]
    assert test is not None
    chosen = np.flatnonzero(np.asarray(test.y) < 2)[:count]
    return Dataset(name="two", x=test.floats()[chosen], y=np.asarray(test.y)[chosen], num_classes=2)


def measure(data: Dataset, model: str, batch: int, trials: int, seed: int) -> tuple[int, int, int]:
    """(claims, false ones, examples) of `trials` batches."""
    made = Exposure(load_model(model, data), data, trials, batch=batch, seed=seed)
    claims = false = 0
    for attempt in attempts(make_attack("peel"), made, seed=seed, control="none"):
        found = attempt.result.finding.x.reshape(batch, -1)
        truth = np.asarray(attempt.observation.truth.x).reshape(batch, -1)
        for one in found[np.isfinite(found).all(1)]:
            claims += 1
            false += int(np.abs(truth - one).max(1).min() > FALSE)
    return claims, false, batch * trials


def main() -> None:
    """Prints a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    seeds = parser.parse_args().seeds
    clinic = load("clinic")[0]
    settings = [
        (pairs(24, 0.9), "2nn(hidden=[300])", 24, 2),
        (two_classes(200), "2nn(hidden=[60,30])", 16, 12),
        (two_classes(200), "2nn(hidden=[100],spread=0.5)", 16, 12),
        (clinic, "mlp(hidden=[60],activation=relu)", 8, 40),
        (clinic, "mlp(task=binary,hidden=[60],activation=relu)", 8, 40),
    ]
    for data, model, batch, trials in settings:
        counts = np.sum([measure(data, model, batch, trials, seed) for seed in seeds], axis=0)
        print(f"{data.name}, {model}: {counts[0]} claims of {counts[2]} examples, {counts[1]} false", flush=True)


if __name__ == "__main__":
    main()
