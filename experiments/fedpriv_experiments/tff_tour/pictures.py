"""Pictures of the tour that no other part of fedpriv draws: readings with their mean, bars, and a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.figures.style import QUIET, SMALL, add_axes, arm, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches of a picture, and of what stands left of its axes and below them.
WIDE, TALL, LEFT, BELOW = 5.0, 2.4, 0.8, 0.5


def readings(of_clients: Sequence[np.ndarray], mean: float) -> Figure:
    """A row for each client with its readings, degrees Celsius, and a line at the mean of all."""
    with styled():
        figure, axes = _panel(TALL)
        for row, values in enumerate(of_clients):
            axes.plot(values, np.full(len(values), row), "|", color=arm(0).color, markersize=8)
        axes.axvline(mean, color=arm(1).color, label=f"mean of all: {mean:.1f}")
        axes.set(xlabel="Degrees Celsius", ylabel="Client", yticks=range(len(of_clients)))
        axes.grid(False)
        axes.legend(loc="upper right", frameon=True)
    return figure


def bars(lengths: Mapping[str, float], label: str) -> Figure:
    """A bar for each name, from the top, with its length beside it."""
    with styled():
        figure, axes = _panel(0.6 + 0.35 * len(lengths))
        drawn = axes.barh(list(lengths), list(lengths.values()), color=arm(0).color, height=0.6)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=SMALL + 0.5, color=QUIET)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(lengths.values()))
        axes.set_xlabel(label)
        axes.grid(False)
    return figure


def curve(points: Sequence[tuple[float, float]], across: str, up: str) -> Figure:
    """Points (x, y), joined in the order of x."""
    with styled():
        figure, axes = _panel(TALL)
        look = arm(0)
        axes.plot(*zip(*sorted(points), strict=True), color=look.color, marker=look.marker)
        axes.set(xlabel=across, ylabel=up)
    return figure


def _panel(tall: float) -> tuple[Figure, Axes]:
    figure = new_figure(WIDE, tall)
    return figure, add_axes(figure, LEFT, 0.15, WIDE - LEFT - 0.2, tall - 0.15 - BELOW)
