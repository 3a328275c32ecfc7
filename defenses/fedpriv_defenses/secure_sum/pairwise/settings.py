"""Masking: what the protocols of this folder have in common for whoever runs a round of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.defense.domain import Ring
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Plan
from fedpriv_defenses.secure_sum.pairwise.graph import Degree


class Masking(Protocol):
    """Base of the protocols whose clients mask their contributions towards each other."""

    adaptive_attack: ClassVar[str] = "dlg"
    phases: ClassVar[tuple[str, ...]] = ("advertise", "share_keys", "masked_input", "unmask")
    input_phase: ClassVar[str] = "masked_input"

    bits: Annotated[int, Field(ge=8, le=64)] | None = Field(
        default=32,
        description=(
            "b, from 8 to 64, of the ring of integers mod 2^b; an element takes b bits on the wire. None takes "
            "whichever ring the codec before it gives."
        ),
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=2, description="a round that fewer clients finish is aborted: a sum over one hides nothing."
    )
    encrypted: bool = Field(
        default=True,
        description=(
            "whether the channels between clients and server are private. Without, an eavesdropper on all of them "
            "holds what the server holds: the sum."
        ),
    )

    @property
    def takes(self) -> Ring:  # type: ignore[override]
        """Integers mod 2^bits."""
        return Ring(self.bits)

    @property
    def is_active(self) -> bool:
        """Whether clients sign, against a server that does not follow the protocol."""
        return False

    @abstractmethod
    def degree(self, clients: int) -> Degree:
        """Neighbours and threshold for a round of that many clients."""

    @abstractmethod
    def most_gone(self, clients: int) -> int:
        """How many of the clients that advertised may go before shares are revealed, for the graph to be safe."""

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """How safe a full cohort is, and how likely it is to finish."""
        return (self.degree(plan.cohort).describe(plan.cohort),)

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """Raises StackError if no cohort is large enough, or the largest one has no safe degree."""
        if plan.cohort < self.min_clients:
            raise StackError(
                f"{speaker or self.name} wants min_clients={self.min_clients} in every sum, but cohorts have at most "
                f"{plan.cohort} clients; sample more clients or lower min_clients"
            )
        try:
            self.degree(plan.cohort)
        except StackError as e:
            raise StackError(f"{speaker or self.name}: {e}") from None
