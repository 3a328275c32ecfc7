"""CentralDP: client-level differential privacy with noise added by a trusted server (DP-FedAvg)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.noise import Noise, given_multiplier
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv_defenses.central_claim import central_claim
from fedpriv_defenses.clip import Clip, Norm
from fedpriv_defenses.gaussian_query import NOISE_ASSUMPTIONS, gaussian_sum_query


class CentralDP(Defense):
    """Clips each update at its client and adds Gaussian noise to the sum at the server.

    The noise on each coordinate of the sum has standard deviation noise_multiplier * clip; the server divides by
    the expected cohort size, a public constant, so the released mean carries that over the expected cohort. DP-FedAvg
    of McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963, on TF Privacy's GaussianSumQuery.

    Formal guarantee, client level, against whoever sees released models (not the server, which sees messages
    unless a secure sum hides them, and draws the noise): each round is a Gaussian mechanism of multiplier
    - noise_multiplier, for one client added or removed, under Poisson sampling (amplified) or full participation;
    - noise_multiplier / 2, for one client replaced, under fixed-size sampling (amplified), since replacing moves
      the sum by up to 2 clip.
    The ledger composes rounds. Uniform weighting is required: with weights by example count a client's share would
    depend on its data.

    Log: at the client `norm` and `clipped` as for Clip; at the server `noise_stddev`, of the sum.
    """

    name: ClassVar[str] = "central_dp"
    paper: ClassVar[str] = "McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963"
    replayable: ClassVar[bool] = False

    clip: Norm = Field(
        description="L2 norm bound of one update, in update units; often the median norm of unclipped updates."
    )
    noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "noise standard deviation over `clip`; 1 or more for single-digit epsilons with small cohorts. 0 clips "
            "only and earns no epsilon. None leaves it to the budget."
        ),
    )

    def check(self, plan: Plan) -> None:
        """Raises StackError unless clients are weighted uniformly."""
        if plan.weighting != "uniform":
            raise StackError(
                f"central_dp cannot bound one client's influence under weighting='{plan.weighting}', where its share "
                "of the sum depends on how many examples it has; use weighting='uniform'"
            )

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of the sum."""
        return given_multiplier(self) * self.clip

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most `clip`, and of any smaller bound it came with."""
        known = given.l2 if isinstance(given, Real) else None
        return Real(self.clip if known is None else min(self.clip, known))

    def noise(self, plan: Plan) -> Noise:
        """Normal noise on the sum."""
        return Noise("gaussian", self.stddev, "aggregate")

    def update(self, update: Flat, context: Context) -> Passed:
        """Clips one update `[d]` through the query."""
        query = gaussian_sum_query(self.clip, self.stddev, context.seed)
        params = query.derive_sample_params(query.initial_global_state())
        (clipped,), norm = query.preprocess_record_impl(tf.cast(params, update.dtype), [update])
        over = tf.cast(norm > tf.cast(self.clip, norm.dtype), update.dtype)
        return Passed(clipped, log={"norm": norm, "clipped": over})

    def aggregate(self, total: Flat, context: Context) -> Passed:
        """Adds noise to the sum `[d]` through the query, drawn from `context.seed`."""
        query = gaussian_sum_query(self.clip, self.stddev, context.seed)
        noised, _, _ = query.get_noised_result(total, query.initial_global_state())
        return Passed(noised, log={"noise_stddev": tf.cast(self.stddev, total.dtype)})

    def replay(self) -> Defense:
        """The clip alone: what an adversary who knows the defense can replay."""
        return Clip(norm=self.clip)

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """One client-level claim against `released`, for the longest contribution that can arrive."""
        longest = self.clip if contribution.l2 is None else contribution.l2
        assumes: tuple[str, ...] = NOISE_ASSUMPTIONS
        if longest > self.clip:
            more = longest - self.clip
            assumes += (f"rounding on the way lengthens an update by at most {more:.3g}, which is accounted for",)
        return [central_claim(self.stddev / longest, plan, assumes, longest)]
