"""Position: where an adversary stands, and what of a passage it sees there; plug-ins of the group `fedpriv.positions`.

A Passage is what went along the line in one round. A position turns it into what it sees (`Seen`), one a view.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from fedpriv.base.errors import CapabilityError, ParameterError, did_you_mean
from fedpriv.defense.parties import SERVER, Party, aggregator
from fedpriv.defense.wire import Delivery
from fedpriv.threat.exchange import Exchange, Letter, peer_name
from fedpriv.threat.written import Written

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

Kind = Literal["update", "sum", "released", "shares", "model"]


@dataclass(frozen=True, eq=False)
class Seen:
    """One thing that a position sees in a round; becomes a view.

    Attributes:
      clients: ids of the clients behind it; for the truth, never for the attack.
      kind: as in `View.kind`.
      observed: `[d]` in the model's precision; None for `shares` (payloads that tell nothing).
      payloads: the messages that parties of a protocol hold besides, or None.
      own: the client whose own examples the position holds, if it is among `clients`.
      held: clients whose examples the position holds besides, none of them among `clients`.
      pseudonym: what the position calls whoever sent it, or None where that is nobody in particular.
      visible: which coordinates it holds, bool `[d]`; the others are 0 in `observed`. None is all.
      members: what it calls the clients behind it, in the order of `clients`, where it can tell who they are and knows
        them again in other rounds; else None.
      weights: among peers, the model that `observed` is the difference to, `[d]`; None is what the server sent.
      letter: among peers, what it knows beside a model it was sent.
    """

    clients: tuple[int, ...]
    kind: Kind
    observed: np.ndarray | None
    payloads: tuple[Delivery, ...] | None = None
    own: int | None = None
    held: tuple[int, ...] = ()
    pseudonym: str | None = None
    visible: np.ndarray | None = None
    members: tuple[str, ...] | None = None
    weights: np.ndarray | None = None
    letter: Letter | None = None


@dataclass(frozen=True, eq=False)
class Passage:
    """What passed along the line in one round, for positions to take from.

    Attributes:
      round: from 0.
      clients: ids of the clients in the sum, in order; none if no client finished.
      chosen: those of them that the tap asks for.
      messages: each chosen client's update `[d]` as it left the client; None behind a protocol, which hides it.
      released: `[d]`, the mean as it moved the public model.
      seen_by: what some parties of the protocol, or someone on all its channels (`wire=True`), make of what passed.
    """

    round: int
    clients: tuple[int, ...]
    chosen: tuple[int, ...]
    messages: Mapping[int, np.ndarray] | None
    released: np.ndarray
    seen_by: Callable[..., list[Seen]]


class Position(Written):
    """Base of all positions."""

    #: Whether single clients' messages pass here, where nothing hides them; engines copy them out only then.
    sees_messages: ClassVar[bool] = False
    #: Whether it sees nothing but what is released, so that it exists under every engine and aggregator.
    sees_only_released: ClassVar[bool] = False
    #: Whether it exists where rounds have a server, and where peers exchange models without one.
    beside_server: ClassVar[bool] = True
    among_peers: ClassVar[bool] = False
    #: What it can change: `broadcast`, `model`, `procedure`.
    can_change: ClassVar[frozenset[str]] = frozenset()

    def who(self, acts: bool = False) -> str:
        """Who it is, as a sentence without its full stop; `acts` is whether it is malicious."""
        raise NotImplementedError

    def sees(self, passage: Passage) -> list[Seen]:
        """What it sees of one round."""
        raise NotImplementedError

    def overhears(self, exchange: Exchange) -> list[Seen]:
        """What it sees of one round among peers."""
        raise NotImplementedError

    def check(self, federation: Federation) -> None:
        """Raises CapabilityError where there is no such position in that federation."""

    #: Whether it listens to all channels of a protocol.
    on_the_wire: ClassVar[bool] = False

    def parties(self) -> tuple[Party, ...]:
        """Parties of a protocol that it is, whose messages are to be kept."""
        return ()

    def holds_data_of(self) -> tuple[int, ...]:
        """The clients whose own examples it has, by id; among peers, by their numbers."""
        return ()

    def own_clients(self) -> frozenset[int]:
        """The clients that are its own, by id, whose examples it need not look for."""
        return frozenset(self.holds_data_of())

    def names_members(self) -> bool:
        """Whether clients send to it under names that last, so that it knows who is in a sum."""
        return False


def _with_members(found: list[Seen]) -> list[Seen]:
    """What parties hold that clients send to under their names: they know who is in a sum."""
    return [replace(s, members=tuple(f"client {c}" for c in s.clients)) for s in found]


def _unlinked(passage: Passage, word: str, observed: np.ndarray) -> str:
    """A name for one message of one round; by content, since an order would tell who sent it."""
    return f"{word} {passage.round}.{hashlib.sha256(observed.tobytes()).hexdigest()[:8]}"


class Server(Position):
    """The server: all messages that reach it, or what a protocol leaves of them.

    Attributes:
      identified: whether clients connect under their own names, so that it knows them again in later rounds.
      sums: whether it is given sums besides, where a protocol shows it parts of single updates too; without, attacks
        and scores are about these alone.
    """

    name: ClassVar[str] = "server"
    sees_messages: ClassVar[bool] = True
    can_change: ClassVar[frozenset[str]] = frozenset({"broadcast", "model", "procedure"})

    identified: bool = True
    sums: bool = True

    def who(self, acts: bool = False) -> str:
        """In words."""
        rest = "" if self.identified else "; clients connect without a name, so it does not know them again"
        if acts:
            return f"A malicious server, which keeps what it receives and changes what it sends{rest}"
        return f"An honest-but-curious server, which follows the protocol and keeps what it receives{rest}"

    def sees(self, passage: Passage) -> list[Seen]:
        """Each client's message, or the sum alone, and who is in it."""
        if passage.messages is None:
            found = passage.seen_by(self.parties())
            parts = [s for s in found if s.visible is not None]
            found = parts if parts and not self.sums else found
            return _with_members(found) if self.names_members() else found
        found = []
        for client in passage.chosen:
            update = passage.messages[client]
            name = f"client {client}" if self.identified else _unlinked(passage, "message", update)
            members = (name,) if self.names_members() else None
            found.append(Seen((client,), "update", update, pseudonym=name, members=members))
        return found

    def names_members(self) -> bool:
        """Unless clients connect without a name."""
        return self.identified

    def parties(self) -> tuple[Party, ...]:
        """The server."""
        return (SERVER,)


