"""Decoding: which values do not lie on the polynomial of the others.

Berlekamp and Welch, 1986, US patent 4,633,470: with e wrong ones among at least t + 2 e values of a polynomial of
degree below t there are polynomials Q and E, of degrees below t + e and at most e, with Q(x) = y E(x) at every point;
E is 0 wherever y is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence


def suspects(points: Sequence[int], values: Sequence[int], threshold: int, p: int) -> list[int]:
    """Places of the values that may be wrong, all wrong ones among them if there are at most (n - t) // 2.

    Where there are more, it may be all places, or any.

    Args:
      points: n different ones.
      values: of a polynomial of degree below t, but for some.
      threshold: t.
      p: the field's prime.
    """
    wrong = (len(points) - threshold) // 2
    if wrong < 1:
        return []
    upper = threshold + wrong
    rows = []
    for x, y in zip(points, values, strict=True):
        powers = [pow(x, i, p) for i in range(upper)]
        rows.append(powers + [-y * power % p for power in powers[: wrong + 1]])
    found = null_vector(rows, p)
    if found is None:
        return list(range(len(points)))
    locator = found[upper:]
    return [i for i, x in enumerate(points) if sum(c * pow(x, j, p) for j, c in enumerate(locator)) % p == 0]


def null_vector(rows: Sequence[Sequence[int]], p: int) -> list[int] | None:
    """A vector other than 0 that every row is orthogonal to, modulo p; None if there is none."""
    left = [list(row) for row in rows]
    width, pivots = len(left[0]), list[int]()
    for column in range(width):
        place = next((i for i in range(len(pivots), len(left)) if left[i][column]), None)
        if place is None:
            continue
        at = len(pivots)
        left[at], left[place] = left[place], left[at]
        scale = pow(left[at][column], p - 2, p)
        left[at] = [value * scale % p for value in left[at]]
        for i, row in enumerate(left):
            if i != at and row[column]:
                factor = row[column]
                left[i] = [(a - factor * b) % p for a, b in zip(row, left[at], strict=True)]
        pivots.append(column)
    free = next((c for c in range(width) if c not in pivots), None)
    if free is None:
        return None
    found = [0] * width
    found[free] = 1
    for row, column in zip(left, pivots):
        found[column] = -row[free] % p
    return found
