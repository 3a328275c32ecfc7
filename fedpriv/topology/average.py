"""Average: weighted sums of many models, in blocks of columns that a core's cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from fedpriv.base.lazy import default_threads

#: Bytes of a block of columns: few enough for a cache, enough that threads seldom wait for the interpreter.
BLOCK_BYTES = 1 << 21
#: Rows that are summed in the models' own precision before they enter a float64 sum.
ROWS = 32
#: Share of non-zero weights from which a matrix is taken as dense.
DENSE = 0.25
#: Rows that have to follow one another on average, for a slice to be faster than gathering them.
RUN = 8

#: What is done with a block: (its columns, an array of its size, another); the arrays have anything in them.
Work = Callable[[slice, np.ndarray, np.ndarray], object]
#: Weighted sums of a block's rows, into an array that is not the block.
Times = Callable[[np.ndarray, np.ndarray], object]


def _each(work: Work, models: np.ndarray) -> None:
    """`work` on every block of columns, on as many threads as cores."""
    n, d = models.shape
    width = min(d, max(64, BLOCK_BYTES // max(1, n * models.itemsize)))
    starts, threads = range(0, d, width), max(1, default_threads()[1])

    def some(first: int) -> None:
        # Fresh memory for every block would cost more than what is done with it.
        rooms = [np.empty(n * width, models.dtype) for _ in range(2)]
        for start in starts[first::threads]:
            columns = slice(start, min(start + width, d))
            size = columns.stop - start
            work(columns, *(room[: n * size].reshape(n, size) for room in rooms))

    if min(len(starts), threads) == 1:
        threads = 1
        some(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, range(threads)))


def _times(matrix: sp.csr_matrix, dtype: np.dtype) -> Times:
    """What multiplies `matrix [n, n]` with blocks `[n, c]`."""
    n, matrix = matrix.shape[0], matrix.tocsr()
    counts = np.diff(matrix.indptr)
    if matrix.nnz > DENSE * n * n:
        dense = matrix.toarray().astype(dtype)
        return lambda block, out: np.matmul(dense, block, out=out)
    if np.ptp(counts) == 0 and np.ptp(matrix.data) < 1e-12:
        return _gathered(matrix, dtype)
    weights = matrix.astype(dtype)

    def weighed(block: np.ndarray, out: np.ndarray) -> None:
        out[:] = weights @ block

    return weighed


def _gathered(matrix: sp.csr_matrix, dtype: np.dtype) -> Times:
    """`_times` where all weights are alike and all rows have as many: rows are added up, then weighed."""
    n, weight = matrix.shape[0], dtype.type(matrix.data[0])
    places = np.ascontiguousarray(matrix.indices.reshape(n, -1).T)
    runs = [_runs(one) for one in places]

    def times(block: np.ndarray, out: np.ndarray) -> None:
        for k, (one, pieces) in enumerate(zip(places, runs, strict=True)):
            if pieces is None:
                if k == 0:
                    np.take(block, one, 0, out=out, mode="clip")
                else:
                    out += block[one]
                continue
            for first, last, start in pieces:
                there, here = block[start : start + last - first], out[first:last]
                if k == 0:
                    here[:] = there
                else:
                    here += there
        out *= weight

    return times


def _runs(places: np.ndarray) -> list[tuple[int, int, int]] | None:
    """Stretches (first, end, place of the first) in which places follow one another; None where they are short."""
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1, [len(places)]])
    if len(places) < RUN * (len(cuts) - 1):
        return None
    return [(int(a), int(b), int(places[a])) for a, b in pairwise(cuts)]


def _sums(block: np.ndarray) -> np.ndarray:
    """Over rows, float64; few rows at a time in the models' own precision."""
    groups = len(block) // ROWS
    whole = groups * ROWS
    found = block[whole:].sum(0, dtype=np.float64)
    if groups:
        # Row k of each of the ROWS stretches at once: long vector additions, in the order that the cache likes.
        found += np.add.reduce(block[:whole].reshape(ROWS, groups, -1), axis=0).sum(0, dtype=np.float64)
    return found


