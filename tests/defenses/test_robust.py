"""Robust rules: their closed forms, liars that they bear, and what they cannot stand beside."""

import numpy as np
import pytest
from fedpriv_defenses.robust.coordinates import Median, TrimmedMean
from fedpriv_defenses.robust.krum import Krum, squared_distances
from fedpriv_defenses.robust.norm_bound import NormBound

from fedpriv.base import registry
from fedpriv.base.errors import AbortError, ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.defense.passed import passed
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

ONE_STEP = {"batch_size": None, "weighting": "uniform"}
RULES = ("median", "trimmed_mean", "krum", "norm_bound")


def combined(rule, updates, weights=None):
    updates = np.asarray(updates, np.float32)
    weights = np.ones(len(updates), np.float32) if weights is None else np.asarray(weights, np.float32)
    return passed(rule.combine(tf.constant(updates), tf.constant(weights)), rule.name, "combine")


@pytest.mark.parametrize("m", [1, 2, 5, 6])
def test_the_median_and_the_trimmed_mean_are_numpys(m):
    updates = np.random.default_rng(m).normal(size=(m, 40)).astype(np.float32)
    np.testing.assert_allclose(combined(Median(), updates).value, np.median(updates, axis=0), rtol=1e-6)
    if m > 4:
        trimmed = np.sort(updates, axis=0)[2:-2].mean(0)
        np.testing.assert_allclose(combined(TrimmedMean(liars=2), updates).value, trimmed, rtol=1e-5)


def test_krum_chooses_by_the_sum_of_its_nearest_distances():
    rng, m, f = np.random.default_rng(0), 9, 2
    updates = rng.normal(size=(m, 30)).astype(np.float32)
    distances = np.sum((updates[:, None] - updates[None]) ** 2, axis=-1)
    scores = np.sort(distances, axis=1)[:, 1 : m - f - 1].sum(1)
    out = combined(Krum(liars=f), updates)
    assert int(out.log["chosen"]) == np.argmin(scores)
    np.testing.assert_array_equal(out.value, updates[np.argmin(scores)])
    several = combined(Krum(liars=f, keep=3), updates).value
    np.testing.assert_allclose(several, updates[np.argsort(scores)[:3]].mean(0), rtol=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e6, 1e20, 3e38])
def test_a_huge_liar_does_not_blur_the_others_distances(size):
    rng, m, f = np.random.default_rng(3), 9, 2
    for _ in range(10):
        updates = rng.normal(size=(m, 60)).astype(np.float32)
        updates[4], updates[7] = size, -size
        exact = updates.astype(np.float64)
        scores = np.sort(np.sum((exact[:, None] - exact[None]) ** 2, axis=-1), axis=1)[:, 1 : m - f - 1].sum(1)
        assert int(combined(Krum(liars=f), updates).log["chosen"]) == np.argmin(scores)


def test_distances_are_those_of_the_differences_and_none_is_a_nan():
    updates = np.random.default_rng(4).normal(size=(3, 100_000)) * 1e-3 + 1e6  # more than one block
    expected = np.sum((updates[:, None] - updates[None]) ** 2, axis=-1)
    np.testing.assert_allclose(squared_distances(tf.constant(updates)), expected, rtol=1e-9)
    apart = np.random.default_rng(5).normal(size=(5, 40_000))
    expected = np.sum((apart[:, None] - apart[None]) ** 2, axis=-1)
    np.testing.assert_allclose(squared_distances(tf.constant(apart)), expected, rtol=1e-12)
    far = squared_distances(tf.constant([[np.inf], [np.inf], [1e200], [0.0]], tf.float64)).numpy()
    np.testing.assert_array_equal(far, np.where(np.eye(4, dtype=bool), 0, np.inf))
    several = np.array([[0.0], [0.1], [0.2], [np.inf], [0.3]])
    assert int(combined(Krum(liars=1), several).log["chosen"]) == 1


