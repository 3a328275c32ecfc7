"""Figure: accuracy by round at the chosen rates, beside rounds by learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.mcmahan.crossing import best_so_far
from experiments.mcmahan.run import Run
from experiments.mcmahan.setting import SETTINGS
from fedpriv.figures.style import NORMAL, QUIET, SMALL, WIDTH, add_axes, arm, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 3.1
#: How far below the target the accuracy axis begins.
_SHOWN = 0.2


def figure(
    sweeps: Mapping[str, Sequence[Run]], repeats: Mapping[str, Sequence[Run]], target: float, *, paper: bool
) -> Figure:
    """Left: best accuracy so far by round; right: rounds to the target by rate (seed 0).

    Args:
      sweeps: by setting, the search's runs.
      repeats: by setting, the chosen rate's runs.
      target: test accuracy, marked.
      paper: whether to mark the paper's numbers.
    """
    with styled():
        made = new_figure(WIDTH, _HEIGHT)
        left = add_axes(made, 0.6, 0.42, 3.45, 2.1)
        right = add_axes(made, 4.75, 0.42, 1.62, 2.1)
        for axes, letter, words in ((left, "a", "At the chosen rate"), (right, "b", "Choosing it (seed 0)")):
            axes.set_title(f"{letter}   {words}", loc="left", fontsize=NORMAL, fontweight="bold", pad=6)
        handles = _curves(left, repeats, target, paper)
        _search(right, sweeps, repeats)
        if handles:
            left.legend(handles=handles, loc="lower right", frameon=False, fontsize=SMALL, handlelength=1.5)
    return made


def _index(name: str) -> int:
    return list(SETTINGS).index(name)


def _curves(axes: Any, repeats: Mapping[str, Sequence[Run]], target: float, paper: bool) -> list[Any]:
    handles, last = [], 1.0
    axes.axhline(target, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    for name, runs in repeats.items():
        look, setting = arm(_index(name)), SETTINGS[name]
        curves = [best_so_far(r.accuracy) for r in runs if r.accuracy]
        if not curves:
            continue
        # Runs end where they reach the target; means are over the rounds that all of them made.
        shortest, longest = min(map(len, curves)), max(map(len, curves))
        table = np.array([c[:shortest] for c in curves])
        rounds = np.arange(1, shortest + 1)
        (line,) = axes.plot(
            rounds, table.mean(axis=0), color=look.color, linestyle=look.dashes, zorder=3, label=_named(setting, runs)
        )
        if len(curves) > 1:
            axes.fill_between(rounds, table.min(axis=0), table.max(axis=0), color=look.color, alpha=0.18, linewidth=0)
        crossings = [r.crossing for r in runs if r.crossing is not None]
        axes.plot(crossings, [target] * len(crossings), look.marker, color=look.color, markersize=4, zorder=4)
        handles.append(line)
        last = max(last, longest)
        if paper:
            last = max(last, setting.paper)
            axes.plot(
                setting.paper, target, look.marker, markersize=7, markerfacecolor="white", markeredgewidth=1.5,
                color=look.color, zorder=4, clip_on=False,
            )  # fmt: skip
            axes.annotate(
                f"paper\n{setting.paper}", (setting.paper, target), xytext=(0, 7), textcoords="offset points",
                ha="center", va="bottom", fontsize=SMALL, color=look.color, annotation_clip=False,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(1, last * 1.15)
    axes.set_ylim(max(0.0, target - _SHOWN), min(1.0, target + 0.17 * _SHOWN))
    axes.set_ylabel("Best test accuracy so far")
    axes.set_xlabel("Communication rounds (log scale)")
    axes.annotate(
        f"{100 * target:.3g}%", (0, target), xytext=(4, 2), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=SMALL, color=QUIET,
    )  # fmt: skip
    return handles


def _named(setting: Any, runs: Sequence[Run]) -> str:
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
    return f"{setting.words}, rate {runs[0].rate:.2g}, {seeds}"


def _search(axes: Any, sweeps: Mapping[str, Sequence[Run]], repeats: Mapping[str, Sequence[Run]]) -> None:
    gave_up = False
    for name, sweep in sweeps.items():
        look = arm(_index(name))
        reached = sorted((r.rate, r.crossing) for r in sweep if r.crossing is not None)
        stopped = sorted((r.rate, r.rounds) for r in sweep if r.crossing is None and r.rounds)
        if reached:
            axes.plot(*zip(*reached), color=look.color, linestyle=look.dashes, marker=look.marker, markersize=4)
        if stopped:
            gave_up = True
            axes.plot(
                *zip(*stopped), look.marker, markersize=4, markerfacecolor="white", color=look.color, linestyle="none"
            )
            for rate, rounds in stopped:
                axes.annotate(
                    "", (rate, rounds), xytext=(0, 13), textcoords="offset points",
                    arrowprops={"arrowstyle": "<-", "color": look.color, "linewidth": 0.9, "shrinkB": 3},
                )  # fmt: skip
        if repeats.get(name) and repeats[name][0].crossing is not None:
            best = repeats[name][0]
            axes.plot(best.rate, best.crossing, "o", markersize=9, markerfacecolor="none", color=look.color)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain(axes.xaxis, [r.rate for s in sweeps.values() for r in s])
    _plain(axes.yaxis, [c for s in sweeps.values() for r in s if (c := r.crossing or r.rounds)])
    axes.margins(x=0.12, y=0.16)
    axes.set_xlabel("Client learning rate (log)" + ("\nopen: given up" if gave_up else ""))
    axes.set_ylabel("Rounds to target (log)")


def _plain(axis: Any, values: Sequence[float]) -> None:
    """A few round numbers as ticks; the logarithmic default labels only powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not values:
        return
    low, high = min(values), max(values)
    steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
    ticks = [t for t in steps if low * 0.85 <= t <= high * 1.2]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
