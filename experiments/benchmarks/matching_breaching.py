"""Matching beside breaching: Inverting Gradients by this project and by a PyTorch framework, step for step.

`breaching` 0.1.2 (Geiping and others, https://github.com/JonasGeiping/breaching) is by an author of the attack
(Geiping, Bauermeister, Dröge, Moeller 2020, arXiv 2003.14053). Both sides get one model with the same weights, one
gradient of one image, its label, and one start, grey with normal noise, and take the same number of steps of signed
Adam on the cosine distance plus total variation, on one thread. Two things differ. Breaching's total variation also
counts what lies outside of the image as black, along the right and the lower rim, which draws these pixels to black and
costs it dB; and it keeps the point after the step from the lowest objective, this project the point before it.
`--no-rim` has it count within the image, as this project does: then both have the same objectives step by step, until
rounding parts them. Both objectives at the start, without total variation, are compared before anything is timed. Ours
and theirs alternate, each in a process of its own; costs are CPU seconds of whole runs over their steps, the first run
(which compiles) apart. Nothing else in this project needs breaching or PyTorch:
`uv venv --python 3.11 FOLDER && uv pip install --python FOLDER breaching==0.1.2 torch==2.13.0`, then
`python -m experiments.benchmarks.matching_breaching --python FOLDER/bin/python`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from experiments.benchmarks.matching import view as view_of

if TYPE_CHECKING:
    from fedpriv.threat.view import View

#: The paper's rate, and this project's weight of total variation, which belongs to pixels in [0, 1].
RATE, WEIGHT = 0.1, 0.05
#: Relative difference of both distances at one start, above which they are not the same problem.
SAME = 1e-3
INSTALL = "`uv venv --python 3.11 FOLDER && uv pip install --python FOLDER breaching==0.1.2 torch==2.13.0`"


def main(
    python: Annotated[Path, typer.Option(help="A Python interpreter that has breaching and PyTorch.")],
    steps: Annotated[int, typer.Option(min=10, help="Steps of both.")] = 100,
    pairs: Annotated[int, typer.Option(min=1, help="Timed pairs.")] = 5,
    model: Annotated[str, typer.Option(help="The model, a plain chain of layers.")] = "convnet(width=32)",
    data: Annotated[str, typer.Option(help="A dataset's name or path; its test images are attacked.")] = "photographs",
    data_dir: Annotated[str | None, typer.Option(help="Where a named dataset finds its files.")] = None,
    image: Annotated[int, typer.Option(min=0, help="Which test image, from 0.")] = 0,
    rim: Annotated[bool, typer.Option(help="Whether breaching's total variation counts the rim, as it does.")] = True,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path(
        "results/benchmarks/matching_breaching.json"
    ),
) -> None:
    """Times both and writes milliseconds of CPU time a step, paired ratios and the PSNR of what both found."""
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.provenance import provenance

    interpreter = checked(python)
    os.environ |= {
        "FEDPRIV_INTRA_OP_THREADS": "1",
        "FEDPRIV_INTER_OP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }  # read when TensorFlow is first used, and by the other interpreter
    seen, truth = view_of(model, data, data_dir, image)
    load_before = os.getloadavg()
    result = compared(interpreter, seen, truth, steps, pairs, rim)
    settings = {"model": model, "data": data, "image": image, "steps": steps, "pairs": pairs, "rim": rim}
    settings |= result["versions"]
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.matching_breaching", *sys.argv[1:]]
    whole = {
        **result,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; one thread each")
    typer.echo(table(result, steps))


def checked(python: Path) -> Path:
    """The whole path of an interpreter, if it is there and has what it is for.

    Raises:
      ParameterError: the interpreter cannot be run, or lacks breaching or PyTorch.
    """
    from fedpriv.base.errors import ParameterError

    found = shutil.which(python)
    if found is None:
        raise ParameterError(f"'{python}' is no Python interpreter; make one by {INSTALL}")
    code = "import importlib.util as u; print(*[n for n in ('breaching', 'torch') if u.find_spec(n) is None])"
    done = subprocess.run([found, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.strip():
        lacks = " and ".join(done.stdout.split()) or "what it takes to run"
        raise ParameterError(
            f"'{python}' lacks {lacks}; make an interpreter that has it by {INSTALL}, and give --python "
            "FOLDER/bin/python"
        )
    return Path(found).absolute()  # links stay as they are: an environment's interpreter is one


def compared(python: Path, seen: View, truth: np.ndarray, steps: int, pairs: int, rim: bool = True) -> dict[str, Any]:
    """CPU milliseconds a step of both, the ratio pair by pair, and what both found.

    Raises:
      ParameterError: the model is no chain of layers, or both distances differ at the start.
      FedprivError: breaching fails.
    """
    from fedpriv.base.errors import ParameterError
    from fedpriv.metrics.image import psnr

    start = np.random.default_rng(0).normal(0.5, 0.25, seen.model.input_shape).astype(np.float32)
    mine = ours(seen, start, steps)
    spent: tuple[list[float], list[float]] = ([], [])
    with theirs(python, seen, start, steps, rim) as (other, versions):
        sides = [(mine, spent[0]), (other, spent[1])]
        ends: dict[int, tuple[np.ndarray, float]] = {}
        for turn in range(pairs + 1):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                side, kept = sides[which]
                cpu, found, first = side()
                kept.append(cpu)
                ends[which] = (found, first)
            if turn == 0:
                distances = [
                    ends[which][1] - WEIGHT * total_variation(start, counted)
                    for which, counted in ((0, False), (1, rim))
                ]
                if abs(distances[0] - distances[1]) > SAME * abs(distances[1]):
                    raise ParameterError(
                        f"at the same start our distance is {distances[0]:.6g} and breaching's {distances[1]:.6g}; "
                        "they must be the same"
                    )
    (ours_first, *ours_next), (theirs_first, *theirs_next) = spent
    ratios = np.array(theirs_next) / np.array(ours_next)
    return {
        "ours_ms": 1e3 * float(np.median(ours_next)) / steps,
        "breaching_ms": 1e3 * float(np.median(theirs_next)) / steps,
        "times_ours": float(np.median(ratios)),
        "ratios": ratios,
        "range": (float(ratios.min()), float(ratios.max())),
        "first_cpu": {"ours": ours_first, "breaching": theirs_first},
        "distance_at_start": distances,
        "ours_psnr": float(psnr(ends[0][0], truth)),
        "breaching_psnr": float(psnr(np.clip(ends[1][0], 0, 1), truth)),
        "versions": versions,
    }


Side = Callable[[], tuple[float, np.ndarray, float]]


def ours(seen: View, start: np.ndarray, steps: int) -> Side:
    """This project's run: CPU seconds, what it found `[height, width, channels]`, and its objective at the start."""
    from fedpriv_attacks.inversion.matching import Restarts, reconstruct

    from fedpriv.base import registry

    attack: Any = registry.attacks.create(
        f"inverting_gradients(optimizer.steps={steps},optimizer.learning_rate={RATE},"
        f"priors.total_variation.weight={WEIGHT},priors.total_variation.opponents=false)"
    )
    label = attack.labels(seen, 0).y

    def run() -> tuple[float, np.ndarray, float]:
        began = time.process_time()
        found = reconstruct(
            seen, attack.recipe(), Restarts(), attack.initializer, label, 0, variables=start.reshape(1, -1)
        )
        cpu = time.process_time() - began
        assert found.x is not None
        assert found.history is not None
        return cpu, found.x[0], float(found.history[0, 1])

    return run


