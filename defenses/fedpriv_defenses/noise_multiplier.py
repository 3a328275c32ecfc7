"""Noise multiplier: noise's standard deviation over the clip, which a budget may settle; and what its logs say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar
from fedpriv.defense.plan import Plan

#: A noise multiplier; None leaves it to a budget.
Multiplier = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None

#: A round whose noise is longer than the sum by more than this says little by itself.
WEAK_SIGNAL = 0.1


def require_uniform(name: str, plan: Plan) -> None:
    """Raises StackError unless clients are weighted uniformly."""
    if plan.weighting != "uniform":
        raise StackError(
            f"{name} cannot bound one client's influence under weighting='{plan.weighting}', where its share "
            "of the sum depends on how many examples it has; use weighting='uniform'"
        )


def signal_to_noise(total: Flat, stddev: Scalar | float) -> Scalar:
    """The norm of a sum `[d]` over the root mean square norm of normal noise of `stddev` on each coordinate."""
    noise = tf.cast(stddev, total.dtype) * math.sqrt(max(int(total.shape[0]), 1))
    return tf.norm(total) / noise


def warning(log: Mapping[str, float]) -> str:
    """What a round's logs `clipped` and `signal_to_noise` must tell a user, a sentence a line; or ""."""
    said = []
    clipped, ratio = log.get("clipped"), log.get("signal_to_noise")
    if clipped is not None and clipped >= 1:
        said.append("the clip cut every update, so that only directions are left; a larger clip keeps more of them")
    if clipped is not None and clipped <= 0:
        said.append("the clip cut no update, so that noise may be larger than it has to be; try a smaller clip")
    if ratio is not None and ratio < WEAK_SIGNAL:
        said.append(
            f"the noise is more than {1 / WEAK_SIGNAL:.0f} times as long as the sum of the updates; larger cohorts "
            "(or a larger epsilon) make it matter less, and many rounds average it"
        )
    return "\n".join(said)
