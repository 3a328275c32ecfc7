"""Philox for many keys at once: the first normal values that each of many seeds would give.

Philox4x32-10 of Salmon, Moraes, Dror, Shaw (2011, "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11). TensorFlow's
own takes one seed a call, and a search over seeds wants a few values of each of many.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def block(key: np.ndarray, low: np.ndarray | int, high: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """The two int64 words that Philox gives for a counter.

    Args:
      key: uint64 `[n]`.
      low, high: halves of the counter, uint64 `[n]` or one for all.

    Returns:
      Two int64 `[n]`.
    """
    k0, k1 = key & _LOW, key >> _HALF
    halves = [np.broadcast_to(np.asarray(half, np.uint64), key.shape) for half in (low, high)]
    c0, c1, c2, c3 = (part for half in halves for part in (half & _LOW, half >> _HALF))
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return (c0 | c1 << _HALF).view(np.int64), (c2 | c3 << _HALF).view(np.int64)


def normal_pair(key: np.ndarray, high: np.ndarray, j: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Values j and pairs + j of `fedpriv.base.seeds.gaussian` for `2 * pairs` values, from the seed that it draws with.

    Args:
      key: uint64 `[n]`, first words of those seeds.
      high: uint64 `[n]`, their second words.
      j: from 0 to pairs - 1.
      pairs: half the number of values, rounded up.
    """
    first, second = (block(key, flat // 2, high)[flat % 2] for flat in (j, pairs + j))
    uniform = ((first & np.int64(2**63 - 1)).astype(np.float64) + 0.5) * 2.0**-63
    radius, angle = np.sqrt(-2.0 * np.log(uniform)), second.astype(np.float64) * (2.0**-63 * np.pi)
    return radius * np.cos(angle), radius * np.sin(angle)
