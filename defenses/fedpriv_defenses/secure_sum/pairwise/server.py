"""MaskingServer: the server's side of a round. It holds a running sum of masked vectors, and no secret of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

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
    digest_of_book,
    digest_of_seed,
    pair_key,
    survivors_statement,
)
from fedpriv_defenses.secure_sum.pairwise.graph import components
from fedpriv_defenses.secure_sum.pairwise.messages import KEY, SIGNATURE

#: Keystreams are taken off the sum this many at a time, so that their keys need little memory.
_AT_ONCE = 256
#: Sets of holders that are tried where some shares are false.
_TRIED = 256


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
            statement = survivors_statement(self.rules, self.book(), self.survivors_for(client))
            self.rules.identities[client].verify(signature, statement)
        except InvalidSignature:
            raise MessageError(f"client {client}'s signature does not fit the survivors it was told") from None
        self._signatures[client] = signature

    def book(self) -> bytes:
        """The digest of all keys that masks were put on with, which clients sign."""
        return digest_of_book({c: self._keys[c][: 2 * KEY] for c in self.sharing})

    def parts(self) -> list[tuple[int, ...]]:
        """The groups of survivors that masks still tie together; more than one, and the sum could be taken apart."""
        alive = self._sent
        return components(self.survivors, {c: set(self.included(c)) & alive for c in alive})

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
            yield self.recover_seed(client, self._shares.get(client, {})), -1
        for client in self.sharing:
            if client in self._sent:
                continue
            towards = [c for c in self.included(client) if c in self._sent]
            if not towards:
                continue
            secret = self.recover_key(client, self._shares.get(client, {}))
            for other in towards:
                key = pair_key(secret, self.public_mask_key(other), self.rules, client, other)
                yield key, -1 if other > client else 1

    def public_mask_key(self, client: int) -> bytes:
        """The public key that a client's pairwise masks come from."""
        return self._keys[client][KEY : 2 * KEY]

    def recover_seed(self, client: int, shares: Mapping[int, bytes]) -> bytes:
        """The seed of a client's own mask, as it has committed to it.

        Raises:
          MessageError: too few true shares.
        """
        return self._recovered(client, shares, "own mask", lambda seed: digest_of_seed(seed) == self._digests[client])

    def recover_key(self, client: int, shares: Mapping[int, bytes]) -> X25519PrivateKey:
        """A client's mask key, as it has advertised it.

        Raises:
          MessageError: too few true shares.
        """

        def fits(secret: bytes) -> bool:
            public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
            return public == self.public_mask_key(client)

        return X25519PrivateKey.from_private_bytes(self._recovered(client, shares, "mask key", fits))

    def _recovered(self, client: int, shares: Mapping[int, bytes], what: str, fits: Callable[[bytes], bool]) -> bytes:
        return recovered(shares, self.holders(client), self.rules.threshold, f"client {client}'s {what}", fits)

    def holders(self, client: int) -> tuple[int, ...]:
        """Who holds shares of a client's secrets, in the order of their points."""
        return tuple(sorted((*self.graph[client], client)))


def recovered(
    shares: Mapping[int, bytes],
    holders: tuple[int, ...],
    threshold: int,
    what: str,
    fits: Callable[[bytes], bool],
) -> bytes:
    """A secret from shares by holder, some of which may be false: it is known which secret is the right one.

    Raises:
      MessageError: too few, or none of the subsets that were tried gives it.
    """
    places = {holder: i + 1 for i, holder in enumerate(holders)}
    read = {c: shamir.FIELD.unpack(share) for c, share in shares.items()}
    values = {c: v for c, v in sorted(read.items()) if v is not None and len(v) == shamir.limbs(KEY)}
    if len(values) < threshold:
        raise MessageError(
            f"{len(values)} shares of {what} are left, below threshold={threshold}; the sum stays closed, run the "
            "round again with more clients or a lower threshold"
        )
    for chosen in _subsets(tuple(values), threshold):
        rows = np.stack([values[c] for c in chosen])[:, None, :]
        (secret,) = shamir.recover_strings(rows, [places[c] for c in chosen], threshold, KEY)
        if secret is not None and fits(secret):
            return secret
    raise MessageError(
        f"the shares of {what} do not fit together: some of {_named(list(values))} lie; run the round again without "
        "them"
    )


def _subsets(holders: tuple[int, ...], threshold: int) -> Iterator[tuple[int, ...]]:
    """Sets of holders to believe: all, all but one, then any `threshold` of them, up to a few hundred."""
    yield holders
    if len(holders) > threshold:
        yield from (tuple(h for h in holders if h != odd) for odd in holders)
        yield from itertools.islice(itertools.combinations(holders, threshold), _TRIED)


def _named(clients: list[int]) -> str:
    """Clients for a message; a cohort may have thousands."""
    return f"clients {', '.join(map(str, clients[:8]))}{' ...' if len(clients) > 8 else ''}"
