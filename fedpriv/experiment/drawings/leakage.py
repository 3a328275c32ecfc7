"""Leakage: what attacks reconstructed, by attack and defense and along axes of numbers, and what it cost them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.experiment.arm import (
    Arm,
    attack_name,
    attacked_arms,
    axis_values,
    number_axes,
    short_name,
    varying_axes,
)
from fedpriv.experiment.drawings.drawn import Drawn
from fedpriv.metrics.decibels import decibels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment


def heat_maps(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Median PSNR by attack and defense, or by the first two axes of words."""
    attacked = attacked_arms(arms)
    varying = varying_axes(attacked)
    named = [n for n in varying if any(isinstance(v, str) for v in axis_values(attacked)[n])]
    if len(named) < 2:
        return []
    rows = "attack" if "attack" in named else named[0]
    columns = next((n for n in ("defense",) if n in named and n != rows), next(n for n in named if n != rows))
    rest = [n for n in varying if n not in (rows, columns)]
    groups: dict[str, list[Arm]] = {}
    for arm in attacked:
        groups.setdefault(short_name(arm, rest) if rest else "", []).append(arm)

    def drawn(part: Sequence[Arm], title: str) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.heat_table import heat_table

            values: dict[str, dict[str, float | None]] = {}
            notes: dict[str, dict[str, str]] = {}
            for arm in part:
                r, c, row = str(arm.labels[rows]), str(arm.labels[columns]), arm.row()
                values.setdefault(r, {})[c] = row["psnr_median"]
                notes.setdefault(r, {})[c] = f"{row['reconstructed']} of {row['images']}"
            return heat_table(values, notes=notes, show=decibels, low=5, high=50, title=title)

        return draw

    many = len(groups) > 1
    return [
        Drawn(
            "heat_map" if not many else f"heat_map_{i}",
            f"{rows.capitalize()} against {columns}" + (f": {title}" if title else ""),
            "Median PSNR in dB, and images reconstructed. Lighter is more leaked.",
            f"A table of {rows} by {columns}, shaded by median PSNR.",
            drawn(part, title),
        )
        for i, (title, part) in enumerate(groups.items(), 1)
    ]


def leakage_curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Success and PSNR over every axis of numbers."""
    attacked = attacked_arms(arms)
    threshold = attacked[0].results[0].cell.setting.threshold_db if attacked else 0.0
    made = []
    for axis, values in number_axes(attacked).items():
        positive = min(values) > 0 and max(values) / min(values) >= 8
        words = axis.replace("_", " ").capitalize()
        for what in ("success", "psnr"):

            def draw(axis: str = axis, what: str = what, log: bool = positive, words: str = words) -> Figure:
                from fedpriv.figures.axis_curve import AxisPoint, axis_curve

                series: dict[str, list[Any]] = {}
                others = [n for n in varying_axes(attacked) if n != axis]
                for arm in attacked:
                    row = arm.row()
                    key = "success_rate" if what == "success" else "psnr_mean"
                    low, high = row["success_interval" if what == "success" else "psnr_interval"] or (None, None)
                    name = short_name(arm, others) if others else attack_name(arm)
                    point = AxisPoint(float(arm.labels[axis]), row[key], low, high, row["images"])
                    series.setdefault(name, []).append(point)
                for points in series.values():
                    points.sort(key=lambda p: p.x)
                reference = None if what == "success" else (f"{threshold:g} dB", threshold)
                label = "Success rate" if what == "success" else "Mean PSNR (dB)"
                return axis_curve(series, x_label=words, y_label=label, log_x=log, reference=reference)

            shown = "Images reconstructed" if what == "success" else "Quality of reconstructions"
            interval = "Wilson" if what == "success" else "bootstrap"
            made.append(
                Drawn(
                    f"{what}_over_{axis}",
                    f"{shown} over {axis.replace('_', ' ')}",
                    f"{shown} (PSNR of {threshold:g} dB or better counts); bars are 95% {interval} intervals over "
                    "images and seeds.",
                    f"Curves of {'success rate' if what == 'success' else 'mean PSNR'} over {axis.replace('_', ' ')}.",
                    draw,
                )
            )
    return made


def costs(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Seconds and gradient evaluations an attack takes."""
    attacked = attacked_arms(arms)
    if not attacked:
        return []
    groups: dict[str, list[Arm]] = {}
    varying = varying_axes(attacked)
    for arm in attacked:
        name = str(arm.labels["attack"]) if "attack" in varying else short_name(arm, varying)
        groups.setdefault(name, []).append(arm)

    def draw() -> Figure:
        from fedpriv.figures.cost_bars import CostBar, cost_bars

        bars = []
        for name, group in groups.items():
            rows = [a.row() for a in group]
            seconds = float(np.median([r["seconds_median"] for r in rows]))
            bars.append(CostBar(name, seconds, float(np.median([r["evaluations_median"] for r in rows]))))
        return cost_bars(bars)

    return [
        Drawn(
            "costs",
            "Cost of attacking",
            "Median wall-clock and gradient evaluations of one trial, without compilation where told apart.",
            "Bars of seconds and gradient evaluations.",
            draw,
        )
    ]
