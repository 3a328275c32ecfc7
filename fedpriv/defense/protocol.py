"""Protocol: a defense at the message station whose parties exchange messages in phases, and reveal a sum alone.

A protocol names its phases in order; in exactly one of them, the input phase, the clients contribute. One round of it
is a `Session`: `begin` runs what goes before, `submit` takes the contributions one by one as clients finish training
(so a cohort of 10,000 needs the memory of one), and `finish` runs the rest. Its messages are really made, sent over a
`Wire` and combined; who is there in which phase is decided by an `Attrition`; what a coalition of parties can make of
the messages is answered by the protocol itself (`Session.seen_by`). A round that cannot be finished ends in
`Aborted`: it costs a round, no sum comes out, and every party keeps only what had reached it.

Additive secret sharing has the input phase and one to publish the sum. Bonawitz et al. (2017) has the phases
`advertise`, `share_keys`, `masked_input` (input) and `unmask`: `exchange` runs the first two and the last, `submit`
masks. SecAgg+ (Bell et al., 2020) is the same with neighbours on a random graph in place of everybody, and threshold
encryption has `keys`, `encrypt` (input) and `decrypt`, where key holders are the parties that drop out.

Contributions are ring elements: a real vector is encoded by a link of its own before the protocol, a `Codec`.
"""

from __future__ import annotations

import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

from fedpriv.base.errors import MessageError, OverflowDetected, ParameterError, ProtocolError
from fedpriv.defense.attrition import Attrition, NoAttrition
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.domain import Domain, Ring
from fedpriv.defense.parties import SERVER, Party, Phase
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.stations import Defense, Plan, Station
from fedpriv.defense.wire import Delivery, Interference, Wire
from fedpriv.models.model import Model


