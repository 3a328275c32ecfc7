import numpy as np
import pydantic
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf, tfp
from fedpriv.data.dataset import Dataset
from fedpriv.defense.domain import Real
from fedpriv.defense.noise import Noise
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context, Station
from fedpriv.procedure.procedure import Sampling
from fedpriv.rounds.record import recommended_clip


@pytest.fixture
def defense():
    return CentralDP(clip=0.5, noise_multiplier=1.2)


def test_the_client_clips_as_tf_privacy_does(defense, make_context):
    query = tfp.GaussianSumQuery(0.5, 0.0)
    for scale in (0.001, 10.0):
        vector = (scale * np.random.default_rng(0).normal(size=50)).astype(np.float32)
        out = defense.update(tf.constant(vector), make_context())
        out, metrics = out.value, out.log
        np.testing.assert_array_equal(out, query.preprocess_record(0.5, [tf.constant(vector)])[0])
        assert float(metrics["clipped"]) == (scale == 10.0)
        assert float(metrics["norm"]) == pytest.approx(np.linalg.norm(vector), rel=1e-5)


def test_the_server_adds_noise_of_the_stated_deviation_to_the_sum(defense, make_context):
    total = tf.fill([100_000], 7.0)
    out = defense.aggregate(total, make_context())
    out, metrics = out.value, out.log
    noise = (out - total).numpy()
    assert noise.std() == pytest.approx(0.6, rel=0.01)
    assert float(metrics["noise_stddev"]) == pytest.approx(0.6)
    np.testing.assert_array_equal(out, defense.aggregate(total, make_context()).value)
    assert not np.array_equal(out, defense.aggregate(total, make_context(seed=(1, 3))).value)


def test_without_noise_the_sum_is_untouched_and_the_multiplier_claimed_is_zero(make_context, make_plan):
    quiet = CentralDP(clip=0.5, noise_multiplier=0)
    np.testing.assert_array_equal(quiet.aggregate(tf.ones([9]), make_context()).value, np.ones(9))
    assert quiet.claims(make_plan(), Real(0.5))[0].event.noise_multiplier == 0


def test_its_event_is_the_querys(defense, make_plan):
    query = tfp.GaussianSumQuery(0.5, 0.6)
    event = query.get_noised_result(tf.zeros([1]), query.initial_global_state())[2]
    (claim,) = defense.claims(make_plan(sampling=Sampling.poisson(0.1)), Real(0.5))
    assert claim.event.noise_multiplier == pytest.approx(float(event.noise_multiplier), rel=1e-6)
    assert (claim.relation, claim.against, claim.amplified) == ("add_or_remove_one", "released", True)
    assert claim.sensitivity == 0.5


def test_replacing_a_client_moves_the_sum_twice_as_far(defense, make_plan):
    (claim,) = defense.claims(make_plan(sampling=Sampling.fixed(3)), Real(0.5))
    assert claim.relation == "replace_one"
    assert claim.event.noise_multiplier == pytest.approx(0.6)
    assert claim.sensitivity == 1.0


def test_weights_by_example_count_are_refused_with_the_way_out(defense, make_plan):
    defense.check(make_plan())
    with pytest.raises(StackError, match=r"weighting='examples'.*use weighting='uniform'"):
        defense.check(make_plan(weighting="examples"))


def test_replay_is_the_clip_alone(defense, make_plan):
    assert defense.replay() == Clip(norm=0.5)
    assert defense.noise(make_plan()) == Noise("gaussian", 0.6, "aggregate")
    assert defense.maps(Real(), None) == Real(0.5)
    assert defense.stations == [Station.UPDATE, Station.AGGREGATE]


def test_impossible_parameters():
    with pytest.raises(pydantic.ValidationError, match="clip"):
        CentralDP(clip=-1, noise_multiplier=1)
    with pytest.raises(pydantic.ValidationError, match="noise_multiplier"):
        CentralDP(clip=1, noise_multiplier=float("inf"))


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=80)
@given(st.lists(numbers, min_size=6, max_size=6))
def test_no_update_moves_the_sum_by_more_than_the_clip(values):
    context = Context(plan=Plan.everybody(10, 6), seed=tf.zeros([2], tf.int64))
    out = CentralDP(clip=0.5, noise_multiplier=1.0).update(tf.constant(values, tf.float32), context).value
    # What is not finite is left out of the sum, or ends the round.
    assert not np.isfinite(out).all() or np.linalg.norm(np.asarray(out, np.float64)) <= 0.5 * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "secure sum"])
def test_an_engines_sum_is_moved_by_no_more_either(federate, toy, secure):
    """One client's examples are poisoned so that its update is as long as floats go, or none."""
    defenses = (CentralDP(clip=0.25, noise_multiplier=0.0), *((SecretSharing(),) if secure else ()))
    options = {"weighting": "uniform", "batch_size": None, "on_nonfinite": "drop", "defenses": defenses, "test": None}
    without = federate(**options, train=toy).run(1).weights.astype(np.float64)
    for scale in (1e4, 1e18, 1e38, np.nan):
        x = toy.x.copy()
        x[5:17] *= np.float32(scale)
        moved = federate(**options, train=Dataset("poisoned", x, toy.y, 3)).run(1).weights
        # One update of norm 0.25 in place of another, or gone, over five clients.
        assert np.linalg.norm(moved - without) <= 2 * 0.25 / 5 * (1 + 1e-3)


def test_what_people_need_to_know_is_said(federate):
    options = {"weighting": "uniform", "sampling": Sampling.fixed(4)}
    drowned = federate(**options, defenses=(CentralDP(clip=1e-3, noise_multiplier=50.0),)).run(1).records[0]
    stddev, ratio = drowned.metrics["central_dp/noise_stddev"], drowned.metrics["central_dp/signal_to_noise"]
    d = federate().plan.spec.size
    assert 0 < ratio <= 4 * 1e-3 / (stddev * np.sqrt(d)) * (1 + 1e-5)
    said = " ".join(drowned.warnings)
    assert "the clip cut every update" in said
    assert "more than 10 times as long as the sum" in said
    loose = federate(**options, defenses=(CentralDP(clip=1e3, noise_multiplier=1e-5),)).run(1).records[0]
    assert any("the clip cut no update" in w for w in loose.warnings)


@pytest.mark.slow
def test_rounds_without_defenses_say_what_clip_to_begin_with(federate):
    history = federate(weighting="uniform", batch_size=None).run(3)
    logged = federate(weighting="uniform", batch_size=None, defenses=(Clip(norm=1e3),)).run(3)
    found = recommended_clip(history.records)
    quantiles = [history.records[0].metrics[f"update_norm/{q}"] for q in ("10%", "median", "90%")]
    assert quantiles == sorted(quantiles)
    assert found == pytest.approx(np.median([r.metrics["update_norm/median"] for r in history.records]))
    assert recommended_clip(logged.records) == pytest.approx(
        np.median([r.metrics["clip/norm"] for r in logged.records])
    )
    assert recommended_clip([]) is None
    halving = CentralDP(clip=quantiles[1] * 1.001, noise_multiplier=0.0)
    halved = federate(weighting="uniform", batch_size=None, defenses=(halving,)).run(1).records[0]
    assert halved.metrics["central_dp/clipped"] == pytest.approx(0.4)  # two of five are longer


def test_a_multiplier_that_is_left_to_a_budget_is_asked_for(federate):
    for defense in (CentralDP(clip=1.0), CentralDP()):
        with pytest.raises(ParameterError, match=r"central_dp.*noise_multiplier.*budget"):
            federate(defenses=(defense,), weighting="uniform")
