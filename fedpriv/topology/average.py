"""Average: weighted sums of many models, in blocks of columns that a core's cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp

from fedpriv.base.lazy import default_threads

#: Bytes of a block of columns.
BLOCK_BYTES = 1 << 19
#: Rows that are summed in the models' own precision before they enter a float64 sum.
ROWS = 32
#: Share of non-zero weights from which a matrix is taken as dense.
DENSE = 0.25


def _blocks(models: np.ndarray) -> Iterator[slice]:
    n, d = models.shape
    width = max(64, BLOCK_BYTES // max(1, n * models.itemsize))
    return (slice(first, min(first + width, d)) for first in range(0, d, width))


def _each(work: Callable[[slice], object], models: np.ndarray) -> None:
    """`work` on every block of columns, on as many threads as cores."""
    parts, threads = list(_blocks(models)), max(1, default_threads()[1])

    def some(first: int) -> None:
        for part in parts[first::threads]:
            work(part)

    if min(len(parts), threads) == 1:
        for part in parts:
            work(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, range(threads)))


def _times(matrix: sp.csr_matrix, dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """What multiplies `matrix [n, n]` with blocks `[n, c]`, as a new array."""
    n, matrix = matrix.shape[0], matrix.tocsr()
    counts = np.diff(matrix.indptr)
    if matrix.nnz > DENSE * n * n:
        dense = matrix.toarray().astype(dtype)
        return lambda block: dense @ block
    if np.ptp(counts) == 0 and np.ptp(matrix.data) < 1e-12:  # rows are gathered faster than they are weighed
        columns, weight = np.ascontiguousarray(matrix.indices.reshape(n, -1).T), dtype.type(matrix.data[0])

        def gathered(block: np.ndarray) -> np.ndarray:
            total, scaled = np.take(block, columns[0], 0), np.empty_like(block)
            for places in columns[1:]:
                total += np.take(block, places, 0, out=scaled, mode="clip")
            total *= weight
            return total

        return gathered
    weights = matrix.astype(dtype)
    return lambda block: weights @ block


def _sums(block: np.ndarray) -> np.ndarray:
    """Over rows, float64; few rows at a time in the models' own precision."""
    return np.add.reduceat(block, np.arange(0, len(block), ROWS), axis=0).sum(0, dtype=np.float64)


def mean(models: np.ndarray) -> np.ndarray:
    """Of models `[n, d]`, float64 `[d]`."""
    found = np.empty(models.shape[1])

    def block(columns: slice) -> None:
        found[columns] = _sums(models[:, columns]) / len(models)

    _each(block, models)
    return found


def mean_and_spread(models: np.ndarray) -> tuple[np.ndarray, float]:
    """Of models `[n, d]`, in one pass: their mean, float64 `[d]`, and the root mean square distance from it."""
    found, squares = np.empty(models.shape[1]), dict[int, float]()

    def block(columns: slice) -> None:
        part = models[:, columns].copy()
        found[columns] = _sums(part) / len(models)
        squares[columns.start] = _squared(part, found[columns])

    _each(block, models)
    return found, _root_mean(squares, len(models))


def spread(models: np.ndarray, centre: np.ndarray, masses: np.ndarray) -> float:
    """Root mean square distance of models `[n, d]`, over their masses, from a centre `[d]`."""
    squares = dict[int, float]()
    factors = (1 / masses)[:, None].astype(models.dtype)

    def block(columns: slice) -> None:
        squares[columns.start] = _squared(models[:, columns] * factors, centre[columns])

    _each(block, models)
    return _root_mean(squares, len(models))


def _squared(part: np.ndarray, centre: np.ndarray) -> float:
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
    n = len(models)
    out = np.empty_like(models) if out is None else out
    if matrix.nnz == n * n and np.ptp(matrix.data) < 1e-12 and abs(matrix.data[0] * n - 1) < 1e-9:
        out[:] = mean(models).astype(models.dtype)
        return out
    times = _times(matrix, models.dtype)

    def block(columns: slice) -> None:
        out[:, columns] = times(np.ascontiguousarray(models[:, columns]))

    _each(block, models)
    return out


def mix_in_place(matrix: sp.csr_matrix, models: np.ndarray) -> tuple[np.ndarray, float]:
    """`mix` over the models themselves, and what `mean_and_spread` says of them then, in one pass."""
    times = _times(matrix, models.dtype)
    found, squares = np.empty(models.shape[1]), dict[int, float]()

    def block(columns: slice) -> None:
        part = times(np.ascontiguousarray(models[:, columns]))
        models[:, columns] = part
        found[columns] = _sums(part) / len(models)
        squares[columns.start] = _squared(part, found[columns])

    _each(block, models)
    return found, _root_mean(squares, len(models))


def pull(matrix: sp.csr_matrix, copies: np.ndarray, models: np.ndarray, step: float, out: np.ndarray) -> np.ndarray:
    """`models + step * (matrix @ copies - copies)`, into `out`, which may be `models`."""
    times = _times(matrix, models.dtype)
    factor = models.dtype.type(step)

    def block(columns: slice) -> None:
        part = np.ascontiguousarray(copies[:, columns])
        out[:, columns] = models[:, columns] + factor * (times(part) - part)

    _each(block, models)
    return out
