"""Ring: vectors of integers modulo 2^b in messages, as keystreams, and as additive shares.

A keystream is ChaCha20's (RFC 8439) under a fresh 256-bit key, read as little-endian integers. Of k additive shares,
k - 1 are keystreams, the last is the value minus their sum modulo 2^b. Security is computational: whoever tells any
k - 1 shares from uniformly random ones tells ChaCha20's keystream from random bits. If the last share is among the
k - 1, it is masked by the keystream that is not; if it is not, nothing in them depends on the value.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

KEY_BYTES = 32
#: Keys are never used twice, so a constant nonce repeats no keystream.
_NONCE = bytes(16)
#: Keystreams are made and used in blocks of this many elements, which stay in the processor's cache.
_BLOCK = 1 << 15
_ZEROS = bytes(8 * _BLOCK)
#: Bytes of a vector that one thread masks at once, and elements below which threads cost more than they save.
_TILE, _WORTH_THREADS = 1 << 19, 1 << 18


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="keystream")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of its parent's threads


class RingFormat:
    """How elements of the integers mod 2^bits lie in messages, bit after bit, and in keystreams, in whole bytes each.

    Args:
      bits: b, from 8 to 64.
      length: elements of a vector.
    """

    def __init__(self, bits: int, length: int) -> None:
        self.bits, self.length = bits, length
        #: Bytes of an element in a keystream.
        self.width = -(-bits // 8)
        #: Machine integers that hold an element. Their wrap-around is compatible with the ring's: 2^b divides it.
        self.dtype = np.dtype(f"<u{1 << (self.width - 1).bit_length()}")
        self._mask = self.dtype.type((1 << bits) - 1)

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector on the wire."""
        return -(-self.length * self.bits // 8)

    def reduce(self, values: np.ndarray) -> np.ndarray:
        """Takes machine integers modulo 2^b, in place."""
        if self.bits < 8 * self.dtype.itemsize:
            np.bitwise_and(values, self._mask, out=values)
        return values

    def pack(self, values: np.ndarray) -> bytes:
        """Ring elements `[length]` to a message of `vector_bytes`, lowest bits first."""
        if self.bits == 8 * self.dtype.itemsize:
            return values.tobytes()
        # Eight elements fill `bits` bytes; column by column, since numpy is slow on rows of a few bytes.
        rows = np.zeros((-(-self.length // 8), 8), np.uint64)
        rows.reshape(-1)[: self.length] = values
        groups = np.ascontiguousarray(rows.T)
        packed = np.empty((self.bits, groups.shape[1]), np.uint8)
        for byte in range(self.bits):
            first, offset = divmod(8 * byte, self.bits)
            column = groups[first] >> np.uint64(offset)
            if offset + 8 > self.bits:
                column |= groups[first + 1] << np.uint64(self.bits - offset)
            packed[byte] = column
        return packed.T.tobytes()[: self.vector_bytes]

    def unpack(self, message: bytes | memoryview) -> np.ndarray:
        """A message of `vector_bytes` to ring elements `[length]` (without a copy where none is needed)."""
        if self.bits == 8 * self.dtype.itemsize:
            return np.frombuffer(message, self.dtype)
        count = -(-self.length // 8)
        padded = np.zeros(count * self.bits, np.uint8)
        padded[: len(message)] = np.frombuffer(message, np.uint8)
        columns = np.ascontiguousarray(padded.reshape(count, self.bits).T)
        groups = np.zeros((8, count), np.uint64)
        for element in range(8):
            byte, offset = divmod(element * self.bits, 8)
            found = groups[element]
            found |= columns[byte] >> np.uint8(offset)
            place = 8 - offset
            while place < self.bits:
                byte += 1
                found |= columns[byte].astype(np.uint64) << np.uint64(place)
                place += 8
        groups &= np.uint64((1 << self.bits) - 1)
        return groups.T.reshape(-1)[: self.length].astype(self.dtype)

    def words(self, stream: bytes | memoryview) -> np.ndarray:
        """A keystream of whole bytes an element to machine integers (without a copy where none is needed)."""
        if self.width == self.dtype.itemsize:
            return np.frombuffer(stream, self.dtype)
        narrow = np.frombuffer(stream, np.uint8).reshape(-1, self.width)
        wide = np.zeros((len(narrow), self.dtype.itemsize), np.uint8)
        for i in range(self.width):
            wide[:, i] = narrow[:, i]
        return wide.view(self.dtype).reshape(-1)

    def blocks(self, key: bytes) -> Iterator[tuple[slice, np.ndarray]]:
        """The pseudo-random vector that `key` stands for, uniform on the ring, block by block.

        Yields:
          (where, elements): a block is overwritten by the next one.
        """
        encryptor = Cipher(algorithms.ChaCha20(key, _NONCE), mode=None).encryptor()
        stream = memoryview(bytearray(min(_BLOCK, self.length) * self.width))
        for start in range(0, self.length, _BLOCK):
            where = slice(start, min(start + _BLOCK, self.length))
            size = (where.stop - start) * self.width
            encryptor.update_into(memoryview(_ZEROS)[:size], stream[:size])
            yield where, self.reduce(self.words(stream[:size]))

    def add_keystreams(self, total: np.ndarray, keys: Sequence[bytes], signs: Sequence[int]) -> None:
        """Adds to `total` `[length]`, in place, the vectors that keys stand for, or takes them away where a sign is -1.

        `total` is not reduced. Threads share the vector's length, so that each stays in its core's cache.
        """
        tile = _TILE // self.width // 64 * 64  # a whole number of the cipher's 64-byte blocks
        starts = range(0, self.length, tile)
        if len(starts) == 1 or len(keys) * self.length < _WORTH_THREADS:
            for start in starts:
                self._add_tile(total, keys, signs, start, tile)
        else:
            list(_threads().map(lambda start: self._add_tile(total, keys, signs, start, tile), starts))

    def _add_tile(self, total: np.ndarray, keys: Sequence[bytes], signs: Sequence[int], start: int, tile: int) -> None:
        part = total[start : start + tile]
        size = len(part) * self.width
        zeros, stream = memoryview(bytes(size)), memoryview(bytearray(size))
        nonce = (start * self.width // 64).to_bytes(4, "little") + _NONCE[4:]
        for key, sign in zip(keys, signs, strict=True):
            Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update_into(zeros, stream)
            (np.add if sign > 0 else np.subtract)(part, self.words(stream), out=part)

    def expand(self, key: bytes) -> np.ndarray:
        """All blocks of `key`, `[length]`."""
        share = np.empty(self.length, self.dtype)
        for where, block in self.blocks(key):
            share[where] = block
        return share

    def split(self, values: np.ndarray, parties: int, send_keys: bool) -> list[bytes]:
        """Shares `values`, uint64 `[length]`, among `parties`; one message each.

        Args:
          values: ring elements.
          parties: k, at least 2.
          send_keys: the first k - 1 messages are the 32-byte keys instead of the vectors they expand to.
        """
        last = values.astype(self.dtype)
        messages: list[bytes] = []
        for _ in range(parties - 1):
            key = os.urandom(KEY_BYTES)
            share = None if send_keys else np.empty(self.length, self.dtype)
            for where, block in self.blocks(key):
                np.subtract(last[where], block, out=last[where])
                if share is not None:
                    share[where] = block
            messages.append(key if share is None else self.pack(share))
        # Unreduced, the high bits of the last share would hold carries that depend on the value.
        return [*messages, self.pack(self.reduce(last))]
