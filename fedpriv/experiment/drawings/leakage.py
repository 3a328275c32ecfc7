"""Leakage: what attacks reconstructed, by attack and defense and along axes of numbers, and what it cost them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.column import Column
from fedpriv.experiment.arm import (
    Arm,
    arm_units,
    attack_name,
    attacked_arms,
    axis_values,
    number_axes,
    short_name,
    varying_axes,
)
from fedpriv.experiment.drawings.drawn import Drawn, part_stem
from fedpriv.threat.goal import interval_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment


def heat_maps(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """The goal's shade by attack and defense, or by the first two axes of words."""
    attacked = [a for a in arms if a.goal is not None and (a.row().get(a.goal.shade) is not None or a.refused)]
    if not attacked_arms(attacked):
        return []
    varying = varying_axes(attacked)
    named = [n for n in varying if any(isinstance(v, str) for v in axis_values(attacked)[n])]
    if len(named) < 2:
        return []
    goal = attacked[0].goal
    assert goal is not None
    rows = "attack" if "attack" in named else named[0]
    columns = next((n for n in ("defense",) if n in named and n != rows), next(n for n in named if n != rows))
    rest = [n for n in varying if n not in (rows, columns)]
    groups: dict[str, list[Arm]] = {}
    for arm in attacked:
        groups.setdefault(short_name(arm, rest) if rest else "", []).append(arm)

    def drawn(part: Sequence[Arm], title: str, column: Column) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.heat_table import heat_table

            values: dict[str, dict[str, float | None]] = {}
            notes: dict[str, dict[str, str]] = {}
            for arm in part:
                r, c, row = str(arm.labels[rows]), str(arm.labels[columns]), arm.row()
                values.setdefault(r, {})[c] = row.get(column.name)
                known = row.get(column.name) is not None
                said = goal.note(row) if known else "does not apply"
                if row.get("alarmed") is not None:
                    said += f"\n{row['alarmed']:.0%} of clients alarm"
                notes.setdefault(r, {})[c] = said
            low, high = goal.shades()
            return heat_table(
                values, label=column.title, notes=notes, show=column.text, low=low, high=high, title=title
            )

        return draw

    several = [goal.column(name) for name in (goal.shade, *goal.shaded_too)]
    made = []
    for column in several:
        stem = "heat_map" if len(several) == 1 else f"heat_map_{column.name.removesuffix('_mean')}"
        of = "" if column is several[0] else f", by {column.label}"
        made += [
            Drawn(
                part_stem(stem, i, len(groups)),
                f"{rows.capitalize()} against {columns}{of}" + (f": {title}" if title else ""),
                f"{column.title}, and {goal.noted}. Lighter is more leaked.",
                f"A table of {rows} by {columns}, shaded by {column.label}.",
                drawn(part, title, column),
            )
            for i, (title, part) in enumerate(groups.items(), 1)
        ]
    return made


def leakage_curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """The goal's curves over every axis of numbers."""
    attacked = attacked_arms(arms)
    goal = attacked[0].goal if attacked else None
    if goal is None:
        return []
    made = []
    for axis, values in number_axes(attacked).items():
        positive = min(values) > 0 and max(values) / min(values) >= 8
        words = axis.replace("_", " ").capitalize()
        for column in map(goal.column, goal.curves):
            interval = interval_name(column.name)

            def draw(
                axis: str = axis,
                column: Column = column,
                interval: str = interval,
                log: bool = positive,
                words: str = words,
                unit: str = goal.unit,
            ) -> Figure:
                from fedpriv.figures.axis_curve import AxisPoint, axis_curve

                series: dict[str, list[Any]] = {}
                others = [n for n in varying_axes(attacked) if n != axis]
                for arm in attacked:
                    row = arm.row()
                    low, high = row.get(interval) or (None, None)
                    name = short_name(arm, others) if others else attack_name(arm)
                    point = AxisPoint(float(arm.labels[axis]), row[column.name], low, high, arm_units(arm))
                    series.setdefault(name, []).append(point)
                for points in series.values():
                    points.sort(key=lambda p: p.x)
                mark = goal.reference(column.name)
                return axis_curve(series, x_label=words, y_label=column.title, log_x=log, reference=mark, counted=unit)

            about = f" {column.description}" if column.description else ""
            few = any(arm.one_batch and arm.row().get(interval) for arm in attacked)
            taken = f" Where there is one batch only, its {goal.unit}s count as independent: the truth is wider."
            made.append(
                Drawn(
                    f"{interval.removesuffix('_interval')}_over_{axis}",
                    f"{column.label} over {axis.replace('_', ' ')}",
                    f"{column.title}.{about} Bars are 95% intervals over {goal.unit}s and seeds.{taken if few else ''}",
                    f"Curves of {column.label} over {axis.replace('_', ' ')}.",
                    draw,
                )
            )
    return made


def costs(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Seconds and gradient evaluations an attack takes: a bar an attack, with the range over its settings."""
    attacked = attacked_arms(arms)
    if not attacked:
        return []
    groups: dict[str, list[Arm]] = {}
    varying = varying_axes(attacked)
    for arm in attacked:
        name = str(arm.labels["attack"]) if "attack" in varying else short_name(arm, varying)
        groups.setdefault(name, []).append(arm)
    over = ""
    if any(len(group) > 1 for group in groups.values()):
        rest = " and ".join(n.replace("_", " ") for n in varying if n != "attack")
        over = f"Bars and numbers are medians over the settings of {rest}; lines show the range over them."

    def draw() -> Figure:
        from fedpriv.figures.cost_bars import CostBar, cost_bars

        bars = []
        for name, group in groups.items():
            rows = [a.row() for a in group]
            seconds, evaluations = ([float(r[f"{k}_median"]) for r in rows] for k in ("seconds", "evaluations"))
            ranges = [(min(v), max(v)) if len(rows) > 1 else None for v in (seconds, evaluations)]
            bars.append(CostBar(name, float(np.median(seconds)), float(np.median(evaluations)), None, *ranges))
        return cost_bars(bars, note=over)

    return [
        Drawn(
            "costs",
            "Cost of attacking",
            "Median wall-clock and gradient evaluations of one trial, without compilation where told apart."
            + (over and f" {over}"),
            "Bars of seconds and gradient evaluations.",
            draw,
        )
    ]
