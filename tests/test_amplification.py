import numpy as np
import pytest

from fedpriv.account.accounting import round_rdp, sampled
from fedpriv.account.amplification import fixed_sampled, poisson_sampled
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.event import RenyiEvent
from fedpriv.procedure.procedure import Sampling


def gaussian(multiplier):
    return RenyiEvent("gaussian", (("multiplier", multiplier),), lambda order: order / (2 * multiplier**2))


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.01), (3.0, 0.1), (0.7, 1e-3)])
def test_poisson_bounds_lie_between_the_exact_divergence_and_that_without_sampling(multiplier, rate):
    bound = sampled(gaussian(multiplier), "add_or_remove_one", Sampling.poisson(rate), 1000)
    orders, general = round_rdp(bound, "add_or_remove_one")
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    _, exact = round_rdp(event, "add_or_remove_one")
    assert (general >= exact * (1 - 1e-9)).all()
    assert (general <= np.asarray(orders) / (2 * multiplier**2) * (1 + 1e-12)).all()
    table = dict(zip(orders, zip(general, exact)))
    assert table[2.0][0] == pytest.approx(table[2.0][1])  # the factor 3 begins at the third moment
    assert table[2.0][0] < 0.2 / (2 * multiplier**2)


def test_fixed_size_bounds_are_dp_accountings_own():
    """dp-accounting's implementation for the Gaussian is that of the same paper."""
    event = sampled(gaussian(1.5), "replace_one", Sampling.fixed(50), 1000)
    own = dp_accounting.SampledWithoutReplacementDpEvent(1000, 50, dp_accounting.GaussianDpEvent(1.5))
    orders, general = round_rdp(event, "replace_one")
    _, exact = round_rdp(own, "replace_one")
    whole = [i for i, order in enumerate(orders) if order == int(order)]
    assert (general[whole] >= exact[whole] * (1 - 1e-9)).all()
    assert general[list(orders).index(2.0)] == pytest.approx(exact[list(orders).index(2.0)])


def test_between_whole_orders_the_bound_grows_and_is_convex():
    curve = poisson_sampled(gaussian(2.0), 0.05).curve
    orders = np.linspace(2, 12, 201)
    scaled = (orders - 1) * np.array([curve(order) for order in orders])
    assert (np.diff(scaled) > 0).all()
    assert curve(1.3) == curve(2.0)
    for low in range(2, 12):
        middle = 0.5 * ((low - 1) * curve(low) + low * curve(low + 1))
        assert (low - 0.5) * curve(low + 0.5) == pytest.approx(middle)


def test_an_unbounded_order_stays_unbounded():
    event = RenyiEvent("cut", (), lambda order: 0.1 if order <= 3 else float("inf"))
    for sampled_event in (poisson_sampled(event, 0.1), fixed_sampled(event, 1, 10)):
        assert sampled_event.curve(3.0) < 0.1
        assert sampled_event.curve(4.0) == float("inf")
