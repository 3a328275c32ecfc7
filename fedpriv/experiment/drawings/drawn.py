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
