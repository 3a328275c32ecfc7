"""Defended rounds: what each defense adds to a round of the 2NN, and what a change of the code does to it.

20 of 100 clients with 60 images each, E=1, B=10, the graph engine. Rounds alternate between the stacks, so that what
else the machine does falls on all; each is compared with the undefended round beside it. With `--against CHECKOUT`
another checkout's code is timed as well, in processes that alternate with this one's, and each stack's ratio is this
code's time over that one's, pair by pair.
`python -m experiments.benchmarks.defended_rounds`
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from fedpriv.data.dataset import Dataset
    from fedpriv.models.model import Model

#: Stacks by name, as on a command line.
STACKS: dict[str, tuple[str, ...]] = {
    "undefended": (),
    "clip": ("clip(norm=1)",),
    "central DP": ("central_dp(clip=1,noise_multiplier=1)",),
    "local DP": ("local_dp(clip=1,noise_multiplier=1)",),
    "secret sharing": ("clip(norm=1)", "secret_sharing(aggregators=3,range=1)"),
}
CLIENTS, COHORT, EXAMPLES, BATCH = 100, 20, 60, 10
WARMUP = 2


def main(
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds of each stack, in each process.")] = 15,
    pairs: Annotated[int, typer.Option(min=1, help="Processes of each checkout, with --against.")] = 3,
    against: Annotated[Path | None, typer.Option(help="Another checkout of this project.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/defended_rounds.json"),
    only: Annotated[bool, typer.Option("--only", hidden=True, help="Print this process's times as JSON.")] = False,
) -> None:
    """Times all stacks round by round and writes medians and paired ratios."""
    if only:
        typer.echo(json.dumps(timed(rounds)))
        return
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import ParameterError
    from fedpriv.base.provenance import provenance

    if against is not None and not (against / "fedpriv" / "__init__.py").exists():
        raise ParameterError(f"'{against}' is no checkout of this project: it has no fedpriv/__init__.py")
    load_before = os.getloadavg()
    result = compared(against, rounds, pairs) if against is not None else summary(timed(rounds))
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.defended_rounds", *sys.argv[1:]]
    settings = {
        "network": "784-200-200-10",
        "clients": CLIENTS,
        "cohort": COHORT,
        "examples": EXAMPLES,
        "rounds": rounds,
    }
    whole = {
        "rows": result,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    if against is None:  # a comparison with somebody's checkout is for the terminal
        write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after")
    typer.echo(table(result))


def timed(rounds: int) -> dict[str, list[float]]:
    """Seconds of each timed round, by stack; rounds alternate between stacks."""
    from experiments.benchmarks import workload
    from fedpriv.models import load as load_model

    model = load_model("2nn", input_shape=(784,), num_classes=10)
    return by_turns(workload.images(), model, STACKS, rounds, time.perf_counter)


def by_turns(
    data: Dataset,
    model: Model,
    lines: Mapping[str, Sequence[str]],
    rounds: int,
    clock: Callable[[], float],
    models: Mapping[str, Model] = {},
) -> dict[str, list[float]]:
    """What each timed round takes by `clock`, by line of defenses; rounds alternate between lines.

    `models` has the lines whose model is another.
    """
    from fedpriv.base import registry
    from fedpriv.data.partition import Partition
    from fedpriv.federation.federation import Federation
    from fedpriv.procedure.procedure import Sampling, make_procedure

    parts = np.split(np.random.default_rng(0).permutation(len(data))[: CLIENTS * EXAMPLES], CLIENTS)
    procedure = make_procedure(
        local_epochs=1,
        batch_size=BATCH,
        client={"learning_rate": 0.1},
        sampling=Sampling.fixed(COHORT),
        weighting="uniform",
    )
    runs = {}
    for name, written in lines.items():
        defenses = tuple(registry.defenses.create(text) for text in written)
        federation = Federation(
            models.get(name, model), data, Partition("even", tuple(parts)), procedure, defenses, seed=0
        )
        runs[name] = [federation, federation.start()]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARMUP + rounds):
        for name, run in runs.items():
            began = clock()
            run[1], _ = run[0].step(run[1], evaluate=False)
            if turn >= WARMUP:
                seconds[name].append(clock() - began)
    for federation, _ in runs.values():
        federation.close()
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """By stack: median seconds of a round, and the median of its ratios to the undefended round beside it."""
    plain = np.array(seconds["undefended"])
    return {
        name: {
            "seconds": float(np.median(times)),
            "over_undefended": float(np.median(np.array(times) / plain)),
            "rounds": len(times),
        }
        for name, times in seconds.items()
    }


def compared(against: Path, rounds: int, pairs: int) -> dict[str, dict[str, Any]]:
    """As `summary`, with the median and the range over pairs of processes of this code's time over the other's."""
    here = Path(__file__).parents[2]
    ours, theirs = [], []
    for pair in range(pairs):
        sides = [(here, ours), (against.resolve(), theirs)]
        for checkout, kept in sides if pair % 2 == 0 else sides[::-1]:
            kept.append(_in_process(checkout, rounds))
    rows = summary({name: [t for run in ours for t in run[name]] for name in STACKS})
    for name, row in rows.items():
        ratios = [float(np.median(a[name]) / np.median(b[name])) for a, b in zip(ours, theirs, strict=True)]
        row |= {"over_other": float(np.median(ratios)), "over_other_range": (min(ratios), max(ratios))}
    return rows


def _in_process(checkout: Path, rounds: int) -> dict[str, list[float]]:
    """Another process's times, which runs that checkout's packages with this file's workload."""
    from experiments.benchmarks.elsewhere import run_elsewhere

    found: dict[str, list[float]] = run_elsewhere(checkout, __file__, ["--only", "--rounds", str(rounds)])
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The result for the terminal."""
    other = any("over_other" in row for row in rows.values())
    lines = [f"{'':16}{'s a round':>11}{'x undefended':>14}{'   x the other checkout' if other else ''}"]
    for name, row in rows.items():
        line = f"{name:16}{row['seconds']:11.4f}{row['over_undefended']:14.2f}"
        if other:
            low, high = row["over_other_range"]
            line += f"   {row['over_other']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
