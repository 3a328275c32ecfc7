"""EncryptedSession: one round of a sum of ciphertexts, whatever the scheme."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import numpy as np

from fedpriv.base.errors import MessageError, ProtocolError
from fedpriv.defense.parties import SERVER, Party, Phase
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.protocol import Opening, Session, Sighting
from fedpriv.defense.ring import RingFormat
from fedpriv.defense.wire import Delivery, Payload
from fedpriv_defenses.encryption.key_holder import (
    FINGERPRINT_BYTES,
    KEY_HOLDER,
    KeyHolder,
    fingerprint,
)
from fedpriv_defenses.encryption.scheme import TAG_BITS, Block, PublicKey, Room, Scheme
from fedpriv_defenses.encryption.sum_check import KEY_BYTES, SumCheck, tags

#: Bytes of a ciphertext's length in a message.
_LENGTH = 4
KEYS, ENCRYPT, DECRYPT = "keys", "encrypt", "decrypt"


class Layout:
    """Which element of a contribution travels how, and what a client's message to the server looks like.

    Fingerprint of the key, the plain elements, then every ciphertext with its length before it.

    Args:
      hidden: bool `[n]`, what is encrypted.
      plain: bool `[n]`, what is sent in the clear; the client's weight may be both.
      bits: b.
      block: integers a ciphertext holds.
    """

    def __init__(self, hidden: np.ndarray, plain: np.ndarray, bits: int, block: int) -> None:
        self.hidden, self.plain = np.flatnonzero(hidden), np.flatnonzero(plain)
        self.length = len(hidden)
        self.form = RingFormat(bits, len(self.plain))
        self.sum_form = RingFormat(bits, len(self.hidden))
        cuts = range(0, len(self.hidden), block)
        self.elements = [min(block, len(self.hidden) - start) for start in cuts]
        self._bits = bits
        self._unused = np.uint64(64 - bits)

    def signed(self, ring: np.ndarray) -> np.ndarray:
        """Ring elements as the signed integers that they stand for."""
        return (ring << self._unused).view(np.int64) >> np.int64(64 - self._bits)

    def ring(self, signed: np.ndarray) -> np.ndarray:
        """And back."""
        return signed.view(np.uint64) & np.uint64((1 << self._bits) - 1)

    def blocks(self, values: np.ndarray) -> list[np.ndarray]:
        """The encrypted part, cut into what one ciphertext holds."""
        return np.split(values, np.cumsum(self.elements)[:-1]) if self.elements else []

    def write(self, key: bytes, plain: np.ndarray, ciphertexts: list[bytes]) -> bytes:
        """A message."""
        parts = [key, self.form.pack(plain.astype(self.form.dtype))]
        for ciphertext in ciphertexts:
            parts += [len(ciphertext).to_bytes(_LENGTH, "little"), ciphertext]
        return b"".join(parts)

    def read(self, message: Payload, sender: str, key: bytes) -> tuple[np.ndarray, list[bytes]]:
        """(plain elements, ciphertexts) of a message.

        Raises:
          MessageError: it is too long, too short, or under another key.
        """
        named = f"the message of {sender}"
        if not isinstance(message, bytes) or len(message) < FINGERPRINT_BYTES:
            raise MessageError(f"{named} is cut short at {len(message)} bytes; run the round again without {sender}")
        if message[:FINGERPRINT_BYTES] != key:
            raise MessageError(
                f"{named} is encrypted under another key than the round's: of another round, or not the key holder's; "
                f"run the round again, and let {sender} use the key that it is given"
            )
        at = FINGERPRINT_BYTES + self.form.vector_bytes
        if len(message) < at:
            raise MessageError(f"{named} is cut short at {len(message)} bytes; run the round again without {sender}")
        plain = self.form.unpack(message[FINGERPRINT_BYTES:at]).astype(np.uint64)
        if self._bits < 64 and int(plain.max(initial=0)) >> self._bits:
            raise MessageError(f"{named} has a value beyond 2^{self._bits}; give all parties the same bits")
        found = []
        for _ in self.elements:
            size = int.from_bytes(message[at : at + _LENGTH], "little")
            at += _LENGTH
            found.append(message[at : at + size])
            at += size
        if at != len(message):
            raise MessageError(
                f"{named} has {len(message)} bytes, but its ciphertexts end at {at}: it was cut, or is of another "
                f"model or other settings; run the round again without {sender}"
            )
        return plain, found


class EncryptedSession(Session):
    """One round: keys are made, contributions encrypted and added, and the one sum decrypted.

    Args:
      opening: what it is opened for.
      scheme: of this round's keys.
      room: of the integers.
      hidden: bool `[n]`, the elements to encrypt.
      least: a sum over fewer clients stays closed.

    Raises:
      ProtocolError: `hidden` is of another length than a contribution.

    Attributes:
      key_holder: the party with the secret key, once the phase `keys` has run.
      public: what the server and the clients have of the key.
    """

    def __init__(self, opening: Opening, scheme: Scheme, room: Room, hidden: np.ndarray, least: int) -> None:
        super().__init__(opening)
        self._scheme, self._room, self._least = scheme, room, least
        self._weight_at = opening.length - 1 - opening.tallies
        self._hidden = np.concatenate([hidden, np.ones(1 + opening.tallies, bool)])
        if len(self._hidden) != opening.length:
            raise ProtocolError(
                f"{len(hidden)} coordinates are chosen from, but an update has {self._weight_at}; choose from those of "
                "the model"
            )
        self._plain = ~self._hidden
        # Whoever holds the plain rest alone, or the sum of the others alone, needs the weight to make a mean of it.
        self._plain[self._weight_at] = self._selective = bool(self._plain.any())
        self.key_holder: KeyHolder | None = None
        self.public: PublicKey | None = None
        self._layout: Layout | None = None
        self._request: Layout | None = None  # of what the key holder is asked
        self._server_fingerprint = b""
        self._client_keys: dict[int, tuple[PublicKey, bytes, SumCheck]] = {}
        self._keys: dict[bytes, PublicKey] = {}  # by the message that it came in
        self._check: SumCheck | None = None
        self._contributed: set[int] = set()
        self._sum: list[Any] = []
        self._plain_sum = np.zeros(0, np.uint64)
        self._told: np.ndarray | None = None  # the sum, once it has passed the server's check
        self._total: np.ndarray | None = None

    @property
    def visible(self) -> np.ndarray | None:
        """Which elements of a contribution the server sees in the clear, bool `[n]`; None if none."""
        return self._plain.copy() if self._selective else None

    def exchange(self, phase: Phase) -> None:
        """The key goes out through the server, or the sum to the key holder and back."""
        self._need_both()
        if phase.name == KEYS:
            self._hand_out_keys()
        else:
            self._decrypt()

    def ready(self) -> None:
        """Nobody sends anything where the key holder is gone."""
        self._need_both()

    def _hand_out_keys(self) -> None:
        holder = self.key_holder = KeyHolder(self._scheme, self.opening.round)
        message = self.wire.send(KEY_HOLDER, SERVER, holder.message)
        server_key = self.public = self._read_key(message, SERVER)
        layout = self._layout = Layout(self._hidden, self._plain, self._room.bits, server_key.elements)
        self._request = Layout(self._hidden, np.zeros_like(self._plain), self._room.bits, server_key.elements)
        self._plain_sum = np.zeros(len(layout.plain), np.uint64)
        secret = SumCheck.new_key()
        self._check = SumCheck(secret, layout.elements)
        assert isinstance(message, bytes)
        self._server_fingerprint = fingerprint(message)
        checks = {secret: self._check}
        for party in self.there("client"):
            # The fingerprint does not pass through the server, so that it cannot hand out a key of its own.
            expected = self.wire.send(KEY_HOLDER, party, holder.fingerprint)
            handed = self.wire.send(SERVER, party, message)
            check_key = self.wire.send(SERVER, party, secret)
            if not isinstance(handed, bytes) or not isinstance(expected, bytes) or fingerprint(handed) != expected:
                raise MessageError(
                    f"the key that {party} got from the server is not the key holder's: their fingerprints differ; run "
                    "the round again, and ask the server for the key that it was given"
                )
            if not isinstance(check_key, bytes) or len(check_key) != KEY_BYTES:
                raise MessageError(f"{party} got no key of {KEY_BYTES} bytes for the sum's check; run the round again")
            if check_key not in checks:
                checks[check_key] = SumCheck(check_key, layout.elements)
            self._client_keys[party.index] = (self._read_key(handed, party), fingerprint(handed), checks[check_key])

    def _read_key(self, message: Payload, reader: Party) -> PublicKey:
        """The public key in a message; the same bytes are read once for all."""
        if not isinstance(message, bytes) or len(message) <= 8:
            raise MessageError(f"the key that {reader} got is cut short; run the round again")
        if message not in self._keys:
            made_for = int.from_bytes(message[:8], "little")
            if made_for != self.opening.round:
                raise MessageError(
                    f"the key that {reader} got is of round {made_for}, and this is round {self.opening.round}; a key "
                    "is used in one round, so make a new one"
                )
            self._keys[message] = self._scheme.public(message[8:])
        return self._keys[message]

    def take(self, client: int, encoded: np.ndarray) -> None:
        """Encrypts the contribution, and adds it to the server's sum.

        Raises:
          ProtocolError: elements beyond the ring, or beyond the room for the cohort's sum.
        """
        assert self._layout is not None
        assert self.key_holder is not None
        party = client_party(client)
        # The client.
        key, printed, check = self._client_keys[client]
        seed = os.urandom(KEY_BYTES)
        message = self._message(client, encoded, key, printed, check, seed)
        # The key holder, and the server.
        arrived = self.wire.send(party, KEY_HOLDER, seed)
        self.key_holder.receive_seed(client, arrived)  # type: ignore[arg-type]
        self._add(client, self.wire.send(party, SERVER, message))

    def _message(
        self, client: int, encoded: np.ndarray, key: PublicKey, printed: bytes, check: SumCheck, seed: bytes
    ) -> bytes:
        layout, room = self._layout, self._room
        assert layout is not None
        if room.bits < 64 and int(encoded.max(initial=0)) >> room.bits:
            raise ProtocolError(
                f"client {client} contributes {int(encoded.max())}, which is no integer mod 2^{room.bits}; give the "
                "codec and the protocol the same bits"
            )
        signed = layout.signed(encoded)
        largest = int(np.abs(signed).max(initial=0))
        if largest > room.limit:
            raise ProtocolError(
                f"client {client} contributes {largest}, beyond {room.limit}, so that the sum over {room.clients} "
                f"clients might not fit {room.bits} bits; encode with room for the cohort, as fixed_point does"
            )
        blocks = layout.blocks(signed[layout.hidden])
        ciphertexts = [
            key.encrypt(Block(values, tag, check.of(i, values)))
            for i, (values, tag) in enumerate(zip(blocks, tags(seed, len(blocks), TAG_BITS), strict=True))
        ]
        return layout.write(printed, encoded[layout.plain], ciphertexts)

    def _add(self, client: int, message: Payload) -> None:
        """The server takes one client's message."""
        assert self._layout is not None
        assert self.public is not None
        if client in self._contributed:
            raise MessageError(f"the server got a second message of client {client}; each sends one")
        plain, ciphertexts = self._layout.read(message, f"client {client}", self._server_fingerprint)
        largest = int(np.abs(self._layout.signed(plain)).max(initial=0))
        if largest > self._room.limit:
            raise MessageError(
                f"the message of client {client} has {largest} in the clear, beyond {self._room.limit}, so that the "
                "sum might not fit; run the round again without it"
            )
        parts = [self.public.read(c) for c in ciphertexts]
        self._sum = (
            [self.public.add(t, p) for t, p in zip(self._sum, parts, strict=True)] if self._contributed else parts
        )
        self._plain_sum = self._layout.form.reduce((self._plain_sum + plain).astype(self._layout.form.dtype)).astype(
            np.uint64
        )
        self._contributed.add(client)

    def _decrypt(self) -> None:
        layout, request, holder, public = self._layout, self._request, self.key_holder, self.public
        assert layout is not None
        assert request is not None
        assert holder is not None
        assert public is not None
        cohort = self.opening.clients
        count = len(self._contributed)
        if count < max(self._least, 1):
            self.abort(
                f"{count} of {len(cohort)} clients finished, below min_clients={self._least}; the sum stays closed, "
                "run the round again with more clients"
            )
        roll = np.packbits(np.fromiter((c in self._contributed for c in cohort), bool, len(cohort))).tobytes()
        empty = np.zeros(0, np.uint64)
        asked = roll + request.write(self._server_fingerprint, empty, [public.write(c) for c in self._sum])
        clients, ciphertexts = self._asked(self.wire.send(SERVER, KEY_HOLDER, asked))
        values, checks = holder.decrypt_sum(ciphertexts, layout.elements, clients, self._least)
        summed = layout.ring(np.concatenate(values))
        answer = b"".join(
            [
                holder.fingerprint,
                *(c.to_bytes(16, "little") for c in checks),
                layout.sum_form.pack(summed.astype(layout.sum_form.dtype)),
            ]
        )
        self._total = self._answered(self.wire.send(KEY_HOLDER, SERVER, answer))

    def _asked(self, message: Payload) -> tuple[tuple[int, ...], list[bytes]]:
        """What the key holder is asked to decrypt: (clients in the sum, ciphertexts)."""
        assert self._request is not None
        assert self.key_holder is not None
        cohort, size = self.opening.clients, self._roll_bytes
        if not isinstance(message, bytes) or len(message) < size:
            raise MessageError("the server's message to the key holder is cut short; run the round again")
        there = np.unpackbits(np.frombuffer(message[:size], np.uint8))
        if there[len(cohort) :].any():
            raise MessageError("the server names clients that are not in the cohort; run the round again")
        clients = tuple(c for c, is_in in zip(cohort, there, strict=False) if is_in)
        return clients, self._request.read(message[size:], "the server", self.key_holder.fingerprint)[1]

    @property
    def _roll_bytes(self) -> int:
        return -(-len(self.opening.clients) // 8)

    def _answered(self, message: Payload) -> np.ndarray:
        """The whole sum, uint64 `[n]`, from what the key holder answers; the server checks it."""
        layout, check = self._layout, self._check
        assert layout is not None
        assert check is not None
        start = FINGERPRINT_BYTES + 16 * len(layout.elements)
        wanted = start + layout.sum_form.vector_bytes
        if not isinstance(message, bytes) or len(message) != wanted:
            raise MessageError(
                f"the key holder's answer has {len(message)} bytes instead of {wanted}; run the round again"
            )
        if message[:FINGERPRINT_BYTES] != self._server_fingerprint:
            raise MessageError("the key holder's answer is of another key; run the round again")
        told = layout.sum_form.unpack(message[start:]).astype(np.uint64)
        signed = layout.signed(told)
        right = (told == layout.ring(signed)).all()
        count = len(self._contributed)
        for i, values in enumerate(layout.blocks(signed)):
            at = FINGERPRINT_BYTES + 16 * i
            right &= int.from_bytes(message[at : at + 16], "little") % ((1 << 61) - 1) == check.of(i, values, count)
        total = np.zeros(layout.length, np.uint64)
        total[layout.plain] = self._plain_sum
        weight = int(total[self._weight_at])
        total[layout.hidden] = told
        if not right:
            raise MessageError(
                "the sum that the key holder tells does not pass the server's check, so it is not the sum of what the "
                "clients encrypted; run the round again"
            )
        self._told = total
        if self._selective and weight != int(total[self._weight_at]):
            raise MessageError(
                "the weights that clients sent in the clear do not sum to those that they encrypted; run the round "
                "again"
            )
        return total

    def total(self) -> tuple[np.ndarray, Collection[int]]:
        """See Session."""
        assert self._total is not None  # `exchange` has decrypted it, or aborted
        return self._total.copy(), self._contributed

    def seen_by(self, coalition: Collection[Party], *, wire: bool = False) -> tuple[Sighting, ...]:
        """See Session.

        The server holds ciphertexts, what is not encrypted of each contribution, and the sum once it was decrypted. The
        key holder holds the sum that it was sent, also where it refuses to tell it: over whom it is follows from the
        tags if they fit, else from what the server says. Both together hold every contribution, also of a round that
        was aborted, and whatever tags it carries. An eavesdropper sees that messages pass. Clients of a coalition take
        their own contributions out.
        """
        self.wire.require(coalition)
        members = set(coalition)
        heard = list(self.wire.received(SERVER)) if SERVER in members else []
        if wire:
            heard += [d for d in self.wire.overheard() if d.receiver not in members]
        sent = {d.sender.index: d for d in heard if d.phase == ENCRYPT and d.receiver == SERVER}
        found = [s for c in sorted(sent) for s in self._laid_open(c, sent[c], KEY_HOLDER in members)]
        if any(s.visible is None for s in found):
            return tuple(found)
        payloads = tuple(sent[c] for c in sorted(sent))
        whole = self._sum_of(members, payloads)
        if whole is not None:
            return (*found, whole, *self._without_own(members, whole))
        if found or not payloads:
            return tuple(found)
        return (Sighting(kind="payloads", clients=tuple(sorted(sent)), payloads=payloads),)

    def _laid_open(self, client: int, message: Delivery, decrypts: bool) -> list[Sighting]:
        """What of one client's contribution the server holds, alone or with the key holder; none if it is garbled."""
        layout, holder = self._layout, self.key_holder
        if message.payload is None or layout is None or holder is None or not (decrypts or self._selective):
            return []
        value = np.zeros(layout.length, np.uint64)
        try:
            plain, ciphertexts = layout.read(
                _under(message.payload, holder.fingerprint), f"client {client}", holder.fingerprint
            )
        except MessageError:
            return []
        if decrypts:
            try:
                opened = holder.open(ciphertexts, layout.elements, 1)
                value[layout.hidden] = layout.ring(np.concatenate([block.elements for block in opened]))
            except MessageError:
                decrypts = False
        if not decrypts and not self._selective:
            return []
        value[layout.plain] = plain
        visible = None if decrypts else self.visible
        return [Sighting(kind="client", clients=(client,), value=value, payloads=(message,), visible=visible)]

    def _sum_of(self, members: set[Party], payloads: tuple[Delivery, ...]) -> Sighting | None:
        """The sum as the server has it, or what the key holder makes of the sum that it was sent."""
        if SERVER in members and self._told is not None:
            return Sighting(kind="sum", clients=self.submitted, value=self._told.copy(), payloads=payloads)
        asked = [d for d in self.wire.received(KEY_HOLDER) if d.phase == DECRYPT] if KEY_HOLDER in members else []
        holder, layout = self.key_holder, self._layout
        if not asked or holder is None or layout is None:
            return None
        assert asked[0].payload is not None
        try:
            named, ciphertexts = self._asked(_under(asked[0].payload, holder.fingerprint, self._roll_bytes))
        except MessageError:
            return None
        found = holder.guess(ciphertexts, layout.elements, named)
        if found is None:
            return None
        clients, blocks = found
        value = np.zeros(layout.length, np.uint64)
        value[layout.hidden] = layout.ring(np.concatenate([block.elements for block in blocks]))
        visible = self._hidden.copy() if self._selective else None
        return Sighting(kind="sum", clients=clients, value=value, payloads=payloads, visible=visible)

    def _without_own(self, members: set[Party], whole: Sighting) -> list[Sighting]:
        """What is left of a sum without the coalition's own contributions."""
        own = [c for c in whole.clients if client_party(c) in members and c in self._own]
        others = tuple(c for c in whole.clients if c not in own)
        if not own or not others:
            return []
        assert whole.value is not None
        rest = whole.value.copy()
        for c in own:
            rest -= self._own[c]
        rest &= np.uint64((1 << self._room.bits) - 1)
        if whole.visible is not None:
            rest[~whole.visible] = 0
        return [Sighting(kind="sum", clients=others, value=rest, visible=whole.visible)]

    def _need_both(self) -> None:
        for party in (KEY_HOLDER, SERVER):
            if not self.wire.is_alive(party):
                named = "the server" if party == SERVER else "the key holder"
                self.abort(f"{named} is gone, and nobody else can take its place; run the round again")


def _under(message: Payload, key: bytes, start: int = 0) -> Payload:
    """A message as if it were under that key: whoever has the key may try it, whatever the message says."""
    if not isinstance(message, bytes):
        return message
    return message[:start] + key + message[start + FINGERPRINT_BYTES :]
