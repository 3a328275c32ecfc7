"""Axis curve: one measure along one setting, such as PSNR over the cohort's size, one line an arm."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.figures.labels import log_ticks, plain, thin_ticks, to_points
from fedpriv.figures.style import (
    NORMAL,
    QUIET,
    SMALL,
    WIDTH,
    Arm,
    add_axes,
    arm,
    label_ends,
    new_figure,
    styled,
    text_size,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _HEIGHT, _NARROWEST = 0.66, 2.6, 2.6
#: Up to so many settings are ticks with error bars; more are an ordinary axis with bands.
_SINGLE = 12
_RATE = re.compile(r"\b(success\w*|rates?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class AxisPoint:
    """One setting, measured.

    Attributes:
      x: the setting, such as the number of clients.
      y: the measure, or None (or not-a-number) if it was not measured: the line has a gap there.
      low, high: its 95% interval, if known; both or neither.
      trials: how many trials it is from, if known.
    """

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    trials: int | None = None


def axis_curve(
    series: Mapping[str, Sequence[AxisPoint]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    reference: tuple[str, float] | None = None,
    title: str = "",
    counted: str = "trial",
) -> Figure:
    """One line an arm with its 95% intervals, each named at the end of its line.

    Up to twelve settings are the ticks of the axis, with error bars; arms stand a little beside each other there, so
    that no bar hides another. With more settings intervals are bands. An arm that ends early goes on as a dotted line
    to its name. Success rates have an axis from 0 to 100%: if the label has the word "rate" or "success" and all
    numbers are in [0, 1].

    Args:
      series: by arm, its points in any order.
      x_label: what the settings are, with their unit.
      y_label: what is measured, with its unit.
      log_x: whether the settings' axis is logarithmic.
      log_y: whether the measure's axis is; measures must then be above 0.
      reference: (name, value) of a line to mark, such as `("30 dB", 30.0)`.
      title: printed above, if given.
      counted: what `AxisPoint.trials` counts, such as "image".

    Raises:
      ParameterError: no arms, an arm without a measured point or with two at one setting, half an interval, a number
        that is not finite, or a setting or measure that has no place on a logarithmic axis.
    """
    if not series:
        raise ParameterError("an axis curve needs at least one arm")
    arms = {name: _checked(name, points, log_x) for name, points in series.items()}
    if reference is not None and not math.isfinite(reference[1]):
        raise ParameterError(f"reference '{reference[0]}' is at {reference[1]}; give a finite value, or None")
    settings = sorted({p.x for points in arms.values() for p in points})
    single = len(settings) <= _SINGLE
    values = [v for points in arms.values() for p in points for v in (p.y, p.low, p.high) if v is not None]
    values += [reference[1]] if reference else []
    if log_y and min(values) <= 0:
        raise ParameterError(f"a measure of {min(values):g} has no place on a logarithmic axis; use log_y=False")
    percent = _RATE.search(y_label) is not None and all(0 <= v <= 1 for v in values) and not log_y
    with styled():
        figure = new_figure(WIDTH, 1)
        names = {name: wrap(name, 22) for name in arms}
        texts = [*names.values(), *([wrap(reference[0], 22)] if reference else [])]
        sizes = [text_size(figure, t, SMALL + 0.5) for t in texts]
        right = max(w for w, _ in sizes) + 0.32
        tall = max(_HEIGHT, sum(h + 0.05 for _, h in sizes))
        upright = wrap(y_label + (" (log scale)" if log_y else ""), int(tall * 13))
        left = _LEFT + 0.15 * upright.count("\n")
        width = max(WIDTH, left + _NARROWEST + right)
        head = wrap(title, int(width * 11.5))
        headline = text_size(figure, head, NORMAL + 1, fontweight="bold")[1] + 0.14 if title else 0.0
        across = width - left - right
        words = wrap(x_label + (" (log scale)" if log_x else ""), int(across * 13))
        note = wrap(_note(arms, single, counted), int((width - left) * 15))
        below = 0.28 + text_size(figure, words, NORMAL)[1] + 0.08
        noted = text_size(figure, note, SMALL)[1] + 0.1 if note else 0.0
        height = 0.12 + headline + tall + below + noted
        figure.set_size_inches(width, height)
        if title:
            figure.text(0.12 / width, 1 - 0.1 / height, head, va="top", fontsize=NORMAL + 1, fontweight="bold")
        if note:
            figure.text(left / width, 0.06 / height, note, va="bottom", fontsize=SMALL, color=QUIET)
        axes = add_axes(figure, left, 0.12 + headline, across, tall)
        axes.set_xlabel(words)
        axes.set_ylabel(upright)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        _limits(axes, settings, values, log_x, percent, across)
        _ticks(axes, settings, log_x)
        ends = []
        steps = _steps(axes, settings, len(arms)) if single else [0.0] * len(arms)
        for i, (name, points) in enumerate(arms.items()):
            _draw(axes, points, arm(i), steps[i], single)
            measured = [p.y for p in points if p.y is not None]
            ends.append((names[name], measured[-1], arm(i).color))
        if reference is not None:
            axes.axhline(reference[1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            ends.append((texts[-1], reference[1], QUIET))
        label_ends(axes, ends)
    return figure


def _checked(name: str, points: Sequence[AxisPoint], log_x: bool) -> list[AxisPoint]:
    """The points in the order of their settings; those that were not measured have y None."""
    found = []
    for p in points:
        where = f"point x={p.x} of '{name}'"
        if not math.isfinite(p.x):
            raise ParameterError(f"{where} has no place on the axis; give a finite setting, or leave it out")
        if log_x and p.x <= 0:
            raise ParameterError(f"{where} has no place on a logarithmic axis; leave it out or use log_x=False")
        y, low, high = (None if v is None or math.isnan(v) else float(v) for v in (p.y, p.low, p.high))
        if any(v is not None and math.isinf(v) for v in (y, low, high)):
            raise ParameterError(f"{where} is infinite; cap it (an exact image's PSNR at 100 dB), or give None")
        if (low is None) != (high is None):
            raise ParameterError(f"{where} has half an interval; give both low and high, or neither")
        if low is not None and high is not None and low > high:
            raise ParameterError(f"{where} has an interval from {low} down to {high}; swap low and high")
        found.append(
            AxisPoint(float(p.x), y, low if y is not None else None, high if y is not None else None, p.trials)
        )
    found.sort(key=lambda p: p.x)
    if all(p.y is None for p in found):
        raise ParameterError(f"arm '{name}' has no measured point to draw; leave it out")
    for a, b in itertools.pairwise(found):
        if a.x == b.x:
            raise ParameterError(f"arm '{name}' has two points at x={a.x:g}; give their mean, or name two arms")
    return found


def _note(arms: Mapping[str, Sequence[AxisPoint]], single: bool, counted: str) -> str:
    measured = [p for points in arms.values() for p in points if p.y is not None]
    said = [f"{'Bars' if single else 'Bands'}: 95% intervals."] if any(p.low is not None for p in measured) else []
    trials = [p.trials for p in measured if p.trials is not None]
    if trials:
        few, many = min(trials), max(trials)
        number = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        said.append(f"{number} {counted}{'' if many == 1 else 's'} a point.")
    return " ".join(said)


def _limits(
    axes: Axes, settings: Sequence[float], values: Sequence[float], log_x: bool, percent: bool, across: float
) -> None:
    from matplotlib.ticker import PercentFormatter

    # Room at both sides for half of what stands at the first and the last setting.
    share = 0.2 / across
    ends = [math.log10(v) if log_x else v for v in (settings[0], settings[-1])]
    span = ends[1] - ends[0]
    air = span * share / (1 - 2 * share) if span else 0.5 if log_x else max(0.5, abs(ends[0]) / 2)
    limits = [ends[0] - air, ends[1] + air]
    axes.set_xlim(*(10.0**v if log_x else v for v in limits))
    if percent:
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        return
    low, high = min(values), max(values)
    if axes.get_yscale() == "log":
        air = (high / low) ** 0.06 if high > low else 2.0
        axes.set_ylim(low / air, high * air)
        ticks = log_ticks(*axes.get_ylim())
        axes.set_yticks(ticks, [plain(y) for y in ticks])
        axes.set_yticks([], minor=True)
        return
    # Where zero is near it is the foot, a little above the edge so that markers at zero are whole.
    foot = min(0.0, low) if low < 0.3 * high else low
    air = max(0.06 * (high - foot), 0.02 * max(abs(low), abs(high)), 1e-9)
    axes.set_ylim(foot - air, high + air)


def _ticks(axes: Axes, settings: Sequence[float], log_x: bool) -> None:
    if len(settings) <= _SINGLE:
        thin_ticks(axes, settings, [plain(x) for x in settings])
    elif log_x:
        ticks = log_ticks(*axes.get_xlim())
        thin_ticks(axes, ticks, [plain(x) for x in ticks])
    else:
        axes.xaxis.set_major_formatter(lambda x, _: plain(x))


def _steps(axes: Axes, settings: Sequence[float], arms: int) -> list[float]:
    """How far beside a setting each arm stands, in points: none so far that it could be of the next setting."""
    places = [to_points(axes, x, 0)[0] for x in settings]
    closest = min((b - a for a, b in itertools.pairwise(places)), default=math.inf)
    step = min(4.0, 22.0 / arms, 0.5 * closest / arms)
    return [(i - (arms - 1) / 2) * step for i in range(arms)]


def _draw(axes: Axes, points: Sequence[AxisPoint], look: Arm, step: float, single: bool) -> None:
    from matplotlib.transforms import ScaledTranslation

    beside: Any = axes.transData + ScaledTranslation(step / 72, 0, axes.figure.dpi_scale_trans)
    x = np.array([p.x for p in points])
    y, low, high = (
        np.array([math.nan if v is None else v for v in (getattr(p, key) for p in points)])
        for key in ("y", "low", "high")
    )
    axes.plot(
        x,
        y,
        color=look.color,
        linestyle=look.dashes,
        marker=look.marker if len(x) <= 40 else None,
        linewidth=1.4,
        transform=beside,
        zorder=3,
    )
    known = np.isfinite(low)
    if single and known.any():
        # Around the interval's own middle: a mean may lie outside of it.
        middle, half = (low + high)[known] / 2, (high - low)[known] / 2
        axes.errorbar(
            x[known], middle, half, color=look.color, fmt="none", linewidth=1, capsize=2.5, transform=beside, zorder=2
        )
    elif known.any():
        axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)
    last = np.flatnonzero(np.isfinite(y))[-1]
    axes.plot(
        [x[last], axes.get_xlim()[1]],
        [y[last]] * 2,
        color=look.color,
        linewidth=0.7,
        linestyle=(0, (1, 2)),
        zorder=1.5,
        gid="to the name",
    )
