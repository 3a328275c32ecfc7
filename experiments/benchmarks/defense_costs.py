"""Defense costs: what each empirical defense adds to a round of training.

20 of 100 clients with 60 images each, E=1, B=10, the graph engine, on McMahan's 2NN or another model. Rounds alternate
between the defenses (and layers of the model that count as such), so that what else the machine does falls on all, and
each is compared with the undefended round beside it, in CPU seconds of the process.
`python -m experiments.benchmarks.defense_costs`
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from experiments.benchmarks.defended_rounds import BATCH, CLIENTS, COHORT, EXAMPLES, by_turns

#: Every empirical defense, as on a command line.
DEFENSES = (
    "freeze(layers=[{head}])",
    "personal_layers(layers=[{head}])",
    "top_k(fraction=0.1)",
    "random_k(fraction=0.1)",
    "dgc(fraction=0.1)",
    "low_precision(format=float16)",
    "low_precision(format=int8)",
    "qsgd(levels=15)",
    "terngrad",
    "sign_sgd(error_feedback=true)",
    "one_bit",
    "power_sgd",
    "additive_noise(stddev=0.001)",
    "outpost",
    "mixup",
    "instahide",
    "ats(policy=3-1-7)",
    "ats(policy=fashion_resnet)",
    "median",
    "trimmed_mean",
    "krum",
    "norm_bound(norm=1)",
    "soteria",
)
#: Layers that models take as options, and that count as defenses.
LAYERS = ("dropout=0.25", "precode=64")
PLAIN = "none"


def main(
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds of each defense.")] = 15,
    model: Annotated[str, typer.Option(help="A model of 28 x 28 images, by name.")] = "2nn",
    only: Annotated[str | None, typer.Option(help="Only defenses whose text has this in it.")] = None,
    skip: Annotated[str | None, typer.Option(help="No defenses whose text has this in it, such as soteria.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/defense_costs.json"),
) -> None:
    """Times every defense round by round and writes medians and paired ratios."""
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import ParameterError
    from fedpriv.base.provenance import provenance

    timeable = (*DEFENSES, *LAYERS)
    chosen = [d for d in timeable if (only is None or only in d) and (skip is None or skip not in d)]
    if not chosen:
        raise ParameterError(
            f"--only '{only}' and --skip '{skip}' leave none of {', '.join(timeable)}; give a part of one, and skip "
            "less"
        )
    load_before = os.getloadavg()
    rows = summary(timed(rounds, model, chosen))
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.defense_costs", *sys.argv[1:]]
    settings = {
        "model": model,
        "clients": CLIENTS,
        "cohort": COHORT,
        "examples": EXAMPLES,
        "batch": BATCH,
        "rounds": rounds,
    }
    whole = {
        "rows": rows,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    if only is None:  # a part is for the terminal
        write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after")
    for name, row in rows.items():
        low, high = row["quartiles"]
        typer.echo(f"{name:36}{row['cpu_seconds']:10.4f}{row['over_none']:9.2f}  ({low:.2f} to {high:.2f})")


def timed(rounds: int, model: str, chosen: list[str]) -> dict[str, list[float]]:
    """CPU seconds of each timed round, by defense; rounds alternate."""
    from fedpriv.data import fashion_small
    from fedpriv.models import load as load_model

    data, _ = fashion_small()
    made = load_model(model, data)
    head = made.spec.names[-1].rpartition("/")[0]
    lines = {PLAIN: (), **{(text := one.format(head=head)): (text,) for one in chosen if one not in LAYERS}}
    models = {one: load_model(_with(model, one), data) for one in chosen if one in LAYERS}
    return by_turns(data, made, lines | dict.fromkeys(models, ()), rounds, time.process_time, models)


def _with(model: str, option: str) -> str:
    """The model's text with one more option."""
    return f"{model[:-1]},{option})" if model.endswith(")") else f"{model}({option})"


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """By defense: median CPU seconds of a round, and of its ratios to the undefended round beside it; quartiles."""
    plain = np.array(seconds[PLAIN])
    rows = {}
    for name, times in seconds.items():
        ratios = np.array(times) / plain
        rows[name] = {
            "cpu_seconds": float(np.median(times)),
            "over_none": float(np.median(ratios)),
            "quartiles": tuple(float(q) for q in np.quantile(ratios, [0.25, 0.75])),
            "rounds": len(times),
        }
    return rows


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