@contextmanager
def theirs(
    python: Path, seen: View, start: np.ndarray, steps: int, rim: bool = True
) -> Iterator[tuple[Side, dict[str, str]]]:
    """Breaching's run in the other interpreter, which lives as long as the context, and the versions it has.

    Raises:
      ParameterError: the model is no chain of layers.
      FedprivError: it fails there.
    """
    from fedpriv.base import registry
    from fedpriv.base.errors import FedprivError, ParameterError

    model = seen.model
    if not model.chain:
        raise ParameterError(f"model '{model.name}' is no plain chain of layers; take 'convnet', 'lenet' or '2nn'")
    label = registry.attacks.create("inverting_gradients").labels(seen, 0).y
    rate = 1.0 if seen.client_rate is None else float(seen.client_rate)
    parts = {"weights": seen.weights, "gradient": -np.asarray(seen.observed) / rate}
    arrays = {
        f"{kind} {name}": a
        for kind, flat in parts.items()
        for name, a in zip(model.spec.names, model.spec.unflatten_numpy(np.asarray(flat)), strict=True)
    }
    said = {
        "chain": [asdict(layer) for layer in model.chain],
        "names": model.spec.names,
        "steps": steps,
        "rate": RATE,
        "weight": WEIGHT,
        "rim": rim,
    }
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        problem, errors = Path(folder) / "problem.npz", Path(folder) / "errors"
        np.savez(problem, said=json.dumps(said), start=start, label=np.asarray(label), **arrays)
        command = [python, "-m", "experiments.benchmarks.breaching_side", str(problem)]
        with (
            errors.open("w") as stderr,
            subprocess.Popen(
                command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            asked, answers = process.stdin, process.stdout

            def answer() -> dict[str, Any]:
                line = answers.readline()
                if not line:
                    process.wait()
                    last = (errors.read_text().strip().splitlines() or ["no message"])[-1]
                    raise FedprivError(f"breaching, run by '{python}', fails: {last}")
                found: dict[str, Any] = json.loads(line)
                return found

            def run() -> tuple[float, np.ndarray, float]:
                asked.write("run\n")
                asked.flush()
                found = answer()
                return found["cpu"], np.load(found["image"]), found["first"]

            try:
                yield run, answer()
            finally:
                asked.close()


def total_variation(x: np.ndarray, rim: bool) -> float:
    """Mean absolute difference of neighbours down plus across in `[height, width, channels]`.

    With `rim`, as breaching has it, the last column and the last row have neighbours of value 0.
    """
    below = ((0, 1), (0, 0), (0, 0)) if rim else ((0, 0),) * 3
    right = ((0, 0), (0, 1), (0, 0)) if rim else ((0, 0),) * 3
    x = x.astype(np.float64)
    down, across = np.diff(np.pad(x, below), axis=0), np.diff(np.pad(x, right), axis=1)
    return float(np.abs(down).mean() + np.abs(across).mean())


def table(result: dict[str, Any], steps: int) -> str:
    """The result for the terminal."""
    low, high = result["range"]
    versions, first = result["versions"], result["first_cpu"]
    each = ", ".join(f"{ratio:.2f}" for ratio in result["ratios"])
    return "\n".join(
        [
            f"breaching {versions['breaching']} on PyTorch {versions['torch']}",
            f"CPU ms a step: ours {result['ours_ms']:.2f}, breaching {result['breaching_ms']:.2f}",
            f"breaching takes {result['times_ours']:.2f} times ours ({low:.2f} to {high:.2f}; by pair {each})",
            f"CPU s of the first run: ours {first['ours']:.2f}, breaching {first['breaching']:.2f}",
            f"after {steps} steps: ours {result['ours_psnr']:.1f} dB, breaching {result['breaching_psnr']:.1f} dB",
        ]
    )


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
