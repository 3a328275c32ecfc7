"""PairwiseMasking and NeighbourMasking: secure aggregation of Bonawitz et al. (2017) and of Bell et al. (2020)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.defense.parties import Phase
from fedpriv.defense.protocol import Opening
from fedpriv_defenses.secure_sum.counting import exact
from fedpriv_defenses.secure_sum.pairwise.graph import Degree, bounds, degree_for, most_of
from fedpriv_defenses.secure_sum.pairwise.session import MaskingSession
from fedpriv_defenses.secure_sum.pairwise.settings import Masking

#: Cohorts of this many clients have a safe degree, or none has.
_SMALL = 1000


class PairwiseMasking(Masking):
    """Secure aggregation with masks between all pairs of clients, which cancel in the sum.

    Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth, 2017, "Practical Secure Aggregation for
    Privacy-Preserving Machine Learning" (CCS; arXiv 1611.04482). In `advertise`, every client gives two X25519 keys. In
    `share_keys`, it shares its mask key and the seed of a mask of its own among all (Shamir, any t determine them),
    sealed for each by ChaCha20-Poly1305. In `masked_input`, it sends its contribution under its own mask and one for
    each other client, expanded by ChaCha20. In `unmask`, those who are left reveal shares: of the own mask of every
    client that has sent, of the mask key of every client that has gone, never both of one. A client that was only slow
    is therefore not unmasked: its own mask stays on.

    Formal guarantee: against a server that follows the protocol and any t - 1 clients who pool what they see,
    contributions are computationally hidden but for their sum. With `active=true`, also against a server that does
    not: clients sign their keys and the list of survivors (phase `consistency`) with identities from a directory that
    the server does not write; a server that tells clients different survivors ends the round. What it still can do is
    name clients as gone. It hides who sent what and is not differential privacy. Nothing stops a client from
    contributing something false.

    Drop-out: at every stage; a round is finished as long as t clients answer in `unmask`. One addition to the paper:
    a client commits to the seed of its own mask, and recovered mask keys are compared with advertised ones, so that a
    false share ends the round instead of spoiling the sum.
    """

    name: ClassVar[str] = "pairwise_masking"
    paper: ClassVar[str] = "Bonawitz et al., 2017, arXiv 1611.04482"

    threshold: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description=(
            "t as a share of the clients that advertise keys; None is just above one half, and two thirds with "
            "`active`, the least that is safe there."
        ),
    )
    active: bool = Field(
        default=False, description="sign keys and survivors, against a server that does not follow the protocol."
    )

    @property
    def is_active(self) -> bool:
        """Whether clients sign."""
        return self.active

    def _phases(self) -> tuple[Phase, ...]:
        names = list(self.phases)
        if self.active:
            names.insert(3, "consistency")
        return tuple(Phase(name, name == self.input_phase) for name in names)

    def degree(self, clients: int) -> Degree:
        """Everybody is everybody's neighbour."""
        least = 2 * clients // 3 + 1 if self.active else clients // 2 + 1
        threshold = least if self.threshold is None else math.ceil(exact(self.threshold) * clients)
        if self.active and threshold < least:
            raise StackError(
                f"threshold={self.threshold:g} of {clients} clients is {threshold}, but against an active server "
                f"{least} are needed: below two thirds it can tell two halves of them different survivors; raise "
                "threshold, or leave it out"
            )
        return Degree(clients - 1, threshold, 0.0, 0.0)

    def most_gone(self, clients: int) -> int:
        """As many as leave enough of them to finish."""
        return clients

    def session(self, opening: Opening) -> MaskingSession:
        """See Protocol."""
        return MaskingSession(self, opening)


class NeighbourMasking(Masking):
    """Secure aggregation with masks between neighbours on a random graph: cost grows with log n a client, not n.

    Bell, Bonawitz, Gascon, Lepoint, Raykova, 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead"
    (CCS; IACR ePrint 2020/704), the variant for a server that follows the protocol. As `pairwise_masking`, but each
    client has masks with, and shares its secrets among, k neighbours on a Harary graph whose vertices are permuted at
    random. k and t follow from how many clients may be corrupted and may go: the fewest neighbours for which, by
    hypergeometric tails, t neighbours of one client are corrupted or the honest survivors fall apart with probability
    at most 2^-security_bits, and fewer than t are left around some client with probability at most 2^-correctness_bits.
    Where no k below n - 1 suffices, everybody is everybody's neighbour.

    Formal guarantee: against a server that follows the protocol and a share `corrupted` of the clients, chosen before
    the graph is drawn, contributions are computationally hidden but for their sum, except with probability
    2^-security_bits. It is not differential privacy.

    Drop-out: at every stage, up to a share `dropout` in all (rounded up), except with probability 2^-correctness_bits.
    If more go, or if those who have sent are no longer connected, the round is aborted before any share is revealed:
    else the server could take the sum apart.
    """

    name: ClassVar[str] = "neighbour_masking"
    paper: ClassVar[str] = "Bell et al., 2020, IACR ePrint 2020/704"

    corrupted: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="largest share of the clients that may work with the server."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="largest share of the clients that may go in a round."
    )
    security_bits: Annotated[float, Field(gt=0, le=128)] = Field(
        default=40.0, description="more than the sum is revealed with probability at most 2^-this."
    )
    correctness_bits: Annotated[float, Field(gt=0, le=128)] = Field(
        default=20.0, description="a round cannot be finished with probability at most 2^-this."
    )
    neighbours: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="k, even, instead of the fewest that suffice; the probabilities then follow."
    )
    threshold: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="t, of the k neighbours and the client itself; given together with `neighbours`."
    )

    def degree(self, clients: int) -> Degree:
        """The fewest neighbours that suffice, or those that were asked for."""
        if self.neighbours is None and self.threshold is None:
            return degree_for(clients, self.corrupted, self.dropout, self.security_bits, self.correctness_bits)
        if self.neighbours is None or self.threshold is None:
            raise StackError(
                f"neighbours={self.neighbours} and threshold={self.threshold} belong together; give both or none"
            )
        return bounds(clients, self.neighbours, self.threshold, self.corrupted, self.dropout)

    @property
    def least_clients(self) -> int:
        """As many as `min_clients` and `threshold` say, and as have a safe degree."""
        least = max(self.min_clients, self.threshold or 1)
        while least < _SMALL:
            try:
                self.degree(least)
            except StackError:
                least += 1
            else:
                break
        return least

    def most_gone(self, clients: int) -> int:
        """What `dropout` allows; on the complete graph, as many as leave enough of them to finish."""
        return clients if self.degree(clients).neighbours >= clients - 1 else most_of(self.dropout, clients)

    def session(self, opening: Opening) -> MaskingSession:
        """See Protocol."""
        return MaskingSession(self, opening)
