"""DiscreteNoise: the codec of distributed differential privacy: rotated, scaled, rounded, noised, modulo 2^b."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Seed, Tensor
from fedpriv.defense.claim import Check, Claim
from fedpriv.defense.codec import Codec
from fedpriv.defense.context import Context
from fedpriv.defense.domain import Domain, Real, Ring
from fedpriv.defense.event import RenyiEvent
from fedpriv.defense.noise import Noise
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.clip import Norm
from fedpriv_defenses.distributed.divergence import NoisySum, sampled_without_replacement
from fedpriv_defenses.distributed.rotation import Rotation
from fedpriv_defenses.distributed.rounding import conditional_rounding
from fedpriv_defenses.distributed.sampler import TV_BITS, Mechanism, Words, table
from fedpriv_defenses.distributed.sizes import Asked, Sizes, sizes
from fedpriv_defenses.fixed_point import finest_power_of_two
from fedpriv_defenses.noise_multiplier import require_uniform

#: Coordinates of a sum in the outer quarter of the modulus: more of them than this and some have wrapped.
CROWDED = 0.02
#: What the noise takes words of; a draw takes those of the next stream too.
_NOISE, _ROUNDING = 0, 2


class DiscreteNoise(Codec):
    """A link of `distributed_dp`, which says what it does; not for use by itself.

    Attributes:
      least_clients: clients that a sum which comes out holds at least; None before that is known.
      reveals_integers, wraps: as in `Asked`.
    """

    name: ClassVar[str] = "discrete_noise"
    paper: ClassVar[str] = "Kairouz, Liu, Steinke 2021, arXiv 2102.06387; Agarwal, Kairouz, Liu 2021, arXiv 2110.04995"
    replayable: ClassVar[bool] = False

    clip: Norm
    noise_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    mechanism: Mechanism
    bits: Annotated[int, Field(ge=8, le=60)] | None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    sigmas: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    beta: Annotated[float, Field(gt=0, lt=1)]
    colluding: Annotated[int, Field(ge=0)]
    rotation_seed: int
    least_clients: Annotated[int, Field(ge=1)] | None = None
    reveals_integers: bool = False
    wraps: bool = True

    def settled(self, given: Domain, plan: Plan, speaker: str) -> DiscreteNoise:
        """With the bits that fit cohort and noise, where they are None.

        Raises:
          StackError: weights by example count, or no protocol behind it.
          ParameterError: no noise, or no sizes that fit.
        """
        require_uniform(speaker, plan)
        return self.with_(bits=self.sizes(plan, speaker).bits)

    def asked(self, plan: Plan, speaker: str = "distributed_dp") -> Asked:
        """What its sizes follow from."""
        if self.noise_multiplier is None:
            raise ParameterError(
                f"{speaker}: noise_multiplier=none leaves the noise to a budget, and there is none here; give "
                "noise_multiplier, or a budget"
            )
        if self.least_clients is None:
            raise StackError(
                f"{speaker} gives each client a small share of the noise, which protects nobody but in a sum; put a "
                "secure sum behind it, such as secret_sharing or secagg"
            )
        return Asked(
            mechanism=self.mechanism,
            clip=self.clip,
            deviation=self.noise_multiplier * self.clip,
            bits=self.bits,
            scale=self.scale,
            sigmas=self.sigmas,
            beta=self.beta,
            colluding=self.colluding,
            least=self.least_clients,
            reveals_integers=self.reveals_integers,
            wraps=self.wraps,
        )

    def sizes(self, plan: Plan, speaker: str = "distributed_dp") -> Sizes:
        """What an update unit and a client's noise are in integers."""
        return sizes(self.asked(plan, speaker), plan, speaker)

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Integers mod 2^bits."""
        return Ring(self.bits if self.bits is not None else self.sizes(plan).bits)

    def decoded(self, given: Domain, plan: Plan) -> Domain:
        """Nothing bounds a value with noise on it."""
        return Real()

    def noise(self, plan: Plan) -> Noise:
        """One client's share, in update units; of a link by itself nobody knows how large it is."""
        if self.least_clients is None or self.noise_multiplier is None:
            return Noise(self.mechanism, None, "encode")
        found = self.sizes(plan)
        return Noise(self.mechanism, math.sqrt(found.variance) / found.scale, "encode")

    def encode(self, contribution: Tensor, context: Context) -> Passed:
        """Float `[n]` to int64 `[n]`; see `quantize`. Log: attempts at rounding, `attempts`."""
        encoded, finite, tries = self._encoded(contribution, context.plan, context.words)
        return Passed(encoded, log={"attempts": tf.cast(tries, tf.float32)}, ok=finite)

    def quantize(self, contribution: Tensor, plan: Plan, seed: Seed) -> tuple[Tensor, Scalar]:
        """See Codec. A contribution that is not finite counts as zeros, and the bool is False."""
        return self._encoded(contribution, plan, Context(plan=plan, seed=seed).words)[:2]

    def _encoded(self, contribution: Tensor, plan: Plan, words: Words) -> tuple[Tensor, Scalar, Scalar]:
        at, d = self.sizes(plan), plan.spec.size
        rounded, rest, finite, tries = self.rounded(contribution, plan, words(2, _ROUNDING))
        noise = table(self.mechanism, at.variance).draw(d, words, _NOISE)
        integers = tf.concat([tf.cast(rounded, tf.int64) + noise, rest], 0)
        return tf.bitwise.bitwise_and(integers, tf.constant((1 << at.bits) - 1, tf.int64)), finite, tries

    def rounded(self, contribution: Tensor, plan: Plan, seed: Seed) -> tuple[Tensor, Tensor, Scalar, Scalar]:
        """A contribution before noise.

        Returns:
          (whole numbers, float64 `[d]`, of norm at most `sizes(plan).bound`, whatever is given; weight and tallies,
          int64 `[1 + t]`; whether all of it was finite; attempts at rounding).
        """
        at, d = self.sizes(plan), plan.spec.size
        exact = tf.cast(contribution, tf.float64)
        finite = tf.reduce_all(tf.math.is_finite(exact))
        exact = tf.where(finite, exact, tf.zeros_like(exact))
        values, weight, tallies = exact[:d], exact[d : d + 1], exact[d + 1 :]
        norm = tf.sqrt(tf.reduce_sum(tf.square(values)))
        values *= self.clip / tf.maximum(norm, self.clip)
        turned = Rotation(d, self.rotation_seed).rotate(values) * at.scale
        whole, tries = conditional_rounding(turned, at.bound, seed)
        steps = tf.clip_by_value(tallies, -1.0, 1.0) / self._tally_step(plan)
        rest = tf.cast(tf.round(tf.concat([tf.clip_by_value(weight, 0.0, 1.0), steps], 0)), tf.int64)
        return whole, rest, finite, tries

    def decode(self, total: Tensor, count: Scalar, plan: Plan) -> Tensor:
        """See Codec: as the integer nearest to 0 that the sum may stand for."""
        at, d = self.sizes(plan), plan.spec.size
        unused = tf.constant(64 - at.bits, tf.int64)
        signed = tf.bitwise.right_shift(tf.bitwise.left_shift(total, unused), unused)  # arithmetic: copies the sign
        floats = tf.cast(signed, tf.float64)
        values = Rotation(d, self.rotation_seed).unrotate(floats[:d] / at.scale)
        return tf.concat([values, floats[d : d + 1], floats[d + 1 :] * self._tally_step(plan)], 0)

    def _tally_step(self, plan: Plan) -> float:
        """As in `fixed_point`: tallies carry no noise, so that their sum has room and does not wrap."""
        return finest_power_of_two(1.0, max(1, ((1 << (self.sizes(plan).bits - 1)) - 1) // plan.cohort))

    def aggregate(self, total: Flat, context: Context) -> Passed:
        """Leaves the sum `[d]` as it is. Log: `outer_quarter`, the share of its coordinates near the modulus."""
        at, plan = self.sizes(context.plan), context.plan
        turned = Rotation(plan.spec.size, self.rotation_seed).rotate(tf.cast(total, tf.float64)) * at.scale
        outer = tf.abs(turned) > 0.75 * 2.0 ** (at.bits - 1)
        return Passed(total, log={"outer_quarter": tf.reduce_mean(tf.cast(outer, tf.float32))})

    def warn(self, log: Mapping[str, float]) -> str:
        """That sums come too near the modulus."""
        share = log.get("outer_quarter", 0.0)
        if share < CROWDED:
            return ""
        return (
            f"{share:.1%} of the sum's coordinates lie in the outer quarter of the modulus, so that some have wrapped; "
            "more bits, more `sigmas` or a smaller clip keep them within"
        )

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """How fine the integers are, how likely a coordinate wraps, and how much noise a full cohort carries."""
        if self.least_clients is None or self.noise_multiplier is None:
            return ()
        at = self.sizes(plan)
        found = [
            f"one update unit is {at.scale:.4g} integers mod 2^{at.bits}, in which a client's noise has a deviation of "
            f"{math.sqrt(at.variance):.4g}; a coordinate of the largest sum wraps with a probability of about "
            f"{at.wrap_probability:.1g} where all updates are alike, and rounding lengthens a clipped update by at "
            f"most {at.stretched - 1:.2%}"
        ]
        if at.shares < at.cohort:
            collude = f", of whom {self.colluding} may collude" if self.colluding else ""
            found.append(
                f"a round may finish with {at.shares + self.colluding} clients{collude}, so noise is sized for "
                f"{at.shares} of {at.cohort}: a full cohort's sum carries {math.sqrt(at.cohort / at.shares):.3g} times "
                "the noise that noise_multiplier says; a larger min_clients of the protocol behind it saves noise"
            )
        return tuple(found)

    def replay(self) -> Defense | None:
        """Nothing to replay: what the codec leaves is the update and noise of mean 0."""
        return None

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """Against the server behind a secure sum, for a client whose update is replaced, or left out of the sum; where
        cohorts are drawn with a fixed size, an amplified one against whoever sees released models.
        """
        at, asked = self.sizes(plan), self.asked(plan)
        checks: frozenset[Check] = frozenset()
        if plan.on_nonfinite == "abort":  # which would then tell something of the data
            checks |= {"rounds are finished"}
        assumes = self._assumes(plan, at)

        def claim(relation: Any, of: NoisySum, **more: Any) -> Claim:
            event = RenyiEvent(f"sum of {of.mechanism} noises", _parameters(of), of.curve)
            common = {"event": event, "against": "server", "checks": checks, "assumes": assumes}
            return Claim(unit="client", relation=relation, amplified=False, about_sum=True, **{**common, **more})

        replaced = at.noisy_sum(asked, plan.spec.size, replaced=True)
        found = [
            claim("replace_one", replaced),
            claim("replace_special", at.noisy_sum(asked, plan.spec.size, replaced=False)),
        ]
        sampling, population = plan.accounted_sampling, plan.accounted_population
        if sampling.selection is None and sampling.kind == "fixed" and 0 < (sampling.size or 0) < population:
            assert sampling.size is not None
            share = sampling.size / population
            event = RenyiEvent(
                f"sum of {replaced.mechanism} noises, sampled without replacement",
                (*_parameters(replaced), ("sampled", share)),
                sampled_without_replacement(replaced.curve, share),
            )
            found.append(
                claim(
                    "replace_one",
                    replaced,
                    event=event,
                    against="released",
                    checks=checks | {"cohorts are drawn", "drop-outs are alike"},
                    assumes=(
                        *assumes,
                        "cohorts are drawn as the sampling says and stay secret from whoever sees the models, as does "
                        "who dropped out",
                    ),
                )
            )
        return found

    def _assumes(self, plan: Plan, at: Sizes) -> tuple[str, ...]:
        randomness = (
            "the operating system's randomness is secret, and the cipher that expands it is one"
            if plan.secure_rng
            else "the run's seed, of 128 bits from the operating system unless one was chosen, is secret from the "
            "adversary, and Philox, TensorFlow's generator and no cryptographic one, stands for randomness"
        )
        slack = math.ceil(math.log2(plan.spec.size * at.cohort))
        colluding = ""
        if self.colluding:
            colluding = f" beside {self.colluding}, no more than it withstands, that may work with the server,"
        simulated = "" if plan.simulates is None else f", here {self.least_clients} clients,"
        return (
            f"the secure sum shows the server nothing but the sum, and no sum of fewer than "
            f"{at.shares + self.colluding} clients{simulated}: a round that fewer finish is aborted; {at.shares} "
            f"honest clients{colluding} add their noise as they should",
            "who takes part, who drops out and which rounds are aborted is not protected, and does not depend on what "
            "a client's examples are",
            "nothing else about a client's data leaves it: no losses, norms or other metrics, and not that its update "
            "stopped the run, since it was not finite",
            f"the sampler's distance of 2^-{TV_BITS - slack} a round from the discrete distribution, which adds to "
            "delta times 1 + exp(epsilon), is counted as nothing",
            randomness,
        )


def _parameters(of: NoisySum) -> tuple[tuple[str, float], ...]:
    return (
        ("variance", of.variance),
        ("shares", float(of.shares)),
        ("l2", of.l2),
        ("l1", of.l1),
        ("size", float(of.size)),
    )
