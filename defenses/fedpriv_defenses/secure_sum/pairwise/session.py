"""MaskingSession: one round of masked summation, every message of it made, sent and read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedpriv.base.errors import MessageError, StackError
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.parties import SERVER, Party, Phase
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.protocol import Opening, Session, Sighting
from fedpriv.defense.ring import KEY_BYTES, RingFormat
from fedpriv.defense.wire import Delivery, Payload
from fedpriv_defenses.secure_sum.pairwise import messages
from fedpriv_defenses.secure_sum.pairwise.client import SHARE, MaskingClient, Rules, pair_key
from fedpriv_defenses.secure_sum.pairwise.graph import Degree, components, neighbours_of
from fedpriv_defenses.secure_sum.pairwise.server import MaskingServer
from fedpriv_defenses.secure_sum.pairwise.settings import Masking

#: Where a random graph falls apart more often than this, it is looked whether it did.
_UNLIKELY = 2.0**-20


class MaskingSession(Session):
    """One round: keys, shares, masked vectors, and as many shares back as take the masks off their sum.

    Attributes:
      degree: neighbours and threshold of this round; None before it begins.
      members: each client's side, by id.
      server: the server's side.
    """

    def __init__(self, protocol: Masking, opening: Opening) -> None:
        super().__init__(opening)
        self._protocol = protocol
        self._form = RingFormat(protocol.ring_bits(), opening.length)
        self.degree: Degree | None = None
        self.members: dict[int, MaskingClient] = {}
        self.server: MaskingServer | None = None
        self._total: np.ndarray | None = None
        #: Masked vectors are as large as models: they are only kept where more than their sum could come out.
        self._keeps = any(self.wire.is_watched(client_party(c)) for c in opening.clients) or opening.wire

    def exchange(self, phase: Phase) -> None:
        """See Session."""
        if not self.wire.is_alive(SERVER):
            self.abort("the server is gone; run the round again")
        {
            "advertise": self._advertise,
            "share_keys": self._share_keys,
            "consistency": self._consistency,
            "unmask": self._unmask,
        }[phase.name]()

    def ready(self) -> None:
        """Too few end the round before anybody sends."""
        if not self.wire.is_alive(SERVER):
            self.abort("the server is gone; run the round again")
        self._need(self._numbers(), "have shared their keys and are still there")

    def take(self, client: int, encoded: np.ndarray) -> None:
        """Masks the contribution, and sends it.

        Raises:
          MessageError: elements beyond the ring.
        """
        self.check_ring(client, encoded, self._form.bits)
        self._take_vector(client, self.members[client].masked(encoded))

    def masks(self, client: int) -> Dealt:
        """The client's own mask, and one for each neighbour whose shares it holds."""
        keys, signs = self.members[client].mask_keys()
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        return Dealt(keys=rows, signs=np.asarray(signs, np.int8), bits=self._form.bits)

    def take_masked(self, client: int, masked: np.ndarray, dealt: Dealt) -> None:
        """Sends it as it is."""
        self._take_vector(client, self._form.pack(masked.astype(self._form.dtype)))

    def total(self) -> tuple[np.ndarray, Collection[int]]:
        """See Session."""
        assert self._total is not None
        assert self.server is not None
        return self._total.astype(np.uint64), self.server.survivors

    def _take_vector(self, client: int, vector: bytes) -> None:
        assert self.server is not None
        arrived = self._up(client, vector, keep=self._keeps)
        self.server.take_masked(client, arrived)

    def _advertise(self) -> None:
        numbers = self._numbers()
        enough = max(self._protocol.min_clients, 1)
        if len(numbers) < enough:
            self.abort(f"{len(numbers)} clients are there, below min_clients={enough}; run the round with more")
        try:
            self.degree = self._protocol.degree(len(numbers))
        except StackError as e:
            self.abort(str(e))
        self._keeps |= self.degree.exposed > _UNLIKELY
        identities = {c: Ed25519PrivateKey.generate() for c in numbers} if self._protocol.is_active else {}
        directory = {c: key.public_key() for c, key in identities.items()} if identities else None
        run = messages.digest(b"fedpriv run", str(self.opening.seed).encode())
        rules = Rules(run, self.opening.round, self._form, self.degree.threshold, directory)
        self.server = MaskingServer(rules)
        for c in numbers:
            self.members[c] = MaskingClient(c, rules, identities.get(c))
        for c in numbers:
            self.server.take_keys(c, self._up(c, self.members[c].advertise()))
        self.server.graph = neighbours_of(numbers, self.degree.neighbours, os.urandom(32))

    def _share_keys(self) -> None:
        assert self.server is not None
        server, numbers = self.server, self._numbers()
        self._need(numbers, "have advertised keys and are still there")
        for c in numbers:
            self.members[c].take_keys(self._down(c, server.keys_for(c)))
            server.take_letters(c, self._up(c, self.members[c].share_keys()))
        for c in numbers:
            self.members[c].take_shares(self._down(c, server.letters_for(c)))

    def _consistency(self) -> None:
        assert self.server is not None
        server, numbers = self.server, self._numbers()
        self._need(server.survivors, "have sent")
        for c in numbers:
            told = self._down(c, server.survivors_for(c))
            server.take_signature(c, self._up(c, self.members[c].sign_survivors(told)))

    def _unmask(self) -> None:
        assert self.server is not None
        server = self.server
        self._need(server.survivors, "have sent")
        if len(server.survivors) < self._protocol.min_clients:
            self.abort(
                f"{len(server.survivors)} of {len(self.opening.clients)} clients have sent, below min_clients="
                f"{self._protocol.min_clients}; the sum stays closed, run the round again with more clients"
            )
        advertised = len(self.members)
        gone, most = advertised - len(server.survivors), self._protocol.most_gone(advertised)
        if gone > most:
            self.abort(
                f"{gone} of {advertised} clients are gone, above the {most} of dropout for which the graph is safe; "
                "the sum stays closed, run the round again, or with a higher dropout"
            )
        if len(parts := server.parts()) > 1:
            self.abort(
                f"those who have sent fall into {len(parts)} groups that no mask ties together, so the server could "
                "take the sum apart; it stays closed, run the round again with more neighbours"
            )
        signatures = server.signatures() if self._protocol.is_active else b""
        for c in self._numbers():
            if self._protocol.is_active and c not in server.signed:
                continue
            told = self._down(c, server.survivors_for(c))
            theirs = self._down(c, signatures) if self._protocol.is_active else b""
            answer = self._up(c, self.members[c].reveal(told, theirs))
            try:
                server.take_shares(c, answer)
            except MessageError:  # one that answers nonsense counts as gone: the others' shares may be enough
                continue
        self._total = server.unmasked()

    def _need(self, clients: Collection[int], what: str) -> None:
        assert self.degree is not None
        if len(clients) < self.degree.threshold:
            self.abort(
                f"{len(clients)} clients {what}, below threshold={self.degree.threshold}; nothing can be unmasked, run "
                "the round again with more clients or a lower threshold"
            )

    def _numbers(self) -> list[int]:
        return [p.index for p in self.there("client")]

    def _up(self, client: int, message: bytes, *, keep: bool = True) -> Payload:
        return self.wire.send(client_party(client), SERVER, message, private=self._protocol.encrypted, keep=keep)

    def _down(self, client: int, message: bytes) -> Payload:
        return self.wire.send(SERVER, client_party(client), message, private=self._protocol.encrypted)

    def seen_by(self, coalition: Collection[Party], *, wire: bool = False) -> tuple[Sighting, ...]:
        """See Session.

        Clients of a coalition give their keys and the shares they can read; the server gives the masked vectors and
        the shares that were revealed to it, and so does an eavesdropper where channels are not encrypted. From t
        shares a secret is recovered. What is then still masked falls into groups of clients that are tied together by
        masks the coalition does not know: of every group whose own masks it knows, it has the sum.
        """
        self.wire.require(coalition)
        inside = {p.index for p in coalition if p.role == "client"}
        for c in sorted(inside):
            self.wire.received(client_party(c))  # raises if it was not watched
        inside &= self.members.keys()  # others were gone before they had a key
        vectors: dict[int, bytes] = {}
        heard = list(self.wire.received(SERVER)) if SERVER in coalition else []
        if wire:
            heard += [d for d in self.wire.overheard() if d.receiver == SERVER and SERVER not in coalition]
        for delivery in heard:
            if delivery.phase == "masked_input":
                vectors[delivery.sender.index] = delivery.payload if isinstance(delivery.payload, bytes) else b""
        if self.server is None or not vectors:
            return ()
        payloads = tuple(d for d in heard if d.phase == "masked_input")
        if not self._keeps:
            return self._sum_alone(payloads)
        knowledge = _Knowledge(self, inside, [d for d in heard if d.phase == "unmask"])
        found = [s for s in knowledge.sums(vectors) if set(s.clients) - inside]
        if not found:
            return (Sighting(kind="payloads", clients=tuple(sorted(vectors)), payloads=payloads),)
        return tuple(found)

    def _sum_alone(self, payloads: tuple[Delivery, ...]) -> tuple[Sighting, ...]:
        """The server's view: it keeps a running sum."""
        assert self.server is not None
        clients = self.server.survivors
        total = self._total
        if total is None:
            try:
                total = self.server.unmasked()  # a round that was aborted too late for the sum to stay closed
            except MessageError:
                return (Sighting(kind="payloads", clients=clients, payloads=payloads),)
        value = total.astype(np.uint64)
        return (Sighting(kind="sum", clients=clients, value=value, payloads=payloads),)


