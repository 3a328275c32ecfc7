"""Cells: single images, or a box that says why there is none, inside a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.figures.style import FAINT, QUIET, SMALL, add_axes, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Space between an image and the text under it, and the height of a line of that text, inches.
LINE_AIR, LINE = 0.06, 0.135

#: An image is at most this many times as high as a cell is wide, and never narrower or lower than this, inches.
_TALLEST, _THINNEST = 1.6, 0.12


def checked_images(x: ArrayLike, what: str) -> np.ndarray:
    """`x` as float64 images `[n, h, w, 1 or 3]`, n > 0.

    Raises:
      ParameterError: they are none; the message begins with `what`.
    """
    images = np.asarray(x, np.float64)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ParameterError(f"{what} must be images [n, h, w, 1 or 3] with n > 0, not {list(images.shape)}")
    return images


def cell_size(shape: tuple[int, ...], cell: float) -> tuple[float, float]:
    """Width and height in inches of images `[..., h, w, c]` in cells `cell` inches wide.

    Pixels are square unless an image is so thin that it would not be seen.
    """
    height, width = shape[-3], shape[-2]
    wide = min(cell, _TALLEST * cell * width / height)
    return max(wide, _THINNEST), max(wide * height / width, _THINNEST)


def draw_image(
    figure: Figure, image: np.ndarray, left: float, top: float, width: float, height: float, text: str = ""
) -> Axes:
    """An image `[h, w, 1 or 3]`, clipped to [0, 1], with words under it; a box saying so if it is not finite.

    Args:
      figure: to draw on.
      image: the image.
      left, top: its upper left corner, inches from the figure's.
      width, height: its size in inches.
      text: words under it.
    """
    if np.isfinite(image).all():
        axes = add_axes(figure, left, top, width, height)
        axes.grid(False)
        axes.imshow(
            np.clip(image if image.shape[-1] == 3 else image[..., 0], 0, 1),
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            aspect="auto",
        )
        _frame(axes)
    else:
        axes = draw_empty(figure, left, top, width, height, "not found" if height < 0.3 else "not\nfound", SMALL)
    if text:
        axes.text(0.5, -LINE_AIR / 2 / height, text, transform=axes.transAxes, ha="center", va="top", fontsize=SMALL)
    return axes


def draw_empty(figure: Figure, left: float, top: float, width: float, height: float, text: str, size: float) -> Axes:
    """A grey box with words in place of an image."""
    axes = add_axes(figure, left, top, width, height, facecolor="#F4F4F4")
    axes.grid(False)
    upright = width < 0.45 < height
    room = max(8, int((height if upright else width) / (size * 0.0085)))
    axes.text(
        0.5,
        0.5,
        text.replace("\n", " ") if upright else wrap(text, room) if height >= 0.3 else text,
        transform=axes.transAxes,
        rotation=90 if upright else 0,
        ha="center",
        va="center",
        color=QUIET,
        fontsize=size,
    )
    _frame(axes)
    return axes


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT, linewidth=0.6)