def test_a_norm_bound_clips_each_and_weighs_them():
    updates = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    out = combined(NormBound(norm=1), updates, [1, 1, 2])
    np.testing.assert_allclose(out.value, np.array([0.9, 1.2]) / 4, rtol=1e-6)
    assert float(out.log["clipped"]) == pytest.approx(1 / 3)
    assert float(combined(NormBound(), updates).log["norm"]) == pytest.approx(0.5)


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(liars=2), Krum(liars=2), NormBound(norm=1.0)])
def test_liars_move_the_mean_at_will_and_these_hardly(rule):
    honest = 0.1 * np.random.default_rng(1).normal(size=(8, 20)) + 0.2
    lying = np.concatenate([honest, np.full((2, 20), -1e4)])
    assert np.abs(lying.mean(0) - honest.mean(0)).max() > 1000
    moved = np.abs(combined(rule, lying).value.numpy() - honest.mean(0)).max()
    assert moved < (0.5 if rule.name == "norm_bound" else 0.35)


def test_too_many_liars_break_a_rule():
    honest = np.full((4, 3), 0.2)
    lying = np.concatenate([honest, np.full((5, 3), -100.0)])
    assert combined(Median(), lying).value.numpy().max() == -100
    assert combined(TrimmedMean(liars=2), lying).value.numpy().max() < -20


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_federation_trains_with_a_rule_and_every_update_is_seen(name, federate):
    federation = federate(defenses=(defenses.create(name),), **ONE_STEP)
    state = federation.start()
    after, record = federation.step(state, [Tap(), Tap(Adversary.parse("observer"))], evaluate=False)
    *single, released = record.observations
    assert len(single) == 5
    updates = np.stack([o.view.observed for o in single])
    expected = combined(defenses.create(name), updates).value
    np.testing.assert_allclose(after.weights - state.weights, expected, atol=1e-6)
    np.testing.assert_allclose(released.view.observed, expected, atol=1e-6)
    truth = released.truth
    np.testing.assert_allclose(released.view.simulate(truth.x, truth.y), released.view.observed, atol=1e-5)


def test_a_median_is_not_the_mean(federate):
    plain, robust = (federate(defenses=d, **ONE_STEP).run(2, evaluate_every=0).weights for d in ((), (Median(),)))
    assert np.abs(plain - robust).max() > 1e-4


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (("median", "secret_sharing(aggregators=3,range=1)"), "exclude each other"),
        (("secagg(range=1)", "krum"), "exclude each other"),
        (("median", "krum"), "each replace the client's message"),
        (("median", "fixed_point(bits=16,range=1)"), "takes real|encodes them"),
        (("central_dp(clip=1,noise_multiplier=1)", "median"), "central_dp"),
        (("median", "clip(norm=1)"), "the order that works is clip, median"),
    ],
)
def test_what_a_rule_cannot_stand_beside_is_said(stack, words, federate):
    with pytest.raises(StackError, match=words):
        federate(defenses=tuple(map(defenses.create, stack)), **ONE_STEP)


def test_small_cohorts_and_weights_are_refused(federate):
    with pytest.raises(StackError, match="needs at least 7 clients a round"):
        federate(defenses=(Krum(liars=2),), **ONE_STEP)
    with pytest.raises(StackError, match="weighting='uniform'"):
        federate(defenses=(Median(),), batch_size=None, weighting="examples")
    federate(defenses=(NormBound(),), batch_size=None, weighting="examples").run(1, evaluate_every=0)


def test_a_round_that_too_few_reach_is_aborted(federate):

    federation = federate(
        defenses=(TrimmedMean(liars=2),),
        attrition=registry.attrition.create("bernoulli(rate=0.4)"),
        on_abort="stop",
        **ONE_STEP,
    )
    with pytest.raises(AbortError, match="trimmed_mean needs 5 updates"):
        federation.run(1, evaluate_every=0)


@pytest.mark.parametrize("text", ["krum(liars=-1)", "krum(keep=0)", "trimmed_mean(liars=0)", "norm_bound(norm=0)"])
def test_impossible_parameters_are_refused(text):
    with pytest.raises(ParameterError):
        defenses.create(text)
