"""`fedpriv ranks`: whether R-GAP can invert a network, said before there is an update."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fedpriv.cli import options


def ranks(
    model: Annotated[
        str, typer.Argument(help="A model, as name, name(key=value,...) or module:function.")
    ] = "lenet(init=uniform)",
    data: options.Data = "fashion_small",
    data_dir: options.DataDir = None,
    seed: options.Seed = 0,
    json_lines: options.Json = False,
) -> None:
    """Say in advance whether a network's gradient determines its input, layer by layer (R-GAP's rank analysis)."""
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model
    from fedpriv_attacks.rgap.ranks import rank_analysis

    training, _ = load_data(data, data_dir)
    made = load_model(model, input_shape=training.input_shape, num_classes=training.num_classes)
    found = rank_analysis(made, seed=seed)
    typer.echo(
        json.dumps({"model": made.name, **found.as_dict()}) if json_lines else f"{made.name}\n{found.describe()}"
    )
