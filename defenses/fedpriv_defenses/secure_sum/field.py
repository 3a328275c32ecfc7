"""PrimeField: exact arithmetic modulo a Mersenne prime on arrays, for whatever is shared by polynomials.

Matrix products go through float64 matrix multiplication: elements are cut into limbs so short that every sum of
products stays below 2^53, where float64 is exact.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

#: Columns of a product that are worked on at once, so that limbs stay in the cache.
_COLUMNS = 1 << 15


class PrimeField:
    """The integers modulo p = 2^exponent - 1. Elements are uint64 in [0, p).

    Args:
      exponent: 31 or 61; both make p prime.
    """

    def __init__(self, exponent: Literal[31, 61]) -> None:
        if exponent not in (31, 61):
            raise ValueError(f"exponent={exponent}: fields of 2^31 - 1 and 2^61 - 1 elements exist here; give 31 or 61")
        self.exponent = exponent
        self.p = (1 << exponent) - 1
        #: Bytes of an element on the wire.
        self.width = 4 if exponent == 31 else 8
        self._limb = 16 if exponent == 31 else 21
        self._limbs = -(-exponent // self._limb)
        # Sums of `limbs` products of two limbs, `terms` times, stay below 2^53.
        self._terms = (1 << 53) // (self._limbs << (2 * self._limb))

    def reduce(self, values: np.ndarray) -> np.ndarray:
        """Any uint64 to an element."""
        for _ in range(2 if self.exponent == 31 else 1):  # 2^exponent = 1
            values = (values & np.uint64(self.p)) + (values >> np.uint64(self.exponent))
        return _once(values, self.p)

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a + b."""
        return _once(a + b, self.p)

    def subtract(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a - b."""
        return _once(a + (np.uint64(self.p) - b), self.p)

    def multiply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a b, element by element."""
        a, b = np.asarray(a, np.uint64), np.asarray(b, np.uint64)
        if self.exponent == 31:
            return self.reduce(a * b)
        # a b = h 2^62 + m 2^31 + l with 2^61 = 1; every part stays below 2^63.
        half = np.uint64(31)
        low_bits = np.uint64((1 << 31) - 1)
        a1, a0, b1, b0 = a >> half, a & low_bits, b >> half, b & low_bits
        middle = a1 * b0 + a0 * b1
        high = np.uint64(2) * (a1 * b1)
        carried = (middle >> np.uint64(30)) + ((middle & np.uint64((1 << 30) - 1)) << half)
        return self.reduce(self.reduce(high) + self.reduce(carried) + self.reduce(a0 * b0))

    def inverse(self, a: np.ndarray) -> np.ndarray:
        """1 / a, by Fermat: a^(p - 2).

        Raises:
          ZeroDivisionError: an element is 0.
        """
        a = np.asarray(a, np.uint64)
        if not a.all():
            raise ZeroDivisionError("0 has no inverse in a field")
        power, result = a, np.ones_like(a)
        for bit in bin(self.p - 2)[:1:-1]:
            if bit == "1":
                result = self.multiply(result, power)
            power = self.multiply(power, power)
        return result

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The matrix product of a `[m, k]` and b `[k, n]`, `[m, n]`."""
        out = np.zeros((a.shape[0], b.shape[1]), np.uint64)
        for top in range(0, a.shape[1], self._terms):
            left = self._cut(a[:, top : top + self._terms])
            for first in range(0, b.shape[1], _COLUMNS):
                columns = slice(first, first + _COLUMNS)
                part = self._product(left, self._cut(b[top : top + self._terms, columns]))
                out[:, columns] = self.add(out[:, columns], part)
        return out

    def uniform(self, *shape: int) -> np.ndarray:
        """Uniformly random elements from the operating system's key and ChaCha20's keystream; never the same twice."""
        count = int(np.prod(shape))
        return self.expand(os.urandom(32), count).reshape(shape)

    def expand(self, key: bytes, count: int) -> np.ndarray:
        """The `count` elements that a 32-byte key stands for, uniform: the keystream's words below p, in order."""
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        found = np.empty(count, np.uint64)
        done = 0
        while done < count:
            words = np.frombuffer(stream.update(bytes((count - done) * self.width)), f"<u{self.width}")
            words = (words >> (8 * self.width - self.exponent)).astype(np.uint64)
            good = words[words < self.p]  # all but about one in p
            found[done : done + len(good)] = good
            done += len(good)
        return found

    def pack(self, elements: np.ndarray) -> bytes:
        """Elements to a message, little-endian."""
        return elements.astype(f"<u{self.width}").tobytes()

    def unpack(self, message: bytes) -> np.ndarray | None:
        """A message to elements; None if it holds none, or a value that is no element."""
        if len(message) % self.width:
            return None
        values = np.frombuffer(message, f"<u{self.width}").astype(np.uint64)
        return values if (values < self.p).all() else None

    def embed(self, ring: np.ndarray, bits: int) -> np.ndarray:
        """Elements modulo 2^bits to the field, as the signed integers that they stand for."""
        sign = np.uint64(1 << (bits - 1))
        negative = (ring & sign) != 0
        magnitude = (~ring + np.uint64(1)) & np.uint64((1 << bits) - 1)  # 2^bits - x
        return np.where(negative, np.uint64(self.p) - magnitude, ring)

    def to_ring(self, elements: np.ndarray, bits: int) -> np.ndarray:
        """Field elements to integers modulo 2^bits, where those above p / 2 are negative."""
        negative = elements > self.p >> 1
        wrapped = np.where(negative, elements - np.uint64(self.p), elements)  # two's complement by wrap-around
        return wrapped & np.uint64((1 << bits) - 1)

    def _cut(self, values: np.ndarray) -> list[np.ndarray]:
        mask = np.uint64((1 << self._limb) - 1)
        return [((values >> np.uint64(i * self._limb)) & mask).astype(np.float64) for i in range(self._limbs)]

    def _product(self, a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
        total: np.ndarray | None = None
        for power in range(2 * self._limbs - 1):
            pairs = [(i, power - i) for i in range(self._limbs) if 0 <= power - i < self._limbs]
            exact = sum(a[i] @ b[j] for i, j in pairs)
            part = self.reduce(np.asarray(exact).astype(np.uint64))
            part = self._shifted(part, power * self._limb)
            total = part if total is None else self.add(total, part)
        assert total is not None
        return total

    def _shifted(self, values: np.ndarray, places: int) -> np.ndarray:
        """values 2^places: a rotation of the bits, since 2^exponent = 1."""
        places %= self.exponent
        if not places:
            return values
        high = values >> np.uint64(self.exponent - places)
        low = (values << np.uint64(places)) & np.uint64(self.p)
        return _once(high | low, self.p)


def _once(values: np.ndarray, p: int) -> np.ndarray:
    """Values in [0, 2p) to [0, p)."""
    return np.where(values >= p, values - np.uint64(p), values)
