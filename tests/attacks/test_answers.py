"""Attacks that answer yes or no: right where something leaks, and no better than guessing where nothing does."""

import numpy as np
import pytest
from fedpriv_attacks.answers.loss_threshold import LossThreshold
from fedpriv_attacks.answers.shadow_property import ShadowProperty

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError
from fedpriv.data import load as load_data
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.stage import stage
from fedpriv.rounds.trial import Inapplicable, run_trial, try_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.goal import goal_of
from fedpriv.threat.lab import Lab, example_losses

OVERFIT = make_procedure(local_epochs=60, batch_size=None, client={"learning_rate": 0.1})


@pytest.fixture(scope="module")
def test_set():
    return load_data("fashion_small")[1]


@pytest.fixture(scope="module")
def model():
    return load_model("2nn(hidden=[32])", input_shape=(28, 28, 1), num_classes=10)


def scored(attack, goal, exposure, auxiliary=200, members=None):
    asked = goal_of(attack, goal)
    staged = stage(exposure, asked, auxiliary=auxiliary, members=members)
    scores = [run_trial(attack, o, i, asked).score for i, o in enumerate(staged)]
    return asked.summarize(scores)


@pytest.mark.parametrize("threshold", ["quantile", "average"])
def test_an_overfitted_update_gives_its_members_away(test_set, model, threshold):
    exposure = Exposure(model, test_set, 3, 20, procedure=OVERFIT)
    row = scored(LossThreshold(threshold=threshold), "membership", exposure)
    assert row["auc"] > 0.85
    assert row["auc_interval"][0] > 0.6
    assert row["advantage"] > 0.3


@pytest.mark.slow
def test_a_model_that_was_never_trained_gives_nobody_away(test_set, model):
    """Members of what it is said to have been trained on are strangers to it like all others."""
    train = load_data("fashion_small")[0]
    exposure = Exposure(model, test_set, 1, 20)
    row = scored(LossThreshold(), "membership(of=model,candidates=300)", exposure, members=train)
    low, high = row["auc_interval"]
    assert low < 0.5 < high
    assert abs(row["auc"] - 0.5) < 0.08


@pytest.mark.slow
def test_the_quantile_bounds_false_positives(test_set, model):
    exposure = Exposure(model, test_set, 4, 50, procedure=OVERFIT)
    asked = goal_of(LossThreshold())
    for i, seen in enumerate(stage(exposure, asked, auxiliary=600)):
        score = run_trial(LossThreshold(fpr=0.2), seen, i, asked).score
        assert score.guess[~score.truth].mean() < 0.45  # 0.2 expected of 50


def test_losses_are_those_of_the_model_by_hand(by_hand, toy, logistic_model):
    flat = np.random.default_rng(0).normal(size=logistic_model.spec.size).astype(np.float32)
    found = example_losses(logistic_model, flat, toy.x, toy.y, chunk=7)
    assert found.shape == (30,)
    assert found.mean() == pytest.approx(by_hand.loss(flat, toy.x, toy.y), rel=1e-5)


@pytest.mark.slow
def test_shadows_tell_a_property(test_set, model):
    exposure = Exposure(model, test_set, 10, 20, procedure=make_procedure(batch_size=None), seed=1)
    row = scored(ShadowProperty(shadows=20), "property(of=label:3,share=0.5,otherwise=0.1)", exposure, auxiliary=400)
    assert row["answers"] == 10
    assert row["yes"] == 5
    assert row["auc"] > 0.85
    assert row["auc_interval"][0] > 0.5


@pytest.mark.slow
def test_shadows_cannot_tell_what_noise_hides(test_set, model):
    """The shadows are noisy as well, so the classifier fits noise."""
    hidden = (registry.defenses.create("local_dp(clip=1,noise_multiplier=100)"),)
    exposure = Exposure(model, test_set, 10, 20, defenses=hidden, seed=1)
    goal = "property(of=label:3,share=0.5,otherwise=0.1)"
    low, high = scored(ShadowProperty(shadows=20), goal, exposure, auxiliary=400)["auc_interval"]
    assert low < 0.5 < high


