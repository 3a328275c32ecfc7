"""AdaptiveCentralDP: central differential privacy whose clip follows a quantile of the updates' norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested, Scalar
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.noise import Noise, given_multiplier
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv_defenses.central_claim import central_claim
from fedpriv_defenses.clip import SMALLEST_NORM, Norm
from fedpriv_defenses.gaussian_query import gaussian_sum_query, noise_assumptions, quantile_query
from fedpriv_defenses.noise_multiplier import (
    Multiplier,
    require_uniform,
    signal_to_noise,
    warning,
)

#: Name of the tally: updates within the clip, less half of all.
WITHIN = "within"
#: Beyond which float32 loses squares of norms.
LARGEST_NORM = 1e15


class AdaptiveCentralDP(Defense):
    """Clips to a quantile of the updates' norms, found under the noise while training; and noises the sum.

    Clients divide their update by the round's clip and keep it to norm 1, so that what they send has a bound that does
    not move, as codecs and secure sums need; the server multiplies the noised sum by the clip. With each update travels
    whether it was within the clip, as 1/2 or -1/2. The noised count moves the clip by TF Privacy's
    QuantileEstimatorQuery, geometrically: Andrew, Thakkar, McMahan, Ramaswamy, 2021, arXiv 1905.03871.

    Formal guarantee, client level, against whoever sees released models: as `central_dp` with the same
    noise_multiplier z. Sum and count together are one Gaussian mechanism, for the sum's own noise is
    (z^-2 - (2 count_stddev)^-2)^(-1/2) times the clip (theorem 1 there). The clip is made of released values alone, so
    clients and adversaries are told it.

    Log: at the client `norm` and `clipped`; at the server `clip`, `noise_stddev` of the sum, `signal_to_noise`, and
    `within`, the noised share of updates within the clip.
    """

    name: ClassVar[str] = "adaptive_central_dp"
    paper: ClassVar[str] = "Andrew, Thakkar, McMahan, Ramaswamy, 2021, arXiv 1905.03871"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    noise_multiplier: Multiplier = Field(
        default=None,
        description="z, as if the sum were noised alone: the account is that of z, count included. None leaves it to "
        "a budget.",
    )
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="share of updates that the clip should leave as they are; 0.5 is the median."
    )
    initial_clip: Norm = Field(default=0.1, description="the first round's clip, in update units.")
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=0.2, description="a round changes the clip by at most a factor of exp(learning_rate)."
    )
    count_stddev: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "standard deviation of the noise on the count of updates within the clip, in clients, as in a simulated "
            "federation where one is. None takes a twentieth of the cohort, but no less than noise_multiplier."
        ),
    )

    def check(self, plan: Plan) -> None:
        """Raises StackError unless weighting is uniform; ParameterError if the noise is left open or cannot be had."""
        require_uniform(self.name, plan)
        self.sum_multiplier(plan)

    def _count_stddev(self, plan: Plan) -> float:
        """Noise on the count, in the federation accounted for."""
        if self.count_stddev is not None:
            return self.count_stddev
        cohort = plan.expected_cohort / plan.noise_factor
        return max(cohort / 20, given_multiplier(self))

    def sum_multiplier(self, plan: Plan) -> float:
        """Noise on the sum over the clip, larger than noise_multiplier by what the count takes of the budget.

        Raises:
          ParameterError: the count alone takes more.
        """
        z, count = given_multiplier(self), self._count_stddev(plan)
        if z >= 2 * count:
            raise ParameterError(
                f"{self.name}: count_stddev={count:g} is too little for noise_multiplier={z:g}: the count alone would "
                f"spend more than that allows; give count_stddev above {z / 2:g}, such as {z:g}"
            )
        return z / math.sqrt(1 - (z / (2 * count)) ** 2)

    def initial_state(self, plan: Plan) -> Nested:
        """The clip."""
        return (np.float32(self.initial_clip),)

    def tallies(self, plan: Plan) -> Mapping[str, float]:
        """Whether the update was within the clip."""
        return {WITHIN: 0.5}

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most 1, in units of the clip."""
        return Real(1.0)

    def noise(self, plan: Plan) -> Noise:
        """Normal noise on the sum; how much of it follows the clip."""
        return Noise("gaussian", None, "aggregate")

    def warn(self, log: Mapping[str, float]) -> str:
        """That noise drowns the sum; what the clip cuts changes while it is looked for."""
        return warning({k: v for k, v in log.items() if k != "clipped"})

    def update(self, update: Flat, context: Context) -> Passed:
        """One update `[d]` over the clip, of norm at most 1."""
        clip = _clip(context, update.dtype)
        within, value, norm = _normalized(update, clip)
        plan = context.plan
        query = self._quantile_query(clip, plan, context)
        tally = query.preprocess_record(query.derive_sample_params(query.initial_global_state()), norm)
        return Passed(value, tally={WITHIN: tally}, log={"norm": norm, "clipped": 1 - within})

    def _quantile_query(self, clip: Scalar, plan: Plan, context: Context) -> Any:
        stddev = self._count_stddev(plan) * plan.noise_factor
        drawn = context.words(4 if plan.secure_rng else 2, stream=1)
        return quantile_query(clip, self.quantile, self.learning_rate, stddev, plan.expected_cohort, drawn)

    def aggregate(self, total: Flat, context: Context) -> Passed:
        """Noises the sum `[d]` and the count, gives the sum in update units, and moves the clip."""
        plan = context.plan
        clip = _clip(context, total.dtype)
        stddev = self.sum_multiplier(plan) * plan.noise_factor
        sums = gaussian_sum_query(1.0, stddev, context.seed)
        noised, _, _ = sums.get_noised_result(total, sums.initial_global_state())
        counts = self._quantile_query(clip, plan, context)
        tally = tf.cast(context.tally[WITHIN], tf.float32)
        moved, _, _ = counts.get_noised_result(tally, counts.initial_global_state())
        within = self.quantile - tf.math.log(moved / tf.cast(clip, tf.float32)) / self.learning_rate
        moved = tf.clip_by_value(moved, SMALLEST_NORM, LARGEST_NORM)
        log = {
            "clip": clip,
            "noise_stddev": clip * tf.cast(stddev, total.dtype),
            "within": within,
        }
        if stddev:
            log["signal_to_noise"] = signal_to_noise(total, stddev)
        return Passed(clip * noised, log=log, state=(moved,))

    def replay(self) -> Defense:
        """The clip alone, in the units that clients send in."""
        return Normalized()

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """One client-level claim against `released`, over sum and count; of lengths in units of the clip."""
        longest = 1.0 if contribution.l2 is None else contribution.l2
        assumes: tuple[str, ...] = noise_assumptions(plan)
        if longest > 1:
            assumes += (
                f"rounding on the way lengthens an update by at most {longest - 1:.3g} of the clip, which is accounted "
                "for",
            )
        sum_noise, count_noise = self.sum_multiplier(plan) / longest, 2 * self._count_stddev(plan)
        multiplier = sum_noise / math.hypot(1.0, sum_noise / count_noise)
        return [central_claim(multiplier, plan, assumes, longest, covers_tally=True)]


