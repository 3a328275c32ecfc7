"""ShamirSharing: contributions are split among holders, any t of whose sums determine the sum, and fewer nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.errors import MessageError, StackError
from fedpriv.defense.domain import Domain, Ring
from fedpriv.defense.ring import KEY_BYTES
from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.secure_sum import shamir
from fedpriv_defenses.secure_sum.decoding import suspects
from fedpriv_defenses.secure_sum.field import PrimeField
from fedpriv_defenses.secure_sum.scheme import Scheme
from fedpriv_defenses.secure_sum.shared_sum import SharedSum


class ShamirSharing(SharedSum):
    """Secure sum by Shamir's secret sharing: any t of k holders of shares suffice, and t - 1 learn nothing.

    Shamir, 1979, "How to share a secret", Communications of the ACM 22(11); sums of shares are shares of the sum, as
    in Ben-Or, Goldwasser and Wigderson (1988). In the phase `share`, each client sends each holder its share of the
    whole vector: the value at the holder's point of polynomials of degree t - 1 whose values at 0 are the contribution.
    In the phase `publish`, the holders compare whose shares they have, and send their sums to the server, which
    interpolates and tells them the result. The holders are k aggregators from outside, all clients of the round, or a
    committee of them. A client that holds shares keeps its own without sending it.

    Contributions are signed integers in two's complement modulo 2^bits, embedded into the field of 2^31 - 1 elements
    if the round's largest sum stays below half of that, else into that of 2^61 - 1. What is revealed is the integer sum
    of the signed contributions, who sent them, and nothing more; `fixed_point` sees to it that this is the sum modulo
    2^bits.

    Formal guarantee: against any t - 1 holders who follow the protocol and pool what they saw, with the server or
    without, the contributions are computationally hidden (as long as ChaCha20's keystream looks random). Clients of a
    coalition can take their own contributions out of the sum. It is not differential privacy, and counts as nothing in
    the ledger.

    Trusts: that no t holders pool their shares; whoever knows the run's seed beforehand knows each round's committee.
    With more than t sums, false ones are seen: the round ends where they contradict each other, and goes on without the
    false ones where at least t + 2 e sums have at most e false among them (`Session.accused` names these; it may have
    been a client that gave a holder another share). Of s sums, (s - t) / 2 false ones, rounded up, cannot pass for
    true; more that are made up together can, and may have an honest holder accused. Of a round that ends so, the server
    has the sums that contradict each other, hence knows that the true one is among few. With exactly t sums only one
    that is too large for any contributions is seen. A client that contributes something false goes unseen.

    Drop-out: a client may be gone before it sends; one that has sent is in the sum, gone or not. A holder may be gone
    while t are left; fewer end the round with nothing revealed. A message that is changed, lost or malformed on its way
    to a holder, and holders that differ in whose shares they have, end the round; a holder whose published sum does not
    arrive counts as gone.
    """

    name: ClassVar[str] = "shamir_sharing"
    paper: ClassVar[str] = "Shamir, 1979, Communications of the ACM 22(11)"
    adaptive_attack: ClassVar[str] = "dlg"
    reveals_integers: ClassVar[bool] = True

    aggregators: Annotated[int, Field(ge=2, le=64)] = Field(
        default=3, description="k, from 2 to 64; with among=aggregators."
    )
    threshold: Annotated[int, Field(ge=2)] = Field(
        default=2,
        description="t, at least 2: so many holders determine the sum and could open every contribution; fewer cannot.",
    )
    compressed: bool = Field(
        default=True,
        description=(
            "send 32-byte keys in place of the t - 1 pseudo-random shares, so that a client sends k - t + 1 vectors "
            "and t - 1 keys instead of k vectors; the security argument is the same."
        ),
    )

    @pydantic.model_validator(mode="after")
    def _reachable(self) -> Self:
        there = {"aggregators": self.aggregators, "committee": self.committee}.get(self.among)
        if there is not None and self.threshold > there:
            raise ValueError(f"threshold={self.threshold} of {there} holders; give 2 to {there}")
        return self

    def settled(self, given: Domain, plan: Plan, speaker: str) -> Defense:
        """With the bits of the codec before it, whose sum over the largest cohort must fit a field."""
        if isinstance(given, Ring) and given.modulus_bits is not None:
            field_for(given.modulus_bits, plan.cohort, speaker)
        return super().settled(given, plan, speaker)

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """Raises StackError if no cohort is large enough, or the largest one's sum too large for the fields."""
        super().check_as(plan, speaker)
        if self.among == "clients" and plan.cohort < self.threshold:
            raise StackError(
                f"{speaker or self.name} wants threshold={self.threshold} clients that hold shares, but cohorts have "
                f"at most {plan.cohort}; sample more clients or lower threshold"
            )
        if self.bits is not None:
            field_for(self.bits, plan.cohort, speaker or self.name)

    def least(self, holders: int) -> int:
        """The threshold."""
        return self.threshold

    def scheme(self, holders: Sequence[int], length: int, clients: int) -> Scheme:
        """Shamir's shares in the smallest field that the round's sum fits."""
        bits = self.ring_bits()
        field = field_for(bits, max(clients, 1), self.name)
        return FieldShares(field, bits, length, [i + 1 for i in holders], self.threshold, self.compressed)


def field_for(bits: int, clients: int, speaker: str) -> PrimeField:
    """The smallest field in which a sum of that many signed integers of `bits` bits is told from every other.

    Raises:
      StackError: there is none.
    """
    for exponent in (31, 61):
        if clients << bits < (1 << exponent) - 1:
            return PrimeField(exponent)  # type: ignore[arg-type]
    most = 61 - clients.bit_length()
    raise StackError(
        f"{speaker}: a sum over {clients} clients of integers of bits={bits} may reach {clients} * 2^{bits - 1}, "
        f"beyond half of the largest field, 2^61 - 1; use bits <= {most}, or smaller cohorts"
    )


class FieldShares(Scheme):
    """Shamir's shares of vectors in a field.

    The first t - 1 shares are drawn, as keys that stand for them, and determine the others with the contribution; these
    are the same polynomials as with coefficients that are drawn.

    Args:
      field: where it happens.
      bits: of the ring that contributions are in.
      length: n, elements of a contribution.
      points: of the holders, in order.
      threshold: t.
      compressed: whether the first t - 1 holders get keys.
    """

    def __init__(
        self, field: PrimeField, bits: int, length: int, points: Sequence[int], threshold: int, compressed: bool
    ) -> None:
        self.field, self.points = field, list(points)
        self._bits, self._length = bits, length
        self._compressed, self._drawn = compressed, threshold - 1
        self.needed, self.share_bytes = threshold, length * field.width
        self.keyed = self._drawn if compressed else 0
        shamir.check(threshold, self.points, field)
        known = [0, *self.points[: self._drawn]]
        self._weights = shamir.lagrange(field, known, self.points[self._drawn :])

    def split(self, encoded: np.ndarray) -> list[bytes]:
        """See Scheme."""
        keys = [os.urandom(KEY_BYTES) for _ in range(self._drawn)]
        drawn = [self.field.expand(key, self._length) for key in keys]
        rest = self.field.matmul(self._weights, np.stack([self.field.embed(encoded, self._bits), *drawn]))
        first = keys if self._compressed else map(self.field.pack, drawn)
        return [*first, *map(self.field.pack, rest)]

    def share(self, holder: int, message: bytes) -> np.ndarray:
        """See Scheme."""
        return self.field.expand(message, self._length) if holder < self.keyed else self.unpack(message)

    def plus(self, holder: int, total: np.ndarray | None, message: bytes) -> np.ndarray:
        """See Scheme."""
        share = self.share(holder, message)
        return share if total is None else self.field.add(total, share)

    def minus(self, total: np.ndarray, share: np.ndarray) -> np.ndarray:
        """See Scheme."""
        return self.field.subtract(total, share)

    def pack(self, total: np.ndarray | None) -> bytes:
        """See Scheme."""
        return self.field.pack(np.zeros(self._length, np.uint64) if total is None else total)

    def unpack(self, message: bytes) -> np.ndarray:
        """See Scheme."""
        found = self.field.unpack(message)
        if found is None:
            raise MessageError(f"it holds a number that is no element of the field of 2^{self.field.exponent} - 1")
        return found

    def combined(self, shares: Mapping[int, np.ndarray], count: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """See Scheme."""
        places = sorted(shares)
        odd: tuple[int, ...] = ()
        found = self._recovered(places, shares)
        if found is None:
            odd = self._false(places, shares)
            found = self._recovered([i for i in places if i not in odd], shares) if odd else None
        if found is None:
            raise MessageError(
                f"the shares of {len(places)} holders contradict each other, and with threshold={self.needed} these "
                f"are too few to tell which are false: one takes {self.needed + 2}; run the round again with more "
                "holders, or others"
            )
        most = count << (self._bits - 1)
        signed = np.where(found > self.field.p >> 1, np.uint64(self.field.p) - found, found)
        if int(signed.max(initial=0)) > most:
            raise MessageError(
                f"the shares give {int(signed.max())}, more than {count} contributions of {self._bits} bits add up to: "
                "a holder or a client has lied; run the round again with more holders, which tells who"
            )
        return self.field.to_ring(found, self._bits), odd

    def _recovered(self, places: Sequence[int], shares: Mapping[int, np.ndarray]) -> np.ndarray | None:
        rows = np.stack([shares[i] for i in places])
        return shamir.recover(self.field, rows, [self.points[i] for i in places], self.needed)

    def _false(self, places: Sequence[int], shares: Mapping[int, np.ndarray]) -> tuple[int, ...]:
        """Places of the false shares, if the others tell; none otherwise.

        All elements at once, by a random combination of them: a false share stays false in it but once in p times.
        """
        rows, points = np.stack([shares[i] for i in places]), [self.points[i] for i in places]
        mixed = self.field.matmul(rows, self.field.uniform(self._length, 1))[:, 0]
        may = set(suspects(points, mixed.tolist(), self.needed, self.field.p))
        fine = [n for n in range(len(places)) if n not in may]
        if len(fine) < self.needed:
            return ()
        if self._recovered([places[n] for n in fine], shares) is None:
            return ()
        basis = fine[: self.needed]
        weights = shamir.lagrange(self.field, [points[n] for n in basis], points)
        true = self.field.matmul(weights, rows[basis])
        return tuple(places[n] for n in range(len(places)) if not np.array_equal(true[n], rows[n]))
