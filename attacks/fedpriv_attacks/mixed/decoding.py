"""Decoding: images from mixtures of them, whose shares of classes are known, by least squares over many mixtures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.defense.mixture import Mixture

#: A class that reaches this share in no mixture is taken for an error of the reconstruction.
_SEEN = 0.1
#: What a class of a mixture must have for the mixture to tell images of one class apart.
_CLEAR = 0.05
#: A system counts as solvable where its least singular value is not below that part of its largest.
_RANK = 1e-3
#: Assignments of images that are tried for one mixture at most.
_MOST_CANDIDATES = 256
#: Images of which every pattern of signs is tried.
_FEW = 6
_SWEEPS = 60


@dataclass(frozen=True)
class Public:
    """What public images add to the squares of mixtures, coordinate by coordinate; see `moments`.

    Attributes:
      square: mean square of the private coefficients' sum, a.
      shift: `[p]`, what is added to each private image, b / a times the public images' mean.
      rest: `[p]`, what is added to each square.
    """

    square: float
    shift: np.ndarray
    rest: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """Images found.

    Attributes:
      x: `[n, p]`; where signs were drawn values about the middle, with one unknown sign a coordinate for all images,
        and shifted by what `Public.shift` says.
      y: `[n]` int, their classes.
      residual: root mean square of what the mixtures are not explained by (of their squares, where signs are drawn).
      encodings: mixtures that were used.
    """

    x: np.ndarray
    y: np.ndarray
    residual: float
    encodings: int


def decode(
    encodings: np.ndarray,
    shares: np.ndarray,
    n: int,
    mixture: Mixture,
    seed: int = 0,
    labels: np.ndarray | None = None,
    public: Public | None = None,
    restarts: int = 100,
    trust: np.ndarray | None = None,
) -> Decoded:
    """The n images that mixtures are made of.

    A mixture's class shares are its coefficients where the images are of n classes; images of one class are told apart
    by clustering: mixtures are assigned to whichever images explain them best, images are fitted to their mixtures,
    and so on from several random assignments. Plain mixtures are linear in the images, so n independent ones determine
    them. With signs drawn anew the squares are what is left; these are linear in the n (n + 1) / 2 products of the
    images' values at a coordinate, of which as many independent mixtures are needed, and whose matrix has rank one.
    Mixtures weigh by how far they are trusted, and less the worse they fit.

    Args:
      encodings: `[m, p]`, values about the middle (`mixture.middle` subtracted) where signs are drawn.
      shares: `[m, classes]`, each row's sum 1.
      n: number of images.
      mixture: how they were mixed.
      seed: of the random assignments.
      labels: `[n]` int, the images' classes where they are known, in any order.
      public: of the public images in a mixture, if there are any.
      restarts: random assignments where several images have one class.
      trust: `[m]`, the inverse of the squared error that each mixture may have, up to a factor; None is alike.

    Raises:
      CapabilityError: there are too few mixtures, or too few that tell images of one class apart.
    """
    shares = _strongest(np.asarray(shares, np.float64), mixture.private)
    encodings = np.asarray(encodings, np.float64)
    trust = np.ones(len(shares)) if trust is None else np.asarray(trust, np.float64) / np.max(trust)
    y = np.sort(labels) if labels is not None else classes_of(shares * trust[:, None], n)
    single = len(set(y.tolist())) == n
    measured = np.square(encodings) if mixture.flips else encodings
    if single:
        weights, used = shares[:, y], np.arange(len(shares))
        total = weights.sum(1, keepdims=True)
        weights = np.divide(weights, total, out=np.full_like(weights, 1 / n), where=total > 0)
        fitted = _fitted(weights, measured, trust, mixture, n)
    else:
        weights, used, fitted = _clustered(shares, measured, trust, y, mixture, seed, restarts)
    solved, residuals = fitted
    x = solved
    if mixture.flips:
        seen = _matrices(np.any(_features(weights, mixture) > 0, axis=0)[:, None], n)[0] > 0
        products = _matrices(solved, n)
        if public is not None:
            products = products - public.rest[:, None, None]
        x = _rank_one(products, seen).T
        if public is None:
            root = np.sqrt(trust[used])[:, None]
            x = _refined(x, root * weights, root * np.abs(encodings[used]))
        else:
            x = x / np.sqrt(public.square)
    return Decoded(x, y.astype(np.int32), _root_mean_square(residuals, trust[used]), len(used))


def classes_of(shares: np.ndarray, n: int) -> np.ndarray:
    """Classes `[n]`, ascending, of the n images behind mixtures with these shares `[m, classes]`.

    Each image is in as many mixtures as any other, so a class's part of all shares is its part of the images.
    """
    mass = shares.sum(0) * n / shares.sum()
    seen = shares.max(0) >= _SEEN * shares.sum(1).max()
    if seen.sum() > n:
        seen = mass >= np.sort(mass)[-n]
    counts = np.where(seen, np.maximum(np.floor(mass), 1), 0).astype(int)
    while counts.sum() < n:
        counts[np.argmax(np.where(seen, mass - counts, -np.inf))] += 1
    while counts.sum() > n:
        counts[np.argmin(np.where(counts > 1, mass - counts, np.inf))] -= 1
    return np.repeat(np.arange(len(counts)), counts)


def moments(mixture: Mixture, images: np.ndarray, seed: int = 0, draws: int = 100_000) -> Public:
    """What public images add to mixtures whose signs are drawn, in the mean over them and over the coefficients.

    With rho the private coefficients' sum and s a private image's share of it, the mean square of a coordinate is
    E[rho^2] (s.x)^2 + 2 E[rho (1 - rho)] (s.x) mu + E[(1 - rho)^2] mu^2 + E[sum w^2] sigma^2, the public images having
    mean mu and variance sigma^2. As the shares' sum is 1 that is a quadratic form in s, of rank two. (rho is taken to
    be independent of s, which the bound on coefficients makes not quite true.)

    Args:
      mixture: how they are mixed.
      images: `[N, p]` public images, the middle of the range subtracted.
      seed: of the coefficients.
      draws: how many coefficients the means are of, before those above the bound are left out.
    """
    drawn = np.random.default_rng(seed).dirichlet(np.ones(mixture.images), draws)
    drawn = drawn[drawn.max(1) <= mixture.largest]
    rho = drawn[:, : mixture.private].sum(1)
    a, b, c = np.mean(rho**2), np.mean(rho * (1 - rho)), np.mean((1 - rho) ** 2)
    each = np.mean(np.square(drawn[:, mixture.private :]).sum(1))
    mu, variance = images.mean(0), images.var(0)
    return Public(float(a), b / a * mu, (c - b * b / a) * mu**2 + each * variance)


def _strongest(shares: np.ndarray, most: int) -> np.ndarray:
    """Each row's `most` largest shares, divided by their sum."""
    shares = np.maximum(shares, 0)
    if most < shares.shape[1]:
        least = np.sort(shares, axis=1)[:, [-most]]
        shares = np.where(shares >= least, shares, 0)
    return shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)


