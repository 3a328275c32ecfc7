"""Trap weights by scale: what `curious` extracts, and what passes for an example and is none.

    uv run python -m experiments.benchmarks.trap_weights --batch 20 --seeds 21 22 23 --trials 5 --peel

Batches are drawn by seed from the training set without its first 300 images, on which the default scale was chosen.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.exact.peel import Peel
from fedpriv_attacks.malicious.curious import Curious

from fedpriv.base.errors import CapabilityError
from fedpriv.data.embedded import fashion_small
from fedpriv.models import load
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary

USED = 300  # images on which the default was chosen
WRONG = 0.02  # root mean square error from which a claim is no example


def judged(attack, view, truth):
    """(examples found, false claims); neither where nothing fires a unit, which `peel` says it does not apply to."""
    try:
        finding = attack.run(view)
    except CapabilityError:
        return np.zeros(2, int)
    claimed = finding.x[np.isfinite(finding.x).all(axis=(1, 2, 3))]
    away = [np.sqrt(np.mean(np.square(truth.x - x), axis=(1, 2, 3))).min() for x in claimed]
    return np.array([sum(a < WRONG for a in away), sum(a >= WRONG for a in away)])


def main() -> None:
    """Prints a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--trials", type=int, default=5, help="batches a seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99])
    parser.add_argument("--peel", action="store_true", help="run peel on the same updates too")
    given = parser.parse_args()
    train, _ = fashion_small()
    model, n = load("2nn", train), given.batch * given.trials
    for scale in (None, *given.scales):
        attacks = {"certified": Curious(), "all": Curious(claims="all")} if scale else {"first_layer": FirstLayer()}
        if given.peel:
            attacks["peel"] = Peel()
        found = {name: np.zeros(2, int) for name in attacks}
        for seed in given.seeds:
            rows = USED + np.random.default_rng(seed).permutation(len(train) - USED)[:n]
            data = dataclasses.replace(train, x=train.x[rows], y=train.y[rows])
            text = f"server(acts=[curious(scale={scale},seed={seed})])" if scale else "server"
            more = {"batch": given.batch, "seed": seed, "adversary": Adversary.parse(text)}
            for o in Exposure(model, data, trials=given.trials, **more):
                for name, attack in attacks.items():
                    found[name] += judged(attack, o.view, o.truth)
        total = n * len(given.seeds)
        said = ", ".join(f"{k} {right / total:.3f} ({false} false)" for k, (right, false) in found.items())
        print(f"scale {scale or 'honest'}: of {total}: {said}", flush=True)


if __name__ == "__main__":
    main()
