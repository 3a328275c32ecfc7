"""SharedSum: protocols in which holders get shares of every contribution, add them up, and publish the sums.

Who the holders are is the protocol's `among`: aggregators from outside, all clients of the round, or a committee of
clients. How a contribution becomes shares is a `Scheme`: additive shares in a ring, or Shamir's in a field.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.errors import MessageError, ParameterError, StackError
from fedpriv.defense.attrition import draw
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.domain import Ring
from fedpriv.defense.parties import SERVER, Party, Phase, aggregator
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.protocol import Opening, Protocol, Session, Sighting
from fedpriv.defense.ring import RingFormat
from fedpriv.defense.stations import Plan
from fedpriv.defense.wire import Delivery, Payload
from fedpriv_defenses.secure_sum.holder import Holder
from fedpriv_defenses.secure_sum.scheme import Scheme

#: What shares are sent in, and what their sums are.
SHARE, PUBLISH = Phase("share", takes_input=True), Phase("publish")

Among = Literal["aggregators", "clients", "committee"]


class SharedSum(Protocol):
    """Base of the protocols in which holders get shares of every contribution, add them up, and publish the sums."""

    phases: ClassVar[tuple[str, ...]] = (SHARE.name, PUBLISH.name)
    input_phase: ClassVar[str] = SHARE.name

    aggregators: Annotated[int, Field(ge=2, le=64)] = Field(
        default=2, description="k, from 2 to 64, of which one must be honest; with among=aggregators."
    )
    among: Among = Field(
        default="aggregators",
        description=(
            "who holds shares: `aggregators`, k parties from outside; `clients`, all of the round, each of all others "
            "(their number squared messages); `committee`, some of them, drawn anew in each round."
        ),
    )
    committee: Annotated[int, Field(ge=2, le=64)] | None = Field(
        default=None, description="m, from 2 to 64, clients in the committee; with among=committee, and only then."
    )
    bits: Annotated[int, Field(ge=8, le=64)] | None = Field(
        default=32,
        description=(
            "b, from 8 to 64, of the ring of integers mod 2^b; an element takes b bits on the wire. None "
            "takes whichever ring the codec before it gives."
        ),
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
            "whether channels are private. Without, an eavesdropper on all of them holds what all holders of shares "
            "hold, and the protocol hides nothing from it."
        ),
    )

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.committee is None) == (self.among == "committee"):
            way = "add committee=m" if self.committee is None else "leave it out, or add among=committee"
            given = "is not given" if self.committee is None else f"={self.committee} is given"
            raise ValueError(f"committee {given} with among={self.among}; {way}".replace("committee =", "committee="))
        return self

    @property
    def takes(self) -> Ring:  # type: ignore[override]
        """Integers mod 2^bits."""
        return Ring(self.bits)

    def parties(self) -> tuple[Party, ...]:
        """The server, and the k aggregators where they hold the shares."""
        return (SERVER, *(map(aggregator, range(self.aggregators)) if self.among == "aggregators" else ()))

    def holders(self, clients: Collection[int], round: int, seed: int) -> tuple[Party, ...]:
        """Who holds shares in a round, in order; anybody can compute it.

        A committee is drawn from the cohort, not from who turns up, so that nobody can choose it by leaving others
        out: its members are those with the smallest digests of (seed, round, client).

        Args:
          clients: ids of the cohort; for among=clients those who are there as it begins.
          round: the round's number, from 0.
          seed: the run's seed.
        """
        if self.among == "aggregators":
            return tuple(map(aggregator, range(self.aggregators)))
        everyone = sorted(map(client_party, clients))
        if self.committee is None:
            return tuple(everyone)
        drawn = sorted(everyone, key=lambda p: (draw(seed, "committee", round, SHARE, p), p))
        return tuple(sorted(drawn[: self.committee]))

    @property
    def least_clients(self) -> int:
        """As many as `min_clients` says, and as have to hold shares."""
        return max(self.min_clients, self.committee or 1, self.least(1) if self.among == "clients" else 1)

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """Raises StackError if no cohort is large enough."""
        for name, least in (("min_clients", self.min_clients), ("committee", self.committee or 0)):
            if plan.cohort < least:
                where = "clients in every sum" if name == "min_clients" else "clients that hold the shares"
                raise StackError(
                    f"{speaker or self.name} wants {name}={least} {where}, but cohorts have at most "
                    f"{plan.cohort} clients; sample more clients or lower {name}"
                )

    @abstractmethod
    def least(self, holders: int) -> int:
        """How many of that many holders must be there to the end."""

    @abstractmethod
    def scheme(self, holders: Sequence[int], length: int, clients: int) -> Scheme:
        """The arithmetic of a round.

        Args:
          holders: places of those who get shares, among all who were to hold some.
          length: n, elements of a contribution.
          clients: contributions that a sum has at most.
        """

    def session(self, opening: Opening) -> HoldersSession:
        """See Protocol."""
        return HoldersSession(self, opening)


@dataclass
class _Held:
    """What a coalition has of one client: shares by holder's place, and the messages they came in."""

    shares: dict[int, np.ndarray | Delivery]
    messages: list[Delivery]


