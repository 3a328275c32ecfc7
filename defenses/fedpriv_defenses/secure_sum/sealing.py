"""Sealing: messages between two clients that the server carries and cannot read.

X25519 (RFC 7748) agrees on a secret, HKDF with SHA-256 (RFC 5869) makes of it one key for each direction, and
ChaCha20-Poly1305 (RFC 8439) encrypts and authenticates. Key pairs are fresh in every round; a key seals one message.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: Bytes of a public key.
PUBLIC_BYTES = 32
#: Bytes by which a sealed message is longer.
TAG_BYTES = 16
#: A key seals one message, so a constant nonce repeats nothing.
_NONCE = bytes(12)


def agreed(own: X25519PrivateKey, other: bytes) -> bytes | None:
    """The secret of two parties; None for a public key that gives one that everybody knows (a point of low order)."""
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        return None


def seal(key: bytes, message: bytes) -> bytes:
    """Encrypted and authenticated under a 32-byte key that is used once."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, message, None)


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """What was sealed; None if it was changed or is another key's."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        return None


class KeyPair:
    """One client's keys of one round."""

    def __init__(self) -> None:
        self._secret = X25519PrivateKey.generate()
        self.public = self._secret.public_key().public_bytes_raw()

    def agree(self, other: bytes, context: bytes) -> Pair | None:
        """The keys shared with whoever has the `other` public key; None if that is no key.

        Args:
          other: 32 bytes.
          context: what both must agree on besides, such as the round and who takes part.
        """
        secret = agreed(self._secret, other)
        if secret is None:
            return None
        first, second = sorted((self.public, other))
        keys = HKDF(SHA256(), 64, salt=None, info=context + first + second).derive(secret)
        halves = keys[:32], keys[32:]
        return Pair(*(halves if self.public == first else halves[::-1]))


class Pair:
    """What one of two clients needs for the one message to the other, and the one from it."""

    def __init__(self, to: bytes, of: bytes) -> None:
        self._to, self._of = to, of

    def seal(self, message: bytes) -> bytes:
        """The message to the other one; to be called once."""
        return seal(self._to, message)

    def open(self, sealed: bytes) -> bytes | None:
        """The message from the other one; None if it is not what that one sealed."""
        return unseal(self._of, sealed)
