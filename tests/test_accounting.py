import math

import numpy as np
import pytest
from scipy import special, stats

from fedpriv.account.accounting import SMALLEST_MULTIPLIER, central_epsilon, noise_for, round_rdp, sampled
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.procedure.procedure import Sampling

TUTORIAL = {"rounds": 100, "delta": 1e-5, "cohort": 120, "population": 3383}


def test_tff_tutorial_setting():
    assert central_epsilon(1.2, accountant="rdp", **TUTORIAL) == pytest.approx(1.986, abs=1e-3)
    assert central_epsilon(1.2, accountant="pld", **TUTORIAL) == pytest.approx(1.708, abs=1e-3)
    assert central_epsilon(1.2, rate=120 / 3383, rounds=100, delta=1e-5) == central_epsilon(1.2, **TUTORIAL)


@pytest.mark.parametrize("multiplier", [0.8, 3.0])
def test_one_full_round_is_the_analytic_gaussian_mechanism(multiplier):
    """Balle and Wang, 2018, arXiv 1805.06530: delta as a function of epsilon, in closed form."""
    epsilon = central_epsilon(multiplier, rate=1.0, rounds=1, delta=1e-5, accountant="pld")
    a, b = 1 / (2 * multiplier), epsilon * multiplier
    delta = stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)
    assert delta == pytest.approx(1e-5, rel=2e-3)
    assert central_epsilon(multiplier, rate=1.0, rounds=1, delta=1e-5) >= epsilon  # RDP is an upper bound


def true_replacement_divergence(order: float, rate: float, multiplier: float) -> float:
    """Renyi divergence between sampled sums where one client's update is +1 or is replaced by -1, exactly.

    Everyone else sends 0, so along the one direction that matters the noised sum (deviation `multiplier`, clip 1)
    is centred at 0 or, when that client is drawn, at +1 in one population and at -1 in the other.
    """

    reach = (2 * order + 12) * multiplier  # the integrand's bulk lies within order + 1 clips of the centre
    x = np.linspace(-reach, reach, 200_001)

    def log_density(centre):
        here, away = stats.norm.logpdf(x, centre, multiplier), stats.norm.logpdf(x, 0, multiplier)
        return here if rate == 1 else np.logaddexp(np.log(rate) + here, np.log1p(-rate) + away)

    exponent = order * log_density(1.0) + (1 - order) * log_density(-1.0)
    return float(special.logsumexp(exponent) + np.log(x[1] - x[0])) / (order - 1)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "multiplier"), [(10, 1.0), (50, 2.0), (90, 2.0), (100, 4.0)])
def test_fixed_size_sampling_bounds_the_true_divergence_of_replacing_a_client(size, multiplier):
    from fedpriv.base.lazy import dp_accounting

    def bound(event_multiplier):
        event = sampled(dp_accounting.GaussianDpEvent(event_multiplier), "replace_one", Sampling.fixed(size), 100)
        orders, rdp = round_rdp(event, "replace_one")
        return dict(zip(orders, rdp))

    for order in (2.0, 4.0, 8.0):
        truth = true_replacement_divergence(order, size / 100, multiplier)
        assert truth <= bound(multiplier / 2)[order] * (1 + 1e-9)
        if size == 100:
            # Exact without sampling, and four times what the multiplier for adding or removing would have said.
            assert truth == pytest.approx(bound(multiplier / 2)[order])
            assert truth == pytest.approx(4 * bound(multiplier)[order])


def test_the_undoubled_sensitivity_would_be_too_optimistic():
    from fedpriv.base.lazy import dp_accounting

    event = sampled(dp_accounting.GaussianDpEvent(4.0), "replace_one", Sampling.fixed(90), 100)
    orders, rdp = round_rdp(event, "replace_one")
    wrong = dict(zip(orders, rdp))
    assert any(true_replacement_divergence(order, 0.9, 4.0) > wrong[order] for order in (4.0, 8.0, 16.0))


def test_fixed_size_epsilon_halves_the_multiplier():
    full = central_epsilon(2.0, cohort=50, population=50, rounds=3, delta=1e-5, sampling="fixed")
    assert full == pytest.approx(central_epsilon(1.0, rate=1.0, rounds=3, delta=1e-5))
    assert central_epsilon(2.0, sampling="fixed", **TUTORIAL) > central_epsilon(2.0, **TUTORIAL)


def test_more_noise_fewer_rounds_or_rarer_sampling_mean_less_epsilon():
    base = central_epsilon(1.2, rate=0.05, rounds=50, delta=1e-5)
    assert central_epsilon(1.5, rate=0.05, rounds=50, delta=1e-5) < base
    assert central_epsilon(1.2, rate=0.05, rounds=49, delta=1e-5) < base
    assert central_epsilon(1.2, rate=0.04, rounds=50, delta=1e-5) < base
    assert central_epsilon(1.2, rate=0.05, rounds=50, delta=1e-4) < base
    assert central_epsilon(1.2, rate=0.05, rounds=0, delta=1e-5) == 0


