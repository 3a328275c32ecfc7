"""PrimeField: exact arithmetic modulo a Mersenne prime on arrays, for whatever is shared by polynomials.

Matrix products go through float64 matrix multiplication: elements are cut into limbs so short that every sum of
products stays below 2^53, where float64 is exact. They are worked on in blocks of columns that stay in the cache, on
all cores the process may use.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from threadpoolctl import ThreadpoolController

#: Columns of a product that are worked on at once, so that limbs stay in the cache.
_COLUMNS = 1 << 10
#: Products of fewer multiplications than this are over before a thread has started.
_WORTH_THREADS = 1 << 24
#: The number of BLAS threads belongs to the whole process: one product at a time may change it, and puts it back.
_one_product = threading.Lock()
#: numpy's own BLAS, which the products here go through; scipy and others bring theirs, which are left alone.
_BLAS = ThreadpoolController().select(
    filepath=[lib["filepath"] for lib in ThreadpoolController().info() if "numpy" in lib["filepath"]]
)


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
        self._lifted = _Lifted31 if exponent == 31 else _Lifted61

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
        """1 / a, all elements at the price of one inverse and three products each.

        After Montgomery, 1987, "Speeding the Pollard and elliptic curve methods of factorization", on a tree of pairs.

        Raises:
          ZeroDivisionError: an element is 0.
        """
        a = np.asarray(a, np.uint64)
        if not a.all():
            raise ZeroDivisionError("0 has no inverse in a field")
        if not a.size:
            return a
        levels = [a.reshape(-1)]
        while len(levels[-1]) > 1:
            if len(levels[-1]) % 2:
                levels[-1] = np.append(levels[-1], np.uint64(1))
            levels.append(self.multiply(levels[-1][::2], levels[-1][1::2]))
        found = np.array([pow(int(levels.pop()[0]), -1, self.p)], np.uint64)
        for level in reversed(levels):  # 1 / x = y / (x y)
            others = level.reshape(-1, 2)[:, ::-1].reshape(-1)
            found = self.multiply(np.repeat(found[: len(level) // 2], 2), others)
        return found[: a.size].reshape(a.shape)

    def product(self, rows: np.ndarray) -> np.ndarray:
        """The product of `rows` `[m, n]`, element by element, `[n]`."""
        while len(rows) > 1:
            half = len(rows) // 2
            rows = np.concatenate([self.multiply(rows[:half], rows[half : 2 * half]), rows[2 * half :]])
        return np.ones(rows.shape[1], np.uint64) if not len(rows) else np.asarray(rows[0], np.uint64)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The matrix product of a `[m, k]` and b `[k, n]`, `[m, n]`."""
        (m, k), n = a.shape, b.shape[1]
        out = np.empty((m, n), np.uint64) if k else np.zeros((m, n), np.uint64)
        terms = self._lifted.terms
        lefts = [(top, self._lifted(np.asarray(a[:, top : top + terms], np.uint64))) for top in range(0, k, terms)]
        threads = _cores() if m * k * n >= _WORTH_THREADS and n > _COLUMNS else 1

        def work(number: int) -> None:
            scratch = _Scratch()
            for first in range(number * _COLUMNS, n, threads * _COLUMNS):
                columns = slice(first, first + _COLUMNS)
                for top, left in lefts:
                    part = left.times(np.asarray(b[top : top + terms, columns], np.uint64), scratch)
                    out[:, columns] = self.add(out[:, columns], part) if top else part

        if threads == 1:
            work(0)
            return out
        with _one_product, _BLAS.limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        return out

    def total(self, rows: np.ndarray) -> np.ndarray:
        """The sum of `rows` `[m, n]` of elements of any unsigned type, `[n]`."""
        most = (1 << (64 - self.exponent)) - 1  # that many, and an element, fit 64 bits
        found = np.zeros(rows.shape[1], np.uint64)
        for first in range(0, len(rows), most):
            found = self.reduce(found + rows[first : first + most].sum(0, dtype=np.uint64))
        return found

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
            words = words >> words.dtype.type(8 * self.width - self.exponent)
            fine = words < self.p  # all but about one in p
            good = words if fine.all() else words[fine]
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
        values = np.frombuffer(message, f"<u{self.width}")
        return values.astype(np.uint64) if (values < self.p).all() else None

    def embed(self, ring: np.ndarray, bits: int) -> np.ndarray:
        """Elements modulo 2^bits to the field, as the signed integers that they stand for."""
        unused = 64 - bits
        signed = (ring << np.uint64(unused)).view(np.int64)
        signed >>= unused  # arithmetic: copies the sign
        return (signed + (signed >> 63 & self.p)).view(np.uint64)

    def to_ring(self, elements: np.ndarray, bits: int) -> np.ndarray:
        """Field elements to integers modulo 2^bits, where those above p / 2 are negative."""
        negative = elements > self.p >> 1
        wrapped = np.where(negative, elements - np.uint64(self.p), elements)  # two's complement by wrap-around
        return wrapped & np.uint64((1 << bits) - 1)