def check_count(count: int, n: int, mixture: Mixture) -> None:
    """Raises CapabilityError where that many mixtures of n images can never do, whatever was drawn.

    In a batch of n mixtures the private images of a mixture follow each other on a circle of the n. So at least that
    many products of two are in it, besides the n squares.
    """
    pairs = min(n * (mixture.private - 1), n * (n - 1) // 2) if mixture.flips else 0
    if count < n + pairs:
        raise CapabilityError(_too_few(count, n, mixture))


def _too_few(have: int, n: int, mixture: Mixture) -> str:
    needed = f"n (n + 1) / 2 = {n * (n + 1) // 2}" if mixture.flips else f"n = {n}"
    return (
        f"n = {n} images mixed {'with random signs ' if mixture.flips else ''}need {needed} independent mixtures, but "
        f"{have} {'is' if have == 1 else 'are'} seen; let the adversary listen in more rounds"
    )


def _features(weights: np.ndarray, mixture: Mixture) -> np.ndarray:
    """What mixtures, or squares, are linear in: coefficients `[..., n]` or their products `[..., n (n + 1) / 2]`."""
    if not mixture.flips:
        return weights
    i, j = np.triu_indices(weights.shape[-1])
    return weights[..., i] * weights[..., j] * np.where(i == j, 1.0, 2.0)


def _root_mean_square(residuals: np.ndarray, trust: np.ndarray) -> float:
    return float(np.sqrt(np.average(np.mean(np.square(residuals), 1), weights=trust)))


def _fitted(
    weights: np.ndarray, measured: np.ndarray, trust: np.ndarray, mixture: Mixture, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(Least squares solution, residuals `[m, p]`), rows weighing less the worse they fit.

    Raises:
      CapabilityError: the mixtures are not independent enough.
    """
    whole = _features(weights, mixture)
    there = np.any(whole > 0, axis=0)  # two images of one class may never be in one mixture
    rows = whole[:, there]
    sizes = np.linalg.svd(rows, compute_uv=False)
    count = int(np.sum(sizes >= _RANK * sizes[0])) if len(sizes) else 0
    if count < rows.shape[1] or np.any(weights.max(0) < _CLEAR):
        raise CapabilityError(_too_few(count, n, mixture))
    fits, solved = np.ones(len(rows)), np.zeros((whole.shape[1], measured.shape[1]))
    for _ in range(10):
        root = np.sqrt(trust * fits)[:, None]
        solved[there] = np.linalg.lstsq(root * rows, root * measured, rcond=None)[0]
        residuals = measured - rows @ solved[there]
        size = np.sqrt(np.mean(np.square(residuals), axis=1))
        order = np.argsort(size)
        middle = np.searchsorted(np.cumsum(trust[order]), trust.sum() / 2)
        usual = max(float(size[order[min(middle, len(order) - 1)]]), 1e-6)
        # What was little trusted anyhow may fit as badly as that.
        fits = 1 / np.maximum(size / usual * np.sqrt(trust), 1) ** 2
    return solved, residuals


def _clustered(
    shares: np.ndarray,
    measured: np.ndarray,
    trust: np.ndarray,
    y: np.ndarray,
    mixture: Mixture,
    seed: int,
    restarts: int,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(Coefficients of the mixtures used `[u, n]`, which these are `[u]`, what `_fitted` gives of them)."""
    n = len(y)
    clear = np.sum(shares >= _CLEAR, axis=1) == mixture.private
    clear &= (
        np.isin(np.arange(shares.shape[1]), y)[None]
        .repeat(len(shares), 0)[np.arange(len(shares))[:, None], np.argsort(-shares, 1)[:, : mixture.private]]
        .all(1)
    )
    used = np.flatnonzero(clear)
    if len(used) < n:
        raise CapabilityError(
            f"n = {n} images are of {len(set(y.tolist()))} classes, so images of one class must be told apart, which "
            f"mixtures of {mixture.private} classes alone allow: {len(used)} of {len(shares)} are such, and at least "
            f"{n} are needed; let the adversary listen in more rounds"
        )
    options = [_candidates(shares[t], y, mixture.private) for t in used]
    seen, rng, root = measured[used], np.random.default_rng(seed), np.sqrt(trust[used])
    best: tuple[float, np.ndarray] | None = None
    for _ in range(restarts):
        chosen = np.array([rng.integers(len(o)) for o in options])
        for _ in range(_SWEEPS):
            rows = np.stack([_features(o[c], mixture) for o, c in zip(options, chosen, strict=True)])
            solved = np.linalg.lstsq(root[:, None] * rows, root[:, None] * seen, rcond=1e-6)[0]
            misses = [
                np.sum(np.square(s - _features(o, mixture) @ solved), 1) for s, o in zip(seen, options, strict=True)
            ]
            now = np.array([int(np.argmin(m)) for m in misses])
            if np.array_equal(now, chosen):
                break
            chosen = now
        # One bad reconstruction must not decide which assignment is best.
        loss = float(root @ np.array([np.sqrt(m[c]) for m, c in zip(misses, chosen, strict=True)]))
        if best is None or loss < best[0]:
            best = loss, np.stack([o[c] for o, c in zip(options, chosen, strict=True)])
    assert best is not None
    return best[1], used, _fitted(best[1], seen, trust[used], mixture, n)


def _candidates(shares: np.ndarray, y: np.ndarray, private: int) -> np.ndarray:
    """Coefficients `[c, n]` that a mixture with these class shares may have: one image of each of its classes."""
    classes = np.argsort(-shares)[:private]
    images = [np.flatnonzero(y == c) for c in classes]
    found = []
    for combination in itertools.islice(itertools.product(*images), _MOST_CANDIDATES):
        weights = np.zeros(len(y))
        weights[list(combination)] = shares[classes]
        found.append(weights)
    return np.stack(found)


def _matrices(solved: np.ndarray, n: int) -> np.ndarray:
    """Symmetric matrices `[p, n, n]` of their upper triangles `[n (n + 1) / 2, p]`."""
    i, j = np.triu_indices(n)
    made = np.zeros((solved.shape[1], n, n))
    made[:, i, j] = made[:, j, i] = solved.T
    return made


def _rank_one(products: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """v `[p, n]` for which v v' is nearest to each matrix `[p, n, n]` where `seen [n, n]`, of either sign.

    Entries that are not seen are filled with those of the fit, and it is made again.
    """
    found = np.zeros(products.shape[:2])
    for _ in range(1 if seen.all() else _SWEEPS):
        filled = np.where(seen, products, found[:, :, None] * found[:, None, :])
        values, vectors = np.linalg.eigh(filled)
        found = np.sqrt(np.maximum(values[:, -1], 0))[:, None] * vectors[:, :, -1]
    return found


def _refined(x: np.ndarray, weights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`x [n, p]` fitted to the mixtures' absolute values `[m, p]`: signs by the fit, the fit by the signs, in turn.

    The alternation is Gerchberg and Saxton's (1972) for real values. It starts from x, and from values of one size with
    each pattern of signs that few images can have, and keeps what fits best, coordinate by coordinate.
    """

    def miss(x: np.ndarray) -> np.ndarray:
        return np.sum(np.square(np.abs(weights @ x) - sizes), 0)

    n, (best, least) = len(x), (x, miss(x))
    patterns = itertools.product((1.0, -1.0), repeat=n - 1) if n <= _FEW else ()
    usual, solver = np.sqrt(np.mean(np.square(sizes), 0)), np.linalg.pinv(weights)
    for start in [x, *(np.array([1.0, *p])[:, None] * usual for p in patterns)]:
        now = start
        for _ in range(_SWEEPS):
            before, now = now, solver @ (np.where(weights @ now < 0, -1, 1) * sizes)
            if np.allclose(before, now, atol=1e-7):
                break
        missed = miss(now)
        best, least = np.where(missed < least, now, best), np.minimum(missed, least)
    return best
