"""Tracking: results of cells to TensorBoard or MLflow as well, for those who look there."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fedpriv.base.errors import ExperimentError, ParameterError, did_you_mean, reason
from fedpriv.base.types import Row
from fedpriv.experiment.arm import worded
from fedpriv.experiment.experiment import Experiment
from fedpriv.experiment.runner import Step


class Tracker(Protocol):
    """Takes finished jobs."""

    def note(self, step: Step) -> None:
        """Takes one."""

    def close(self) -> None:
        """Ends."""


def check_kind(kind: str) -> None:
    """Raises ParameterError if nothing of that name can be logged to."""
    if kind not in (known := ("tensorboard", "mlflow")):
        raise ParameterError(f"--log '{kind}' is unknown.{did_you_mean(kind, known)}")


def tracker(kind: str, experiment: Experiment, folder: Path) -> Tracker:
    """`tensorboard` or `mlflow`.

    Raises:
      ParameterError: another name.
      ExperimentError: the package is not installed.
    """
    check_kind(kind)
    return _MLflow(experiment) if kind == "mlflow" else _TensorBoard(folder / "tensorboard")


def _numbers(step: Step) -> tuple[dict[str, float], list[Row]]:
    """Scalars of a job, and its rounds."""
    assert step.outcome is not None
    found = {
        k: float(v) for k, v in step.outcome.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    if step.outcome.scores:
        goal = worded(step.job.cell.setting.made_goal(), step.outcome)
        assert goal is not None
        scores = [goal.load(s) for s in step.outcome.scores if not s.get("inapplicable")]
        row = goal.summarize(scores) if scores else {}
        found |= {c.name: float(row[c.name]) for c in goal.columns() if row.get(c.name) is not None}
    return found | {"seconds": step.outcome.seconds}, step.outcome.rounds


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, step: Step) -> None:
        """A run a job: its scalars, and those of its rounds."""
        if step.outcome is None:
            return
        from fedpriv.base.lazy import tf

        numbers, rounds = _numbers(step)
        with tf.summary.create_file_writer(str(self.folder / f"{step.job.kind}-{step.job.key}")).as_default():
            tf.summary.text("cell", step.job.cell.describe(), step=0)
            for name, value in numbers.items():
                tf.summary.scalar(name, value, step=0)
            for row in rounds:
                for name in ("loss", "test_loss", "accuracy", "epsilon"):
                    if row.get(name) is not None:
                        tf.summary.scalar(f"training/{name}", row[name], step=row["round"])

    def close(self) -> None:
        """Nothing stays open."""


class _MLflow:
    def __init__(self, experiment: Experiment) -> None:
        try:
            import mlflow
        except ImportError as e:
            raise ExperimentError("--log mlflow needs the package mlflow; install it, or use --log tensorboard") from e
        self.mlflow = mlflow
        try:
            mlflow.set_experiment(experiment.name)
        except Exception as e:  # of its server, its database, or a package that it lacks
            raise ExperimentError(
                f"--log mlflow: MLflow cannot take experiment '{experiment.name}': {type(e).__name__}: {reason(e)}; "
                "set MLFLOW_TRACKING_URI, such as to file:mlruns, or use --log tensorboard"
            ) from e

    def note(self, step: Step) -> None:
        """A run a job."""
        if step.outcome is None:
            return
        numbers, rounds = _numbers(step)
        with self.mlflow.start_run(run_name=f"{step.job.kind} {step.job.cell.describe()}"):
            self.mlflow.log_params({**step.job.cell.labels, "seed": step.job.cell.seed})
            self.mlflow.log_metrics(numbers)
            for row in rounds:
                shown = {k: row[k] for k in ("loss", "test_loss", "accuracy", "epsilon") if row.get(k) is not None}
                self.mlflow.log_metrics({f"training_{k}": v for k, v in shown.items()}, step=row["round"])

    def close(self) -> None:
        """Nothing stays open."""
