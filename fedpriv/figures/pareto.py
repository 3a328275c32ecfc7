"""Pareto front: which defenses no other beats in both accuracy and leakage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import ParameterError
from fedpriv.figures.labels import Box, add_key, beads, key_height, name_points, number_points, plain
from fedpriv.figures.style import (
    NORMAL,
    QUIET,
    WIDTH,
    Arm,
    add_axes,
    arm,
    new_figure,
    styled,
    text_size,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _RIGHT, _HEIGHT = 0.86, 0.15, 3.3


@dataclass(frozen=True)
class ParetoPoint:
    """One defense, or one setting of it, measured.

    Attributes:
      name: written beside the point.
      accuracy: test accuracy in [0, 1]; more is better.
      leakage: share of the images that were reconstructed, in [0, 1]; less is better.
      low, high: the leakage's 95% interval, if known; both or neither.
      accuracy_low, accuracy_high: the accuracy's, likewise.
      group: points of one group share colour and shape, which a key names.
      epsilon: formal privacy, written after the name; None if it is not to be written.
    """

    name: str
    accuracy: float
    leakage: float
    low: float | None = None
    high: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    group: str = ""
    epsilon: float | None = None


def front(points: Sequence[ParetoPoint]) -> list[int]:
    """Indices, in the order given, of the points that no other dominates.

    A point is dominated if another has at least its accuracy and at most its leakage, and differs in one of them;
    so of points in one place all are on the front, or none.
    """
    best: dict[float, float] = {}
    for p in points:
        best[p.accuracy] = min(p.leakage, best.get(p.accuracy, math.inf))
    # From the most accurate down, those that leak less than all before.
    least, kept = math.inf, set()
    for accuracy, leakage in sorted(best.items(), reverse=True):
        if leakage < least:
            least = leakage
            kept.add((accuracy, leakage))
    return [i for i, p in enumerate(points) if (p.accuracy, p.leakage) in kept]


def pareto_front(
    points: Sequence[ParetoPoint],
    *,
    x_label: str = "Test accuracy",
    y_label: str = "Images reconstructed",
    title: str = "",
) -> Figure:
    """Accuracy to the right, leakage upwards, so that the best defenses are at the lower right.

    Points on the Pareto front are filled and joined by steps: what is above or left of them is dominated. The others
    are hollow. Names stand beside the points; where these crowd, numbers do, and a key above the axes names them.

    Args:
      points: the defenses.
      x_label: what the accuracy is of.
      y_label: what the leakage counts.
      title: printed above, if given.

    Raises:
      ParameterError: no points, an accuracy, leakage or interval outside [0, 1], half an interval or one whose ends
        are swapped, or an epsilon that is negative.
    """
    if not points:
        raise ParameterError("a Pareto front needs at least one point")
    for point in points:
        _check(point)
    with styled():
        figure, named = _drawn(points, x_label, y_label, title, numbered=False)
        if not named:
            figure, _ = _drawn(points, x_label, y_label, title, numbered=True)
    return figure


def _drawn(
    points: Sequence[ParetoPoint], x_label: str, y_label: str, title: str, *, numbered: bool
) -> tuple[Figure, bool]:
    """The figure with points named or numbered, and whether all names or numbers are written."""
    best = front(points)
    groups = list(dict.fromkeys(p.group for p in points))
    looks = {name: arm(i) for i, name in enumerate(groups)}
    plain_look = Arm(QUIET, "-", "o")
    key: list[tuple[str, Arm | None, str]] = [(name, looks[name], "dot") for name in groups if name]
    key.append(("on the Pareto front", plain_look, "dot"))
    if len(best) < len(points):
        key.append(("dominated", plain_look, "hollow"))
    numbers = [0] * len(points)
    legend: list[tuple[str, Arm | None, str]] = []
    if numbered:
        legend.append(("numbers from the top, then the left:", None, ""))
        for n, i in enumerate(sorted(range(len(points)), key=lambda i: (-points[i].leakage, points[i].accuracy)), 1):
            numbers[i] = n
            # The number stays on its name's line.
            name = f"{n}\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}{_name(points[i])}"
            legend.append((name, looks[points[i].group], "dot" if i in best else "hollow"))
    figure = new_figure(WIDTH, 1)
    upright = wrap(y_label, int(_HEIGHT * 13)) + "\n← more private"
    left = _LEFT + 0.15 * (upright.count("\n") - 1)
    across = WIDTH - left - _RIGHT
    words = wrap(f"{x_label} (more useful →)", int(across * 13))
    head = wrap(title, int(WIDTH * 11.5))
    headline = text_size(figure, head, NORMAL + 1, fontweight="bold")[1] + 0.14 if title else 0.0
    below = 0.1 + headline + key_height(figure, key, WIDTH - left)
    top = below + key_height(figure, legend, WIDTH - left) + 0.08
    height = top + _HEIGHT + 0.36 + text_size(figure, words, NORMAL)[1]
    figure.set_size_inches(WIDTH, height)
    if title:
        figure.text(0.12 / WIDTH, 1 - 0.1 / height, head, va="top", fontsize=NORMAL + 1, fontweight="bold")
    axes = add_axes(figure, left, top, across, _HEIGHT)
    axes.set_xlabel(words)
    axes.set_ylabel(upright)
    _limits(axes, points)
    taken: list[Box] = []
    for i, p in enumerate(points):
        taken += _draw(axes, p, looks[p.group], filled=i in best)
    taken += _steps(axes, [points[i] for i in best])
    places = [(p.accuracy, p.leakage) for p in points]
    add_key(figure, key, 0.1 + headline, left)
    if numbered:
        add_key(figure, legend, below, left)
        number_points(axes, places, numbers, avoid=taken)
        return figure, True
    names = [wrap(_name(p), 24) for p in points]
    return figure, name_points(axes, places, names, avoid=taken)


def _check(point: ParetoPoint) -> None:
    for key in ("accuracy", "leakage", "low", "high", "accuracy_low", "accuracy_high"):
        value = getattr(point, key)
        if value is not None and not -1e-9 <= value <= 1 + 1e-9:
            raise ParameterError(
                f"'{point.name}' has {key}={value}; give a share in [0, 1], or leave out what was not measured"
            )
    for low, high in (("low", "high"), ("accuracy_low", "accuracy_high")):
        a, b = getattr(point, low), getattr(point, high)
        if (a is None) != (b is None):
            raise ParameterError(f"'{point.name}' has half an interval; give both {low} and {high}, or neither")
        if a is not None and a > b:
            raise ParameterError(f"'{point.name}' has an interval from {a} down to {b}; swap {low} and {high}")
    if point.epsilon is not None and not point.epsilon >= 0:
        raise ParameterError(f"'{point.name}' has epsilon={point.epsilon}; it must not be negative, or None")


def _name(point: ParetoPoint) -> str:
    if point.epsilon is None:
        return point.name
    written = "∞" if math.isinf(point.epsilon) else f"{point.epsilon:.3g}" if point.epsilon < 1000 else ""
    # The letter and its number stay on one line.
    return f"{point.name} ε\N{NO-BREAK SPACE}{written or plain(float(f'{point.epsilon:.3g}'))}"


def _limits(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    from matplotlib.ticker import MaxNLocator

    x = [v for p in points for v in (p.accuracy, p.accuracy_low, p.accuracy_high) if v is not None]
    y = [v for p in points for v in (p.leakage, p.high) if v is not None]
    # Room beside the outermost points for their names; differences of tenths of a percent are no spread.
    span = max(max(x) - min(x), 0.05)
    middle = (max(x) + min(x)) / 2
    low, high = middle - 0.62 * span, middle + 0.62 * span
    axes.set_xlim(max(low, -0.03), min(high, 1.03) if max(x) <= 1 - 0.03 * span else max(x) + 0.05 * span)
    top = max([*y, 0.1])
    axes.set_ylim(-0.06 * top, top * 1.06)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda v, _: f"{round(100 * v, 6):g}%".replace("-", "−"))


def _draw(axes: Axes, point: ParetoPoint, look: Arm, *, filled: bool) -> list[Box]:
    """Draws a point with its intervals; returns the room these take."""
    x, y = point.accuracy, point.leakage
    taken: list[Box] = []
    shared: dict[str, Any] = {"color": look.color, "fmt": "none", "linewidth": 0.9, "capsize": 2.5, "zorder": 2}
    if point.low is not None and point.high is not None:
        axes.errorbar([x], (point.low + point.high) / 2, (point.high - point.low) / 2, **shared)
        taken += beads(axes, (x, point.low), (x, point.high))
    low, high = point.accuracy_low, point.accuracy_high
    if low is not None and high is not None:
        axes.errorbar([(low + high) / 2], [y], xerr=(high - low) / 2, **shared)
        taken += beads(axes, (low, y), (high, y))
    axes.plot(
        x,
        y,
        marker=look.marker,
        color=look.color,
        markersize=6.5,
        markerfacecolor=look.color if filled else "white",
        markeredgewidth=1.3,
        linestyle="none",
        zorder=4 if filled else 3.5,
    )
    return taken


def _steps(axes: Axes, best: Sequence[ParetoPoint]) -> list[Box]:
    """Joins the front's points by steps; returns the room the line takes."""
    corners = sorted({(p.accuracy, p.leakage) for p in best})
    if len(corners) < 2:
        return []
    # Up first, then right: the upper left of each point is dominated.
    axes.plot(
        *zip(*corners, strict=True), color=QUIET, linewidth=0.9, drawstyle="steps-pre", zorder=1.5, gid="Pareto front"
    )
    taken: list[Box] = []
    for (x, y), (u, v) in itertools.pairwise(corners):
        taken += [*beads(axes, (x, y), (x, v)), *beads(axes, (x, v), (u, v))]
    return taken