class _Knowledge:
    """The secrets of a round that a coalition holds, by client: b and s, where it can have them."""

    def __init__(self, session: MaskingSession, inside: Collection[int], revealed: Iterable[Delivery]) -> None:
        server = session.server
        assert server is not None
        self.server, self._session = server, session
        self._form = session._form
        shares: dict[str, dict[int, dict[int, bytes]]] = {"s": {}, "b": {}}
        for c in inside:
            for owner, (s, b) in session.members[c].shares_held().items():
                shares["s"].setdefault(owner, {})[c] = s
                shares["b"].setdefault(owner, {})[c] = b
        survivors = set(server.survivors)
        for delivery in revealed:
            c = delivery.sender.index
            wanted = (*server.included(c), c)
            try:
                told = messages.records(delivery.payload or b"", SHARE, "revealed shares", wanted)
            except MessageError:
                continue
            for owner, share in told.items():
                kind = "b" if owner in survivors else "s"
                shares[kind].setdefault(owner, {})[c] = share
        members = session.members
        self.seeds = {c: members[c].self_seed for c in inside}
        self.keys = {c: members[c].mask_key for c in inside}
        for owner, held in shares["b"].items():
            if owner not in self.seeds:
                with suppress(MessageError):
                    self.seeds[owner] = server.recover_seed(owner, held)
        for owner, held in shares["s"].items():
            if owner not in self.keys:
                with suppress(MessageError):
                    self.keys[owner] = server.recover_key(owner, held)

    def sums(self, vectors: dict[int, bytes]) -> list[Sighting]:
        """The sums of every group whose masks are known, smallest ids first."""
        edges = {c: self._unknown(c) for c in self.server.sharing}
        found = []
        for part in components(self.server.sharing, edges):
            if all(vectors.get(c) and c in self.seeds for c in part):
                found.append(
                    Sighting(
                        kind="client" if len(part) == 1 else "sum", clients=part, value=self._opened(part, vectors)
                    )
                )
        return found

    def _unknown(self, client: int) -> set[int]:
        return {o for o in self.server.included(client) if client not in self.keys and o not in self.keys}

    def _opened(self, part: tuple[int, ...], vectors: dict[int, bytes]) -> np.ndarray:
        total = np.zeros(self._form.length, self._form.dtype)
        for c in part:
            np.add(total, self._form.unpack(vectors[c]), out=total)
            keys, signs = [self.seeds[c]], [-1]
            for other in set(self.server.included(c)) - set(part):
                keys.append(self._pair(c, other))
                signs.append(-1 if c > other else 1)
            self._form.add_keystreams(total, keys, signs)
        return self._form.reduce(total).astype(np.uint64)

    def _pair(self, client: int, other: int) -> bytes:
        own, far = (client, other) if client in self.keys else (other, client)
        public = self.server.public_mask_key(far)
        return pair_key(self.keys[own], public, self.server.rules, client, other)
