"""`fedpriv policies`: searches for transforms that hide images and leave them fit to train on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli import options


def policies(
    model: Annotated[
        str, typer.Argument(help="A model, as name, name(key=value,...) or module:function.")
    ] = "lenet(init=uniform)",
    data: options.Data = "fashion_small",
    data_dir: options.DataDir = None,
    candidates: Annotated[int, typer.Option(min=1, help="Policies drawn and scored; the paper has 1600.")] = 100,
    best: Annotated[int, typer.Option(min=1, help="How many of them to print.")] = 5,
    examples: Annotated[int, typer.Option(min=2, help="Images that scores are taken over.")] = 20,
    points: Annotated[int, typer.Option(min=1, help="K, of the line from noise to an image.")] = 20,
    train: Annotated[int, typer.Option(min=0, help="Images to train the privacy score's weights on.")] = 500,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of that training.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of that training, SGD in batches of 32.")] = 0.1,
    threshold: Annotated[
        float | None,
        typer.Option(help="Least accuracy score; without, that of the images as they are. At most -1."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A JSON file of all scores, kept after each; one of this search is gone on with."),
    ] = None,
    seed: options.Seed = 0,
    json_lines: options.Json = False,
) -> None:
    """Search for policies of defense `ats`: transforms whose images are hard to reach (Gao et al. 2021)."""
    from fedpriv.base.errors import ParameterError
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model
    from fedpriv_defenses.ats.policies import describe, written
    from fedpriv_defenses.ats.search import Scored, Search
    from fedpriv_defenses.ats.search import best as best_of

    if threshold is not None and not (math.isfinite(threshold) and threshold <= -1):
        raise ParameterError(
            f"--threshold {threshold:g} is an accuracy score that no policy can be held to; give a number of at most -1"
        )
    training, _ = load_data(data, data_dir)
    search = Search(
        model=load_model(model, training),
        data=training,
        candidates=candidates,
        examples=examples,
        points=points,
        train=train,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )

    def line(one: Scored) -> str:
        name = written((one.policy,)) if one.policy else "as they are"
        if json_lines:
            return json.dumps({"policy": name, "privacy": one.privacy, "accuracy": one.accuracy})
        what = f"   {describe(one.policy)}" if one.policy else ""
        return f"{name:12} privacy {one.privacy:7.4f}   accuracy {one.accuracy:9.4f}{what}"

    scored = search.run(out)
    chosen = list(best_of(scored, best, threshold))
    if not chosen:
        reached = max(s.accuracy for s in scored if s.policy)
        least = scored[0].accuracy if threshold is None else threshold
        raise ParameterError(
            f"none of {candidates} policies has an accuracy score of {least:.4g}; the best has {reached:.4g}: give a "
            "lower --threshold, or more --candidates"
        )
    for one in [scored[0], *chosen]:
        typer.echo(line(one))
