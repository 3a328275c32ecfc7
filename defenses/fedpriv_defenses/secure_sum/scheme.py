"""Scheme: the arithmetic of shares: a contribution to one share for each holder, and their sums to the sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from fedpriv.defense.dealt import Dealt


class Scheme(ABC):
    """How ring elements become a message for each of k holders, and the sums of these become the sum.

    Attributes:
      keyed: holders, the first ones, that are sent 32-byte keys in place of vectors.
      needed: holders whose sums it takes.
      share_bytes: bytes of a share, or of a sum of shares, on the wire.
    """

    keyed: int
    needed: int
    share_bytes: int

    @abstractmethod
    def split(self, encoded: np.ndarray) -> list[bytes]:
        """A contribution, uint64 `[n]`, to a message for each holder; made afresh, so never the same twice."""

    def masks(self) -> Dealt | None:
        """Keys of the first shares, which a client takes off its contribution itself; None where it cannot."""
        return None

    def split_masked(self, masked: np.ndarray, dealt: Dealt) -> list[bytes]:
        """As `split`, for a contribution that `masks` are on."""
        raise NotImplementedError

    @abstractmethod
    def share(self, holder: int, message: bytes) -> np.ndarray:
        """The share that a message of the right length stands for.

        Raises:
          MessageError: it stands for none.
        """

    @abstractmethod
    def plus(self, holder: int, total: np.ndarray | None, message: bytes) -> np.ndarray:
        """A holder's sum with the share of one more message; as `share`. The sum given may be overwritten."""

    @abstractmethod
    def minus(self, total: np.ndarray, share: np.ndarray) -> np.ndarray:
        """A sum of shares without one of them."""

    @abstractmethod
    def pack(self, total: np.ndarray | None) -> bytes:
        """A holder's sum to a message; None is that of nothing."""

    @abstractmethod
    def unpack(self, message: bytes) -> np.ndarray:
        """A message of the right length to a holder's sum.

        Raises:
          MessageError: it is none.
        """

    @abstractmethod
    def combined(self, shares: Mapping[int, np.ndarray], count: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """What shares by holder, at least `needed`, stand for: a contribution, or where they are sums, the sum.

        Args:
          shares: by the holder's place.
          count: of contributions in it.

        Returns:
          (ring elements, uint64 `[n]`; holders whose shares do not fit those of the others, and were left out).

        Raises:
          MessageError: they contradict each other, or are nothing that `count` contributions add up to.
        """