class _Lifted31:
    """The left side `[m, k]` of a product modulo 2^31 - 1, cut into limbs for float64.

    a = a0 + 2^16 a1 with |a0| <= 2^15 and a1 <= 2^15, and b - 2^30 instead of b, so that two products of at most 240
    terms are exact without cutting b. A further term, a's sum times 2^30, puts back what was taken from b.
    """

    terms = 240
    p = (1 << 31) - 1

    def __init__(self, a: np.ndarray) -> None:
        signed = a.astype(np.int64)
        moved = (signed.sum(1, keepdims=True) % self.p << 30) % self.p
        whole = np.concatenate([signed, moved], 1)
        low = ((whole + (1 << 15)) & 0xFFFF) - (1 << 15)
        self._limbs = np.concatenate([low, (whole - low) >> 16]).astype(np.float64)

    def times(self, b: np.ndarray, scratch: _Scratch) -> np.ndarray:
        """The product with b `[k, n]`, in memory of `scratch`."""
        (k, n), m = b.shape, len(self._limbs) // 2
        right = scratch.floats("right", k + 1, n)
        np.subtract(b.view(np.int64), 1 << 30, out=right[:-1], casting="unsafe")
        right[-1] = 1
        both = np.matmul(self._limbs, right, out=scratch.floats("both", 2 * m, n))
        low, high, spare = both[:m], both[m:], scratch.floats("spare", m, n)
        self._near(high, spare)
        np.multiply(high, 65536.0, out=high)
        np.add(low, high, out=low)
        self._near(low, spare)
        whole, masks = spare.view(np.int64), high.view(np.int64)
        np.copyto(whole, low, casting="unsafe")
        self._lifted_up(whole, masks)
        found = whole.view(np.uint64)
        return np.minimum(found, np.subtract(found, np.uint64(self.p), out=masks.view(np.uint64)), out=found)

    def _near(self, values: np.ndarray, spare: np.ndarray) -> None:
        """Integers below 2^53 to [-p, 2p), in place; the quotient may be off by one."""
        np.multiply(values, 1 / self.p, out=spare)
        np.floor(spare, out=spare)
        np.multiply(spare, float(self.p), out=spare)
        np.subtract(values, spare, out=values)

    def _lifted_up(self, values: np.ndarray, masks: np.ndarray) -> None:
        """Adds p to what is negative, in place."""
        np.right_shift(values, 63, out=masks)
        np.bitwise_and(masks, self.p, out=masks)
        np.add(values, masks, out=values)


class _Lifted61:
    """The left side `[m, k]` of a product modulo 2^61 - 1, cut into limbs for float64.

    Three limbs of 21, 21 and 19 bits a side, and Karatsuba's six products in place of nine, exact up to 512 terms.
    """

    terms = 512
    p = (1 << 61) - 1

    def __init__(self, a: np.ndarray) -> None:
        self._limbs = _in_three(a, _Scratch())

    def times(self, b: np.ndarray, scratch: _Scratch) -> np.ndarray:
        """The product with b `[k, n]`, in memory of `scratch`."""
        shape = (len(self._limbs[0]), b.shape[1])
        pairs = enumerate(zip(self._limbs, _in_three(b, scratch), strict=True))
        d0, d1, d2, e01, e02, e12 = (np.matmul(x, y, out=scratch.floats(f"product {i}", *shape)) for i, (x, y) in pairs)
        # a b = d0 + (e01 - d0 - d1) 2^21 + (e02 - d0 - d2 + d1) 2^42 + (e12 - d1 - d2) 2^63 + d2 2^84, and 2^61 = 1.
        e12 -= d1
        e12 -= d2
        e12 *= 4
        e12 += d0
        e01 -= d0
        e01 -= d1
        e02 -= d0
        e02 -= d2
        e02 += d1
        d2 *= 4
        e01 += d2
        total, whole, high = (x.view(np.uint64) for x in (d0, d1, d2))
        np.copyto(total, e12, casting="unsafe")
        for part, bits in ((e01, 21), (e02, 42)):
            np.copyto(whole, part, casting="unsafe")
            np.right_shift(whole, np.uint64(61 - bits), out=high)
            total += high
            whole &= np.uint64((1 << (61 - bits)) - 1)
            whole <<= np.uint64(bits)
            total += whole
        np.right_shift(total, np.uint64(61), out=high)
        total &= np.uint64(self.p)
        total += high
        return np.minimum(total, np.subtract(total, np.uint64(self.p), out=high), out=total)


class _Scratch:
    """Memory that one thread uses again for every block, since asking for it anew takes as long as a product."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def floats(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Float64 `[rows, columns]` with anything in it; the same memory for the same name."""
        held = self._held.get(name)
        if held is None or held.size < rows * columns:
            held = self._held[name] = np.empty(rows * columns)
        return held[: rows * columns].reshape(rows, columns)


def _in_three(values: np.ndarray, scratch: _Scratch) -> list[np.ndarray]:
    """Limbs of 21, 21 and 19 bits as float64, and the sums of each two of them."""
    limbs = [scratch.floats(f"limb {i}", *values.shape) for i in range(6)]
    cut = limbs[5].view(np.uint64)
    for i, limb in enumerate(limbs[:3]):
        np.right_shift(values, np.uint64(21 * i), out=cut)
        cut &= np.uint64((1 << 21) - 1)
        np.copyto(limb, cut, casting="unsafe")
    for i, (one, other) in enumerate(((0, 1), (0, 2), (1, 2))):
        np.add(limbs[one], limbs[other], out=limbs[3 + i])
    return limbs


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _once(values: np.ndarray, p: int) -> np.ndarray:
    """Values in [0, 2p) to [0, p): what is below p wraps around to more than it was."""
    return np.minimum(values, values - np.uint64(p))
