"""`fedpriv demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli import options


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
    from experiments.demo.plan import Plan

    began = time.monotonic()
    plan = Plan(
        data=data, data_dir=data_dir, images=images, rounds=rounds, seed=seed, sum_cohort=max(images, Plan.sum_cohort)
    )
    typer.echo("Loading TensorFlow")

    from experiments.demo.measure import Results, measure
    from experiments.demo.page import conclusion, write_data, write_page
    from fedpriv.provenance import provenance

    origin = provenance(["fedpriv", *sys.argv[1:]], plan.config(), seed)

    def after(results: Results) -> None:
        write_data(results, out, origin)

    results = measure(plan, typer.echo, after)
    write_data(results, out, origin)
    page = write_page(results, out, origin)
    typer.echo("")
    for sentence in conclusion(results):
        typer.echo(sentence)
    typer.echo(f"\nOpen {page} ({time.monotonic() - began:.0f} s)")
    if results.interrupted:
        raise typer.Exit(130)
