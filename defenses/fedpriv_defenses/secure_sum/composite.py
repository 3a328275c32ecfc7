"""SecureSum: secure aggregation as users name it, one word for fixed-point encoding and a protocol after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.defense.domain import Domain, Ring
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.fixed_point import FixedPoint, Range


class LeftOut(Defense):
    """Stands on the line where a secure sum leaves out its own encoding; it does nothing."""

    name: ClassVar[str] = "left_out"
    takes: ClassVar[Domain] = Ring()

    def replay(self) -> Defense | None:
        """Nothing to replay."""
        return None


class SecureSum(Defense):
    """Base of the pairs of a codec and a protocol; name it in `summed_by`, or override `protocol`.

    Where a codec before it gives ring elements already, its own is left out.
    """

    replayable: ClassVar[bool] = False

    bits: Annotated[int, Field(ge=8, le=64)] | None = Field(
        default=32,
        description=(
            "b, from 8 to 64; an element takes b bits on the wire. None takes the fewest whole bytes in "
            "which no sum over the largest cohort wraps, and example counts stay exact."
        ),
    )
    range: Range | None = Field(
        default=16.0,
        description=(
            "largest absolute coordinate of a contribution (the update times the client's weight, which is at most "
            "1). Clip the update first to be sure of it: an L2 clip of C allows range = C; none takes that C."
        ),
    )
    resolution: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "step between two values, in update units; None takes the finest power of two that fits the largest cohort."
        ),
    )

    rounding: Literal["nearest", "stochastic"] = Field(
        default="nearest",
        description="`nearest`, or `stochastic`: up or down at random (by the run's seed), so that the mean is exact.",
    )

    @pydantic.model_validator(mode="after")
    def _parts_exist(self) -> Self:
        try:
            self.parts()
        except pydantic.ValidationError as e:  # parameters that a part refuses, in that part's words
            told = e.errors()[0]
            where = "".join(f"{part}: " for part in told["loc"])
            raise ValueError(where + told["msg"].removeprefix("Value error, ")) from e
        return self

    #: The protocol that sums what has been encoded, which gets this defense's parameters of the same names.
    summed_by: ClassVar[type[Protocol]]

    def protocol(self) -> Protocol:
        """The second part."""
        made = type(self).summed_by
        return made(**{name: getattr(self, name) for name in made.model_fields})

    def codec(self) -> FixedPoint:
        """The encoding before it."""
        return FixedPoint(bits=self.bits, range=self.range, resolution=self.resolution, rounding=self.rounding)

    def parts(self) -> tuple[FixedPoint, Protocol]:
        """The two links that this stands for, in order."""
        return self.codec(), self.protocol()

    def fitted(self, part: Defense, given: Domain, plan: Plan, protocol: Protocol | None) -> Defense:
        """Where ring elements arrive, nothing in place of its own encoding, and the protocol in their ring.

        Raises:
          ParameterError: it was given parameters of an encoding, or other bits.
        """
        if not isinstance(given, Ring) or given.modulus_bits is None:
            return part
        if isinstance(part, FixedPoint):
            return LeftOut()
        if not isinstance(part, Protocol) or part.takes.accepts(given):
            return part
        default = type(self).model_fields["bits"].default
        if self.bits not in (None, default):
            raise ParameterError(
                f"{self.name}: bits={self.bits}, but what arrives are integers mod 2^{given.modulus_bits}; leave bits "
                "out, or give both defenses the same"
            )
        try:
            return part.with_(bits=given.modulus_bits)
        except pydantic.ValidationError as e:
            raise ParameterError(
                f"{self.name} cannot sum integers of {given.modulus_bits} bits, which arrive: "
                f"{e.errors()[0]['msg'].removeprefix('Value error, ')}"
            ) from e

    def check_fitted(self, links: Sequence[Defense], plan: Plan) -> None:
        """As `check`; without its own encoding, the protocol alone."""
        if not isinstance(links[0], LeftOut):
            self.check(plan)
            return
        for name in ("range", "resolution", "rounding"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ParameterError(
                    f"{self.name}: {name}={getattr(self, name)} is of its own encoding, which it leaves out where "
                    f"integers arrive; leave {name} out too"
                )
        links[1].check_as(plan, self.name)  # type: ignore[attr-defined]

    def check(self, plan: Plan) -> None:
        """Checks both parts, in this defense's name.

        Raises:
          ParameterError: the largest cohort's sum could wrap.
          StackError: no cohort is large enough.
        """
        self.protocol().check_as(plan, self.name)
        if self.bits is not None and self.range is not None:  # else the line has settled them, and checked
            self.codec().steps(plan, self.name)

    def replay(self) -> Defense | None:
        """Nothing to replay; see the parts."""
        return None
