"""Matching: what a whole attack costs on one image, with and without its compilation, and what a change does to it.

One client of FedSGD with one image. Costs are CPU seconds of a process with one thread, which leave out most of what
else the machine does: of the first run, which compiles, and of a second one on the same view. With `--against CHECKOUT`
another checkout's code does the same in processes that alternate with this one's, and ratios are this code's over that
one's, pair by pair. The image's PSNR stands beside them, for a quicker attack that finds less is no faster.
`python -m experiments.benchmarks.matching --model "convnet(width=32)" --data cifar100 --data-dir FOLDER`
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

#: What is compared: the key in a process's result, and the words for it.
COSTS = {"first_cpu": "first run", "next_cpu": "next run", "cpu_an_evaluation": "an evaluation"}


def main(
    attack: Annotated[str, typer.Option(help="The attack.")] = "modern",
    model: Annotated[str, typer.Option(help="The model.")] = "convnet(width=8)",
    data: Annotated[str, typer.Option(help="A dataset's name or path; its test images are attacked.")] = "cifar100",
    data_dir: Annotated[str | None, typer.Option(help="Where a named dataset finds its files.")] = None,
    image: Annotated[int, typer.Option(min=0, help="Which test image, from 0.")] = 0,
    pairs: Annotated[int, typer.Option(min=1, help="Processes of each checkout.")] = 3,
    against: Annotated[Path | None, typer.Option(help="Another checkout of this project.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/matching.json"),
    only: Annotated[bool, typer.Option("--only", hidden=True, help="Print this process's costs as JSON.")] = False,
) -> None:
    """Runs the attack in processes of its own and writes its costs."""
    if only:
        typer.echo(json.dumps(spent(attack, model, data, data_dir, image)))
        return
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import ParameterError
    from fedpriv.base.provenance import provenance

    if against is not None and not (against / "fedpriv" / "__init__.py").exists():
        raise ParameterError(f"'{against}' is no checkout of this project: it has no fedpriv/__init__.py")
    view(model, data, data_dir, image)  # a mistake in the settings is said before the work
    settings = {"attack": attack, "model": model, "data": data, "image": image, "pairs": pairs}
    where = str(Path(data).resolve()) if Path(data).exists() else data
    folder = None if data_dir is None else str(Path(data_dir).resolve())
    asked = ["--attack", attack, "--model", model, "--data", where, "--image", str(image), "--only"]
    asked += [] if folder is None else ["--data-dir", folder]
    load_before = os.getloadavg()
    result = compared(None if against is None else against.resolve(), asked, pairs)
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.matching", *sys.argv[1:]]
    whole = {
        **result,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    if against is None:  # a comparison with somebody's checkout is for the terminal
        write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; one thread")
    typer.echo(table(result))


def view(model: str, data: str, data_dir: str | None, image: int) -> tuple[Any, np.ndarray]:
    """The view of one client's FedSGD update on one image, and the image, `[height, width, channels]` in [0, 1].

    Raises:
      ParameterError: there is no such image.
    """
    from fedpriv.base.errors import ParameterError
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model
    from fedpriv.rounds.exposure import Exposure

    train, test = load_data(data, data_dir)
    whole = train if test is None else test
    if image >= len(whole):
        raise ParameterError(f"image {image} of {len(whole)}: give a number below that")
    one = whole.take(np.array([image]))
    made = load_model(model, input_shape=whole.input_shape, num_classes=whole.num_classes)
    return next(iter(Exposure(made, one, 1, 1))).view, one.floats(slice(1))[0]


def spent(attack: str, model: str, data: str, data_dir: str | None, image: int) -> dict[str, Any]:
    """CPU seconds of both runs in this process, evaluations, and the PSNR of what was found."""
    from fedpriv.base import registry
    from fedpriv.metrics.image import psnr

    seen, truth = view(model, data, data_dir, image)
    made = registry.attacks.create(attack)
    cpu = []
    for _ in range(2):
        began = time.process_time()
        finding = made.run(seen, 0)
        cpu.append(time.process_time() - began)
    found = float("nan") if finding.x is None else float(psnr(finding.x[0], truth))
    return {
        "first_cpu": cpu[0],
        "next_cpu": cpu[1],
        "cpu_an_evaluation": cpu[1] / max(finding.evaluations, 1),
        "evaluations": finding.evaluations,
        "psnr": found,
        "tried": finding.extra.get("tried", []),
    }


def compared(against: Path | None, asked: list[str], pairs: int) -> dict[str, Any]:
    """Costs of this checkout, and where there is another one, its costs and the ratios pair by pair."""
    here = Path(__file__).parents[2]
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for pair in range(pairs):
        sides = [(here, ours)] + ([(against, theirs)] if against is not None else [])
        for checkout, kept in sides if pair % 2 == 0 else sides[::-1]:
            kept.append(_in_process(checkout, asked))
    rows: dict[str, Any] = {}
    for cost in COSTS:
        rows[cost] = {"seconds": float(np.median([run[cost] for run in ours]))}
        if theirs:
            ratios = [a[cost] / b[cost] for a, b in zip(ours, theirs, strict=True)]
            rows[cost] |= {"over_other": float(np.median(ratios)), "over_other_range": (min(ratios), max(ratios))}
    return {"costs": rows, "ours": ours[0], "theirs": theirs[0] if theirs else None}


def _in_process(checkout: Path, asked: list[str]) -> dict[str, Any]:
    """What another process spends on that checkout's packages with this file's workload, on one thread."""
    from experiments.benchmarks.elsewhere import run_elsewhere

    threads = {f"FEDPRIV_{kind}_OP_THREADS": "1" for kind in ("INTRA", "INTER")} | {"OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    try:
        found: dict[str, Any] = run_elsewhere(checkout, str(Path(__file__).resolve()), asked)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return found


def table(result: dict[str, Any]) -> str:
    """The result for the terminal."""
    lines = [f"{'CPU seconds':16}{'this code':>11}" + (f"{'over the other':>28}" if result["theirs"] else "")]
    for cost, words in COSTS.items():
        row = result["costs"][cost]
        line = f"{words:16}{row['seconds']:11.4g}"
        if "over_other" in row:
            low, high = row["over_other_range"]
            line += f"{row['over_other']:12.2f} ({low:.2f} to {high:.2f})"
        lines.append(line)
    for name, run in (("this code", result["ours"]), ("the other", result["theirs"])):
        if run is not None:
            lines.append(f"{name}: {run['evaluations']} evaluations, {run['psnr']:.1f} dB")
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
