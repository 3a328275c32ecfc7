"""Wire: carries a protocol's messages from party to party, counts their bytes, and remembers what watched ones saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from fedpriv.base.errors import MessageError, ParameterError, ProtocolError, did_you_mean
from fedpriv.defense.channel import Channel
from fedpriv.defense.parties import Party

Payload = bytes | np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Delivery:
    """One message that arrived.

    Attributes:
      phase: in which it was sent.
      sender: who sent it.
      receiver: who got it.
      size: its bytes on the wire.
      private: whether only the receiver could read it.
      payload: what it said; None for whoever cannot read it.
    """

    phase: str
    sender: Party
    receiver: Party
    size: int
    private: bool
    payload: Payload | None

    def described(self) -> str:
        """What it is, for a message to people."""
        return f"the message of {self.sender} to {self.receiver} in phase '{self.phase}'"


#: Changes a payload: given the message, returns what takes its place, or None if it never arrives.
Meddling = Callable[[Delivery], Payload | None]


@dataclass(frozen=True, kw_only=True)
class Interference:
    """What goes wrong with the messages of a round; for tests, and for whoever studies faults.

    Attributes:
      by_sender: what a party sends in place of what the protocol tells it to; it lies, and its channel carries that.
      in_transit: what an attacker on the channel makes of a message. It gets and returns the frame on the wire, bytes:
        a counter, and the payload encrypted and authenticated under the channel's key, so that a change, a message of
        another channel and one that was sent before are all recognized.
    """

    by_sender: Meddling | None = None
    in_transit: Meddling | None = None


class Wire:
    """The channels between the parties of one round.

    Every channel is authenticated: nobody can send in another's name, change a message, or send it again. A private
    one is encrypted besides, so that an eavesdropper learns of its messages that they passed, and their size. What
    encryption adds to a message (counter and tag) is not counted, and the encryption itself is only carried out where
    somebody interferes: it changes nothing otherwise.

    Args:
      parties: everybody in the round.
      watched: whose received messages to remember; None is everybody's. Nothing else is kept, so memory does not
        grow with the number of messages.
      tapped: whether an eavesdropper listens: then of every message it is remembered what the channel shows.
      interference: what goes wrong with messages; None is nothing.

    Raises:
      ParameterError: somebody is watched who is not in the round.
    """

    def __init__(
        self,
        parties: Iterable[Party],
        watched: Collection[Party] | None = (),
        *,
        tapped: bool = False,
        interference: Interference | None = None,
    ) -> None:
        self._parties = frozenset(parties)
        self._watched = self._parties if watched is None else frozenset(watched)
        self.require(self._watched)
        self.tapped = tapped
        self.interference = interference or Interference()
        self._channels: dict[tuple[Party, Party], Channel] = {}
        self.phase = ""
        self._alive: frozenset[Party] = frozenset()
        self._bytes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._received: dict[Party, list[Delivery]] = {p: [] for p in self._watched}
        self._overheard: list[Delivery] = []

    def has(self, party: Party) -> bool:
        """Whether `party` is in the round."""
        return party in self._parties

    def require(self, parties: Iterable[Party]) -> None:
        """Raises ParameterError if one of `parties` is not in the round; names the nearest that is."""
        for party in parties:
            if not isinstance(party, Party):
                raise ParameterError(f"{party!r} is no party; write e.g. Party.parse('{party}')")
            if party not in self._parties:
                others = {str(p) for p in self._parties if p.role != "client" or party.role == "client"}
                raise ParameterError(f"there is no {party} in this round.{did_you_mean(str(party), _few(others))}")

    def enter(self, phase: str, alive: Iterable[Party]) -> None:
        """Begins a phase in which only `alive` send and receive.

        Raises:
          ProtocolError: one of them is not in the round, or was gone before.
        """
        living = frozenset(alive)
        back = living - (self._alive if self.phase else self._parties)
        if back:
            why = "was gone before" if min(back) in self._parties else "is not in this round"
            raise ProtocolError(f"{min(back)} cannot be alive in phase '{phase}': it {why}")
        self.phase, self._alive = phase, living

    def is_alive(self, party: Party) -> bool:
        """Whether `party` sends and receives in this phase."""
        return party in self._alive

    def is_watched(self, party: Party) -> bool:
        """Whether what `party` receives is remembered."""
        return party in self._watched

    def send(
        self,
        sender: Party,
        receiver: Party,
        payload: Payload,
        *,
        bits: int | None = None,
        private: bool = True,
        keep: bool = True,
    ) -> Payload:
        """Carries one message.

        Args:
          sender: from whom.
          receiver: to whom.
          payload: bytes, or an array.
          bits: bits each element of an array takes; they lie one after another, and the last byte is filled up.
          private: whether the channel is encrypted.
          keep: whether a watched receiver keeps what it says; without, it only keeps that it came.

        Returns:
          What the receiver gets. It must use this, not what was handed in.

        Raises:
          ProtocolError: no phase has begun, one of the two is not in the round or not alive, or an array comes
            without the width of its elements.
          MessageError: what arrives is not what was sent, or nothing arrives.
        """
        for party in (sender, receiver):
            if party not in self._alive:
                raise ProtocolError(self._refusal(party))
        size = _size(payload, bits)
        if self.interference.by_sender or self.interference.in_transit:
            sent = Delivery(
                phase=self.phase, sender=sender, receiver=receiver, size=size, private=private, payload=payload
            )
            payload = self._meddled(sent)
            size = _size(payload, bits)
        self._bytes[self.phase, sender.role, receiver.role] += size
        watched = receiver in self._watched
        if not watched and not self.tapped:
            return payload
        arrived = Delivery(
            phase=self.phase,
            sender=sender,
            receiver=receiver,
            size=size,
            private=private,
            payload=_kept(payload) if keep and (watched or not private) else None,
        )
        if watched:
            self._received[receiver].append(arrived)
        if self.tapped:
            self._overheard.append(replace(arrived, payload=None) if private else arrived)
        return payload

    def _meddled(self, sent: Delivery) -> Payload:
        """What becomes of a message where somebody interferes."""
        payload, lie = sent.payload, self.interference.by_sender
        assert payload is not None
        if lie is not None:
            told = lie(sent)
            if told is None:
                raise MessageError(f"{sent.described()} never came; run the round again without {sent.sender}")
            payload = told
        change = self.interference.in_transit
        if change is None:
            return payload
        channel = self._channels.setdefault((sent.sender, sent.receiver), Channel())
        plain = payload if isinstance(payload, bytes) else payload.tobytes()
        frame = change(replace(sent, payload=channel.seal(plain)))
        if not isinstance(frame, bytes):
            raise MessageError(f"{sent.described()} was lost on the way; run the round again")
        if (opened := channel.open(frame)) is None:
            raise MessageError(
                f"{sent.described()} was changed on the way, or sent a second time: its tag does not fit; run the "
                "round again on channels that nobody meddles with"
            )
        if isinstance(payload, bytes):
            return opened
        return np.frombuffer(opened, payload.dtype).reshape(payload.shape)

    def bytes(self, *, sender: str | None = None, receiver: str | None = None, phase: str | None = None) -> int:
        """Bytes of the messages so far, of those from a role, to a role, or in a phase where these are given."""
        wanted = (phase, sender, receiver)
        return sum(n for key, n in self._bytes.items() if all(w in (None, k) for w, k in zip(wanted, key)))

    def traffic(self) -> dict[tuple[str, str, str], int]:
        """Bytes by (phase, sender's role, receiver's role), in the order they were first sent."""
        return dict(self._bytes)

    def received(self, party: Party) -> tuple[Delivery, ...]:
        """The messages that `party` got, in order.

        Raises:
          ParameterError: it is not in the round.
          ProtocolError: it is not watched, so nothing of it is known.
        """
        self.require([party])
        if party not in self._watched:
            raise ProtocolError(f"{party} was not watched in this round; open it with watched=[{party!r}]")
        return tuple(self._received[party])

    def overheard(self) -> tuple[Delivery, ...]:
        """What an eavesdropper on all channels holds, in order: of private messages only that they passed.

        Raises:
          ProtocolError: nobody listened.
        """
        if not self.tapped:
            raise ProtocolError("the wire was not tapped in this round; open it with wire=True")
        return tuple(self._overheard)

    def _refusal(self, party: Party) -> str:
        if not self.phase:
            return f"{party} cannot send or receive before a phase has begun; call enter first"
        why = "is gone" if party in self._parties else "is not in this round"
        return f"{party} cannot send or receive in phase '{self.phase}': it {why}"


def _size(payload: Payload, bits: int | None) -> int:
    if isinstance(payload, bytes):
        return len(payload)
    if not isinstance(payload, np.ndarray):
        raise ProtocolError(f"a message is bytes or a numpy array, not a {type(payload).__name__}")
    if bits is None or bits < 1:
        raise ProtocolError(f"an array is sent with the width of its elements, not bits={bits}; give 1 or more")
    return -(-payload.size * bits // 8)


def _kept(payload: Payload) -> Payload:
    if isinstance(payload, bytes):
        return payload
    copy = payload.copy()
    copy.flags.writeable = False
    return copy


def _few(names: Collection[str], most: int = 12) -> list[str]:
    """Names enough for a message; a cohort may have thousands."""
    return sorted(names, key=lambda n: (len(n), n))[:most]
