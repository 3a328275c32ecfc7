"""PaillierScheme: integers packed into Paillier plaintexts, with python-paillier (phe) on gmpy2.

Paillier 1999, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes"; packing as in BatchCrypt
(Zhang et al. 2020, USENIX ATC): a plaintext of k bits holds many fields, each with room for the sum of a cohort.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedpriv.base.errors import MessageError
from fedpriv_defenses.encryption.extra import library
from fedpriv_defenses.encryption.scheme import (
    CHECK_BITS,
    TAG_BITS,
    Block,
    PublicKey,
    Room,
    Scheme,
    SecretKey,
    garbled,
)

#: Bits at the top of a plaintext that stay 0, so that no sum reaches the modulus.
_SPARE = 8


class Fields:
    """Where what lies in a plaintext: elements, then tag, then check, from the lowest bits up.

    An element is stored with 2^(b-1) added, so that no field borrows from the next.

    Args:
      key_bits: of the modulus.
      room: of the integers.
    """

    def __init__(self, key_bits: int, room: Room) -> None:
        self.room, more = room, max(room.clients, 1).bit_length()
        self.width, self.tag, self.check = (bits + more for bits in (room.bits, TAG_BITS, CHECK_BITS))
        self.elements = (key_bits - _SPARE - self.tag - self.check) // self.width
        self.offset = 1 << (room.bits - 1)

    def pack(self, block: Block) -> int:
        """A block as one integer."""
        number = (block.check << self.tag) | block.tag
        for value in block.elements[::-1].tolist():
            number = (number << self.width) | (value + self.offset)
        return number

    def unpack(self, number: int, elements: int, clients: int) -> Block:
        """A sum of so many blocks.

        Raises:
          MessageError: values that no sum of blocks has.
        """
        values = np.empty(elements, np.int64)
        mask, largest = (1 << self.width) - 1, self.room.largest
        for i in range(elements):
            value = (number & mask) - clients * self.offset
            if abs(value) > largest:
                raise garbled("is beyond the room for the cohort")
            values[i] = value
            number >>= self.width
        tag, check = number & ((1 << self.tag) - 1), number >> self.tag
        if check > clients * ((1 << CHECK_BITS) - 1):
            raise garbled("has values that no contribution has")
        return Block(values, tag, check)


class PaillierPublicKey(PublicKey):
    """A modulus n; ciphertexts are units modulo n^2."""

    def __init__(self, key: Any, key_bits: int, fields: Fields) -> None:
        self._key, self._fields, self.elements = key, fields, fields.elements
        self._bytes = 2 * key_bits // 8
        self._mpz = library("gmpy2", "paillier").mpz
        self._square = self._mpz(key.nsquare)
        self.message = int(key.n).to_bytes(key_bits // 8, "little")

    def encrypt(self, block: Block) -> bytes:
        """See PublicKey; phe draws r from the operating system."""
        return int(self._key.raw_encrypt(self._fields.pack(block))).to_bytes(self._bytes, "little")

    def read(self, ciphertext: bytes) -> Any:
        """See PublicKey: a unit modulo n^2."""
        if len(ciphertext) != self._bytes:
            raise MessageError(
                f"a message holds {len(ciphertext)} bytes where a Paillier ciphertext has {self._bytes}; run the "
                "round again, without its sender"
            )
        number = int.from_bytes(ciphertext, "little")
        if not 0 < number < self._key.nsquare or math.gcd(number, int(self._key.n)) != 1:
            raise MessageError(
                "a message holds a number that is no Paillier ciphertext under the round's key; run the round again, "
                "without its sender"
            )
        return self._mpz(number)

    def add(self, total: Any, other: Any) -> Any:
        """See PublicKey: the product modulo n^2."""
        return total * other % self._square

    def write(self, total: Any) -> bytes:
        """See PublicKey."""
        return int(total).to_bytes(self._bytes, "little")


class PaillierSecretKey(SecretKey):
    """The two primes."""

    def __init__(self, key: Any, public: PaillierPublicKey, fields: Fields) -> None:
        self._key, self.public, self._fields = key, public, fields

    def decrypt(self, ciphertext: bytes, elements: int, clients: int) -> Block:
        """See SecretKey."""
        number = int(self._key.raw_decrypt(int(self.public.read(ciphertext))))
        return self._fields.unpack(number, elements, clients)


class PaillierScheme(Scheme):
    """Paillier with a modulus of so many bits.

    Args:
      key_bits: of the modulus.
      room: of the integers.
    """

    def __init__(self, key_bits: int, room: Room) -> None:
        self._paillier = library("phe.paillier", "paillier")
        library("gmpy2", "paillier")  # without it, phe falls back to Python's own powers, many times slower
        self._key_bits, self._fields = key_bits, Fields(key_bits, room)

    def generate(self) -> PaillierSecretKey:
        """See Scheme."""
        public, secret = self._paillier.generate_paillier_keypair(n_length=self._key_bits)
        return PaillierSecretKey(secret, PaillierPublicKey(public, self._key_bits, self._fields), self._fields)

    def public(self, message: bytes) -> PaillierPublicKey:
        """See Scheme."""
        n = int.from_bytes(message, "little")
        if len(message) != self._key_bits // 8 or n.bit_length() != self._key_bits or n % 2 == 0:
            raise MessageError(
                f"a message holds no Paillier modulus of {self._key_bits} bits; run the round again with a new key"
            )
        return PaillierPublicKey(self._paillier.PaillierPublicKey(n), self._key_bits, self._fields)
