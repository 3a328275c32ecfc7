"""Sparse updates: which coordinates are sent, what they take on the wire, and what a replay makes of them."""

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from fedpriv_defenses.sparse import RandomK, TopK, kept
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.defense.domain import Real
from fedpriv.defense.stations import Context
from fedpriv.threat.tap import Tap

ONE_STEP = {"batch_size": None, "weighting": "uniform"}


def sent(defense, update, state=0):
    context = Context(plan=None, seed=tf.constant([0, 0], tf.int64), state=tf.constant(state, tf.int32))
    return defense.update(tf.constant(update), context)


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_largest_are_sent_as_they_are(values, fraction):
    update = np.array(values, np.float32)
    out = sent(TopK(fraction=fraction), update)
    found, k = out.value.numpy(), kept(fraction, len(update))
    places = np.flatnonzero(found)
    np.testing.assert_array_equal(found[places], update[places])
    assert len(places) <= k  # of zeros as many as there are
    left = np.setdiff1d(np.arange(len(update)), places)
    if len(left) and len(places) == k:
        assert np.abs(update[left]).max() <= np.abs(update[places]).min()
    np.testing.assert_allclose(np.sum(found**2), float(out.log["energy"]) * np.sum(update**2), rtol=1e-5, atol=1e-6)


def test_among_equals_the_first_are_sent():
    np.testing.assert_array_equal(sent(TopK(fraction=0.5), np.ones(4, np.float32)).value, [1, 1, 0, 0])


def test_an_update_that_is_not_finite_is_not_hidden():
    out = sent(TopK(fraction=0.3), np.array([1.0, np.nan, 2.0, 3.0], np.float32)).value.numpy()
    assert np.isnan(out[1])
    assert np.isnan(sent(RandomK(fraction=0.26), np.full(4, np.nan, np.float32)).value.numpy()).all()


def test_all_clients_send_the_same_random_ones_and_others_next_round(federate):
    federation = federate(defenses=(RandomK(fraction=0.2, seed=3),), **ONE_STEP)
    state = federation.start()
    masks = []
    for _ in range(2):
        state, record = federation.step(state, [Tap()], evaluate=False)
        rounds = [o.view.observed != 0 for o in record.observations]
        k = kept(0.2, federation.plan.spec.size)
        assert all(m.sum() <= k for m in rounds)
        masks.append(np.any(rounds, 0))
        assert masks[-1].sum() <= k
        truth = record.observations[0].truth
        view = record.observations[0].view
        np.testing.assert_allclose(view.simulate(truth.x, truth.y), view.observed, atol=1e-6)
    assert (masks[0] != masks[1]).any()


@pytest.mark.slow
def test_bits_are_those_of_values_and_of_places_where_these_say_something(federate):
    def bytes_up(*stack):
        federation = federate(defenses=stack, **ONE_STEP)
        return federation.run(1, evaluate_every=0).records[0].bytes_up, federation.plan.spec.size

    plain, d = bytes_up()
    k = kept(0.1, d)
    assert plain == 5 * 4 * d
    assert bytes_up(TopK(fraction=0.1))[0] == -(-5 * k * (32 + int(np.ceil(np.log2(d)))) // 8)
    assert bytes_up(RandomK(fraction=0.1))[0] == 5 * 4 * k
    assert bytes_up(TopK(fraction=1.0))[0] == plain
    shared, masked = bytes_up(SecretSharing(range=1.0))[0], bytes_up(TopK(fraction=0.1), SecretSharing(range=1.0))[0]
    assert masked == shared  # the protocol sums every coordinate


def test_a_bound_is_kept_and_the_replay_is_exact_in_a_sum(federate):
    assert TopK(fraction=0.1).maps(Real(2.0), None) == Real(2.0)
    federation = federate(defenses=(TopK(fraction=0.1), SecretSharing(range=1.0)), **ONE_STEP)
    (seen,) = federation.run(1, taps=[Tap()], evaluate_every=0).observations
    simulated = seen.view.simulate(seen.truth.x, seen.truth.y).numpy()
    np.testing.assert_allclose(simulated, seen.view.observed, atol=1e-6)


def test_the_places_of_the_largest_tell_of_the_data_and_random_ones_do_not(federate):
    """In a softmax regression the bias of the client's only class moves the other way from all others."""

    def supports(defense):
        federation = federate(defenses=(defense,), **ONE_STEP)
        seen = federation.run(1, taps=[Tap()], evaluate_every=0).observations
        return {tuple(np.flatnonzero(o.view.observed)) for o in seen}

    assert len(supports(TopK(fraction=0.1))) == 5
    assert len(supports(RandomK(fraction=0.1))) == 1


@pytest.mark.parametrize("text", ["top_k(fraction=0)", "top_k(fraction=1.5)", "random_k(fraction=-1)"])
def test_impossible_fractions_are_refused(text):
    with pytest.raises(ParameterError, match="fraction"):
        defenses.create(text)
