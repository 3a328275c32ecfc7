"""Adaptive clipping: the clip finds the quantile under its noise, and no update moves a sum by more than is claimed."""

import numpy as np
import pytest
from fedpriv_defenses.adaptive_central_dp import AdaptiveCentralDP, Normalized
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.defense.domain import Real
from fedpriv.defense.stations import Context
from fedpriv.procedure.procedure import Sampling, Simulated
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap


@pytest.fixture
def clip_at(make_plan):
    """A context in which the clip is that."""

    def make(clip, seed=(1, 2), tally=None, **plan):
        more = {} if tally is None else {"tally": {"within": tf.constant(tally, tf.float32)}}
        state = (tf.constant(clip, tf.float32),)
        return Context(plan=make_plan(**plan), seed=tf.constant(seed, tf.int64), state=state, **more)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("quantile", "start"), [(0.2, 4.0), (0.5, 0.05), (0.9, 0.05)])
def test_the_clip_converges_to_the_quantile_under_the_noise(make_plan, quantile, start):
    population, rounds = 400, 100
    norms = np.exp(np.random.default_rng(3).normal(0, 0.7, population)).astype(np.float32)
    defense = AdaptiveCentralDP(noise_multiplier=1.0, quantile=quantile, initial_clip=start)
    plan = make_plan(population=population)

    def client(norm, clip):
        update = tf.one_hot(0, 8) * norm
        return defense.update(update, Context(plan=plan, seed=tf.zeros([2], tf.int64), state=(clip,)))

    @tf.function(autograph=False)
    def one(clip, number):
        def add(sums, norm):
            out = client(norm, clip)
            return sums[0] + out.value, sums[1] + out.tally["within"]

        total, within = tf.foldl(add, tf.constant(norms), (tf.zeros([8]), tf.zeros([])))
        seed = tf.stack([tf.constant(9, tf.int64), number])
        context = Context(plan=plan, seed=seed, state=(clip,), tally={"within": within})
        return defense.aggregate(total, context).state[0]

    clip, clips = tf.constant(start), []
    for number in range(rounds):
        clip = one(clip, tf.constant(number, tf.int64))
        clips.append(float(clip))
    assert np.mean(clips[-20:]) == pytest.approx(np.quantile(norms, quantile), rel=0.1)
    assert max(np.abs(np.diff(np.log(clips)))) <= 0.2 + 1e-6


def test_sum_and_count_together_cost_what_the_sum_alone_would(make_plan):
    """Theorem 1 of Andrew et al.; their figures' z = 1 with sigma_b = 5 leaves z_delta = 1.005."""
    defense = AdaptiveCentralDP(noise_multiplier=1.0, count_stddev=5.0)
    plan = make_plan(population=100)
    assert defense.sum_multiplier(plan) == pytest.approx(1 / np.sqrt(1 - 1 / 100))
    (claim,) = defense.claims(plan, Real(1.0))
    assert claim.event.noise_multiplier == pytest.approx(1.0)
    assert (claim.covers_tally, claim.sensitivity, claim.relation) == (True, 1.0, "add_or_remove_one")
    (replaced,) = defense.claims(make_plan(population=100, sampling=Sampling.fixed(20)), Real(1.0))
    assert (replaced.event.noise_multiplier, replaced.sensitivity) == (pytest.approx(0.5), 2.0)
    (longer,) = defense.claims(plan, Real(1.1))
    assert 1 / 1.1 < longer.event.noise_multiplier < 1.0


