"""SecretSharing: secure aggregation by additive secret sharing among k aggregators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import ParameterError, ProtocolError, StackError
from fedpriv.defense.domain import Ring
from fedpriv.defense.protocol import Protocol, Session, Transcript
from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.additive_shares import KEY_BYTES, Wire
from fedpriv_defenses.fixed_point import FixedPoint, finest_power_of_two

#: float32 weights n / max_examples still round back to n below this many examples.
_EXACT_EXAMPLES = 1 << 22


class SecretSharing(Protocol):
    """Secure aggregation: each client splits its update among k aggregators, who see only sums together.

    A client encodes its contribution in fixed point modulo 2^b and sends one additive share to each aggregator over
    its own private, authenticated channel. Each aggregator adds up what it received; only those k sums are put
    together. This is the summing part of Prio (Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255), including keys in
    place of expanded shares, without its proofs that inputs are well-formed.

    Formal guarantee: against any k - 1 aggregators who follow the protocol and pool what they saw, the contributions
    are computationally hidden (as long as ChaCha20's keystream looks random); the k sums together reveal the sum of
    the contributions, their count, and nothing more. It hides who sent what and is not differential privacy: a
    cohort of one has no sum to hide in, and the ledger counts it as nothing. All k aggregators must finish; a client
    may drop out before it sends. Nothing stops a client from sending a false contribution.

    The decoded sum is exactly the sum of the quantized contributions. Each coordinate of each contribution is off by
    at most step / 2 (see FixedPoint). Overflow cannot pass unseen: the largest cohort's largest sum is checked to
    fit when the federation is made, and each contribution when it is encoded.

    Parameters:
      aggregators: k, from 2 to 64, of which one must be honest.
      bits: b, from 8 to 64; an element takes ceil(b / 8) bytes on the wire.
      range: largest absolute coordinate of a contribution (the update times the client's weight, which is at most
        1). Clip the update first to be sure of it: an L2 clip of C allows range = C.
      step: resolution, in update units; None takes the finest power of two that fits the largest cohort.
      compressed: send 32-byte keys in place of the k - 1 pseudo-random shares, so that a client sends one vector
        and k - 1 keys instead of k vectors; the security argument is the same.
      min_clients: a round that fewer clients finish is not opened up.
    """

    name: ClassVar[str] = "secret_sharing"
    paper: ClassVar[str] = "Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "dlg"

    aggregators: Annotated[int, Field(ge=2, le=64)] = 2
    bits: Annotated[int, Field(ge=8, le=64)] = 32
    range: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    compressed: bool = True
    min_clients: Annotated[int, Field(ge=1)] = 1

    @property
    def gives(self) -> Ring:  # type: ignore[override]
        """Integers mod 2^bits."""
        return Ring(self.bits)

    def parties(self) -> int:
        """k."""
        return self.aggregators

    def check(self, plan: Plan) -> None:
        """Raises ParameterError if the largest cohort's sum could wrap, StackError if no cohort is large enough."""
        if plan.cohort < self.min_clients:
            raise StackError(
                f"secret_sharing wants min_clients={self.min_clients} in every sum, but cohorts have at most "
                f"{plan.cohort} clients; sample more clients or lower min_clients"
            )
        self.codec(plan)

    def codec(self, plan: Plan) -> FixedPoint:
        """The fixed-point encoding that fits every cohort of this federation.

        Raises:
          ParameterError: none does; the message says which bits, range or step would.
        """
        largest = ((1 << (self.bits - 1)) - 1) // plan.cohort  # of one client's integers, so that no sum can wrap
        if largest < 1:
            raise ParameterError(
                f"secret_sharing: bits={self.bits} cannot hold a sum over {plan.cohort} clients; use bits >= "
                f"{plan.cohort.bit_length() + 1} or smaller cohorts"
            )
        limit = float(np.float32(self.range))
        if self.step is None:
            step = finest_power_of_two(limit, largest)
        else:
            step = self._checked_step(self.step, limit, largest, plan.cohort)
        return FixedPoint(self.bits, limit, step, _weight_step(plan, largest))

    def _checked_step(self, step: float, limit: float, largest: int, cohort: int) -> float:
        needed = math.ceil(Fraction(limit) / Fraction(step))
        if step > limit:
            raise ParameterError(
                f"secret_sharing: step={step:g} is coarser than range={self.range:g}, so every value would round "
                f"away; use a step well below the range"
            )
        if needed > 1 << 52:
            raise ParameterError(
                f"secret_sharing: range / step = {limit / step:.3g} is finer than float64 resolves; use step >= "
                f"{limit / (1 << 52):.3g}"
            )
        if needed > largest:
            bits = (needed * cohort).bit_length() + 1
            wider = f"bits >= {bits}, " if bits <= 64 else ""
            raise ParameterError(
                f"secret_sharing: a sum over {cohort} clients of values up to range={self.range:g} in steps of "
                f"{step:g} reaches {needed * cohort}, beyond 2^{self.bits - 1} - 1 for bits={self.bits}; use {wider}"
                f"range <= {largest * step:.6g}, or step >= {finest_power_of_two(limit, largest):.6g}"
            )
        return step

    def l2_error(self, plan: Plan) -> float:
        """Rounding moves each of d coordinates by at most step / 2."""
        return math.sqrt(plan.spec.size) * self.codec(plan).step / 2

    def encode(self, contribution: Any, plan: Plan, seed: Any) -> tuple[Any, Any]:
        """See Protocol; rounding is deterministic, so the seed goes unused."""
        return self.codec(plan).encode(contribution)

    def decode(self, total: Any, count: Any, plan: Plan) -> Any:
        """See Protocol."""
        return self.codec(plan).decode(total)

    def open(self, plan: Plan, clients: Sequence[int], watched: Sequence[int] = ()) -> SharingSession:
        """See Protocol."""
        return SharingSession(self, plan.spec.size + 1, clients, watched)

    def combine(self, shares: Sequence[np.ndarray]) -> np.ndarray:
        """See Protocol; the sum of the shares modulo 2^b.

        Raises:
          ProtocolError: not the shares of all aggregators, without which they say nothing.
        """
        if len(shares) != self.aggregators:
            raise ProtocolError(
                f"{len(shares)} of {self.aggregators} shares given; a contribution is the sum of all of them"
            )
        total = np.zeros_like(np.asarray(shares[0], np.uint64))
        for share in shares:
            np.add(total, np.asarray(share, np.uint64), out=total)
        wire = Wire(self.bits, len(total))
        return wire.reduce(total.astype(wire.dtype)).astype(np.uint64)

    def replay(self) -> Defense | None:
        """Nothing to replay: rounding to `step` is below what an attack can see, and has no derivative."""
        return None


def _weight_step(plan: Plan, largest: int) -> float:
    if plan.weighting == "uniform":
        return 1.0
    if plan.max_examples <= min(largest, _EXACT_EXAMPLES):
        return 1.0 / plan.max_examples  # the integers are then the example counts themselves
    return finest_power_of_two(1.0, largest)


class Aggregator:
    """One of the k parties: adds up the shares it is sent.

    Attributes:
      index: its number, from 0.
      clients: who has sent it a share.
      total: sum of the shares, modulo 2^b.
      seen: the shares by client, if this party is watched.
    """

    def __init__(self, index: int, wire: Wire, takes_keys: bool, watched: bool) -> None:
        self.index, self._wire, self._takes_keys, self._watched = index, wire, takes_keys, watched
        self.clients: set[int] = set()
        self.total = np.zeros(wire.length, wire.dtype)
        self.seen: dict[int, np.ndarray] = {}

    def receive(self, client: int, message: bytes) -> None:
        """Takes one client's message: a key, or a vector.

        Raises:
          ProtocolError: a second message of that client, or one of the wrong length.
        """
        if client in self.clients:
            raise ProtocolError(f"aggregator {self.index} got a second share of client {client}; each sends one")
        wanted = KEY_BYTES if self._takes_keys else self._wire.vector_bytes
        if len(message) != wanted:
            raise ProtocolError(
                f"aggregator {self.index} got {len(message)} bytes from client {client} instead of {wanted}; all "
                "clients must use the same model, bits and compression"
            )
        if self._takes_keys:
            for where, block in self._wire.blocks(message):
                np.add(self.total[where], block, out=self.total[where])
        else:
            np.add(self.total, self._wire.unpack(message), out=self.total)
        self.clients.add(client)
        if self._watched:
            share = self._wire.expand(message) if self._takes_keys else self._wire.unpack(message)
            self.seen[client] = share.astype(np.uint64)

    def sum(self) -> np.ndarray:
        """What it reveals at the end: the sum of its shares, modulo 2^b."""
        return self._wire.reduce(self.total.copy())


class SharingSession(Session):
    """One round: shares are made, delivered, and summed by each aggregator on its own.

    Attributes:
      aggregators: the k parties; all are needed to close.
      bytes_up: bytes sent by all clients so far.
    """

    def __init__(self, protocol: SecretSharing, length: int, clients: Sequence[int], watched: Sequence[int]) -> None:
        k = protocol.aggregators
        for party in watched:
            if not 0 <= party < k:
                raise ParameterError(f"there is no aggregator {party} to watch; secret_sharing has 0 to {k - 1}")
        self._protocol, self._expected = protocol, {int(c) for c in clients}
        self._wire = Wire(protocol.bits, length)
        keyed = [protocol.compressed and i < k - 1 for i in range(k)]
        self.aggregators = [Aggregator(i, self._wire, keyed[i], i in watched) for i in range(k)]
        self.bytes_up = 0

    def send(self, client: int, encoded: np.ndarray) -> None:
        """Shares one encoded contribution, uint64 `[d + 1]`, and delivers a share to each aggregator.

        Raises:
          ProtocolError: a client that is not in this round or sent before, or a vector of the wrong kind.
        """
        if client not in self._expected:
            raise ProtocolError(f"client {client} is not in this round; open the session with it")
        if encoded.shape != (self._wire.length,) or encoded.dtype != np.uint64:
            raise ProtocolError(
                f"client {client} contributes {encoded.dtype}{list(encoded.shape)} instead of "
                f"uint64[{self._wire.length}]; encode it with this protocol and this model"
            )
        for aggregator, message in zip(self.aggregators, self.make_messages(encoded), strict=True):
            self.deliver(aggregator, client, message)

    def make_messages(self, encoded: np.ndarray) -> list[bytes]:
        """A client's k messages for `encoded`, uint64 `[d + 1]`; made afresh, so never the same twice."""
        return self._wire.split(encoded, self._protocol.aggregators, self._protocol.compressed)

    def deliver(self, aggregator: Aggregator, client: int, message: bytes) -> None:
        """Carries one message to one aggregator, and counts its bytes."""
        self.bytes_up += len(message)
        aggregator.receive(client, message)

    def close(self) -> Transcript:
        """Puts the aggregators' sums together.

        Raises:
          ProtocolError: an aggregator is gone, a share is missing, or too few clients finished.
        """
        k = self._protocol.aggregators
        present = {a.index for a in self.aggregators}
        gone = [i for i in range(k) if i not in present]
        if gone:
            raise ProtocolError(
                f"no sum from aggregator {', '.join(map(str, gone))}, and all {k} are needed; run the round again"
            )
        anyone = set().union(*(a.clients for a in self.aggregators))
        for aggregator in self.aggregators:
            missing = sorted(anyone - aggregator.clients)
            if missing:
                raise ProtocolError(
                    f"aggregator {aggregator.index} has no share of client {missing[0]}"
                    f"{f' (and of {len(missing) - 1} more)' if len(missing) > 1 else ''}, others do, so the sum "
                    "cannot be decoded; run the round again without that client"
                )
        if self._expected and len(anyone) < self._protocol.min_clients:
            raise ProtocolError(
                f"{len(anyone)} of {len(self._expected)} clients finished, below min_clients="
                f"{self._protocol.min_clients}; the sum stays closed, run the round again with more clients"
            )
        total = self.aggregators[0].sum()
        for aggregator in self.aggregators[1:]:
            np.add(total, aggregator.sum(), out=total)
        held = {a.index: a.seen for a in self.aggregators if a.seen}
        return Transcript(self._wire.reduce(total).astype(np.uint64), len(anyone), self.bytes_up, held)
