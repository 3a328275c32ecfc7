"""Channel: one direction between two parties, encrypted and authenticated, in which every message passes once."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_COUNTER_BYTES = 12


class Channel:
    """ChaCha20-Poly1305 (RFC 8439) under a fresh key, with a counter for its nonce.

    The two ends share the key, as they would after a TLS handshake. A frame is the counter and the sealed message;
    the receiver takes only the counter that comes next.
    """

    def __init__(self) -> None:
        self._cipher = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
        self._sent = self._opened = 0

    def seal(self, message: bytes) -> bytes:
        """The next frame."""
        nonce = self._sent.to_bytes(_COUNTER_BYTES, "little")
        self._sent += 1
        return nonce + self._cipher.encrypt(nonce, message, None)

    def open(self, frame: bytes) -> bytes | None:
        """The message in a frame; None if it is not the next one, or was changed."""
        nonce = frame[:_COUNTER_BYTES]
        if nonce != self._opened.to_bytes(_COUNTER_BYTES, "little"):
            return None
        try:
            message = self._cipher.decrypt(nonce, frame[_COUNTER_BYTES:], None)
        except InvalidTag:
            return None
        self._opened += 1
        return message
