"""Closeness: how near a finding comes to the truth, and how near one comes who knows nothing of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedpriv.metrics.matching import UNMATCHED, label_accuracy, match
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth

#: dB at which examples count as exact; keeps differences finite.
EXACT = 150.0


@dataclass(frozen=True)
class Closeness:
    """What a finding got right.

    Attributes:
      psnr: dB of the mean squared error over the batch, matched one-to-one; None without reconstructions.
      labels: fraction of the labels found; None without labels.
    """

    psnr: float | None
    labels: float | None


NOTHING = Closeness(0.0, 0.0)


def closeness(finding: Finding, truth: Truth) -> Closeness:
    """How near `finding` is. What is missing or not finite has an error of 1, as in `fedpriv.metrics.score`."""
    psnr = None
    if finding.x is not None:
        found = np.clip(np.asarray(finding.x, np.float64), 0.0, 1.0)[: len(truth.x)]
        which = match(found, truth.x)
        errors = [1.0 if j == UNMATCHED else float(np.mean((found[j] - x) ** 2)) for j, x in zip(which, truth.x)]
        psnr = _psnr(float(np.mean([e if math.isfinite(e) else 1.0 for e in errors])))
    return Closeness(psnr, None if finding.y is None else label_accuracy(finding.y[: len(truth.y)], truth.y))


def blank(truth: Truth) -> float:
    """PSNR in dB of the best examples of one single value: what who knows only the mean brightness gets."""
    return _psnr(float(np.mean((np.asarray(truth.x, np.float64) - np.mean(truth.x)) ** 2)))


def _psnr(error: float) -> float:
    return min(EXACT, -10 * math.log10(max(error, 1e-300)))
