"""Unmixing: how often `unmix` undoes MixUp and InstaHide, on images and rounds drawn anew for each trial.

Fashion-MNIST images of 7 x 7, a sigmoid layer of 64, one client. Of each class the first ten images are left out, on
which settings were tried; auxiliary images of InstaHide's signs are others again.
`python -m experiments.benchmarks.unmixing`
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

#: Defense, images, rounds, the attack inside.
SETTINGS = (
    ("mixup", 2, 3, "dlg(restarts=4,tolerance=1e-11,optimizer.max_evaluations=1000)"),
    ("mixup", 3, 2, "dlg(restarts=4,tolerance=1e-11,optimizer.max_evaluations=1000)"),
    ("instahide", 2, 4, "dlg(restarts=6,tolerance=1e-10,optimizer.max_evaluations=1000)"),
)
TRIED, HELD = 10, 1000


def main(
    trials: Annotated[int, typer.Option(min=1, help="Trials of each setting.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Draws the images.")] = 2026,
) -> None:
    """Prints each setting's PSNR in dB, trial by trial, and the median; refusals are said."""
    from fedpriv.base import registry
    from fedpriv.base.errors import CapabilityError
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.embedded import fashion_small
    from fedpriv.models.zoo import mlp
    from fedpriv.procedure.procedure import Procedure
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.testing.closeness import closeness
    from fedpriv.threat.adversary import Adversary

    train, _ = fashion_small()
    x = train.floats(np.arange(2 * HELD)).reshape(-1, 7, 4, 7, 4, 1).mean((2, 4)).astype(np.float32)
    small = Dataset("fashion_7", x, train.y[: 2 * HELD], 10)
    model = mlp((7, 7, 1), 10, hidden=(64,), activation="sigmoid")
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        others = Path(folder) / "others.npz"
        np.savez(others, x=small.x[HELD:], y=small.y[HELD:])
        for name, images, rounds, inner in SETTINGS:
            attack = registry.attacks.create("unmix").with_(inner=inner)
            knowing = Adversary() if name == "mixup" else Adversary().knowing(f"auxiliary({others})")
            found = []
            for trial in range(trials):
                classes = rng.choice(10, images, replace=False)
                rows = [rng.choice(np.flatnonzero(small.y[:HELD] == c)[TRIED:]) for c in classes]
                (seen,) = Exposure(
                    model,
                    small.take(np.array(rows)),
                    1,
                    images,
                    defenses=(registry.defenses.create(name),),
                    rounds=rounds,
                    procedure=Procedure.fedsgd(weighting="uniform", learning_rate=1.0),
                    seed=trial,
                    adversary=knowing,
                ).episodes(0)
                try:
                    found.append(float(closeness(attack.run(seen.held, trial), seen.truth).examples))
                except CapabilityError as e:
                    typer.echo(f"{name}, {images} images, {rounds} rounds, trial {trial}: {e}")
            said = ", ".join(f"{v:.1f}" for v in found)
            typer.echo(f"{name}, {images} images, {rounds} rounds: median {np.median(found):.1f} dB ({said})")


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
