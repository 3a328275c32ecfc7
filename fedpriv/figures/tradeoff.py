"""The privacy-utility curve: what each noise level costs in accuracy, and what it leaves to be reconstructed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.base.column import Column
from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import (
    FAINT,
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

#: What leaks where nothing else is said.
PSNR = Column(name="psnr_mean", label="Reconstruction PSNR", unit="dB", format=".1f")

#: Larger values, such as the infinite PSNR of an exact image, are drawn here.
_CEILING = 100.0
_LEFT, _HEIGHT, _BETWEEN = 0.72, 1.9, 0.2
#: Inches between two texts, and points between a tick and its text.
_AIR, _PAD = 0.08, 3.5


@dataclass(frozen=True)
class Point:
    """One setting, measured.

    Attributes:
      series: what it belongs to, such as "central DP"; points of one series with noise are joined by a line.
      noise: noise multiplier; 0 for no noise, None for a defense without a noise level (then `slot` names it).
      accuracy: test accuracy in [0, 1], or None if not measured.
      leakage: what leaked, such as the mean PSNR of reconstructions in dB; above 100 it is drawn at 100. None if the
        attack had nothing to work on.
      epsilon: formal privacy; infinite or None where there is no guarantee.
      accuracy_interval: (low, high), drawn as a bar.
      leakage_interval: (low, high), drawn as a bar.
      leakage_values: PSNR of single images, drawn as faint dots.
      slot: name on the axis for a point without a noise level, such as "secure aggregation of 8".
    """

    series: str
    noise: float | None
    accuracy: float | None
    leakage: float | None = None
    epsilon: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    leakage_interval: tuple[float, float] | None = None
    leakage_values: tuple[float, ...] = ()
    slot: str = ""


def privacy_utility(
    points: Sequence[Point],
    *,
    delta: float | None = None,
    column: Column = PSNR,
    mark: tuple[str, float] | None = ("30 dB", 30.0),
    chance: float | None = None,
    noise_label: str = "Noise multiplier (log scale)",
    title: str = "",
) -> Figure:
    """Accuracy above (if any was measured), what leaked below, over one noise axis; epsilon above each level.

    Noise levels lie on a logarithmic axis. Settings that have no place on it (no noise, secure aggregation) stand
    left of it, behind a line that breaks the axis.

    Args:
      points: the settings.
      delta: the delta of the epsilons, for the label.
      column: what leaked, in the lower panel.
      mark: a value of it to mark, with its name, such as the PSNR that counts as a success; None for no mark.
      chance: accuracy of guessing, marked in the upper panel, if given.
      noise_label: the axis label.
      title: printed above, if given.

    Raises:
      ParameterError: no points, a negative or infinite noise, or a point without noise level and slot.
    """
    if not points:
        raise ParameterError("a privacy-utility curve needs at least one point")
    for point in points:
        if point.noise is None and not point.slot:
            raise ParameterError(f"a point of '{point.series}' has no noise level: give its place a name with slot=...")
        if point.noise is not None and not (0 <= point.noise < math.inf):
            raise ParameterError(f"noise={point.noise} of '{point.series}' must be finite and not negative")
    place = _Places(points)
    series = list(dict.fromkeys(p.series for p in points))
    looks = {name: arm(i) for i, name in enumerate(series)}
    lines = [s for s in series if any(p.noise for p in points if p.series == s)]
    strips = _strips(points, series, place)

    with styled():
        figure = new_figure(WIDTH, 1)
        names = {s: wrap(s, 20) for s in series}
        label_lines = [names[s] for s in lines] if len(lines) > 1 else []
        marks = [mark[0]] if mark is not None else []
        marks += ["guessing"] if chance is not None else []
        right = max([0.15, *(text_size(figure, t, SMALL + 0.5)[0] + 0.3 for t in label_lines + marks)])
        left = _LEFT
        heads = [_epsilon_head(owner, delta) for owner, _ in strips]
        left = max([left, *(text_size(figure, h, SMALL)[0] + 0.2 for h in heads)])
        across = WIDTH - left - right
        widest = max([0.0, *(text_size(figure, _epsilon_text(p.epsilon), SMALL)[0] for p in points)])
        rotated = place.closest() * across / place.length < widest + 0.06
        strip = 0.44 if rotated else 0.3 if len(strips) > 1 else 0.2
        headline = text_size(figure, title, NORMAL + 1)[1] + 0.14 if title else 0.0
        top = 0.1 + headline + strip * len(strips)
        tick_texts, lowered = _tick_texts(figure, place, across)
        line = 1.3 * text_size(figure, "0", SMALL + 0.5)[1]
        tall = [text_size(figure, t, SMALL + 0.5)[1] + line * (k in lowered) for k, t in enumerate(tick_texts)]
        below = max(tall) + 0.42
        panels = ["accuracy", "leakage"] if any(_value(p, "accuracy") is not None for p in points) else ["leakage"]
        height = top + len(panels) * (_HEIGHT + _BETWEEN) - _BETWEEN + below
        figure.set_size_inches(WIDTH, height)
        if title:
            figure.text(0.12 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")

        first = add_axes(figure, left, top, across, _HEIGHT)
        drawn = {panels[0]: first}
        for what in panels[1:]:
            drawn[what] = add_axes(figure, left, top + _HEIGHT + _BETWEEN, across, _HEIGHT, sharex=first)
            first.tick_params(labelbottom=False)
        marked: dict[str, tuple[str, float | None]] = {"accuracy": ("guessing", chance), "leakage": mark or ("", None)}
        words_of = {"accuracy": "Test accuracy", "leakage": f"{column.title}\n← more private"}
        for what, axes in drawn.items():
            for s in series:
                _draw(axes, [p for p in points if p.series == s], what, looks[s], place)
            _break(axes, place)
            axes.set_ylabel(words_of[what])
            axes.set_ylim(*_LIMITS[what](points, marked[what][1]))
            ends = [(names[s], _last(points, s, what), looks[s].color) for s in lines] if label_lines else []
            words, value = marked[what]
            if value is not None:
                _mark(axes, value)
                ends.append((words, value, QUIET))
            label_ends(axes, [(t, y, c) for t, y, c in ends if y is not None])
        lower = drawn["leakage"]
        lower.set_xlim(-0.5, place.length - 0.5)
        lower.set_xticks(place.ticks, tick_texts)
        for k, tick in enumerate(lower.xaxis.get_major_ticks()):
            if k in lowered:
                tick.set_pad(_PAD + 72 * line)
        if place.noisy:
            middle = (place.noisy_from + place.length - 0.5) / 2
            lower.annotate(
                noise_label,
                xy=((middle + 0.5) / place.length, 0),
                xytext=(0, -(below - 0.22) * 72),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                va="center",
            )
        for k, ((owner, mine), head) in enumerate(zip(strips, heads, strict=True)):
            y = 1 + (strip * (len(strips) - k - 0.5)) / _HEIGHT
            _epsilons(first, mine, head, y, looks[owner].color if owner else "black", place, rotated)
    return figure


class _Places:
    """Where settings stand: slots at 0, 1, ... then noise levels, logarithmic, from `noisy_from` on."""

    def __init__(self, points: Sequence[Point]) -> None:
        zero = ["no noise"] if any(p.noise == 0 for p in points) else []
        self.slots = [*zero, *dict.fromkeys(p.slot for p in points if p.noise is None)]
        levels = sorted({p.noise for p in points if p.noise})
        self.noisy = bool(levels)
        start = len(self.slots)
        decades = math.log10(levels[-1] / levels[0]) if levels else 0.0
        span = max(len(levels) - 1, 1) if decades else 0
        self._of_level = {v: start + (span * math.log10(v / levels[0]) / decades if decades else 0) for v in levels}
        self.noisy_from = start - 0.5
        self.length = start + (span + 1 if levels else 0)
        self.ticks: list[float] = [*range(start), *self._of_level.values()]
        self.texts = [*self.slots, *(f"{v:g}" for v in levels)]

    def of(self, point: Point) -> float:
        if point.noise:
            return self._of_level[point.noise]
        return float(self.slots.index("no noise" if point.noise == 0 else point.slot))

    def closest(self) -> float:
        places = sorted(self.ticks)
        return min((b - a for a, b in itertools.pairwise(places)), default=1.0)


def _tick_texts(figure: Figure, place: _Places, across: float) -> tuple[list[str], set[int]]:
    """Names of slots and levels below the axis, and the levels that stand a line lower, clear of the one before.

    One that has no room there either is left out: its tick stays.
    """
    step, lowered = across / place.length, set[int]()
    texts, ends = [wrap(t, max(6, int(step / 0.075))) for t in place.texts], [0.0, 0.0]
    for k, text in enumerate(texts):
        middle, wide = (place.ticks[k] + 0.5) * step, text_size(figure, text, SMALL + 0.5)[0]
        if k < len(place.slots):  # several lines high
            ends = [middle + wide / 2] * 2
            continue
        line = next((i for i, end in enumerate(ends) if k == 0 or middle - wide / 2 >= end + _AIR), None)
        if line is None:
            texts[k] = ""
        else:
            ends[line] = middle + wide / 2
            if line:
                lowered.add(k)
    return texts, lowered


def _value(point: Point, what: str) -> float | None:
    value = getattr(point, what)
    return None if value is None or math.isnan(value) else min(value, _CEILING)


def _draw(axes: Axes, points: list[Point], what: str, look: Arm, place: _Places) -> None:
    for point in points:
        x, y = place.of(point), _value(point, what)
        if y is None:
            if what == "leakage":
                axes.annotate(
                    "does not apply",
                    xy=(x, 0.05),
                    xycoords=("data", "axes fraction"),
                    rotation=90,
                    ha="center",
                    va="bottom",
                    fontsize=SMALL,
                    color=QUIET,
                )
            continue
        interval = getattr(point, f"{what}_interval")
        if interval is not None:
            ends = [[max(0.0, y - interval[0])], [max(0.0, interval[1] - y)]]
            axes.errorbar([x], [y], ends, color=look.color, linewidth=1.2, capsize=4, fmt="none", zorder=2)
        if what == "leakage" and point.leakage_values:
            values = [min(v, _CEILING) for v in point.leakage_values if not math.isnan(v)]
            beside = x + 0.09 * place.length / 7  # clear of the marker and its bar
            axes.plot([beside] * len(values), values, ".", color=look.color, alpha=0.3, markersize=4, zorder=1.5)
        axes.plot(x, y, marker=look.marker, color=look.color, zorder=4, linestyle="none", markersize=6)
    joined = sorted((place.of(p), v) for p in points if p.noise and (v := _value(p, what)) is not None)
    if joined:
        axes.plot(*zip(*joined, strict=True), color=look.color, linestyle=look.dashes, zorder=3)


def _break(axes: Axes, place: _Places) -> None:
    axes.grid(False, axis="x")
    if place.slots and place.noisy:
        axes.axvline(place.noisy_from, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _accuracy_limits(points: Sequence[Point], chance: float | None) -> tuple[float, float]:
    accuracies = [v for p in points for v in (p.accuracy, *(p.accuracy_interval or ())) if v is not None]
    low = min([*accuracies, *([chance] if chance is not None else [])], default=0.0)
    high = max(accuracies, default=1.0)
    air = max(0.08 * (high - low), 0.01)
    return max(0.0, low - air), min(1.02, high + air)


def _leakage_limits(points: Sequence[Point], mark: float | None) -> tuple[float, float]:
    given = [v for p in points for v in (p.leakage, *p.leakage_values, *(p.leakage_interval or ())) if v]
    known = [min(v, _CEILING) for v in given if not math.isnan(v)]
    top = max([*known, mark or 0.0]) or 1.0
    return min([0.0, *known]) - (0.03 * top), 1.08 * top


_LIMITS = {"accuracy": _accuracy_limits, "leakage": _leakage_limits}


def _mark(axes: Axes, y: float) -> None:
    axes.axhline(y, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)


def _last(points: Sequence[Point], series: str, what: str) -> float | None:
    known = [(p.noise, v) for p in points if p.series == series and p.noise and (v := _value(p, what)) is not None]
    return max(known)[1] if known else None


def _strips(points: Sequence[Point], series: list[str], place: _Places) -> list[tuple[str, list[Point]]]:
    """Rows of epsilons: one for all points ("") if no place has two of them, else one for each series with noise."""
    if all(p.epsilon is None for p in points):
        return []
    noisy = [s for s in series if any(p.noise for p in points if p.series == s)]
    if len(noisy) < 2 and len({place.of(p) for p in points}) == len({(place.of(p), p.epsilon) for p in points}):
        return [("", list(points))]
    rows = [(s, [p for p in points if p.series == s]) for s in noisy]
    for s in series:
        others = [p for p in points if p.series == s]
        if s in noisy:
            continue
        # What has no noise level fits into the first row that has nothing at its places.
        taken = {place.of(p) for p in rows[0][1]} if rows else set()
        if rows and not taken & {place.of(p) for p in others}:
            rows[0][1].extend(others)
        else:
            rows.append((s, others))
    return rows


def _epsilon_head(owner: str, delta: float | None) -> str:
    epsilon = "ε" if delta is None else f"ε (δ={delta:.0e})".replace("e-0", "e-")
    return f"{epsilon}\n{wrap(owner, 16)}" if owner else epsilon


def _epsilons(axes: Axes, points: list[Point], head: str, y: float, color: str, place: _Places, rotated: bool) -> None:
    shared: dict[str, Any] = {"va": "center", "fontsize": SMALL, "annotation_clip": False}
    axes.annotate(
        head,
        xy=(0, y),
        xycoords="axes fraction",
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        color=color,
        **shared,
    )
    # Several settings of one place show once: they agree here, or each series has its own row.
    for x, epsilon in dict.fromkeys((place.of(p), p.epsilon) for p in points):
        axes.annotate(
            _epsilon_text(epsilon),
            xy=(x, y),
            xycoords=("data", "axes fraction"),
            ha="center",
            rotation=90 if rotated else 0,
            color=color if x > place.noisy_from else "black",
            **shared,
        )


def _epsilon_text(epsilon: float | None) -> str:
    if epsilon is None:
        return "none"
    if math.isinf(epsilon):
        return "∞"
    return f"{epsilon:.3g}" if epsilon < 1000 else f"{epsilon:,.0f}" if epsilon < 1e6 else "> 10⁶"
