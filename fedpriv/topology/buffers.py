"""Buffers: large arrays that rounds use again, since fresh memory costs more than what is done with it."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

#: References to memory that nobody uses: the list's, the loop's, and that of the call that counts them.
_UNUSED = 3
#: What a tensor's address has to be a multiple of, to be read where it lies.
ALIGNMENT = 64


class Buffers:
    """Arrays that are handed out anew once nothing refers to them, neither they themselves nor a view of them.

    They begin at a multiple of `ALIGNMENT` bytes.
    """

    def __init__(self) -> None:
        self._made: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of that shape with anything in it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        # Every view of an array refers to the memory that it was cut from, so what is counted are references to that.
        for memory in self._made:
            if memory.size == size + ALIGNMENT and sys.getrefcount(memory) <= _UNUSED:
                return _cut(memory, size, shape, dtype)
        self._made.append(np.empty(size + ALIGNMENT, np.uint8))
        return _cut(self._made[-1], size, shape, dtype)


def _cut(memory: np.ndarray, size: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)
