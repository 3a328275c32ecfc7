"""CodedMasking: clients mask what they send; the sum of the masks is recovered at once from coded pieces of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from fedpriv.base.errors import MessageError, ProtocolError, StackError
from fedpriv.defense.domain import Ring
from fedpriv.defense.parties import SERVER, Party, Phase
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.protocol import Opening, Protocol, Session, Sighting
from fedpriv.defense.stations import Plan
from fedpriv.defense.wire import Delivery, Payload
from fedpriv_defenses.secure_sum.coded_parties import (
    NUMBER_BYTES,
    CodedClient,
    CodedServer,
    Round,
    Thresholds,
    book_of,
    likely_sum,
)
from fedpriv_defenses.secure_sum.field import PrimeField
from fedpriv_defenses.secure_sum.sealing import PUBLIC_BYTES


def _count_or_share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"{value:g} is neither a share below 1 nor a whole number")
    return value


CountOrShare = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_count_or_share)]


class CodedMasking(Protocol):
    """Secure sum by masks whose sum is recovered in one decoding: the protocol of LightSecAgg.

    In the phase `advertise`, clients exchange public keys through the server. In `share`, each draws a uniform mask,
    cuts it into U - T parts, codes these and T uniform ones into a piece for each client, any U of which determine
    the mask while any T tell nothing of it, and sends the pieces to their clients, encrypted end to end, through the
    server. In `masked_input` it sends its contribution plus its mask. In `recover` the server says who has sent, each
    client that is left answers with the sum of its pieces of those, and any U answers give the sum of their masks.
    So, Nolet, Yang, Li, Yu, Ali, Guler, Avestimehr, 2022, arXiv 2109.14236. Everything is exact in the field of
    2^31 - 1 elements if the largest sum fits it, else in that of 2^61 - 1.

    Formal guarantee: against the server and any T clients who follow the protocol and pool what they saw, the
    contributions are computationally hidden (as long as X25519, HKDF and ChaCha20-Poly1305 hold, and the keystream of
    a mask looks random) but for the sum of the contributions of those the server has asked for: the sum of the signed
    integers that ring elements stand for, which is the sum in the ring if the codec before left room for the cohort,
    as `fixed_point` does. Between T and U clients with the server hold linear combinations of each contribution's
    parts, U of them hold every contribution. Without the server, clients hold nothing of others. It trusts the server
    to pass on keys, and to ask all for the same sum once: one that does neither is not covered. It hides who sent
    what and is not differential privacy.

    Drop-out: T and U follow from the clients that advertise, n: T = `colluders`, U = n - `dropouts`. At least U of
    them must stay to the end; others may go at any time, and who has sent is in the sum, gone later or not. A client
    that was only slow stays hidden: no piece of its mask is asked for. Fewer than U end the round.

    Faults: a message that is changed, cut, sent twice or to the wrong client ends the round; an answer in `recover`
    that is none counts as a client that is gone. More than U answers that contradict each other end the round too; from
    U + 2 on it is said whose is false, if one alone is. A curious server then still finds the sum by leaving out the
    false answers: of m it can tell (m - U) // 2, and of U + 1 mostly one. With exactly U answers a false one cannot be
    seen, unless the sum that comes out is larger than contributions can add up to. A false contribution cannot be seen
    either.

    Memory: every client keeps a piece of every other's mask: n^2 d / (U - T) elements in the whole cohort, of 4 bytes
    (2^31 - 1) or 8.
    """

    name: ClassVar[str] = "coded_masking"
    paper: ClassVar[str] = "So, Nolet, Yang, Li, Yu, Ali, Guler, Avestimehr, 2022, arXiv 2109.14236"
    adaptive_attack: ClassVar[str] = "dlg"
    reveals_integers: ClassVar[bool] = True
    phases: ClassVar[tuple[str, ...]] = ("advertise", "share", "masked_input", "recover")
    input_phase: ClassVar[str] = "masked_input"

    colluders: CountOrShare = Field(
        default=0.5,
        description=(
            "T, clients that may pool what they see with the server and learn nothing but the sum: a count, or below 1 "
            "a share of the round's clients, rounded down."
        ),
    )
    dropouts: CountOrShare = Field(
        default=0.3,
        description=(
            "clients that may be gone before the end: a count, or below 1 a share of the round's clients, rounded "
            "down. The others, U of n, are needed; a piece of a mask is 1 / (U - T) of it."
        ),
    )
    bits: Annotated[int, Field(ge=8, le=64)] = Field(
        default=32,
        description=(
            "b, of the ring of integers mod 2^b that contributions are in. An element takes 4 bytes on the wire if "
            "cohort * 2^(b - 1) < 2^30, else 8."
        ),
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted."
    )
    encrypted: bool = Field(
        default=True,
        description=(
            "whether channels to the server are private. Without, an eavesdropper on all of them holds what the server "
            "holds; pieces of masks stay encrypted."
        ),
    )

    @property
    def takes(self) -> Ring:  # type: ignore[override]
        """Integers mod 2^bits."""
        return Ring(self.bits)

    def thresholds(self) -> Thresholds:
        """How T and U follow from the clients of a round."""
        return Thresholds(self.colluders, self.dropouts)

    @property
    def least_clients(self) -> int:
        """One more than the largest number of clients, up to a thousand, that is too small for T < U."""
        small = [n for n in range(1, 1001) if (t_u := self.thresholds().of(n))[0] >= t_u[1]]
        return max([self.min_clients, *(n + 1 for n in small)])

    def exponent(self, cohort: int) -> Literal[31, 61] | None:
        """That of the smallest field that the signed sum over a cohort fits; None if none does."""
        for exponent in (31, 61):
            if cohort << (self.bits - 1) < 1 << (exponent - 1):
                return exponent  # type: ignore[return-value]
        return None

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Who learns what in a full cohort, how many it takes, and the bytes of an element."""
        t, u = self.thresholds().of(plan.cohort)
        width = 4 if self.exponent(plan.cohort) == 31 else 8
        return (
            f"of {plan.cohort} clients, {t} with the server learn nothing but the sum, {u} learn everything, and those "
            f"between learn a part; {u} must stay to the end; an element takes {width} bytes on the wire",
        )

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """Raises StackError if the largest cohort is too small for T and the drop-outs, or too large for the field."""
        speaker, cohort = speaker or self.name, plan.cohort
        if cohort < self.min_clients:
            raise StackError(
                f"{speaker} wants min_clients={self.min_clients} in every sum, but cohorts have at most {cohort} "
                "clients; sample more clients or lower min_clients"
            )
        t, u = self.thresholds().of(cohort)
        if t >= u:
            raise StackError(f"{speaker}: {self.thresholds().refusal(cohort)}")
        if self.exponent(cohort) is None:
            most = max((b for b in range(8, 65) if cohort << (b - 1) < 1 << 60), default=0)
            fewer = f"bits <= {most}, or " if most else ""
            raise StackError(
                f"{speaker}: sums of {cohort} clients' integers mod 2^{self.bits} reach {cohort} * 2^{self.bits - 1}, "
                f"beyond half the field of 2^61 - 1 elements; use {fewer}smaller cohorts"
            )

    def session(self, opening: Opening) -> CodedSession:
        """See Protocol."""
        return CodedSession(self, opening)


