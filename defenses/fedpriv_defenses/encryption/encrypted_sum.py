"""EncryptedSum: what protocols that sum ciphertexts have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.defense.domain import Ring
from fedpriv.defense.parties import SERVER, Party
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Plan
from fedpriv_defenses.encryption.key_holder import KEY_HOLDER
from fedpriv_defenses.encryption.scheme import Room, Scheme
from fedpriv_defenses.encryption.session import DECRYPT, ENCRYPT, KEYS


class EncryptedSum(Protocol):
    """Base of the protocols; override `scheme`."""

    phases: ClassVar[tuple[str, ...]] = (KEYS, ENCRYPT, DECRYPT)
    input_phase: ClassVar[str] = ENCRYPT
    adaptive_attack: ClassVar[str] = "dlg"
    reveals_integers: ClassVar[bool] = True
    wraps: ClassVar[bool] = False

    bits: int
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted; the key holder sees to it."
    )

    @property
    def takes(self) -> Ring:  # type: ignore[override]
        """Integers mod 2^bits."""
        return Ring(self.bits)

    def parties(self) -> tuple[Party, ...]:
        """The server and the key holder."""
        return (SERVER, KEY_HOLDER)

    def check_as(self, plan: Plan, speaker: str = "") -> None:
        """See Protocol.

        Raises:
          FedprivError: the library is not installed.
          ParameterError: sums over the largest cohort would not be exact.
          StackError: no cohort is large enough.
        """
        self.scheme(Room(self.bits, plan.cohort), speaker or self.name)
        if plan.cohort < self.min_clients:
            raise StackError(
                f"{speaker or self.name} wants min_clients={self.min_clients} in every sum, but cohorts have at most "
                f"{plan.cohort} clients; sample more clients or lower min_clients"
            )

    @abstractmethod
    def scheme(self, room: Room, speaker: str = "") -> Scheme:
        """The scheme for sums that need this room.

        Raises:
          FedprivError: its library is not installed, or it has no such room.
        """