@dataclass(frozen=True, eq=False, kw_only=True)
class Revealed:
    """A round that was finished.

    Attributes:
      total: the sum of the contributions in the ring, uint64 `[n]`.
      clients: ids of the clients in it, in ascending order.
    """

    total: np.ndarray
    clients: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of clients in the sum."""
        return len(self.clients)


@dataclass(frozen=True, kw_only=True)
class Aborted:
    """A round that could not be finished: no sum came out.

    Attributes:
      reason: why, and what to do about it.
      phase: name of the phase in which it ended.
    """

    reason: str
    phase: str


Outcome = Revealed | Aborted


@dataclass(frozen=True, eq=False, kw_only=True)
class Sighting:
    """One thing that a coalition can make of what its members received.

    Attributes:
      kind: `client`: one client's contribution, laid open; `sum`: the sum over these clients; `payloads`: messages
        that tell nothing of what is in them.
      clients: ids of the clients behind it, in ascending order.
      value: the contribution or the sum, in the ring, uint64 `[n]`; None for `payloads`.
      payloads: the messages of these clients that the coalition holds, where they are worth keeping.
      visible: which elements of `value` the coalition holds, bool `[n]`, where the others stay hidden and are 0; None
        is all. The client's weight, element d, is among them.
    """

    kind: Literal["client", "sum", "payloads"]
    clients: tuple[int, ...]
    value: np.ndarray | None = None
    payloads: tuple[Delivery, ...] = ()
    visible: np.ndarray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Opening:
    """What a session is opened for.

    Attributes:
      length: n, elements of a contribution: d values, the client's weight, and the tallies.
      clients: the cohort's ids.
      parties: everybody else who takes part.
      phases: the protocol's, in order.
      round: the round's number, from 0.
      seed: the run's seed. It is no secret: keys, shares and masks are not drawn from it.
      attrition: who drops out when.
      watched: whose received messages to remember; None is everybody's.
      wire: whether an eavesdropper listens.
      interference: what goes wrong with messages; None is nothing.
      model: the model's functions, which everybody knows; None where a round is opened without one.
      weights: the weights `[d]` that were broadcast, which everybody has; None likewise.
      tallies: t, elements of a contribution after its d values and its weight.
    """

    length: int
    clients: tuple[int, ...]
    parties: tuple[Party, ...]
    phases: tuple[Phase, ...]
    round: int
    seed: int
    attrition: Attrition = field(default_factory=NoAttrition)
    watched: frozenset[Party] | None = frozenset()
    wire: bool = False
    interference: Interference | None = None
    model: Model | None = None
    weights: np.ndarray | None = None
    tallies: int = 0


class _Abort(Exception):
    """Ends a round from within one of its phases."""


#: What ends a round instead of the program: the protocol's own word, or a message that is not what it should be.
_ENDS = (_Abort, MessageError)


class Session(ABC):
    """One round of a protocol, on the host: `begin`, then `submit` for every client that has trained, then `finish`.

    A protocol overrides `take` (a client's part in the input phase), `exchange` (all other phases), `total`,
    `seen_by` and, where the input phase may have to be called off, `ready`. `abort` ends the round from within them.

    A client that trains on another machine should send no plain contribution. Where what it sends is its contribution
    plus and minus keystreams, a protocol overrides `masks` and `take_masked` as well: then `deal` gives the client's
    keys before it trains, the client puts the masks on, and `submit_masked` takes what comes back. That is up to the
    engine; `submit` does the same with a plain contribution, and the messages are of the same kinds either way.

    Attributes:
      opening: what it was opened for.
      wire: what carries its messages; `wire.bytes(sender="client")` is what the clients have sent.
      present: the parties that are there in the phase that runs, clients first.
      outcome: how the round ended; None while it runs.
      seconds: by phase, what the work of all parties together took on this machine.
    """

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        everybody = (*map(client_party, opening.clients), *opening.parties)
        self.wire = Wire(everybody, opening.watched, tapped=opening.wire, interference=opening.interference)
        self.present: tuple[Party, ...] = everybody
        self.outcome: Outcome | None = None
        self.seconds: dict[str, float] = dict.fromkeys(self.phases, 0.0)
        self._members = frozenset(opening.clients)
        self._input = next(i for i, phase in enumerate(opening.phases) if phase.takes_input)
        self._now = -1
        self._submitted: set[int] = set()
        #: A watched client's own contribution: what it holds itself without receiving anything.
        self._own: dict[int, np.ndarray] = {}
        #: Clients that were dealt masks, and the masks of those that have not contributed since.
        self._dealt: dict[int, Dealt | None] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raises ProtocolError for a class that deals masks and does not take what is masked with them."""
        super().__init_subclass__(**kwargs)
        if cls.masks is not Session.masks and cls.take_masked is Session.take_masked:
            raise ProtocolError(f"{cls.__name__} overrides 'masks', but not 'take_masked', which takes what comes back")

    @property
    def phases(self) -> tuple[str, ...]:
        """The names of the protocol's phases, in order."""
        return tuple(phase.name for phase in self.opening.phases)

    @property
    def submitted(self) -> tuple[int, ...]:
        """Ids of the clients that contributed so far, in ascending order."""
        return tuple(sorted(self._submitted))

    def there(self, role: str) -> tuple[Party, ...]:
        """The parties of a role that are there in the phase that runs, in order."""
        return tuple(sorted(p for p in self.present if p.role == role))

    def begin(self, alive: Collection[int] | None = None) -> tuple[int, ...]:
        """Runs the phases before the input phase, and opens that.

        Args:
          alive: ids of the clients that turn up at all; None is all the session was opened for.

        Returns:
          Ids of the clients that are there to contribute; none if the round has ended already.

        Raises:
          ProtocolError: it has begun before, or `alive` names a stranger.
        """
        if self._now >= 0:
            raise ProtocolError("the round has begun already; open a session for each round")
        if alive is not None:
            strangers = {int(c) for c in alive} - self._members
            if strangers:
                raise ProtocolError(_stranger(min(strangers)))
            turned_up = {int(c) for c in alive}
            self.present = tuple(p for p in self.present if p.role != "client" or p.index in turned_up)
        self._run(range(self._input + 1))
        return () if self.outcome else tuple(p.index for p in self.there("client"))

    def submit(self, client: int, encoded: np.ndarray) -> bool:
        """Takes one client's contribution through the messages of the input phase.

        Args:
          client: its id.
          encoded: ring elements, uint64 `[n]`; only read.

        Returns:
          Whether it was sent: not if the client is gone by now, or the round has been aborted.

        Raises:
          ProtocolError: the input phase is not open, the client is not in this round, was dealt masks or has
            contributed before, or the vector is of the wrong kind.
        """
        client = int(client)
        if client in self._dealt:
            raise ProtocolError(f"client {client} was dealt masks; submit what they are on by submit_masked")
        if not self._admits(client, encoded):
            return False
        if self.wire.is_watched(client_party(client)):
            self._own[client] = encoded.copy()
        return self._takes(client, lambda: self.take(client, encoded))

    def deal(self, client: int) -> Dealt | None:
        """The masks that `client` puts on its contribution, which is then submitted by `submit_masked`.

        Returns:
          They; None, for every client, where the protocol's messages are not made that way: then `submit` it. None
          also where the round has been aborted.

        Raises:
          ProtocolError: the input phase is not open, the client is not in this round, was dealt masks before, or has
            contributed.
        """
        client = int(client)
        if client not in self._members:
            raise ProtocolError(_stranger(client))
        if self._now != self._input or isinstance(self.outcome, Revealed):
            raise ProtocolError(f"client {client} is to be dealt masks, but the input phase is not open")
        if client in self._dealt or client in self._submitted:
            raise ProtocolError(f"client {client} has its masks already, or has contributed; each mask is used once")
        if self.outcome:
            return None
        try:
            with self._timed():
                dealt = self.masks(client)
        except _ENDS as abort:
            self._end(abort)
            return None
        if dealt is not None:
            self._dealt[client] = dealt
        return dealt

    def submit_masked(self, client: int, masked: np.ndarray) -> bool:
        """Takes one client's contribution with the masks on it that it was dealt.

        What a watched client contributed is found by taking them off again, as that client itself could.

        Args:
          client: its id.
          masked: ring elements, uint64 `[n]`; only read.

        Returns:
          As `submit`.

        Raises:
          ProtocolError: as `submit`; or the client was dealt none, or the vector is not of the masks' ring.
        """
        client = int(client)
        if not self._admits(client, masked):
            return False
        dealt = self._dealt.get(client)
        if dealt is None:
            raise ProtocolError(f"client {client} was dealt no masks; call deal first, or submit its contribution")
        self.check_ring(client, masked, dealt.bits)
        if self.wire.is_watched(client_party(client)):
            self._own[client] = dealt.unmask(masked)
        taken = self._takes(client, lambda: self.take_masked(client, masked, dealt))
        if taken:
            self._dealt[client] = None
        return taken

    def finish(self) -> Outcome:
        """Ends the input phase, in which whoever has not contributed is gone, and runs the rest of the round.

        Returns:
          The sum, or why there is none; the same when called again.

        Raises:
          ProtocolError: the round has not begun.
        """
        if self._now < 0:
            raise ProtocolError("the round has not begun; call begin first")
        if self.outcome is None:
            self.present = tuple(p for p in self.present if p.role != "client" or p.index in self._submitted)
            self._run(range(self._input + 1, len(self.phases)))
        if self.outcome is None:
            try:
                with self._timed():
                    total, clients = self.total()
                self.outcome = Revealed(total=total, clients=tuple(sorted(clients)))
            except _ENDS as abort:
                self._end(abort)
        assert self.outcome is not None
        return self.outcome

    def call_off(self, reason: str) -> None:
        """Ends the round from outside, over something that is no message of the protocol; nothing if it has ended."""
        if self.outcome is None:
            self._end(_Abort(reason))

    def check_ring(self, client: int, encoded: np.ndarray, bits: int) -> None:
        """Raises ProtocolError if a contribution, uint64 `[n]`, has elements beyond the integers mod 2^bits."""
        largest = int(encoded.max(initial=0)) if bits < 64 else 0
        if largest >> bits:
            raise ProtocolError(
                f"client {client} contributes {largest}, which is no integer mod 2^{bits}; give the codec and the "
                "protocol the same bits"
            )

    def abort(self, reason: str) -> NoReturn:
        """Ends the round without a result; does not return. Only for use in the methods that a protocol overrides."""
        raise _Abort(reason)

    def ready(self) -> None:  # noqa: B027
        """Checks, as the input phase begins, whether enough parties are there for it; default nothing."""

    @abstractmethod
    def take(self, client: int, encoded: np.ndarray) -> None:
        """Makes and sends what `client` contributes, uint64 `[n]`; it is there, and contributes once."""

    def masks(self, client: int) -> Dealt | None:
        """What `deal` gives: all masks that `client` adds and subtracts, on its whole contribution and of one ring in
        all the session; by default None. The client is in the round, and is dealt masks once.
        """
        return None

    def take_masked(self, client: int, masked: np.ndarray, dealt: Dealt) -> None:
        """As `take`, for a contribution, uint64 `[n]`, that has the masks on it which `client` was dealt."""
        raise NotImplementedError

    @abstractmethod
    def exchange(self, phase: Phase) -> None:
        """Makes and sends all messages of a phase other than the input phase, among those who are there."""

    @abstractmethod
    def total(self) -> tuple[np.ndarray, Collection[int]]:
        """The sum that the server gets, uint64 `[n]`, and the ids of the clients in it."""

    @abstractmethod
    def seen_by(self, coalition: Collection[Party], *, wire: bool = False) -> tuple[Sighting, ...]:
        """What some parties can make of what they received, if they pool it, so far in this round.

        Args:
          coalition: parties that follow the protocol and keep what they see; none but an eavesdropper if empty.
          wire: whether they listen to all channels as well.

        Returns:
          Every contribution that they can lay open; else the sums that they hold, with their messages; else only the
          messages, if they have any.

        Raises:
          ParameterError: one of them is not in the round.
          ProtocolError: one of them, or the wire, was not watched.
        """

    def _admits(self, client: int, vector: np.ndarray) -> bool:
        """Whether a client's vector can be sent; raises ProtocolError as `submit`."""
        if client not in self._members:
            raise ProtocolError(_stranger(client))
        n = self.opening.length
        if not isinstance(vector, np.ndarray):
            raise ProtocolError(
                f"client {client} contributes a {type(vector).__name__} instead of a numpy array, uint64[{n}]; encode "
                "it for this protocol and this model"
            )
        if vector.shape != (n,) or vector.dtype != np.uint64:
            raise ProtocolError(
                f"client {client} contributes {vector.dtype}{list(vector.shape)} instead of uint64[{n}]; encode it "
                "for this protocol and this model"
            )
        if isinstance(self.outcome, Aborted):
            return False
        if self._now != self._input or self.outcome:
            when = "is over" if self._now >= self._input else "has not begun; call begin first"
            raise ProtocolError(f"client {client} contributes, but the input phase {when}")
        if client in self._submitted:
            raise ProtocolError(f"client {client} contributes a second time; each does once")
        return self.wire.is_alive(client_party(client))

    def _takes(self, client: int, take: Callable[[], None]) -> bool:
        try:
            with self._timed():
                take()
        except _ENDS as abort:
            self._end(abort)
            return False
        self._submitted.add(client)
        return True

    def _enter(self, number: int) -> None:
        self._now, phase, rule = number, self.opening.phases[number], self.opening.attrition
        alive = set(rule.alive(phase, self.present, self.opening.round, self.opening.seed))
        strangers = alive - set(self.present)
        if strangers:
            raise ParameterError(
                f"attrition '{rule.name}' says that {min(strangers)} is there in phase '{phase}', where "
                "it was gone or never was; return some of the parties it is given"
            )
        self.present = tuple(p for p in self.present if p in alive)
        self.wire.enter(phase.name, self.present)

    def _run(self, numbers: range) -> None:
        for number in numbers:
            if self.outcome is not None:
                return
            self._enter(number)
            try:
                with self._timed():
                    if number == self._input:
                        self.ready()
                    else:
                        self.exchange(self.opening.phases[number])
            except _ENDS as abort:
                self._end(abort)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[self.phases[self._now]] += time.perf_counter() - began

    def _end(self, abort: Exception) -> None:
        self.outcome = Aborted(reason=str(abort), phase=self.phases[self._now])


def _whole(value: Any, what: str, end: int) -> int:
    """A whole number from 0 to below `end`, as messages hold it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ProtocolError(f"{what} {value!r} is no whole number; give one from 0 to below {end}") from None
    if not 0 <= number < end:
        raise ProtocolError(f"{what} {number} does not fit a message; give one from 0 to below {end}")
    return number


def _stranger(client: int) -> str:
    return f"client {client} is not in this round; open the session with it"


class Protocol(Defense):
    """A defense whose messages reveal only a sum of the contributions. Override `session` and `parties`.

    A contribution has n = d + 1 + t elements: the update times the client's weight, that weight, and t tallies (small
    values that are summed with it), all encoded by the codec before it.
    """

    takes: ClassVar[Domain] = Ring()
    replayable: ClassVar[bool] = False
    #: Whether it shows the sum of the signed integers that ring elements stand for, not only what it is modulo 2^b.
    reveals_integers: ClassVar[bool] = False
    #: Whether a sum may be beyond what one element can be, as modulo 2^b.
    wraps: ClassVar[bool] = True
    #: Names of the phases, in order.
    phases: ClassVar[tuple[str, ...]] = ()
    #: The one in which clients contribute.
    input_phase: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raises ProtocolError for a class whose phases cannot be run."""
        super().__pydantic_init_subclass__(**kwargs)
        if len(set(cls.phases)) < len(cls.phases) or "input" in cls.phases:
            raise ProtocolError(f"{cls.__name__}.phases={cls.phases}: names must differ, and none may be 'input'")
        if cls.phases and cls.input_phase not in cls.phases:
            raise ProtocolError(f"{cls.__name__}.input_phase='{cls.input_phase}' is none of its phases {cls.phases}")

    def acts_at(self, station: Station) -> bool:
        """At the message station, besides those that it overrides."""
        return station is Station.MESSAGE or super().acts_at(station)

    def parties(self) -> tuple[Party, ...]:
        """Who takes part besides the clients, and could be corrupted."""
        return (SERVER,)

    def settled(self, given: Domain, plan: Plan, speaker: str) -> Defense:
        """With the bits of the ring that arrives, for a protocol whose parameter `bits` is None."""
        if isinstance(given, Ring) and getattr(self, "bits", given) is None:
            return self.with_(bits=given.modulus_bits)
        return self

    def ring_bits(self) -> int:
        """Its parameter `bits`, where that is known by now.

        Raises:
          ParameterError: it is None, and no codec before it has settled it.
        """
        bits = getattr(self, "bits", None)
        if bits is None:
            raise ParameterError(
                f"{self.name}: bits=none takes the ring of the codec before it, and there is none here; give bits"
            )
        return int(bits)

    @property
    def least_clients(self) -> int:
        """A round of fewer clients is aborted, which tells that there were fewer; by default `min_clients`, or 1."""
        return int(getattr(self, "min_clients", 1))

    @property
    def hides_everything(self) -> bool:
        """Whether the server sees nothing of a contribution but the sum; by default so."""
        return True

    def check(self, plan: Plan) -> None:
        """See `check_as`."""
        self.check_as(plan)

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """Raises StackError where this protocol cannot run in that federation; default never.

        Args:
          plan: the federation's facts.
          speaker: the defense in whose name to say so, where users know the protocol as a part of it; by default
            this one.
        """

    @abstractmethod
    def session(self, opening: Opening) -> Session:
        """A round, not yet begun, that has been checked by `open`."""

    def check_attrition(self, attrition: Attrition) -> None:
        """Raises ParameterError if it names a phase or a party that this protocol does not have."""
        attrition.check(self._phases(), self.parties())

    def open(
        self,
        plan: Plan,
        clients: Sequence[int],
        *,
        round: int,
        seed: int,
        attrition: Attrition | None = None,
        watched: Collection[Party] | None = (),
        wire: bool = False,
        tallies: int = 0,
        interference: Interference | None = None,
        model: Model | None = None,
        weights: np.ndarray | None = None,
    ) -> Session:
        """Makes the session of one round.

        Args:
          plan: the federation's facts.
          clients: the cohort's ids.
          round: the round's number, from 0.
          seed: the run's seed.
          attrition: who drops out when; None is nobody.
          watched: parties whose received messages to remember; None is everybody's.
          wire: whether to remember what an eavesdropper hears.
          tallies: t, elements of a contribution after its d values and its weight.
          interference: what goes wrong with messages; None is nothing.
          model: the model's functions, for a protocol that chooses what to hide by what is public.
          weights: the broadcast weights `[d]`, likewise.

        Raises:
          OverflowDetected: more clients than the largest cohort of the plan, for which the encoding has room.
          ParameterError: a watched party that does not exist, or an attrition for another protocol.
          ProtocolError: a client is named twice.
        """
        ids = tuple(_whole(c, "client", 1 << 32) for c in clients)
        _whole(round, "round", 1 << 63)
        if tallies < 0:
            raise ProtocolError(f"tallies={tallies} is no number of tallies; give 0 or more")
        if len(set(ids)) < len(ids):
            twice = next(c for i, c in enumerate(ids) if c in ids[:i])
            raise ProtocolError(f"client {twice} is named twice in one round; each takes part once")
        if len(ids) > plan.cohort:
            raise OverflowDetected(
                f"a round of {self.name or type(self).__name__} is opened for {len(ids)} clients, but only a sum over "
                f"{plan.cohort}, the plan's largest cohort, is known to fit; sample fewer clients, or plan with a "
                "larger cohort"
            )
        attrition = attrition or NoAttrition()
        self.check_attrition(attrition)
        return self.session(
            Opening(
                length=plan.spec.size + 1 + tallies,
                clients=ids,
                parties=self.parties(),
                phases=self._phases(),
                round=round,
                seed=seed,
                attrition=attrition,
                watched=None if watched is None else frozenset(watched),
                wire=wire,
                interference=interference,
                model=model,
                weights=weights,
                tallies=tallies,
            )
        )

    def replay(self) -> Defense | None:
        """Nothing to replay: what comes out is the sum of what went in."""
        return None

    def _phases(self) -> tuple[Phase, ...]:
        return tuple(Phase(name, name == self.input_phase) for name in self.phases)
