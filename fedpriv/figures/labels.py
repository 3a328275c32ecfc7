"""Labels: names beside points, keys above panels, and tick labels, none of which covers another.

Lengths here are in points (1/72 inch) from the lower left corner of the axes, unless they say inches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.figures.style import SMALL, Arm, add_axes, spread, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Left, lower, right and upper edge.
Box = tuple[float, float, float, float]

#: From a point's centre to its name; a name further off than LEADER gets a line to its point.
_NEAR, _LEADER = 6.0, 9.0
_FAR = (_NEAR, 11.0, 18.0, 26.0, 36.0, 48.0, 62.0, 80.0, 100.0, 125.0, 155.0)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def name_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    colors: Sequence[str],
    *,
    avoid: Sequence[Box] = (),
    avoid_if_possible: Sequence[Box] = (),
) -> tuple[float, float]:
    """Writes each name next to its point, or as near as there is room, then with a thin line to the point.

    Names for which the axes have no room stand in a column at their right, each with a line to its point.

    Args:
      axes: with their final limits, scales and size.
      points: (x, y) in data coordinates.
      names: one a point; an empty one is not written, but its point is still kept free.
      colors: of the lines.
      avoid: boxes that names never cover, such as error bars.
      avoid_if_possible: boxes that names cover only if there is no room elsewhere, such as a line's.

    Returns:
      Width and height in inches of the column at the right; 0 if there is none. The figure must have room for it, so a
      caller who is told of one makes a wider figure with axes of at least that height, and draws again.
    """
    figure: Any = axes.figure
    across, tall = (float(v) * 72 for v in axes.get_position().size * figure.get_size_inches())
    anchors = np.array([to_points(axes, x, y) for x, y in points]).reshape(-1, 2)
    sizes = [tuple(72 * v for v in text_size(figure, n, SMALL)) if n else (0.0, 0.0) for n in names]
    places = place_names(anchors, sizes, (across, tall), avoid, avoid_if_possible)
    left_over = [i for i, place in enumerate(places) if place is None and names[i]]
    shared: dict[str, Any] = {"fontsize": SMALL, "va": "center", "annotation_clip": False, "zorder": 5}
    for i, place in enumerate(places):
        if place is None:
            continue
        near = _nearest(anchors[i], place, sizes[i])
        far = math.dist(near, anchors[i]) > _LEADER
        axes.annotate(
            names[i],
            xy=tuple(anchors[i]),
            xycoords="axes points",
            xytext=place,
            textcoords="axes points",
            ha="center",
            arrowprops=_line(colors[i], place, near, sizes[i]) if far else None,
            **shared,
        )
    centres = spread([float(anchors[i][1]) for i in left_over], [sizes[i][1] + 3 for i in left_over], 0, tall)
    for i, y in zip(left_over, centres, strict=True):
        axes.annotate(
            names[i],
            xy=tuple(anchors[i]),
            xycoords="axes points",
            xytext=(across + 10, y),
            textcoords="axes points",
            ha="left",
            arrowprops=_line(colors[i], (0, 0), (0, 0), (0, 0)),
            **shared,
        )
    wide = max((sizes[i][0] + 16 for i in left_over), default=0.0)
    return wide / 72, sum(sizes[i][1] + 3 for i in left_over) / 72


def to_points(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Where data coordinates lie, in points from the axes' lower left corner."""
    figure: Any = axes.figure
    across, tall = axes.get_position().size * figure.get_size_inches() * 72
    u, v = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
    return float(u * across), float(v * tall)


