"""Tabular attacks: TabLeak, what is left of it without its parts, and the baselines of its paper, on rows of a table.

Vero et al. 2023 (arXiv 2210.01785) compare the same five on FedSGD updates of an untrained network with two hidden
layers of 100 ReLU units: without the ensemble, without the softmax, without both (cosine distance, "Inverting
Gradients" on tables), and with the squared error in its place ("Deep Gradient Leakage"). Rows are the first ones of the
test set; the settings were tuned on rows of the training set. `python -m experiments.benchmarks.tabular_attacks`
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from fedpriv_attacks.inversion.tableak import TabLeak

from fedpriv.data import load
from fedpriv.metrics.cells import by_column, cells
from fedpriv.models import load as load_model
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary

ATTACKS = {
    "tableak": {},
    "no ensemble": {"ensemble": 1},
    "no softmax": {"coordinates": "pixels"},
    "cosine alone": {"coordinates": "pixels", "ensemble": 1},
    "squared error alone": {"coordinates": "pixels", "ensemble": 1, "objective": "squared_error"},
}


def main(
    data: Annotated[str, typer.Argument(help="A table, by name or path.")] = "anes96",
    batch: Annotated[int, typer.Option(min=1, help="Rows in a batch.")] = 8,
    batches: Annotated[int, typer.Option(min=1, help="Batches attacked.")] = 6,
    known: Annotated[bool, typer.Option(help="Whether the adversary knows the labels.")] = True,
    only: Annotated[list[str] | None, typer.Option(help=f"Some of {', '.join(ATTACKS)}. Repeat.")] = None,
    seed: Annotated[int, typer.Option(help="Of the initial weights; starts have seed 0.")] = 7,
) -> None:
    """Prints the share of cells that are right, with the standard error over rows, of each attack."""
    train, test = load(data)
    assert test is not None
    model = load_model("mlp(hidden=[100,100],activation=relu)", train.input_shape, train.num_classes)
    adversary = Adversary().knowing("labels") if known else Adversary()
    observed = list(Exposure(model, test, batches, batch, adversary=adversary, seed=seed))
    for name in only or ATTACKS:
        trials = [run_trial(TabLeak(**ATTACKS[name]), o, 0) for o in observed]
        rows = [image.extra["row_accuracy"] for t in trials for image in t.score.images]
        found = [cells(t.finding, t.score, o.truth, 0) for t, o in zip(trials, observed, strict=True)]
        *_, whole = by_column([c for c in found if c is not None])
        sure = f", of the surest quarter {whole['surest_accuracy']:.3f}" if "surest_accuracy" in whole else ""
        error, seconds = np.std(rows) / len(rows) ** 0.5, np.median([t.finding.seconds for t in trials])
        typer.echo(
            f"{data}, batch {batch}, {name}: {np.mean(rows):.3f} of {len(rows)} rows' cells right, standard error "
            f"{error:.3f}{sure}; median {seconds:.1f} s"
        )


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
