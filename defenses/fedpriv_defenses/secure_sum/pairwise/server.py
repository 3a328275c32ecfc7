"""MaskingServer: the server's side of a round. It holds a running sum of masked vectors, and no secret of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedpriv.base.errors import MessageError
from fedpriv.defense.wire import Payload
from fedpriv_defenses.secure_sum import shamir
from fedpriv_defenses.secure_sum.pairwise import messages
from fedpriv_defenses.secure_sum.pairwise.client import (
    SEALED,
    SHARE,
    Rules,
    digest_of_seed,
    pair_key,
    survivors_statement,
)
from fedpriv_defenses.secure_sum.pairwise.messages import KEY, SIGNATURE

#: Keystreams are taken off the sum this many at a time, so that their keys need little memory.
_AT_ONCE = 256


class MaskingServer:
    """The server of one round.

    Args:
      rules: what everybody knows.

    Attributes:
      graph: each client's neighbours.
      sharing: those that shared their keys (U2 in the paper), ascending.
      survivors: those whose masked vector came (U3), ascending.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.graph: Mapping[int, tuple[int, ...]] = {}
        self.sharing: tuple[int, ...] = ()
        self._keys: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        self._letters: dict[int, dict[int, bytes]] = {}
        self._total = np.zeros(rules.form.length, rules.form.dtype)
        self._sent: set[int] = set()
        self._lists: dict[int, bytes] = {}
        self._signatures: dict[int, bytes] = {}
        self._shares: dict[int, dict[int, bytes]] = {}

    @property
    def survivors(self) -> tuple[int, ...]:
        """Those whose masked vector came, ascending."""
        return tuple(sorted(self._sent))

    def take_keys(self, client: int, message: Payload) -> None:
        """One client's public keys."""
        width = 2 * KEY + (SIGNATURE if self.rules.identities is not None else 0)
        self._keys[client] = messages.checked(message, f"the keys of client {client}", width)

    def keys_for(self, client: int) -> bytes:
        """The keys of a client's neighbours."""
        return messages.pack_records([(other, self._keys[other]) for other in self.graph[client]])

    def take_letters(self, client: int, message: Payload) -> None:
        """One client's digest of b, and its sealed shares; they must be for all of its neighbours.

        Raises:
          MessageError: they are not.
        """
        what = f"the shares of client {client}"
        whole = messages.checked(message, what)
        letters = messages.records(whole[KEY:], SEALED, what, self.graph[client])
        missing = set(self.graph[client]) - set(letters)
        if missing or len(whole) < KEY:
            raise MessageError(f"{what} has none for client {min(missing, default=client)}; every neighbour gets one")
        self._digests[client] = whole[:KEY]
        for other, letter in letters.items():
            self._letters.setdefault(other, {})[client] = letter
        self.sharing = tuple(sorted(self._digests))

    def letters_for(self, client: int) -> bytes:
        """The sealed shares for one client, which the server then forgets."""
        return messages.pack_records(sorted(self._letters.pop(client, {}).items()))

    def take_masked(self, client: int, message: Payload) -> None:
        """Adds one masked vector to the sum.

        Raises:
          MessageError: it has another length.
        """
        form = self.rules.form
        what = f"the masked vector of client {client}"
        vector = form.unpack(messages.checked(message, what, form.vector_bytes))
        np.add(self._total, vector, out=self._total)
        self._sent.add(client)

    def included(self, client: int) -> tuple[int, ...]:
        """The neighbours towards whom a client has put on masks."""
        sharing = set(self.sharing)
        return tuple(other for other in self.graph[client] if other in sharing)

    def survivors_for(self, client: int) -> bytes:
        """Which of those it has masks with, and itself, have survived."""
        return messages.pack_ids(c for c in (*self.included(client), client) if c in self._sent)

    def take_signature(self, client: int, message: Payload) -> None:
        """One survivor's signature under the list that it was told.

        Raises:
          MessageError: it does not fit.
        """
        signature = messages.checked(message, f"the signature of client {client}", SIGNATURE)
        assert self.rules.identities is not None
        try:
            statement = survivors_statement(self.rules.round, self.survivors_for(client))
            self.rules.identities[client].verify(signature, statement)
        except InvalidSignature:
            raise MessageError(f"client {client}'s signature does not fit the survivors it was told") from None
        self._signatures[client] = signature

    @property
    def signed(self) -> tuple[int, ...]:
        """Those who have signed, ascending."""
        return tuple(sorted(self._signatures))

    def signatures(self) -> bytes:
        """All of them."""
        return messages.pack_records(sorted(self._signatures.items()))

    def take_shares(self, client: int, message: Payload) -> None:
        """One survivor's shares, of everybody it has masks with and of itself.

        Raises:
          MessageError: they are others'.
        """
        wanted = (*self.included(client), client)
        what = f"the shares that client {client} reveals"
        found = messages.records(message, SHARE, what, wanted)
        missing = set(wanted) - set(found)
        if missing:
            raise MessageError(f"{what} has none of client {min(missing)}")
        for owner, share in found.items():
            self._shares.setdefault(owner, {})[client] = share

    def unmasked(self) -> np.ndarray:
        """The sum of the survivors' contributions, in machine integers modulo 2^b.

        Raises:
          MessageError: a client's secret cannot be recovered, or its shares contradict each other.
        """
        keys, signs = [], []
        total = self._total.copy()
        for key, sign in self._mask_keys():
            keys.append(key)
            signs.append(sign)
            if len(keys) == _AT_ONCE:
                self.rules.form.add_keystreams(total, keys, signs)
                keys, signs = [], []
        self.rules.form.add_keystreams(total, keys, signs)
        return self.rules.form.reduce(total)

    def _mask_keys(self) -> Iterator[tuple[bytes, int]]:
        """The masks that are still on the sum, as (key, -1 or 1): own ones of survivors, those towards the gone."""
        for client in self.survivors:
            seed = self._recovered(client, "own mask")
            if digest_of_seed(seed) != self._digests[client]:
                raise MessageError(
                    f"the shares of client {client}'s own mask give another seed than it has committed to: one of "
                    "those who revealed them lies; run the round again without them"
                )
            yield seed, -1
        for client in self.sharing:
            if client in self._sent:
                continue
            towards = [c for c in self.included(client) if c in self._sent]
            if not towards:
                continue
            secret = X25519PrivateKey.from_private_bytes(self._recovered(client, "mask key"))
            if secret.public_key().public_bytes_raw() != self.public_mask_key(client):
                raise MessageError(
                    f"the shares of client {client}'s mask key give another key than it has advertised: one of those "
                    "who revealed them lies; run the round again without them"
                )
            for other in towards:
                key = pair_key(secret, self.public_mask_key(other), self.rules.round, client, other)
                yield key, -1 if other > client else 1

    def public_mask_key(self, client: int) -> bytes:
        """The public key that a client's pairwise masks come from."""
        return self._keys[client][KEY : 2 * KEY]

    def _recovered(self, client: int, what: str) -> bytes:
        return recovered(self._shares.get(client, {}), self.holders(client), self.rules.threshold, client, what)

    def holders(self, client: int) -> tuple[int, ...]:
        """Who holds shares of a client's secrets, in the order of their points."""
        return tuple(sorted((*self.graph[client], client)))


