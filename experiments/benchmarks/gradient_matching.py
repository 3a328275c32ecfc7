"""Gradient matching: in-graph steps a second on the DLG paper's LeNet, one part of an attack added after the other.

One 32x32x3 example, one thread. Every row is a whole attack through `Attack.run`, its compilation not counted: the
plain gradient of the squared error (with SGD, which adds next to nothing), then the cosine objective, total variation,
signed Adam within the box (that is, Inverting Gradients), and L-BFGS. Rounds alternate between the rows, so that what
else the machine does falls on all; CPU seconds are given beside the clock's, since they leave most of that out.
`python -m experiments.benchmarks.gradient_matching`
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from fedpriv.threat.attack import Attack
    from fedpriv.threat.view import View

#: Name to (attack, what it is compared with). A learning rate of almost nothing keeps all rows at the same point.
ROWS: dict[str, tuple[str, str]] = {
    "gradient": ("inversion(coordinates=pixels,labels=auto,{sgd},target=0,tolerance=0)", ""),
    "+ cosine": ("inversion(objective=cosine,coordinates=pixels,labels=auto,{sgd},target=0,tolerance=0)", "gradient"),
    "+ total variation": (
        "inversion(objective=cosine,priors=total_variation,coordinates=pixels,labels=auto,{sgd},target=0,tolerance=0)",
        "+ cosine",
    ),
    "+ signed Adam, box": ("inverting_gradients(optimizer.steps={steps})", "+ total variation"),
    "L-BFGS": (
        "inversion(coordinates=pixels,labels=auto,optimizer=lbfgs(max_evaluations={evaluations}),target=0,tolerance=0)",
        "gradient",
    ),
}


def main(
    steps: Annotated[int, typer.Option(min=10, help="Steps of each attack.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each row; the fastest counts.")] = 7,
    model: Annotated[str, typer.Option(help="The model.")] = "lenet(init=uniform)",
    batch: Annotated[int, typer.Option(min=1, help="Examples behind the update.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/gradient_matching.json"),
) -> None:
    """Times the rows in turn and writes steps a second and their ratios."""
    os.environ.setdefault("FEDPRIV_INTER_OP_THREADS", "1")  # one core; read when TensorFlow is first used
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import FedprivError
    from fedpriv.base.provenance import provenance

    settings = {"model": model, "batch": batch, "steps": steps, "rounds": rounds}
    load_before = os.getloadavg()
    try:
        result = measured(observed(model, batch), steps, rounds)
    except FedprivError as e:
        typer.echo(str(e), err=True)
        raise typer.Exit(2) from e
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.gradient_matching", *sys.argv[1:]]
    whole = {
        "rows": result,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; one thread")
    typer.echo(table(result))


def observed(model: str, batch: int) -> View:
    """The view of one FedSGD client that holds `batch` images of noise."""
    from fedpriv.data.dataset import Dataset
    from fedpriv.models import load as load_model
    from fedpriv.rounds.exposure import Exposure

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch, 32, 32, 3), np.uint8)
    data = Dataset("noise", x, np.arange(batch, dtype=np.int32) % 100, 100)
    made = load_model(model, input_shape=(32, 32, 3), num_classes=100)
    return next(iter(Exposure(made, data, 1, batch))).view


def attacks(steps: int) -> dict[str, Attack]:
    """The rows' attacks, each of `steps` steps (`steps + 1` evaluations)."""
    from fedpriv.base import registry

    blanks = {
        "sgd": f"optimizer=sgd(steps={steps},learning_rate=1e-9)",
        "steps": steps,
        "evaluations": steps + 1,
    }
    return {name: registry.attacks.create(text.format(**blanks)) for name, (text, _) in ROWS.items()}


def measured(view: View, steps: int, rounds: int) -> dict[str, dict[str, Any]]:
    """By row: evaluations a second by the clock and by CPU time, each of the fastest run, and ratios to another row."""
    made = attacks(steps)
    clock: dict[str, list[float]] = {name: [] for name in made}
    cpu: dict[str, list[float]] = {name: [] for name in made}
    compile_seconds: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, attack in made.items():
            began = time.process_time()
            finding = attack.run(view, 0)
            spent = time.process_time() - began
            if turn == 0:  # compiles
                compile_seconds[name] = finding.compile_seconds
                continue
            clock[name].append(finding.seconds / finding.evaluations)
            cpu[name].append(spent / finding.evaluations)
    rows: dict[str, dict[str, Any]] = {}
    for name, (text, base) in ROWS.items():
        rows[name] = {
            "attack": text,
            "steps_per_second": 1 / min(clock[name]),
            "steps_per_cpu_second": 1 / min(cpu[name]),
            "median_steps_per_second": 1 / float(np.median(clock[name])),
            "compile_seconds": compile_seconds[name],
            "times_as_long_as": {other: min(cpu[name]) / min(cpu[other]) for other in ("gradient", base) if other},
        }
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The result for the terminal."""
    lines = [f"{'':20}{'steps/s':>9}{'median':>9}{'a CPU s':>9}{'x gradient':>12}{'x before':>10}{'compile s':>11}"]
    for name, row in rows.items():
        ratios = list(row["times_as_long_as"].values())
        lines.append(
            f"{name:20}{row['steps_per_second']:9.0f}{row['median_steps_per_second']:9.0f}"
            f"{row['steps_per_cpu_second']:9.0f}{ratios[0]:12.2f}{ratios[-1]:10.2f}{row['compile_seconds']:11.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
