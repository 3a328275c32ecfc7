"""Training: accuracy over rounds, and rounds or accuracy along axes of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fedpriv.experiment.arm import (
    Arm,
    attacked_arms,
    number_axes,
    short_name,
    varying_axes,
)
from fedpriv.experiment.drawings.drawn import Drawn, part_stem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment


#: Most trainings in one figure, where they can be told apart by an axis.
CURVES = 6


def trained_curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Where nothing is attacked: rounds to the target, or accuracy, over every axis of numbers."""
    if attacked_arms(arms):
        return []
    goal = arms[0].results[0].cell.setting.training.target_accuracy
    fact, words = ("accuracy", "Test accuracy") if goal is None else ("rounds_to_target", f"Rounds to {goal:.0%}")
    made = []
    for axis, values in number_axes(arms).items():
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
    """Accuracy and loss over rounds of every training that differs; many of them by the first axis."""
    runs: dict[str, dict[int, list[Any]]] = {}  # by training, by seed
    arms_of: dict[str, list[Arm]] = {}
    for arm in arms:
        for result in arm.results:
            if result.trained is None or len(result.trained.rounds) < 2:
                continue
            if any(row.get("accuracy") is not None for row in result.trained.rounds):
                identity = str(sorted(result.cell.setting.training_identity().items(), key=str))
                runs.setdefault(identity, {})[result.cell.seed] = result.trained.rounds
                arms_of.setdefault(identity, []).append(arm)
    shown = [same[0] for same in arms_of.values()]
    varying = [n for n in varying_axes(shown) if _tells_trainings(n, list(arms_of.values()))]
    if len({short_name(a, varying) for a in shown}) < len(shown):
        varying = list(shown[0].labels)
    split = varying[:1] if len(runs) > CURVES and len(varying) > 1 else []
    parts: dict[str, dict[str, list[list[Any]]]] = {}
    for arm, by_seed in zip(shown, runs.values(), strict=True):
        curves = parts.setdefault(short_name(arm, split) if split else "", {})
        curves[short_name(arm, [n for n in varying if n not in split])] = list(by_seed.values())

    def drawn(
        curves: Mapping[str, Sequence[Any]], over: Literal["rounds", "megabytes"] = "rounds"
    ) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.curves import training_curves

            return training_curves(curves, target=arms[0].results[0].cell.setting.training.target_accuracy, over=over)

        return draw

    topologies = {a.results[0].cell.setting.training.topology for a in shown}
    of_bytes = [
        Drawn(
            part_stem("training_bytes", i, len(parts)),
            f"Training by what is sent{': ' + title if title else ''}",
            "Test accuracy and loss over all that was sent until then: to and from a server, or among peers, where a "
            "message counts once. Where peers have models of their own, means over the peers that were tested, and how "
            "far all lie from their mean (root mean square).",
            "Curves of accuracy and loss over megabytes.",
            drawn(curves, "megabytes"),
        )
        for i, (title, curves) in enumerate(parts.items(), 1)
        if len(topologies) > 1
    ]
    return of_bytes + [
        Drawn(
            part_stem("training_curves", i, len(parts)),
            f"Training{': ' + title if title else ''}",
            "Test accuracy and loss over communication rounds; bands span the seeds.",
            "Curves of accuracy and loss over rounds.",
            drawn(curves),
        )
        for i, (title, curves) in enumerate(parts.items(), 1)
    ]


def _tells_trainings(axis: str, arms_of_each: Sequence[Sequence[Arm]]) -> bool:
    """Whether arms of one training always have one label, as they do not where it tells attacks apart."""
    return all(len({a.labels[axis] for a in same}) == 1 for same in arms_of_each)
