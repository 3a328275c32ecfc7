"""ROC: areas and rates that are known in closed form, and intervals that hold what they promise."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.interval import effective_wilson, resampled_weights, wilson
from fedpriv.metrics.roc import Ranking


def ranked(confidence, truth, batches=None, runs=None):
    n = len(truth)
    return Ranking(np.asarray(confidence), np.asarray(truth, bool), batches or [0] * n, runs or [0] * n)


def test_known_areas():
    assert ranked([3, 2, 1, 0], [1, 1, 0, 0]).auc()[0] == 1
    assert ranked([3, 2, 1, 0], [0, 0, 1, 1]).auc()[0] == 0
    assert ranked([1, 1, 1, 1], [1, 0, 1, 0]).auc()[0] == 0.5
    assert ranked([3, 2, 1, 0], [1, 0, 1, 0]).auc()[0] == 0.75


def test_it_agrees_with_scikit_learn_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.random(60) < 0.4
        confidence = np.round(rng.normal(truth * 0.8), 1)
        mine = ranked(confidence, truth)
        assert mine.auc()[0] == pytest.approx(roc_auc_score(truth, confidence))
        false, true, _ = roc_curve(truth, confidence, drop_intermediate=False)
        np.testing.assert_allclose(mine.curve(), (false, true))
        for fpr in (0.0, 0.1, 0.5):
            assert mine.tpr_at(fpr)[0] == pytest.approx(true[false <= fpr + 1e-12].max())


def test_not_a_number_ranks_last():
    assert ranked([np.nan, 0.0], [1, 0]).auc()[0] == 0
    assert ranked([np.nan, np.nan], [1, 0]).auc()[0] == 0.5


def test_tpr_without_false_positives():
    assert ranked([5, 4, 3, 2, 1], [1, 1, 0, 1, 0]).tpr_at(0.0)[0] == pytest.approx(2 / 3)
    assert ranked([5, 4, 3, 2, 1], [1, 1, 0, 1, 0]).tpr_at(0.5)[0] == 1


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_covers_about_as_often_as_it_says(shift):
    """The area of two unit normals a distance apart is Phi(distance / sqrt 2)."""
    from scipy.stats import norm

    rng, true = np.random.default_rng(1), float(norm.cdf(shift / np.sqrt(2)))
    covered = 0
    for _ in range(100):
        truth = np.arange(60) % 2 == 0
        low, high = ranked(rng.normal(truth * shift), truth).auc()[1]
        covered += low <= true <= high
    assert 88 <= covered <= 100


def test_luck_shared_by_a_trial_widens_the_interval():
    """Trials that are each all right or all wrong say less than as many independent answers."""
    rng = np.random.default_rng(2)
    truth = np.tile([True, False], 50)
    batches = np.repeat(np.arange(10), 10).tolist()
    sign = np.repeat(rng.choice([-1.0, 1.0], 10, p=[0.2, 0.8]), 10)
    confidence = sign * (truth - 0.5) + rng.normal(size=100) * 0.1
    together, alone = ranked(confidence, truth, batches), ranked(confidence, truth)
    assert np.diff(together.auc()[1]) > 1.5 * np.diff(alone.auc()[1])


def test_a_perfect_area_still_has_an_interval():
    value, (low, high) = ranked(np.arange(20), np.arange(20) >= 10).auc()
    assert (value, high) == (1, 1)
    assert low == pytest.approx(wilson(10, 10)[0])
    four = ranked(np.tile([1.0, 0.0], 10), np.tile([True, False], 10), np.repeat(range(4), 5).tolist())
    assert four.auc()[1][0] == pytest.approx(wilson(4, 4)[0])


def test_a_measured_variance_of_independent_trials_gives_wilson():
    assert effective_wilson(0.3, 0.3 * 0.7 / 50, 1000, 1) == pytest.approx(wilson(15, 50))
    assert effective_wilson(0.3, 1e-9, 50, 1) == pytest.approx(wilson(15, 50))
    assert effective_wilson(1.0, 0.0, 50, 20) == pytest.approx(wilson(20, 20))


def test_weights_keep_strata_and_draw_factors():
    strata = np.array([True] * 3 + [False] * 5)
    (weights,) = resampled_weights(strata, [0] * 8, [0] * 8, 200)
    assert weights.shape == (200, 8)
    assert (weights[:, strata].sum(1) == 3).all()
    assert (weights[:, ~strata].sum(1) == 5).all()
    (weights,) = resampled_weights(strata, [0, 0, 0, 1, 1, 1, 1, 1], [0] * 8, 400)
    assert (weights[:, :3].sum(1) == 0).mean() == pytest.approx(0.25, abs=0.08)  # the first of two trials is not drawn


def test_answers_of_one_kind_are_refused():
    with pytest.raises(ParameterError, match="all 3 answers are 'yes'"):
        ranked([1, 2, 3], [1, 1, 1]).auc()
    with pytest.raises(ParameterError, match=r"fpr=1\.5 is no rate"):
        ranked([1, 2], [1, 0]).tpr_at(1.5)
    with pytest.raises(ParameterError, match="one confidence an answer"):
        ranked([1, 2], [1, 0, 1])
