"""Reconstruction grid: originals above what an attack made of them, one row for each defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.figures.cells import LINE, LINE_AIR, cell_size, checked_images, draw_empty, draw_image
from fedpriv.figures.style import NORMAL, SMALL, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.metrics.score import Score

_MARGIN, _GAP = 0.12, 0.1


def reconstruction_grid(
    originals: ArrayLike,
    rows: Mapping[str, Any],
    captions: Mapping[str, Sequence[str]] | None = None,
    *,
    original_label: str = "Original",
    columns: int = 6,
    cell: float = 0.82,
    title: str = "",
) -> Figure:
    """Draws originals and reconstructions in aligned columns.

    Args:
      originals: images `[n, h, w, c]` in [0, 1], c = 1 (drawn grey) or 3.
      rows: by row label, from top to bottom: images like the originals and in their order (one that is not finite
        gets a crossed cell saying so), or None where the attack had nothing to reconstruct from, or a text saying
        what happened instead.
      captions: by row label, n texts to put under the images, such as `quality_captions(score)`.
      original_label: label of the originals' rows; `captions` may name it too.
      columns: images side by side; more go into further blocks below.
      cell: width of an image in inches; tall ones are narrower.
      title: printed above, if given.

    Raises:
      ParameterError: images of other shapes than the originals', or captions of another number.
    """
    originals = checked_images(originals, "originals")
    captions = dict(captions or {})
    n = len(originals)
    content: dict[str, Any] = {original_label: originals, **rows}
    for label, images in content.items():
        if images is not None and not isinstance(images, str) and np.shape(images) != originals.shape:
            raise ParameterError(
                f"row '{label}' has images {list(np.shape(images))}, but the originals are {list(originals.shape)}"
            )
    for label, texts in captions.items():
        if label not in content or len(texts) != n:
            raise ParameterError(f"captions for '{label}': {len(texts)} texts for {n} images of rows {list(content)}")

    columns = -(-n // -(-n // columns))  # as many blocks as needed, evenly filled
    wide, tall = cell_size(originals.shape, cell)
    with styled():
        figure = new_figure(1, 1)
        names = {label: wrap(label, 18) for label in content}
        left = _MARGIN + max(text_size(figure, name, NORMAL)[0] for name in names.values()) + 0.14
        across = max([wide, *(text_size(figure, t, SMALL)[0] + 0.04 for texts in captions.values() for t in texts)])
        lines = {label: max((t.count("\n") + 1 for t in captions.get(label, ()) if t), default=0) for label in content}
        heights = {
            label: max(
                tall + (lines[label] * LINE + LINE_AIR if lines[label] else 0),
                text_size(figure, names[label], NORMAL)[1],
            )
            for label in content
        }
        headline = 0.32 if title else 0.0
        block = sum(heights.values()) + _GAP * len(content)
        blocks = -(-n // columns)
        width = left + columns * across + (columns - 1) * 0.06 + _MARGIN
        height = _MARGIN + headline + blocks * block + (blocks - 1) * 0.15
        if title:
            title = wrap(title, max(20, int(width / 0.085)))
            extra = text_size(figure, title, NORMAL + 1)[1]
            headline, height = extra + 0.16, height - headline + extra + 0.16
        figure.set_size_inches(width, height)
        if title:
            figure.text(_MARGIN / width, 1 - _MARGIN / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
        for b in range(blocks):
            top = _MARGIN + headline + b * (block + 0.15)
            for label, images in content.items():
                figure.text(
                    (left - 0.14) / width,
                    1 - (top + tall / 2) / height,
                    names[label],
                    ha="right",
                    va="center",
                    fontsize=NORMAL,
                    fontweight="bold" if label == original_label else "normal",
                )
                shown = range(b * columns, min(n, (b + 1) * columns))
                if images is None or isinstance(images, str):
                    span = len(shown) * across + (len(shown) - 1) * 0.06
                    draw_empty(figure, left, top, span, tall, images or "no image to reconstruct", NORMAL)
                else:
                    for k, i in enumerate(shown):
                        x = left + k * (across + 0.06) + (across - wide) / 2
                        text = captions[label][i] if label in captions else ""
                        draw_image(figure, np.asarray(images[i], np.float64), x, top, wide, tall, text)
                top += heights[label] + _GAP
    return figure


def quality_captions(score: Score) -> list[str]:
    """Texts for under a row of reconstructions: PSNR in dB and SSIM of each original's match."""
    texts = []
    for image in score.images:
        if image.psnr is None:
            texts.append("")
            continue
        lines = [f"{image.psnr:.1f} dB" if image.psnr != float("inf") else "exact"]
        if image.ssim is not None:
            lines.append(f"SSIM {image.ssim:.2f}")
        texts.append("\n".join(lines))
    return texts