def _numbers(value: Any) -> Any:
    try:
        members = [value] if isinstance(value, str | int) else list(value)
        return tuple(int(m) if isinstance(m, str) else operator.index(m) for m in members)
    except (TypeError, ValueError):
        raise ValueError("the coalition's members are numbers; write aggregators(0,1)") from None


def _peers(value: Any) -> Any:
    try:
        members = [value] if isinstance(value, str | int) else list(value)
        return tuple(int(m) if isinstance(m, str) else operator.index(m) for m in members)
    except (TypeError, ValueError):
        raise ValueError("peers are numbers; write neighbour(0) or neighbour(0,3)") from None


class Aggregators(Position):
    """A coalition of the secure-aggregation parties listed in `members`.

    Attributes:
      members: their numbers, from 0.
    """

    name: ClassVar[str] = "aggregators"
    bare: ClassVar[str] = "members"

    members: Annotated[tuple[int, ...], BeforeValidator(_numbers), Field(min_length=1)]

    def who(self, acts: bool = False) -> str:
        """In words."""
        return f"A coalition of the aggregators {list(self.members)}"

    def sees(self, passage: Passage) -> list[Seen]:
        """The members' shares and the published sum; every update, if they are all there are."""
        return _with_members(passage.seen_by(self.parties()))

    def check(self, federation: Federation) -> None:
        """Refuses parties that no protocol has."""
        protocol = federation.line.protocol
        if protocol is None:
            raise CapabilityError(
                "the adversary is a coalition of aggregators, but no defense in this federation has any; "
                "add secret_sharing, or tap as 'server'"
            )
        there = protocol.parties()
        missing = [i for i in self.members if aggregator(i) not in there]
        if missing:
            count = sum(p.role == "aggregator" for p in there)
            if not count:
                raise CapabilityError(
                    f"{protocol.name} has no aggregators: others take part in it; name them, such as "
                    "coalition(server,client 0)"
                )
            raise CapabilityError(
                f"aggregator {missing[0]} does not exist: {protocol.name} has {count}, numbered from 0"
            )

    def names_members(self) -> bool:
        """Clients send them shares."""
        return True

    def parties(self) -> tuple[Party, ...]:
        """The members."""
        return tuple(aggregator(i) for i in self.members)


