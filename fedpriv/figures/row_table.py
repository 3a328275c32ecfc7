"""Row table: rows of a table, and what an attack made of them, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.figures.style import FAINT, NORMAL, QUIET, SMALL, add_axes, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARGIN, _PAD, _LINE, _GAP = 0.12, 0.07, 0.145, 0.09
#: Characters to a line of a cell, and grey of a cell that the attack knows nothing of.
_WRAP, _DARKEST = 14, 0.68
#: What stands before a cell that is right, and one that is wrong.
RIGHT, WRONG = "✓", "✗"


def row_table(
    columns: Sequence[str],
    original: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    right: ArrayLike,
    uncertainty: ArrayLike | None = None,
    accuracy: Sequence[str] = (),
    *,
    title: str = "",
    note: str = "",
) -> Figure:
    """Draws each original row above its reconstruction.

    A cell that is right begins with a tick; one that is wrong with a cross, in bold and framed. The darker a cell, the
    less sure the attack was of it.

    Args:
      columns: names of the k columns.
      original: n rows of k texts.
      found: likewise what was found; empty texts where nothing was.
      right: bool `[n, k]`.
      uncertainty: `[n, k]` in [0, 1], or None where the attack does not say.
      accuracy: k texts for a last line, such as "83%".
      title: printed above, if given.
      note: printed below.

    Raises:
      ParameterError: no rows, or parts of different sizes.
    """
    import matplotlib.patches

    n, k = len(original), len(columns)
    hits = np.asarray(right, bool)
    unsure = None if uncertainty is None else np.asarray(uncertainty, np.float64)
    shapes = [hits.shape, *([] if unsure is None else [unsure.shape])]
    whole = all(len(row) == k for row in (*original, *found)) and len(found) == n and len(accuracy) in (0, k)
    if not n or not k or not whole or any(shape != (n, k) for shape in shapes):
        raise ParameterError(
            f"a row table needs originals, reconstructions and marks of one size; got {n} and {len(found)} rows of "
            f"{k} columns, with marks {[list(shape) for shape in shapes]}"
        )
    marked = [
        [f"{RIGHT if ok else WRONG} {wrap(text, _WRAP)}" if text else f"{WRONG} none" for text, ok in zip(row, oks)]
        for row, oks in zip(found, hits)
    ]
    shown = [[wrap(text, _WRAP) for text in row] for row in original]
    heads = [wrap(name.replace("_", " "), _WRAP) for name in columns]
    side = ("original", "found", "right")
    with styled():
        figure = new_figure(1, 1)

        def size(text: str, **options: str) -> float:
            return text_size(figure, text, SMALL, **options)[0]

        widths = [
            2 * _PAD
            + max(
                size(heads[c], fontweight="bold"),
                *(size(row[c]) for row in shown),
                *(size(row[c], fontweight="bold") for row in marked),
            )
            for c in range(k)
        ]
        left = _MARGIN + max(size(text) for text in side) + size("00 ") + 0.1
        head = _tall(heads)
        heights = [(_tall(a), _tall(b)) for a, b in zip(shown, marked)]
        headline = text_size(figure, title, NORMAL + 1)[1] + 0.16 if title else 0.0
        body = head + sum(a + b + _GAP for a, b in heights) + (_LINE + 2 * _PAD if accuracy else 0)
        width = max(left + sum(widths) + _MARGIN, 2 * _MARGIN + text_size(figure, title or " ", NORMAL + 1)[0])
        note = wrap(note, max(30, int((width - 2 * _MARGIN) / 0.06)))
        below = text_size(figure, note, SMALL)[1] + 0.12 if note else 0.0
        key = 0.24 if unsure is not None else 0.0
        height = _MARGIN + headline + body + key + below + _MARGIN
        figure.set_size_inches(width, height)
        if title:
            figure.text(_MARGIN / width, 1 - _MARGIN / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
        span = sum(widths)
        axes = add_axes(figure, left, _MARGIN + headline, span, body, xlim=(0, span), ylim=(body, 0))
        axes.set_axis_off()
        edges = np.concatenate([[0.0], np.cumsum(widths)])

        def write(c: int, top: float, tall: float, text: str, bold: bool = False) -> None:
            weight = "bold" if bold else "normal"
            axes.text(edges[c] + _PAD, top + tall / 2, text, va="center", fontsize=SMALL, fontweight=weight)

        def label(top: float, tall: float, text: str) -> None:
            axes.text(-0.08, top + tall / 2, text, ha="right", va="center", fontsize=SMALL, color=QUIET)

        for c, name in enumerate(heads):
            write(c, 0, head, name, bold=True)
        top = head
        for i, (above, under) in enumerate(heights):
            axes.plot([-left, span], [top, top], color=FAINT, linewidth=0.6, clip_on=False)
            top += _GAP / 2
            label(top, above, f"{i + 1} {side[0]}")
            label(top + above, under, side[1])
            for c in range(k):
                write(c, top, above, shown[i][c])
                ok = bool(hits[i, c])
                face = 1.0 if unsure is None else 1 - (1 - _DARKEST) * float(np.clip(unsure[i, c], 0, 1))
                box = (edges[c] + 0.02, top + above + 0.01), widths[c] - 0.04, under - 0.02
                axes.add_patch(
                    matplotlib.patches.Rectangle(
                        *box, facecolor=str(face), edgecolor="none" if ok else "black", linewidth=0 if ok else 1.0
                    )
                )
                write(c, top + above, under, marked[i][c], bold=not ok)
            top += above + under + _GAP / 2
        if accuracy:
            axes.plot([-left, span], [top, top], color=QUIET, linewidth=1.0, clip_on=False)
            label(top, body - top, side[2])
            for c, text in enumerate(accuracy):
                write(c, top, body - top, text)
        at = _MARGIN + headline + body + 0.06
        if unsure is not None:
            _key(figure, left, at)
        if note:
            figure.text(_MARGIN / width, _MARGIN / height, note, va="bottom", fontsize=SMALL, color=QUIET)
    return figure


def _tall(texts: Sequence[str]) -> float:
    """Height of a line of cells, inches."""
    return max(text.count("\n") + 1 for text in texts) * _LINE + _PAD


def _key(figure: Figure, left: float, top: float) -> None:
    """What the shades mean."""
    axes = add_axes(figure, left + 0.5, top, 0.9, 0.12)
    axes.imshow(np.linspace(1, _DARKEST, 64)[None], cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT, linewidth=0.6)
    for at, side, text in ((-0.06, "right", "sure"), (1.06, "left", "unsure")):
        axes.text(at, 0.5, text, ha=side, va="center", fontsize=SMALL, color=QUIET, transform=axes.transAxes)
