"""Labels: names or numbers beside points, keys above panels, and tick labels, none of which covers another.

Lengths here are in points (1/72 inch) from the lower left corner of the axes, unless they say inches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.figures.style import SMALL, Arm, add_axes, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Left, lower, right and upper edge.
Box = tuple[float, float, float, float]

#: From a point's centre to its label, and how near centres are whose markers hide each other.
_NEAR, _TOUCH = (7.0, 10.0), 6.5
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def name_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    avoid: Sequence[Box] = (),
) -> bool:
    """Writes each name next to its point, if all of them have room there; neighbours of one name share it.

    Args:
      axes: with their final limits, scales and size.
      points: (x, y) in data coordinates.
      names: one a point; an empty one is not written, but its point is still kept free.
      avoid: boxes that names do not cover, such as those of lines and error bars.

    Returns:
      Whether the names are written. If not, none is, and the points want numbers.
    """
    anchors = _anchors(axes, points)
    groups = _groups(anchors, _TOUCH, names)
    texts = [sorted({names[i] for i in group} - {""}) for group in groups]
    if any(len(t) > 1 for t in texts):
        return False
    return _write(axes, anchors, groups, ["".join(t) for t in texts], avoid)


def number_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    numbers: Sequence[int | None],
    *,
    avoid: Sequence[Box] = (),
) -> None:
    """Writes each number next to its point; points that touch share a label, such as "2, 5–7".

    Where there is no room beside each, more points share a label.

    Args:
      axes: with their final limits, scales and size.
      points: (x, y) in data coordinates.
      numbers: one a point; None is not written, but its point is still kept free.
      avoid: boxes that numbers cover only where the figure is full of them.
    """
    anchors = _anchors(axes, points)
    for wide in (1, 2, 4):
        groups = _groups(anchors, wide * _TOUCH)
        texts = [_runs({n for i in group if (n := numbers[i]) is not None}) for group in groups]
        if _write(axes, anchors, groups, texts, avoid):
            return
    _write(axes, anchors, groups, texts, (), anyhow=True)


def to_points(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Where data coordinates lie, in points from the axes' lower left corner."""
    across, tall = _room(axes)
    u, v = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
    return float(u * across), float(v * tall)


def place_labels(
    anchors: np.ndarray,
    groups: Sequence[Sequence[int]],
    sizes: Sequence[tuple[float, float]],
    room: tuple[float, float],
    avoid: Sequence[Box] = (),
) -> list[Box | None]:
    """Boxes for the labels of groups of points, each nearer to its own than to any other, and clear of each other.

    Args:
      anchors: `[n, 2]` the points.
      groups: the points of each label.
      sizes: (width, height) of each label.
      room: (width, height) of the axes.
      avoid: boxes that no label covers.

    Returns:
      A box for each, or None where there is no room beside the group.
    """
    free: list[list[Box]] = []
    for group, size in zip(groups, sizes, strict=True):
        others = np.delete(anchors, group, axis=0)
        boxes = [b for b in _around(anchors[group], size) if _inside(b, room) and not _hits(b, avoid)]
        # A label has no line to its point: the reader takes the nearest one.
        free.append([b for b in boxes if _gap(b, others) > _gap(b, anchors[group]) + 2])
    # Those with the least choice choose first; those that found no room then, before them.
    order = sorted(range(len(groups)), key=lambda i: len(free[i]))
    for _ in range(8):
        found: list[Box | None] = [None] * len(groups)
        for i in order:
            taken = [box for box in found if box]
            found[i] = next((box for box in free[i] if not _hits(box, taken)), None)
        order.sort(key=lambda i: found[i] is not None)
        if None not in found:
            break
    return found


