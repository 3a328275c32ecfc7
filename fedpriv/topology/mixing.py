"""Mixing: the weights with which peers average what they receive, and how fast that brings them together.

A matrix `W [n, n]` holds in row i with which weight peer i takes each peer's model, its own included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from fedpriv.base.errors import DataError, ParameterError

#: How far rows and columns may sum from 1.
TOLERANCE = 1e-6
#: A contraction this near to 1 is none.
STILL = 1e-9
#: Peers up to which singular values are computed of the whole matrix.
DENSE = 1500


def metropolis(links: np.ndarray, peers: int) -> sp.csr_matrix:
    """Metropolis-Hastings weights of links that go both ways: 1 / (1 + the larger degree); the rest is one's own.

    Xiao, Boyd, Lall 2005, "A scheme for robust distributed sensor fusion based on average consensus", IPSN.

    Args:
      links: int `[m, 2]` of (sender, receiver).
      peers: n.
    """
    degrees = np.bincount(links[:, 0], minlength=peers)
    values = 1.0 / (1.0 + np.maximum(degrees[links[:, 0]], degrees[links[:, 1]]))
    return _with_own(sp.csr_matrix((values, (links[:, 1], links[:, 0])), (peers, peers)))


def equal(links: np.ndarray, peers: int) -> sp.csr_matrix:
    """One over the number of models that a peer has then, its own included."""
    arriving = np.bincount(links[:, 1], minlength=peers)
    values = 1.0 / (1.0 + arriving[links[:, 1]])
    return _with_own(sp.csr_matrix((values, (links[:, 1], links[:, 0])), (peers, peers)))


def _with_own(others: sp.csr_matrix) -> sp.csr_matrix:
    own = 1.0 - np.asarray(others.sum(1)).ravel()
    return (others + sp.diags(own)).tocsr()


def given(path: str, peers: int) -> sp.csr_matrix:
    """A matrix from a file: `.npy`, or text with one row a line, apart by spaces or commas.

    Raises:
      DataError: it cannot be read.
      ParameterError: it has another shape.
    """
    try:
        if Path(path).suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        else:
            text = Path(path).read_text(encoding="utf-8-sig").replace(",", " ")
            found = np.loadtxt(text.splitlines()) if text.strip() else np.zeros([0])
        if np.iscomplexobj(found):
            raise ValueError("its numbers are complex")
        found = np.asarray(found, np.float64)
    except (OSError, ValueError) as e:
        raise DataError(
            f"mixing={path} cannot be read: {e}; give an .npy file or a text file of [n, n] weights, or 'metropolis' "
            "or 'equal'"
        ) from e
    if found.shape != (peers, peers):
        raise ParameterError(f"mixing={path} has shape {list(found.shape)}; {peers} peers need [{peers}, {peers}]")
    return sp.csr_matrix(found)


def check_doubly_stochastic(matrix: sp.csr_matrix, name: str) -> None:
    """Raises ParameterError unless no weight is negative and all rows and columns sum to 1.

    D-PSGD needs it: columns keep the mean of all models, rows keep models that agree.
    """
    if not np.isfinite(matrix.data).all() or matrix.data.min(initial=0.0) < -TOLERANCE:
        weights = matrix.toarray()
        wrong = np.where(np.isfinite(weights), weights, -np.inf)
        row, column = (int(a) for a in np.unravel_index(int(np.argmin(wrong)), matrix.shape))
        raise ParameterError(
            f"{name} is not doubly stochastic: the weight of peer {column} at peer {row} is {matrix[row, column]:g}; "
            "give weights of 0 or more, all finite"
        )
    for axis, word in ((1, "row"), (0, "column")):
        sums = np.asarray(matrix.sum(axis)).ravel()
        worst = int(np.argmax(np.abs(sums - 1)))
        if abs(sums[worst] - 1) > TOLERANCE:
            raise ParameterError(
                f"{name} is not doubly stochastic: {word} {worst} sums to {sums[worst]:.6g}, not 1; mend it, use "
                "mixing=metropolis, or a protocol that needs no such matrix: push_sum"
            )


def check_follows(matrix: sp.csr_matrix, links: np.ndarray, name: str) -> None:
    """Raises ParameterError where a matrix weighs models that no link brings."""
    there = set(map(tuple, links.tolist()))
    rows, columns = matrix.nonzero()
    for receiver, sender in zip(rows.tolist(), columns.tolist(), strict=True):
        if receiver != sender and (sender, receiver) not in there:
            raise ParameterError(
                f"{name} gives peer {sender} a weight of {matrix[receiver, sender]:g} at peer {receiver}, but the "
                "graph has no such link; give it 0, or add the link"
            )


def check_mixes(matrix: sp.csr_matrix, name: str) -> None:
    """Raises ParameterError where models need not come together, whatever the graph."""
    parts = int(connected_components(matrix, directed=True, connection="strong", return_labels=False))
    if parts > 1:
        raise ParameterError(
            f"{name} never mixes: by its weights other than 0 the {matrix.shape[0]} peers fall into {parts} parts that "
            "exchange nothing; give weights to links between them, or use mixing=metropolis"
        )
    if contraction([matrix]) > 1 - STILL:
        raise ParameterError(
            f"{name} never mixes: its spectral gap is 0, so that models need not come nearer to each other; give peers "
            "weights of their own models too, or use mixing=metropolis"
        )


def contraction(matrices: Sequence[sp.csr_matrix]) -> float:
    """By which factor one round brings models nearer to their mean at least, as an average over the period.

    The largest singular value of the product of a period's matrices beside that of the mean, to the power of one over
    the period. For one symmetric matrix it is the second largest absolute eigenvalue; the spectral gap is 1 minus it.
    """
    n = matrices[0].shape[0]
    if n == 1:
        return 0.0
    if n <= DENSE:
        product = np.eye(n) - 1.0 / n
        for matrix in matrices:
            product = matrix @ product
        symmetric = len(matrices) == 1 and abs(matrices[0] - matrices[0].T).max() < 1e-12
        if symmetric:
            found = float(np.abs(np.linalg.eigvalsh(product)).max())
        else:
            found = float(np.linalg.norm(product, 2))
    else:
        from scipy.sparse.linalg import LinearOperator, svds

        def forward(v: np.ndarray) -> np.ndarray:
            v = v - v.mean()
            for matrix in matrices:
                v = matrix @ v
            return v

        def backward(v: np.ndarray) -> np.ndarray:
            for matrix in reversed(matrices):
                v = matrix.T @ v
            return v - v.mean()

        operator = LinearOperator((n, n), matvec=forward, rmatvec=backward, dtype=np.float64)
        start = np.random.default_rng(0).normal(size=n)
        found = float(svds(operator, k=1, v0=start, return_singular_vectors=False)[0])
    return float(found ** (1 / len(matrices))) if found > 1e-12 else 0.0


def growth(matrix: sp.csr_matrix, fraction: float, gamma: float) -> float:
    """By which factor a round of CHOCO changes the consensus distance where coordinates are drawn, in the long run.

    Every coordinate is sent in a round with probability `fraction`, by all peers alike. Of an eigenvector of the
    weights with eigenvalue `1 - m`, a coordinate `x` and its public copy `h` become `x - gamma m x` and `x` where it is
    sent, else `x - gamma m h` and `h`. So their mean squares are a linear recursion; 1 or more means that models part.

    Args:
      matrix: weights `[n, n]`.
      fraction: in (0, 1].
      gamma: CHOCO's step.
    """
    found = 0.0
    eigenvalues = np.linalg.eigvals(matrix.toarray())
    for value in np.delete(eigenvalues, int(np.argmin(np.abs(eigenvalues - 1)))):
        step = gamma * (1 - value)
        sent, kept = np.array([[1 - step, 0], [1, 0]]), np.array([[1, -step], [0, 1]])
        squares = fraction * np.kron(sent, sent.conj()) + (1 - fraction) * np.kron(kept, kept.conj())
        found = max(found, float(np.abs(np.linalg.eigvals(squares)).max()))
    return found**0.5
