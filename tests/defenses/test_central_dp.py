import numpy as np
import pydantic
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf, tfp
from fedpriv.defense.domain import Real
from fedpriv.defense.noise import Noise
from fedpriv.defense.stations import Station
from fedpriv.procedure.procedure import Sampling


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
