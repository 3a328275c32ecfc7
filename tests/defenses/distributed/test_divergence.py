"""Bounds on Renyi divergences: above the exact ones, equal to the papers' code, and tending to the Gaussian's."""

import math
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
from fedpriv_defenses.distributed.divergence import NoisySum, between, sampled_without_replacement
from fedpriv_defenses.distributed.rounding import rounded_norm
from fedpriv_defenses.distributed.sampler import half
from scipy.special import logsumexp

#: Of the code published with the papers (github.com/google-research/federated, distributed_dp/accounting_utils.py):
#: clients, size, noise multiplier, scale, epsilon at 1e-5 of the discrete Gaussian and of Skellam. Clip 1, beta
#: exp(-1/2), one round, all clients.
PUBLISHED = [
    (100, 250, 0.5, 1291.2398490699113, 10.806591540952722, 10.806603722523036),
    (100, 250, 1.0, 1279.3752190891898, 4.754789951141701, 4.75479133823835),
    (100, 250, 4.0, 1094.7018429691257, 1.013097513795766, 1.0130975424159159),
    (1000, 250, 1.0, 32.37671133918198, 5.0266190041802545, 5.000945728685629),
    (1000, 250, 4.0, 32.316190298029966, 1.0653616343676209, 1.0653984050064857),
    (100, 1 << 20, 1.0, 8153.213176042804, 4.762912980719286, 4.762913017544344),
    (100, 1 << 20, 4.0, 2047.3895397943297, 1.0466546790110471, 1.0466546879053742),
]
ORDERS = [*range(2, 129), 256]


@pytest.mark.parametrize(("clients", "size", "z", "scale", "dgauss", "skellam"), PUBLISHED)
def test_epsilons_are_those_of_the_papers_code(clients, size, z, scale, dgauss, skellam):
    bound = rounded_norm(scale, size, math.exp(-0.5))
    l1 = bound * min(bound, math.sqrt(size))
    for mechanism, published in (("discrete_gaussian", dgauss), ("skellam", skellam)):
        made = NoisySum(mechanism, (z * scale) ** 2 / clients, clients, bound, l1, size)
        found = dp_accounting.rdp.compute_epsilon(ORDERS, [made.curve(a) for a in ORDERS], 1e-5)[0]
        assert found == pytest.approx(published, rel=1e-6)


def probabilities(mechanism, variance, shares):
    """Of the sum of so many noises, about its middle."""
    side = half(mechanism, variance)
    one = np.array([*side[:0:-1], *side], float)
    one /= one.sum()
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    return total


def divergence(p, shift, order):
    q = np.roll(np.pad(p, shift), shift)
    p = np.pad(p, shift)
    both = (p > 0) & (q > 0)  # what is left out is below 1e-40, and at small orders of no weight
    return float(logsumexp(order * np.log(p[both]) + (1 - order) * np.log(q[both])) / (order - 1))


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize(("variance", "shares"), [(Fraction(1, 2), 4), (Fraction(4), 1), (Fraction(9, 2), 5)])
def test_bounds_are_above_the_exact_divergence_and_not_far(mechanism, variance, shares):
    total = probabilities(mechanism, variance, shares)
    for shift in (1, 3):
        made = NoisySum(mechanism, float(variance), shares, shift, shift, 1)
        for order in (1.5, 2.0, 2.3, 3.0, 8.0):
            exact = divergence(total, shift, order)
            assert exact <= made.curve(order) * (1 + 1e-9)
            if shares * variance > 20 and order.is_integer():
                assert made.curve(order) < 1.5 * exact


def test_tau_counts_how_far_the_sum_is_from_one_discrete_gaussian():
    made = NoisySum("discrete_gaussian", 0.5, 3, 1.0, 1.0, 1)
    assert made.tau == pytest.approx(10 * (math.exp(-(math.pi**2) / 2) + math.exp(-2 * math.pi**2 / 3)))
    assert NoisySum("discrete_gaussian", 0.5, 1, 1.0, 1.0, 1).tau == 0


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_tends_to_the_gaussian_as_the_scale_grows(mechanism):
    size, z, clients = 1000, 1.5, 50
    gaussian = dp_accounting.rdp.RdpAccountant()
    wanted = gaussian.compose(dp_accounting.GaussianDpEvent(z), 10).get_epsilon(1e-6)
    ratios = []
    for scale in (30.0, 100.0, 1000.0, 10000.0):
        bound = rounded_norm(scale, size, math.exp(-0.5))
        made = NoisySum(mechanism, (z * scale) ** 2 / clients, clients, bound, bound * math.sqrt(size), size)
        rdp = [10 * made.curve(a) for a in gaussian.orders]
        ratios.append(dp_accounting.rdp.compute_epsilon(gaussian.orders, rdp, 1e-6)[0] / wanted)
    assert ratios == sorted(ratios, reverse=True)
    assert 1 <= ratios[-1] < (1.001 if mechanism == "discrete_gaussian" else 1.02)  # Skellam's has whole orders alone


def test_orders_between_whole_ones_are_interpolated():
    exact = lambda a: 0.3 * a  # noqa: E731
    for order in (1.1, 1.9, 2.0, 2.5, 7.0, 7.3):
        assert exact(order) <= between(exact, order) + 1e-12
    assert between(exact, 7.0) == pytest.approx(2.1)


@pytest.mark.parametrize(("share", "z"), [(0.001, 0.7), (0.01, 1.0), (0.1, 3.0), (0.5, 2.0)])
def test_sampling_amplifies_as_far_as_the_general_theorem_goes(share, z):
    """dp-accounting's bound for the Gaussian is a stronger version of the same theorem."""
    curve = sampled_without_replacement(lambda a: a / (2 * z * z), share)
    event = dp_accounting.SampledWithoutReplacementDpEvent(1000, int(1000 * share), dp_accounting.GaussianDpEvent(z))
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    orders = np.array([2, 3, 5, 9, 17, 33])
    theirs = dp_accounting.rdp.RdpAccountant(orders, relation).compose(event).rdp
    ours, plain = np.array([curve(float(a)) for a in orders]), orders / (2 * z * z)
    assert (ours >= np.minimum(theirs, plain) * (1 - 1e-9)).all()
    assert (ours <= plain * (1 + 1e-12)).all()
    assert ours[0] == pytest.approx(theirs[0], rel=1e-9)