def test_a_count_that_spends_more_than_there_is_is_refused(make_plan):
    with pytest.raises(ParameterError, match=r"count_stddev=0.4 is too little.*above 0.5, such as 1"):
        AdaptiveCentralDP(noise_multiplier=1.0, count_stddev=0.4).check(make_plan())
    AdaptiveCentralDP(noise_multiplier=1.0).check(make_plan(population=4))  # the default is enough for any cohort
    with pytest.raises(ParameterError, match="noise_multiplier"):
        AdaptiveCentralDP().check(make_plan())
    with pytest.raises(StackError, match="uniform"):
        AdaptiveCentralDP(noise_multiplier=1.0).check(make_plan(weighting="examples"))


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=80)
@given(st.lists(numbers, min_size=6, max_size=6), st.floats(2.0**-20, 2.0**20, width=32))
def test_no_update_moves_the_sum_by_more_than_the_clip_or_the_count_by_more_than_half(values, clip):
    state = (tf.constant(clip, tf.float32),)
    out = AdaptiveCentralDP(noise_multiplier=1.0).update(tf.constant(values, tf.float32), _alone(state))
    if np.isfinite(out.value).all():
        assert np.linalg.norm(np.asarray(out.value, np.float64)) <= 1 + 1e-6
        assert abs(float(out.tally["within"])) == 0.5
        np.testing.assert_array_equal(out.value, Normalized().update(tf.constant(values, tf.float32), _alone(state)))
    else:  # the engine leaves the client out, tally included
        assert not np.isfinite(out.value).any()


def _alone(state):
    from fedpriv.defense.plan import Plan

    return Context(plan=Plan.everybody(10, 6), seed=tf.zeros([2], tf.int64), state=state)


@pytest.mark.slow
@pytest.mark.parametrize("defenses", [(), (SecretSharing(),)], ids=["plain", "secure sum"])
def test_it_trains_alike_under_a_secure_sum_and_its_views_replay(federate, defenses):
    adaptive = AdaptiveCentralDP(noise_multiplier=0.0, initial_clip=0.05, count_stddev=0.3)
    federation = federate(defenses=(adaptive, *defenses), weighting="uniform", batch_size=None, rounds=3)
    taps = [Tap(Adversary("server")), Tap(Adversary("observer"))]
    history = federation.run(3, taps=taps)
    clips = [r.metrics["adaptive_central_dp/clip"] for r in history.records]
    assert clips[0] == pytest.approx(0.05)
    assert len(set(clips)) == 3
    for seen in history.observations:
        replayed = seen.view.simulate(seen.truth.x, seen.truth.y).numpy()
        np.testing.assert_allclose(replayed, seen.view.observed, atol=2e-5)
    reference = federate(defenses=(adaptive,), weighting="uniform", batch_size=None, rounds=3).run(3)
    assert [r.metrics["adaptive_central_dp/clip"] for r in reference.records] == pytest.approx(clips)
    np.testing.assert_allclose(history.weights, reference.weights, atol=1e-4)
    assert "adaptive_central_dp" in federation.line.describe()


def test_its_epsilon_is_that_of_a_fixed_clip(federate):
    made = [AdaptiveCentralDP(noise_multiplier=1.5), CentralDP(clip=1.0, noise_multiplier=1.5), CentralDP()]
    made[2] = made[2].with_(noise_multiplier=1.5)
    runs = [federate(defenses=(d,), weighting="uniform", sampling=Sampling.poisson(0.5)) for d in made]
    values = [f.ledger().epsilon(1e-5, rounds=7).value for f in runs]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert values[2] == pytest.approx(values[1], rel=1e-9)  # central_dp without a clip is adaptive
    assert runs[2].line.labels == ["adaptive_central_dp"]


@pytest.mark.slow
def test_a_simulated_federation_scales_both_noises(federate):
    adaptive = AdaptiveCentralDP(noise_multiplier=1.0)
    options = {"weighting": "uniform", "sampling": Sampling.fixed(4), "defenses": (adaptive,)}
    large = federate(**options, simulates=Simulated(cohort=4000, population=10**6))
    assert adaptive._count_stddev(large.plan) == 200
    assert adaptive.sum_multiplier(large.plan) == pytest.approx(1.0, rel=1e-4)
    record = large.run(1).records[0]
    assert record.metrics["adaptive_central_dp/noise_stddev"] == pytest.approx(0.1 * 4 / 4000, rel=1e-4)
    assert large.ledger().epsilon(1e-7, rounds=10).value < federate(**options).ledger().epsilon(1e-7, rounds=10).value
