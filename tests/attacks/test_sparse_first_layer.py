"""Single clients read off a sum of sparse updates: what was sent exactly, and nothing that was not."""

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.exact.sparse_first_layer import SparseFirstLayer
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from fedpriv_defenses.sparse import RandomK, TopK

from fedpriv.base.errors import CapabilityError
from fedpriv.data.embedded import fashion_small
from fedpriv.models.zoo import logistic, mlp
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

ATTACK = SparseFirstLayer(fill="zero")


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=[128], activation="relu")


@pytest.fixture(scope="module")
def data():
    return fashion_small()[0]


def see(model, data, *defenses, cohort=4):
    stack = (*defenses, SecretSharing(range=8.0))
    return Exposure(model, data, trials=1, cohort=cohort, defenses=stack, seed=1).observe(0)[0]


@pytest.mark.slow
def test_what_was_sent_is_read_exactly_and_the_rest_is_below_its_bound(model, data):
    seen = see(model, data, TopK(fraction=0.1))
    finding = ATTACK.run(seen.view)
    x, truth = finding.x[: len(finding.y)].reshape(-1, 784), seen.truth.x.reshape(-1, 784)
    assert len(x) >= 2
    for found, known, bound in zip(x, finding.extra["known"], finding.extra["bound"], strict=False):
        original = truth[np.argmin(((truth - found) ** 2).mean(1))]
        sent = found > 0
        assert 0 < sent.mean() <= known
        np.testing.assert_allclose(found[sent], original[sent], atol=1e-4)
        assert original[~sent].max() <= bound + 1e-4


@pytest.mark.slow
def test_sparse_updates_give_away_more_of_a_sum_than_a_dense_layer_s_own_attack_finds_in_them(model, data):
    seen = see(model, data, TopK(fraction=0.1))
    assert int(np.isfinite(FirstLayer().run(seen.view).x).all((1, 2, 3)).sum()) == 0
    trial = run_trial(ATTACK, seen)
    assert sum(i.psnr > 20 for i in trial.score.images) >= 2
    assert trial.finding.measures["separated"] >= 2
    assert trial.score.label_accuracy >= 0.5


@pytest.mark.slow
def test_the_same_coordinates_for_all_give_away_nothing_so(model, data):
    trial = run_trial(ATTACK, see(model, data, RandomK(fraction=0.1)))
    assert trial.finding.measures["separated"] == 0
    assert all(i.psnr == 0 for i in trial.score.images)


@pytest.mark.slow
def test_noise_and_large_cohorts_stop_it(model, data):
    noised = run_trial(ATTACK, see(model, data, TopK(fraction=0.1), LocalDP(clip=1.0, noise_multiplier=1e-3)))
    assert all(i.psnr < 15 for i in noised.score.images)
    few = run_trial(ATTACK, see(model, data, TopK(fraction=0.1), cohort=32))
    assert np.mean([i.psnr > 20 for i in few.score.images]) < 0.2


def test_a_whole_update_of_one_client_is_read_off_as_well(model, data):
    seen = see(model, data, cohort=1)
    assert run_trial(ATTACK, seen).score.images[0].psnr > 60
    middle = SparseFirstLayer().run(seen.view).x
    assert np.abs(middle - seen.truth.x).max() < 1e-3


def test_values_that_were_not_sent_are_filled_as_asked(model, data):
    seen = see(model, data, TopK(fraction=0.02), cohort=1)
    zero, middle = ATTACK.run(seen.view), SparseFirstLayer().run(seen.view)
    missing = zero.x[0] == 0
    np.testing.assert_allclose(middle.x[0][missing], middle.extra["bound"][0] / 2, rtol=1e-5)
    np.testing.assert_array_equal(middle.x[0][~missing], zero.x[0][~missing])


def test_fewer_than_two_units_are_no_claim(model, data):
    """All but one unit's entries gone: its ratios look like an image, but nothing confirms that they are."""
    seen = see(model, data, cohort=1)
    spec = model.spec
    kernel, bias, *rest = spec.unflatten_numpy(seen.view.observed)
    unit = int(np.argmax(np.abs(bias)))
    only = np.zeros_like(kernel), np.zeros_like(bias)
    only[0][:, unit], only[1][unit] = kernel[:, unit], bias[unit]
    alone = dataclasses.replace(seen.view, observed=spec.flatten_numpy([*only, *rest]))
    assert np.isnan(ATTACK.run(alone).x).all()


@pytest.mark.slow
def test_layers_without_a_bias_are_refused(data):
    from fedpriv.models.zoo import lenet

    with pytest.raises(CapabilityError, match="no dense layer that sees the raw example"):
        ATTACK.run(see(lenet((28, 28, 1), 10, init="uniform"), data, cohort=1).view)
    assert np.isfinite(ATTACK.run(see(logistic((28, 28, 1), 10), data, cohort=1).view).x).all()