def _named(value: Any) -> Any:
    if isinstance(value, str | Party):
        value = [value]
    try:
        return tuple(str(Party.parse(str(v))) for v in value)
    except ParameterError as e:
        raise ValueError(str(e)) from None


class Coalition(Position):
    """Parties of a protocol that pool what they receive: the server with some clients, key holders, and so on.

    Attributes:
      members: their names, such as `server`, `client 3`, `aggregator 0`, `key_holder 0`. Clients that are not in a
        round's cohort add nothing there.
    """

    name: ClassVar[str] = "coalition"
    bare: ClassVar[str] = "members"

    members: Annotated[tuple[str, ...], BeforeValidator(_named), Field(min_length=1)]

    def who(self, acts: bool = False) -> str:
        """In words."""
        return f"A coalition of {', '.join(self.members)}, who follow the protocol and pool what they receive"

    def sees(self, passage: Passage) -> list[Seen]:
        """What the protocol's messages to the members tell together, without the members' own contributions."""
        own = self.own_clients()
        seen = _with_members(passage.seen_by(self.parties()))
        found = [s for s in seen if set(s.clients) - own]
        others = [s for s in found if not set(s.clients) & own]
        return others or found

    def own_clients(self) -> frozenset[int]:
        """Its members among the clients."""
        return frozenset(p.index for p in self.parties() if p.role == "client")

    def check(self, federation: Federation) -> None:
        """Refuses parties that no protocol has, and clients beyond the population."""
        protocol = federation.line.protocol
        if protocol is None:
            raise CapabilityError(
                "the adversary is a coalition of a protocol's parties, but no defense in this federation is a "
                "protocol; add secret_sharing, or tap as 'server'"
            )
        there, population = protocol.parties(), len(federation.partition)
        for party in self.parties():
            if party.role == "client" and party.index >= population:
                raise CapabilityError(
                    f"the coalition has {party}, but there are {population} clients, numbered from 0; name one of them"
                )
            if party.role != "client" and party not in there:
                known = [*map(str, there), "client 0"]
                raise CapabilityError(f"{protocol.name} has no {party}.{did_you_mean(str(party), known)}")

    def names_members(self) -> bool:
        """Clients send them shares."""
        return True

    def parties(self) -> tuple[Party, ...]:
        """The members."""
        return tuple(map(Party.parse, self.members))


class Eavesdropper(Position):
    """The wire between client and server, or between all peers, when unencrypted.

    Attributes:
      persistent: whether connections last over rounds, so that a client's are known to be one's.
    """

    name: ClassVar[str] = "eavesdropper"
    sees_messages: ClassVar[bool] = True
    on_the_wire: ClassVar[bool] = True
    among_peers: ClassVar[bool] = True

    persistent: bool = False

    def who(self, acts: bool = False) -> str:
        """In words."""
        rest = ", where a client's connection lasts over rounds" if self.persistent else ""
        return f"An eavesdropper on the unencrypted wire between client and server, or among peers{rest}"

    def sees(self, passage: Passage) -> list[Seen]:
        """Each message; behind a protocol shares, whose sum it does not hold."""
        if passage.messages is None:
            return passage.seen_by((), wire=True)
        found = []
        for client in passage.chosen:
            update = passage.messages[client]
            name = f"connection {client}" if self.persistent else _unlinked(passage, "connection", update)
            members = (name,) if self.persistent else None
            found.append(Seen((client,), "update", update, pseudonym=name, members=members))
        return found

    def overhears(self, exchange: Exchange) -> list[Seen]:
        """Every peer's model; behind masks every receiver's sum, and the models that these determine together.

        Masks cancel in the sum of all messages to one receiver, which needs no secret. A connection is a peer's.
        """
        masked = {int(j): exchange.sums(int(j)) for j in np.unique(exchange.links[:, 1])}
        sums = {receiver: of for receiver, of in masked.items() if of}
        plain = {int(i) for i, j in exchange.links if masked[int(j)] is None}
        senders = plain | _determined(sums.values())
        found = [_letter(exchange, sender, None, {}, knows_links=True) for sender in sorted(senders)]
        return found + [_sum(exchange, None, of) for of in sums.values() if not senders >= of.keys()]


