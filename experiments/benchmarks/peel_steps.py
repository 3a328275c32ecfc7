"""Peel over several local steps of networks trained for a while: whether what it claims is there.

    OMP_NUM_THREADS=1 uv run python -m experiments.benchmarks.peel_steps --batches 300

Each batch draws its own setting: 8 to 64 test images of Fashion-MNIST, 2 to 10 steps of 0.001 to 0.03, a 2NN of one
hidden layer of 300 to 1,000 units after 10 to 4,000 steps of SGD. A claim farther than 0.01 from every image of its
batch in its worst value is false.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np
from fedpriv_attacks.exact.peel import Peel

from fedpriv.data.embedded import fashion_small
from fedpriv.models import load
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure

FALSE = 0.01
WIDTHS, TRAINED = (300, 500, 1000), (10, 30, 50, 100, 200, 500, 1500, 4000)
STEPS, RATES = (2, 3, 4, 6, 10), (0.001, 0.003, 0.01, 0.02, 0.03)


@functools.cache
def trained(width: int, steps: int, rate: float = 0.2, batch: int = 64) -> tuple[Model, np.ndarray]:
    """A 2NN of one hidden layer after so many steps of SGD, and its weights `[d]`."""
    data, _ = fashion_small()
    model = load(f"2nn(hidden=[{width}])", data)
    w, b, v, c = (np.array(a, np.float32) for a in model.initialize(1))
    rng = np.random.default_rng(1)
    x, y = data.floats().reshape(len(data), -1), np.asarray(data.y)
    for _ in range(steps):
        rows = rng.choice(len(x), batch)
        z = x[rows] @ w + b
        hidden = np.maximum(z, 0)
        logits = hidden @ v + c
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(batch), y[rows]] -= 1
        p *= rate / batch
        d = (p @ v.T) * (z > 0)
        v, c, w, b = v - hidden.T @ p, c - p.sum(0), w - x[rows].T @ d, b - d.sum(0)
    return model, model.spec.flatten_numpy([w, b, v, c]).astype(np.float32)


def claims(seed: int) -> tuple[np.ndarray, int]:
    """How far each claim on one batch is from the nearest image, in its worst value, and how many images there are."""
    _, test = fashion_small()
    rng = np.random.default_rng(seed)
    count, width, steps = int(rng.integers(8, 65)), int(rng.choice(WIDTHS)), int(rng.choice(STEPS))
    model, weights = trained(width, int(rng.choice(TRAINED)))
    procedure = make_procedure(batch_size=None, local_epochs=steps, client={"learning_rate": float(rng.choice(RATES))})
    data = test.take(rng.choice(len(test), count, replace=False))
    (seen,) = Exposure(model, data, 1, count, procedure=procedure, seed=seed, weights=weights)
    finding = Peel().run(seen.view)
    assert finding.x is not None
    found = finding.x[: finding.extra["recovered"]].reshape(-1, 1, data.floats(slice(1)).size)
    apart = np.abs(found - seen.truth.x.reshape(1, count, -1)).max(2)
    return apart.min(1), count


def main() -> None:
    """Prints each false claim, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--seed", type=int, default=30000, help="of the first batch; the others follow")
    given = parser.parse_args()
    every, images = [], 0
    for i in range(given.batches):
        apart, count = claims(given.seed + i)
        every.append(apart)
        images += count
        if apart.max(initial=0) > FALSE:
            print(f"seed {given.seed + i}: {np.sum(apart > FALSE)} false, {apart.max():.4f} away", flush=True)
        if (i + 1) % 50 == 0 or i + 1 == given.batches:
            off = np.concatenate(every)
            worst = f"{off.max():.1e}" if len(off) else "-"
            print(
                f"{i + 1} batches: {len(off)} of {images} claimed, {np.sum(off > FALSE)} false, farthest {worst}",
                flush=True,
            )


if __name__ == "__main__":
    main()
