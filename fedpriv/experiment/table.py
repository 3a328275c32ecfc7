"""Table: an experiment's results as rows: one an image, one an arm, with intervals over images and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedpriv.experiment.experiment import Cell, Experiment
from fedpriv.experiment.store import Saved, Store, attack_job, training_job
from fedpriv.experiment.work import Outcome, score_of
from fedpriv.metrics.score import Score, summarize

#: Resamples of the interval over seeds.
RESAMPLES = 9999


@dataclass
class CellResult:
    """A cell with what it left.

    Attributes:
      cell: the cell.
      trained, attacked: outcomes, where there are any.
      error: why it is not complete, or "".
      details: the failure's traceback.
    """

    cell: Cell
    trained: Outcome | None = None
    attacked: Outcome | None = None
    error: str = ""
    details: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Of the training and the attack."""
        return {**(self.trained.facts if self.trained else {}), **(self.attacked.facts if self.attacked else {})}

    @property
    def scores(self) -> list[Score]:
        """One a trial."""
        return [score_of(s) for s in self.attacked.scores] if self.attacked else []


@dataclass
class Arm:
    """All seeds of one point of the grid.

    Attributes:
      labels: by axis.
      results: one a seed that is complete.
      seeds: how many the experiment has.
    """

    labels: Mapping[str, str | int | float]
    results: list[CellResult] = field(default_factory=list)
    seeds: int = 0

    @property
    def name(self) -> str:
        """Its labels together."""
        return ", ".join(str(v) for v in self.labels.values()) or "the only arm"

    def mean(self, fact: str) -> float | None:
        """Of a fact over seeds; None where a seed lacks it."""
        values = self.values(fact)
        return float(np.mean(values)) if values else None

    def values(self, fact: str) -> list[float]:
        """A fact's value by seed; empty where a seed lacks it."""
        found = [float(v) for v in (r.facts.get(fact) for r in self.results) if v is not None]
        return found if len(found) == len(self.results) else []

    def interval(self, fact: str) -> tuple[float, float] | None:
        """Bootstrap 95% interval of a fact's mean over seeds; None for fewer than three."""
        values = np.asarray(self.values(fact))
        if len(values) < 3:
            return None
        draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        return float(low), float(high)

    def scores(self) -> tuple[list[Score], list[int], list[int]]:
        """All trials' scores, with the seed and the trial of each."""
        scores: list[Score] = []
        runs: list[int] = []
        batches: list[int] = []
        for result in self.results:
            for k, score in enumerate(result.scores):
                scores.append(score)
                runs.append(result.cell.seed)
                batches.append(k)
        return scores, runs, batches

    def row(self) -> dict[str, Any]:
        """One flat row."""
        row: dict[str, Any] = {**self.labels, "seeds": len(self.results)}
        scores, runs, batches = self.scores()
        if scores:
            s = summarize(scores, runs=runs, batches=batches)
            row |= {
                "images": s.images,
                "reconstructed": s.successes,
                "success_rate": s.success_rate,
                "success_interval": s.success_interval,
                "psnr_mean": s.psnr_mean,
                "psnr_interval": s.psnr_interval,
                "psnr_median": s.psnr_median,
                "ssim_mean": s.ssim_mean,
                "label_accuracy": s.label_accuracy,
                "evaluations_median": s.evaluations_median,
                "seconds_median": s.seconds_median,
                "attack_knows_defense": self.results[0].facts.get("adaptive"),
            }
        facts = ("accuracy", "rounds_done", "rounds_to_target", "epsilon_server", "epsilon_released")
        for fact in facts:
            if any(fact in r.facts for r in self.results):
                row[fact] = self.mean(fact)
                if fact in ("accuracy", "rounds_to_target"):
                    row[f"{fact}_interval"] = self.interval(fact)
                if fact == "rounds_to_target":
                    row["reached"] = sum(r.facts.get(fact) is not None for r in self.results)
        if any("bytes_up" in r.facts for r in self.results):
            row["bytes_up"] = self.mean("bytes_up")
        return row


def gather(experiment: Experiment, store: Store) -> list[CellResult]:
    """Every cell of the experiment with what there is of it."""
    read: dict[str, Saved | None] = {}

    def saved(job: Any) -> Saved | None:
        if job.key not in read:
            read[job.key] = store.read(job)
        return read[job.key]

    found = []
    for cell in experiment.cells:
        result = CellResult(cell)
        for job, name in ((training_job(cell), "trained"), (attack_job(cell), "attacked")):
            if job is None:
                continue
            left = saved(job)
            if left is None:
                result.error = result.error or "not run yet"
            elif left.outcome is None:
                result.error, result.details = result.error or left.error, result.details or left.details
            else:
                setattr(result, name, left.outcome)
        found.append(result)
    return found


def arms(experiment: Experiment, results: Sequence[CellResult]) -> list[Arm]:
    """The points of the grid, in order, with their complete cells."""
    made: dict[tuple[Any, ...], Arm] = {}
    for result in results:
        labels = result.cell.labels
        arm = made.setdefault(tuple(labels.values()), Arm(labels))
        arm.seeds += 1
        if not result.error:
            arm.results.append(result)
    return list(made.values())


def image_rows(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """One flat row an image; one a cell where nothing is attacked. Cells that failed have one with their error."""
    rows = []
    for result in results:
        cell = result.cell
        head: dict[str, Any] = {**cell.labels, "seed": cell.seed}
        facts = {k: v for k, v in result.facts.items() if k not in ("threat", "held_out")}
        if result.error:
            rows.append({**head, "status": result.error})
            continue
        if not result.attacked:
            rows.append({**head, "status": "done", **facts})
        for k, score in enumerate(result.scores):
            for image in score.rows():
                size = image.pop("batch")
                rows.append({**head, "status": "done", "trial": k, **image, "batch_images": size, **facts})
    return rows


def write_tables(experiment: Experiment, results: Sequence[CellResult], store: Store) -> list[dict[str, Any]]:
    """`table.csv`, `table.parquet` (one row an image), `arms.csv` and `arrays.npz`; returns the arms' rows."""
    import io

    import pandas as pd

    from fedpriv.atomic import write_bytes, write_csv

    rows = image_rows(results)
    columns = dict.fromkeys(k for row in rows for k in row)
    rows = [{k: row.get(k) for k in columns} for row in rows]
    write_csv(store.folder / "table.csv", rows)
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        if frame[name].dtype == object:
            kinds = {type(v) for v in frame[name] if v is not None and v == v}
            if len(kinds) > 1 or kinds & {list, dict}:  # Parquet's columns hold one type
                frame[name] = frame[name].map(lambda v: None if v is None else str(v))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(store.folder / "table.parquet", buffer.getvalue())
    made = [arm.row() for arm in arms(experiment, results)]
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
