"""Dealt: the masks that a client puts on its contribution, as keys that a session deals before the client trains.

A mask is a keystream of ChaCha20 (RFC 8439's cipher) under a key of that round alone, with a nonce and a counter of
zeros, read as little-endian integers of ceil(b / 8) bytes and taken modulo 2^b. A client that trains elsewhere than the
session runs gets its keys along with its other inputs, and sends back the masked vector alone
(`fedpriv.engine.masking`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import ProtocolError
from fedpriv.defense.ring import KEY_BYTES, RingFormat


@dataclass(frozen=True, eq=False, kw_only=True)
class Dealt:
    """One client's masks in one round. Clients of a round may have different numbers of them.

    Attributes:
      keys: uint8 `[k, 32]`, each for one mask of this round (which another client may take off again); secret, so they
        are not printed.
      signs: int8 `[k]`: +1 where the client adds a key's keystream, -1 where it subtracts it.
      bits: b of the ring of integers mod 2^b, from 8 to 64.

    Raises:
      ProtocolError: they are not of these kinds.
    """

    keys: np.ndarray
    signs: np.ndarray
    bits: int

    @classmethod
    def drawn(cls, signs: Sequence[int], bits: int) -> Dealt:
        """Masks under fresh keys from the operating system, one for each of `signs`."""
        keys = np.frombuffer(os.urandom(len(signs) * KEY_BYTES), np.uint8)
        return cls(keys=keys.reshape(len(signs), KEY_BYTES), signs=np.asarray(signs, np.int8), bits=bits)

    def __post_init__(self) -> None:
        k = len(self.signs)
        if self.keys.shape != (k, KEY_BYTES) or self.keys.dtype != np.uint8:
            raise ProtocolError(f"dealt keys are {self.keys.dtype}{list(self.keys.shape)}, not uint8[{k}, {KEY_BYTES}]")
        if self.signs.shape != (k,) or self.signs.dtype != np.int8 or (np.abs(self.signs) != 1).any():
            raise ProtocolError("dealt signs are int8[k], each 1 or -1")
        if not 8 <= self.bits <= 64:
            raise ProtocolError(f"masks are dealt for integers mod 2^{self.bits}; bits go from 8 to 64")

    def __repr__(self) -> str:
        return f"Dealt({len(self.signs)} keys, bits={self.bits})"

    def mask(self, values: np.ndarray) -> np.ndarray:
        """`values`, uint64 `[n]`, with all masks on it, modulo 2^b."""
        return self._with(values, 1)

    def unmask(self, masked: np.ndarray) -> np.ndarray:
        """Undoes `mask`, as the client itself can."""
        return self._with(masked, -1)

    def _with(self, values: np.ndarray, direction: int) -> np.ndarray:
        form = RingFormat(self.bits, len(values))
        total = values.astype(form.dtype)
        form.add_keystreams(total, [key.tobytes() for key in self.keys], [direction * int(s) for s in self.signs])
        return form.reduce(total).astype(np.uint64)
