"""Average: weighted sums of many models, in blocks of columns, so that memory and caches hold them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp

from fedpriv.base.lazy import default_threads

#: Bytes of a block of columns.
BLOCK_BYTES = 4 << 20
#: Rows that are summed in the models' own precision before they enter a float64 sum.
ROWS = 16
#: Share of non-zero weights from which a matrix is taken as dense.
DENSE = 0.25


def _blocks(models: np.ndarray) -> Iterator[slice]:
    n, d = models.shape
    width = max(64, BLOCK_BYTES // max(1, n * models.itemsize))
    return (slice(first, min(first + width, d)) for first in range(0, d, width))


def mean(models: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Of models `[n, d]`, float64 `[d]`; with `weights [n]` their weighted sum over n."""
    n, d = models.shape
    factors = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    total = np.zeros(d)
    for first in range(0, n, ROWS):
        rows = slice(first, first + ROWS)
        if weights is None:
            total += models[rows].sum(0)
        else:
            total += factors[rows] @ models[rows]
    return total / n


def distances(models: np.ndarray, centre: np.ndarray, masses: np.ndarray | None = None) -> np.ndarray:
    """Squared distances of models `[n, d]`, each over its mass, from a centre `[d]`; float64 `[n]`."""
    found = np.zeros(len(models))
    centre = centre.astype(models.dtype)

    def block(rows: slice) -> None:
        away = models[rows] if masses is None else models[rows] / masses[rows, None].astype(models.dtype)
        away = away - centre
        found[rows] = np.einsum("ij,ij->i", away, away)

    _parallel(block, [slice(first, first + ROWS) for first in range(0, len(models), ROWS)])
    return found


def mix(matrix: sp.csr_matrix, models: np.ndarray) -> np.ndarray:
    """`matrix [n, n] @ models [n, d]`, in the models' precision."""
    n = len(models)
    if matrix.nnz == n * n and np.ptp(matrix.data) < 1e-12 and abs(matrix.data[0] * n - 1) < 1e-9:
        return np.broadcast_to(mean(models).astype(models.dtype), models.shape).copy()
    out = np.empty_like(models)
    dense = matrix.nnz > DENSE * n * n
    weights = (matrix.toarray() if dense else matrix.tocsr()).astype(models.dtype)

    def block(columns: slice) -> None:
        out[:, columns] = weights @ np.ascontiguousarray(models[:, columns])

    _parallel(block, list(_blocks(models)))
    return out


def _parallel(work: object, parts: list[slice]) -> None:
    threads = max(1, default_threads()[1])
    if len(parts) == 1 or threads == 1:
        for part in parts:
            work(part)  # type: ignore[operator]
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))  # type: ignore[arg-type]
