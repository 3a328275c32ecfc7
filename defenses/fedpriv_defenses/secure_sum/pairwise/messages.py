"""Messages: what passes between clients and server, as bytes, and the checks on what arrives."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedpriv.base.errors import MessageError
from fedpriv.defense.wire import Payload

#: Bytes of an id, a key, a signature.
ID, KEY, SIGNATURE = 4, 32, 64


def derived(secret: bytes, purpose: str, run: bytes, *numbers: int) -> bytes:
    """32 bytes by HKDF (RFC 5869) from an agreed secret, for one purpose, run and, say, a round and two clients."""
    info = purpose.encode() + run + struct.pack(f"<{len(numbers)}Q", *numbers)
    return HKDF(algorithm=SHA256(), length=KEY, salt=None, info=info).derive(secret)


def digest(*parts: bytes) -> bytes:
    """SHA-256."""
    made = Hash(SHA256())
    for part in parts:
        made.update(part)
    return made.finalize()


def pack_ids(ids: Iterable[int]) -> bytes:
    """Ids, ascending."""
    wanted = sorted(ids)
    return struct.pack(f"<{len(wanted)}I", *wanted)


def unpack_ids(message: Payload, known: Iterable[int], what: str) -> tuple[int, ...]:
    """Ids of a message; they ascend and are among the known.

    Raises:
      MessageError: they do not, or are not.
    """
    whole = checked(message, what)
    if len(whole) % ID:
        raise MessageError(f"{what} has {len(whole)} bytes, which are no ids of {ID} bytes each")
    ids = struct.unpack(f"<{len(whole) // ID}I", whole)
    strangers = set(ids) - set(known)
    if strangers:
        raise MessageError(f"{what} names client {min(strangers)}, which is not in it")
    if list(ids) != sorted(set(ids)):
        twice = next((i for i in ids if ids.count(i) > 1), None)
        raise MessageError(f"{what} {'has its ids out of order' if twice is None else f'names client {twice} twice'}")
    return ids


def records(message: Payload, width: int, what: str, known: Collection[int]) -> dict[int, bytes]:
    """A list of (id, `width` bytes), by id.

    Raises:
      MessageError: it is no such list, or names a stranger or somebody twice.
    """
    whole, step = checked(message, what), ID + width
    if len(whole) % step:
        raise MessageError(f"{what} has {len(whole)} bytes, which are no entries of {step} bytes each")
    found: dict[int, bytes] = {}
    allowed = set(known) if isinstance(known, Sequence) and not isinstance(known, range) else known
    for start in range(0, len(whole), step):
        (who,) = struct.unpack_from("<I", whole, start)
        if who not in allowed:
            raise MessageError(f"{what} names client {who}, which does not belong there")
        if who in found:
            raise MessageError(f"{what} names client {who} twice")
        found[who] = whole[start + ID : start + step]
    return found


def pack_records(entries: Sequence[tuple[int, bytes]]) -> bytes:
    """A list of (id, bytes of one width)."""
    return b"".join(struct.pack("<I", who) + value for who, value in entries)


def checked(message: Payload, what: str, length: int | None = None) -> bytes:
    """A message that is bytes, of that length.

    Raises:
      MessageError: it is not.
    """
    if not isinstance(message, bytes):
        raise MessageError(f"{what} is an array instead of bytes")
    if length is not None and len(message) != length:
        raise MessageError(f"{what} has {len(message)} bytes instead of {length}")
    return message
