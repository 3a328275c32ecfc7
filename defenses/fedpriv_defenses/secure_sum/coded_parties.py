"""The parties of coded masking: what a client and the server hold in a round, and make of messages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import MessageError
from fedpriv.defense.protocol import Opening
from fedpriv.defense.wire import Payload
from fedpriv_defenses.secure_sum.counting import exact
from fedpriv_defenses.secure_sum.field import PrimeField
from fedpriv_defenses.secure_sum.mask_code import MaskCode
from fedpriv_defenses.secure_sum.sealing import PUBLIC_BYTES, TAG_BYTES, KeyPair, Pair

#: Bytes of a client's id, and of its number in the round, on the wire.
ID_BYTES, NUMBER_BYTES = 8, 4
_SEED_BYTES = 32


@dataclass(frozen=True)
class Thresholds:
    """How T and U follow from the number of clients.

    Attributes:
      colluders, dropouts: counts, or shares below 1, which are rounded down.
    """

    colluders: float
    dropouts: float

    def of(self, clients: int) -> tuple[int, int]:
        """(T, U) of a round of that many clients; it can be run if T < U."""
        return _count(self.colluders, clients), clients - _count(self.dropouts, clients)

    def refusal(self, clients: int) -> str:
        """Why a round of that many cannot be run."""
        t, u = self.of(clients)
        return (
            f"of {clients} clients, colluders={self.colluders:g} is T={t} and dropouts={self.dropouts:g} leaves U={u}, "
            "but T < U is needed; lower one of them, or run the round with more clients"
        )


def _count(value: float, clients: int) -> int:
    return int(value) if value >= 1 else int(exact(value) * clients)


class Round:
    """What everybody knows of a round once keys are exchanged.

    Attributes:
      roster: ids of the clients that have advertised, in ascending order; a client's number is its place here.
      keys: their public keys.
      code: how masks are coded.
      bits: b, of the ring.
      length: n, elements of a contribution.
    """

    def __init__(self, thresholds: Thresholds, bits: int, field: PrimeField, opening: Opening, book: Payload) -> None:
        entry = ID_BYTES + PUBLIC_BYTES
        if not isinstance(book, bytes) or not book or len(book) % entry:
            raise MessageError("the book of keys is cut short; run the round again")
        rows = [book[i : i + entry] for i in range(0, len(book), entry)]
        self.roster = tuple(int.from_bytes(row[:ID_BYTES], "little", signed=True) for row in rows)
        self.keys = tuple(row[ID_BYTES:] for row in rows)
        if list(self.roster) != sorted(set(self.roster)) or not set(self.roster) <= set(opening.clients):
            raise MessageError("the book of keys names strangers, or a client twice; run the round again")
        if len(set(self.keys)) < len(self.keys):
            raise MessageError("the book of keys has one key for two clients; run the round again")
        self.bits, self.length = bits, opening.length
        t, u = thresholds.of(len(self.roster))
        if t >= u:
            raise MessageError(thresholds.refusal(len(self.roster)))
        self.code = MaskCode(field, opening.length, len(self.roster), t, u)
        self.number = {c: i for i, c in enumerate(self.roster)}
        facts = (opening.round, opening.length, bits, field.exponent, t, u)
        self.context = b"fedpriv coded masking" + hashlib.sha256(repr(facts).encode() + book).digest()

    @property
    def field(self) -> PrimeField:
        """Where it happens."""
        return self.code.field

    @property
    def piece_bytes(self) -> int:
        """Bytes of a piece."""
        return self.code.width * self.field.width

    @property
    def roll_bytes(self) -> int:
        """Bytes that say who has sent, a bit for each client."""
        return -(-len(self.roster) // 8)

    def roll(self, clients: Collection[int]) -> bytes:
        """Who of the roster is among `clients`."""
        return np.packbits([c in clients for c in self.roster]).tobytes()

    def numbers(self, roll: bytes) -> list[int]:
        """The numbers that a roll names."""
        return [int(i) for i in np.flatnonzero(np.unpackbits(np.frombuffer(roll, np.uint8)))]

    @property
    def bundle_bytes(self) -> int:
        """Bytes of a client's pieces for all others, sealed."""
        return (len(self.roster) - 1) * (self.piece_bytes + TAG_BYTES)

    def message(self, bundle: bytes, sender: int, receiver: int) -> bytes:
        """Out of a client's bundle the message with the piece for another; both by number."""
        place, size = receiver - (receiver > sender), self.piece_bytes + TAG_BYTES
        return sender.to_bytes(NUMBER_BYTES, "little") + bundle[place * size : (place + 1) * size]


