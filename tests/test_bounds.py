"""What differential privacy leaves any attack: closed forms, published numbers, and bounds that real tests keep to."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy.stats import norm

from fedpriv.account.accounting import round_rdp
from fedpriv.account.bounds import (
    GaussianTradeOff,
    HockeyStick,
    claimed,
    of_replacing,
    prior_success,
    renyi_reconstruction,
    sampled_reconstruction,
    trade_off,
)
from fedpriv.base.errors import ParameterError
from fedpriv.defense.claim import Claim
from fedpriv.defense.event import RenyiEvent

GAUSSIAN = dp_accounting.GaussianDpEvent


def test_the_advantage_of_epsilon_alone_is_that_of_randomized_response():
    """Humphries et al. 2020: (e^eps - 1) / (e^eps + 1); log 3 lets one answer of two through, as 3:1 coins do."""
    assert HockeyStick([math.log(3)], [0.0]).advantage == pytest.approx(0.5)
    assert HockeyStick([0.0], [0.2]).advantage == pytest.approx(0.2)
    assert HockeyStick([1.0], [0.1]).advantage == pytest.approx((math.e - 1 + 0.2) / (math.e + 1))


def test_both_lines_of_the_region_of_kairouz_oh_and_viswanath():
    found = HockeyStick([math.log(3)], [0.1]).tpr([0.0, 0.1, 0.225, 0.6, 1.0])
    assert found == pytest.approx([0.1, 0.4, 0.775, 0.9, 1.0])


def test_rates_at_mu_are_those_of_the_optimal_test():
    """Dong, Roth, Su 2019, who call 0.5 a good guarantee, 1 still reasonable, and 6 next to none."""
    assert GaussianTradeOff(0.5).tpr(0.05) == pytest.approx(0.126, abs=5e-4)
    assert GaussianTradeOff(1.0).tpr(0.05) == pytest.approx(0.2595, abs=5e-4)
    assert GaussianTradeOff(6.0).tpr(0.01) > 0.9998
    assert GaussianTradeOff(1.0).advantage == pytest.approx(2 * norm.cdf(0.5) - 1)
    assert GaussianTradeOff(0.0).tpr([0, 0.3, 1]) == pytest.approx([0, 0.3, 1])


def test_a_gaussian_mechanism_composes_exactly():
    """mu of T rounds at multiplier z is sqrt(T) / z; its epsilon is that of dp-accounting's own distribution."""
    found = trade_off(GAUSSIAN(4.0), "replace_one", 16)
    assert isinstance(found, GaussianTradeOff)
    assert found.mu == pytest.approx(1.0)
    accountant = dp_accounting.pld.PLDAccountant().compose(GAUSSIAN(4.0), 16)
    assert found.epsilon(1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    both = dp_accounting.ComposedDpEvent([GAUSSIAN(2.0), dp_accounting.SelfComposedDpEvent(GAUSSIAN(4.0), 12)])
    assert trade_off(both, "replace_one").mu == pytest.approx(1.0)


def test_a_loss_distribution_gives_the_closed_form_where_there_is_one():
    exact = GaussianTradeOff(1.0)
    pld = dp_accounting.pld.privacy_loss_distribution.from_gaussian_mechanism(1.0)
    epsilons = np.linspace(0, 12, 800)
    found = HockeyStick(epsilons, pld.get_delta_for_epsilon(epsilons))
    rates = np.array([1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9])
    assert found.tpr(rates) == pytest.approx(exact.tpr(rates), rel=2e-3)
    assert (found.tpr(rates) >= exact.tpr(rates) - 1e-9).all()
    assert found.advantage == pytest.approx(exact.advantage, rel=1e-3)


@pytest.mark.slow
def test_sampling_bounds_more_tightly_and_renyi_less():
    sampled = dp_accounting.PoissonSampledDpEvent(0.1, GAUSSIAN(1.0))
    rates = np.array([1e-3, 0.01, 0.1])
    tight = trade_off(sampled, "add_or_remove_one", 10).tpr(rates)
    whole = trade_off(GAUSSIAN(1.0), "add_or_remove_one", 10).tpr(rates)
    curve = RenyiEvent("gaussian", (("z", 1.0),), lambda alpha: alpha / 2)
    loose = trade_off(curve, "add_or_remove_one", 10).tpr(rates)
    assert (rates < tight).all()
    assert (tight < whole).all()
    assert (whole < loose).all()
    assert (loose < 1).any()


def test_two_steps_are_a_group():
    found = HockeyStick([1.0], [0.0]).grouped(2)
    assert found.tpr(0.01) == pytest.approx(0.01 * math.exp(2))
    assert GaussianTradeOff(0.7).grouped(2).tpr(0.1) == pytest.approx(GaussianTradeOff(1.4).tpr(0.1))
    by_hand = GaussianTradeOff(0.7).tpr(GaussianTradeOff(0.7).tpr(0.1))
    assert GaussianTradeOff(1.4).tpr(0.1) == pytest.approx(by_hand)


def test_reconstruction_by_the_blow_up_function():
    """Hayes, Mahloujifar, Balle 2023: Phi(Phi^-1(kappa) + mu) for full batches; no noise left gives certainty."""
    for candidates, mu in ((10, 1.0), (1000, 2.0)):
        found = GaussianTradeOff(mu).reconstruction(1 / candidates)
        assert found == pytest.approx(norm.cdf(norm.ppf(1 / candidates) + mu))
    assert GaussianTradeOff(0.0).reconstruction(0.1) == pytest.approx(0.1)
    assert GaussianTradeOff(math.inf).reconstruction(0.1) == 1


def test_the_bound_by_renyi_divergences_is_looser():
    """Balle, Cherubin, Hayes 2022 against the blow-up function itself, figure 1 of Hayes et al. 2023."""
    orders, rdp = round_rdp(GAUSSIAN(1.0), "add_or_remove_one")
    for prior in (0.5, 0.1, 1e-3):
        loose = renyi_reconstruction(np.asarray(orders), rdp, prior)
        assert GaussianTradeOff(1.0).reconstruction(prior) < loose <= 1
    alone = renyi_reconstruction(np.array([2.0]), np.array([1.0]), 0.1)
    assert alone == pytest.approx(math.sqrt(0.1 * math.e))


@pytest.mark.slow
def test_sampling_the_likelihood_ratio_gives_both_the_closed_form_and_the_distributions_number():
    found, error = sampled_reconstruction(2.0, rate=1.0, rounds=4, prior=0.1, samples=40_000)
    assert abs(found - GaussianTradeOff(1.0).reconstruction(0.1)) < 4 * error
    event = dp_accounting.PoissonSampledDpEvent(0.2, GAUSSIAN(1.0))
    bound = trade_off(event, "add_or_remove_one", 8).reconstruction(0.1)
    found, error = sampled_reconstruction(1.0, rate=0.2, rounds=8, prior=0.1, samples=40_000)
    assert error < 0.01
    assert abs(found - bound) < 4 * error


def test_the_best_attack_on_candidates_reaches_no_more_than_the_bound():
    """N orthogonal candidates of norm 1 behind noise: the nearest wins less often than the blow-up function allows."""
    rng, n, sigma = np.random.default_rng(0), 10, 0.7
    seen = rng.normal(0, sigma, (20_000, n))
    seen[:, 0] += 1
    hit = (seen.argmax(1) == 0).mean()
    assert 1 / n < hit < GaussianTradeOff(1 / sigma).reconstruction(1 / n) + 0.01


def test_priors_count_how_much_a_guess_covers():
    points = np.array([[0.0], [0.1], [0.2], [1.0]])
    assert prior_success(points, 0.1, exact=True) == 0.75
    assert prior_success(points, 0.05) == 0.75
    assert prior_success(points, 0.0) == 0.25
    middle = np.array([[-0.1], [0.1]])  # a guess at 0 covers both, though each is 0.2 from the other
    assert prior_success(middle, 0.1, exact=True) == 0.5
    assert prior_success(middle, 0.1) == 1.0


def test_no_rates_are_refused():
    for wrong in (-0.1, 1.2, float("nan")):
        with pytest.raises(ParameterError, match="no rate"):
            GaussianTradeOff(1.0).tpr(wrong)
    with pytest.raises(ParameterError, match="candidates"):
        prior_success(np.zeros((0, 3)), 0.1)
    with pytest.raises(ParameterError, match="group"):
        GaussianTradeOff(1.0).grouped(0)
    with pytest.raises(ParameterError, match="ten times"):
        sampled_reconstruction(1.0, rate=0.1, rounds=1, prior=1e-4, samples=1000)


@pytest.mark.parametrize(
    ("relation", "unit", "steps"),
    [
        ("replace_one", "client", 1),
        ("replace_one", "example", 1),
        ("replace_one", "user", 2),
        ("replace_special", "client", 2),
        ("add_or_remove_one", "client", 2),
        ("add_or_remove_one", "example", 2),
        ("add_or_remove_one", "user", 4),
    ],
)
def test_one_candidate_in_anothers_place_takes_the_relations_steps(relation, unit, steps):
    event = dp_accounting.GaussianDpEvent(2.0)
    claim = Claim(event=event, unit=unit, relation=relation, against="server", amplified=False)
    assert of_replacing(claim, claimed(claim, event, 1)) == GaussianTradeOff(steps / 2)
