"""Success against epsilon: what attacks still reconstruct under each formal guarantee, and without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import ParameterError
from fedpriv.figures.labels import (
    Box,
    add_key,
    beads,
    key_height,
    log_ticks,
    name_points,
    number_points,
    plain,
    thin_ticks,
)
from fedpriv.figures.style import (
    FAINT,
    NORMAL,
    QUIET,
    SMALL,
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

_LEFT, _RIGHT, _HEIGHT, _NARROWEST = 0.66, 0.15, 2.6, 2.6
_HEAD = "no guarantee"


@dataclass(frozen=True)
class EpsilonPoint:
    """One setting, measured.

    Attributes:
      series: what it belongs to, such as "central DP"; its points with a guarantee are joined by a line.
      epsilon: the formal guarantee; None or infinite where there is none.
      rate: share of the images that were reconstructed, in [0, 1].
      low, high: its 95% interval.
      label: name beside the point, or below it where there is no guarantee (by default the series').
    """

    series: str
    epsilon: float | None
    rate: float
    low: float
    high: float
    label: str = ""


@dataclass(frozen=True)
class Bound:
    """What no attack can exceed, over epsilon.

    Attributes:
      label: what it bounds, for the key.
      epsilons, rates: of its points, joined by a line in the order given; a single one is a short level line.
    """

    label: str
    epsilons: Sequence[float]
    rates: Sequence[float]


def success_epsilon(
    points: Sequence[EpsilonPoint],
    *,
    delta: float,
    y_label: str = "Images reconstructed",
    title: str = "",
    bounds: Sequence[Bound] = (),
    floor: float = 0.0,
) -> Figure:
    """Success rates with their 95% intervals over epsilon on a logarithmic axis.

    Labels stand beside the points; where these crowd, numbers do, and a key above the axes tells what they mean.
    Points without a guarantee stand at the right, behind a line that breaks the axis, each in a place of its own.

    Args:
      points: the settings, in any order.
      delta: the delta of all epsilons.
      y_label: what the rate counts.
      title: printed above, if given.
      bounds: drawn as thin grey lines behind the points, where there are points with a guarantee.
      floor: where the axis of rates begins, below 1; for rates none of which is low, such as accuracies.

    Raises:
      ParameterError: no points, a delta outside [0, 1), an epsilon that is not positive, a rate or interval outside
        [0, 1], or an interval whose ends are swapped.
    """
    _check(points, delta, floor)
    with styled():
        figure, named = _drawn(points, delta, y_label, title, bounds, floor, numbered=False)
        if not named:
            figure, _ = _drawn(points, delta, y_label, title, bounds, floor, numbered=True)
    return figure


def _drawn(
    points: Sequence[EpsilonPoint],
    delta: float,
    y_label: str,
    title: str,
    bounds: Sequence[Bound],
    floor: float,
    *,
    numbered: bool,
) -> tuple[Figure, bool]:
    """The figure with points named or numbered, and whether all names or numbers are written."""
    series = list(dict.fromkeys(p.series for p in points))
    looks = {name: arm(i) for i, name in enumerate(series)}
    sure = sorted((p for p in points if _guarantee(p) is not None), key=lambda p: _guarantee(p) or 0.0)
    bare = [p for p in points if _guarantee(p) is None]
    # Settings that several series share have one number.
    numbers = (
        {label: n for n, label in enumerate(dict.fromkeys(p.label for p in sure if p.label), 1)} if numbered else {}
    )
    legend: list[tuple[str, Arm | None, str]] = [
        (f"{n}\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}{label}", None, "") for label, n in numbers.items()
    ]
    figure = new_figure(WIDTH, 1)
    upright = wrap(y_label, int(_HEIGHT * 13))
    left = _LEFT + 0.15 * upright.count("\n")
    texts = [wrap(p.label or p.series, 12) for p in bare]
    slot = max([0.5, *(text_size(figure, t, SMALL)[0] + 0.1 for t in texts)])
    turned = slot * len(bare) > 2.6
    if turned:
        texts = [wrap(p.label or p.series, 24) for p in bare]
        slot = max([0.24, *(text_size(figure, t, SMALL)[1] + 0.08 for t in texts)])
    strip = max(slot * len(bare), text_size(figure, _HEAD, SMALL)[0] + 0.1) if bare else 0.0
    width = max(WIDTH, left + (_NARROWEST if sure else 0) + strip + _RIGHT)
    if not sure:
        strip = width - left - _RIGHT
    across = width - left - _RIGHT - strip
    kinds = {name: "line" if any(p.series == name for p in sure) else "dot" for name in series if name}
    key: list[tuple[str, Arm | None, str]] = [(name, looks[name], kind) for name, kind in kinds.items()]
    limits = _looks_of_bounds(bounds) if sure else {}
    key += [(label, look, "line") for label, look in limits.items()]
    head = wrap(title, int(width * 11.5))
    headline = text_size(figure, head, NORMAL + 1, fontweight="bold")[1] + 0.14 if title else 0.0
    below = 0.1 + headline + key_height(figure, key, width - left)
    top = below + key_height(figure, legend, width - left) + (0.22 if bare else 0.06)
    sizes = [text_size(figure, t, SMALL, rotation=90 if turned else 0)[1] for t in texts]
    height = top + _HEIGHT + max([0.56 if sure else 0.0, *(h + 0.2 for h in sizes)])
    figure.set_size_inches(width, height)
    if title:
        figure.text(0.12 / width, 1 - 0.1 / height, head, va="top", fontsize=NORMAL + 1, fontweight="bold")
    panels, named = [], True
    if sure:
        axes = add_axes(figure, left, top, across, _HEIGHT)
        panels.append(axes)
        _percent(axes, floor)
        for bound in bounds:
            _bounded(axes, bound, limits[bound.label])
        named = _guaranteed(axes, sure, looks, delta, numbers)
    if bare:
        panels.append(add_axes(figure, left + across, top, strip, _HEIGHT, gid=_HEAD))
        _percent(panels[-1], floor)
        _bare(panels[-1], bare, looks, texts, turned, broken=bool(sure))
    panels[0].set_ylabel(upright)
    add_key(figure, key, 0.1 + headline, left)
    add_key(figure, legend, below, left)
    return figure, named


def _check(points: Sequence[EpsilonPoint], delta: float, floor: float) -> None:
    if not points:
        raise ParameterError("success against epsilon needs at least one point")
    if not 0 <= delta < 1:
        raise ParameterError(f"delta={delta} must be at least 0 and below 1, such as 1e-5")
    if not 0 <= floor < 1 or any(p.low < floor for p in points):
        raise ParameterError(f"floor={floor} must lie in [0, 1), and no interval begin below it")
    for p in points:
        where = f"a point of '{p.series}'"
        if p.epsilon is not None and not p.epsilon > 0:
            raise ParameterError(f"{where} has epsilon={p.epsilon}; it must be positive, or None for no guarantee")
        for name in ("rate", "low", "high"):
            if not -1e-9 <= getattr(p, name) <= 1 + 1e-9:
                raise ParameterError(f"{where} has {name}={getattr(p, name)}; give a share of images in [0, 1]")
        if p.low > p.high:
            raise ParameterError(f"{where} has an interval from {p.low} down to {p.high}; swap low and high")


def _guarantee(point: EpsilonPoint) -> float | None:
    return None if point.epsilon is None or math.isinf(point.epsilon) else point.epsilon


def _percent(axes: Axes, floor: float) -> None:
    from matplotlib.ticker import PercentFormatter

    air, step = 0.03 * (1 - floor), 0.2 if floor < 0.5 else 0.1 if floor < 0.75 else 0.05
    axes.set_ylim(floor - air, 1 + air)
    steps = round(1 / step)
    axes.set_yticks([k / steps for k in range(steps + 1) if k / steps >= floor - 1e-9])
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))


def _guaranteed(
    axes: Axes, points: Sequence[EpsilonPoint], looks: dict[str, Arm], delta: float, numbers: dict[str, int]
) -> bool:
    """Draws the points, with the numbers of their labels if there are any; returns whether all labels are written."""
    from matplotlib.transforms import ScaledTranslation

    epsilons = [_guarantee(p) or 0.0 for p in points]
    decades = math.log10(epsilons[-1] / epsilons[0])
    air = 10 ** max(0.07 * decades, 0.12 if decades else 0.5)
    axes.set_xscale("log")
    axes.set_xlim(epsilons[0] / air, epsilons[-1] * air)
    ticks = log_ticks(*axes.get_xlim())
    thin_ticks(axes, ticks, [plain(t) for t in ticks])
    axes.set_xlabel(f"ε at δ = {delta:.2g} (log scale)".replace("e-0", "e-"))
    # Series at one epsilon stand beside each other, so that no interval hides another.
    crowded = len({(p.series, e) for p, e in zip(points, epsilons)}) > len(set(epsilons))
    step = min(4.0, 20.0 / len(looks)) if crowded else 0.0
    taken: list[Box] = []
    places = {}
    for i, (name, look) in enumerate(looks.items()):
        mine = [(e, p) for p, e in zip(points, epsilons) if p.series == name]
        if not mine:
            continue
        aside = (i - (len(looks) - 1) / 2) * step
        beside = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
        x, y = [e for e, _ in mine], [p.rate for _, p in mine]
        _intervals(axes, x, [p for _, p in mine], look, transform=beside)
        axes.plot(
            x,
            y,
            color=look.color,
            linestyle=look.dashes,
            linewidth=1.1,
            marker=look.marker,
            markersize=6,
            transform=beside,
            zorder=3,
        )
        for k, (e, p) in enumerate(mine):
            moved = axes.transData.inverted().transform(beside.transform((e, p.rate)))
            places[id(p)] = tuple(moved)
            taken += beads(axes, (moved[0], p.low), (moved[0], p.high))
            if k:
                taken += beads(axes, places[id(mine[k - 1][1])], places[id(p)])
    spots = [places[id(p)] for p in points]
    if numbers:
        number_points(axes, spots, [numbers.get(p.label) for p in points], avoid=taken)
        return True
    return name_points(axes, spots, [wrap(p.label, 24) for p in points], avoid=taken)


def _looks_of_bounds(bounds: Sequence[Bound]) -> dict[str, Arm]:
    """Grey lines, told apart by their dashes."""
    dashes: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 2)), (0, (6, 2, 1, 2)))
    labels = dict.fromkeys(bound.label for bound in bounds)
    return {label: Arm(QUIET, dashes[i % len(dashes)], "") for i, label in enumerate(labels)}


def _bounded(axes: Axes, bound: Bound, look: Arm) -> None:
    """One bound; a single point is drawn as a level line a fifth of a decade wide."""
    x, y = list(bound.epsilons), list(bound.rates)
    if len(x) == 1:
        x, y = [x[0] / 1.26, x[0] * 1.26], [y[0], y[0]]
    axes.plot(x, y, color=look.color, linestyle=look.dashes, linewidth=0.9, zorder=1)


def _bare(
    axes: Axes,
    points: Sequence[EpsilonPoint],
    looks: dict[str, Arm],
    texts: Sequence[str],
    turned: bool,
    *,
    broken: bool,
) -> None:
    for x, p in enumerate(points):
        look = looks[p.series]
        _intervals(axes, [x], [p], look)
        axes.plot(x, p.rate, color=look.color, linestyle="none", marker=look.marker, markersize=6, zorder=3)
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_xticks(range(len(points)), texts, rotation=90 if turned else 0, fontsize=SMALL)
    axes.grid(False, axis="x")
    axes.annotate(
        _HEAD,
        xy=(0.5, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color=QUIET,
    )
    if broken:
        axes.tick_params(left=False, labelleft=False)
        axes.spines["left"].set(color=FAINT, linewidth=1, linestyle=(0, (4, 3)))


def _intervals(axes: Axes, x: Sequence[float], points: Sequence[EpsilonPoint], look: Arm, **options: Any) -> None:
    middle, half = [(p.low + p.high) / 2 for p in points], [(p.high - p.low) / 2 for p in points]
    axes.errorbar(x, middle, half, color=look.color, fmt="none", linewidth=1.1, capsize=3, zorder=2, **options)
