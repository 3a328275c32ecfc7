"""SumCheck: a linear code over the field of 2^61 - 1 elements, by which a server knows a sum from a made-up one.

The server gives all clients of a round one secret key, which stands for coefficients a_1, a_2, ... and a pad r. A
client sends r + sum a_i v_i along with its vector v, encrypted, so that of m clients' vectors the sum S arrives with
m r + sum a_i S_i. Who knows neither a nor r and changes S passes with probability 2^-61 (Carter, Wegman, 1981, New
hash functions and their use in authentication and set equality): the key holder cannot tell the server another sum,
as long as no client lends it the key.
"""

from __future__ import annotations

import itertools
import os

import numpy as np

from fedpriv_defenses.secure_sum.field import PrimeField

KEY_BYTES = 32
_FIELD = PrimeField(61)
_HALF = np.uint64(32)


class SumCheck:
    """One round's check.

    Args:
      key: 32 secret bytes.
      elements: by block, how many integers it holds.
    """

    def __init__(self, key: bytes, elements: list[int]) -> None:
        drawn = _FIELD.expand(key, len(elements) + sum(elements))
        self._pads = [int(pad) for pad in drawn[: len(elements)]]
        ends = len(elements) + np.cumsum([0, *elements])
        self._coefficients = [drawn[a:b] for a, b in itertools.pairwise(ends)]

    @staticmethod
    def new_key() -> bytes:
        """A key from the operating system."""
        return os.urandom(KEY_BYTES)

    def of(self, block: int, values: np.ndarray, clients: int = 1) -> int:
        """What belongs to the sum int64 `[elements]` of so many clients' values in a block; below 2^61 - 1."""
        embedded = np.where(values < 0, values + _FIELD.p, values).astype(np.uint64)
        products = _FIELD.multiply(self._coefficients[block], embedded)
        high, low = int((products >> _HALF).sum()), int((products & np.uint64(0xFFFFFFFF)).sum())
        return ((high << 32) + low + clients * self._pads[block]) % _FIELD.p


def tags(seed: bytes, blocks: int, bits: int) -> list[int]:
    """The tags that a client's 32-byte seed stands for, one a block."""
    return [int(t) for t in _FIELD.expand(seed, blocks) >> np.uint64(61 - bits)]
