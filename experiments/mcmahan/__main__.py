"""`python -m experiments.mcmahan`: tunes the learning rate, repeats the best over seeds, writes table and figure.

Stop it at any time; the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.mcmahan.setting import SETTINGS, Setting
from fedpriv.errors import FedprivError, ParameterError

#: With --quick: the embedded data, a target within reach in seconds, and one seed.
QUICK_TARGET, QUICK_CAP = 0.7, 120


def main(
    data: Annotated[str, typer.Option(help="A dataset's name or a path.")] = "mnist",
    data_dir: Annotated[str | None, typer.Option(help="Where a named dataset finds its files.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for table, figure, runs and README.")] = Path("results/mcmahan"),
    setting: Annotated[str, typer.Option(help="iid, shards or both.")] = "both",
    target: Annotated[float, typer.Option(help="Test accuracy to reach.")] = 0.97,
    rates: Annotated[str, typer.Option(help="Learning rates, comma-separated, instead of the search.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for the chosen rate; the search uses seed 0.")] = 3,
    max_rounds: Annotated[int | None, typer.Option(min=1, help="Give a run up after this many rounds.")] = None,
    quick: Annotated[bool, typer.Option(help="Embedded Fashion-MNIST, a lower target, one seed: a minute.")] = False,
) -> None:
    """Rounds to a target accuracy, IID and in two-class shards, beside the paper's numbers."""
    try:
        chosen = _settings(setting)
        listed = _rates(rates)
        if quick:
            data, data_dir, target, seeds = "fashion_small", None, QUICK_TARGET, 1
            max_rounds = max_rounds or QUICK_CAP
        if not 0 < target < 1:
            raise ParameterError(f"target={target:g}: expected a test accuracy between 0 and 1, such as 0.97")
        if not _study(data, data_dir, out, chosen, target, listed, seeds, max_rounds):
            raise typer.Exit(130)
    except FedprivError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2) from None


def _settings(text: str) -> list[Setting]:
    if text == "both":
        return list(SETTINGS.values())
    if text not in SETTINGS:
        raise ParameterError(f"setting={text}: expected iid, shards or both")
    return [SETTINGS[text]]


def _rates(text: str) -> list[float]:
    try:
        rates = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise ParameterError(f"rates={text}: expected numbers, comma-separated, such as 0.05,0.1") from None
    if any(not 0 < rate < float("inf") for rate in rates):
        raise ParameterError(f"rates={text}: every learning rate must be positive and finite")
    return rates


def _study(
    data: str,
    data_dir: str | None,
    out: Path,
    settings: list[Setting],
    target: float,
    rates: list[float],
    seeds: int,
    max_rounds: int | None,
) -> bool:
    """Whether everything was done; False after Ctrl-C, when what there is was reported."""
    from experiments.mcmahan.report import report
    from experiments.mcmahan.run import Run, Store
    from experiments.mcmahan.search import better, patience, search
    from experiments.mcmahan.setting import Scale
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model

    train, test = load_data(data, data_dir=data_dir)
    if test is None:
        raise ParameterError(f"data={data} has no test set; rounds to a test accuracy need one")
    model = load_model("2nn", input_shape=train.input_shape, num_classes=train.num_classes)
    scale = Scale(train, test, model, target)
    store = Store(out / "runs", scale)
    sweeps: dict[str, list[Run]] = {}
    repeats: dict[str, list[Run]] = {}

    def make(setting: Setting, rate: float, seed: int, cap: int) -> Run:
        began = time.perf_counter()

        def progress(record: Any) -> None:
            if sys.stderr.isatty() or (record.round + 1) % 100 == 0:
                end = "\r" if sys.stderr.isatty() else "\n"
                typer.echo(f"  round {record.round + 1}: {record.accuracy:.4f}{end}", nl=False, err=True)

        run = store.get(setting, rate, seed, cap, progress)
        outcome = f"{run.crossing:.1f} rounds" if run.crossing is not None else f"{run.status} after {run.rounds}"
        typer.echo(
            f"{setting.name}: rate {rate:g}, seed {seed}: {outcome} ({time.perf_counter() - began:.0f} s)", err=True
        )
        return run

    done = True
    try:
        for setting in settings:
            cap = max_rounds or setting.cap
            sweep = sweeps.setdefault(setting.name, [])

            def visit(rate: float, allowed: int, setting: Setting = setting, sweep: list[Run] = sweep) -> Run:
                sweep.append(make(setting, rate, 0, allowed))
                return sweep[-1]

            if rates:
                best: Run | None = None
                for rate in rates:
                    run = visit(rate, patience(best, cap))
                    best = run if best is None or better(run, best) else best
            else:
                search(visit, cap)
            best = sweep[0]
            for run in sweep:
                best = run if better(run, best) else best
            repeated = repeats.setdefault(setting.name, [best])
            for seed in range(1, seeds):
                repeated.append(make(setting, best.rate, seed, cap))
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command goes on from here.", err=True)
        done = False
    if any(sweeps.values()):
        typer.echo(report(out, scale, sweeps, repeats, sys.argv[1:], complete=done))
    return done


if __name__ == "__main__":
    typer.run(main)
