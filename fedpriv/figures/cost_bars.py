"""Cost bars: what each attack or defense takes, in time, gradient evaluations and bytes sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import ParameterError
from fedpriv.figures.labels import thin_ticks
from fedpriv.figures.style import NORMAL, QUIET, SMALL, WIDTH, add_axes, arm, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN, _ROW, _BETWEEN, _NARROWEST = 0.12, 0.3, 0.32, 1.3
#: From a bar's end to its number, inches.
_AIR = 0.05
#: A quantity whose greatest value is more than this many times its least is drawn on a logarithmic axis.
_WIDE = 50.0

_TIMES = (
    *(10.0**k for k in range(-6, 1)),
    *(10.0, 60.0, 600.0, 3600.0, 36e3, 864e3, 864e4, 864e5, 864e6),
)


@dataclass(frozen=True)
class CostBar:
    """What one method takes.

    Attributes:
      name: of the method.
      seconds: wall-clock time; not-a-number if it was not measured.
      evaluations: gradient evaluations, or None if they were not counted.
      bytes_up: bytes that a client sends, or None if they were not counted.
      seconds_range, evaluations_range: least and greatest, where the value is the middle of several.
    """

    name: str
    seconds: float
    evaluations: float | None = None
    bytes_up: float | None = None
    seconds_range: tuple[float, float] | None = None
    evaluations_range: tuple[float, float] | None = None


def cost_bars(rows: Sequence[CostBar], *, title: str = "", note: str = "") -> Figure:
    """Horizontal bars, a row a method and a panel a quantity that was measured for at least one.

    Each bar's value stands behind it; a dash says that it was not measured. A thin line over a bar is its range. A
    panel whose values differ by more than 50 times has a logarithmic axis and says so. A kB is 1000 bytes.

    Args:
      rows: the methods, from the top.
      title: printed above, if given.
      note: printed small below, if given, such as what the bars are medians of.

    Raises:
      ParameterError: no rows, nothing measured, a value that is negative or infinite, or one outside its range.
    """
    if not rows:
        raise ParameterError("cost bars need at least one row")
    quantities = (
        ("Time", "seconds", written_time),
        ("Gradient evaluations", "evaluations", written_count),
        ("Bytes sent", "bytes_up", written_bytes),
    )
    panels = []
    for label, key, show in quantities:
        values = [_checked(row, key) for row in rows]
        if any(v is not None for v in values):
            panels.append((label, key, show, values, [_range(row, key) for row in rows]))
    if not panels:
        raise ParameterError("cost bars need a value; none of the rows was measured")
    with styled():
        figure = new_figure(WIDTH, 1)
        names = [wrap(row.name, 24) for row in rows]
        sizes = [text_size(figure, n, NORMAL) for n in names]
        left = _MARGIN + max(w for w, _ in sizes) + 0.1
        room = WIDTH - left - _MARGIN - _BETWEEN * (len(panels) - 1)
        heads = [text_size(figure, label, NORMAL)[0] for label, *_ in panels]
        across = max(room / len(panels), _NARROWEST, *heads)
        width = left + across * len(panels) + _BETWEEN * (len(panels) - 1) + _MARGIN
        head = wrap(title, int(width * 11.5))
        headline = text_size(figure, head, NORMAL + 1, fontweight="bold")[1] + 0.14 if title else 0.0
        row = max(_ROW, max(h for _, h in sizes) + 0.08)
        top = 0.1 + headline + 0.36
        tall = row * len(rows)
        remark = wrap(note, int(width * 16))
        height = top + tall + 0.32 + (text_size(figure, remark, SMALL)[1] + 0.08 if note else 0.0)
        figure.set_size_inches(width, height)
        if title:
            figure.text(_MARGIN / width, 1 - 0.1 / height, head, va="top", fontsize=NORMAL + 1, fontweight="bold")
        if note:
            figure.text(_MARGIN / width, 0.08 / height, remark, va="bottom", fontsize=SMALL, color=QUIET)
        for i, (label, key, show, values, ranges) in enumerate(panels):
            axes = add_axes(figure, left + i * (across + _BETWEEN), top, across, tall, gid=key)
            log = _panel(axes, values, ranges, show, across, 0.62 * _ROW / row)
            axes.text(0, 1 + 0.19 / tall, label, transform=axes.transAxes, va="bottom", fontsize=NORMAL)
            if log:
                words: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", "fontsize": SMALL, "color": QUIET}
                axes.text(0, 1 + 0.05 / tall, "log scale", **words)
            axes.set_yticks(range(len(rows)), names if i == 0 else [""] * len(rows))
            axes.tick_params(axis="y", length=0, labelsize=NORMAL, labelcolor="black")
            thin_ticks(axes, *_ticks(axes, key, show, log, across))
    return figure


def written_time(seconds: float) -> str:
    """A duration to three digits, from nanoseconds to days: "350 ms", "12.3 s", "4.5 min"."""
    units = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))
    return _with_unit(seconds, units, "0 s")


def written_count(number: float) -> str:
    """A number to three digits: "850", "12.3k", "4.5M"."""
    return _with_unit(number, ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")), "0")


def written_bytes(number: float) -> str:
    """Bytes to three digits: "850 B", "12.3 kB", "4.5 MB"."""
    return _with_unit(number, ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")), "0 B")


def _with_unit(value: float, units: Sequence[tuple[float, str]], nothing: str) -> str:
    if not value:
        return nothing
    # What rounds to the next unit is written in it: 60 s is 1 min, not 60 s.
    rounded = float(f"{value:.3g}")
    size, unit = next((u for u in reversed(units) if rounded >= u[0]), units[0])
    digits = f"{_rounded(max(value, min(rounded, size)) / size):,.6g}"
    return f"{digits} {unit}" if len(unit) > 1 or unit in ("s", "h", "d", "B") else f"{digits}{unit}"


def _rounded(value: float) -> float:
    """The value to three digits; before the point all of them are kept."""
    return float(f"{value:.3g}") if value < 1000 else float(round(value))


def _checked(row: CostBar, key: str) -> float | None:
    value = getattr(row, key)
    if value is None or math.isnan(value):
        return None
    if not 0 <= value < math.inf:
        raise ParameterError(
            f"{key}={value} of '{row.name}' must be finite and not negative; give "
            + ("nan" if key == "seconds" else "None")
            + " if it was not measured"
        )
    return float(value)


def _range(row: CostBar, key: str) -> tuple[float, float] | None:
    value, found = _checked(row, key), getattr(row, f"{key}_range", None)
    if value is None or found is None:
        return None
    low, high = found
    if not 0 <= low <= value <= high < math.inf:
        raise ParameterError(f"{key}={value} of '{row.name}' must lie in its range of {low} to {high}")
    return float(low), float(high)


def _panel(
    axes: Axes,
    values: Sequence[float | None],
    ranges: Sequence[tuple[float, float] | None],
    show: Callable[[float], str],
    across: float,
    thick: float,
) -> bool:
    """Draws bars, their ranges and their numbers; returns whether the axis is logarithmic."""
    ends = [r[1] if r else v for v, r in zip(values, ranges, strict=True)]
    some = [v for v in (*values, *(end for r in ranges if r for end in r)) if v]
    log = bool(some) and max(some) / min(some) > _WIDE
    # A bar of the least value still shows: a logarithmic axis starts half a decade below it.
    foot = min(some) / 10**0.5 if log else 0.0
    texts = ["–" if v is None else show(v) for v in values]
    figure: Any = axes.figure
    spare = [across - text_size(figure, t, SMALL)[0] - _AIR - 0.02 for t in texts]
    # As far as the number behind the bar that needs most room.
    lengths = [(math.log10(v / foot) if log else v) if v else 0.0 for v in ends]
    far = max(n * across / s for n, s in zip(lengths, spare, strict=True)) or 1.0
    if log:
        axes.set_xscale("log")
    axes.set_xlim(foot, foot * 10**far if log else far)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(False, axis="y")
    look = arm(0)
    for r, (value, span, end, text) in enumerate(zip(values, ranges, ends, texts, strict=True)):
        if value:
            axes.barh(r, value - foot, left=foot, height=thick, color=look.color)
        if span:
            low, high = max(span[0], foot), max(span[1], foot)
            axes.errorbar(
                (low + high) / 2, r, xerr=(high - low) / 2, fmt="none", color="black", linewidth=0.9, capsize=2.5
            )
        axes.annotate(
            text,
            xy=(end or foot, r),
            xytext=(72 * _AIR, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=QUIET if value is None else "black",
            annotation_clip=False,
        )
    return log


def _ticks(
    axes: Axes, key: str, show: Callable[[float], str], log: bool, across: float
) -> tuple[list[float], list[str]]:
    """Places and words of the ticks: round numbers in the unit they are written in."""
    low, high = axes.get_xlim()
    if log:
        ladder = _TIMES if key == "seconds" else tuple(10.0**k for k in range(-3, 18))
        places = [t for t in ladder if low <= t <= high]
    else:
        size = 1.0
        if key == "seconds":
            size = max([1e-9, *(u for u in (1e-6, 1e-3, 1.0, 60.0, 3600.0, 86400.0) if u <= high)])
        from matplotlib.ticker import MaxNLocator

        found = MaxNLocator(nbins=max(2, int(across / 0.55)), steps=[1, 2, 5, 10]).tick_values(0, high / size)
        places = [float(t) * size for t in found if 0 <= t * size <= high]
    return places, [show(t) for t in places]
