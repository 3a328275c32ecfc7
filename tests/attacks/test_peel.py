"""Peeling: whole batches of a wide ReLU layer, each example proven, and nothing that is not."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.exact.peel import Peel

from fedpriv import load_model
from fedpriv.base.errors import CapabilityError
from fedpriv.models import zoo
from fedpriv.procedure.procedure import make_procedure

SHAPE, CLASSES = (6, 7, 1), 5


@pytest.fixture(scope="module")
def model():
    return zoo.mlp_2nn(SHAPE, CLASSES, [300])


def batch(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def weights(model, seed=0):
    """Kernels N(0, 1/4) before a ReLU, no biases."""
    rng = np.random.default_rng(seed)
    made = model.initialize(seed)
    return model.spec.flatten_numpy([rng.normal(0, 0.5, made[0].shape), *made[1:]])


def nearest(found, x):
    """How far each example found is from the nearest true one, in its worst value, and which that is."""
    claimed = found.x[: found.extra["recovered"]].reshape(-1, 1, x[0].size)
    apart = np.abs(claimed - x.reshape(1, len(x), -1)).max(axis=2)
    return apart.min(axis=1), apart.argmin(axis=1)


@pytest.mark.slow
def test_the_whole_batch_in_waves(helpers, model):
    x, y = batch(12)
    view = helpers.make_view(model, x, y, weights=weights(model))
    finding = Peel().run(view)
    apart, which = nearest(finding, x)
    assert sorted(which) == list(range(12))
    assert apart.max() < 1e-3
    np.testing.assert_array_equal(finding.y, y[which])
    assert max(finding.extra["certificates"]) < 1e-3
    np.testing.assert_allclose(finding.extra["weights"], 1 / 12, rtol=1e-3)
    assert finding.objective < 1e-6
    # Lone units alone give less.
    assert len(finding.extra["waves"]) > 1
    assert FirstLayer().run(view).extra["separated"] < 12


def test_past_its_reach_it_claims_only_what_is_there(helpers):
    narrow = zoo.mlp_2nn(SHAPE, CLASSES, [80])
    x, y = batch(24, 1)
    finding = Peel().run(helpers.make_view(narrow, x, y, weights=weights(narrow, 1)))
    assert 0 < finding.extra["recovered"] == sum(finding.extra["waves"]) < 24
    assert nearest(finding, x)[0].max() < 1e-2
    assert np.isnan(finding.x[finding.extra["recovered"] :]).all()
    assert "no unit is left" in finding.extra["reason"]


def test_repeated_examples_weigh_as_much(helpers, model):
    x, y = batch(6, 2)
    x, y = np.concatenate([x, x[:1]]), np.append(y, y[0])
    finding = Peel().run(helpers.make_view(model, x, y, weights=weights(model)))
    assert finding.extra["rank"] == 6
    assert sorted(np.bincount(nearest(finding, x)[1], minlength=6)[:6]) == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("alike", [0.9, 0.97])
def test_the_mean_of_examples_much_alike_is_not_claimed(helpers, model, alike):
    """Two exposures of an image fire the same units: what is read off them is their mean, of twice the weight."""
    x, y = batch(4, 2)
    x, y = np.concatenate([x, alike * x[:3]]), np.concatenate([y, y[:3]])
    finding = Peel().run(helpers.make_view(model, x, y, weights=weights(model)))
    assert finding.extra["unsure"] == 3
    assert finding.extra["recovered"] == 1
    assert nearest(finding, x)[0].max() < 1e-3


@pytest.mark.parametrize("task", ["", "task=binary,"])
def test_of_two_classes_no_mixture_is_claimed(helpers, task):
    """One direction of gradients for all labels, and examples so near that they share linear regions."""
    model = load_model(f"mlp({task}hidden=[40],activation=relu)", input_shape=(9,), num_classes=2)
    recovered = unsure = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, y = (0.5 + rng.normal(0, 0.05, (8, 9))).astype(np.float32), rng.integers(0, 2, 8)
        finding = Peel().run(helpers.make_view(model, x, y, weights=model.initial_weights(seed)))
        assert nearest(finding, x)[0].max(initial=0) < 1e-2, seed
        recovered += finding.extra["recovered"]
        unsure += finding.extra["unsure"]
    assert recovered > 0
    assert unsure > 0  # mixtures, which the row space alone would believe


def test_quantities_leave_the_weight_open(helpers):
    model = load_model("mlp(hidden=[60],activation=relu)", input_shape=(9,), num_classes=0)
    x = np.random.default_rng(0).uniform(size=(4, 9)).astype(np.float32)
    with pytest.raises(CapabilityError, match="whose targets leave that open"):
        Peel().run(helpers.make_view(model, x, np.linspace(0, 1, 4, dtype=np.float32)))


@pytest.mark.slow
def test_without_a_bias_lengths_are_searched_for(helpers):
    model = zoo.mlp_2nn(SHAPE, CLASSES, [300])
    import tensorflow as tf

    from fedpriv.models.keras_model import from_keras

    def build():
        kl, spread = tf.keras.layers, tf.keras.initializers.RandomNormal(0, 0.5, seed=1)
        first = kl.Dense(300, "relu", use_bias=False, kernel_initializer=spread)
        return tf.keras.Sequential([tf.keras.Input(SHAPE), kl.Flatten(), first, kl.Dense(CLASSES)])

    model = from_keras(build, "nobias", SHAPE, CLASSES)
    x, y = batch(4, 3)
    finding = Peel().run(helpers.make_view(model, x, y))
    assert finding.extra["recovered"] == 4
    assert nearest(finding, x)[0].max() < 1e-2


def test_noise_leaves_nothing_proven(helpers, model):
    x, y = batch(6)
    clean = helpers.make_view(model, x, y, weights=weights(model))
    assert Peel().run(clean).extra["recovered"] == 6
    noise = np.random.default_rng(0).normal(0, 1e-2, clean.observed.shape).astype(np.float32)
    noisy = helpers.make_view(model, x, y, weights=weights(model), observed=clean.observed + noise)
    assert Peel().run(noisy).extra["recovered"] == 0


def test_several_steps_give_what_is_proven(helpers, model):
    x, y = batch(6, 4)
    procedure = make_procedure(batch_size=3, local_epochs=2, client={"learning_rate": 0.1})
    finding = Peel().run(helpers.make_view(model, x, y, procedure, weights(model)))
    assert finding.extra["recovered"] >= 1
    assert nearest(finding, x)[0].max() < 1e-2


def test_what_it_does_not_apply_to(helpers, model):
    x, y = batch(4)
    with pytest.raises(CapabilityError, match="one example fires alone"):
        Peel().run(helpers.make_view(helpers.dense(SHAPE, CLASSES), x, y))
    x, y = batch(60)
    with pytest.raises(CapabilityError, match="at most 42 examples"):
        Peel().run(helpers.make_view(model, x, y))


@pytest.mark.slow
def test_no_certificate_is_false(helpers, model):
    for seed in range(1000):
        n = 2 + seed % 38
        x, y = batch(n, seed)
        finding = Peel().run(helpers.make_view(model, x, y, weights=weights(model, seed)))
        assert nearest(finding, x)[0].max(initial=0) < 1e-2, seed


def test_what_is_mixed_in_shows_in_the_weight(helpers, model, monkeypatch):
    """Where the network is sure of a label, the row space does not see a hundredth of another example."""
    n, rng = 34, np.random.default_rng(336)
    x, y = rng.uniform(size=(n, *model.input_shape)).astype(np.float32), rng.integers(0, 5, n)
    first, rng = model.initialize(0), np.random.default_rng(336)
    limit = np.sqrt(6 / (first[2].shape[0] + first[2].shape[1]))
    kernels = [rng.normal(0, 0.5, first[0].shape), first[1], rng.uniform(-limit, limit, first[2].shape), first[3]]
    view = helpers.make_view(model, x, y, weights=model.spec.flatten_numpy(kernels).astype(np.float32))
    finding = Peel().run(view)
    assert nearest(finding, x)[0].max() < 5e-3
    assert finding.extra["unsure"] > 0
    assert "may be mixed into them" in finding.extra["reason"]
    monkeypatch.setattr("fedpriv_attacks.exact.peel.MIXED", 1.0)
    assert nearest(Peel().run(view), x)[0].max() > 1e-2