class Observer(Position):
    """Anyone who sees only the models the server releases, such as a later user."""

    name: ClassVar[str] = "observer"
    sees_only_released: ClassVar[bool] = True

    def who(self, acts: bool = False) -> str:
        """In words."""
        return "Anyone who sees only the models the server releases"

    def sees(self, passage: Passage) -> list[Seen]:
        """The released mean."""
        return [Seen(passage.clients, "released", passage.released)] if passage.clients else []


class OtherClient(Position):
    """Another client: the models the server releases, and its own examples, in rounds that it takes part in or not.

    What it looks for are the other clients' examples. Its own are in `View.own`; `simulate` adds them to what it is
    given, so that a replay is of the whole cohort.

    Attributes:
      number: its id, from 0.
    """

    name: ClassVar[str] = "client"
    bare: ClassVar[str] = "number"
    sees_only_released: ClassVar[bool] = True

    number: Annotated[int, Field(ge=0)]

    def who(self, acts: bool = False) -> str:
        """In words."""
        return f"Client {self.number}, which sees the models the server releases and has its own examples"

    def sees(self, passage: Passage) -> list[Seen]:
        """The released mean, unless nobody else is behind it."""
        if not set(passage.clients) - {self.number}:
            return []
        own = self.number if self.number in passage.clients else None
        return [Seen(passage.clients, "released", passage.released, own=own)]

    def check(self, federation: Federation) -> None:
        """Refuses a client beyond the population."""
        if self.number >= len(federation.partition):
            raise CapabilityError(
                f"the adversary is client {self.number}, but there are {len(federation.partition)} clients, numbered "
                "from 0"
            )

    def holds_data_of(self) -> tuple[int, ...]:
        """Its own."""
        return (self.number,)


class Neighbour(Position):
    """One peer, or several that pool what they hold: their own examples and models, and every model they were sent.

    What it looks for are the examples of those who send to it; its own are in `View.own`, one peer's after the other.
    Of the first round it knows where they began, since all begin with the same model, so that it holds their updates.
    Later it holds their models, as differences to its own.

    Attributes:
      peers: its numbers, from 0.
      since: rounds from the first in which it does not listen yet.
    """

    name: ClassVar[str] = "neighbour"
    bare: ClassVar[str] = "peers"
    sees_messages: ClassVar[bool] = True
    beside_server: ClassVar[bool] = False
    among_peers: ClassVar[bool] = True

    peers: Annotated[tuple[int, ...], BeforeValidator(_peers), Field(min_length=1)]
    since: Annotated[int, Field(ge=0)] = 0

    def who(self, acts: bool = False) -> str:
        """In words."""
        late = f", from round {self.since} on" if self.since else ""
        if len(self.peers) == 1:
            return (
                f"Peer {self.peers[0]}, which trains a model of its own on examples of its own, and keeps every model "
                f"that it is sent{late}"
            )
        return (
            f"Peers {', '.join(map(str, self.peers))}, which train models of their own on examples of their own, and "
            f"pool these and every model that they are sent{late}"
        )

    def holds_data_of(self) -> tuple[int, ...]:
        """Its own, by the peers' numbers; which clients they are, an exchange says: those of a trial change."""
        return self.peers

    def own_clients(self) -> frozenset[int]:
        """None by id; nobody behind what it was sent is its own."""
        return frozenset()

    def check(self, federation: Federation) -> None:
        """Refuses numbers beyond the peers."""
        there = getattr(federation.wiring, "peers", None) or len(federation.partition)
        strange = [p for p in self.peers if not 0 <= p < there]
        if strange:
            raise CapabilityError(
                f"the adversary is peer {strange[0]}, but there are {there} peers, numbered from 0; name one of them"
            )
        if len(set(self.peers)) == there:
            raise CapabilityError(
                f"the adversary is all {there} peers, so that nobody is left whose models it is sent; name fewer"
            )

    def overhears(self, exchange: Exchange) -> list[Seen]:
        """The models of those who sent to it; with masks, sums of them, and the models that these determine."""
        if exchange.number < self.since:
            return []
        ours = frozenset(self.peers)
        own = {peer_name(p): exchange.last(p) for p in self.peers}
        found, single, sums = list[Seen](), set[int](), dict[int, dict[int, float]]()
        for receiver in self.peers:
            of = exchange.sums(receiver)
            if of is None:
                single |= set(exchange.senders_to(frozenset({receiver}))) - ours
            elif others := {s: w for s, w in of.items() if s not in ours}:
                sums[receiver] = others
        single |= _determined(sums.values())
        found += [_sum(exchange, r, of) for r, of in sums.items() if not single >= of.keys()]
        for sender in sorted(single, reverse=True):
            to = [int(j) for i, j in exchange.links if int(i) == sender and int(j) in ours]
            receiver = next((r for r in to if _begun_alike(exchange, r, [sender])), to[0])
            found.insert(0, _letter(exchange, sender, receiver, own, knows_links=False))
        held = tuple(exchange.clients[p] for p in self.peers)  # who a peer is, the exchange says: peers of a trial
        return [replace(seen, held=held) for seen in found]

    def names_members(self) -> bool:
        """Peers send to it under their names."""
        return True


