"""Job costs: what experiments' jobs took, by their features, for the estimates of `fedpriv run`.

Reads the finished cells of `fedpriv run` under results/ and renews `fedpriv/experiment/costs.json`; what was not
measured anew stays as it is.
`python -m experiments.benchmarks.job_costs`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from fedpriv_experiments import script


def costs(folders: list[Path], data_dir: Path | None = None) -> dict[str, list[float]]:
    """Median seconds a trial, or a client's round, by feature, as `fedpriv.experiment.estimate` looks them up.

    Args:
      folders: of experiments' results; those without cells are passed over.
      data_dir: where named datasets find their files, as with `fedpriv run --set data_dir=FOLDER`.

    Raises:
      DataError: an experiment's data are not here.
    """
    from fedpriv.experiment.estimate import Estimator
    from fedpriv.experiment.experiment import load
    from fedpriv.experiment.store import FILE, Job, Store, attack_job, training_job

    estimator = Estimator()
    for folder in folders:
        store = Store(folder)
        if store.empty:
            continue
        jobs: dict[str, Job] = {}
        experiment = load(folder / FILE)
        if data_dir is not None and any(c.setting.data != "fashion_small" for c in experiment.cells):
            experiment = load(folder / FILE, [f"data_dir={data_dir}"])
        for cell in experiment.cells:
            jobs |= {job.key: job for job in (training_job(cell), attack_job(cell)) if job is not None}
        for job in jobs.values():
            saved = store.read(job)
            if saved is not None and saved.outcome is not None:
                estimator.learn(job, saved.outcome.seconds)
    return {feature: [round(float(np.median(rates)), 4)] for feature, rates in sorted(estimator.rates.items())}


def main(
    results: Annotated[Path, typer.Option(help="Folder of experiments' results.")] = Path("results"),
    data_dir: Annotated[Path | None, typer.Option(help="Where named datasets find their files.")] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("fedpriv/experiment/costs.json"),
) -> None:
    """Measures and writes them."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.errors import ExperimentError

    folders = sorted(p.parent for p in results.glob("*/experiment.yaml"))
    if not folders:
        raise ExperimentError(f"'{results}' holds no experiment's results; run one first, or give --results")
    found = costs(folders, data_dir)
    if not found:
        raise ExperimentError(
            f"'{results}' holds tables and figures, but no finished cells to take times from; run an experiment first, "
            "such as `uv run fedpriv run demo`"
        )
    write_json(out, dict(sorted({**known(out), **found}.items())))
    typer.echo(f"{len(found)} features measured anew")


def known(file: Path) -> dict[str, list[float]]:
    """The costs in a file; none where there is no file."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


if __name__ == "__main__":
    script.run(main)
