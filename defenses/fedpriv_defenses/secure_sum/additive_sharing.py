"""AdditiveSharing: clients split their contributions among k aggregators, who publish sums alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import MessageError, ParameterError, StackError
from fedpriv.defense.domain import Ring
from fedpriv.defense.parties import SERVER, Party, Phase, aggregator
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.protocol import Opening, Protocol, Session, Sighting
from fedpriv.defense.stations import Plan
from fedpriv.defense.wire import Delivery, Payload
from fedpriv_defenses.secure_sum.ring import KEY_BYTES, RingFormat


class AdditiveSharing(Protocol):
    """Secure sum by additive secret sharing: each client splits its ring elements among k aggregators.

    In the phase `share`, a client sends one additive share to each aggregator over a private, authenticated channel;
    each aggregator adds up what it received. In the phase `publish`, the aggregators compare who has sent to them,
    and send their sums to the server, which puts them together and tells them the result. This is the summing part
    of Prio (Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255), including keys in place of expanded shares, without its
    proofs that inputs are well-formed.

    Formal guarantee: against any k - 1 aggregators who follow the protocol and pool what they saw, with the server or
    without, the contributions are computationally hidden (as long as ChaCha20's keystream looks random); the k sums
    together reveal the sum of the contributions, who sent them, and nothing more. It hides who sent what and is not
    differential privacy: a cohort of one has no sum to hide in, and the ledger counts it as nothing. Nothing stops a
    client from sending a false contribution.

    Drop-out: a client may be gone before it sends; one that has sent is in the sum, gone or not. All k aggregators
    must stay to the end, or the round is aborted with nothing revealed.
    """

    name: ClassVar[str] = "additive_sharing"
    paper: ClassVar[str] = "Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255"
    adaptive_attack: ClassVar[str] = "dlg"
    phases: ClassVar[tuple[str, ...]] = ("share", "publish")
    input_phase: ClassVar[str] = "share"

    aggregators: Annotated[int, Field(ge=2, le=64)] = Field(
        default=2, description="k, from 2 to 64, of which one must be honest."
    )
    bits: Annotated[int, Field(ge=8, le=64)] = Field(
        default=32,
        description="b, from 8 to 64, of the ring of integers mod 2^b; an element takes b bits on the wire.",
    )
    compressed: bool = Field(
        default=True,
        description=(
            "send 32-byte keys in place of the k - 1 pseudo-random shares, so that a client sends one vector and k "
            "- 1 keys instead of k vectors; the security argument is the same."
        ),
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted."
    )
    encrypted: bool = Field(
        default=True,
        description=(
            "whether channels are private. Without, an eavesdropper on all of them holds what all k aggregators "
            "hold, and the protocol hides nothing from it."
        ),
    )

    @property
    def takes(self) -> Ring:  # type: ignore[override]
        """Integers mod 2^bits."""
        return Ring(self.bits)

    def parties(self) -> tuple[Party, ...]:
        """The server and the k aggregators."""
        return (SERVER, *map(aggregator, range(self.aggregators)))

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """Raises StackError if no cohort is large enough."""
        if plan.cohort < self.min_clients:
            raise StackError(
                f"{speaker or self.name} wants min_clients={self.min_clients} in every sum, but cohorts have at most "
                f"{plan.cohort} clients; sample more clients or lower min_clients"
            )

    def session(self, opening: Opening) -> AdditiveSession:
        """See Protocol."""
        return AdditiveSession(self, opening)


class Aggregator:
    """One of the k parties: adds up the shares it is sent.

    Attributes:
      party: who it is.
      clients: who has sent it a share.
    """

    def __init__(self, party: Party, form: RingFormat, takes_keys: bool) -> None:
        self.party, self.clients = party, set[int]()
        self._form, self._takes_keys = form, takes_keys
        self._total = np.zeros(form.length, form.dtype)

    def receive(self, client: int, message: Payload) -> None:
        """Takes one client's message: a key, or a vector.

        Raises:
          MessageError: a second message of that client, or one of the wrong length.
        """
        if client in self.clients:
            raise MessageError(f"{self.party} got a second share of client {client}; each sends one")
        wanted = KEY_BYTES if self._takes_keys else self._form.vector_bytes
        if not isinstance(message, bytes) or len(message) != wanted:
            raise MessageError(
                f"{self.party} got {len(message)} bytes from client {client} instead of {wanted}; all clients must "
                "use the same model, bits and compression"
            )
        if self._takes_keys:
            for where, block in self._form.blocks(message):
                np.add(self._total[where], block, out=self._total[where])
        else:
            np.add(self._total, self._form.unpack(message), out=self._total)
        self.clients.add(client)

    def share(self, message: bytes) -> np.ndarray:
        """The share that a message to it stands for, modulo 2^b."""
        return self._form.expand(message) if self._takes_keys else self._form.unpack(message)

    def roll(self, cohort: tuple[int, ...]) -> bytes:
        """Who has sent to it, a bit for each client of the cohort."""
        return np.packbits(np.fromiter((c in self.clients for c in cohort), bool, len(cohort))).tobytes()

    def sum(self) -> np.ndarray:
        """What it publishes: the sum of its shares, modulo 2^b."""
        return self._form.reduce(self._total.copy())


class AdditiveSession(Session):
    """One round: shares are made, delivered, and summed by each aggregator on its own.

    Attributes:
      aggregators: the k parties.
    """

    def __init__(self, protocol: AdditiveSharing, opening: Opening) -> None:
        super().__init__(opening)
        k = protocol.aggregators
        self._protocol, self._form = protocol, RingFormat(protocol.bits, opening.length)
        self.aggregators = [Aggregator(aggregator(i), self._form, protocol.compressed and i < k - 1) for i in range(k)]
        self._total: np.ndarray | None = None

    def make_messages(self, encoded: np.ndarray) -> list[bytes]:
        """A client's k messages for `encoded`, uint64 `[n]`; made afresh, so never the same twice."""
        return self._form.split(encoded, len(self.aggregators), self._protocol.compressed)

    def deliver(self, receiver: Aggregator, client: int, message: bytes) -> None:
        """Carries one share to one aggregator, and ends the round where it is not one."""
        arrived = self.wire.send(client_party(client), receiver.party, message, private=self._protocol.encrypted)
        receiver.receive(client, arrived)

    def ready(self) -> None:
        """Nobody sends anything where an aggregator is gone, whose share of it would be missing."""
        self._need_everybody()

    def take(self, client: int, encoded: np.ndarray) -> None:
        """Shares the contribution, and delivers a share to each aggregator.

        Raises:
          ProtocolError: elements beyond the ring.
        """
        self.check_ring(client, encoded, self._protocol.bits)
        for receiver, message in zip(self.aggregators, self.make_messages(encoded), strict=True):
            self.deliver(receiver, client, message)

    def exchange(self, phase: Phase) -> None:
        """The aggregators agree on whose shares they hold, and only then publish their sums."""
        self._need_everybody()
        cohort, private = self.opening.clients, self._protocol.encrypted
        for sender in self.aggregators:
            roll = sender.roll(cohort)
            for receiver in self.aggregators:
                if receiver is not sender:
                    self.wire.send(sender.party, receiver.party, roll, private=private)
        self._agree()
        for sender in self.aggregators:
            self.wire.send(sender.party, SERVER, self._form.pack(sender.sum()), private=private)
        total = self.aggregators[0].sum()
        for other in self.aggregators[1:]:
            np.add(total, other.sum(), out=total)
        self._form.reduce(total)
        message = self._form.pack(total)
        for receiver in self.aggregators:
            self.wire.send(SERVER, receiver.party, message, private=private)
        self._total = total.astype(np.uint64)

    def total(self) -> tuple[np.ndarray, Collection[int]]:
        """See Session."""
        assert self._total is not None  # `exchange` has published it, or aborted
        return self._total.copy(), self.aggregators[0].clients

    def seen_by(self, coalition: Collection[Party], *, wire: bool = False) -> tuple[Sighting, ...]:
        """See Session.

        All k aggregators hold every contribution, also of a round that was aborted, and so does an eavesdropper where
        channels are not encrypted. Fewer hold shares, and the sum once it is published. The server holds the sum.
        Clients of a coalition take their own contributions out of the sum.
        """
        self.wire.require(coalition)
        members = set(coalition)
        inside = [a for a in self.aggregators if a.party in members]
        heard = [d for a in inside for d in self.wire.received(a.party)]
        if wire:
            heard += [d for d in self.wire.overheard() if d.receiver not in members]
        shares: dict[int, dict[Party, Delivery]] = {}
        for delivery in heard:
            if delivery.phase == self.phases[0]:
                shares.setdefault(delivery.sender.index, {})[delivery.receiver] = delivery
        opened = {c for c, held in shares.items() if self._whole(held)}
        if opened:
            return tuple(
                Sighting(
                    kind="client",
                    clients=(c,),
                    value=self._recombined(shares[c]),
                    payloads=tuple(shares[c].values()),
                )
                for c in sorted(opened)
            )
        payloads = tuple(d for c in sorted(shares) for d in shares[c].values())
        if self._total is not None and (inside or SERVER in members):
            return self._sums(members, payloads)
        if not payloads:
            return ()
        return (Sighting(kind="payloads", clients=tuple(sorted(shares)), payloads=payloads),)

    def shares(self, party: Party) -> dict[int, np.ndarray]:
        """The shares that a watched aggregator received, uint64 `[n]` by client.

        Raises:
          ParameterError: no aggregator of this round.
          ProtocolError: it was not watched.
        """
        received = self.wire.received(party)
        own = next((a for a in self.aggregators if a.party == party), None)
        if own is None:
            raise ParameterError(f"{party} gets no shares; name one of aggregator 0 to {len(self.aggregators) - 1}")
        return {
            d.sender.index: own.share(d.payload).astype(np.uint64)
            for d in received
            if d.phase == self.phases[0] and isinstance(d.payload, bytes)
        }

    def _sums(self, members: set[Party], payloads: tuple[Delivery, ...]) -> tuple[Sighting, ...]:
        """The sum, and what is left of it without the coalition's own contributions."""
        assert self._total is not None
        everyone = self.submitted
        found = [Sighting(kind="sum", clients=everyone, value=self._total.copy(), payloads=payloads)]
        own = [c for c in everyone if client_party(c) in members]
        others = tuple(c for c in everyone if c not in own)
        if own and others:
            rest = self._total.copy()
            for c in own:
                np.subtract(rest, self._own_of(c), out=rest)
            rest = self._form.reduce(rest.astype(self._form.dtype)).astype(np.uint64)
            found.append(Sighting(kind="sum", clients=others, value=rest))
        return tuple(found)

    def _own_of(self, client: int) -> np.ndarray:
        self.wire.received(client_party(client))  # raises if it was not watched
        return self._own[client]

    def _whole(self, held: dict[Party, Delivery]) -> bool:
        return len(held) == len(self.aggregators) and all(d.payload is not None for d in held.values())

    def _recombined(self, held: dict[Party, Delivery]) -> np.ndarray:
        total = np.zeros(self._form.length, self._form.dtype)
        for a in self.aggregators:
            message = held[a.party].payload
            assert isinstance(message, bytes)
            np.add(total, a.share(message), out=total)
        return self._form.reduce(total).astype(np.uint64)

    def _need_everybody(self) -> None:
        k = len(self.aggregators)
        gone = [str(a.party) for a in self.aggregators if not self.wire.is_alive(a.party)]
        if gone:
            self.abort(f"{' and '.join(gone)} of {k} gone, and all are needed; run the round again")
        if not self.wire.is_alive(SERVER):
            self.abort("the server is gone; run the round again")

    def _agree(self) -> None:
        anyone = set[int]().union(*(a.clients for a in self.aggregators))
        for a in self.aggregators:
            missing = sorted(anyone - a.clients)
            if missing:
                more = f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
                self.abort(
                    f"{a.party} has no share of client {missing[0]}{more}, others do, so the sum cannot be decoded; "
                    "run the round again without that client"
                )
        if len(anyone) < self._protocol.min_clients:
            self.abort(
                f"{len(anyone)} of {len(self.opening.clients)} clients finished, below min_clients="
                f"{self._protocol.min_clients}; the sum stays closed, run the round again with more clients"
            )