def book_of(keys: dict[int, bytes]) -> bytes:
    """What the server sends to all: ids with their public keys, in ascending order."""
    return b"".join(c.to_bytes(ID_BYTES, "little", signed=True) + keys[c] for c in sorted(keys))


class CodedClient:
    """One client: its keys, its mask, and its pieces of the others' masks.

    It enters a round, shares a mask, sends what is under it, and answers, each once and in that order: a second mask
    would be sealed with the keys of the first, two vectors under one mask tell their difference, and so do two sums.

    Attributes:
      id: in the federation.
      keys: of this round.
    """

    def __init__(self, client: int) -> None:
        self.id, self.keys = client, KeyPair()
        self._seed = b""
        self._round: Round | None = None
        self._pairs: dict[int, Pair] = {}
        self._held: np.ndarray | None = None
        self._has: set[int] = set()
        self._shared = self._sent = self._answered = False

    @property
    def round(self) -> Round:
        """What it knows since keys were exchanged."""
        assert self._round is not None
        return self._round

    @property
    def number(self) -> int:
        """Its place in the roster."""
        return self.round.number[self.id]

    def enter(self, agreed: Round) -> None:
        """Takes the others' keys.

        Raises:
          MessageError: its own is not among them, or it has entered a round before.
        """
        if self._round is not None:
            raise MessageError(f"client {self.id} is asked to enter a second round; its keys are for one")
        own = agreed.number.get(self.id)
        if own is None or agreed.keys[own] != self.keys.public:
            raise MessageError(f"the book of keys has not the key of client {self.id}; run the round again")
        self._round = agreed

    def pair(self, other: int) -> Pair:
        """The keys shared with another, by number.

        Raises:
          MessageError: what the other advertised is no key.
        """
        if other not in self._pairs:
            pair = self.keys.agree(self.round.keys[other], self.round.context)
            if pair is None:
                raise MessageError(
                    f"client {self.round.roster[other]} advertised what is no key; run the round again without it"
                )
            self._pairs[other] = pair
        return self._pairs[other]

    def share(self) -> bytes:
        """Draws a mask, keeps its own piece of it, and gives the bundle of sealed ones, one for each other client.

        Raises:
          MessageError: it has entered no round, or shared before.
        """
        if self._round is None:
            raise MessageError(f"client {self.id} is asked to share a mask before keys are exchanged")
        if self._shared:
            raise MessageError(f"client {self.id} is asked to share a second mask, under keys that seal one piece each")
        self._shared = True
        code, dtype = self.round.code, _stored(self.round.field)
        # The mask is kept as the 256 secret bits that it is the keystream of.
        self._seed = os.urandom(_SEED_BYTES)
        pieces = code.encode(self.round.field.expand(self._seed, code.length)).astype(dtype)
        self._keep(self.number, pieces[self.number])
        others = (i for i in range(code.pieces) if i != self.number)
        return b"".join(self.pair(i).seal(pieces[i].tobytes()) for i in others)

    def opened(self, message: Payload) -> tuple[int, np.ndarray]:
        """Whose piece a message holds, by number, and the piece.

        Raises:
          MessageError: it holds none for this client.
        """
        agreed, wanted = self.round, NUMBER_BYTES + self.round.piece_bytes + TAG_BYTES
        if not isinstance(message, bytes) or len(message) != wanted:
            raise MessageError(f"client {self.id} got a piece that is not of {wanted} bytes; run the round again")
        sender = int.from_bytes(message[:NUMBER_BYTES], "little")
        if sender >= len(agreed.roster) or sender == self.number:
            raise MessageError(f"client {self.id} got a piece of nobody in this round; run the round again")
        plain = self.pair(sender).open(message[NUMBER_BYTES:])
        values = None if plain is None else np.frombuffer(plain, _stored(agreed.field))
        if values is None or not (values < agreed.field.p).all():
            raise MessageError(
                f"client {self.id} got a piece that client {agreed.roster[sender]} did not seal for it in this round; "
                "run the round again"
            )
        return sender, values

    def receive(self, message: Payload) -> None:
        """Keeps a piece.

        Raises:
          MessageError: it is none for this client, or a second one of the same sender.
        """
        sender, values = self.opened(message)
        if sender in self._has:
            raise MessageError(
                f"client {self.id} got a second piece of client {self.round.roster[sender]}; run the round again"
            )
        self._keep(sender, values)

    def masked(self, encoded: np.ndarray) -> bytes:
        """Its contribution, uint64 `[d]`, plus its mask.

        Raises:
          MessageError: it has shared no mask, has sent a contribution before, or has answered.
        """
        if not self._shared:
            raise MessageError(f"client {self.id} is asked for its contribution before it has shared a mask")
        if self._sent or self._answered:
            done = "a second contribution" if self._sent else "its contribution after its answer"
            raise MessageError(f"client {self.id} is asked for {done}; a mask hides one, until it is asked for")
        self._sent = True
        field = self.round.field
        mask = field.expand(self._seed, len(encoded))
        return field.pack(field.add(field.embed(encoded, self.round.bits), mask))

    def answer(self, roll: Payload) -> bytes:
        """The sum of its pieces of those whom a roll names, after the roll; once.

        Raises:
          MessageError: no roll, one of too few, one of clients that it has no piece of, a second one, or one before it
            has shared a mask.
        """
        if not self._shared:
            raise MessageError(f"client {self.id} is asked for pieces before it has shared a mask")
        agreed = self.round
        if not isinstance(roll, bytes) or len(roll) != agreed.roll_bytes:
            raise MessageError(f"client {self.id} got no roll of {agreed.roll_bytes} bytes; run the round again")
        if self._answered:
            raise MessageError(f"client {self.id} is asked for a second sum, and a difference would tell on someone")
        named = agreed.numbers(roll)
        if len(named) < agreed.code.enough:
            raise MessageError(
                f"client {self.id} is asked for a sum over {len(named)} clients, below U={agreed.code.enough}"
            )
        if not set(named) <= self._has:
            raise MessageError(f"client {self.id} is asked for pieces that it does not hold; run the round again")
        self._answered = True
        assert self._held is not None
        return roll + agreed.field.pack(agreed.field.total(self._held[named]))

    def own_piece(self) -> np.ndarray | None:
        """Its piece of its own mask; None before it has drawn one."""
        return None if self._held is None or not self._seed else self._held[self.number]

    def _keep(self, sender: int, values: np.ndarray) -> None:
        if self._held is None:
            code = self.round.code
            self._held = np.zeros((code.pieces, code.width), _stored(code.field))
        self._held[sender] = values
        self._has.add(sender)