class Normalized(Defense):
    """What an adversary who knows `adaptive_central_dp` replays of it. Formal guarantee: none, it adds no noise."""

    name: ClassVar[str] = "normalized"

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most 1."""
        return Real(1.0)

    def update(self, update: Flat, context: Context) -> Flat:
        """One update `[d]` over the clip, of norm at most 1."""
        return _normalized(update, _clip(context, update.dtype))[1]

    def released(self, mean: Flat, state: Nested) -> Flat:
        """In update units."""
        return mean * tf.cast(state[0], mean.dtype)


def _clip(context: Context, dtype: object) -> Scalar:
    return tf.cast(context.state[0], dtype)


def _normalized(update: Flat, clip: Scalar) -> tuple[Scalar, Flat, Scalar]:
    """(1 where an update `[d]` is within the clip, else 0; the update over the clip, of norm at most 1; its norm)."""
    square = tf.reduce_sum(tf.square(update))
    # The root's derivative at zero is infinite; an attack that differentiates a replay may start there.
    nothing = tf.equal(square, 0)
    norm = tf.sqrt(tf.where(nothing, tf.ones_like(square), square))
    norm = tf.where(nothing, tf.zeros_like(norm), norm)
    value = update / tf.maximum(norm, clip)
    # A norm beyond floats would scale to zero; not-a-number instead lets the engine name the client.
    value = tf.where(tf.math.is_finite(norm), value, norm - norm)
    return tf.cast(norm <= clip, update.dtype), value, norm
