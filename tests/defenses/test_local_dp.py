import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP

from fedpriv.base.lazy import tf, tfp
from fedpriv.defense.domain import Real
from fedpriv.defense.stations import Station
from fedpriv.procedure.procedure import Sampling


@pytest.fixture
def defense():
    return LocalDP(clip=2.0, noise_multiplier=0.25)


def test_clips_first_then_adds_noise_of_the_stated_deviation(defense, make_context):
    vector = np.full(100_000, 3.0, np.float32)
    out = defense.update(tf.constant(vector), make_context())
    metrics = out.log
    noise = out.value.numpy() - Clip(norm=2.0).update(tf.constant(vector), None).value.numpy()
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(len(noise))
    assert float(metrics["clipped"]) == 1
    assert float(metrics["noise_norm"]) == pytest.approx(np.linalg.norm(noise), rel=1e-4)


def test_same_seed_same_bits_and_clients_differ(defense, make_context):
    one, again = (defense.update(tf.zeros([1000]), make_context()).value.numpy() for _ in range(2))
    other = defense.update(tf.zeros([1000]), make_context(seed=(1, 3))).value.numpy()
    np.testing.assert_array_equal(one, again)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_no_noise_is_tf_privacys_clip(make_context):
    vector = tf.constant(np.random.default_rng(0).normal(size=50).astype(np.float32))
    out = LocalDP(clip=2.0, noise_multiplier=0).update(vector, make_context()).value
    np.testing.assert_array_equal(out, tfp.GaussianSumQuery(2.0, 0.0).preprocess_record(2.0, [vector])[0])


def test_the_message_claim_is_never_amplified(defense, make_plan):
    for sampling in (Sampling.full(), Sampling.fixed(3), Sampling.poisson(0.3)):
        message = defense.claims(make_plan(sampling=sampling), Real())[0]
        assert (message.against, message.relation, message.amplified) == ("server", "replace_one", False)
        assert message.event.noise_multiplier == 0.125  # sigma 0.5 over the 2 * clip a replaced client can move it


def test_equal_cohorts_add_up_their_noise(defense, make_plan):
    message, total = defense.claims(make_plan(sampling=Sampling.fixed(4)), Real())
    assert total.against == "released"
    assert total.amplified
    assert total.event.noise_multiplier == pytest.approx(message.event.noise_multiplier * 2)
    assert any("all 4 clients" in a for a in total.assumes)


@pytest.mark.parametrize(
    "changed", [{"sampling": Sampling.poisson(0.5)}, {"weighting": "examples"}], ids=["poisson", "weights"]
)
def test_no_claim_about_the_sum_where_its_noise_varies(defense, make_plan, changed):
    assert [c.against for c in defense.claims(make_plan(**changed), Real())] == ["server"]


def test_the_noise_of_a_cohort_really_adds_up(defense, make_context):
    total = sum(defense.update(tf.zeros([50_000]), make_context(seed=(7, i))).value.numpy() for i in range(9))
    assert total.std() == pytest.approx(3 * 0.5, rel=0.02)


def test_replay_is_the_clip_alone(defense):
    assert defense.replay() == Clip(norm=2.0)
    assert defense.stations == [Station.UPDATE]
    assert defense.maps(Real(1.0), None) == Real()
