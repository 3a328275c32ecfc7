"""Counting: how many clients a share of them is."""

from __future__ import annotations

import functools
from fractions import Fraction


@functools.cache
def exact(share: float) -> Fraction:
    """A share as it was meant: as floats, 0.29 * 100 is below 29; a third is the fraction, not 16 decimals of it."""
    written = Fraction(str(share))
    simple = written.limit_denominator(10_000)
    return simple if float(simple) == share else written