class CodedServer:
    """What the server holds, of a round whose keys are exchanged.

    Attributes:
      sent: ids of the clients whose masked contributions it has.
      answers: sums of pieces by the client that sent them.
    """

    def __init__(self, agreed: Round) -> None:
        self.round = agreed
        self.sent: set[int] = set()
        self.answers: dict[int, np.ndarray] = {}
        self._total = np.zeros(agreed.length, np.uint64)

    def split(self, client: int, bundle: Payload) -> Iterator[tuple[int, bytes]]:
        """For every other client, by id, the message with its piece of that client's mask.

        Raises:
          MessageError: no bundle of this round.
        """
        agreed = self.round
        sender, wanted = agreed.number[client], agreed.bundle_bytes
        if not isinstance(bundle, bytes) or len(bundle) != wanted:
            raise MessageError(
                f"client {client} sent pieces that are not of {wanted} bytes together; run the round again without it"
            )
        others = ((i, other) for i, other in enumerate(agreed.roster) if other != client)
        return ((other, agreed.message(bundle, sender, i)) for i, other in others)

    def receive(self, client: int, message: Payload) -> None:
        """Adds a masked contribution to the sum.

        Raises:
          MessageError: a second one, or one that is no vector of this field and length.
        """
        if client in self.sent:
            raise MessageError(f"the server got a second contribution of client {client}; each sends one")
        self._total = self.round.field.add(self._total, _elements(self.round, message, self.round.length, client))
        self.sent.add(client)

    def take_answer(self, client: int, roll: bytes, message: Payload) -> None:
        """Keeps the sum of a client's pieces.

        Raises:
          MessageError: it is not one over that roll.
        """
        if not isinstance(message, bytes) or message[: len(roll)] != roll:
            raise MessageError(f"client {client} answered for others than it was asked for")
        self.answers[client] = _elements(self.round, message[len(roll) :], self.round.code.width, client)

    def unmask(self) -> np.ndarray:
        """The sum of the contributions, modulo 2^bits.

        Raises:
          MessageError: answers contradict each other, or what comes out cannot be a sum of contributions.
        """
        agreed = self.round
        numbers = [agreed.number[c] for c in sorted(self.answers)]
        pieces = np.stack([self.answers[c] for c in sorted(self.answers)])
        found = unmasked(agreed, self._total, numbers, pieces)
        if found is None:
            odd = agreed.code.odd_one(numbers, pieces)
            named = "" if odd is None else f", and if one alone is false, it is that of client {agreed.roster[odd]}"
            without = "" if odd is None else " without it"
            raise MessageError(
                f"the sums of pieces of {len(numbers)} clients contradict each other{named}; run the round "
                f"again{without}"
            )
        if not fits(agreed, found, len(self.sent)):
            raise MessageError(
                "the sum is larger than contributions can add up to, so a client has sent a false mask or a false sum "
                "of pieces; run the round again, with more than U answers to find out who"
            )
        return agreed.field.to_ring(found, agreed.bits)


