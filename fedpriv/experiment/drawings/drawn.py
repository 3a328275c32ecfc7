"""Drawn: a figure of an experiment's results with its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A figure with its words.

    Attributes:
      stem: of its files.
      heading: of its section.
      caption: below it.
      alt: for those who cannot see it.
      draw: makes it.
    """

    stem: str
    heading: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


def part_stem(stem: str, part: int, parts: int) -> str:
    """The stem of one of `parts` figures, counted from 1; an only one has no number."""
    return stem if parts == 1 else f"{stem}_{part}"


def part_of(part: int, parts: int) -> str:
    """ " (2 of 3)", for the heading of one of several; "" for an only one."""
    return f" ({part} of {parts})" if parts > 1 else ""
