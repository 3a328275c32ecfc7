"""Bits: fields of a few bits to bytes and back, for messages as they go over the wire; NumPy, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def packed(values: np.ndarray, width: int) -> np.ndarray:
    """Non-negative integers `[n]` below 2^width as bits, uint8 `[n * width]` of 0 and 1, the highest first."""
    places = np.arange(width - 1, -1, -1, dtype=np.uint64)
    return ((np.asarray(values, np.uint64)[:, None] >> places) & np.uint64(1)).astype(np.uint8).reshape(-1)


def unpacked(bits: np.ndarray, width: int) -> np.ndarray:
    """The integers that `packed` was given, int64 `[n]`."""
    rows = np.asarray(bits, np.int64).reshape(-1, width)
    return rows @ (np.int64(1) << np.arange(width - 1, -1, -1, dtype=np.int64))


def of_floats(values: np.ndarray) -> np.ndarray:
    """Floats `[n]` as their bits, big-endian."""
    values = np.ascontiguousarray(values)
    return np.unpackbits(np.frombuffer(values.astype(values.dtype.newbyteorder(">")).tobytes(), np.uint8))


def to_floats(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The floats that `of_floats` was given."""
    dtype = np.dtype(dtype)
    return np.frombuffer(np.packbits(bits).tobytes(), dtype.newbyteorder(">")).astype(dtype)


def gamma(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Positive integers in Elias's gamma code (Elias 1975), one after the other, as bits.

    n takes 2 floor(log2 n) + 1 bits: as many zeros as n has bits after its first, then n.
    """
    texts = [format(int(v), "b") for v in values]
    return np.frombuffer("".join("0" * (len(t) - 1) + t for t in texts).encode(), np.uint8) - ord("0")


def read_gamma(bits: np.ndarray, at: int) -> tuple[int, int]:
    """(The integer whose gamma code begins at `at`, where the next one begins)."""
    zeros = int(np.argmax(bits[at:]))
    stop = at + 2 * zeros + 1
    return int(unpacked(bits[at + zeros : stop], zeros + 1)[0]), stop
