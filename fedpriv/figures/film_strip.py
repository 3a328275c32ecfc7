"""Film strip: an attack's reconstructions as they came to be, one row an image, the original at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.figures.cells import LINE, LINE_AIR, cell_size, checked_images, draw_empty, draw_image
from fedpriv.figures.style import NORMAL, SMALL, new_figure, styled, text_size, wrap
from fedpriv.metrics.progress import Progress, log_spaced, progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.threat.attack import Finding

_MARGIN, _BETWEEN, _GAP, _APART = 0.12, 0.06, 0.1, 0.2


def film_strip(
    finding: Finding | Progress,
    originals: ArrayLike,
    *,
    frames: int = 7,
    images: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    cell: float = 0.7,
    title: str = "",
) -> Figure:
    """Draws the optimization: columns are gradient evaluations, evenly spaced on a logarithmic scale.

    Under each frame stands its PSNR in dB. Reconstructions are matched to the originals one-to-one by where the attack
    ended. Evaluations are those of the start that was kept.

    Args:
      finding: with a history and a path; or its progress, of which every point has images.
      originals: images `[n, h, w, c]` in [0, 1], c = 1 or 3, that the attack was after.
      frames: most columns beside the original; the first and the last point are always among them.
      images: which originals to show, by index; by default the first eight.
      names: a name for each row shown; by default "Image 1" and so on, or none for a single one.
      cell: width of an image in inches; tall ones are narrower.
      title: printed above, if given.

    Raises:
      ParameterError: a finding without a path, one that does not fit the originals, or images that are not there.
    """
    true = checked_images(originals, "originals")
    way = finding if isinstance(finding, Progress) else progress(finding, true)
    shown = list(range(min(len(true), 8))) if images is None else [int(i) for i in images]
    if not shown or min(shown) < 0 or max(shown) >= len(true):
        raise ParameterError(f"images={shown} must be indices of {len(true)} originals")
    if names is None:
        names = [f"Image {i + 1}" for i in shown] if len(true) > 1 else [""]
    if len(names) != len(shown) or frames < 2:
        raise ParameterError(f"a film strip needs 2 frames or more and a name for each of {len(shown)} rows")
    chosen = log_spaced(way.evaluations, frames)

    wide, tall = cell_size(true.shape, cell)
    with styled():
        figure = new_figure(1, 1)
        heads = [f"{int(way.evaluations[k]):,d}" for k in chosen]
        texts = [[_decibel(way.psnr[k, i]) for k in chosen] for i in shown]
        corner = "Gradient\nevaluations"
        labels = [wrap(name, 18) for name in names]
        left = _MARGIN + max(text_size(figure, t, SMALL)[0] for t in [corner, *labels] if t) + 0.12
        words = [*heads, "Original", *(t for row in texts for t in row)]
        across = max([wide, *(text_size(figure, t, SMALL)[0] + 0.04 for t in words)])
        headline = 0.0
        width = left + (len(chosen) + 1) * across + (len(chosen) - 1) * _BETWEEN + _APART + _MARGIN
        if title:
            title = wrap(title, max(20, int(width / 0.085)))
            headline = text_size(figure, title, NORMAL + 1)[1] + 0.14
            width = max(width, 2 * _MARGIN + text_size(figure, title, NORMAL + 1, fontweight="bold")[0])
        strip = text_size(figure, corner, SMALL)[1] + 0.08
        row = max(tall + LINE + LINE_AIR, *(text_size(figure, t, SMALL)[1] for t in labels)) + _GAP
        height = _MARGIN + headline + strip + len(shown) * row
        figure.set_size_inches(width, height)
        if title:
            figure.text(_MARGIN / width, 1 - _MARGIN / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")

        def place(column: int) -> float:
            return left + column * (across + _BETWEEN) + (_APART - _BETWEEN if column == len(chosen) else 0)

        top = _MARGIN + headline

        def word(text: str, x: float, y: float, align: Any, weight: str = "normal") -> None:
            figure.text(x / width, 1 - y / height, text, ha=align, va="center", fontsize=SMALL, fontweight=weight)

        middle = top + (strip - 0.08) / 2
        word(corner, left - 0.12, middle, "right")
        for column, head in enumerate([*heads, "Original"]):
            word(head, place(column) + across / 2, middle, "center", "normal" if column < len(chosen) else "bold")
        for r, (i, label) in enumerate(zip(shown, labels, strict=True)):
            y = top + strip + r * row
            if label:
                word(label, left - 0.12, y + tall / 2, "right")
            for column, k in enumerate(chosen):
                x = place(column) + (across - wide) / 2
                if np.isnan(way.x[:, i]).all():
                    draw_empty(figure, x, y, wide, tall, "none", SMALL)
                else:
                    draw_image(figure, way.x[k, i].astype(np.float64), x, y, wide, tall, texts[r][column])
            draw_image(figure, true[i], place(len(chosen)) + (across - wide) / 2, y, wide, tall)
    return figure


def _decibel(value: float) -> str:
    return "exact" if np.isinf(value) else f"{value:.1f} dB"
