"""Mosaic: many small images a panel, such as all that one update gave away beside all that were behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.figures.cells import checked_images, draw_empty, draw_image
from fedpriv.figures.style import NORMAL, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARGIN, _GAP, _BLANK = 0.12, 0.18, 0.87


def mosaic(
    panels: Mapping[str, ArrayLike | None],
    notes: Mapping[str, str] | None = None,
    *,
    columns: int = 4,
    panel: float = 1.75,
) -> Figure:
    """Draws panels of images in a square each, in their order; an image that is not finite is left blank.

    Args:
      panels: by label, images `[n, h, w, c]` in [0, 1], c = 1 (drawn grey) or 3, or None where there is nothing to
        draw.
      notes: by label, what stands under a panel, such as how many were found; in a panel without images, in it.
      columns: panels side by side.
      panel: a panel's width in inches.

    Raises:
      ParameterError: no panel, or one whose images are none.
    """
    if not panels:
        raise ParameterError("a mosaic needs at least one panel")
    tiles = {
        label: None if images is None else _tiled(checked_images(images, f"panel '{label}'"))
        for label, images in panels.items()
    }
    with styled():
        figure = new_figure(1, 1)
        across = min(columns, len(panels))
        heads = {label: wrap(label, int(panel / 0.075)) for label in panels}
        head = max(text_size(figure, h, NORMAL)[1] for h in heads.values()) + 0.06
        foot = 0.2 if notes else 0.0
        shapes = [t.shape for t in tiles.values() if t is not None]
        tall = panel * max((h / w for h, w, _ in shapes), default=1.0)
        rows = -(-len(panels) // across)
        block = head + tall + foot + _GAP
        figure.set_size_inches(2 * _MARGIN + across * panel + (across - 1) * _GAP, 2 * _MARGIN + rows * block - _GAP)
        width, height = figure.get_size_inches()
        for i, (label, tile) in enumerate(tiles.items()):
            left = _MARGIN + (i % across) * (panel + _GAP)
            top = _MARGIN + (i // across) * block
            middle, note = (left + panel / 2) / width, (notes or {}).get(label, "")
            figure.text(
                middle, 1 - (top + head - 0.04) / height, heads[label], ha="center", va="bottom", fontsize=NORMAL
            )
            if tile is None:
                draw_empty(figure, left, top + head, panel, tall, note or "nothing to draw", NORMAL)
                continue
            draw_image(figure, tile, left, top + head, panel, panel * tile.shape[0] / tile.shape[1], note)
    return figure


def _tiled(images: np.ndarray) -> np.ndarray:
    """Images `[n, h, w, c]` as one `[height, width, c]`, in a square with a line between them."""
    n, h, w, c = images.shape
    side = math.ceil(math.sqrt(n))
    rows = -(-n // side)
    tiled = np.ones((rows * (h + 1) - 1, side * (w + 1) - 1, c))
    for i, image in enumerate(images):
        top, left = (i // side) * (h + 1), (i % side) * (w + 1)
        finite = np.isfinite(image).all()
        tiled[top : top + h, left : left + w] = np.clip(image, 0, 1) if finite else _BLANK
    return tiled
