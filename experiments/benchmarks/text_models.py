"""Text models: seconds of one gradient and of one step of gradient matching, in graphs.

The gradient is of `--batch` sequences of token numbers, by all weights. The step is that of an attack on one sequence:
the squared distance of a gradient to a given one, and its own gradient by the points of the embedding space. Turns
alternate between the models, so that what else the machine does falls on all; the fastest counts. CPU seconds are given
beside the clock's, since they leave most of that out. With `--against CHECKOUT` another checkout's code is timed as
well, in processes that alternate with this one's.
`python -m experiments.benchmarks.text_models`
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

#: Models, and whether they are trained on the next token at each place or on one class a sequence.
MODELS: dict[str, bool] = {
    "gpt": True,
    "gpt(layers=4,width=256)": True,
    "bert": False,
    "bert(layers=4,width=256)": False,
    "lstm": True,
    "gru": True,
    "bag_of_embeddings": False,
}
VOCABULARY = 1000


def main(
    turns: Annotated[int, typer.Option(min=1, help="Timed turns of each model, in each process.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of the gradient.")] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 16,
    models: Annotated[str, typer.Option(help="Models between semicolons; all that the code has, if none.")] = "",
    against: Annotated[Path | None, typer.Option(help="Another checkout of this project.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Processes of each checkout, with --against.")] = 2,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/text_models.json"),
    only: Annotated[bool, typer.Option("--only", hidden=True, help="Print this process's times as JSON.")] = False,
) -> None:
    """Times the models in turn and writes the seconds of the fastest turns."""
    os.environ.setdefault("FEDPRIV_INTER_OP_THREADS", "1")  # one core; read when TensorFlow is first used
    os.environ.setdefault("FEDPRIV_INTRA_OP_THREADS", "1")
    names = tuple(filter(None, models.split(";"))) or tuple(MODELS)
    if only:
        typer.echo(json.dumps(timed(names, turns, batch, length)))
        return
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.provenance import provenance

    load_before = os.getloadavg()
    here = Path(__file__).parents[2]
    ours: list[dict[str, dict[str, float]]] = []
    theirs: list[dict[str, dict[str, float]]] = []
    for pair in range(pairs if against else 1):
        sides = [(here, ours)] + ([(against.resolve(), theirs)] if against else [])
        for checkout, kept in sides if pair % 2 == 0 else sides[::-1]:
            kept.append(_in_process(checkout, names, turns, batch, length))
    rows = fastest(ours)
    for name, row in fastest(theirs).items():
        rows[name] |= {f"{k}_other": v for k, v in row.items()}
    settings = {"turns": turns, "batch": batch, "length": length, "vocabulary": VOCABULARY}
    whole = {
        "rows": rows,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(["python", "-m", "experiments.benchmarks.text_models", *sys.argv[1:]], settings, 0),
    }
    write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; one thread")
    typer.echo(table(rows))


def steps_of(name: str, each: bool, batch: int, length: int) -> dict[str, Callable[[], Any]]:
    """What is timed of a model, by name: functions that run it once."""
    from fedpriv.base.lazy import tf
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.kinds.tokens import Tokens
    from fedpriv.models import load as load_model

    draws = np.random.default_rng(0)
    x = draws.integers(1, VOCABULARY, (batch, length)).astype(np.int32)
    y = np.roll(x, -1, 1) if each else (x[:, 0] % 2).astype(np.int32)
    kind = Tokens(length=length, vocabulary=VOCABULARY, padding=0)
    model = load_model(name, Dataset("made", x, y, VOCABULARY if each else 2, kind=kind))
    assert model.embedding is not None
    table = model.embedding.table
    weights = [tf.constant(w) for w in model.initialize(0)]

    def gradient_of(x: Any, y: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(model.example_losses(weights, x, y))
        found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in found]

    numbers, targets = tf.constant(x), tf.constant(y)
    points = tf.gather(weights[table], numbers[:1]) + 0.01
    true = [tf.constant(g) for g in gradient_of(numbers[:1], targets[:1])]

    @tf.function(autograph=False)
    def gradient(x: Any) -> Any:
        return gradient_of(x, targets)

    @tf.function(autograph=False)
    def matching(points: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(points)
            found = gradient_of(points, targets[:1])
            distance = tf.add_n([tf.reduce_sum(tf.square(f - t)) for f, t in zip(found, true, strict=True)])
        return tape.gradient(distance, points)

    return {"gradient": lambda: gradient(numbers), "matching": lambda: matching(points)}


def timed(names: tuple[str, ...], turns: int, batch: int, length: int) -> dict[str, dict[str, float]]:
    """By model: seconds by the clock and of CPU of the fastest gradient and matching step, and of their compilation."""
    made: dict[str, dict[str, Callable[[], Any]]] = {}
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            made[name] = steps_of(name, MODELS.get(name, True), batch, length)
        except Exception as e:  # another checkout may lack it
            typer.echo(f"{name}: {e}", err=True)
            continue
        rows[name] = {}
        for what, run in made[name].items():
            began = time.perf_counter()
            run()
            rows[name][f"{what}_compile"] = time.perf_counter() - began
    for _ in range(turns):
        for name, runs in made.items():
            for what, run in runs.items():
                many = 1 if "256" in name else 10
                clock, cpu = time.perf_counter(), time.process_time()
                for _ in range(many):
                    run()
                spent = (time.perf_counter() - clock) / many, (time.process_time() - cpu) / many
                for kind, value in zip(("", "_cpu"), spent, strict=True):
                    rows[name][what + kind] = min(value, rows[name].get(what + kind, np.inf))
    return rows


def fastest(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The least of each figure over processes."""
    return {
        name: {k: min(run[name][k] for run in runs) for k in row} for name, row in (runs[0] if runs else {}).items()
    }


def _in_process(
    checkout: Path, names: tuple[str, ...], turns: int, batch: int, length: int
) -> dict[str, dict[str, float]]:
    """Another process's times, which runs that checkout's packages with this file's workload."""
    from experiments.benchmarks.elsewhere import run_elsewhere

    arguments = ["--only", *("--turns", str(turns), "--batch", str(batch), "--length", str(length))]
    found: dict[str, dict[str, float]] = run_elsewhere(checkout, __file__, [*arguments, "--models", ";".join(names)])
    return found


def table(rows: dict[str, dict[str, float]]) -> str:
    """The result for the terminal, in milliseconds."""
    lines = [f"{'':28}{'ms a gradient':>16}{'ms a matching step':>20}   (CPU; the other checkout's)"]
    for name, row in rows.items():
        line = f"{name:28}{1e3 * row['gradient']:16.2f}{1e3 * row['matching']:20.2f}"
        line += f"   ({1e3 * row['gradient_cpu']:.2f}, {1e3 * row['matching_cpu']:.2f}"
        if "gradient_other" in row:
            line += "; " + ", ".join(f"{1e3 * row[k]:.2f}" for k in ("gradient_cpu_other", "matching_cpu_other"))
        lines.append(line + ")")
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