def mean(models: np.ndarray) -> np.ndarray:
    """Of models `[n, d]`, float64 `[d]`."""
    found = np.empty(models.shape[1])

    def block(columns: slice, part: np.ndarray, _: np.ndarray) -> None:
        np.copyto(part, models[:, columns])
        found[columns] = _sums(part) / len(models)

    _each(block, models)
    return found


def mean_and_spread(models: np.ndarray) -> tuple[np.ndarray, float]:
    """Of models `[n, d]`, in one pass: their mean, float64 `[d]`, and the root mean square distance from it."""
    found, squares = np.empty(models.shape[1]), dict[int, float]()

    def block(columns: slice, part: np.ndarray, _: np.ndarray) -> None:
        np.copyto(part, models[:, columns])
        found[columns] = _sums(part) / len(models)
        squares[columns.start] = _squared(part, found[columns])

    _each(block, models)
    return found, _root_mean(squares, len(models))


def spread(models: np.ndarray, centre: np.ndarray, masses: np.ndarray) -> float:
    """Root mean square distance of models `[n, d]`, over their masses, from a centre `[d]`."""
    squares = dict[int, float]()
    factors = (1 / masses)[:, None].astype(models.dtype)

    def block(columns: slice, part: np.ndarray, _: np.ndarray) -> None:
        np.multiply(models[:, columns], factors, out=part)
        squares[columns.start] = _squared(part, centre[columns])

    _each(block, models)
    return _root_mean(squares, len(models))


def _squared(part: np.ndarray, centre: np.ndarray) -> float:
    """Of rows minus a centre, which overwrites them."""
    part -= centre.astype(part.dtype)
    return float(np.vdot(part, part))


def _root_mean(squares: dict[int, float], rows: int) -> float:
    return math.sqrt(math.fsum(squares.values()) / rows)


def mix(matrix: sp.csr_matrix, models: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """`matrix [n, n] @ models [n, d]`, in the models' precision.

    Args:
      matrix: weights.
      models: the models.
      out: where it goes, which may be `models`; None is a new array.
    """
    return mix_and_measure(matrix, models, out, measure=False)[0]


def mix_and_measure(
    matrix: sp.csr_matrix, models: np.ndarray, out: np.ndarray | None = None, measure: bool = True
) -> tuple[np.ndarray, tuple[np.ndarray, float] | None]:
    """`mix`, and what `mean_and_spread` says of what comes out, in one pass; None of the latter without `measure`."""
    n = len(models)
    out = np.empty_like(models) if out is None else out
    if matrix.nnz == n * n and np.ptp(matrix.data) < 1e-12 and abs(matrix.data[0] * n - 1) < 1e-9:
        alike = mean(models)
        out[:] = alike.astype(models.dtype)
        return out, (alike, 0.0) if measure else None
    times = _times(matrix, models.dtype)
    found, squares = np.empty(models.shape[1] if measure else 0), dict[int, float]()

    def block(columns: slice, part: np.ndarray, total: np.ndarray) -> None:
        np.copyto(part, models[:, columns])
        times(part, total)
        out[:, columns] = total
        if measure:
            found[columns] = _sums(total) / n
            squares[columns.start] = _squared(total, found[columns])

    _each(block, models)
    return out, (found, _root_mean(squares, n)) if measure else None


def pull(matrix: sp.csr_matrix, copies: np.ndarray, models: np.ndarray, step: float, out: np.ndarray) -> np.ndarray:
    """`models + step * (matrix @ copies - copies)`, into `out`, which may be `models`."""
    times = _times(matrix, models.dtype)
    factor = models.dtype.type(step)

    def block(columns: slice, part: np.ndarray, total: np.ndarray) -> None:
        np.copyto(part, copies[:, columns])
        times(part, total)
        total -= part
        total *= factor
        np.add(models[:, columns], total, out=out[:, columns])

    _each(block, models)
    return out
