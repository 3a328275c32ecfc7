"""Participation: who was in which round's sum, and whose sums follow from these by adding and subtracting.

A matrix of zeros and ones has a row a round and a column a client. As long as updates do not change from round to
round, whoever holds the rounds' sums holds every combination of them, which is to say the matrix's row space: So, Ali,
Güler, Jiao, Avestimehr 2021, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated
Learning", arXiv 2106.03328. All arithmetic here is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np

#: Combinations of rounds that `determined` tries at most.
LIMIT = 200_000


def reduced(matrix: np.ndarray | Sequence[Sequence[int]]) -> tuple[list[list[Fraction]], list[int]]:
    """The reduced row echelon form without its rows of zeros, and the pivots' columns."""
    rows = [[Fraction(int(v)) for v in row] for row in matrix]
    pivots: list[int] = []
    for column in range(len(rows[0]) if rows else 0):
        done = len(pivots)
        found = next((i for i in range(done, len(rows)) if rows[i][column]), None)
        if found is None:
            continue
        rows[done], rows[found] = rows[found], rows[done]
        lead = rows[done][column]
        rows[done] = [v / lead for v in rows[done]]
        for i, row in enumerate(rows):
            if i != done and row[column]:
                factor = row[column]
                rows[i] = [a - factor * b for a, b in zip(row, rows[done], strict=True)]
        pivots.append(column)
    return rows[: len(pivots)], pivots


def rank(matrix: np.ndarray | Sequence[Sequence[int]]) -> int:
    """The rank over the rationals."""
    return len(reduced(matrix)[1])


def least_weight(matrix: np.ndarray, most: int | None = None) -> int | None:
    """How few clients a combination of the rounds' sums can be about: the least weight of a nonzero row-space vector.

    A vector on some columns alone is in the row space exactly if leaving these columns out lowers the rank.

    Args:
      matrix: `[rounds, clients]`.
      most: weights up to which to look; None is all of them.

    Returns:
      The weight; None if there is none up to `most`, or the matrix is zero.
    """
    matrix = np.asarray(matrix)
    whole, clients = rank(matrix), matrix.shape[1]
    for weight in range(1, (clients if most is None else min(most, clients)) + 1):
        for some in combinations(range(clients), weight):
            if rank(np.delete(matrix, some, 1)) < whole:
                return weight
    return None


def determined(matrix: np.ndarray, most: int = 1) -> list[tuple[int, ...]]:
    """Disjoint groups of at most `most` clients whose plain sum is a combination of the rounds' sums, small ones first.

    In reduced echelon form a combination's value at the pivots says which rows it takes, so that a group's indicator
    is the sum of the rows of those pivots that are in it.

    Args:
      matrix: `[rounds, clients]`.
      most: largest group to look for. Of groups larger than one the first `LIMIT` combinations are tried.
    """
    rows, pivots = reduced(matrix)
    found: list[tuple[int, ...]] = []
    taken: set[int] = set()
    tried = 0
    for size in range(1, most + 1):
        groups = []
        for some in combinations(range(len(pivots)), size):
            tried += 1
            if tried > LIMIT:
                break
            total = [sum(column) for column in zip(*(rows[i] for i in some), strict=True)]
            group = tuple(i for i, v in enumerate(total) if v)
            if len(group) <= most and all(total[i] == 1 for i in group):
                groups.append(group)
        for group in sorted(groups, key=lambda g: (len(g), g)):
            if not taken & set(group):
                found.append(group)
                taken |= set(group)
    return sorted(found, key=lambda g: (len(g), g))