def unmasked(agreed: Round, total: np.ndarray, numbers: Sequence[int], pieces: np.ndarray) -> np.ndarray | None:
    """A sum of masked vectors without its masks, given sums of their pieces; None if these contradict each other."""
    mask = agreed.code.decode(numbers, pieces)
    return None if mask is None else agreed.field.subtract(total, mask)


def likely_sum(
    agreed: Round, total: np.ndarray, clients: int, numbers: Sequence[int], pieces: np.ndarray
) -> np.ndarray | None:
    """The sum that someone finds who does not stop at answers that contradict each other; None if none stands out.

    False answers are left out where the others tell which these are. With one more than U, each is left out in turn:
    what comes out without a true one is mostly no sum of contributions.
    """
    found = unmasked(agreed, total, numbers, pieces)
    if found is not None:
        return found if fits(agreed, found, clients) else None
    right = agreed.code.consistent(numbers, pieces)
    if right is not None:
        tries = [right]
    elif len(numbers) == agreed.code.enough + 1:
        tries = [[i for i in range(len(numbers)) if i != left_out] for left_out in range(len(numbers))]
    else:
        return None
    sums = [unmasked(agreed, total, [numbers[i] for i in kept], pieces[kept]) for kept in tries]
    fitting = [s for s in sums if s is not None and fits(agreed, s, clients)]
    return fitting[0] if fitting and all(np.array_equal(s, fitting[0]) for s in fitting) else None


def fits(agreed: Round, total: np.ndarray, clients: int) -> bool:
    """Whether that many contributions can add up to `total`."""
    bound = np.uint64(clients << (agreed.bits - 1))
    return bool(((total <= bound) | (total >= np.uint64(agreed.field.p) - bound)).all())


def _stored(field: PrimeField) -> np.dtype:
    return np.dtype(f"<u{field.width}")


def _elements(agreed: Round, message: Payload, length: int, client: int) -> np.ndarray:
    values = agreed.field.unpack(message) if isinstance(message, bytes) else None
    if values is None or len(values) != length:
        raise MessageError(
            f"client {client} sent what is no vector of {length} elements below 2^{agreed.field.exponent} - 1; run the "
            "round again without it, or give all the same model and parameters"
        )
    return values
