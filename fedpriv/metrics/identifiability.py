"""Identifiability: whether a reconstruction points to its original in a crowd.

Image identifiability precision (IIP): Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov 2021, "See through Gradients:
Image Batch Recovery via GradInversion", CVPR, arXiv 2104.07586. A reconstruction identifies its original if that is
its nearest neighbour in a gallery of originals and others. Unlike PSNR it does not care for what an attack cannot
know, such as a shift by some pixels, if the features looked at do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.types import ArrayLike
from fedpriv.data.dataset import Dataset
from fedpriv.metrics.interval import wilson
from fedpriv.metrics.matching import UNMATCHED, match

if TYPE_CHECKING:
    from fedpriv.models.model import Model

#: Examples `[m, ...]` float32 to vectors `[m, k]`.
Features = Callable[[np.ndarray], ArrayLike]

#: Two images are the same if they agree in every value after rounding to this many levels.
LEVELS = 2**16 - 1

#: Distances closer than this fraction of each other are a tie.
_TIE = 1e-6

_CHUNK = 512


@dataclass(frozen=True)
class Identifiability:
    """How many originals their reconstructions identify.

    Attributes:
      identified: bool `[n]`, by original: whether its own reconstruction is nearer to it than to anything else.
      nearest: int64 `[n]`: by original, the gallery index nearest to its reconstruction. Originals come first, 0 to
        n - 1, then the others in the gallery's order; -1 where there is no finite reconstruction.
      tied: bool `[n]`: its reconstruction is as near to something else as to it, so it is not identified.
      gallery: number of candidates, originals included; one drawn at random is right at a rate of 1 / gallery.
      precision: identified originals over n.
      interval: Wilson 95% interval of it.
    """

    identified: np.ndarray
    nearest: np.ndarray
    tied: np.ndarray
    gallery: int
    precision: float
    interval: tuple[float, float]


def identifiability(
    reconstructions: ArrayLike,
    originals: ArrayLike,
    gallery: ArrayLike | Dataset | None = None,
    *,
    features: Features | None = None,
    distance: Literal["euclidean", "cosine"] = "euclidean",
    matched: ArrayLike | None = None,
    duplicates: Literal["fail", "refuse"] = "fail",
) -> Identifiability:
    """Image identifiability precision (Yin et al. 2021, arXiv 2104.07586).

    Every reconstruction stands for one original: first they are matched one-to-one, by the same features, then
    each is looked up in the gallery. Two reconstructions of one image therefore count once. Spare reconstructions
    beyond the number of originals do not count; missing ones, ones that are not finite, and ties are failures.

    Args:
      reconstructions: `[m, *shape]`, in the attack's order, or by original with not-a-number for missing ones, as
        `fedpriv.metrics.score.aligned` gives for each batch, together with `matched=range(n)`.
      originals: `[n, *shape]` in [0, 1].
      gallery: an array `[g, *shape]` or a Dataset of candidates. Originals found in it are counted once; those that
        are not are added. None for the originals alone.
      features: what to compare by: examples `[m, *shape]` float32 in [0, 1] to vectors `[m, k]`, such as a Keras
        model's `predict`, `LPIPS(...).embed`, or `logits_of(model, weights)`. None for the pixels themselves.
      distance: of the features; `cosine` ignores their length.
      matched: int `[n]`, the index of each original's reconstruction, -1 for none; None to match here.
      duplicates: an original that the gallery holds twice, or that is twice among the originals, cannot be told from
        its copy. `fail` counts it as a tie; `refuse` raises.

    Raises:
      ParameterError: shapes that do not fit, no originals, features of the wrong shape or not finite on the
        gallery, or duplicates where they are refused.
    """
    true = _floats(originals, "originals")
    found = np.asarray(reconstructions, np.float32)
    others = np.zeros((0, *true.shape[1:]), np.float32) if gallery is None else _floats(gallery, "gallery")
    n = len(true)
    if not n:
        raise ParameterError("identifiability of no originals is undefined; give at least one")
    for what, x in (("reconstructions", found), ("gallery", others)):
        if x.shape[1:] != true.shape[1:] or x.ndim < 2:
            raise ParameterError(f"the {what} are {list(x.shape)}, but the originals are {list(true.shape)}")
    if distance not in ("euclidean", "cosine"):
        raise ParameterError(f"distance '{distance}' is unknown.{did_you_mean(distance, ('euclidean', 'cosine'))}")
    if duplicates not in ("fail", "refuse"):
        raise ParameterError(f"duplicates='{duplicates}' is unknown.{did_you_mean(duplicates, ('fail', 'refuse'))}")
    others, copied = _without_originals(true, others)
    if duplicates == "refuse" and copied.any():
        raise ParameterError(
            f"originals {np.flatnonzero(copied).tolist()} have an identical copy in the gallery or among themselves, "
            "so no reconstruction can identify them; remove the copies, or count them as failures with "
            "duplicates='fail'"
        )

    look = _Look(features, distance)
    own = look(true, "originals")
    finite = np.isfinite(found).all(axis=tuple(range(1, found.ndim)))
    vectors = np.full((len(found), own.shape[1]), np.nan)
    if finite.any():
        vectors[finite] = look(np.clip(found[finite], 0, 1), "reconstructions")
        finite &= np.isfinite(vectors).all(axis=1)
    which = _matched(matched, vectors[:n] if matched is None else vectors, own)
    usable = np.array([w != UNMATCHED and finite[w] for w in which])
    chosen = np.zeros_like(own)
    chosen[usable] = vectors[which[usable]]

    nearest, ties = _search(chosen, own, others, look)
    tied = usable & (ties | copied & (nearest == np.arange(n)))
    identified = usable & (nearest == np.arange(n)) & ~tied
    count = int(identified.sum())
    return Identifiability(
        identified=identified,
        nearest=np.where(usable, nearest, UNMATCHED),
        tied=tied,
        gallery=n + len(others),
        precision=count / n,
        interval=wilson(count, n),
    )


def logits_of(model: Model, weights: np.ndarray, batch: int = 256) -> Features:
    """A model's logits as features, for `identifiability`.

    Args:
      model: the model.
      weights: `[d]`; those of a trained model, not of the one attacked, which knows the originals' labels at best.
      batch: examples at once.
    """
    from fedpriv.base.lazy import tf

    dtype = model.spec.dtype
    flat = tf.constant(np.asarray(weights), dtype)

    def features(x: np.ndarray) -> np.ndarray:
        parts = [model.logits(flat, tf.constant(x[i : i + batch], dtype)).numpy() for i in range(0, len(x), batch)]
        return np.concatenate(parts)

    return features


class _Look:
    """Features as float64 vectors, of unit length for the cosine distance; checked."""

    def __init__(self, features: Features | None, distance: str) -> None:
        self.features, self.cosine, self.width = features, distance == "cosine", 0

    def __call__(self, x: np.ndarray, what: str) -> np.ndarray:
        raw = x.reshape(len(x), -1) if self.features is None else self.features(x)
        vectors = np.asarray(raw, np.float64)
        if vectors.ndim != 2 or len(vectors) != len(x) or self.width not in (0, vectors.shape[1]):
            raise ParameterError(
                f"the feature function gave {list(vectors.shape)} for {len(x)} {what}; it must give one vector each, "
                f"[{len(x)}, {self.width or 'k'}]"
            )
        self.width = vectors.shape[1]
        if what != "reconstructions" and not np.isfinite(vectors).all():
            raise ParameterError(f"the features of the {what} are not finite, so nothing can be nearest to them")
        if self.cosine:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths != 0)
        return vectors


def _search(chosen: np.ndarray, own: np.ndarray, others: np.ndarray, look: _Look) -> tuple[np.ndarray, np.ndarray]:
    """The nearest gallery index for each row of `chosen`, and whether row i is as near to something else as to i."""
    n = len(chosen)
    to_own = np.square(chosen - own).sum(1)
    rival, index = np.full(n, np.inf), np.full(n, UNMATCHED, np.int64)
    for start in range(0, n + len(others), _CHUNK):
        stop = min(start + _CHUNK, n + len(others))
        candidates = own[start:stop]
        if stop > n:
            rest = look(others[max(0, start - n) : stop - n], "gallery")
            candidates = np.concatenate([candidates, rest])
        for row in range(n):
            # As differences: the expanded square loses the small distances that decide.
            squared = np.square(candidates - chosen[row]).sum(1)
            if start <= row < stop:
                squared[row - start] = np.inf
            least = int(np.argmin(squared))
            if squared[least] < rival[row]:
                rival[row], index[row] = squared[least], start + least
    # Rounding of the features themselves must not decide.
    margin = _TIE * to_own + 1e-14 * np.square(own).sum(1)
    return np.where(to_own <= rival, np.arange(n), index), np.abs(rival - to_own) <= margin


def _matched(matched: ArrayLike | None, vectors: np.ndarray, own: np.ndarray) -> np.ndarray:
    n = len(own)
    if matched is None:
        return match(vectors, own) if len(vectors) else np.full(n, UNMATCHED, np.int64)
    which = np.asarray(matched)
    real = which[which != UNMATCHED] if which.ndim == 1 else which
    if which.shape != (n,) or not np.issubdtype(which.dtype, np.integer):
        raise ParameterError(f"matched must be {n} integers, one an original, not {which.dtype} {list(which.shape)}")
    if len(np.unique(real)) != len(real) or real.min(initial=0) < 0 or real.max(initial=-1) >= len(vectors):
        raise ParameterError(f"matched={which.tolist()} must name {len(vectors)} reconstructions at most once each")
    return which.astype(np.int64)


def _floats(x: ArrayLike | Dataset, what: str) -> np.ndarray:
    if isinstance(x, Dataset):
        return x.floats()
    array = np.asarray(x)
    if array.dtype == np.uint8:
        array = array / np.float32(255)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ParameterError(f"the {what} must be finite; these hold infinities or not-a-number")
    return array


def _without_originals(true: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gallery without its one copy of each original, and which originals have more copies, `[n]` bool."""
    names = [_name(x) for x in true]
    copies = {name: names.count(name) - 1 for name in names}
    kept, seen = [], set()
    for i, x in enumerate(others):
        name = _name(x)
        if name in copies and name not in seen:
            seen.add(name)
            continue
        if name in copies:
            copies[name] += 1
        kept.append(i)
    return others[kept], np.array([copies[name] > 0 for name in names])


def _name(x: np.ndarray) -> bytes:
    return np.rint(np.clip(x.astype(np.float64), -1, 2) * LEVELS).astype(np.int32).tobytes()
