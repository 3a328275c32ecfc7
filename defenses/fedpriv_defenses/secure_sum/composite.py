"""SecureSum: secure aggregation as users name it, one word for fixed-point encoding and a protocol after it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.fixed_point import FixedPoint


class SecureSum(Defense):
    """Base of the pairs of a codec and a protocol; override `protocol`."""

    replayable: ClassVar[bool] = False

    bits: Annotated[int, Field(ge=8, le=64)] = Field(
        default=32, description="b, from 8 to 64; an element takes b bits on the wire."
    )
    range: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=16.0,
        description=(
            "largest absolute coordinate of a contribution (the update times the client's weight, which is at most "
            "1). Clip the update first to be sure of it: an L2 clip of C allows range = C."
        ),
    )
    resolution: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "step between two values, in update units; None takes the finest power of two that fits the largest cohort."
        ),
    )

    @abstractmethod
    def protocol(self) -> Protocol:
        """The protocol that sums what has been encoded."""

    def codec(self) -> FixedPoint:
        """The encoding before it."""
        return FixedPoint(bits=self.bits, range=self.range, resolution=self.resolution)

    def parts(self) -> tuple[FixedPoint, Protocol]:
        """The two links that this stands for, in order."""
        return self.codec(), self.protocol()

    def check(self, plan: Plan) -> None:
        """Checks both parts, in this defense's name.

        Raises:
          ParameterError: the largest cohort's sum could wrap.
          StackError: no cohort is large enough.
        """
        self.protocol().check_as(plan, self.name)
        self.codec().steps(plan, self.name)

    def replay(self) -> Defense | None:
        """Nothing to replay; see the parts."""
        return None
