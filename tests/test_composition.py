import itertools
import math

import numpy as np
import pytest

from fedpriv.account.composition import SLACK, Composition, gaussian_multiplier
from fedpriv.account.gaussian import gaussian_delta, gaussian_epsilon
from fedpriv.base.errors import LedgerError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.event import RenyiEvent

ADD = "add_or_remove_one"


def gaussians(*parts, accountant="rdp", relation=ADD):
    return Composition([(dp_accounting.GaussianDpEvent(z), n) for z, n in parts], relation, accountant)


def sampled(multiplier, rate, times, accountant="pld", interval=1e-3):
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    return Composition([(event, times)], ADD, accountant, interval)


def test_gaussians_are_one_gaussian():
    composed = gaussians((2.0, 3), (5.0, 10), accountant="pld")
    mu = math.sqrt(3 / 4 + 10 / 25)
    assert composed.mu == pytest.approx(mu)
    assert composed.epsilon(1e-6) == pytest.approx(gaussian_epsilon(mu, 1e-6))
    found = composed.concentrated()
    assert (found.exact, found.mu, found.rho) == (True, pytest.approx(mu), pytest.approx(mu**2 / 2))
    own = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    own.compose(dp_accounting.GaussianDpEvent(2.0), 3).compose(dp_accounting.GaussianDpEvent(5.0), 10)
    assert composed.epsilon(1e-6) == pytest.approx(own.get_epsilon(1e-6), rel=1e-4)


def test_nested_events_have_a_multiplier_where_they_are_gaussian():
    inner = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(2.0), 4)
    event = dp_accounting.ComposedDpEvent([inner, dp_accounting.GaussianDpEvent(1.0), dp_accounting.NoOpDpEvent()])
    assert gaussian_multiplier(event) == pytest.approx(1 / math.sqrt(2))
    assert gaussian_multiplier(dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0))) is None


@pytest.mark.slow
def test_the_mu_of_sampled_rounds_lies_above_the_whole_privacy_curve():
    composed = sampled(1.2, 0.05, 50)
    found = composed.concentrated()
    assert found.rho is None
    assert not found.exact
    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0):
        ours = composed.deltas(np.array([epsilon]))[0]
        assert gaussian_delta(found.mu, epsilon) + SLACK >= ours
    assert found.mu < composed.parts[0][1] ** 0.5 / 1.2  # less than without sampling
    less = [
        gaussian_delta(0.97 * found.mu, e) + SLACK - composed.deltas(np.array([e]))[0] for e in np.linspace(0, 6, 80)
    ]
    assert min(less) < 0  # and not much less would do


def test_no_rho_and_no_mu_come_with_a_reason():
    renyi = RenyiEvent("skellam", (), lambda order: order / 50)
    assert "no privacy loss distribution is known of skellam" in str(
        Composition([(renyi, 3)], ADD, "rdp").concentrated()
    )
    assert str(gaussians((2.0, 4)).concentrated()) == "zCDP rho 0.5, GDP mu 1"


def test_deltas_undo_epsilons():
    for composed in (gaussians((1.5, 4)), gaussians((1.5, 4), accountant="pld"), sampled(1.0, 0.1, 20)):
        for delta in (1e-3, 1e-6):
            assert composed.deltas(np.array([composed.epsilon(delta)]))[0] == pytest.approx(delta, rel=0.02)
    assert (sampled(1.0, 0.1, 20).deltas(np.linspace(0, 50, 20)) >= 0).all()


def test_groups_of_gaussians_are_exact():
    value, route = gaussians((6.0, 4), accountant="pld").group_epsilon(1e-5, 3)
    assert value == pytest.approx(gaussian_epsilon(3 * math.sqrt(4 / 36), 1e-5))
    assert route == "the sum moves 3 times as far"
    assert gaussians((6.0, 4)).group_epsilon(1e-5, 3)[0] >= value  # Renyi's is an upper bound


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_groups_of_sampled_units_are_bounded(accountant):
    """Without sampling a group is exact, and sampling cannot make it worse; a group costs more than its parts."""
    composed = sampled(4.0, 0.5, 4, accountant)
    one = composed.epsilon(1e-5)
    values = [composed.group_epsilon(1e-5, size)[0] for size in (1, 2, 3, 4)]
    assert values[0] == one
    assert all(high > low for low, high in itertools.pairwise(values))
    assert values[1] > 2 * one * 0.9
    truth = gaussian_epsilon(2 * math.sqrt(4 * 0.5**2) / 4.0, 1e-5)  # the mean shift of two units, at least
    assert values[1] > 0.5 * truth


@pytest.mark.slow
def test_groups_that_nothing_bounds():
    value, route = sampled(0.8, 0.2, 100).group_epsilon(1e-5, 1000)
    assert (value, route) == (math.inf, "no theorem bounds it")


def test_nothing_composed_spends_nothing():
    empty = Composition([(dp_accounting.GaussianDpEvent(1.0), 0)], ADD, "pld")
    assert empty.epsilon(1e-5) == 0
    assert empty.group_epsilon(1e-5, 5) == (0.0, "")


def test_what_cannot_be_composed_is_refused_when_it_is_made():
    event = dp_accounting.SampledWithoutReplacementDpEvent(100, 10, dp_accounting.GaussianDpEvent(1.0))
    with pytest.raises(LedgerError, match="use accountant='rdp', or Poisson"):
        Composition([(event, 1)], "replace_one", "pld")


def test_mechanisms_of_one_name_keep_their_own_divergences():
    one, other = (RenyiEvent("noise", (), lambda order, slope=slope: slope * order) for slope in (0.01, 0.04))
    assert one == other
    found = [Composition([(event, 1)], "replace_one", "rdp").epsilon(1e-5) for event in (one, other)]
    assert found[0] < found[1] / 1.5
