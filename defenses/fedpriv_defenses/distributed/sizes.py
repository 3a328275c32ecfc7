"""Sizes: how many integers an update unit is, how large each client's noise is, and what a client can move the sum by.

The scale follows the rule of Kairouz, Liu, Steinke, 2021, arXiv 2102.06387, section 4: as fine as it may be while k
standard deviations of a coordinate of the noisy sum stay within the modulus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from fedpriv.base.errors import ParameterError
from fedpriv.defense.plan import Plan
from fedpriv_defenses.distributed.divergence import NoisySum
from fedpriv_defenses.distributed.rounding import rounded_norm
from fedpriv_defenses.distributed.sampler import LARGEST_DEVIATION, Mechanism, reach, variance_above

#: A scale that is chosen gives one client's noise no larger deviation than this, in integers: beyond, rounding is lost
#: in the noise, and only tables grow.
ENOUGH = 4096.0
#: Bits that are chosen let rounding lengthen a clipped update by no more than this, and add no more to the variance.
LOSS = 0.01
#: Rounding that lengthens a clipped update by more than this factor is refused.
COARSEST = 2.0
#: The most bits that are chosen.
MOST_BITS = 32


@dataclass(frozen=True)
class Asked:
    """What the sizes follow from.

    Attributes:
      mechanism: of the noise.
      clip: L2 norm of an update, in update units.
      deviation: of the noise on the sum, in update units, of the federation that the account is for.
      bits: b of the modulus 2^b; None chooses.
      scale: integers an update unit; None chooses.
      sigmas: k.
      beta: how likely an attempt at rounding may fail.
      colluding: clients whose noise does not count.
      least: clients that a sum holds at least, in this federation.
      reveals_integers: whether the protocol shows the sum of signed integers, not only what it is modulo 2^b.
      wraps: whether such a sum may leave the modulus.
    """

    mechanism: Mechanism
    clip: float
    deviation: float
    bits: int | None
    scale: float | None
    sigmas: float
    beta: float
    colluding: int
    least: int
    reveals_integers: bool
    wraps: bool


@dataclass(frozen=True)
class Sizes:
    """What follows.

    Attributes:
      bits: b.
      scale: integers an update unit, in this federation.
      variance: the parameter of each client's noise, in integers squared.
      bound: L2 norm that no client's rounded update exceeds, in integers, in this federation.
      bound_accounted: likewise in the one that the account is for; differs where a larger cohort is simulated.
      shares: clients whose noise the account counts.
      cohort: the largest cohort that the account is for.
      sigmas: how many standard deviations of a coordinate of the sum fit, in a cohort of that size whose updates are
        all alike.
      stretched: how much longer rounding may make a clipped update, as a factor.
    """

    bits: int
    scale: float
    variance: Fraction
    bound: float
    bound_accounted: float
    shares: int
    cohort: int
    sigmas: float
    stretched: float

    @property
    def wrap_probability(self) -> float:
        """That a coordinate of such a sum wraps, taken as normal."""
        return math.erfc(self.sigmas / math.sqrt(2))

    def noisy_sum(self, asked: Asked, size: int, *, replaced: bool) -> NoisySum:
        """The sum that the account is for; `replaced` where a client's update becomes another, else none at all."""
        b = self.bound_accounted * (1 + 1e-9)  # norms are compared in float64
        shorter = b * min(b, math.sqrt(size))  # integers: |x|_1 <= |x|_2^2
        times = 2 if replaced else 1
        return NoisySum(asked.mechanism, float(self.variance), self.shares, times * b, times * shorter, size)


def sizes(asked: Asked, plan: Plan, speaker: str) -> Sizes:
    """The sizes for a federation.

    Raises:
      ParameterError: there are none; says which bits, scale or cohort would do.
    """
    if asked.bits is not None:
        return _sizes(asked, plan, asked.bits, speaker)
    for bits in range(8, MOST_BITS + 1):
        try:
            found = _sizes(asked, plan, bits, speaker)
        except ParameterError:
            if bits == MOST_BITS:
                raise
            continue
        if bits == MOST_BITS or (found.stretched <= 1 + LOSS and 1 / (4 * float(found.variance)) <= LOSS):
            return found
    raise AssertionError("unreachable")


