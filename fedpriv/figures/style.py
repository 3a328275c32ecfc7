"""Style: one look for every figure: colours that colour-blind readers tell apart, text readable in print.

Figures are made with `new_figure` inside `with styled():`. Nothing goes through pyplot, so no window, no backend
choice and no list of open figures of the program that calls us is touched.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours (2008), without the yellow, which fades on white; the strongest first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Line and marker change with the colour, so that a grey print still tells arms apart.
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Greys for frames and reference lines, and for words beside them.
FAINT, QUIET = "#BBBBBB", "#555555"
#: Full text width of a printed page, inches.
WIDTH = 6.5
#: Font sizes in points at WIDTH; nothing is set smaller than SMALL.
NORMAL, SMALL = 9.0, 7.5

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture on every machine
    "font.size": NORMAL,
    "axes.titlesize": NORMAL + 1,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL + 0.5,
    "ytick.labelsize": SMALL + 0.5,
    "legend.fontsize": SMALL + 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # real fonts: text in the PDF can be searched and edited
    "text.usetex": False,
    "mathtext.fontset": "dejavusans",
}


@dataclass(frozen=True)
class Arm:
    """How one arm (series) of a figure is drawn.

    Attributes:
      color: hex colour.
      dashes: matplotlib line style.
      marker: matplotlib marker.
    """

    color: str
    dashes: Any
    marker: str


def arm(index: int) -> Arm:
    """The look of the arm with this index; after seven, colours repeat with other dashes and markers."""
    turn, i = divmod(index, len(PALETTE))
    return Arm(PALETTE[i], DASHES[(i + turn) % len(DASHES)], MARKERS[(i + turn) % len(MARKERS)])


@contextmanager
def styled() -> Iterator[None]:
    """The style, while the block runs; the program's own settings come back afterwards.

    A sign that the font lacks, as of an emoji, stands as one for its script; that is to be seen, and no warning.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change published figures
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches with an off-screen canvas of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
    """Axes at a place given in inches from the figure's upper left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h), **options)


def text_size(figure: Figure, text: str, size: float = NORMAL, **options: Any) -> tuple[float, float]:
    """Width and height in inches that `text` takes at `size` points."""
    artist = figure.text(0, 0, text, fontsize=size, **options)
    box = artist.get_window_extent()
    artist.remove()
    return box.width / figure.dpi, box.height / figure.dpi


def wrap(text: str, width: int) -> str:
    """`text` broken into lines of about `width` characters: at spaces, never within words or beside = and <."""
    text = re.sub(r" ([=<>≤≥]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    lines = (textwrap.wrap(line, width, break_long_words=False) or [""] for line in text.split("\n"))
    return "\n".join(part for line in lines for part in line)


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Places for labels along a line, near where they are wanted but clear of each other.

    Args:
      wanted: the centre each label would like.
      sizes: the room each takes.
      low, high: the ends of the line. If the labels do not fit between them, they stick out of both ends evenly.

    Returns:
      Centres, in the order given. Neighbours keep the order of their wishes.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Clusters of labels that touch: each sits where its members' mean displacement is zero.
    clusters: list[tuple[list[int], float]] = []
    for i in order:
        members, start = [i], _start([i], wanted, sizes, low, high)
        while clusters and clusters[-1][1] + sum(sizes[j] for j in clusters[-1][0]) > start:
            members = clusters.pop()[0] + members
            start = _start(members, wanted, sizes, low, high)
        clusters.append((members, start))
    centres = [0.0] * len(wanted)
    for members, start in clusters:
        for i in members:
            centres[i] = start + sizes[i] / 2
            start += sizes[i]
    return centres


def _start(members: list[int], wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> float:
    total, before, shift = sum(sizes[i] for i in members), 0.0, 0.0
    for i in members:
        shift += wanted[i] - before - sizes[i] / 2
        before += sizes[i]
    if total > high - low:
        return (low + high - total) / 2
    return min(max(shift / len(members), low), high - total)


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]], size: float = SMALL + 0.5) -> None:
    """Names each line at the right of the axes, at the height where it ends; labels never touch each other.

    Args:
      axes: with its final limits and scale; at its right there must be room.
      ends: (text, last y value, colour) of each line.
      size: font size in points.
    """
    figure: Any = axes.figure
    box = axes.get_position()
    height = box.height * figure.get_size_inches()[1]
    wanted = [axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[1] for _, y, _ in ends]
    sizes = [(text_size(figure, text, size)[1] + 0.04) / height for text, _, _ in ends]
    for (text, _, color), want, place in zip(ends, wanted, spread(wanted, sizes, 0, 1), strict=True):
        axes.annotate(
            text,
            xy=(1, min(max(want, 0), 1)),
            xytext=(12, (place - want) * height * 72 if 0 <= want <= 1 else 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=color,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
