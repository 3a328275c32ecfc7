"""CentralDP: client-level differential privacy with noise added by a trusted server (DP-FedAvg)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.noise import Noise, given_multiplier
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv_defenses.adaptive_central_dp import AdaptiveCentralDP
from fedpriv_defenses.central_claim import central_claim
from fedpriv_defenses.clip import Clip, Norm
from fedpriv_defenses.gaussian_query import gaussian_sum_query, noise_assumptions
from fedpriv_defenses.noise_multiplier import (
    Multiplier,
    require_uniform,
    signal_to_noise,
    warning,
)


class CentralDP(Defense):
    """Clips each update at its client and adds Gaussian noise to the sum at the server.

    The noise on each coordinate of the sum has standard deviation noise_multiplier * clip; the server divides by
    the expected cohort size, a public constant, so the released mean carries that over the expected cohort. DP-FedAvg
    of McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963, on TF Privacy's GaussianSumQuery. Without a clip it is
    `adaptive_central_dp` with its defaults, which finds the median norm under the noise.

    Formal guarantee, client level, against whoever sees released models (not the server, which sees messages
    unless a secure sum hides them, and draws the noise): each round is a Gaussian mechanism of multiplier
    - noise_multiplier, for one client added or removed, under Poisson sampling (amplified) or full participation;
    - noise_multiplier / 2, for one client replaced, under fixed-size sampling (amplified), since replacing moves
      the sum by up to 2 clip.
    The ledger composes rounds. Uniform weighting is required: with weights by example count a client's share would
    depend on its data. Where a larger federation is simulated (`Plan.simulates`) the noise is scaled down in proportion
    and the guarantee is that federation's.

    Log: at the client `norm` and `clipped` as for Clip; at the server `noise_stddev`, of the sum, and
    `signal_to_noise`, the norm of the sum over that of the noise.
    """

    name: ClassVar[str] = "central_dp"
    paper: ClassVar[str] = "McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    clip: Norm | None = Field(
        default=None,
        description=(
            "L2 norm bound of one update, in update units; often the median norm of unclipped updates, which a "
            "training without defenses prints. None adapts it to the median, privately, as `adaptive_central_dp`."
        ),
    )
    noise_multiplier: Multiplier = Field(
        default=None,
        description=(
            "noise standard deviation over `clip`; 1 or more for single-digit epsilons with small cohorts. 0 clips "
            "only and earns no epsilon. None leaves it to a budget."
        ),
    )

    def parts(self) -> tuple[Defense, ...]:
        """Itself; without a clip the defense that finds one."""
        return (self,) if self.clip is not None else (AdaptiveCentralDP(noise_multiplier=self.noise_multiplier),)

    def check(self, plan: Plan) -> None:
        """Raises StackError unless clients are weighted uniformly, ParameterError if the noise was left open."""
        require_uniform(self.name, plan)
        given_multiplier(self)

    @property
    def _clip(self) -> float:
        assert self.clip is not None  # without one another link stands in
        return self.clip

    def stddev(self, plan: Plan) -> float:
        """Standard deviation of the noise on each coordinate of the sum."""
        return given_multiplier(self) * self._clip * plan.noise_factor

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most `clip`, and of any smaller bound it came with."""
        known = given.l2 if isinstance(given, Real) else None
        return Real(self._clip if known is None else min(self._clip, known))

    def noise(self, plan: Plan) -> Noise:
        """Normal noise on the sum."""
        return Noise("gaussian", self.stddev(plan), "aggregate")

    def warn(self, log: Mapping[str, float]) -> str:
        """That the clip cuts everything or nothing, or that noise drowns the sum."""
        return warning(log)

    def update(self, update: Flat, context: Context) -> Passed:
        """Clips one update `[d]` through the query."""
        query = gaussian_sum_query(self._clip, self.stddev(context.plan), context.seed)
        params = query.derive_sample_params(query.initial_global_state())
        (clipped,), norm = query.preprocess_record_impl(tf.cast(params, update.dtype), [update])
        over = tf.cast(norm > tf.cast(self._clip, norm.dtype), update.dtype)
        return Passed(clipped, log={"norm": norm, "clipped": over})

    def aggregate(self, total: Flat, context: Context) -> Passed:
        """Adds noise to the sum `[d]` through the query, drawn from `context.seed`."""
        stddev = self.stddev(context.plan)
        query = gaussian_sum_query(self._clip, stddev, context.seed)
        noised, _, _ = query.get_noised_result(total, query.initial_global_state())
        log = {"noise_stddev": tf.cast(stddev, total.dtype)}
        if stddev:
            log["signal_to_noise"] = signal_to_noise(total, stddev)
        return Passed(noised, log=log)

    def replay(self) -> Defense:
        """The clip alone: what an adversary who knows the defense can replay."""
        return Clip(norm=self._clip)

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """One client-level claim against `released`, for the longest contribution that can arrive."""
        longest = self._clip if contribution.l2 is None else contribution.l2
        assumes: tuple[str, ...] = noise_assumptions(plan)
        if longest > self._clip:
            more = longest - self._clip
            assumes += (f"rounding on the way lengthens an update by at most {more:.3g}, which is accounted for",)
        # What the simulated federation adds to its own sum.
        stddev = self.stddev(plan) / plan.noise_factor
        return [central_claim(stddev / longest, plan, assumes, longest)]