def beads(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """A straight line between two places in data coordinates as a chain of small boxes, for `avoid`."""
    a, b = _anchors(axes, [start, end])
    steps = max(2, int(math.dist(a, b) / 2) + 1)
    return [(x - 0.8, y - 0.8, x + 0.8, y + 0.8) for x, y in a + (b - a) * np.linspace(0, 1, steps)[:, None]]


def add_key(figure: Figure, entries: Sequence[tuple[str, Arm | None, str]], top: float, left: float) -> None:
    """A key: marker and line of each entry before its name, in rows above the axes.

    Args:
      figure: of its final size.
      entries: (name, look, kind): kind "line" shows marker and dashes, "dot" a marker, "hollow" an empty marker; a look
        of None writes the name alone.
      top: inches from the figure's upper edge.
      left: inches from its left edge.
    """
    width, _ = figure.get_size_inches()
    rows, height = _key_rows(figure, entries, width - left)
    if not rows:
        return
    axes = add_axes(figure, 0, top, width, height, xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for i, x, y in rows:
        name, look, kind = entries[i]
        if look is not None:
            if kind == "line":
                axes.plot([left + x, left + x + 0.3], [y, y], color=look.color, linestyle=look.dashes, linewidth=1.4)
            hollow = kind == "hollow"
            axes.plot(
                [left + x + (0.15 if kind == "line" else 0.06)],
                [y],
                marker=look.marker,
                color=look.color,
                markerfacecolor="white" if hollow else look.color,
                linestyle="none",
            )
        axes.text(left + x + _swatch(look, kind), y, _key_name(name), va="center", fontsize=SMALL + 0.5)


def key_height(figure: Figure, entries: Sequence[tuple[str, Arm | None, str]], across: float) -> float:
    """Inches that `add_key` needs on a figure with `across` inches for it."""
    return _key_rows(figure, entries, across)[1]


def _key_rows(
    figure: Figure, entries: Sequence[tuple[str, Arm | None, str]], across: float
) -> tuple[list[tuple[int, float, float]], float]:
    """(entry, left, middle) of each in inches from the key's upper left corner, and its height."""
    found: list[tuple[int, float, float]] = []
    x, top, deep = 0.0, 0.0, 0.0
    for i, (name, look, kind) in enumerate(entries):
        w, h = text_size(figure, _key_name(name), SMALL + 0.5)
        w += _swatch(look, kind) + 0.06
        if x and x + w > across:
            x, top, deep = 0.0, top + deep, 0.0
        found.append((i, x, top + (h + 0.07) / 2))
        x, deep = x + w + 0.16, max(deep, h + 0.07)
    return found, top + deep


def _key_name(name: str) -> str:
    return wrap(name, 40)


def _swatch(look: Arm | None, kind: str) -> float:
    return 0.0 if look is None else 0.36 if kind == "line" else 0.18


def thin_ticks(axes: Axes, places: Sequence[float], texts: Sequence[str]) -> None:
    """Ticks of the horizontal axis at all these places, with those of the texts that have room beside each other.

    The last text is kept, then each that does not touch the one before it.
    """
    figure: Any = axes.figure
    half = [text_size(figure, t, SMALL + 0.5)[0] * 36 + 2.5 for t in texts]
    middle = [to_points(axes, p, axes.get_ylim()[0])[0] for p in places]
    kept: set[int] = set()
    end = -math.inf
    last = len(places) - 1
    for i in sorted(range(len(places)), key=lambda i: middle[i]):
        free = i == last or middle[i] + half[i] <= middle[last] - half[last]
        if free and middle[i] - half[i] >= end:
            kept.add(i)
            end = middle[i] + half[i]
    axes.set_xticks(list(places), [t if i in kept else "" for i, t in enumerate(texts)])
    axes.set_xticks([], minor=True)


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """At most `most` round numbers for a logarithmic axis: evenly spaced within a decade; beyond, 1, 2 and 5 of each,
    decades, every second one, and so on, as there is room.
    """
    from matplotlib.ticker import Locator, LogLocator, MaxNLocator

    candidates: list[Locator]
    if high < 10 * low:
        candidates = [MaxNLocator(most - 1, steps=[1, 2, 5, 10])]
    else:
        candidates = [LogLocator(subs=subs, numticks=most) for subs in ((1.0, 2.0, 5.0), (1.0,))]
    for locator in candidates:
        ticks = [float(f"{t:.12g}") for t in locator.tick_values(low, high)]
        ticks = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if 2 <= len(ticks) <= most:
            break
    return ticks


def plain(value: float) -> str:
    """A number for a tick: 0.05, 1,000, or a power of ten beyond a thousandth and a million."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        power = math.floor(math.log10(abs(value)) + 1e-9)
        digits = f"{value / 10.0**power:.3g}"
        return ("" if digits == "1" else f"{digits}·") + "10" + str(power).translate(_SUPERSCRIPTS)
    return f"{value:,.6g}".replace("-", "−")


def _room(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes."""
    figure: Any = axes.figure
    across, tall = axes.get_position().size * figure.get_size_inches() * 72
    return float(across), float(tall)


def _anchors(axes: Axes, points: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.array([to_points(axes, x, y) for x, y in points]).reshape(-1, 2)


def _groups(anchors: np.ndarray, near: float, names: Sequence[str] = ()) -> list[list[int]]:
    """Indices of points that are near each other, directly or over others; those of one name may be twice as far."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    apart = cdist(anchors, anchors)
    same = np.equal.outer(names, names) if names else False
    count, member = connected_components((apart < near) | ((apart < 2 * near) & same))
    return [np.flatnonzero(member == k).tolist() for k in range(count)]


def _runs(numbers: set[int]) -> str:
    """Numbers in order, three or more that follow each other as a range: "2, 5–7"."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def _write(
    axes: Axes,
    anchors: np.ndarray,
    groups: Sequence[list[int]],
    texts: Sequence[str],
    avoid: Sequence[Box],
    *,
    anyhow: bool = False,
) -> bool:
    """Writes each group's text beside it; if one has no room, writes none, or `anyhow` that one over its points."""
    figure: Any = axes.figure
    some = [k for k, text in enumerate(texts) if text]
    sizes = [text_size(figure, texts[k], SMALL) for k in some]
    boxes = place_labels(anchors, [groups[k] for k in some], [(72 * w, 72 * h) for w, h in sizes], _room(axes), avoid)
    if None in boxes and not anyhow:
        return False
    for k, box in zip(some, boxes, strict=True):
        middle = np.reshape(box, (2, 2)).mean(axis=0) if box else anchors[groups[k]].mean(axis=0)
        axes.annotate(
            texts[k],
            xy=tuple(middle),
            xycoords="axes points",
            ha="center",
            va="center",
            fontsize=SMALL,
            annotation_clip=False,
            zorder=5,
        )
    return True


def _around(points: np.ndarray, size: tuple[float, float]) -> list[Box]:
    """Places beside points, the nearest and most natural first: right, left, above, below, then slanting."""
    ways: list[tuple[float, float]] = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    ways += [(0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1), (1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5)]
    (left, low), (right, high) = points.min(axis=0), points.max(axis=0)
    w, h = size
    found = []
    for far in _NEAR:
        for a, b in ways:
            x = (left + right) / 2 + a * (far + (right - left + w) / 2)
            y = (low + high) / 2 + b * (far + (high - low + h) / 2)
            found.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return found


def _inside(box: Box, room: tuple[float, float]) -> bool:
    return box[0] >= 1 and box[1] >= 1 and box[2] <= room[0] - 1 and box[3] <= room[1] - 1


def _hits(box: Box, boxes: Sequence[Box], air: float = 1.5) -> bool:
    left, low, right, high = np.array(boxes, float).reshape(-1, 4).T
    return bool(((left < box[2] + air) & (right > box[0] - air) & (low < box[3] + air) & (high > box[1] - air)).any())


def _gap(box: Box, points: np.ndarray) -> float:
    """From a box to the nearest of the points."""
    outside = np.maximum(np.maximum(box[:2] - points, points - box[2:]), 0)
    return float(np.hypot(*outside.T).min(initial=math.inf))