class CodedSession(Session):
    """One round.

    Attributes:
      clients: those that have advertised, by id.
      server: the server, once keys are exchanged.
    """

    def __init__(self, protocol: CodedMasking, opening: Opening) -> None:
        super().__init__(opening)
        self.protocol = protocol
        exponent = protocol.exponent(len(opening.clients))
        if exponent is None:
            raise ProtocolError(
                f"sums of {len(opening.clients)} clients' integers mod 2^{protocol.bits} fit no field; use fewer bits"
            )
        self.field = PrimeField(exponent)
        self.clients: dict[int, CodedClient] = {}
        self.server: CodedServer | None = None
        self._total: np.ndarray | None = None

    def exchange(self, phase: Phase) -> None:
        """See Session."""
        self._need_server()
        {"advertise": self._advertise, "share": self._share, "recover": self._recover}[phase.name]()

    def ready(self) -> None:
        """Nobody sends anything where too few are left to recover it."""
        self._need_server()
        self._need(len(self.there("client")), "are there")

    def take(self, client: int, encoded: np.ndarray) -> None:
        """Sends the contribution under the client's mask.

        Raises:
          ProtocolError: elements beyond the ring.
        """
        self.check_ring(client, encoded, self.protocol.bits)
        self._server.receive(client, self._send(client_party(client), SERVER, self.clients[client].masked(encoded)))

    def total(self) -> tuple[np.ndarray, Collection[int]]:
        """See Session."""
        assert self._total is not None  # `recover` has found it, or aborted
        return self._total.copy(), self._server.sent

    def seen_by(self, coalition: Collection[Party], *, wire: bool = False) -> tuple[Sighting, ...]:
        """See Session.

        The server with U clients or more holds every contribution that was sent, also of a round that was aborted;
        with fewer, or alone, the sum for which enough answers have reached it, and what is left of that without the
        coalition's own contributions. That holds also where the round was aborted over a false answer, and the sum
        stands out all the same (`likely_sum`). Clients without the server hold pieces, which tell nothing of
        anybody's contribution. So does an eavesdropper, unless channels are not encrypted: then it is as good as the
        server. What between T and U clients with the server learn besides is in `combinations`.
        """
        members, heard = self._heard(coalition, wire)
        own = [p.index for p in sorted(members) if p.role == "client" and p.index in self.clients]
        masked = self._masked(heard)
        pieces = self._pieces(heard, own)
        opened = {
            c: value
            for c in sorted(masked)
            if self._enough(pieces.get(c)) and (value := self._opened(masked[c], pieces[c])) is not None
        }
        if opened:
            return tuple(
                Sighting(kind="client", clients=(c,), value=value, payloads=self._behind(heard, c))
                for c, value in opened.items()
            )
        senders = sorted({c for d in heard if (c := self._sender(d)) is not None})
        payloads = tuple(d for c in senders for d in self._behind(heard, c))
        sums = self._sums(heard, masked, pieces, own, payloads)
        if sums or not payloads:
            return sums
        return (Sighting(kind="payloads", clients=tuple(senders), payloads=payloads),)

    def combinations(
        self, coalition: Collection[Party], *, wire: bool = False
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """What more than T clients with the server learn of each contribution, even where they do not learn all of it.

        Returns:
          By client (weights `[m - T, U - T]`, values `[m - T, ceil(d / (U - T))]`): the contribution, filled up with
          zeros and cut into U - T parts, adds up to these values if its parts are weighted so; all modulo p. The m
          pieces of one client's mask may be held by others than those of another's, where a bundle was garbled on its
          way. Nobody for T clients and fewer, and for those who do not hold what the server got.
        """
        members, heard = self._heard(coalition, wire)
        own = [p.index for p in sorted(members) if p.role == "client" and p.index in self.clients]
        told = dict[int, tuple[np.ndarray, np.ndarray]]()
        masked, pieces = self._masked(heard), self._pieces(heard, own)
        for c in sorted(masked):
            held = pieces.get(c, {})
            if c in own or len(held) <= self._server.round.code.private:
                continue
            code, numbers = self._server.round.code, sorted(held)
            weights, of_mask = code.combinations(numbers, np.stack([held[i] for i in numbers]))
            whole = np.zeros(code.padded, np.uint64)
            whole[: code.length] = masked[c]
            told[c] = weights, self.field.subtract(self.field.matmul(weights, whole.reshape(code.parts, -1)), of_mask)
        return told

    @property
    def _server(self) -> CodedServer:
        assert self.server is not None
        return self.server

    def _send(self, sender: Party, receiver: Party, message: bytes) -> Payload:
        return self.wire.send(sender, receiver, message, private=self.protocol.encrypted)

    def _advertise(self) -> None:
        there = [p.index for p in self.there("client")]
        t, u = self.protocol.thresholds().of(len(there))
        if t >= u:
            self.abort(self.protocol.thresholds().refusal(len(there)))
        if len(there) < self.protocol.min_clients:
            self.abort(self._too_few(len(there), "are there"))
        self.clients = {c: CodedClient(c) for c in there}
        keys = {}
        for c, party in self.clients.items():
            key = self._send(client_party(c), SERVER, party.keys.public)
            if not isinstance(key, bytes) or len(key) != PUBLIC_BYTES:
                raise MessageError(f"client {c} sent no key of {PUBLIC_BYTES} bytes; run the round again without it")
            keys[c] = key
        book = book_of(keys)
        agreed = self._round(book)
        self.server = CodedServer(agreed)
        for c, party in self.clients.items():
            arrived = self._send(SERVER, client_party(c), book)
            # All read the same book, so what follows from it is worked out once.
            same = isinstance(arrived, bytes) and arrived == book
            party.enter(agreed if same else self._round(arrived))

    def _round(self, book: Payload) -> Round:
        return Round(self.protocol.thresholds(), self.protocol.bits, self.field, self.opening, book)

    def _share(self) -> None:
        there = [p.index for p in self.there("client")]
        self._need(len(there), "are there")
        for c in there:  # one bundle at a time: all of them together are as much as the pieces that clients keep
            bundle = self._send(client_party(c), SERVER, self.clients[c].share())
            for other, message in self._server.split(c, bundle):
                if self.wire.is_alive(client_party(other)):
                    self.clients[other].receive(self._send(SERVER, client_party(other), message))

    def _recover(self) -> None:
        there = [p.index for p in self.there("client")]
        if len(self._server.sent) < self.protocol.min_clients:
            self.abort(self._too_few(len(self._server.sent), "finished"))
        self._need(len(there), "are left")
        roll, faults = self._server.round.roll(self._server.sent), list[str]()
        for c in there:
            try:
                asked = self._send(SERVER, client_party(c), roll)
                answer = self._send(client_party(c), SERVER, self.clients[c].answer(asked))
                self._server.take_answer(c, roll, answer)
            except MessageError as fault:  # as good as gone
                faults.append(str(fault))
        self._need(len(self._server.answers), "have answered", faults)
        self._total = self._server.unmask()

    def _heard(self, coalition: Collection[Party], wire: bool) -> tuple[set[Party], list[Delivery]]:
        """The coalition, and the messages that it holds."""
        self.wire.require(coalition)
        members = set(coalition)
        heard = [d for p in sorted(members) for d in self.wire.received(p)]
        if wire:
            heard += [d for d in self.wire.overheard() if d.receiver not in members]
        return members, heard

    def _masked(self, heard: Sequence[Delivery]) -> dict[int, np.ndarray]:
        """Masked contributions among what was heard, by client."""
        found = {}
        for d in heard:
            if d.phase == "masked_input" and d.payload is not None:
                values = self._read(d.payload, self.opening.length)
                if values is not None:
                    found[d.sender.index] = values
        return found

    def _pieces(self, heard: Sequence[Delivery], own: Sequence[int]) -> dict[int, dict[int, np.ndarray]]:
        """For each client, pieces of its mask that `own` clients can open among what was heard, by their number."""
        found: dict[int, dict[int, np.ndarray]] = {}
        shared = [d for d in heard if d.phase == "share" and isinstance(d.payload, bytes)]
        for c in own if self.server is not None else ():
            agreed, holder = self._server.round, self.clients[c]
            number = agreed.number[c]
            messages: list[Payload] = []
            for d in shared:
                assert isinstance(d.payload, bytes)
                if d.receiver == client_party(c):
                    messages.append(d.payload)
                elif d.receiver == SERVER and d.sender != client_party(c) and len(d.payload) == agreed.bundle_bytes:
                    # What the server holds for it, whether it was there to get it or not.
                    messages.append(agreed.message(d.payload, agreed.number[d.sender.index], number))
            for message in messages:
                try:
                    sender, values = holder.opened(message)
                except MessageError:
                    continue
                found.setdefault(agreed.roster[sender], {})[number] = values
            mine = holder.own_piece()
            if mine is not None:
                found.setdefault(c, {})[number] = mine
        return found

    def _enough(self, held: dict[int, np.ndarray] | None) -> bool:
        return held is not None and len(held) >= self._server.round.code.enough

    def _opened(self, masked: np.ndarray, held: dict[int, np.ndarray]) -> np.ndarray | None:
        """A contribution, modulo 2^bits, from its masked vector and enough pieces of its mask; None if it has lied."""
        numbers = sorted(held)
        value = likely_sum(self._server.round, masked, 1, numbers, np.stack([held[i] for i in numbers]))
        return None if value is None else self.field.to_ring(value, self.protocol.bits)

    def _sums(
        self,
        heard: Sequence[Delivery],
        masked: dict[int, np.ndarray],
        pieces: dict[int, dict[int, np.ndarray]],
        own: Sequence[int],
        payloads: tuple[Delivery, ...],
    ) -> tuple[Sighting, ...]:
        """The sums for which there are answers enough, and what is left of them without `own` contributions."""
        found: list[Sighting] = []
        for roll, answers in self._answers(heard).items():
            agreed = self._server.round
            named = set(agreed.numbers(roll))
            everyone = tuple(c for i, c in enumerate(agreed.roster) if i in named)
            if not everyone or not set(everyone) <= set(masked) or agreed.roll(everyone) != roll:
                continue
            for c in own:
                number = agreed.number[c]
                if number not in answers and all(number in pieces.get(i, {}) for i in everyone):
                    answers[number] = self.field.total(np.stack([pieces[i][number] for i in everyone]))
            if not self._enough(answers):
                continue
            numbers = sorted(answers)
            total = np.zeros(self.opening.length, np.uint64)
            for c in everyone:
                total = self.field.add(total, masked[c])
            rest = likely_sum(agreed, total, len(everyone), numbers, np.stack([answers[i] for i in numbers]))
            if rest is None:
                continue
            bits = self.protocol.bits
            found.append(
                Sighting(kind="sum", clients=everyone, value=self.field.to_ring(rest, bits), payloads=payloads)
            )
            mine = [c for c in own if c in everyone]
            others = tuple(c for c in everyone if c not in mine)
            if mine and others:
                for c in mine:
                    rest = self.field.subtract(rest, self.field.embed(self._own[c], bits))
                found.append(Sighting(kind="sum", clients=others, value=self.field.to_ring(rest, bits)))
        return tuple(found)

    def _answers(self, heard: Sequence[Delivery]) -> dict[bytes, dict[int, np.ndarray]]:
        """Sums of pieces among what was heard, by the roll that they are over and the number of who sent them."""
        found: dict[bytes, dict[int, np.ndarray]] = {}
        for d in heard:
            if d.phase == "recover" and d.receiver == SERVER and isinstance(d.payload, bytes):
                agreed = self._server.round
                values = self._read(d.payload[agreed.roll_bytes :], agreed.code.width)
                if values is not None:
                    found.setdefault(d.payload[: agreed.roll_bytes], {})[agreed.number[d.sender.index]] = values
        return found

    def _read(self, message: Payload, length: int) -> np.ndarray | None:
        values = self.field.unpack(message) if isinstance(message, bytes) else None
        return values if values is not None and len(values) == length else None

    def _sender(self, delivery: Delivery) -> int | None:
        """The client whose contribution or piece a message holds, as far as whoever heard it can tell."""
        if delivery.phase not in ("share", "masked_input"):
            return None
        if delivery.sender.role == "client":
            return delivery.sender.index
        if self.server is None or not isinstance(delivery.payload, bytes):
            return None
        number = int.from_bytes(delivery.payload[:NUMBER_BYTES], "little")
        return self._server.round.roster[number] if number < len(self._server.round.roster) else None

    def _behind(self, heard: Sequence[Delivery], client: int) -> tuple[Delivery, ...]:
        return tuple(d for d in heard if self._sender(d) == client)

    def _need_server(self) -> None:
        if not self.wire.is_alive(SERVER):
            self.abort("the server is gone; run the round again")

    def _need(self, clients: int, doing: str, faults: Sequence[str] = ()) -> None:
        agreed = self._server.round
        if clients < agreed.code.enough:
            why = f" ({faults[0]})" if faults else ""
            self.abort(
                f"{clients} of {len(agreed.roster)} clients {doing}, below the U={agreed.code.enough} that it takes to "
                f"recover the sum{why}; run the round again, or raise dropouts"
            )

    def _too_few(self, clients: int, doing: str) -> str:
        return (
            f"{clients} of {len(self.opening.clients)} clients {doing}, below min_clients={self.protocol.min_clients}; "
            "the sum stays closed, run the round again with more clients"
        )
