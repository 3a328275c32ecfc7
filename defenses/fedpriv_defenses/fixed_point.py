"""FixedPoint: float vectors as integers modulo 2^b, with room for the sum of a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pydantic
from pydantic import AfterValidator, Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import uniform
from fedpriv.base.types import Scalar, Seed, Tensor
from fedpriv.defense.codec import Codec
from fedpriv.defense.domain import Domain, Real, Ring
from fedpriv.defense.stations import Defense, Plan

#: float32 weights n / max_examples still round back to n below this many examples.
_EXACT_EXAMPLES = 1 << 22


#: Share of the updates' nonzero values that may become 0 before a user is told.
COARSE = 0.9

#: How far float32 rounding takes a coordinate beyond the norm that its vector was clipped to, relative to it.
ROUNDING = 1e-6


def _float32(value: float) -> float:
    """Refuses a range that the float32 values of an update cannot be told to keep."""
    limits = np.finfo(np.float32)
    if not float(limits.tiny) <= value <= float(limits.max):
        raise ValueError(f"{value:g} is beyond what float32 updates resolve; give a range from 1.2e-38 to 3.4e+38")
    return value


#: A largest absolute coordinate.
Range = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_float32)]


@dataclass(frozen=True)
class Steps:
    """What one unit of an integer stands for, in each part of a contribution.

    Attributes:
      limit: largest absolute value that fits.
      step: of the d values.
      weight: of the client's weight, which lies in [0, 1].
      tally: of the tallies, which lie in [-1, 1].
      bits: b.
    """

    limit: float
    step: float
    weight: float
    tally: float
    bits: int


class FixedPoint(Codec):
    """Fixed-point encoding modulo 2^b: what an integer-only protocol needs before it.

    A value x with |x| <= range becomes round(x / step) in two's complement modulo 2^b. With `rounding=nearest`, ties to
    even, it is off by at most step / 2, so a decoded sum is off by at most step / 2 a client. With
    `rounding=stochastic` it becomes one of its two neighbours, the nearer one with the higher probability, so that its
    mean is x (Gupta et al., 2015, arXiv 1502.02551): a sum is off by less than a step a client, and by nothing on
    average. The client's weight and the tallies have steps of their own; weights are rounded to nearest always, and
    are exact where example counts fit. Sums of encoded vectors wrap, but not within the federation's largest cohort: it
    is checked beforehand that even the largest values of all its clients add up to less than 2^(b-1).

    What is left open is chosen: `resolution=none` from bits, range and cohort, `bits=none` from resolution, range and
    cohort, `range=none` from the L2 bound on updates that arrives.

    Formal guarantee: none, it is arithmetic. Rounding may lengthen an update, which the ledger accounts for.
    """

    name: ClassVar[str] = "fixed_point"
    replayable: ClassVar[bool] = False

    bits: Annotated[int, Field(ge=8, le=64)] | None = Field(
        default=32,
        description=(
            "b, from 8 to 64; none takes the fewest whole bytes in which no sum over the largest cohort wraps, and "
            "example counts stay exact."
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
            "step between two values, in update units; None takes the finest power of two that fits the largest "
            "cohort. The log value `rounded_away` tells whether it is too coarse."
        ),
    )

    rounding: Literal["nearest", "stochastic"] = Field(
        default="nearest",
        description="`nearest`, or `stochastic`: up or down at random (by the run's seed), so that the mean is exact.",
    )

    @pydantic.model_validator(mode="after")
    def _enough_is_given(self) -> Self:
        if self.bits is None and self.resolution is None:
            raise ValueError("bits=none takes the fewest bits for a resolution, and none is given; give one of the two")
        return self

    def settled(self, given: Domain, plan: Plan, speaker: str) -> FixedPoint:
        """With the range from the bound that arrives, then the bits from the range, where these are None."""
        found = self
        if found.range is None:
            if not isinstance(given, Real) or not given.l2:
                raise ParameterError(
                    f"{speaker}: range=none takes the L2 bound on a client's update, and nothing bounds it here; put "
                    "clip(norm=...) before it, or give range"
                )
            try:
                found = found.with_(range=given.l2)
            except pydantic.ValidationError as e:
                why = e.errors()[0]["msg"].removeprefix("Value error, ")
                raise ParameterError(f"{speaker}: range=none takes the L2 bound on a client's update, but {why}") from e
        if found.bits is None:
            found = found.with_(bits=found._fewest_bits(plan, speaker))
        return found

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Integers mod 2^bits."""
        return Ring(self.bits if self.bits is not None else self.settled(given, plan, self.name).bits)

    def check(self, plan: Plan) -> None:
        """Raises ParameterError if the largest cohort's sum could wrap."""
        self.steps(plan)

    def steps(self, plan: Plan, speaker: str = "") -> Steps:
        """The steps that leave room for a sum over `plan.cohort` clients.

        Args:
          plan: the federation's facts.
          speaker: the name of the defense to blame in messages; this one's by default.

        Raises:
          ParameterError: none do; the message says which bits, range or resolution would.
        """
        speaker = speaker or self.name
        if self.bits is None or self.range is None:
            return self.settled(Real(), plan, speaker).steps(plan, speaker)
        largest = ((1 << (self.bits - 1)) - 1) // plan.cohort  # of one client's integers, so that no sum can wrap
        if largest < 1:
            raise ParameterError(
                f"{speaker}: bits={self.bits} cannot hold a sum over {plan.cohort} clients; use bits >= "
                f"{plan.cohort.bit_length() + 1} or smaller cohorts"
            )
        limit = float(np.float32(self.range))
        if self.resolution is None:
            step = finest_power_of_two(limit, largest)
        else:
            step = self._checked_step(self.resolution, limit, largest, plan.cohort, speaker)
        return Steps(limit, step, _weight_step(plan, largest), finest_power_of_two(1.0, largest), self.bits)

    def quantize(self, contribution: Tensor, plan: Plan, seed: Seed) -> tuple[Tensor, Scalar]:
        """See Codec. Where something does not fit, or is not finite, its element is 0 and the bool is False.

        Rounding to nearest is deterministic and leaves the seed unused.
        """
        at, d = self.steps(plan), plan.spec.size
        exact = tf.cast(contribution, tf.float64)  # scaling by a power of two is then free of rounding
        values, weight, tallies = exact[:d], exact[d : d + 1], exact[d + 1 :]
        # A clip to the limit leaves some coordinates one rounding above it: those count as the limit.
        fits = tf.concat(
            [tf.abs(values) <= at.limit * (1 + ROUNDING), (weight >= 0) & (weight <= 1), tf.abs(tallies) <= 1], 0
        )
        values = tf.clip_by_value(values, -at.limit, at.limit)
        scaled = tf.concat([values / at.step, weight / at.weight, tallies / at.tally], 0)
        scaled = tf.where(fits, scaled, tf.zeros_like(scaled))
        rounded = tf.round(scaled)
        if self.rounding == "stochastic":
            below = tf.floor(scaled)
            up = tf.cast(uniform(seed, tf.shape(scaled)) < scaled - below, tf.float64)
            # Weights stay exact: float32 leaves them a little off the integers that they stand for.
            is_weight = tf.range(tf.shape(scaled)[0]) == d
            rounded = tf.where(is_weight, rounded, below + up)
        integers = tf.cast(rounded, tf.int64)
        if at.bits < 64:
            integers = tf.bitwise.bitwise_and(integers, tf.constant((1 << at.bits) - 1, tf.int64))
        return integers, tf.reduce_all(fits)

    def decode(self, total: Tensor, count: Scalar, plan: Plan) -> Tensor:
        """See Codec. Exact while the integers stay below 2^53, beyond that rounded to float64."""
        at, d = self.steps(plan), plan.spec.size
        unused = tf.constant(64 - at.bits, tf.int64)
        signed = tf.bitwise.right_shift(tf.bitwise.left_shift(total, unused), unused)  # arithmetic: copies the sign
        floats = tf.cast(signed, tf.float64)
        return tf.concat([floats[:d] * at.step, floats[d : d + 1] * at.weight, floats[d + 1 :] * at.tally], 0)

    def l2_error(self, plan: Plan) -> float:
        """Rounding moves each of d coordinates by at most step / 2 to the nearest, by less than a step at random."""
        most = self.steps(plan).step * (1.0 if self.rounding == "stochastic" else 0.5)
        return math.sqrt(plan.spec.size) * most

    def diagnose(self, contribution: Tensor, encoded: Tensor, plan: Plan) -> dict[str, Scalar | float]:
        """`rounded_away`: the share of the nonzero values that became 0; 1 says that `resolution` is too coarse."""
        given = contribution[: plan.spec.size] != 0
        lost = tf.cast(given & (encoded[: plan.spec.size] == 0), tf.float32)
        return {"rounded_away": tf.math.divide_no_nan(tf.reduce_sum(lost), tf.reduce_sum(tf.cast(given, tf.float32)))}

    def warn(self, log: Mapping[str, float]) -> str:
        """That nothing, or hardly anything, of the updates was left."""
        lost = log.get("rounded_away", 0.0)
        if lost < COARSE:
            return ""
        return (
            f"rounding to a multiple of the resolution made {lost:.1%} of the updates' nonzero values 0; a finer "
            "resolution, a smaller range or more bits keep them"
        )

    def replay(self) -> Defense | None:
        """Nothing to replay: rounding to `step` is below what an attack can see, and has no derivative."""
        return None

    def _reached(self, limit: float, step: float) -> int:
        """The largest integer, as `quantize` divides and rounds."""
        if not limit / step < 2**62:
            return 1 << 62
        return math.ceil(limit / step) if self.rounding == "stochastic" else round(limit / step)

    def _fewest_bits(self, plan: Plan, speaker: str) -> int:
        assert self.range is not None
        assert self.resolution is not None
        limit = float(np.float32(self.range))
        reached = max(1, self._reached(limit, self.resolution))
        if plan.weighting == "examples" and plan.max_examples <= _EXACT_EXAMPLES:
            reached = max(reached, plan.max_examples)
        whole = 8 * -(-((reached * plan.cohort).bit_length() + 1) // 8)
        if whole > 64:
            raise ParameterError(
                f"{speaker}: a sum over {plan.cohort} clients of values up to range={self.range:g} in steps of "
                f"{self.resolution:g} takes {whole} bits, and there are 64; use a coarser resolution"
            )
        return whole

    def _checked_step(self, step: float, limit: float, largest: int, cohort: int, speaker: str) -> float:
        assert self.bits is not None
        needed = self._reached(limit, step)
        if step > limit:
            raise ParameterError(
                f"{speaker}: resolution={step:g} is coarser than range={self.range:g}, so every value would round "
                "away; use one well below the range"
            )
        if needed > 1 << 52:
            raise ParameterError(
                f"{speaker}: range / step = {limit / step:.3g} is finer than float64 resolves; use resolution >= "
                f"{limit / (1 << 52):.3g}"
            )
        if needed > largest:
            bits = (needed * cohort).bit_length() + 1
            wider = f"bits >= {bits}, " if bits <= 64 else ""
            raise ParameterError(
                f"{speaker}: a sum over {cohort} clients of values up to range={self.range:g} in steps of {step:g} "
                f"reaches {needed * cohort}, beyond 2^{self.bits - 1} - 1 for bits={self.bits}; use {wider}"
                f"range <= {largest * step:.6g}, or resolution >= {finest_power_of_two(limit, largest):.6g}"
            )
        return step


def finest_power_of_two(limit: float, largest: int) -> float:
    """The smallest power of two s with limit / s <= largest."""
    exponent = math.frexp(limit)[1] - largest.bit_length() - 1
    while Fraction(limit) > largest * Fraction(2) ** exponent:
        exponent += 1
    return math.ldexp(1.0, exponent)


def _weight_step(plan: Plan, largest: int) -> float:
    if plan.weighting == "uniform":
        return 1.0
    if plan.max_examples <= min(largest, _EXACT_EXAMPLES):
        return 1.0 / plan.max_examples  # the integers are then the example counts themselves
    return finest_power_of_two(1.0, largest)
