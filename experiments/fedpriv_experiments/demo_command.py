"""`fedpriv demo`: the shipped experiment `demo`, with its most wanted settings as options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli import experiment, options


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, the figures and the numbers.")] = Path(
        "results/demo"
    ),
    data: options.Data = "fashion_small",
    data_dir: options.DataDir = None,
    images: Annotated[int, typer.Option(min=1, max=12, help="Images attacked under each defense.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Training rounds of each defense.")] = 30,
    seed: options.Seed = 0,
) -> None:
    """Train on real images, intercept an update, reconstruct the image, defend, and show the cost."""
    overrides = [f"data={data}", f"exposure.images={images}", f"training.rounds={rounds}", f"seeds=[{seed}]"]
    if data_dir is not None:
        overrides.append(f"data_dir={data_dir}")
    experiment.run("demo", out=out, overrides=overrides)
