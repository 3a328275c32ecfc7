"""PSNR against gradient evaluations: how fast attacks get where they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import (
    NORMAL,
    QUIET,
    SMALL,
    WIDTH,
    add_axes,
    arm,
    label_ends,
    new_figure,
    styled,
    text_size,
    wrap,
)
from fedpriv.metrics.decibels import capped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.metrics.progress import Progress

_LEFT, _HEIGHT, _POINTS = 0.62, 2.6, 200


def psnr_curve(
    attacks: Mapping[str, Sequence[Progress]], *, threshold_db: float | None = 30.0, title: str = ""
) -> Figure:
    """One line an attack: the median PSNR over images, with a band from the lower to the upper quartile.

    Between records PSNR is interpolated; after its attack has ended an image keeps its final one. A line ends with the
    last of its attacks, and goes on thinly to its name. Exact images are drawn at 100 dB. Evaluations, on a
    logarithmic axis, are those of the start that was kept.

    Args:
      attacks: by name, what `fedpriv.metrics.progress.progress` gives for each finding.
      threshold_db: PSNR that counts as a success, marked; None for no mark.
      title: printed above, if given.

    Raises:
      ParameterError: no attacks, or one without any progress.
    """
    if not attacks:
        raise ParameterError("a curve of PSNR needs at least one attack")
    curves = {name: _quartiles(name, list(ways)) for name, ways in attacks.items()}
    with styled():
        figure = new_figure(WIDTH, 1)
        names = {name: wrap(name, 20) for name in curves}
        mark = [] if threshold_db is None else [f"{threshold_db:g} dB"]
        right = max(text_size(figure, t, SMALL + 0.5)[0] for t in [*names.values(), *mark]) + 0.32
        headline = text_size(figure, title, NORMAL + 1)[1] + 0.14 if title else 0.0
        height = 0.12 + headline + _HEIGHT + 0.5
        figure.set_size_inches(WIDTH, height)
        if title:
            figure.text(0.12 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
        axes = add_axes(figure, _LEFT, 0.12 + headline, WIDTH - _LEFT - right, _HEIGHT)
        ends = []
        first, last = min(c[0][0] for c in curves.values()), max(c[0][-1] for c in curves.values())
        for i, (name, (x, low, middle, high, images)) in enumerate(curves.items()):
            look = arm(i)
            if images > 1:
                axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)
            every = max(1, len(x) // 6)
            # Lines in one place stay apart where their markers do.
            marks = (i * every // max(1, len(curves)), every)
            axes.plot(x, middle, color=look.color, linestyle=look.dashes, marker=look.marker, markevery=marks, zorder=3)
            axes.plot([x[-1], last], [middle[-1]] * 2, color=look.color, linewidth=0.7, linestyle=(0, (1, 2)), zorder=2)
            ends.append((names[name], float(middle[-1]), look.color))
        if threshold_db is not None:
            axes.axhline(threshold_db, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
            ends.append((mark[0], threshold_db, QUIET))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlim(first, last if last > first else first * 10)
        low, high = (f(v for c in curves.values() for v in (*c[1], *c[3])) for f in (min, max))
        top = max(high, threshold_db or high)
        axes.set_ylim(min(0.0, low) if low < 0.3 * top else low - 0.08 * (top - low), top + 0.05 * max(top - low, 1.0))
        axes.set_xlabel("Gradient evaluations (log scale)")
        axes.set_ylabel("PSNR (dB), median and quartiles" if any(c[4] > 1 for c in curves.values()) else "PSNR (dB)")
        label_ends(axes, ends)
    return figure


_Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]


def _quartiles(name: str, ways: Sequence[Progress]) -> _Curve:
    """Evaluations, lower quartile, median and upper quartile of one attack, and its number of images."""
    ways = [w for w in ways if len(w.evaluations)]
    if not ways:
        raise ParameterError(f"attack '{name}' has no progress to draw; keep the path of at least one finding")
    spent = [np.maximum(w.evaluations, 1.0) for w in ways]
    # Where the last attack has made its first record, so that all images are in every quartile.
    first, last = max(s[0] for s in spent), max(s[-1] for s in spent)
    x = np.geomspace(first, last, _POINTS) if last > first else np.array([first])
    x[-1] = last
    columns = []
    for way, own in zip(ways, spent, strict=True):
        values = capped(way.psnr)
        columns.append(np.stack([np.interp(np.log(x), np.log(own), v) for v in values.T], axis=1))
    low, middle, high = np.quantile(np.concatenate(columns, axis=1), [0.25, 0.5, 0.75], axis=1)
    return x, low, middle, high, sum(c.shape[1] for c in columns)
