"""Table: an experiment's results as rows: one an image, one an arm, with intervals over images and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from fedpriv.base.errors import DataError, UnknownNameError
from fedpriv.base.types import Row
from fedpriv.experiment.arm import Arm, CellResult
from fedpriv.experiment.experiment import Cell, Experiment
from fedpriv.experiment.store import Job, Saved, Store, attack_job, training_job
from fedpriv.metrics.disclosed import control_rows

#: Significant digits in `table.csv`: a float32 has nine.
DIGITS = 9

#: Facts that a report says in words.
IN_WORDS = (
    "threat",
    "replayed",
    "held_out",
    "classes",
    "attacked",
    "images_of",
    "data_notes",
    "model_notes",
    "defense_notes",
    "warnings",
    "attack_warnings",
    "bounds",
    "examples",
)


def gather(experiment: Experiment, store: Store) -> list[CellResult]:
    """Every cell of the experiment with what there is of it."""
    read: dict[str, Saved | None] = {}

    def saved(job: Job) -> Saved | None:
        if job.key not in read:
            read[job.key] = store.read(job)
        return read[job.key]

    found = []
    for cell in experiment.cells:
        result = CellResult(cell)
        for job, name in ((_job(training_job, cell, store), "trained"), (_job(attack_job, cell, store), "attacked")):
            if job is None:
                continue
            left = saved(job)
            if left is None:
                result.error = result.error or "not run yet"
            elif left.outcome is None:
                result.error, result.details = result.error or left.error, result.details or left.details
            else:
                setattr(result, name, left.outcome)
                result.code += (left.code,)
        found.append(result)
    return found


def _job(make: Callable[[Cell], Job | None], cell: Cell, store: Store) -> Job | None:
    """A cell's job; where its data are not here, the one that lies in the folder with all else alike."""
    try:
        return make(cell)
    except (DataError, UnknownNameError):
        kind: Literal["train", "attack"] = "train" if make is training_job else "attack"
        found = store.find(kind, cell)
        if found is None and (cell.setting.training.rounds if kind == "train" else cell.setting.attack):
            raise
        return found


def image_rows(results: Sequence[CellResult]) -> list[Row]:
    """One flat row an image (or other unit of the goal); one a cell where nothing is attacked.

    Cells that failed have one with their error, views that an attack does not apply to one with the reason.
    """
    rows = []
    for result in results:
        cell = result.cell
        head: Row = {**cell.labels, "seed": cell.seed}
        facts = {k: v for k, v in result.facts.items() if k not in IN_WORDS}
        if result.error:
            rows.append({**head, "status": result.error})
            continue
        if not result.attacked:
            rows.append({**head, "status": "done", **facts})
        for k, view in enumerate(result.views):
            if view.score is None:
                rows.append({**head, "status": f"does not apply: {view.inapplicable}", "trial": k, **facts})
                continue
            beside = control_rows(cell.setting.made_goal(), view.score, view.control)
            for unit, noise in zip(view.score.rows(), beside, strict=True):
                size = unit.pop("batch")
                own = {**unit, **noise, "batch_images": size, **view.measures}
                rows.append({**head, "status": "done", "trial": k, **own, **facts})
    return rows


def write_tables(results: Sequence[CellResult], arms: Sequence[Arm], store: Store) -> list[Row]:
    """`table.csv`, `table.parquet` (one row an image), `arms.csv` and `arrays.npz`; returns the arms' rows.

    Args:
      results: of all cells.
      arms: made of them.
      store: whose folder they go to.
    """
    import io

    import pandas as pd

    from fedpriv.base.atomic import write_bytes, write_csv

    rows = image_rows(results)
    columns = dict.fromkeys(k for row in rows for k in row)
    rows = [{k: row.get(k) for k in columns} for row in rows]
    write_csv(store.folder / "table.csv", rows, digits=DIGITS)
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        if frame[name].dtype == object:
            kinds = {type(v) for v in frame[name] if v is not None and v == v}
            if len(kinds) > 1 or kinds & {list, dict}:  # Parquet's columns hold one type
                frame[name] = frame[name].map(lambda v: None if v is None else str(v))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(store.folder / "table.parquet", buffer.getvalue())
    made = [arm.row() for arm in arms]
    if made:
        keys = dict.fromkeys(k for row in made for k in row)
        write_csv(store.folder / "arms.csv", [{k: row.get(k) for k in keys} for row in made])
    kept: dict[str, np.ndarray] = {}
    for i, result in enumerate(results):
        if result.attacked:
            kept |= {f"{i}_{name}": array for name, array in result.attacked.arrays.items()}
    if kept:
        packed = io.BytesIO()
        np.savez_compressed(packed, **kept)
        write_bytes(store.folder / "arrays.npz", packed.getvalue())
    return made
