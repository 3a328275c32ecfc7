"""Scheme: additively homomorphic encryption of vectors of integers, cut into blocks of one ciphertext each.

A block holds signed integers, and beside them two wider ones that are summed with them: a tag, by which the key holder
knows that it decrypts the sum over the right clients, and a check, by which the server knows that it is told the sum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fedpriv.base.errors import MessageError, ParameterError

#: Bits of a tag: what a sum over other clients, or of other blocks, has but a chance of 2^-48 to get by.
TAG_BITS = 48
#: Bits of a check: an element of the field with 2^61 - 1 elements.
CHECK_BITS = 61


@dataclass(frozen=True)
class Room:
    """How large integers may be, so that the sum over a cohort fits.

    Attributes:
      bits: b; elements and their sums are below 2^(b-1) in absolute value.
      clients: the largest number of clients in a sum.
    """

    bits: int
    clients: int

    @property
    def limit(self) -> int:
        """Largest absolute value of one client's element."""
        return ((1 << (self.bits - 1)) - 1) // max(self.clients, 1)

    @property
    def largest(self) -> int:
        """Largest absolute value of a sum."""
        return (1 << (self.bits - 1)) - 1

    def require(self, speaker: str) -> None:
        """Raises ParameterError if not even contributions of 0, 1 and -1 have room."""
        if self.limit < 1:
            raise ParameterError(
                f"{speaker}: bits={self.bits} cannot hold a sum over {self.clients} clients; use bits >= "
                f"{self.clients.bit_length() + 1}, or smaller cohorts"
            )


class Block(NamedTuple):
    """What is in one ciphertext.

    Attributes:
      elements: signed integers, int64 `[<= PublicKey.elements]`.
      tag: below 2^TAG_BITS; in a sum over m clients below m times that.
      check: likewise, with CHECK_BITS.
    """

    elements: np.ndarray
    tag: int
    check: int


class PublicKey(ABC):
    """What encrypts and adds, and cannot decrypt.

    Attributes:
      message: how it is sent.
      elements: how many integers one ciphertext holds.
    """

    message: bytes
    elements: int

    @abstractmethod
    def encrypt(self, block: Block) -> bytes:
        """A ciphertext, never the same twice: its randomness is the operating system's."""

    @abstractmethod
    def read(self, ciphertext: bytes) -> Any:
        """A ciphertext that can be added.

        Raises:
          MessageError: these bytes are none under these parameters. That one is under another key cannot be seen here.
        """

    @abstractmethod
    def add(self, total: Any, other: Any) -> Any:
        """The sum of two ciphertexts that were read; `total` may be changed."""

    @abstractmethod
    def write(self, total: Any) -> bytes:
        """A sum as bytes."""


class SecretKey(ABC):
    """What decrypts; only its holder has it.

    Attributes:
      public: what goes with it.
    """

    public: PublicKey

    @abstractmethod
    def decrypt(self, ciphertext: bytes, elements: int, clients: int) -> Block:
        """What is in a sum over `clients` clients, with that many elements.

        Raises:
          MessageError: it is no sum of so many well-formed ciphertexts under this key.
        """


class Scheme(ABC):
    """Makes keys, and reads public ones."""

    @abstractmethod
    def generate(self) -> SecretKey:
        """A new key, from the operating system's randomness."""

    @abstractmethod
    def public(self, message: bytes) -> PublicKey:
        """The public key in a message.

        Raises:
          MessageError: there is none in it for these parameters, or a secret one.
        """


def garbled(what: str) -> MessageError:
    """The error for a sum that no honest clients' ciphertexts under the key can have."""
    return MessageError(
        f"the encrypted sum {what}; a ciphertext in it was changed, is under another key, or does not keep the room "
        "for the cohort. Run the round again, without the client that sent it if it is known"
    )