def recovered(shares: Mapping[int, bytes], holders: tuple[int, ...], threshold: int, client: int, what: str) -> bytes:
    """A client's secret from shares by holder.

    Raises:
      MessageError: too few, or they contradict each other.
    """
    if len(shares) < threshold:
        raise MessageError(
            f"{len(shares)} shares of client {client}'s {what} are left, below threshold={threshold}; the sum stays "
            "closed, run the round again with more clients or a lower threshold"
        )
    places = {holder: i + 1 for i, holder in enumerate(holders)}
    who = sorted(shares)
    values = [shamir.FIELD.unpack(shares[c]) for c in who]
    if any(v is None for v in values):
        raise MessageError(f"a share of client {client}'s {what} is no element of the field")
    rows = np.stack([v for v in values if v is not None])[:, None, :]
    (secret,) = shamir.recover_strings(rows, [places[c] for c in who], threshold, KEY)
    if secret is None:
        raise MessageError(
            f"the shares of client {client}'s {what} do not fit together: one of {_named(who)} lies; run the "
            "round again without them"
        )
    return secret


def _named(clients: list[int]) -> str:
    """Clients for a message; a cohort may have thousands."""
    return f"clients {', '.join(map(str, clients[:8]))}{' ...' if len(clients) > 8 else ''}"
