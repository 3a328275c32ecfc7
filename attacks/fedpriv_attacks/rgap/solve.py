"""Solve: weighted least squares by normal equations, with what the data leave undetermined.

The equations are combined as information: a matrix N = sum of A^T A / variance and a vector of A^T b / variance. In
float64, and with rows weighted by the errors of float32 updates, squaring the condition number costs nothing that
the data hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Reciprocal condition numbers of N below this count as singular.
SINGULAR = 1e-14
#: Largest system whose inverse's diagonal is computed; that of a larger one is estimated.
EXACT = 1000


@dataclass(frozen=True, eq=False)
class Solution:
    """The least-squares solution and how well it is determined.

    Attributes:
      x: `[n]`.
      variance: `[n]`, of its errors, if the rows' are right; infinite where nothing determines an entry. Of more than
        1,000 unknowns it is an estimate, right within about a fifth.
      rank: numerical rank of N.
      condition: condition number of the equations' matrix (the square root of N's), infinite if singular.
      precondition: `[n] -> [n]`, the product with N's (pseudo-)inverse.
    """

    x: np.ndarray
    variance: np.ndarray
    rank: int
    condition: float
    precondition: Callable[[np.ndarray], np.ndarray]


def solve(information: np.ndarray, vector: np.ndarray, centre: float) -> Solution:
    """Solves N x = vector; where N is singular, the solution nearest to `centre` everywhere.

    Args:
      information: N `[n, n]`, symmetric, positive semi-definite; overwritten if singular.
      vector: `[n]`.
      centre: the value given to what is not determined.
    """
    from scipy import linalg

    n = len(vector)
    scale = np.sqrt(np.diag(information))
    if n and np.all(scale > 0):
        balanced = information / scale
        balanced /= scale[:, None]
        size = float(linalg.lapack.dlange("1", balanced.T))
        # Transposed it is in the order of columns, which LAPACK works on in place.
        factor, failed = linalg.lapack.dpotrf(balanced.T, lower=1, overwrite_a=1)
        reciprocal = 0.0 if failed else float(linalg.lapack.dpocon(factor, size, uplo="L")[0])
        if reciprocal > SINGULAR:

            def divide(b: np.ndarray) -> np.ndarray:
                return linalg.cho_solve((factor, True), b / scale, check_finite=False) / scale

            x = divide(vector)
            x = x + divide(vector - information @ x)
            if n <= EXACT:
                # The diagonal of L^-T L^-1 is the columns' squared lengths.
                inverse, _ = linalg.lapack.dtrtri(factor, lower=1)
                variance = np.einsum("ij,ij->j", inverse, inverse) / scale**2
            else:
                # L^-T times random signs has those as its entries' mean squares (Hutchinson 1990).
                signs = np.random.default_rng(0).choice([-1.0, 1.0], (n, 64))
                halves = linalg.solve_triangular(factor, signs, trans=1, lower=True, check_finite=False)
                variance = np.mean(halves**2, 1) / scale**2
            return Solution(x, variance, n, reciprocal**-0.5, divide)
    values, vectors = linalg.eigh(information, overwrite_a=True, check_finite=False)
    kept = values > max(float(values[-1]), 0.0) * SINGULAR * n
    inverse_values = np.divide(1.0, values, out=np.zeros_like(values), where=kept)

    def pseudo(b: np.ndarray) -> np.ndarray:
        return vectors @ (inverse_values * (vectors.T @ b))

    # What lies outside the rows' span comes from the centre.
    free = vectors[:, ~kept]
    x = pseudo(vector) + free @ (free.T @ np.full(n, centre))
    variance = (vectors**2) @ inverse_values
    variance[np.sum(free**2, 1) > 1e-9] = np.inf
    return Solution(x, variance, int(np.sum(kept)), float("inf"), pseudo)