def _begun_alike(exchange: Exchange, receiver: int, senders: Iterable[int]) -> bool:
    """Whether a receiver knows where these began, since it began with the very same mean of the same models."""
    if not exchange.public or exchange.sent is not None or (own := exchange.origin(receiver)) is None:
        return False
    for sender in senders:
        other = exchange.origin(sender)
        if other is None or other.keys() != own.keys() or any(abs(other[k] - own[k]) > 1e-9 for k in own):
            return False
    return True


def _determined(sums: Iterable[Mapping[int, float]]) -> set[int]:
    """Whose models weighted sums of models determine together, by linear algebra; a sum over one model is that model.

    Singular values below 1e-4 of the largest are none: messages are in fixed point, and rounding would be magnified.
    """
    sums = list(sums)
    found = {next(iter(of)) for of in sums if len(of) == 1}
    senders = sorted({s for of in sums for s in of})
    if len(sums) < 2:
        return found
    places, rows = {s: k for k, s in enumerate(senders)}, np.zeros((len(sums), len(senders)))
    for row, of in zip(rows, sums, strict=True):
        for sender, weight in of.items():
            row[places[sender]] = weight
    _, sizes, right = np.linalg.svd(rows, full_matrices=False)
    shares = (right[sizes > 1e-4 * sizes[0]] ** 2).sum(0)
    return found | {s for s, share in zip(senders, shares, strict=True) if share > 1 - 1e-6}


def _letter(
    exchange: Exchange, sender: int, receiver: int | None, own: Mapping[str, np.ndarray], *, knows_links: bool
) -> Seen:
    """One peer's model, as a difference to where it began, if that is known, or to the receiver's own."""
    message, name = exchange.message(sender), peer_name(sender)
    known = exchange.public or knows_links
    sent = None if exchange.sent is None else exchange.sent(sender)
    letter = Letter(name, exchange.origin(sender) if known else None, exchange.last(sender).copy(), own, sent)
    kind: Kind = "model"
    if exchange.start is not None:
        base, kind = exchange.start, "update"
    elif receiver is None:  # the wire has no model of its own to compare with
        base = np.zeros_like(message)
    else:
        base = exchange.begun(receiver)
        if _begun_alike(exchange, receiver, [sender]):
            kind = "update"
    return Seen(
        (exchange.clients[sender],),
        kind,
        message - base,
        pseudonym=name,
        members=(name,),
        weights=base,
        letter=letter,
    )


def _sum(exchange: Exchange, receiver: int | None, weights: Mapping[int, float]) -> Seen:
    """The weighted mean of several peers' models; a mean of updates where all began alike and count alike."""
    total = sum(weights.values())
    mean = sum(w / total * exchange.message(s).astype(np.float64) for s, w in weights.items())
    began = exchange.start is not None
    if exchange.start is not None:
        base = exchange.start
    elif receiver is None:  # the wire has no model of its own to compare with
        base = np.zeros_like(exchange.message(next(iter(weights))))
    else:
        base, began = exchange.begun(receiver), _begun_alike(exchange, receiver, weights)
    alike = max(weights.values()) - min(weights.values()) < 1e-9
    observed = (mean - base).astype(base.dtype)
    members = tuple(peer_name(s) for s in weights)
    kind: Kind = "sum" if alike and began else "model"
    return Seen(tuple(exchange.clients[s] for s in weights), kind, observed, members=members, weights=base)
