"""KeyHolder: the party that makes a round's keys, and decrypts one sum with them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

import numpy as np

from fedpriv.base.errors import MessageError, ProtocolError
from fedpriv.defense.parties import Party
from fedpriv_defenses.encryption.scheme import TAG_BITS, Block, Scheme, garbled
from fedpriv_defenses.encryption.sum_check import KEY_BYTES, tags

#: The party.
KEY_HOLDER = Party("key_holder")
FINGERPRINT_BYTES = 32


def fingerprint(key_message: bytes) -> bytes:
    """What tells a key from others: SHA-256 of the message that it came in."""
    return hashlib.sha256(key_message).digest()


class KeyHolder:
    """Makes keys for one round and decrypts one sum; its secret key goes to nobody.

    Args:
      scheme: what it makes keys of.
      round: the round's number.
    """

    def __init__(self, scheme: Scheme, round: int) -> None:
        self._round, self._secret, self._decrypted = round, scheme.generate(), False
        self._seeds: dict[int, bytes] = {}
        self.message = key_message(round, self._secret.public.message)
        self.fingerprint = fingerprint(self.message)

    def receive_seed(self, client: int, seed: bytes) -> None:
        """Takes what a client's tags are made from.

        Raises:
          MessageError: it is none, or the client's second.
        """
        if not isinstance(seed, bytes) or len(seed) != KEY_BYTES:
            raise MessageError(
                f"the key holder got {len(seed)} bytes from client {client} instead of a seed of {KEY_BYTES}; run the "
                "round again without it"
            )
        if client in self._seeds:
            raise MessageError(f"the key holder got a second seed of client {client}; each sends one")
        self._seeds[client] = seed

    def decrypt_sum(self, ciphertexts: list[bytes], elements: list[int], clients: Collection[int], least: int):
        """The sum over `clients`, int64 by block, and the check of each block.

        Raises:
          MessageError: not all of these clients, and only they, are in it; too few are; or it is no sum of well-formed
            ciphertexts under this key.
          ProtocolError: it has decrypted before.
        """
        if self._decrypted:
            raise ProtocolError(
                f"the key of round {self._round} is asked for a second sum; a key decrypts one, so that no difference "
                "of two sums lays a client open. Make a new key for each round"
            )
        unknown = sorted(set(clients) ^ set(self._seeds))
        if unknown:
            raise MessageError(
                f"client {unknown[0]} is known to the server or to the key holder, but not to both; the sum stays "
                "closed, run the round again without it"
            )
        if len(clients) < least:
            raise MessageError(f"the sum is over {len(clients)} clients, below min_clients={least}; it stays closed")
        self._decrypted = True
        blocks = self.open(ciphertexts, elements, len(clients))
        if [block.tag for block in blocks] != self._tags_of(clients, len(blocks)):
            raise garbled("does not carry the tags of its clients: it is over others, or its parts are exchanged")
        return [block.elements for block in blocks], [block.check for block in blocks]

    def open(self, ciphertexts: list[bytes], elements: list[int], clients: int) -> list[Block]:
        """What the secret key tells of a sum over so many clients, whatever tags it carries.

        Raises:
          MessageError: it is no sum of so many well-formed ciphertexts under this key.
        """
        return [self._secret.decrypt(c, count, clients) for c, count in zip(ciphertexts, elements, strict=True)]

    def guess(
        self, ciphertexts: list[bytes], elements: list[int], named: Collection[int]
    ) -> tuple[tuple[int, ...], list[Block]] | None:
        """What it finds of a sum if it goes by no rules; None if nothing.

        The tags tell whose sum it is: of those named, of all whose seeds it has, of one of these alone, or of all but
        one. Where they fit none of these, it takes those named at their word.
        """
        named, seeded = tuple(sorted(named)), tuple(sorted(self._seeds))
        opened: dict[int, list[Block] | None] = {}

        def sum_over(clients: int) -> list[Block] | None:
            if clients not in opened:
                try:
                    opened[clients] = self.open(ciphertexts, elements, clients) if clients else None
                except MessageError:
                    opened[clients] = None
            return opened[clients]

        for clients, expected in self._likely(named, seeded, len(elements)):
            blocks = sum_over(len(clients))
            if blocks is not None and [b.tag for b in blocks] == expected:
                return clients, blocks
        for clients in (named, seeded):
            blocks = sum_over(len(clients))
            if blocks is not None:
                return clients, blocks
        return None

    def _likely(
        self, named: tuple[int, ...], seeded: tuple[int, ...], blocks: int
    ) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Whose sum it may be, with what its tags are then, the likeliest first."""
        if set(named) <= set(seeded):
            yield named, self._tags_of(named, blocks)
        whole = self._tags_of(seeded, blocks)
        yield seeded, whole
        for c in seeded:
            alone = self._tags_of([c], blocks)
            yield (c,), alone
            yield tuple(x for x in seeded if x != c), [a - b for a, b in zip(whole, alone, strict=True)]

    def _tags_of(self, clients: Collection[int], blocks: int) -> list[int]:
        """What the tags of a sum over these clients add up to."""
        expected = np.zeros(blocks, object)
        for client in clients:
            expected += np.array(tags(self._seeds[client], blocks, TAG_BITS), object)
        return expected.tolist()


def key_message(round: int, key: bytes) -> bytes:
    """A public key as it is sent: the round it is for, then the key."""
    return round.to_bytes(8, "little") + key
