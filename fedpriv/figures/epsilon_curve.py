"""Epsilon as training goes: how privacy is spent, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEFT, _HEIGHT = 0.62, 2.6


def epsilon_curve(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    *,
    budget: float | None = None,
    unit: str = "rounds",
    title: str = "",
) -> Figure:
    """One line an account: epsilon after each number of rounds.

    Args:
      curves: by name, (rounds, epsilons), both ascending.
      budget: an epsilon to mark, or None.
      unit: of the horizontal axis.
      title: printed above, if given.

    Raises:
      ParameterError: no curves, or an empty one.
    """
    if not curves or not all(len(rounds) for rounds, _ in curves.values()):
        raise ParameterError("a curve of epsilon needs at least one account with at least one number of rounds")
    with styled():
        figure = new_figure(WIDTH, 1)
        names = {name: wrap(name, 22) for name in curves}
        mark = [] if budget is None else [f"budget {budget:g}"]
        right = max(text_size(figure, t, SMALL + 0.5)[0] for t in [*names.values(), *mark]) + 0.32
        headline = text_size(figure, title, NORMAL + 1)[1] + 0.14 if title else 0.0
        height = 0.12 + headline + _HEIGHT + 0.5
        figure.set_size_inches(WIDTH, height)
        if title:
            figure.text(0.12 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
        axes = add_axes(figure, _LEFT, 0.12 + headline, WIDTH - _LEFT - right, _HEIGHT)
        ends = []
        for i, (name, (rounds, epsilons)) in enumerate(curves.items()):
            look = arm(i)
            every = max(1, len(rounds) // 6)
            axes.plot(
                rounds, epsilons, color=look.color, linestyle=look.dashes, marker=look.marker, markevery=every, zorder=3
            )
            ends.append((names[name], float(epsilons[-1]), look.color))
        if budget is not None:
            axes.axhline(budget, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
            ends.append((mark[0], budget, QUIET))
        last = max(rounds[-1] for rounds, _ in curves.values())
        top = max([*(max(epsilons) for _, epsilons in curves.values()), budget or 0.0])
        axes.set_xlim(0, max(last, 1))
        axes.set_ylim(0, 1.06 * top if top > 0 else 1.0)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(unit.capitalize())
        axes.set_ylabel("Epsilon")
        label_ends(axes, ends)
    return figure
