"""MaskingClient: one client's side of a round. It trusts nobody, and answers no question twice."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedpriv.base.errors import MessageError
from fedpriv.defense.ring import RingFormat
from fedpriv.defense.wire import Payload
from fedpriv_defenses.secure_sum import sealing, shamir
from fedpriv_defenses.secure_sum.pairwise import messages
from fedpriv_defenses.secure_sum.pairwise.messages import KEY, SIGNATURE

#: What a client does, in order.
_STEPS = (
    "advertise",
    "take_keys",
    "share_keys",
    "take_shares",
    "masked",
    "sign_survivors",
    "reveal",
)
#: Bytes of one share of a 32-byte secret, and of what one client sends another: both shares and both ids, sealed.
SHARE = shamir.limbs(KEY) * shamir.FIELD.width
SEALED = 2 * messages.ID + 2 * SHARE + sealing.TAG_BYTES


@dataclass(frozen=True)
class Rules:
    """What all clients of a round know.

    Attributes:
      run: 32 bytes that name the run, so that nothing of another one fits.
      round: its number.
      form: how vectors lie in messages.
      threshold: t.
      identities: for the variant against an active server: every client's public signing key, from a directory that
        the server does not write; None in the semi-honest one.
    """

    run: bytes
    round: int
    form: RingFormat
    threshold: int
    identities: Mapping[int, Ed25519PublicKey] | None = None


@dataclass
class MaskingClient:
    """One client.

    Attributes:
      number: its id.
      rules: of the round.
      identity: its signing key, where the round has signatures.
      neighbours: whom it shares keys with, ascending; told by the server with the keys.
      mask_key, channel_key: its two X25519 keys of this round: s, which pairwise masks come from, and c, under which
        shares are sealed.
      self_seed: b, the seed of its own mask.
      sealed: by sender, the shares that came for it, still sealed.
    """

    number: int
    rules: Rules
    identity: Ed25519PrivateKey | None = None
    neighbours: tuple[int, ...] = ()
    mask_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    channel_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    self_seed: bytes = field(default_factory=lambda: os.urandom(KEY))
    sealed: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._public: dict[int, tuple[bytes, bytes]] = {}
        self._agreed: dict[int, bytes] = {}
        self._own_shares = b""
        self._included: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] | None = None
        self._done = -1

    @property
    def included(self) -> tuple[int, ...]:
        """Neighbours whose masks it put on: those whose shares it holds."""
        return self._included

    def _once(self, step: str) -> None:
        """Notes that it takes a step: each once, and in order, for two answers to one question tell too much."""
        number = _STEPS.index(step)
        if number <= self._done:
            raise MessageError(
                f"client {self.number} is asked a second time (for step '{step}', after '{_STEPS[self._done]}'): two "
                "answers would lay contributions open"
            )
        self._done = number

    def advertise(self) -> bytes:
        """Its public keys, c then s; signed where the round has signatures."""
        self._once("advertise")
        keys = _raw(self.channel_key) + _raw(self.mask_key)
        return keys if self.identity is None else keys + self.identity.sign(self._statement(self.number, keys))

    def take_keys(self, message: Payload) -> None:
        """Reads the neighbours' public keys.

        Raises:
          MessageError: malformed, too few, a key that is used twice, or a signature that does not fit.
        """
        what = f"the list of keys for client {self.number}"
        width = 2 * KEY + (SIGNATURE if self.identity else 0)
        identities = self.rules.identities
        known: Collection[int] = range(1 << 32) if identities is None else identities
        book = messages.records(message, width, what, known)
        if self.number in book:
            raise MessageError(f"{what} names itself among its neighbours")
        if len(book) + 1 < self.rules.threshold:
            raise MessageError(
                f"{what} has {len(book)} neighbours, and threshold={self.rules.threshold} of them and itself must "
                "recover its secrets; run the round with more clients"
            )
        own = {_raw(self.channel_key), _raw(self.mask_key)}
        for who, entry in book.items():
            keys = entry[: 2 * KEY]
            pair = keys[:KEY], keys[KEY:]
            if own & set(pair):
                raise MessageError(f"{what} has a key of client {who} that was given for another client too")
            own |= set(pair)
            if identities is not None and not _signed(identities[who], entry[2 * KEY :], self._statement(who, keys)):
                raise MessageError(f"{what}: client {who}'s signature does not fit its keys; somebody changed them")
            self._public[who] = pair
        self._once("take_keys")
        self.neighbours = tuple(sorted(book))

    def share_keys(self) -> bytes:
        """Shares of its two secrets for each neighbour, sealed; before them a digest of b.

        The digest lets the server tell that what it recovers is b: a false share is then seen.
        """
        self._once("share_keys")
        holders = sorted([*self.neighbours, self.number])
        points = range(1, len(holders) + 1)
        secrets = [self.mask_key.private_bytes_raw(), self.self_seed]
        shares = shamir.share_strings(secrets, self.rules.threshold, points)
        entries = []
        for who, pair in zip(holders, shares, strict=True):
            packed = shamir.FIELD.pack(pair.reshape(-1))
            if who == self.number:
                self._own_shares = packed
                continue
            named = struct.pack("<2I", self.number, who)
            entries.append((who, sealing.seal(self._channel(self.number, who), named + packed)))
        return digest_of_seed(self.self_seed) + messages.pack_records(entries)

    def take_shares(self, message: Payload) -> None:
        """Keeps the sealed shares of those who have sent any.

        Raises:
          MessageError: malformed, of a stranger, or of too few.
        """
        what = f"the shares for client {self.number}"
        self.sealed = messages.records(message, SEALED, what, self.neighbours)
        if len(self.sealed) + 1 < self.rules.threshold:
            raise MessageError(
                f"{what} are of {len(self.sealed)} neighbours, below threshold={self.rules.threshold} with itself; run "
                "the round with more clients"
            )
        self._once("take_shares")
        self._included = tuple(sorted(self.sealed))

    def mask_keys(self) -> tuple[list[bytes], list[int]]:
        """The seeds of its masks and their signs: its own, then one for each neighbour whose shares it holds."""
        keys, signs = [self.self_seed], [1]
        for other in self._included:
            keys.append(pair_key(self.mask_key, self._public[other][1], self.rules, self.number, other))
            signs.append(1 if self.number > other else -1)
        return keys, signs

    def masked(self, encoded: np.ndarray) -> bytes:
        """Its contribution, uint64 `[n]`, under all its masks."""
        self._once("masked")
        form = self.rules.form
        total = encoded.astype(form.dtype)
        form.add_keystreams(total, *self.mask_keys())
        return form.pack(form.reduce(total))

    def sign_survivors(self, message: Payload) -> bytes:
        """Its signature under who has survived, against a server that tells each client something else.

        Raises:
          MessageError: malformed, or not a list that it can be part of.
        """
        self._survivors = self._checked_survivors(message)
        assert self.identity is not None
        self._once("sign_survivors")
        return self.identity.sign(survivors_statement(self.rules, self._book(), message))

    def reveal(self, message: Payload, signatures: Payload = b"") -> bytes:
        """Shares of b of every neighbour that survived, and of s of every one that has gone; never both of one.

        Args:
          message: ids of the clients that survived, as the server says.
          signatures: of the survivors, where the round has them.

        Raises:
          MessageError: asked a second time, or for what it must not tell; or shares that were not meant for it.
        """
        survivors = self._checked_survivors(message)
        if self.rules.identities is not None:
            if survivors != self._survivors:
                raise MessageError(f"client {self.number} is told other survivors than those that it signed")
            self._check_signatures(message, signatures, survivors)
        self._once("reveal")
        alive, entries = set(survivors), []
        for who in sorted([*self._included, self.number]):
            shares = self._own_shares if who == self.number else self._opened(who)
            entries.append((who, shares[SHARE:] if who in alive else shares[:SHARE]))
        return messages.pack_records(entries)

    def shares_held(self) -> dict[int, tuple[bytes, bytes]]:
        """By owner, the shares of (s, b) that it can read; what a coalition with it knows."""
        held = {}
        for who in self.sealed:
            with suppress(MessageError):
                held[who] = self._opened(who)
        if self._own_shares:
            held[self.number] = self._own_shares
        return {who: (shares[:SHARE], shares[SHARE:]) for who, shares in held.items()}

    def _checked_survivors(self, message: Payload) -> tuple[int, ...]:
        what = f"the list of survivors for client {self.number}"
        survivors = messages.unpack_ids(message, [*self._included, self.number], what)
        if self.number not in survivors:
            raise MessageError(f"{what} leaves it out, though it has sent")
        if len(survivors) < self.rules.threshold:
            raise MessageError(
                f"{what} has {len(survivors)} clients, below threshold={self.rules.threshold}; run the round with more"
            )
        return survivors

    def _check_signatures(self, message: Payload, signatures: Payload, survivors: tuple[int, ...]) -> None:
        what = f"the list of signatures for client {self.number}"
        found = messages.records(signatures, SIGNATURE, what, survivors)
        assert self.rules.identities is not None
        statement = survivors_statement(self.rules, self._book(), message)
        for who, signature in found.items():
            if not _signed(self.rules.identities[who], signature, statement):
                raise MessageError(
                    f"{what}: client {who} has signed something else; the server has told clients different survivors"
                )
        if len(found) < self.rules.threshold:
            raise MessageError(f"{what} has {len(found)}, below threshold={self.rules.threshold}")

    def _opened(self, sender: int) -> bytes:
        plain = sealing.unseal(self._channel(sender, self.number), self.sealed[sender])
        if plain is None or plain[: 2 * messages.ID] != struct.pack("<2I", sender, self.number):
            raise MessageError(
                f"the shares of client {sender} for client {self.number} do not open: they were changed, are of "
                "another round, or were meant for somebody else; run the round again"
            )
        return plain[2 * messages.ID :]

    def _channel(self, sender: int, receiver: int) -> bytes:
        other = sender if receiver == self.number else receiver
        secret = self._agreed.get(other) or sealing.agreed(self.channel_key, self._public[other][0])
        if secret is None:
            raise MessageError(f"client {other} gave a channel key that agrees on nothing; run the round without it")
        self._agreed[other] = secret
        return messages.derived(secret, "shares", self.rules.run, self.rules.round, sender, receiver)

    def _statement(self, who: int, keys: bytes) -> bytes:
        return b"fedpriv keys" + self.rules.run + struct.pack("<2Q", self.rules.round, who) + keys

    def _book(self) -> bytes:
        """A digest of the keys of all whose masks it put on, and its own; they are fresh in every round."""
        own = {self.number: (_raw(self.channel_key), _raw(self.mask_key))}
        included = {who: self._public[who] for who in self._included}
        return digest_of_book({who: c + s for who, (c, s) in (own | included).items()})


def pair_key(own: X25519PrivateKey, other: bytes, rules: Rules, one: int, another: int) -> bytes:
    """The seed of the mask that two clients share.

    Raises:
      MessageError: the other's key agrees on nothing.
    """
    secret = sealing.agreed(own, other)
    if secret is None:
        raise MessageError(f"client {another} gave a mask key that agrees on nothing; run the round without it")
    return messages.derived(secret, "mask", rules.run, rules.round, min(one, another), max(one, another))


def digest_of_seed(seed: bytes) -> bytes:
    """What a client publishes of b."""
    return messages.digest(b"fedpriv self mask", seed)


def digest_of_book(keys: Mapping[int, bytes]) -> bytes:
    """Of clients' public keys, by id."""
    return messages.digest(messages.pack_records(sorted(keys.items())))


def survivors_statement(rules: Rules, book: bytes, ids: Payload) -> bytes:
    """What clients sign of who has survived: for this run and round, and the keys that it was told in it."""
    head = b"fedpriv survivors" + rules.run + struct.pack("<Q", rules.round) + book
    return head + messages.checked(ids, "the list of survivors")


def _raw(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _signed(key: Ed25519PublicKey, signature: bytes, statement: bytes) -> bool:
    try:
        key.verify(signature, statement)
    except InvalidSignature:
        return False
    return True
