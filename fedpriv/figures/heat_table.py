"""Heat table: a number for each pair of two lists, such as the PSNR of each attack on each model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import NORMAL, QUIET, SMALL, add_axes, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARGIN, _CELL, _TALL = 0.12, 0.95, 0.4
_BLANK = (0.957, 0.957, 0.957, 1.0)


def _balanced(text: str, width: int) -> str:
    """`text` wrapped to no more lines than `width` takes, of lengths as alike as can be."""
    lines = wrap(text, width).count("\n")
    return next(w for w in (wrap(text, k) for k in range(1, width + 1)) if w.count("\n") <= lines)


def heat_table(
    values: Mapping[str, Mapping[str, float | None]],
    *,
    label: str = "Median PSNR (dB)",
    notes: Mapping[str, Mapping[str, str]] | None = None,
    show: Callable[[float], str] = "{:.1f}".format,
    low: float | None = None,
    high: float | None = None,
    title: str = "",
) -> Figure:
    """Draws a table whose cells are shaded by their number, which stands in them.

    The shades (cividis) grow lighter with the number, in a grey print as well.

    Args:
      values: by row, by column; rows may lack columns. None, or not-a-number, is drawn as a dash; infinity as ∞.
      label: what the numbers are, printed below.
      notes: by row, by column: small words under the number, such as a success rate.
      show: how a number is written.
      low, high: numbers of the darkest and the lightest shade; by default the least and the greatest.
      title: printed above, if given.

    Raises:
      ParameterError: no rows, or no columns.
    """
    import matplotlib
    import matplotlib.patches

    columns = list(dict.fromkeys(c for row in values.values() for c in row))
    if not columns:
        raise ParameterError("a heat table needs at least one row with one column")
    finite = [v for row in values.values() for v in row.values() if v is not None and math.isfinite(v)]
    least = min(finite, default=0.0) if low is None else low
    most = max(finite, default=1.0) if high is None else high
    with styled():
        figure = new_figure(1, 1)
        shades = matplotlib.colormaps["cividis"]
        heads = [_balanced(c, 14) for c in columns]
        names = {row: wrap(row, 24) for row in values}
        said = {row: {c: (notes or {}).get(row, {}).get(c, "") for c in columns} for row in values}
        widths = [text_size(figure, h, NORMAL)[0] for h in heads]
        widths += [text_size(figure, t, SMALL)[0] for r in said.values() for t in r.values() if t]
        across = max(_CELL, max(widths) + 0.14)
        left = _MARGIN + max(text_size(figure, n, NORMAL)[0] for n in names.values()) + 0.12
        top = max(text_size(figure, h, NORMAL)[1] for h in heads) + 0.1
        lines = [t.count("\n") + 1 for r in said.values() for t in r.values() if t]
        tall = max(
            _TALL + 0.13 * max(lines, default=0), *(text_size(figure, n, NORMAL)[1] + 0.1 for n in names.values())
        )
        headline = text_size(figure, title, NORMAL + 1)[1] + 0.14 if title else 0.0
        width = max(
            left + across * len(columns) + _MARGIN,
            2 * _MARGIN + text_size(figure, title or " ", NORMAL + 1, fontweight="bold")[0],
            2 * _MARGIN + text_size(figure, label or " ", NORMAL)[0],
        )
        height = _MARGIN + headline + top + tall * len(values) + (0.34 if label else _MARGIN)
        figure.set_size_inches(width, height)
        if title:
            figure.text(_MARGIN / width, 1 - 0.1 / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
        span = across * len(columns), tall * len(values)
        axes = add_axes(figure, left, _MARGIN + headline + top, *span, xlim=(0, len(columns)), ylim=(len(values), 0))
        axes.set_axis_off()
        for c, head in enumerate(heads):
            axes.text(c + 0.5, -0.06 / tall, head, ha="center", va="bottom", fontsize=NORMAL)
        for r, row in enumerate(values):
            axes.text(-0.12 / across, r + 0.5, names[row], ha="right", va="center", fontsize=NORMAL)
            for c, column in enumerate(columns):
                value, note = values[row].get(column), said[row][column]
                number = None if value is None or math.isnan(value) else value
                face = _BLANK if number is None else shades(_share(number, least, most))
                ink = QUIET if number is None else "black" if _luminance(face) > 0.5 else "white"
                place = (c, r), 1, 1
                axes.add_patch(matplotlib.patches.Rectangle(*place, facecolor=face, edgecolor="white", linewidth=2))
                y = r + 0.5 - (0.07 * (note.count("\n") + 1) / tall if note else 0)
                axes.text(c + 0.5, y, _written(number, show), ha="center", va="center", fontsize=NORMAL, color=ink)
                if note:
                    below = y + 0.09 / tall
                    axes.text(c + 0.5, below, note, ha="center", va="top", fontsize=SMALL, color=ink)
        if label:
            figure.text(left / width, 0.1 / height, label, va="bottom", fontsize=NORMAL, color=QUIET)
    return figure


def _share(value: float, least: float, most: float) -> float:
    """Where a value lies between the darkest and the lightest shade, in [0, 1]."""
    if not math.isfinite(value) or most <= least:
        return 0.0 if value == -math.inf else 1.0
    return min(1.0, max(0.0, (value - least) / (most - least)))


def _luminance(color: tuple[float, ...]) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def _written(value: float | None, show: Callable[[float], str]) -> str:
    if value is None:
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else show(value).replace("-", "−")