def _sizes(asked: Asked, plan: Plan, bits: int, speaker: str) -> Sizes:
    d, k = plan.spec.size, asked.sigmas
    sampling, population = plan.accounted_sampling, plan.accounted_population
    expected = sampling.expected(population)
    cohort = sampling.largest(population)
    # Cohorts beyond six standard deviations of a Poisson number are rarer than a coordinate that wraps.
    usual = min(cohort, math.ceil(expected + 6 * math.sqrt(expected))) if not sampling.equal_cohorts else cohort
    larger = expected / plan.expected_cohort
    shares = math.floor(asked.least * larger * (1 + 1e-12)) - asked.colluding
    if shares < 1:
        raise ParameterError(
            f"{speaker}: a sum may hold {asked.least} clients alone, of whom colluding={asked.colluding} add no noise "
            "that counts; raise the protocol's min_clients above it"
        )
    share = asked.deviation / math.sqrt(shares)  # of one client's noise, in update units of the accounted federation
    room = 4.0**bits - k * k * usual
    if room <= 0:
        raise ParameterError(
            f"{speaker}: bits={bits} cannot hold a rounded sum over {usual} clients; use bits >= "
            f"{math.ceil(math.log2(k * k * usual) / 2) + 1} or smaller cohorts"
        )
    spread = math.sqrt((asked.clip * usual) ** 2 / d + usual * share**2)

    def at(scale: float) -> tuple[Fraction, float, float]:
        variance = variance_above((share * scale) ** 2)
        near, far = (rounded_norm(asked.clip * s, d, asked.beta) for s in (scale, scale * math.sqrt(larger)))
        return variance, near, far

    def fits(scale: float) -> bool:
        """Whether no signed integer leaves the modulus, where that would show."""
        variance, near, far = at(scale)
        most = max(near, far) + reach(asked.mechanism, variance)
        clients = 1 if asked.wraps else max(plan.cohort, 1)
        return clients * most <= 2.0 ** (bits - 1) - 1

    scale = asked.scale
    if scale is None:
        scale = min(math.sqrt(room) / (2 * k * spread), ENOUGH / share)
        while asked.reveals_integers and scale * asked.clip > 1e-3 and not fits(scale):
            scale *= 0.98
    elif asked.reveals_integers and not fits(scale):
        raise ParameterError(
            f"{speaker}: the protocol behind it shows sums of signed integers as they are, and with scale={scale:g} "
            f"one could leave the {bits} bits, which would tell of single clients; use a smaller scale, more bits, or "
            "a protocol whose sums are taken modulo 2^b (secret_sharing, secagg)"
        )
    if share * scale > LARGEST_DEVIATION:
        raise ParameterError(
            f"{speaker}: scale={scale:g} makes one client's noise {share * scale:.4g} integers wide, beyond the "
            f"{LARGEST_DEVIATION:g} that tables are made for; use scale <= {LARGEST_DEVIATION / share:.4g}, or none"
        )
    variance, bound_accounted, bound = at(scale)
    stretched = bound_accounted / (asked.clip * scale)
    if stretched > COARSEST:
        needed = math.ceil(math.log2(stretched / 1.1)) + bits
        raise ParameterError(
            f"{speaker}: with bits={bits} one update unit is {scale:.4g} integers, so coarse that rounding may make a "
            f"clipped update {stretched:.3g} times as long, for a sum over {usual} clients of {d} values with noise of "
            f"{asked.deviation:.4g}; use more bits (about {needed}), or bits=none, which chooses"
        )
    deviation = math.sqrt(usual * (float(variance) + 0.25) + (asked.clip * scale * usual) ** 2 / d)
    return Sizes(
        bits=bits,
        scale=scale * math.sqrt(larger),
        variance=variance,
        bound=bound,
        bound_accounted=bound_accounted,
        shares=shares,
        cohort=cohort,
        sigmas=2.0 ** (bits - 1) / deviation,
        stretched=stretched,
    )