@pytest.mark.parametrize(
    ("accountant", "sampling"),
    [
        ("rdp", "poisson"),
        pytest.param("pld", "poisson", marks=pytest.mark.slow),
        pytest.param("rdp", "fixed", marks=pytest.mark.slow),
    ],
)
def test_noise_for_inverts_epsilon(accountant, sampling):
    how = {"rounds": 20, "delta": 1e-5, "cohort": 10, "population": 200, "accountant": accountant, "sampling": sampling}
    multiplier = noise_for(2.0, **how)
    assert central_epsilon(multiplier, **how) <= 2.0
    assert central_epsilon(multiplier - 5e-4, **how) > 2.0


def test_noise_for_the_tutorial_setting():
    assert noise_for(1.9862, **TUTORIAL) == pytest.approx(1.2, abs=2e-4)
    assert noise_for(1e6, **TUTORIAL) == SMALLEST_MULTIPLIER


def test_what_cannot_be_answered_says_why():
    with pytest.raises(LedgerError, match="use accountant='rdp', or Poisson sampling"):
        central_epsilon(1.0, accountant="pld", sampling="fixed", **TUTORIAL)
    with pytest.raises(LedgerError, match="noise_multiplier=0"):
        central_epsilon(0.0, **TUTORIAL)
    with pytest.raises(ParameterError, match="delta=0"):
        central_epsilon(1.0, rate=0.1, rounds=1, delta=0)
    with pytest.raises(ParameterError, match="either rate, or cohort and population"):
        central_epsilon(1.0, rate=0.1, cohort=3, rounds=1, delta=1e-5)
    with pytest.raises(ParameterError, match="accountant 'prv'"):
        central_epsilon(1.0, accountant="prv", **TUTORIAL)
    with pytest.raises(ParameterError, match=r"rate=1\.5"):
        central_epsilon(1.0, rate=1.5, rounds=1, delta=1e-5)
    with pytest.raises(ParameterError, match="epsilon=0"):
        noise_for(0.0, **TUTORIAL)


def test_no_theorem_no_amplification():
    from fedpriv.base.lazy import dp_accounting

    event = dp_accounting.GaussianDpEvent(1.0)
    with pytest.raises(LedgerError, match=r"Poisson sampling amplifies only .* add_or_remove_one"):
        sampled(event, "replace_one", Sampling.poisson(0.1), 100)
    with pytest.raises(LedgerError, match=r"10 of 100.* replace_one"):
        sampled(event, "add_or_remove_one", Sampling.fixed(10), 100)
    assert sampled(event, "replace_one", Sampling.full(), 100) is event
    assert sampled(event, "add_or_remove_one", Sampling.fixed(100), 100) is event
    assert sampled(event, "replace_one", Sampling.poisson(1.0), 100) is event


def test_round_rdp_adds_up():
    from fedpriv.base.lazy import dp_accounting

    event = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0))
    _, one = round_rdp(event, "add_or_remove_one")
    _, seven = round_rdp(dp_accounting.SelfComposedDpEvent(event, 7), "add_or_remove_one")
    np.testing.assert_allclose(7 * one, seven, rtol=1e-12)


@pytest.mark.parametrize("multiplier", [1e5, 1e8, 100.0])
@pytest.mark.parametrize("rate", [1e-6, 1e-3])
def test_much_noise_and_rare_sampling_give_a_small_number_that_holds(multiplier, rate):
    """The divergences of both are below what float64 tells from zero; less noise bounds them."""
    found = central_epsilon(multiplier, rounds=10, delta=1e-5, rate=rate)
    assert 0 <= found < 0.01


def test_large_fixed_cohorts_cost_no_more_than_no_amplification():
    def epsilon(cohort):
        return central_epsilon(4, rounds=10, delta=1e-5, cohort=cohort, population=100, sampling="fixed")

    assert epsilon(90) == pytest.approx(epsilon(100)) == pytest.approx(8.08, abs=0.01)
    assert epsilon(10) < epsilon(50) < epsilon(100)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: central_epsilon(1e-200, rounds=1, delta=1e-5, rate=0.1), LedgerError, "bounds no useful epsilon"),
        (lambda: central_epsilon(0.01, rounds=1, delta=1e-5, rate=1.0, accountant="pld"), LedgerError, "or use rdp"),
        (lambda: central_epsilon(float("inf"), rounds=1, delta=1e-5, rate=0.1), LedgerError, "give a number above 0"),
        (lambda: central_epsilon(1.0, rounds=1.5, delta=1e-5, rate=0.1), ParameterError, "rounds=1.5 must be a whole"),
        (lambda: noise_for(float("inf"), rounds=1, delta=1e-5, rate=0.1), ParameterError, "epsilon=inf must be"),
        (lambda: noise_for(1.0, rounds=0.5, delta=1e-5, rate=0.1), ParameterError, "rounds=0.5 must be a whole"),
    ],
)
def test_senseless_settings_get_one_line(call, error, message):
    with pytest.raises(error, match=message):
        call()