@pytest.mark.slow
def test_what_they_need_is_said(test_set, model):
    def refused(attack, goal=None, auxiliary=50, **options):
        asked = goal_of(attack, goal)
        staged = stage(Exposure(model, test_set, 2, 10, **options), asked, auxiliary=auxiliary)
        result = try_trial(attack, next(iter(staged)), 0, asked)
        assert isinstance(result, Inapplicable)
        return result.reason

    assert "data of its own" in refused(LossThreshold(), auxiliary=0)
    assert "data of its own" in refused(ShadowProperty(), auxiliary=0)
    blind = Adversary(knows=frozenset({"num_examples"}))
    assert "local training procedure" in refused(ShadowProperty(), adversary=blind)
    assert "local training procedure" in refused(LossThreshold(threshold="average"), adversary=blind)
    assert "holds 5" in refused(LossThreshold(threshold="average"), auxiliary=5)
    assert "holds 5" in refused(ShadowProperty(), auxiliary=5)


def test_without_a_question_there_is_no_answer(test_set, model):
    seen = next(iter(Exposure(model, test_set, 1, 10)))
    object.__setattr__(seen.view, "lab", Lab(test_set, model))
    with pytest.raises(CapabilityError, match="no question"):
        LossThreshold().run(seen.view)


class TestLab:
    """What an adversary trains offline is what the clients would have trained."""

    @pytest.mark.slow
    def test_shadow_updates_are_replayed_ones(self, test_set, model):
        exposure = Exposure(model, test_set, 1, 8, procedure=make_procedure(local_epochs=3, batch_size=None))
        (seen,) = stage(exposure, goal_of(LossThreshold()), auxiliary=30)
        lab = seen.view.lab
        first = np.arange(8)
        (update,) = lab.observe([[first]], seen.view.weights)
        expected = seen.view.simulate(lab.data.floats(first), lab.data.y[first]).numpy()
        np.testing.assert_allclose(update, expected, atol=1e-6)
        faster = lab.observe([[first]], seen.view.weights, rate=1.0)[0]
        assert np.abs(faster).max() > 2 * np.abs(update).max()

    @pytest.mark.slow
    def test_training_learns_its_own_data(self, test_set, model):
        lab = Lab(test_set, model, make_procedure(local_epochs=5, batch_size=10, client={"learning_rate": 0.1}))
        clients = [np.arange(0, 40), np.arange(40, 80)]
        weights = lab.train(clients, rounds=3, seed=1)
        start = model.initial_weights(0)
        x, y = test_set.floats(np.arange(80)), test_set.y[:80]
        assert lab.losses(weights, x, y).mean() < 0.6 * lab.losses(start, x, y).mean()
        np.testing.assert_array_equal(weights, lab.train(clients, rounds=3, seed=1))
        assert not np.array_equal(weights, lab.train(clients, rounds=3, seed=2))

    def test_a_lab_travels_without_its_engines(self, test_set, model):
        import copy

        lab = Lab(test_set, model, make_procedure(batch_size=None))
        lab.observe([[np.arange(4)]], model.initial_weights(0))
        assert lab._federations
        assert lab.__getstate__()["_federations"] == {}
        assert copy.copy(lab).data is test_set

    def test_it_says_what_it_lacks(self, test_set, model):
        with pytest.raises(CapabilityError, match="'procedure'"):
            Lab(test_set, model).train([np.arange(4)])
        lab = Lab(test_set, model, make_procedure(batch_size=None))
        with pytest.raises(ValueError, match="at least one client"):
            lab.train([])
        with pytest.raises(ValueError, match="all of one size"):
            lab.observe([[np.arange(4)], [np.arange(4), np.arange(4)]], model.initial_weights(0))
