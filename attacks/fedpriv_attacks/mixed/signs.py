"""Signs: which of two values each coordinate of some images has, alike for all of them, by what images look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError

#: Of a covariance estimated from auxiliary images, the share of its mean variance that is added to each coordinate's.
_SHRINKAGE = 0.02
_SWEEPS = 200


@dataclass(frozen=True)
class Look:
    """What images look like: a normal distribution for each class, of one precision.

    Attributes:
      means: `[classes, p]`, about the middle of the range; one row serves all classes.
      precision: `[p, p]`, up to a factor.
      directed: whether it tells an image from its negative.
    """

    means: np.ndarray
    precision: np.ndarray
    directed: bool


def look_of(images: np.ndarray, y: np.ndarray | None = None, classes: int = 1) -> Look:
    """Of images like the clients', `[m, p]` about the middle of the range; by class `y [m]` where that is given.

    A class without images has the mean of all.
    """
    images = np.asarray(images, np.float64)
    groups = np.zeros(len(images), int) if y is None else y
    means = np.stack([images[groups == c].mean(0) if np.any(groups == c) else images.mean(0) for c in range(classes)])
    inside = images - means[groups]
    covariance = inside.T @ inside / len(images)
    ridge = _SHRINKAGE * max(float(np.trace(covariance)) / len(covariance), 1e-6)
    return Look(means, np.linalg.inv(covariance + ridge * np.eye(len(covariance))), True)


def smooth(shape: tuple[int, ...]) -> Look:
    """Of images of which nothing is known but that neighbours, and the channels of a pixel, are alike.

    Raises:
      CapabilityError: examples of this shape have no neighbours.
    """
    if len(shape) != 3:
        raise CapabilityError(
            f"the signs of examples of shape {list(shape)} cannot be told by their neighbours; let the adversary hold "
            "data like them: knowing('auxiliary(...)')"
        )
    places = np.arange(int(np.prod(shape))).reshape(shape)
    laplacian = np.zeros((places.size, places.size))
    for axis in range(3):
        before = np.moveaxis(places, axis, 0)[:-1].ravel()
        after = np.moveaxis(places, axis, 0)[1:].ravel()
        laplacian[before, after] -= 1
        laplacian[after, before] -= 1
    laplacian -= np.diag(laplacian.sum(1))
    return Look(np.zeros((1, places.size)), laplacian, False)


def signed(values: np.ndarray, y: np.ndarray, look: Look, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """`values [n, p]` with one sign a coordinate for all n images, so that they look like images of classes `y [n]`.

    Maximizes the likelihood of all `signs * values - shift` under `look`: an Ising problem, whose coordinates are
    flipped one by one, the best first, from several starts; the likeliest end is kept. Where `look` is not directed the
    sign of all is the one with the darker border.
    """
    target = (look.means if len(look.means) == 1 else look.means[y]) + shift
    coupling = look.precision * (values.T @ values)
    np.fill_diagonal(coupling, 0)
    field = np.sum((target @ look.precision) * values, axis=0)
    starts = [_spread(values, look.precision)]
    starts += [-starts[0]]
    if np.any(field):
        starts.append(np.where(np.sum(target * values, axis=0) < 0, -1.0, 1.0))
        starts.append(np.where(field < 0, -1.0, 1.0))
    ends = [_descended(s, coupling, field) for s in starts]
    energies = [s @ coupling @ s - 2 * field @ s for s in ends]
    return ends[int(np.argmin(energies))] * values


def darker_border(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values [n, p]` of images of `shape`, or their negatives, whichever are darker on the border."""
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    return values if values[:, border.ravel()].mean() <= 0 else -values


def _spread(values: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Signs `[p]` along the maximum spanning tree of how surely two coordinates have the same or opposite ones."""
    likeness = -precision * (values.T @ values)
    np.fill_diagonal(likeness, 0)
    strength = np.abs(likeness)
    p = len(likeness)
    signs, done = np.ones(p), np.zeros(p, bool)
    reach, parent = np.full(p, -np.inf), np.zeros(p, int)
    reach[int(np.argmax(strength.max(1)))] = np.inf
    for _ in range(p):
        at = int(np.argmax(np.where(done, -np.inf, reach)))
        if done[at]:
            at = int(np.argmin(done))
        if np.isfinite(reach[at]):
            signs[at] = signs[parent[at]] * (1 if likeness[at, parent[at]] >= 0 else -1)
        done[at] = True
        nearer = (strength[at] > reach) & ~done
        reach[nearer], parent[nearer] = strength[at][nearer], at
    return signs


def _descended(signs: np.ndarray, coupling: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Signs `[p]` at a minimum of s' coupling s - 2 field' s that no single flip lowers."""
    signs = signs.copy()
    pull = coupling @ signs - field
    for _ in range(_SWEEPS * len(signs)):
        gains = signs * pull
        at = int(np.argmax(gains))
        if gains[at] <= 1e-12:
            break
        pull -= 2 * signs[at] * coupling[:, at]
        signs[at] = -signs[at]
    return signs
