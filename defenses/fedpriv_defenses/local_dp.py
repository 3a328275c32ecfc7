"""LocalDP: each client adds Gaussian noise to its own update, trusting nobody."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import dp_accounting, tf
from fedpriv.base.types import Flat
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Real
from fedpriv.defense.noise import Noise, given_multiplier
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv_defenses.clip import Clip, Norm
from fedpriv_defenses.gaussian_query import gaussian_sum_query, noise_assumptions
from fedpriv_defenses.noise_multiplier import Multiplier


class LocalDP(Defense):
    """Clips an update and adds Gaussian noise to it, both at the client.

    The noise on each coordinate has standard deviation noise_multiplier * clip, by TF Privacy's GaussianSumQuery
    over the one record. Local differential privacy: Kasiviswanathan et al., 2011, arXiv 0803.0924; with Gaussian
    noise against gradient inversion: Zhu, Liu, Han, 2019, arXiv 1906.08935.

    Formal guarantees, client level:
    - Against the server, one message: replacing all of a client's data moves the clipped update by up to 2 clip,
      so each round is a Gaussian mechanism of multiplier noise_multiplier / 2 for `replace_one`. Sampling does not
      amplify it, for the server sees who takes part, and every round counts, for a client may be drawn in each.
    - Against whoever sees released models only, where every cohort has exactly m clients (fixed size or full
      participation) and weights are uniform: the m noises add up, so the sum is a Gaussian mechanism of multiplier
      noise_multiplier * sqrt(m) / 2 for `replace_one`, amplified by fixed-size sampling. Under Poisson sampling the
      amount of noise itself depends on who takes part, and weights by example count change it with the data, so
      nothing is claimed there beyond the message's own guarantee.

    Log: `norm` and `clipped` as for Clip, `noise_norm`, and `signal_to_noise`, the clipped update's norm over that.
    """

    name: ClassVar[str] = "local_dp"
    paper: ClassVar[str] = "Kasiviswanathan et al., 2011, arXiv 0803.0924"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    clip: Norm = Field(description="L2 norm bound of the update before noise, in update units.")
    noise_multiplier: Multiplier = Field(
        default=None,
        description=(
            "noise standard deviation over `clip`. The noise's norm is about noise_multiplier * clip * sqrt(d), so "
            "even 0.01 outweighs the update of a model of more than 10,000 weights. None leaves it to a budget."
        ),
    )

    def check(self, plan: Plan) -> None:
        """Raises ParameterError if the noise was left open, StackError where a larger federation is simulated."""
        given_multiplier(self)
        if plan.simulates is not None:
            raise StackError(
                f"{self.name} protects each message by itself, whatever the cohort, so simulates=({plan.simulates}) "
                "has no meaning for it; leave that out, or use central_dp"
            )

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise on each coordinate of one update."""
        return given_multiplier(self) * self.clip

    def noise(self, plan: Plan) -> Noise:
        """Normal noise on each update."""
        return Noise("gaussian", self.stddev, "update")

    def update(self, update: Flat, context: Context) -> Passed:
        """Clips and noises one update `[d]`; the noise is drawn from `context.seed`."""
        query = gaussian_sum_query(self.clip, self.stddev, context.seed)
        state = query.initial_global_state()
        params = tf.cast(query.derive_sample_params(state), update.dtype)
        (clipped,), norm = query.preprocess_record_impl(params, [update])
        noised, _, _ = query.get_noised_result(clipped, state)
        log = {
            "norm": norm,
            "clipped": tf.cast(norm > tf.cast(self.clip, norm.dtype), update.dtype),
            "noise_norm": tf.norm(noised - clipped),
        }
        if self.noise_multiplier:
            log["signal_to_noise"] = tf.norm(clipped) / log["noise_norm"]
        return Passed(noised, log=log)

    def replay(self) -> Defense:
        """The clip alone: the noise's mean is zero, and its draw is unknown to an adversary."""
        return Clip(norm=self.clip)

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """A claim against `server`; one against `released` where all cohorts are equally large."""
        multiplier, assumed = given_multiplier(self), noise_assumptions(plan)
        message = Claim(
            event=dp_accounting.GaussianDpEvent(multiplier / 2),
            unit="client",
            relation="replace_one",
            against="server",
            amplified=False,
            assumes=(
                "who takes part, and how many examples each has, is not protected",
                "nothing else about a client's data leaves it: no losses, norms or other metrics, and not that its "
                "update was left out, or stopped the run, since it was not finite",
                *assumed,
            ),
        )
        if not plan.sampling.equal_cohorts or plan.weighting != "uniform":
            return [message]
        cohort = plan.sampling.largest(plan.population)
        total = Claim(
            event=dp_accounting.GaussianDpEvent(multiplier * math.sqrt(cohort) / 2),
            unit="client",
            relation="replace_one",
            against="released",
            amplified=True,
            about_sum=True,
            checks=frozenset({"everyone arrives", "cohorts are drawn", "rounds are finished"}),
            assumes=(
                f"all {cohort} clients of a cohort add their noise and arrive, and only the sum leaves the server",
                "cohorts are drawn as the sampling says, secret from whoever sees the models",
                *assumed,
            ),
        )
        return [message, total]
