"""Figures of the page: shares of two salaries, and what two runs tell of a newcomer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedpriv.figures.style import QUIET, SMALL, WIDTH, add_axes, arm, new_figure, styled
from fedpriv_experiments.private_salaries.lessons import HIGH, LOW, Histograms, Noised

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _TALL = 0.75, 2.1


def shares_figure(found: Histograms) -> Figure:
    """How often the share that one person sends takes each value, for a low and for a high salary."""
    with styled():
        figure, axes = _panel()
        for i, (values, salary) in enumerate(((found.low, LOW), (found.high, HIGH))):
            counts, edges = np.histogram(values, 50, (0, 1))
            look = arm(i)
            axes.stairs(counts, edges, color=look.color, linestyle=look.dashes, linewidth=1.6)
            axes.plot([], [], color=look.color, linestyle=look.dashes, label=f"salary {salary:,}")
        axes.axhline(len(found.low) / 50, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), label="equally often")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.6 * len(found.low) / 50)
        axes.set_xlabel("Share, as a fraction of the modulus")
        axes.set_ylabel("How often")
        axes.legend(loc="upper center", ncols=3, frameon=False)
    return figure


def newcomer_figure(found: Noised, salary: int) -> Figure:
    """Guesses at the newcomer's salary from two noisy sums, and from two exact ones."""
    with styled():
        figure, axes = _panel()
        counts, edges = np.histogram(found.guesses / 1000, 60)
        look = arm(0)
        axes.stairs(counts, edges, color=look.color, fill=True, alpha=0.5, label="from two sums with noise")
        line = arm(1)
        axes.axvline(
            salary / 1000, ymax=0.8, color=line.color, linewidth=2, label=f"from two exact sums: {salary:,}, each time"
        )
        axes.set_ylim(0, 1.35 * counts.max())
        axes.set_xlabel("Newcomer's salary as guessed from the difference (thousands)")
        axes.set_ylabel("How often")
        axes.legend(loc="upper center", ncols=2, frameon=False)
    return figure


def _panel() -> tuple[Figure, Axes]:
    figure = new_figure(WIDTH, _TALL + 0.7)
    axes = add_axes(figure, _LEFT, 0.15, WIDTH - _LEFT - 0.2, _TALL)
    axes.tick_params(labelsize=SMALL + 0.5)
    return figure, axes
