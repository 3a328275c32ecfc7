"""ROC curves on logarithmic axes: true positives where false ones are few, which an area does not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import NORMAL, QUIET, SMALL, WIDTH, add_axes, arm, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.metrics.roc import Ranking

_SIDE, _LEFT = 3.4, 0.72


def roc_curves(series: Mapping[str, Ranking], *, title: str = "") -> Figure:
    """True against false positive rate, both logarithmic, with the area of each in the key.

    Carlini, Chien, Nasr, Song, Terzis, Tramèr, 2022, arXiv 2112.03570: an attack matters if it is sure of some, and a
    linear axis hides where it is. Guessing is the dashed line. A curve begins at the first rates that so many answers
    can show.

    Args:
      series: answers by name.
      title: printed above, if given.

    Raises:
      ParameterError: no series, or one with answers of one kind only.
    """
    if not series:
        raise ParameterError("ROC curves need at least one series")
    finest = min(1 / max(int((~r.truth).sum()), int(r.truth.sum()), 1) for r in series.values())
    low = 10.0 ** np.floor(np.log10(min(finest, 0.1)))
    with styled():
        figure = new_figure(WIDTH, 1)
        heads = wrap(title, 70)
        top = 0.12 + (text_size(figure, heads, NORMAL + 1, fontweight="bold")[1] + 0.14 if title else 0.0)
        height = top + _SIDE + 0.55
        figure.set_size_inches(WIDTH, height)
        if title:
            figure.text(0.12 / WIDTH, 1 - 0.1 / height, heads, va="top", fontsize=NORMAL + 1, fontweight="bold")
        axes = add_axes(figure, _LEFT, top, _SIDE, _SIDE, xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1))
        axes.set_xlabel("False positive rate")
        axes.set_ylabel("True positive rate\n← more private")
        axes.plot([low, 1], [low, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), label="guessing")
        for i, (name, ranked) in enumerate(series.items()):
            false, true = ranked.curve()
            area, (least, most) = ranked.auc()
            look = arm(i)
            axes.plot(
                np.maximum(false, low),
                np.maximum(true, low),
                color=look.color,
                linestyle=look.dashes,
                drawstyle="steps-post",
                label=wrap(f"{name}\nAUC {area:.2f} ({least:.2f} to {most:.2f})", 34),
            )
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1), frameon=False, fontsize=SMALL + 0.5, borderaxespad=0)
    return figure
