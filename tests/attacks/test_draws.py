"""Attacks on models that draw: each way to reckon with the draws, beside the one that knows nothing of them."""

from dataclasses import replace

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.malicious.imprint import in_front
from fedpriv_attacks.parts.replay import Exact, Sent

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.experiment.work import adaptive
from fedpriv.metrics.image import psnr
from fedpriv.models import load as load_model
from fedpriv.models.draws import drawn, means
from fedpriv.threat.replays import DRAWS

SHAPE = (12, 12, 1)
DENSE = "2nn(hidden=[20],dropout=0.5,precode=8,dtype=float64)"
MODELS = {
    "dropout": "lenet(init=uniform,dropout=0.5,dtype=float64)",
    "precode": "lenet(init=uniform,precode=8,dtype=float64)",
}


@pytest.fixture(scope="module")
def models():
    return {name: load_model(text, SHAPE, 4) for name, text in (MODELS | {"dense": DENSE}).items()}


@pytest.fixture
def seen(helpers, models):
    """`seen(name, n)`: (the server's view of a client that drew, the images, what it drew)."""

    def make(name, n=1, seed=0, procedure=None):
        model, x, y = models[name], helpers.smooth_images(n, SHAPE, seed), np.arange(n, dtype=np.int32)
        view = helpers.make_view(model, x, y, procedure, seed=seed)
        passes = view.static.passes
        values = drawn(model.draws, tf.constant([seed, 5], tf.int64), passes * n, "float64")
        draws = tuple(tf.reshape(v, [passes, n, *v.shape[1:]]) for v in values)
        weights, rate = tf.constant(view.weights), tf.constant(view.client_rate, tf.float64)
        observed = view.static.simulate(weights, rate, tf.constant(x), tf.constant(y), view.inputs(), draws=draws)
        return replace(view, observed=observed.numpy()), x, draws

    return make


def blind(view):
    return replace(view, adversary=view.adversary.without("defense"))


def attack(**options):
    return DLG(**{"restarts": 2, "optimizer": "lbfgs(max_evaluations=600)", **options})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dropout", pytest.param("precode", marks=pytest.mark.slow)])
def test_who_reckons_with_the_draws_wins(seen, name):
    """One attack, one image; the adversary knows the defense, or does not."""
    view, x, draws = seen(name)
    known, unknown = attack().run(view, 0), attack().run(blind(view), 0)
    assert psnr(known.x, x)[0] > 35 > 15 > psnr(unknown.x, x)[0]
    assert known.replayed == (DRAWS + view.model.name,)
    assert unknown.replayed == ()
    assert "draws" not in unknown.extra
    (found,), (true,) = known.extra["draws"], draws
    assert found.shape == true.shape
    if name == "precode":
        np.testing.assert_allclose(found, true, atol=0.05)
    else:
        # A mask shows only where its feature matters: of nearly all it is on the right side of its mean.
        assert np.mean((found > 0.5) == (true.numpy() > 0.5)) > 0.9


def test_a_first_dense_layer_gives_its_input_away_whatever_is_drawn_behind_it(seen):
    view, x, _ = seen("dense")
    found = FirstLayer().run(blind(view), 0)
    np.testing.assert_allclose(found.x, x, atol=1e-5)


@pytest.mark.slow
def test_omitting_what_drew_beats_the_means(seen):
    """Of PRECODE, with the cosine, to which the unknown slope's length is nothing."""
    view, x, _ = seen("precode")
    options = {"objective": "cosine", "initializer": "normal(mean=0.5,spread=0.25)", "labels": "joint"}
    found = {
        way: psnr(attack(**options, replay=f"exact(draws={way})").run(view, 0).x, x)[0] for way in ("mean", "omit")
    }
    assert found["omit"] > found["mean"]


