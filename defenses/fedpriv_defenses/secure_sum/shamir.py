"""Shamir's threshold secret sharing, for many secrets at once.

Shamir, 1979, "How to share a secret", Communications of the ACM 22(11). A secret is the value at 0 of a polynomial of
degree t - 1 whose other coefficients are uniform; share x is its value at x. Any t shares determine it, any t - 1 are
uniform whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpriv_defenses.secure_sum.field import PrimeField

#: Bits of a byte string that one element of the field of 2^31 - 1 carries.
_LIMB = 30
FIELD = PrimeField(31)


def share(field: PrimeField, secrets: np.ndarray, threshold: int, points: Sequence[int]) -> np.ndarray:
    """Shares of each of m secrets, uint64 `[n, m]`.

    Args:
      field: where it happens.
      secrets: elements `[m]`.
      threshold: t, shares that determine a secret; at least 1, at most n.
      points: n different elements other than 0, one a share.

    Raises:
      ValueError: a threshold or points that cannot be.
    """
    check(threshold, points, field)
    coefficients = np.concatenate([secrets[None], field.uniform(threshold - 1, len(secrets))])
    return field.matmul(powers(field, points, threshold), coefficients)


def recover(field: PrimeField, shares: np.ndarray, points: Sequence[int], threshold: int) -> np.ndarray | None:
    """The secrets `[m]` behind shares `[n, m]` at `points`; None if the shares contradict each other.

    The first t shares determine them; every further one must lie on the same polynomials.

    Raises:
      ValueError: fewer than t shares.
    """
    if len(points) < threshold:
        raise ValueError(f"{len(points)} shares do not determine a secret that takes {threshold}")
    known, rest = list(points[:threshold]), list(points[threshold:])
    found = field.matmul(lagrange(field, known, [0, *rest]), shares[:threshold])
    return found[0] if np.array_equal(found[1:], shares[threshold:]) else None


def check(threshold: int, points: Sequence[int], field: PrimeField) -> None:
    """Raises ValueError for a threshold or points that cannot be."""
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold={threshold} of {len(points)} shares; give 1 to {len(points)}")
    if len(set(points)) < len(points) or not all(0 < x < field.p for x in points):
        raise ValueError(f"points={list(points)[:8]} must differ, and lie between 1 and {field.p - 1}")


def powers(field: PrimeField, points: Sequence[int], count: int) -> np.ndarray:
    """x^0 to x^(count - 1) of every point x, uint64 `[n, count]`."""
    x = np.asarray(points, np.uint64)
    found, step, done = np.ones((len(x), count), np.uint64), x, 1
    while done < count:  # x^i to x^(2 i), twice as many at a time
        found[:, done : 2 * done] = field.multiply(found[:, : min(done, count - done)], step[:, None])
        step, done = field.multiply(step, step), 2 * done
    return found


def lagrange(field: PrimeField, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """Weights `[w, t]` that turn values at the `known` points into those at the `wanted` ones."""
    x = np.asarray(known, np.uint64)
    z = np.asarray(wanted, np.uint64)
    differences = field.subtract(x[:, None], x[None, :])
    np.fill_diagonal(differences, 1)
    below = field.product(differences.T)
    gaps = field.subtract(z[:, None], x[None, :])  # [w, t]
    # The product over all others is that over all, over its own; where a wanted point is a known one, it is that.
    same = gaps == 0
    gaps[same] = 1
    weights = field.multiply(field.product(gaps.T)[:, None], field.inverse(field.multiply(gaps, below[None])))
    return np.where(same.any(1)[:, None], same.astype(np.uint64), weights)


def limbs(length: int) -> int:
    """Elements that a byte string of that length takes."""
    return -(-8 * length // _LIMB)


def to_elements(strings: Sequence[bytes]) -> np.ndarray:
    """Byte strings of one length as elements of the field of 2^31 - 1, uint64 `[count, limbs]`."""
    length = len(strings[0])
    bits = np.unpackbits(np.frombuffer(b"".join(strings), np.uint8).reshape(len(strings), length), axis=1)
    padded = np.zeros((len(strings), limbs(length) * _LIMB), np.uint8)
    padded[:, : 8 * length] = bits
    weights = (1 << np.arange(_LIMB, dtype=np.uint64))[::-1]
    return padded.reshape(len(strings), -1, _LIMB).astype(np.uint64) @ weights


def to_strings(elements: np.ndarray, length: int) -> list[bytes | None]:
    """Elements `[count, limbs]` back to byte strings of `length`; None for those that no string becomes."""
    places = np.arange(_LIMB, dtype=np.uint64)[::-1]
    bits = ((elements[..., None] >> places) & np.uint64(1)).astype(np.uint8).reshape(len(elements), -1)
    fine = (elements >> np.uint64(_LIMB) == 0).all(-1) & ~bits[:, 8 * length :].any(-1)
    packed = np.packbits(bits[:, : 8 * length], axis=1)
    return [row.tobytes() if ok else None for row, ok in zip(packed, fine)]


def share_strings(strings: Sequence[bytes], threshold: int, points: Sequence[int]) -> np.ndarray:
    """Shares of byte strings of one length, uint64 `[n, count, limbs]`; see `share`."""
    elements = to_elements(strings)
    shares = share(FIELD, elements.reshape(-1), threshold, points)
    return shares.reshape(len(points), *elements.shape)


def recover_strings(shares: np.ndarray, points: Sequence[int], threshold: int, length: int) -> list[bytes | None]:
    """The byte strings behind shares `[n, count, limbs]`; None for each whose shares contradict each other."""
    known, rest = list(points[:threshold]), list(points[threshold:])
    if len(known) < threshold:
        raise ValueError(f"{len(points)} shares do not determine a secret that takes {threshold}")
    n, count, width = shares.shape
    found = FIELD.matmul(lagrange(FIELD, known, [0, *rest]), shares[:threshold].reshape(threshold, -1))
    agree = (found[1:].reshape(n - threshold, count, width) == shares[threshold:]).all((0, 2))
    strings = to_strings(found[0].reshape(count, width), length)
    return [s if ok else None for s, ok in zip(strings, agree)]
