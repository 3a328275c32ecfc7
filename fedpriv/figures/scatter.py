"""Scatters: one point an image, PSNR against SSIM, or one attack against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import (
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
from fedpriv.metrics.decibels import capped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedpriv.metrics.score import ImageScore, Score

_LEFT, _SIDE = 0.62, 3.1


def psnr_ssim(series: Mapping[str, Sequence[Score]], *, title: str = "") -> Figure:
    """PSNR against SSIM of every image; series differ in colour and in shape.

    Images without a finite reconstruction are drawn hollow, at 0 dB and SSIM 0; exact ones at 100 dB. The threshold
    of success is marked if all series share one.

    Args:
      series: scores by name, such as an attack's or a defense's.
      title: printed above, if given.

    Raises:
      ParameterError: no series, or one without reconstructions of images that have an SSIM.
    """
    if not series:
        raise ParameterError("a scatter needs at least one series of scores")
    points = {name: [i for s in scores for i in s.images if i.ssim is not None] for name, scores in series.items()}
    for name, images in points.items():
        if not images:
            raise ParameterError(f"series '{name}' has no image with both PSNR and SSIM to draw")
    thresholds = {s.threshold_db for scores in series.values() for s in scores}
    entries = [(f"{name}\n{len(points[name])} images", arm(i)) for i, name in enumerate(points)]
    with styled():
        figure, axes = _panel(entries, title, WIDTH - 2.2)
        for (_, look), images in zip(entries, points.values(), strict=True):
            for finite in (True, False):
                mine = [i for i in images if bool(i.finite) is finite]
                x, y = [_decibel(i) for i in mine], [float(i.ssim or 0.0) for i in mine]
                _dots(axes, x, y, look, hollow=not finite)
        if len(thresholds) == 1:
            axes.axvline(thresholds.pop(), color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        highest = max(_decibel(i) for images in points.values() for i in images)
        lowest = min(float(i.ssim or 0.0) for images in points.values() for i in images)
        axes.set_xlim(-0.03 * max(highest, 32), max(1.05 * highest, 32))
        axes.set_ylim(min(-0.04, lowest - 0.04), 1.04)
        axes.set_xlabel("PSNR (dB)")
        axes.set_ylabel("SSIM")
    return figure


def head_to_head(first: Sequence[Score], second: Sequence[Score], names: tuple[str, str], *, title: str = "") -> Figure:
    """PSNR of one attack against another's, image by image; above the diagonal the second is better.

    Colour and shape say which of the two reached the threshold of success, and the legend counts them.

    Args:
      first: scores of the first attack (horizontal), one a batch.
      second: scores of the second (vertical) on the same batches in the same order.
      names: of the two.
      title: printed above, if given.

    Raises:
      ParameterError: the scores are not about the same images, or claim no reconstructions.
    """
    sizes = [[len(s.images) for s in scores] for scores in (first, second)]
    labels = [[i.label for s in scores for i in s.images] for scores in (first, second)]
    if sizes[0] != sizes[1] or labels[0] != labels[1] or not sizes[0]:
        raise ParameterError(
            f"'{names[0]}' and '{names[1]}' must attack the same images in the same batches to be compared image by "
            f"image; their batches have {sizes[0]} and {sizes[1]} images"
        )
    pairs = [(a, b) for s, t in zip(first, second, strict=True) for a, b in zip(s.images, t.images, strict=True)]
    if any(i.psnr is None for pair in pairs for i in pair):
        raise ParameterError("a comparison of PSNR needs reconstructions from both attacks; one claims labels only")
    threshold = first[0].threshold_db
    kinds = {
        "both": [(a, b) for a, b in pairs if a.success and b.success],
        f"only {names[1]}": [(a, b) for a, b in pairs if b.success and not a.success],
        f"only {names[0]}": [(a, b) for a, b in pairs if a.success and not b.success],
        "neither": [(a, b) for a, b in pairs if not a.success and not b.success],
    }
    entries = [(f"{name}: {len(mine)} of {len(pairs)}", arm(i)) for i, (name, mine) in enumerate(kinds.items())]
    with styled():
        figure, axes = _panel(entries, title, _SIDE, f"At {threshold:g} dB or better")
        for (_, look), mine in zip(entries, kinds.values(), strict=True):
            for finite in (True, False):
                some = [(a, b) for a, b in mine if bool(a.finite and b.finite) is finite]
                _dots(axes, [_decibel(a) for a, _ in some], [_decibel(b) for _, b in some], look, hollow=not finite)
        values = [_decibel(i) for pair in pairs for i in pair]
        low, high = min(*values, threshold), max(*values, threshold)
        air = 0.05 * max(high - low, 1.0)
        axes.plot([low - air, high + air], [low - air, high + air], color=QUIET, linewidth=0.9, zorder=1)
        for mark in (axes.axvline, axes.axhline):
            mark(threshold, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.set_xlim(low - air, high + air)
        axes.set_ylim(low - air, high + air)
        axes.set_xlabel(f"{names[0]}: PSNR (dB)")
        axes.set_ylabel(f"{names[1]}: PSNR (dB)")
    return figure


def _decibel(image: ImageScore) -> float:
    return float(capped(image.psnr or 0.0))


def _dots(axes: Axes, x: Sequence[float], y: Sequence[float], look: Arm, hollow: bool) -> None:
    face = "white" if hollow else look.color
    axes.plot(
        x,
        y,
        linestyle="none",
        marker=look.marker,
        markersize=5.5,
        markerfacecolor=face,
        markeredgecolor=look.color if hollow else "white",
        markeredgewidth=1.2 if hollow else 0.5,
        alpha=0.9,
        zorder=3,
        clip_on=False,
    )


def _panel(entries: Sequence[tuple[str, Arm]], title: str, across: float, head: str = "") -> tuple[Figure, Axes]:
    """A figure with axes of that width, and at their right the entries, each behind its marker."""
    figure = new_figure(WIDTH, 1)
    texts = [wrap(text, 24) for text, _ in entries]
    sizes = [text_size(figure, t, SMALL + 0.5) for t in texts]
    headline = text_size(figure, title, NORMAL + 1)[1] + 0.14 if title else 0.0
    tall = max(_SIDE, sum(h + 0.1 for _, h in sizes) + 0.4)
    header = text_size(figure, head, SMALL + 0.5)[0] - 0.2 if head else 0.0
    widest = max(header, *(w for w, _ in sizes))
    width = max(_LEFT + across + 0.52 + widest, 2 * 0.12 + text_size(figure, title or "", NORMAL + 1)[0] * 1.12)
    height = 0.14 + headline + tall + 0.5
    figure.set_size_inches(width, height)
    if title:
        figure.text(0.12 / width, 1 - 0.1 / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
    axes = add_axes(figure, _LEFT, 0.14 + headline, across, tall)
    left, top = _LEFT + across + 0.18, 0.14 + headline + 0.08
    if head:
        figure.text(left / width, 1 - top / height, head, va="center", fontsize=SMALL + 0.5, color=QUIET)
        top += 0.24
    legend = add_axes(figure, left, 0.0, 0.16, height, xlim=(0, 1), ylim=(height, 0))
    legend.set_axis_off()
    for text, (_, tall_text), (_, look) in zip(texts, sizes, entries, strict=True):
        line = tall_text / (text.count("\n") + 1)
        _dots(legend, [0.5], [top + line / 2], look, hollow=False)
        figure.text((left + 0.22) / width, 1 - top / height, text, va="top", fontsize=SMALL + 0.5)
        top += tall_text + 0.1
    return figure, axes