def test_a_joint_search_starts_at_the_means(seen, models):
    view, x, _ = seen("dropout")
    static, replay = view.static, Exact()
    start = tf.constant(replay.unknowns(static))
    assert start.shape == [108]
    np.testing.assert_allclose(
        replay.draws_of(static, start)[0][0], means(static.model.draws, 1, "float64")[0], rtol=1e-12
    )
    sent = Sent(tf.constant(view.weights), tf.constant(view.observed), tf.constant(view.client_rate, tf.float64))
    y = tf.constant([0])
    joint = replay(static, sent, tf.constant(x), y, start)
    np.testing.assert_allclose(joint, view.simulate(x, y), atol=1e-12)
    mask = replay.draws_of(static, start + 1000.0)[0].numpy()
    assert np.all(mask == 1)


@pytest.mark.slow
def test_own_draws_estimate_the_expected_update(seen):
    """Their mean over many is nearer to another such mean than single ones are to each other."""
    view, x, _ = seen("precode")
    sent = Sent(tf.constant(view.weights), tf.constant(view.observed), tf.constant(view.client_rate, tf.float64))
    x, y, none = tf.constant(x), tf.constant([0]), tf.zeros([0], tf.float64)

    def replayed(samples):
        return Exact(draws="own", samples=samples)(view.static, sent, x, y, none).numpy()

    one, two, many = replayed(1), replayed(2), replayed(32)
    other = 2 * two - one  # the second draw alone
    assert np.linalg.norm(one - other) > np.linalg.norm(many - two) > 0
    assert np.linalg.norm(one - other) > 0.05 * np.linalg.norm(many)


def test_several_steps_have_draws_for_each_pass(seen, helpers):
    view, _, draws = seen("precode", 2, procedure=helpers.local_steps(3, 0.05))
    assert draws[0].shape == [3, 2, 8]
    assert Exact().unknowns(view.static).shape == (48,)


def test_what_an_adversary_cannot_reckon_with_is_refused(seen, helpers, models):
    view, x, _ = seen("dropout")
    for way in ("joint", "own", "omit"):
        with pytest.raises(CapabilityError, match=f"draws={way}.*the adversary does not know the defense"):
            attack(replay=f"exact(draws={way})").run(blind(view), 0)
    first = load_model("2nn(hidden=[],precode=4)", SHAPE, 4)
    with pytest.raises(CapabilityError, match="has none, or its order of layers is unknown; use draws=joint"):
        attack(replay="exact(draws=omit)").run(helpers.make_view(first, x, [0]), 0)
    with pytest.raises(CapabilityError, match="several are matched together"):
        attack(replay="exact(draws=joint)").attack_together((view, view), 0)
    assert Exact().together() == Exact(draws="mean")
    plain = helpers.make_view(load_model("lenet(init=uniform)", SHAPE, 4), x, [0])
    for way in ("own", "joint", "omit"):
        with pytest.raises(CapabilityError, match=f"draws={way}.*draws nothing; use draws=auto"):
            attack(replay=f"exact(draws={way})").run(plain, 0)


def test_a_planted_module_leaves_the_draws_behind_it(models):
    model = models["precode"]
    planted = in_front(model, 4, 0, False, True, "planted")
    weights, x = planted.initialize(0), np.random.default_rng(0).uniform(size=(2, *SHAPE))
    (draw,), (before,) = planted.draws, model.draws
    assert draw.before == before.before + 4
    values = drawn(planted.draws, tf.constant([1, 2], tf.int64), 2, "float64")
    plain = planted.apply(weights, x, True)
    np.testing.assert_array_equal(planted.stochastic(weights, x, None)[0], plain)
    assert np.abs(planted.stochastic(weights, x, values)[0] - plain).max() > 1e-3


def test_parts_of_before_keep_their_identity():
    assert Exact().config() == {"kind": "exact"}
    assert Exact(draws="omit").config() == {"kind": "exact", "draws": "omit"}
    assert Inversion().config()["replay"] == {"kind": "exact"}


def test_a_cell_counts_as_adaptive_only_if_the_draws_were_reckoned_with(models):
    from fedpriv.experiment.setting import Setting

    setting, model = Setting(attack="dlg", data="fashion_small", model="lenet"), models["precode"]
    assert adaptive(setting, ()) is None
    assert adaptive(setting, (), model) is False
    assert adaptive(setting, {DRAWS + model.name}, model) is True