class HoldersSession(Session):
    """One round: shares are made, delivered, and summed by each holder on its own.

    Attributes:
      holders: the parties that get shares; where these are all clients of the round, known as it begins.
      accused: holders whose sums did not come or did not fit the others', and were left out; with Shamir's sharing
        only. It may also be a client's doing that gave such a holder another share. Of s sums, at most (s - t) / 2 may
        be false for this to hold: more liars who collude can have an honest holder accused, and a wrong sum believed.
    """

    def __init__(self, protocol: SharedSum, opening: Opening) -> None:
        super().__init__(opening)
        self._protocol = protocol
        self._form = RingFormat(protocol.ring_bits(), opening.length)
        self.holders: list[Holder] = []
        self.accused: tuple[Party, ...] = ()
        self._clients: tuple[int, ...] = ()
        self._total: np.ndarray | None = None
        if protocol.among == "aggregators":
            self._appoint(protocol.holders((), opening.round, opening.seed))

    def _appoint(self, parties: Sequence[Party], all_of: Sequence[Party] | None = None) -> None:
        everyone = list(all_of or parties)
        places = [everyone.index(p) for p in parties]
        self.scheme = self._protocol.scheme(places, self.opening.length, len(self.opening.clients))
        self.holders = [Holder(party, i, self.scheme) for i, party in enumerate(parties)]

    def make_messages(self, encoded: np.ndarray) -> list[bytes]:
        """A client's messages for `encoded`, uint64 `[n]`, one a holder; made afresh, so never the same twice."""
        return self.scheme.split(encoded)

    def deliver(self, receiver: Holder, client: int, message: bytes) -> None:
        """Carries one share to one holder, and ends the round where it is not one; a holder keeps its own."""
        sender = client_party(client)
        arrived: Payload = message
        if receiver.party != sender:
            arrived = self.wire.send(sender, receiver.party, message, private=self._protocol.encrypted)
        receiver.receive(client, arrived)

    def ready(self) -> None:
        """Nobody sends anything where too few holders are there."""
        protocol, opening = self._protocol, self.opening
        there = [p.index for p in self.there("client")]
        cohort = there if protocol.among == "clients" else opening.clients
        drawn = protocol.holders(cohort, opening.round, opening.seed)
        if protocol.committee is not None and len(drawn) < protocol.committee:
            self.abort(
                f"{len(drawn)} clients were sampled, below committee={protocol.committee}; run the round again with "
                "more clients"
            )
        self._need(drawn)
        self._appoint([p for p in drawn if self.wire.is_alive(p)], drawn)

    def take(self, client: int, encoded: np.ndarray) -> None:
        """Shares the contribution, and delivers a share to each holder.

        Raises:
          ProtocolError: elements beyond the ring.
        """
        self.check_ring(client, encoded, self._form.bits)
        for receiver, message in zip(self.holders, self.make_messages(encoded), strict=True):
            self.deliver(receiver, client, message)

    def masks(self, client: int) -> Dealt | None:
        """See Session."""
        return self.scheme.masks()

    def take_masked(self, client: int, masked: np.ndarray, dealt: Dealt) -> None:
        """Delivers the keys, or what they expand to, and the last share, which is the masked vector."""
        for receiver, message in zip(self.holders, self.scheme.split_masked(masked, dealt), strict=True):
            self.deliver(receiver, client, message)

    def exchange(self, phase: Phase) -> None:
        """The holders agree on whose shares they hold, and only then publish their sums."""
        self._need([h.party for h in self.holders])
        there = [h for h in self.holders if self.wire.is_alive(h.party)]
        self._agree(there)
        private, sums = self._protocol.encrypted, dict[int, np.ndarray]()
        problems: dict[Party, MessageError] = {}
        for sender in there:
            try:
                arrived = self.wire.send(sender.party, SERVER, sender.sum(), private=private)
                sums[sender.place] = self._sum_of(sender.party, arrived)
            except MessageError as e:
                problems[sender.party] = e
        if len(sums) < self.scheme.needed:
            raise next(iter(problems.values()))
        total, odd = self.scheme.combined(sums, len(self._clients))
        self.accused = tuple(sorted({*problems, *(self.holders[i].party for i in odd)}))
        self._total = total
        message = self._form.pack(total.astype(self._form.dtype))
        for receiver in there:
            self._told(receiver.party, self.wire.send(SERVER, receiver.party, message, private=private))

    def total(self) -> tuple[np.ndarray, Collection[int]]:
        """See Session."""
        assert self._total is not None  # `exchange` has published it, or aborted
        return self._total.copy(), self._clients

    def seen_by(self, coalition: Collection[Party], *, wire: bool = False) -> tuple[Sighting, ...]:
        """See Session.

        As many holders as it takes hold every contribution, also of a round that was aborted, and so does an
        eavesdropper where channels are not encrypted. Fewer hold shares, and the sum once it is published. The server
        holds the sum if enough holders' sums have reached it, where a holder that works with it need send none. Clients
        of a coalition take their own contributions out of the sum; what they lay open are the others'.
        """
        self.wire.require(coalition)
        members = set(coalition)
        listening = [p for p in sorted(members) if p == SERVER or any(h.party == p for h in self.holders)]
        heard = [d for p in listening for d in self.wire.received(p)]
        if wire:
            heard += [d for d in self.wire.overheard() if d.receiver not in members]
        held = self._held(members, heard)
        opened = {c: value for c, mine in held.items() if (value := self._opened(mine)) is not None}
        if opened:
            return tuple(
                Sighting(kind="client", clients=(c,), value=value, payloads=tuple(held[c].messages))
                for c, value in sorted(opened.items())
            )
        payloads = tuple(d for c in sorted(held) for d in held[c].messages)
        total = self._sum_in(members, heard)
        if total is not None:
            return self._sums(members, total, payloads)
        if not payloads:
            return ()
        senders = {d.sender.index for d in payloads}
        return (Sighting(kind="payloads", clients=tuple(sorted(senders)), payloads=payloads),)

    def shares(self, party: Party) -> dict[int, np.ndarray]:
        """The shares that a watched holder received, uint64 `[n]` by client; its own, which it keeps, is not there.

        Nor are messages that are no shares, over which the round was aborted.

        Raises:
          ParameterError: it holds no shares in this round.
          ProtocolError: it was not watched.
        """
        received = self.wire.received(party)
        own = self._holder(party)
        if own is None:
            names = ", ".join(str(h.party) for h in self.holders) or "nobody yet"
            raise ParameterError(f"{party} gets no shares; name one of those who do: {names}")
        arrived = {d.sender.index: self._read(own, d.payload) for d in received if d.phase == SHARE.name}
        return {client: share.astype(np.uint64) for client, share in arrived.items() if share is not None}

    def _read(self, holder: Holder, message: Payload | None) -> np.ndarray | None:
        """The share in a message to a holder; None if there is none."""
        if not isinstance(message, bytes) or len(message) != holder.message_bytes:
            return None
        try:
            return self.scheme.share(holder.place, message)
        except MessageError:
            return None

    def _holder(self, party: Party) -> Holder | None:
        return next((h for h in self.holders if h.party == party), None)

    def _need(self, parties: Sequence[Party]) -> None:
        """Ends the round where too few of the holders, or no server, are there."""
        gone = [str(p) for p in parties if not self.wire.is_alive(p)]
        needed = self._protocol.least(len(parties))
        if len(parties) - len(gone) < needed:
            if not gone:
                self.abort(f"{len(parties)} hold shares, below threshold={needed}; run the round again with more")
            wanted = "all are" if needed == len(parties) else f"threshold={needed} are"
            few = gone if len(gone) <= 8 else [*gone[:8], f"{len(gone) - 8} more"]
            self.abort(f"{' and '.join(few)} of {len(parties)} gone, and {wanted} needed; run the round again")
        if not self.wire.is_alive(SERVER):
            self.abort("the server is gone; run the round again")

    def _agree(self, there: Sequence[Holder]) -> None:
        cohort, private = self.opening.clients, self._protocol.encrypted
        for sender in there:
            roll = sender.roll(cohort)
            for receiver in there:
                if receiver is not sender:
                    arrived = self.wire.send(sender.party, receiver.party, roll, private=private)
                    receiver.called(cohort, sender.party, arrived)
        agreed = there[0].clients if there else set[int]()
        if len(agreed) < self._protocol.min_clients:
            self.abort(
                f"{len(agreed)} of {len(cohort)} clients finished, below min_clients="
                f"{self._protocol.min_clients}; the sum stays closed, run the round again with more clients"
            )
        self._clients = tuple(sorted(agreed))

    def _sum_of(self, sender: Party, message: Payload) -> np.ndarray:
        """What the server makes of a published sum."""
        wanted = self.scheme.share_bytes
        if not isinstance(message, bytes) or len(message) != wanted:
            raise MessageError(
                f"the server got {len(message)} bytes from {sender} in place of a sum of {wanted}; run the round again "
                "without it"
            )
        try:
            return self.scheme.unpack(message)
        except MessageError as e:
            raise MessageError(f"the server got no sum from {sender}: {e}; run the round again without it") from e

    def _told(self, receiver: Party, message: Payload) -> np.ndarray:
        """What a holder makes of the sum that the server tells it."""
        if not isinstance(message, bytes) or len(message) != self._form.vector_bytes:
            raise MessageError(
                f"{receiver} got {len(message)} bytes from the server in place of a sum of {self._form.vector_bytes}; "
                "run the round again"
            )
        found = self._form.unpack(message)
        if self._form.bits < 64 and int(found.max(initial=0)) >> self._form.bits:
            raise MessageError(
                f"{receiver} got {int(found.max())} from the server, which is no integer mod 2^{self._form.bits}; run "
                "the round again"
            )
        return found

    def _held(self, members: Collection[Party], heard: Sequence[Delivery]) -> dict[int, _Held]:
        """What was heard of each client's shares, without those of the members themselves."""
        by_party = {h.party: h for h in self.holders}
        found: dict[int, _Held] = {}
        for d in heard:
            if d.phase != SHARE.name or d.receiver not in by_party or d.sender in members:
                continue
            mine = found.setdefault(d.sender.index, _Held({}, []))
            mine.messages.append(d)
            holder = by_party[d.receiver]
            if isinstance(d.payload, bytes) and len(d.payload) == holder.message_bytes:
                mine.shares[holder.place] = d
        self._deduce_kept(members, heard, found)
        return found

    def _deduce_kept(self, members: Collection[Party], heard: Sequence[Delivery], found: dict[int, _Held]) -> None:
        """The share that a holder kept of its own contribution: its sum without all others' shares, if all are known.

        Only an eavesdropper on open channels knows them.
        """
        sums = {d.sender: d.payload for d in heard if d.phase == PUBLISH.name and d.receiver == SERVER}
        for holder in self.holders:
            own, total = holder.party.index, sums.get(holder.party)
            others = [c for c in self._clients if c != own]
            if holder.party.role != "client" or not isinstance(total, bytes) or own not in self._clients:
                continue
            if holder.party in members or own not in found:
                continue
            if not all(c in found and holder.place in found[c].shares for c in others):
                continue
            try:
                kept = self._sum_of(holder.party, total)
            except MessageError:
                continue
            for share in (self._share(holder, found[c]) for c in others):
                if share is None:
                    break
                kept = self.scheme.minus(kept, share)
            else:
                found[own].shares[holder.place] = kept

    def _share(self, holder: Holder, held: _Held) -> np.ndarray | None:
        share = held.shares[holder.place]
        return share if isinstance(share, np.ndarray) else self._read(holder, share.payload)

    def _opened(self, held: _Held) -> np.ndarray | None:
        if len(held.shares) < self.scheme.needed:  # before keys are expanded
            return None
        mine = {h.place: self._share(h, held) for h in self.holders if h.place in held.shares}
        shares = {place: share for place, share in mine.items() if share is not None}
        if len(shares) < self.scheme.needed:
            return None
        return self._likely(shares, 1)

    def _likely(self, shares: Mapping[int, np.ndarray], count: int) -> np.ndarray | None:
        """What shares, or sums of them, stand for to someone who does not stop at a lie; None if it cannot be told.

        With one more than it takes, each is left out in turn: what comes out without a true one is mostly larger than
        so many contributions add up to.
        """
        spare = len(shares) == self.scheme.needed + 1
        tries = [dict(shares), *({i: s for i, s in shares.items() if i != out} for out in (shares if spare else ()))]
        found: list[np.ndarray] = []
        for kept in tries:
            try:
                found.append(self.scheme.combined(kept, count)[0])
            except MessageError:
                continue
            if kept.keys() == shares.keys():
                break
        return found[0] if found and all(np.array_equal(f, found[0]) for f in found) else None

    def _sum_in(self, members: Collection[Party], heard: Sequence[Delivery]) -> np.ndarray | None:
        """The sum, of holders' sums that were published, or their own, or as the server has told it."""
        sums: dict[int, np.ndarray] = {}
        told: np.ndarray | None = None
        for d in heard:
            if d.phase != PUBLISH.name or d.payload is None:
                continue
            holder = self._holder(d.sender)
            try:
                if d.receiver == SERVER and holder is not None:
                    sums[holder.place] = self._sum_of(d.sender, d.payload)
                elif d.sender == SERVER:
                    told = self._told(d.receiver, d.payload)
            except MessageError:
                continue
        # Whoever has added up the shares that were agreed upon has that sum, whatever became of its message.
        for holder in self.holders if self._clients else ():
            if holder.party in members and holder.clients == set(self._clients):
                sums[holder.place] = self.scheme.unpack(holder.sum())
        if sums and len(sums) >= self.scheme.needed:
            total = self._likely(sums, len(self._clients))
            if total is not None:
                return total
        return None if told is None else told.astype(np.uint64)

    def _sums(self, members: set[Party], total: np.ndarray, payloads: tuple[Delivery, ...]) -> tuple[Sighting, ...]:
        """The sum, and what is left of it without the coalition's own contributions."""
        everyone = self._clients
        found = [Sighting(kind="sum", clients=everyone, value=total, payloads=payloads)]
        own = [c for c in everyone if client_party(c) in members]
        others = tuple(c for c in everyone if c not in own)
        if own and others:
            rest = total.copy()
            for c in own:
                np.subtract(rest, self._own_of(c), out=rest)
            rest = self._form.reduce(rest.astype(self._form.dtype)).astype(np.uint64)
            found.append(Sighting(kind="sum", clients=others, value=rest, payloads=payloads))
        return tuple(found)

    def _own_of(self, client: int) -> np.ndarray:
        self.wire.received(client_party(client))  # raises if it was not watched
        return self._own[client]
