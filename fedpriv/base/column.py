"""Column: one number that a score has, and what a table, a comparison or a figure must know to show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a score.

    Attributes:
      name: its key in rows and files, such as `psnr`.
      label: in words, for headings and axes, such as "PSNR".
      unit: such as "dB"; empty where it has none.
      better: which way is better for the attack; None where neither is.
      format: a format specification, such as ".1f".
      cap: values from here on are all as good as each other, and printed as "cap or more"; None where there is none.
      description: one plain sentence.
      together: whether it says what was found of a batch as a whole, whichever example it is of.
    """

    name: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = "higher"
    format: str = ".3g"
    cap: float | None = None
    description: str = ""
    together: bool = False

    @property
    def title(self) -> str:
        """The label with its unit, for an axis or a heading."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float | None) -> str:
        """The value as printed, without its unit; a dash where there is none."""
        if value is None or math.isnan(value):
            return "–"
        if self.cap is not None and value >= self.cap:
            return f"{self.cap:g} or more"
        return format(value, self.format) if math.isfinite(value) else ("∞" if value > 0 else "-∞")

    def best(self, values: list[float]) -> float:
        """The best of `values` for the attack; not-a-number where neither way is better, or there are none."""
        known = [v for v in values if not math.isnan(v)]
        if not known or self.better is None:
            return math.nan
        return max(known) if self.better == "higher" else min(known)
