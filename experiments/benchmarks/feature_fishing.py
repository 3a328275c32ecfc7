"""Feature fishing: how often exactly one of a client's n examples of one class is caught, beside the binomial law.

uv run python -m experiments.benchmarks.feature_fishing
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from fedpriv_attacks.malicious.fishing import Fishing

from fedpriv.data.embedded import fashion_small
from fedpriv.models import load
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary


def main() -> None:
    """Prints a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mlp(hidden=[64],activation=relu)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--trials", type=int, default=6, help="at most, a class")
    given = parser.parse_args()
    _, test = fashion_small()  # thresholds are of the training set
    n, q = given.batch, 1 / given.batch
    caught, right = [], 0
    for label in range(10):
        rows = np.random.default_rng(label).permutation(np.flatnonzero(test.y == label))
        trials = min(len(rows) // n, given.trials)
        data = dataclasses.replace(test, x=test.x[rows[: trials * n]], y=test.y[rows[: trials * n]])
        act = f"fishing(label={label},data=fashion_small,quantile={q:.4f},seed={label})"
        adversary = Adversary.parse(f"server(acts=[{act}],knows=[num_examples,procedure])")
        more = {"batch": n, "seed": 100 + label, "adversary": adversary}
        for o in Exposure(load(given.model, test), data, trials=trials, **more):
            finding = Fishing(then="first_layer", most=1).run(o.view)
            caught.append(finding.extra["caught"])
            if not finding.extra["reason"]:
                right += np.sqrt(np.mean(np.square(o.truth.x - finding.x[0]), axis=(1, 2, 3))).min() < 0.02
    count = np.array(caught)
    one = np.abs(count - 1) < 0.1
    print(
        f"batch {n}, quantile {q:.3f}: one {one.sum()} of {len(count)} (law {n * q * (1 - q) ** (n - 1):.2f}), right "
        f"{right}; none {np.sum(count < 0.1)}, more {np.sum(count > 1.1)}"
    )


if __name__ == "__main__":
    main()
