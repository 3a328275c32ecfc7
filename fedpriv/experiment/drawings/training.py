"""Training: accuracy over rounds, and rounds or accuracy along axes of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedpriv.experiment.arm import (
    Arm,
    attacked_arms,
    axis_values,
    short_name,
    varying_axes,
)
from fedpriv.experiment.drawings.drawn import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment


def trained_curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Where nothing is attacked: rounds to the target, or accuracy, over every axis of numbers."""
    if attacked_arms(arms):
        return []
    goal = arms[0].results[0].cell.setting.training.target_accuracy
    fact, words = ("accuracy", "Test accuracy") if goal is None else ("rounds_to_target", f"Rounds to {goal:.0%}")
    made = []
    for axis, values in axis_values(arms).items():
        if len(values) < 2 or not all(isinstance(v, int | float) for v in values):
            continue
        others = [n for n in varying_axes(arms) if n != axis]
        log = min(values) > 0 and max(values) / min(values) >= 4

        def draw(axis: str = axis, others: list[str] = others, log: bool = log) -> Figure:
            from fedpriv.figures.axis_curve import AxisPoint, axis_curve

            series: dict[str, list[Any]] = {}
            for arm in sorted(arms, key=lambda arm: float(arm.labels[axis])):
                low, high = arm.interval(fact) or (None, None)
                point = AxisPoint(float(arm.labels[axis]), arm.mean(fact), low, high, len(arm.results))
                series.setdefault(short_name(arm, others) if others else "mean", []).append(point)
            seen = {name: points for name, points in series.items() if any(p.y is not None for p in points)}
            return axis_curve(seen, x_label=axis.replace("_", " ").capitalize(), y_label=words, log_x=log)

        if any(a.mean(fact) is not None for a in arms):
            made.append(
                Drawn(
                    f"{fact}_over_{axis}",
                    f"{words} over {axis.replace('_', ' ')}",
                    "Means over seeds with 95% bootstrap intervals; a point that not every seed reached is left out.",
                    f"Curves of {words.lower()} over {axis.replace('_', ' ')}.",
                    draw,
                )
            )
    return made


def training_curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy over rounds of every training that differs."""
    runs: dict[str, list[list[Any]]] = {}
    seen: set[tuple[str, int]] = set()
    varying = varying_axes(arms)
    for arm in arms:
        for result in arm.results:
            if result.trained is None or len(result.trained.rounds) < 2:
                continue
            identity = (str(sorted(result.cell.setting.training_identity().items(), key=str)), result.cell.seed)
            if identity in seen:
                continue
            seen.add(identity)
            runs.setdefault(short_name(arm, varying), []).append(result.trained.rounds)
    usable = {name: r for name, r in runs.items() if any(row.get("accuracy") is not None for run in r for row in run)}
    if not usable:
        return []

    def draw() -> Figure:
        from fedpriv.figures.curves import training_curves

        return training_curves(usable, target=arms[0].results[0].cell.setting.training.target_accuracy)

    return [
        Drawn(
            "training_curves",
            "Training",
            "Test accuracy and loss over communication rounds; bands span the seeds.",
            "Curves of accuracy and loss over rounds.",
            draw,
        )
    ]