def place_names(
    anchors: np.ndarray,
    sizes: Sequence[tuple[float, ...]],
    room: tuple[float, float],
    avoid: Sequence[Box] = (),
    avoid_if_possible: Sequence[Box] = (),
) -> list[tuple[float, float] | None]:
    """Centres for the names of points, inside the room, clear of points, of each other and of their lines.

    Args:
      anchors: `[n, 2]` the points.
      sizes: (width, height) of each name; a name of width 0 needs no place.
      room: (width, height) of the axes.
      avoid: boxes that no name covers.
      avoid_if_possible: boxes that a name covers only where it finds no other place.

    Returns:
      A centre for each, or None where there is no room.
    """
    marks = np.concatenate([anchors - 4, anchors + 4], axis=1)
    taken = np.concatenate([marks, np.array(avoid, float).reshape(-1, 4)])
    soft = np.array(avoid_if_possible, float).reshape(-1, 4)
    leaders = np.zeros((0, 4))
    places: list[tuple[float, float] | None] = [None] * len(anchors)
    # The most crowded points choose first: the others find a place anyway.
    crowd = [int((np.abs(anchors - a).max(axis=1) < 40).sum()) for a in anchors]
    for i in sorted(range(len(anchors)), key=lambda i: -crowd[i]):
        if not sizes[i][0]:
            continue
        others = marks[np.abs(anchors - anchors[i]).max(axis=1) > _NEAR]
        names = taken[len(marks) + len(avoid) :]
        for extra in (soft, soft[:0]):
            for place in _candidates(anchors[i], sizes[i]):
                box = _around(place, sizes[i])
                if box[0] < 1 or box[1] < 1 or box[2] > room[0] - 1 or box[3] > room[1] - 1:
                    continue
                if _hits(box, np.concatenate([taken, leaders, extra])):
                    continue
                line = _beads(anchors[i], _nearest(anchors[i], place, sizes[i]))
                if any(_hits(bead, np.concatenate([others, names, leaders])) for bead in line):
                    continue
                places[i] = place
                taken = np.concatenate([taken, [box]])
                leaders = np.concatenate([leaders, np.array(line).reshape(-1, 4)])
                break
            if places[i] is not None:
                break
    return places


def beads(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """A straight line between two places in data coordinates as a chain of small boxes, for `avoid`."""
    a, b = np.array(to_points(axes, *start)), np.array(to_points(axes, *end))
    return _chain(a, b)


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
    from matplotlib.ticker import LogLocator, MaxNLocator

    candidates: list[Any]
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


def _line(color: str, place: tuple[float, float], near: tuple[float, float], size: tuple[float, ...]) -> dict[str, Any]:
    """How the line from a name to its point is drawn: from the name's nearest edge."""
    w, h = size[0] or 1.0, size[1] or 1.0
    return {
        "arrowstyle": "-",
        "color": color,
        "linewidth": 0.6,
        "shrinkA": 0,
        "shrinkB": 3,
        "relpos": (0.5 + (near[0] - place[0]) / w, 0.5 + (near[1] - place[1]) / h) if size[0] else (0, 0.5),
    }


def _candidates(anchor: np.ndarray, size: tuple[float, ...]) -> list[tuple[float, float]]:
    """Centres a name may have, the nearest and most natural first: right, left, above, below, then slanting."""
    ways: list[tuple[float, float]] = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    ways += [(0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1), (1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5)]
    x, y = float(anchor[0]), float(anchor[1])
    return [(x + a * (far + size[0] / 2), y + b * (far + size[1] / 2)) for far in _FAR for a, b in ways]


def _around(centre: tuple[float, float], size: tuple[float, ...], air: float = 1.5) -> Box:
    w, h = size[0] / 2 + air, size[1] / 2 + air
    return centre[0] - w, centre[1] - h, centre[0] + w, centre[1] + h


def _hits(box: Box, boxes: np.ndarray) -> bool:
    return bool(
        ((boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0]) & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])).any()
    )


def _nearest(anchor: np.ndarray, centre: tuple[float, float], size: tuple[float, ...]) -> tuple[float, float]:
    """The place on a name's edge nearest to its point."""
    box = _around(centre, size, 0)
    return min(max(float(anchor[0]), box[0]), box[2]), min(max(float(anchor[1]), box[1]), box[3])


def _beads(anchor: np.ndarray, end: tuple[float, float]) -> list[Box]:
    """The line from a point to its name; empty if they are so near that none is drawn."""
    if math.dist(anchor, end) <= _LEADER:
        return []
    # Lines of points in one place may part only outside the marker.
    return [b for b in _chain(anchor, np.array(end)) if math.dist(anchor, (b[0], b[1])) > _NEAR + 1]


def _chain(a: np.ndarray, b: np.ndarray) -> list[Box]:
    steps = max(2, int(math.dist(a, b) / 2) + 1)
    return [(x - 0.8, y - 0.8, x + 0.8, y + 0.8) for x, y in a + (b - a) * np.linspace(0, 1, steps)[:, None]]
