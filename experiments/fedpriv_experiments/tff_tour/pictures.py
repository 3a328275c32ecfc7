"""Pictures of the tour that no other part of fedpriv draws, and the small copies that its page shows.

    uv run python -m fedpriv_experiments.tff_tour.pictures docs/tour.md docs/images

runs the page's code and keeps what it draws.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fedpriv.figures.style import QUIET, SMALL, add_axes, arm, new_figure, styled
from fedpriv_experiments import script

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches of a picture, and of what stands left of its axes and below them.
WIDE, TALL, LEFT, BELOW = 5.0, 2.4, 0.8, 0.5
#: Largest width of a picture that a page shows, in pixels, and the colours of its palette.
KEPT, COLOURS = 900, 24


def readings(of_clients: Sequence[np.ndarray], mean: float) -> Figure:
    """A row for each client with its readings, degrees Celsius, and a line at the mean of all."""
    with styled():
        figure, axes = _panel(TALL)
        for row, values in enumerate(of_clients):
            axes.plot(values, np.full(len(values), row), "|", color=arm(0).color, markersize=8)
        axes.axvline(mean, color=arm(1).color, label=f"mean of all: {mean:.1f}")
        axes.set(xlabel="Degrees Celsius", ylabel="Client", yticks=range(len(of_clients)))
        axes.grid(False)
        axes.legend(loc="lower right", frameon=False)
    return figure


def bars(lengths: Mapping[str, float], label: str) -> Figure:
    """A bar for each name, from the top, with its length beside it."""
    with styled():
        figure, axes = _panel(0.6 + 0.35 * len(lengths))
        drawn = axes.barh(list(lengths), list(lengths.values()), color=arm(0).color, height=0.6)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=SMALL + 0.5, color=QUIET)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(lengths.values()))
        axes.set_xlabel(label)
        axes.grid(False)
    return figure


def curve(points: Sequence[tuple[float, float]], across: str, up: str) -> Figure:
    """Points (x, y), joined in the order of x."""
    with styled():
        figure, axes = _panel(TALL)
        look = arm(0)
        axes.plot(*zip(*sorted(points), strict=True), color=look.color, marker=look.marker)
        axes.set(xlabel=across, ylabel=up)
    return figure


def follow(page: str, folder: Path) -> dict[str, Any]:
    """Runs a page's Python, block after block, in a folder; the names that it leaves."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for block in re.findall(r"```python\n(.*?)```", page, re.S):
            exec(block, names)
    return names


def keep(drawn: Path, kept: Path) -> None:
    """A copy of a picture for a page: no wider than `KEPT` pixels, with a small palette."""
    from PIL import Image

    image = Image.open(drawn).convert("RGB")
    if image.width > KEPT:
        image = image.resize((KEPT, round(image.height * KEPT / image.width)), Image.Resampling.LANCZOS)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(kept, optimize=True)


def main(
    page: Annotated[Path, typer.Argument(help="The page.")],
    images: Annotated[Path, typer.Argument(help="Folder of the copies.")],
) -> None:
    """Runs the page's code and keeps small copies of its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        follow(page.read_text(encoding="utf-8"), Path(folder))
        for drawn in sorted((Path(folder) / "tour").glob("*.png")):
            keep(drawn, images / f"tour_{drawn.name}")


def _panel(tall: float) -> tuple[Figure, Axes]:
    figure = new_figure(WIDE, tall)
    return figure, add_axes(figure, LEFT, 0.15, WIDE - LEFT - 0.2, tall - 0.15 - BELOW)


if __name__ == "__main__":
    script.run(main)
