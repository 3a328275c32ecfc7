"""Sparse directions: vectors of a subspace with many zeros.

The subspace `[units, rank]` is spanned by unknown vectors, each with many zeros. Any rank - 1 rows determine one
vector of the subspace that is zero there, up to scale. If one of the unknown vectors happens to be zero in all of
them, that is the vector; it shows by being zero in many more rows. With half of the entries zero a draw hits one of
them with probability about 2^-(rank - 1) (Dimitrov, Baader, Müller, Vechev 2024, arXiv 2403.03945). All rank choices
of rank - 1 out of the same rank rows come from one matrix inverse, so draws are made that way (`draw`).

To find all of them at once is to learn a complete dictionary with sparse codes, as Bakarsky, Dimitrov, Baader, Vechev
2025 noted, whose search for that reason reaches batches ten times as large (SPEAR++, arXiv 2510.24200). Ours is `turn`:
fixed points of a smooth count of zeros, as in independent component analysis (Hyvärinen 1999), for many starts at once.
Half of the starts first turn within the space orthogonal to the vectors found so far, where the others stand out.

Three shortcuts of our own reach the vectors that these hit too rarely, such as those of similar examples, whose
zeros overlap:

- `descend` starts anywhere and lowers a concave measure of sparsity by reweighted least squares, as in compressed
  sensing (Chartrand, Yin 2008). It ends at one of the unknown vectors in a good share of the starts.
- Once all but k vectors are found, the examples that belong to the others lie in a k-dimensional space (what is
  orthogonal to the found ones, through the gradient's other factor). A random example of it tells by its
  pre-activations which rows would be zero, and `descend` starts from the vector nearest to that.
- `climb` takes the vectors found for sums of a few unknown ones. A sum is zero where all its parts are, so rows drawn
  among its zeros leave a plane that holds parts of it, and the directions of a plane that are zero in many rows show
  as clusters of angles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb

import numpy as np

#: Rows on which most draws are already found to be wrong.
_FIRST_LOOK = 48
#: Best hits of one call that are looked at closely.
_CLOSE_LOOK = 64
#: Bins for the angles of a plane; an angle off by one bin stays within the tolerance for a zero.
_BINS = 2048
#: Pairs of vectors whose planes one call looks at, at most.
_PAIRS = 1000
#: Steps in which a hit's zeros are sharpened.
_POLISHING = 8
#: Fixed points: steps, how the zeros' width narrows, as the inverse of its square, and how much of Newton's correction
#: is applied. Whole corrections leap at wide zeros, and smaller ones are slow.
_TURNS, _NARROWING, _CORRECTION = 60, (1.0, 30.0), (0.8, 0.9)
#: The same in the space orthogonal to what was found, where the zeros are blurred.
_APART = (1.0, 3.0)
#: A vector with this share of the zeros of the sparsest one is taken for one of the unknown vectors, not a sum.
_PURE = 0.7
#: An entry within this of zero, relative to the root mean square, counts as one before a fixed point is sharpened.
_NEAR = 0.1
#: Share of such entries from which a start counts as a hit; a normal variable has 0.08.
_HIT = 0.25
#: Two fixed points with a cosine above this are one.
_SAME = 0.98
#: Steps of reweighted least squares that sharpen a fixed point.
_SHARPENING = 8
#: Reweighted least squares: the exponent p of the measure sum |v|^p, and the steps that shrink its smoothing.
_EXPONENT, _STEPS, _SMOOTHING = 0.5, 30, (1.0, 1e-4)


def expected_draws(rank: int, units: int, zeros: float = 0.5) -> float:
    """How many draws it takes on average until every one of `rank` vectors has been hit.

    Each vector is zero in a share `zeros` of `units` rows, independently. A draw then hits a given one with
    probability C(zeros * units, rank - 1) / C(units, rank - 1), near zeros^(rank - 1), and waiting for all of them
    takes the harmonic number of `rank` times as long as for one (the coupon collector).

    Dimitrov, Baader, Müller, Vechev 2024, arXiv 2403.03945, section 5. Climbing needs fewer.
    """
    if rank <= 1:
        return 1.0
    zero = int(zeros * units)
    if zero < rank - 1:
        return float("inf")
    hit = comb(zero, rank - 1) / comb(units, rank - 1)
    return sum(1 / k for k in range(1, rank + 1)) / hit if hit > 0 else float("inf")


@dataclass
class SparseDirections:
    """The sparsest linearly independent vectors found so far in one subspace.

    A sum of unknown vectors is zero only where all of them are, so none is sparser than its parts: once all unknown
    vectors have been hit, these are they. A vector in the span of sparser ones will never be needed and is dropped.

    Attributes:
      basis: `[units, rank]`, orthonormal columns.
      rng: draws the rows.
      tolerance: entries below this, relative to a vector's root mean square, are taken for zeros that rounding has
        blurred, and made smaller if they are.
      exact: entries below this count as zero in the end; several times the rounding, at most `tolerance`.
      sparsity: share of the live rows (those not zero throughout) where a vector must be zero to be kept.
      off: tells for `[n, rank]` vectors b which live rows would be zero for the example they stand for, bool
        `[n, live]`; b is orthogonal to the directions of all other examples. None: not known.
      directions: `[k, rank]`, unit length, the sparsest first; vector k is `basis @ directions[k]`.
      zeros: `[k]`, in how many live rows each is zero.
      passed_over: `[m, rank]`, the latest of those that were of use once and then replaced, or that are as sparse as
        the least sparse one kept, newest last.
      live_rows: which rows are not zero throughout.
      seen: how many were ever passed over.
      draws: vectors drawn.
      turns: starts of `turn`.
      hits: how many of these ended where a vector is near to zero far more often than by chance, repeated ones counted.
      descents: starts of `descend`.
      planes: planes that `climb` looked at.
    """

    basis: np.ndarray
    rng: np.random.Generator
    tolerance: float = 1e-2
    exact: float = 1e-5
    sparsity: float = 0.05
    off: Callable[[np.ndarray], np.ndarray] | None = None
    directions: np.ndarray = field(init=False)
    zeros: np.ndarray = field(init=False)
    passed_over: np.ndarray = field(init=False)
    live_rows: np.ndarray = field(init=False)
    seen: int = 0
    draws: int = 0
    turns: int = 0
    hits: int = 0
    descents: int = 0
    planes: int = 0

    def __post_init__(self) -> None:
        units, rank = self.basis.shape
        norms = np.linalg.norm(self.basis, axis=1)
        # A unit that is off for all examples is zero in every vector, and says nothing.
        self.live_rows = np.flatnonzero(norms > self.exact * np.sqrt(rank / units))
        self._rows = np.ascontiguousarray(self.basis[self.live_rows])
        self._rows32 = self._rows.astype(np.float32)
        self._zero = self.tolerance / np.sqrt(units)
        self._exactly = min(self.exact, self.tolerance) / np.sqrt(units)
        upper = np.triu_indices(rank)
        self._products = self._rows[:, upper[0]] * self._rows[:, upper[1]]
        self._square = np.zeros((rank, rank), np.int64)
        self._square[upper] = self._square[upper[::-1]] = np.arange(len(upper[0]))
        self.directions, self.zeros = np.zeros((0, rank)), np.zeros(0, int)
        self.passed_over = np.zeros((0, rank))

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[1]

    @property
    def live(self) -> int:
        """Rows that are not zero throughout."""
        return len(self.live_rows)

    @property
    def complete(self) -> bool:
        """Whether as many vectors were found as the subspace has dimensions."""
        return len(self.directions) == self.rank

    @property
    def least_zeros(self) -> int:
        """Zeros among the live rows from which a vector is of use."""
        # rank - 1 zeros are there by construction, and in a large space a few more by chance.
        some = self.rank + min(2, max(self.rank - 2, 0))
        least = max(int(np.ceil(self.sparsity * self.live)), min(some, self.live // 2))
        return max(least, int(self.zeros[-1])) if self.complete else least

    def expected_turns(self) -> float:
        """How many starts of `turn` it takes until all vectors are found, judged by those made so far.

        If a share p of the starts ends at some unknown vector, each equally often, it takes rank H_rank / p (the coupon
        collector). Without any hit p is taken for at most one in the starts made, so that the number is a lower bound.
        `climb` finds vectors too, and some vectors are hit less often than others: it is right to a factor of about 4.
        """
        harmonic = sum(1 / k for k in range(1, self.rank + 1))
        return self.rank * harmonic * max(self.turns, 1) / max(self.hits, 1)

    def draw(self, count: int) -> bool:
        """Draws about `count` more vectors; whether any was kept."""
        if self.rank == 1:  # nothing to choose: the one vector needs no zeros
            self.draws, self.directions, self.zeros = 1, np.ones((1, 1)), np.zeros(1, int)
            return True
        if self.live < self.rank:
            self.draws += count
            return False
        sets = max(1, count // self.rank)
        lots = self.rng.random((sets, self.live), np.float32)
        chosen = np.argpartition(lots, self.rank - 1, axis=1)[:, : self.rank]
        vectors = self._inverses(chosen).transpose(0, 2, 1).reshape(-1, self.rank)
        self.draws += len(vectors)
        return self._consider(vectors)

    def turn(self, starts: int) -> bool:
        """Turns `starts` vectors to fixed points of a smooth count of zeros; whether any new one was kept.

        The count is sum exp(-a v^2 / 2), with `a` growing. Its maxima on the sphere are fixed points of an approximate
        Newton step (Hyvärinen 1999). All starts share two matrix products a step, where reweighted least squares solves
        a system for each.
        """
        if self.rank < 3 or self.live <= self.rank:
            return False
        self.turns += starts
        rows = self._rows32 * np.float32(np.sqrt(self.live))
        q = rows[self.rng.integers(0, self.live, starts)]
        known = self.directions[self.zeros > _PURE * self.zeros[0]] if len(self.directions) else self.directions
        others = np.linalg.svd(known)[2][len(known) :].astype(np.float32) if len(known) else known
        widths = np.geomspace(*_NARROWING, _TURNS)
        if 1 < len(others) < self.rank:
            half = starts // 2
            part = self._turned(q[:half] @ others.T, rows @ others.T, np.geomspace(*_APART, _TURNS // 2))
            q[:half] = self._turned(part @ others, rows, np.geomspace(_APART[1], _NARROWING[1], _TURNS // 2))
            q[half:] = self._turned(q[half:], rows, widths)
        else:
            q = self._turned(q, rows, widths)
        q = q.astype(np.float64)
        q /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-20)
        return self._consider(self._sharpened(self._promising(q)))

    def _turned(self, q: np.ndarray, rows: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Fixed points from `q` `[n, k]` for rows `[live, k]` of root mean square 1, unit length."""
        damping = self.rng.uniform(*_CORRECTION, (len(q), 1)).astype(np.float32)
        for a in widths.astype(np.float32):
            q = q / np.maximum(np.linalg.norm(q, axis=1, keepdims=True), np.float32(1e-20))
            v = q @ rows.T
            square = v * v
            bell = np.exp(square * (-a / 2))
            slope = np.mean(bell * (1 - a * square), axis=1, keepdims=True)
            q = damping * slope * q - (v * bell) @ rows / np.float32(self.live)
        return np.asarray(q)

    def _promising(self, q: np.ndarray) -> np.ndarray:
        """Those of unit vectors `q` that are nearly zero most often, each once, and not known yet."""
        entries = q.astype(np.float32) @ self._rows32.T
        near = np.count_nonzero(np.abs(entries) < _NEAR / np.sqrt(len(self.basis)), axis=1)
        self.hits += int(np.count_nonzero(near > max(_HIT * self.live, self.rank + 2)))
        q = q[np.argsort(-near, kind="stable")]
        close = np.abs(q @ q.T) > _SAME
        q = q[~np.any(np.tril(close, -1), axis=1)]
        if len(self.directions):
            q = q[~np.any(np.abs(q @ self.directions.T) > _SAME, axis=1)]
        return q[:_CLOSE_LOOK]

    def _sharpened(self, q: np.ndarray) -> np.ndarray:
        for smooth in _NEAR * np.geomspace(1.0, 1e-3, _SHARPENING) / np.sqrt(len(self.basis)):
            q = q / np.linalg.norm(q, axis=1, keepdims=True)
            weights = (np.square(q @ self._rows.T) + smooth**2) ** (_EXPONENT / 2 - 1)
            q = np.linalg.solve(self._weighted_squares(weights), q[:, :, None])[:, :, 0]
        return q

    def descend(self, starts: int) -> bool:
        """Lowers sum |v|^p from `starts` vectors of each kind; whether any new one was kept.

        The kinds: random directions, those of random rows, and, if `off` is known, those nearest to zero where a random
        example orthogonal to the sparsest vectors found so far is off.
        """
        if self.rank < 2 or self.live < self.rank:
            return False
        begin = [self.rng.normal(size=(starts, self.rank)), self._rows[self.rng.integers(0, self.live, starts)]]
        if self.off is not None and len(self.directions):
            begin.append(self._from_examples(starts, self.off))
        q = np.concatenate(begin)
        self.descents += len(q)
        first, last = _SMOOTHING
        for step in range(_STEPS):
            q = q / np.linalg.norm(q, axis=1, keepdims=True)
            smooth = first * (last / first) ** (step / (_STEPS - 1)) / np.sqrt(len(self.basis))
            weights = (np.square(q @ self._rows.T) + smooth**2) ** (_EXPONENT / 2 - 1)
            q = np.linalg.solve(self._weighted_squares(weights), q[:, :, None])[:, :, 0]
        return self._consider(q)

    def _from_examples(self, starts: int, off: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        duals = np.empty((starts, self.rank))
        for i in range(starts):
            known = self.directions[: max(self.rank - 1 - int(self.rng.integers(0, self.rank - 1)), 1)]
            others = np.linalg.svd(known)[2][len(known) :]
            duals[i] = self.rng.normal(size=len(others)) @ others
        weights = np.where(off(duals), 1.0, 1e-2)
        return np.linalg.eigh(self._weighted_squares(weights))[1][:, :, 0]

    def _weighted_squares(self, weights: np.ndarray) -> np.ndarray:
        """rows^T diag(weights) rows, `[n, rank, rank]`, for weights `[n, live]`."""
        return (weights @ self._products)[:, self._square]

    def climb(self, planes: int = 4) -> bool:
        """Looks for sparser vectors near those found; whether any was kept.

        Looks at `planes` planes around each vector, those left by random rows where it is zero, and at the planes
        through pairs of vectors, of many a random thousand.
        """
        k = len(self.directions)
        if self.rank < 3 or k == 0 or self.live <= self.rank:
            return False
        zero = np.abs(self.directions @ self._rows.T) < self._exactly
        order = self.rng.random((planes, k, self.live)) + ~zero[None]
        order = order.reshape(-1, self.live)
        few = np.argpartition(order, self.rank - 3, axis=1)[:, : self.rank - 2]
        others = np.where(np.tile(zero, (planes, 1)), 2.0, self.rng.random((planes * k, self.live)))
        two = np.argpartition(others, 1, axis=1)[:, :2]
        around = self._inverses(np.concatenate([few, two], axis=1))[:, :, -2:]
        i, j = np.triu_indices(k, 1)
        if len(i) > _PAIRS:
            some = self.rng.choice(len(i), _PAIRS, replace=False)
            i, j = i[some], j[some]
        pairs = np.stack([self.directions[i], self.directions[j]], axis=-1)
        # A direction may be off by more than the rounding, and zero in fewer rows than it could be.
        shaken = self.directions + self.rng.normal(0.0, 0.1 * self.tolerance, self.directions.shape)
        improved = self._add(self._polished(shaken / np.linalg.norm(shaken, axis=1, keepdims=True)))
        return self._consider(self._in_planes(np.concatenate([around, pairs]))) or improved

    def _inverses(self, chosen: np.ndarray) -> np.ndarray:
        """Of the matrices `[n, rank, rank]` of rows `chosen` `[n, rank]`: column j is zero in all rows but the jth."""
        square = self._rows[chosen]
        # Parallel rows make a matrix exactly singular, and one such matrix makes the whole call fail. What is found is
        # polished later, so that a disturbance well below the tolerance does no harm.
        for disturbance in (1e-9, 1e-7, 1e-5):
            square = square + self.rng.normal(0.0, disturbance, square.shape)
            try:
                return np.linalg.inv(square)
            except np.linalg.LinAlgError:
                continue
        return np.linalg.pinv(square)

    def _in_planes(self, planes: np.ndarray) -> np.ndarray:
        """The two directions of each plane `[n, rank, 2]` that are zero in the most rows."""
        n = len(planes)
        self.planes += n
        planes = np.linalg.qr(planes)[0]
        values = self._rows @ planes  # [n, live, 2]
        angle = np.arctan2(values[..., 1], values[..., 0]) % np.pi
        shift = self.rng.uniform(0, np.pi)  # a cluster on the border of two bins is found at another try
        angle = (angle + shift) % np.pi
        there = np.hypot(values[..., 0], values[..., 1]) > 3 * self._zero
        place = np.minimum((angle * (_BINS / np.pi)).astype(np.int64), _BINS - 1) + _BINS * np.arange(n)[:, None]
        counts = np.bincount(place[there], minlength=n * _BINS)
        sums = np.bincount(place[there], weights=angle[there], minlength=n * _BINS)
        best = np.argpartition(counts.reshape(n, _BINS), -2, axis=1)[:, -2:]
        flat = (best + _BINS * np.arange(n)[:, None]).reshape(-1)
        found = counts[flat] >= 3
        mean = sums[flat][found] / counts[flat][found] - shift
        which = planes[np.repeat(np.arange(n), 2)[found]]
        return which[..., 0] * np.sin(mean)[:, None] - which[..., 1] * np.cos(mean)[:, None]

    def _consider(self, vectors: np.ndarray) -> bool:
        """Keeps those of `vectors` `[n, rank]` that are sparse; whether any was new."""
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        least = self.least_zeros
        hits = vectors[self._first_look(vectors, least)]
        hits = hits[~np.any(np.abs(hits @ self.directions.T) > 1 - 1e-5, axis=1)]
        zeros = self._count(hits)
        order = np.argsort(-zeros, kind="stable")
        order = order[zeros[order] >= max(least - 2, 1)][:_CLOSE_LOOK]  # a zero or two may be found in polishing
        return self._add(self._polished(hits[order]))

    def _add(self, directions: np.ndarray) -> bool:
        """Keeps those of `directions` that are of use; whether any was new."""
        kept = False
        for direction in directions:
            zeros = int(self._zeros(direction[None])[0])
            # What was kept a moment ago may have made it known, or too weak.
            if zeros >= self.least_zeros and not self._known(direction, zeros):
                kept |= self._insert(direction, zeros)
        return kept

    def _first_look(self, vectors: np.ndarray, least: int) -> np.ndarray:
        """Which of `vectors` may have that many zeros, judged by a few rows."""
        if self.live <= 2 * _FIRST_LOOK or len(vectors) < _CLOSE_LOOK:
            return np.arange(len(vectors))
        some = self.rng.choice(self.live, _FIRST_LOOK, replace=False)
        entries = self._rows32[some] @ vectors.T.astype(np.float32)
        counts = (np.abs(entries) < self._zero).sum(axis=0, dtype=np.uint8)
        share = least / self.live
        return np.flatnonzero(counts >= max(2, int(share * _FIRST_LOOK - 2.5 * np.sqrt(share * _FIRST_LOOK))))

    def _count(self, directions: np.ndarray) -> np.ndarray:
        return np.count_nonzero(np.abs(directions @ self._rows.T) < self._zero, axis=1)

    def _zeros(self, directions: np.ndarray) -> np.ndarray:
        return np.count_nonzero(np.abs(directions @ self._rows.T) < self._exactly, axis=1)

    def _known(self, direction: np.ndarray, zeros: int) -> bool:
        same = np.abs(self.directions @ direction) > 1 - 1e-7
        over = np.abs(self.passed_over @ direction) > 1 - 1e-7
        return bool(np.any(same & (self.zeros >= zeros)) or np.any(over))

    def _polished(self, hits: np.ndarray) -> np.ndarray:
        """The directions near `hits` `[n, rank]` that are zero to the rounding in as many rows as there are.

        Rows that are nearly zero by chance would pull a least-squares fit off the others, so weights single out those
        that can be zero together. Hits whose zeros leave more than one direction open are left out.
        """
        if not len(hits):
            return hits
        directions = hits
        for limit in np.geomspace(self._zero / 3, self._exactly / 3, _POLISHING):
            weights = limit**2 / (np.square(directions @ self._rows.T) + limit**2)
            directions = np.linalg.eigh(self._weighted_squares(weights))[1][:, :, 0]
        best, most = directions, np.full(len(hits), -1)
        # The rows that count as zero decide the fit, and the fit decides how many are: the best of several cuts.
        for limit in np.geomspace(self._zero / 3, self._exactly, 4):
            zero = np.abs(directions @ self._rows.T) < limit
            squares, vectors = np.linalg.eigh(self._weighted_squares(zero.astype(np.float64)))
            fits = vectors[:, :, 0]
            clear = squares[:, 1] > np.maximum((10 * self._exactly) ** 2, 1e-14 * squares[:, -1])
            zeros = np.where(clear, self._zeros(fits), -1)
            best = np.where((zeros > most)[:, None], fits, best)
            most = np.maximum(zeros, most)
        return best[most >= 0]

    def _insert(self, direction: np.ndarray, zeros: int) -> bool:
        """Adds a direction and drops the least sparse one that the others then span, if there is one."""
        at = int(np.searchsorted(-self.zeros, -zeros, side="right"))
        directions = np.insert(self.directions, at, direction, axis=0)
        counts = np.insert(self.zeros, at, zeros)
        keep, span = [], np.zeros((0, self.rank))
        for i, d in enumerate(directions):
            rest = d - (d @ span.T) @ span
            rest -= (rest @ span.T) @ span
            length = float(np.linalg.norm(rest))
            if length > 1e-3:
                keep.append(i)
                span = np.vstack([span, rest / length])
        dropped = np.setdiff1d(np.arange(len(directions)), keep)
        self.directions, self.zeros = directions[keep], counts[keep]
        self.passed_over = np.concatenate([self.passed_over, directions[dropped]])[-4 * self.rank :]
        self.seen += len(dropped)
        return at in keep
