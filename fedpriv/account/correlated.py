"""Correlated: sensitivities of mechanisms whose noise is correlated over rounds, under limited participation.

A matrix mechanism releases `C x + z` with normal `z` and a public lower-triangular `C [n, n]`, `x [n, d]` being the
sums of the rounds (Denisov, McMahan, Rush, Smith, Thakurta 2022, arXiv 2202.08312). Where one unit's contributions
have norm at most 1 and it takes part in a set `p` of rounds, it moves `C x` by at most `sqrt(sum |C'C|[p, p])` in L2.
The sensitivity is the largest over all `p` of at most `max_participations` rounds that lie `min_separation` or more
apart (`t - s >= min_separation`; 1 lets consecutive rounds). With noise of `z` times the clip the whole run is one
Gaussian mechanism of multiplier `z / sensitivity`, of adaptively chosen rounds too.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np

from fedpriv.base.errors import ParameterError

#: What is after a stretch of rounds: by the rounds still to wait, the largest squared sensitivity with n
#: participations, `[k + 1]`, -inf where there is none.
_Ends = dict[int, np.ndarray]


def _checked(rounds: float, max_participations: float, min_separation: float) -> tuple[int, int, int]:
    named = {"rounds": rounds, "max_participations": max_participations, "min_separation": min_separation}
    for name, value in named.items():
        if not float(value).is_integer() or value < 1:
            raise ParameterError(f"{name}={value} must be a whole number, 1 or more")
    n, separation = int(rounds), int(min_separation)
    return n, min(int(max_participations), -(-n // separation)), separation


def tree_sensitivity(
    rounds: int, max_participations: int, min_separation: int, restart_every: int | None = None
) -> float:
    """L2 sensitivity of the binary trees of DP-FTRL, for contributions of norm at most 1.

    Each node that is complete after `rounds` rounds is released once, as the sum of its leaves and noise (Kairouz,
    McMahan, Song, Thakkar, Thakurta, Xu 2021, arXiv 2103.00039, appendix D): a unit that takes part c times below a
    node moves it by c. The squares add up over all nodes of all trees, so that restarts cost a tree's depth for each
    participation, but no node sees more than its own tree's. Exact: the largest over all patterns.

    Args:
      rounds: leaves in all.
      max_participations: rounds that one unit takes part in, at most.
      min_separation: rounds from one to its next, at least; 1 is no limit. TF Privacy's `min_separation` counts the
        rounds between and is 1 less.
      restart_every: leaves of a tree, the last one's may be fewer; None for one tree.

    Raises:
      ParameterError: a number that is not whole, or below 1.
    """
    n, k, apart = _checked(rounds, max_participations, min_separation)
    leaves = n if restart_every is None else _checked(restart_every, 1, 1)[0]
    # A block of 2^level <= min_separation rounds holds one participation at most; the earliest possible place in it
    # is best, for it leaves most room, and lies in the larger node where a tree is incomplete.
    level = apart.bit_length() - 1
    nobody = np.full(k + 1, -np.inf)
    nobody[0] = 0.0

    def single(value: float) -> np.ndarray:
        found = np.full(k + 1, -np.inf)
        found[1] = value
        return found

    def leaf(size: int, wait: int) -> _Ends:
        """`size` <= min_separation rounds, made of complete trees, the larger first."""
        ends = {max(0, wait - size): nobody}
        if wait < size:
            left, after = size, wait
            while after >= 1 << (left.bit_length() - 1):
                after -= 1 << (left.bit_length() - 1)
                left -= 1 << (left.bit_length() - 1)
            then = max(0, wait + apart - size)
            ends[then] = np.maximum(ends.get(then, -np.inf), single(left.bit_length()))
        return _pruned(ends)

    @functools.cache
    def node(height: int, wait: int) -> _Ends:
        """A complete tree of 2^height leaves."""
        if height <= level:
            return leaf(1 << height, wait)
        ends = _followed(node(height - 1, wait), functools.partial(node, height - 1))
        return {w: values + np.arange(k + 1) ** 2 for w, values in ends.items()}

    @functools.cache
    def forest(size: int, wait: int) -> _Ends:
        """A tree of `size` leaves, of which only the complete nodes count."""
        ends: _Ends = {wait: nobody}
        for height in range(size.bit_length() - 1, level, -1):
            if size >> height & 1:
                ends = _followed(ends, functools.partial(node, height))
        rest = size & ((2 << level) - 1)
        for part in (rest & 1 << level, rest & (1 << level) - 1):
            if part:
                ends = _followed(ends, functools.partial(leaf, part))
        return ends

    ends: _Ends = {0: nobody}
    for first in range(0, n, leaves):
        ends = _followed(ends, functools.partial(forest, min(leaves, n - first)))
    return math.sqrt(max(values.max() for values in ends.values()))


def _followed(ends: _Ends, stretch: functools.partial[_Ends]) -> _Ends:
    """`ends` after one more stretch: participations add up, and so do squares."""
    found: _Ends = {}
    for wait, before in ends.items():
        for after, more in stretch(wait).items():
            joined = found.setdefault(after, np.full(len(before), -np.inf))
            for n in np.flatnonzero(np.isfinite(more)):
                np.maximum(joined[n:], before[: len(before) - n] + more[n], out=joined[n:])
    return _pruned(found)


def _pruned(ends: _Ends) -> _Ends:
    """Without what is no better than something that waits less."""
    best: np.ndarray | None = None
    kept: _Ends = {}
    for wait in sorted(ends):
        values = ends[wait]
        if best is not None:
            values = np.where(values > best, values, -np.inf)
        if np.isfinite(values).any():
            kept[wait] = values
            best = values if best is None else np.maximum(best, values)
    return kept


def banded_sensitivity(strategy: np.ndarray, max_participations: int, min_separation: int) -> float:
    """L2 sensitivity of a matrix mechanism with strategy matrix C, for contributions of norm at most 1.

    Where C has at most `min_separation` bands no two participations meet in a row, so the squares of their columns'
    norms add up: at most sqrt(max_participations) times the largest column norm (Choquette-Choo, Ganesh, McKenna,
    McMahan, Rush, Thakurta, Xu 2023, arXiv 2306.08153, theorem 2), less where the largest columns lie too close.
    With more bands:

    - a participation meets only its neighbours (at most twice as many bands): the largest over all patterns;
    - Toeplitz matrices of non-negative, non-increasing coefficients: the earliest pattern is the worst (Kalinin,
      Lampert 2024, arXiv 2405.13763, theorem 2);
    - others: patterns one by one where they are few, else an upper bound by the largest product at each distance.

    Args:
      strategy: C `[n, n]`, lower triangular.
      max_participations: rounds that one unit takes part in, at most.
      min_separation: rounds from one to its next, at least.

    Returns:
      The sensitivity; an upper bound where entries of C'C are negative, or as said above.

    Raises:
      ParameterError: C is not square, lower triangular and finite, or a number is not whole or below 1.
    """
    c = np.asarray(strategy, np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not c.size or not np.isfinite(c).all() or np.triu(c, 1).any():
        raise ParameterError(f"a strategy matrix of shape {c.shape} must be square, lower triangular and finite")
    n, k, apart = _checked(len(c), max_participations, min_separation)
    products = np.abs(c.T @ c)
    meeting = [d for d in range(1, n) if np.diagonal(products, -d).any()]
    reach = max(meeting, default=0)
    if reach < 2 * apart:
        return math.sqrt(_chained(products, k, apart, reach))
    column = c[:, 0]
    toeplitz = all(np.array_equal(c[i:, i], column[: n - i]) for i in range(1, n))
    if toeplitz and (column >= 0).all() and (np.diff(column) <= 0).all():
        return float(np.linalg.norm(c[:, np.arange(k) * apart].sum(axis=1)))
    if math.comb(n, k) <= 20_000:
        return math.sqrt(max(products[np.ix_(p, p)].sum() for p in patterns(n, k, apart)))
    most = k * products.diagonal().max()
    for others in range(1, k):
        far = [np.diagonal(products, -d).max() for d in range(others * apart, n)]
        most += 2 * (k - others) * max(far, default=0.0)
    return math.sqrt(most)


def _chained(products: np.ndarray, k: int, apart: int, reach: int) -> float:
    """The largest sum of `products` over patterns of which only neighbours meet."""
    norms = products.diagonal()
    n = len(norms)
    best = last = norms.astype(np.float64)  # by the last participation's round, with so many participations
    for _ in range(1, k):
        before = np.maximum.accumulate(last)
        grown = np.full(n, -np.inf)
        grown[apart:] = before[: n - apart]
        for distance in range(apart, reach + 1):
            meeting = last[: n - distance] + 2 * np.diagonal(products, -distance)
            grown[distance:] = np.maximum(grown[distance:], meeting)
        last = grown + norms
        best = np.maximum(best, last)
    return float(best.max())


def patterns(rounds: int, max_participations: int, min_separation: int) -> Iterator[tuple[int, ...]]:
    """All sets of at most so many rounds that lie so far apart, the empty one left out."""
    n, k, apart = _checked(rounds, max_participations, min_separation)
    for count in range(1, k + 1):
        slack = n - (count - 1) * (apart - 1)
        for chosen in itertools.combinations(range(slack), count):
            yield tuple(t + i * (apart - 1) for i, t in enumerate(chosen))
