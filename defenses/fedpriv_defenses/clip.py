"""Clip: bounds how long one client's update may be."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan

#: Squares of shorter vectors vanish in float32, and with them the norm that a clip goes by.
SMALLEST_NORM = 1e-15
#: Squares of longer ones are infinite there.
LARGEST_NORM = 1e18


def _resolved(value: float) -> float:
    if value < SMALLEST_NORM:
        raise ValueError(f"squares of so short a vector vanish in float32; give {SMALLEST_NORM:g} or more")
    if value > LARGEST_NORM:
        raise ValueError(f"squares of so long a vector are beyond float32; give {LARGEST_NORM:g} or less")
    return value


#: An L2 norm to clip to, in update units.
Norm = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_resolved)]


class Clip(Defense):
    """Scales an update down to an L2 norm of at most `norm`.

    Formal guarantee: the output's L2 norm is at most `norm` (up to float rounding, a relative 1e-6 in float32), so
    adding or removing one client changes a sum of clipped updates by at most `norm`, and replacing one by at most
    2 `norm`, in L2. That is a sensitivity, and *not* privacy: without noise no epsilon follows, the direction of
    the update passes unchanged, and a gradient-inversion attack that compares directions does not notice. Abadi et
    al., 2016, arXiv 1607.00133; for whole clients McMahan et al., 2018, arXiv 1710.06963.

    Log: `norm`, the L2 norm before; `clipped`, 1 where it was above `norm` (so the cohort mean is the
    fraction clipped).
    """

    name: ClassVar[str] = "clip"
    paper: ClassVar[str] = "Abadi et al., 2016, arXiv 1607.00133"
    adaptive_attack: ClassVar[str] = "dlg"

    norm: Norm = Field(
        description="largest L2 norm, in update units; the median norm of unclipped updates is a common start."
    )

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most `norm`, and of any smaller bound it came with."""
        known = given.l2 if isinstance(given, Real) else None
        return Real(self.norm if known is None else min(self.norm, known))

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`; a zero update stays zero, with a zero (not undefined) derivative of its norm."""
        bound = tf.cast(self.norm, update.dtype)
        square = tf.reduce_sum(tf.square(update))
        # The root's derivative at zero is infinite; an attack that differentiates a replay may start there.
        length = tf.sqrt(tf.where(square > 0, square, tf.ones_like(square)))
        length = tf.where(square > 0, length, tf.zeros_like(length))
        clipped = length > bound
        scale = tf.where(clipped, bound / tf.where(clipped, length, bound), tf.ones_like(length))
        # A norm beyond floats would scale to zero; not-a-number instead lets the engine name the client.
        scale = tf.where(tf.math.is_finite(length), scale, length - length)
        return Passed(update * scale, log={"norm": length, "clipped": tf.cast(clipped, update.dtype)})
