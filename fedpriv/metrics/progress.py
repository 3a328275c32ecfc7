"""Progress: how good an attack's reconstructions were along its way, for film strips and curves."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of
from fedpriv.metrics.image import psnr_of_mse
from fedpriv.metrics.matching import UNMATCHED, match

if TYPE_CHECKING:
    from fedpriv.threat.attack import Finding


@dataclass(frozen=True)
class Progress:
    """What an attack held at some points of its chosen start.

    Attributes:
      evaluations: `[k]` float64, gradient evaluations spent by then, increasing.
      x: `[k, n, *input_shape]` float32, valid examples, in the originals' order; not-a-number where there is none.
      psnr: `[k, n]` dB over the range of values; infinite if exact, 0 where there is none.
      objective: `[k]` float64, the attack's own objective.
    """

    evaluations: np.ndarray
    x: np.ndarray
    psnr: np.ndarray
    objective: np.ndarray

    def thinned(self, points: int) -> Progress:
        """At most so many points of it, about evenly spaced in the logarithm of evaluations."""
        chosen = log_spaced(self.evaluations, points)
        return Progress(self.evaluations[chosen], self.x[chosen], self.psnr[chosen], self.objective[chosen])


def progress(finding: Finding, originals: ArrayLike, kind: Kind | None = None) -> Progress:
    """An attack's way, matched one-to-one to the originals by where it ended.

    Matching by the end, once, shows how each reconstruction came to be; matching anew at every point would let images
    change places.

    Args:
      finding: with `history` `[k, 2]` and `path` `[k, m, *input_shape]`.
      originals: `[n, *input_shape]` in the kind's range.
      kind: what examples are; None is images, or features in [0, 1].

    Raises:
      ParameterError: the finding has no path, or one that does not fit its history or the originals.
    """
    true = np.asarray(originals, np.float64)
    kind = kind or kind_of(true.shape[1:])
    if finding.path is None or finding.history is None or not len(finding.path):
        raise ParameterError(
            "this finding holds no path, only its end; ask the attack to keep it (path=True, where it has that)"
        )
    path, history = np.asarray(finding.path, np.float32), np.asarray(finding.history, np.float64)
    if history.shape != (len(path), 2) or path.ndim < 3 or path.shape[2:] != true.shape[1:]:
        raise ParameterError(
            f"a path of shape {list(path.shape)} does not fit a history of shape {list(history.shape)} and originals "
            f"of shape {list(true.shape)}"
        )
    n = len(true)
    end = path[-1] if finding.x is None else np.asarray(finding.x, np.float32)
    which = match(_valid(end[:n], kind), true, kind) if len(end) else np.full(n, UNMATCHED, np.int64)
    x = np.full((len(path), n, *true.shape[1:]), np.nan, np.float32)
    for i, m in enumerate(which):
        if 0 <= m < path.shape[1]:
            x[:, i] = path[:, m]
    x = np.stack([_valid(held, kind) for held in x])
    error = np.square(kind.to_unit(x) - kind.to_unit(true)[None]).reshape(len(x), n, -1).mean(-1)
    decibel = np.where(np.isfinite(error), psnr_of_mse(error), 0.0)
    return Progress(history[:, 0].copy(), x, decibel, history[:, 1].copy())


def _valid(x: np.ndarray, kind: Kind) -> np.ndarray:
    """Examples `[n, ...]` as their kind allows them; values that were not finite become not-a-number."""
    return np.where(np.isfinite(x), kind.settle(x), np.nan).astype(np.float32)


def log_spaced(evaluations: np.ndarray, frames: int) -> list[int]:
    """Indices of at most `frames` points of an increasing sequence, about evenly spaced in its logarithm.

    The first and the last are among them, none twice.
    """
    points = np.log(np.maximum(np.asarray(evaluations, np.float64), 1.0))
    wanted = np.linspace(points[0], points[-1], min(frames, len(points)))
    chosen = {0, len(points) - 1} | {int(np.argmin(np.abs(points - w))) for w in wanted}
    # Where points are sparse (early on) several wishes meet in one: the room goes to the widest gaps.
    while len(chosen) < min(frames, len(points)):
        order = sorted(chosen)
        widths = [(points[b] - points[a] + 1e-9) * (b - a > 1) for a, b in itertools.pairwise(order)]
        a, b = list(itertools.pairwise(order))[int(np.argmax(widths))]
        chosen.add(a + 1 + int(np.argmin(np.abs(points[a + 1 : b] - (points[a] + points[b]) / 2))))
    return sorted(chosen)
