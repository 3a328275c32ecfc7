"""Decibels: how far a PSNR counts where images are taken together, and how it is then written.

An exact image has infinitely many dB, and one that is right to the last bits of float32 has 100 or 140, by luck. Both
are the original: from 59 dB on, rounding to 8-bit levels gives it back. So there is one rule. Whatever is taken over
images (means, medians, their intervals, the best and the worst, differences, places in a figure) counts an image's
PSNR as at most `PSNR_CAP`, and a number that reaches it is written as "100 or more". A single image's own PSNR stays
what it is.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fedpriv.base.types import ArrayLike

#: In dB.
PSNR_CAP = 100.0


def capped(psnr: ArrayLike) -> Any:
    """PSNR in dB, one or an array `[...]`, as it counts where images are taken together."""
    return np.minimum(psnr, PSNR_CAP)


def decibels(value: float | tuple[float, float] | None, unit: Literal["", " dB"] = "") -> str:
    """A PSNR taken over images, or its interval (low, high), in words: "31.4", "28.0 to 35.2", "100 or more"."""
    if value is None:
        return "none"
    low, high = value if isinstance(value, tuple | list) else (value, value)
    if high >= PSNR_CAP:
        return f"{PSNR_CAP:g}{unit} or more" if low >= PSNR_CAP else f"{low:.1f}{unit} or more"
    return f"{low:.1f}{unit}" if low == high else f"{low:.1f} to {high:.1f}{unit}"
