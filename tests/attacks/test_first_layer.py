"""First layer: one example exactly, batches as far as units tell them apart, and no guesses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.exact.dense_input import dense_input
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.exact.joint_labels import joint_labels
from fedpriv_attacks.exact.separation import separate

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.metrics.image import psnr
from fedpriv.metrics.matching import match
from fedpriv.models import load as load_model
from fedpriv.models.keras_model import from_keras

SHAPE = (6, 5, 2)


def perceptron(activation="relu", bias=True, hidden=(12, 8), classes=5, dtype="float32", shape=SHAPE):
    kl = tf.keras.layers

    def build():
        layers = [kl.Dense(h, activation, use_bias=bias, dtype=dtype) for h in hidden]
        last = kl.Dense(classes, use_bias=bias, dtype=dtype)
        return tf.keras.Sequential([tf.keras.Input(shape, dtype=dtype), kl.Flatten(dtype=dtype), *layers, last])

    return from_keras(build, verify=False)


def images(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *shape)).astype(np.float32)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "linear"])
def test_one_example_is_exact_to_rounding(helpers, activation):
    x, y = images(1), [3]
    f = FirstLayer().run(helpers.make_view(perceptron(activation), x, y))
    assert float(np.max(np.abs(f.x - x))) < 2e-6
    assert list(f.y) == y
    assert f.extra["separated"] == 1
    assert f.extra["rank_one_residual"] < 1e-5
    assert f.objective < 1e-10
    assert np.sqrt(np.mean((f.x - x) ** 2)) < 10 * f.extra["expected_error"][0] + 1e-7


@pytest.mark.parametrize(("spec", "shape", "classes"), [("logistic", (28, 28, 1), 10), ("2nn", (7, 9, 3), 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_of_the_zoo(helpers, spec, shape, classes, dtype):
    model = load_model(f"{spec}(dtype={dtype})", shape, classes)
    x, y = images(1, shape, 1), [classes - 1]
    f = FirstLayer().run(helpers.make_view(model, x, y))
    assert float(psnr(f.x[0], x[0])) > (150 if dtype == "float64" else 110)
    assert list(f.y) == y


def test_five_local_steps_change_nothing_for_one_example(helpers):
    x, y = images(1), [2]
    f = FirstLayer().run(helpers.make_view(perceptron(), x, y, helpers.local_steps(5, 0.1)))
    assert float(psnr(f.x[0], x[0])) > 90
    assert list(f.y) == y


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_without_a_bias_the_length_is_found_by_replay(helpers, activation):
    model = perceptron(activation, bias=False)
    for seed in range(3):
        x, y = images(1, seed=seed), [seed]
        f = FirstLayer().run(helpers.make_view(model, x, y, seed=seed))
        assert list(f.y) == y
        assert not f.extra["ambiguous"]
        assert float(psnr(f.x[0], x[0])) > 80
        assert f.extra["scale"] == pytest.approx(float(np.linalg.norm(x)), rel=1e-4)


def test_logistic_regression_without_a_bias(helpers):
    model = perceptron(bias=False, hidden=())
    x, y = images(1, seed=4), [1]
    f = FirstLayer().run(helpers.make_view(model, x, y))
    assert float(psnr(f.x[0], x[0])) > 90


def test_two_lengths_that_explain_the_update_are_reported(helpers):
    # Without activations or biases, one hidden unit in front of two logits: dL/dW = x (p - y) . v, where p depends on
    # s = |x| through the logits s a: s (1 - p(s)) rises, then falls, so that most values are met twice.
    kl = tf.keras.layers
    model = from_keras(
        lambda: tf.keras.Sequential(
            [tf.keras.Input((4,)), kl.Dense(1, use_bias=False), kl.Dense(2, use_bias=False, trainable=False)]
        ),
        verify=False,
    )
    x = np.full((1, 4), 0.5, np.float32)
    weights = np.full(4, 2.0, np.float32)
    frozen = model.logits(tf.constant(weights), tf.constant(x)).numpy()[0]
    y = [int(np.argmax(frozen))]
    view = helpers.make_view(model, x, y, weights=weights, labels=np.array(y))
    f = FirstLayer().run(view)
    assert len(f.extra["scales"]) > 1
    assert f.extra["ambiguous"]
    near = [abs(s - 1.0) for s, _ in f.extra["scales"]]
    assert min(near) < 1e-3


def test_without_a_bias_the_replay_must_be_possible(helpers):
    view = dataclasses.replace(helpers.make_view(perceptron(bias=False), images(1), [0]), procedure=None)
    with pytest.raises(CapabilityError, match="cannot replay"):
        FirstLayer().run(view)


def test_a_batch_is_separated_by_its_units(helpers):
    model = load_model("2nn", (8, 8, 1), 10)
    x, y = images(4, (8, 8, 1), 2), [7, 1, 1, 3]
    f = FirstLayer().run(helpers.make_view(model, x, y))
    assert f.extra["separated"] == 4
    order = np.asarray(match(f.x, x))
    assert [float(psnr(f.x[j], x[i])) > 80 for i, j in enumerate(order)] == [True] * 4
    assert [int(f.y[j]) for j in order] == y
    assert f.objective < 1e-8


def planted():
    """A 2NN layer whose first units each fire for one image alone, and the images."""
    x = np.zeros((3, 12), np.float32)
    x[0, :4], x[1, 4:8], x[2, 8:] = 0.9, 0.8, 0.7
    x += images(3, (12,), 5) * 0.05
    kernel = np.zeros((12, 12), np.float32)
    for unit in range(9):  # for image unit % 3 alone
        kernel[:, unit] = -0.3
        kernel[4 * (unit % 3) : 4 * (unit % 3) + 4, unit] = 0.5 + 0.1 * unit
    kernel[:, 9:] = np.random.default_rng(0).uniform(0, 0.5, (12, 3))  # for all
    return x, kernel


def test_planted_exclusive_units_give_their_images_and_mixed_ones_do_not(helpers):
    x, kernel = planted()
    model = perceptron(hidden=(12,), shape=(12,))
    weights = model.spec.unflatten_numpy(model.initial_weights(0).copy())
    weights[0][:] = kernel
    view = helpers.make_view(model, x, [0, 1, 2], weights=model.spec.flatten_numpy(weights))
    f = FirstLayer().run(view)
    assert f.extra["separated"] == 3
    assert sorted(f.extra["units"]) == [3, 3, 3]
    order = np.asarray(match(f.x[:, None, :, None], x[:, None, :, None]))
    np.testing.assert_allclose(f.x[order], x, atol=1e-5)
    assert [int(f.y[j]) for j in order] == [0, 1, 2]


@pytest.mark.slow
def test_a_unit_that_fires_for_two_is_never_passed_off_as_an_image(helpers):
    """Every finite row is an image of the batch, whatever was not separated."""
    model = load_model("2nn(hidden=[60,20])", (8, 8, 1), 10)
    incomplete = 0
    for seed in range(6):
        x = helpers.smooth_images(8, (8, 8, 1), seed)
        f = FirstLayer().run(helpers.make_view(model, x, np.arange(8), seed=seed))
        finite = f.x[np.isfinite(f.x).all((1, 2, 3))]
        assert len(finite) == f.extra["separated"]
        for image in finite:
            assert max(float(psnr(image, original)) for original in x) > 40
        incomplete += len(finite) < 8
    assert incomplete  # or the test says nothing


def test_a_nearly_pure_mixture_is_a_candidate_but_not_believed(helpers):
    x, kernel = planted()
    kernel[:, [0, 3, 6]] = -0.3  # image 0 loses its units ...
    kernel[:4, 0], kernel[4:8, 0] = 0.5, 0.9  # ... but for one, which image 1 fires too
    kernel[8:, 0] = -2.0
    model = perceptron(hidden=(12,), shape=(12,))
    weights = model.spec.unflatten_numpy(model.initial_weights(0).copy())
    weights[0][:] = kernel
    view = helpers.make_view(model, x, [0, 1, 2], weights=model.spec.flatten_numpy(weights))
    assert any(s.units == (0,) for s in separate(dense_input(view), 3))
    f = FirstLayer().run(view)
    finite = f.x[np.isfinite(f.x).all(1)]
    assert f.extra["separated"] == len(finite) == 2
    for image in finite:
        assert min(float(np.abs(image - original).max()) for original in x) < 1e-4


def test_an_unknown_number_of_examples(helpers):
    model = load_model("2nn", (8, 8, 1), 10)
    x = images(3, (8, 8, 1), 6)
    view = dataclasses.replace(helpers.make_view(model, x, [0, 1, 2]), num_examples=None)
    f = FirstLayer().run(view)
    assert len(f.x) == f.extra["separated"] == 3
    assert np.isnan(f.objective)


def test_nothing_separable_is_nothing_found(helpers):
    x = np.repeat(images(1), 2, 0)
    x[1] = np.clip(x[0] * 0.5, 0, 1)  # linearly dependent, and firing the same units
    f = FirstLayer().run(helpers.make_view(perceptron(), x, [0, 1]))
    assert f.x.shape == (2, *SHAPE)
    for image in f.x[np.isfinite(f.x).all((1, 2, 3))]:
        assert min(float(np.abs(image - original).max()) for original in x) < 1e-3


@pytest.mark.parametrize(
    ("model", "n", "says"),
    [
        (lambda: load_model("lenet", (8, 8, 1), 5), 1, "no dense layer that sees the raw example"),
        (lambda: perceptron("sigmoid"), 2, "responds to every example"),
        (lambda: perceptron(bias=False), 2, "has no bias"),
    ],
)
def test_what_cannot_work_is_refused_by_name(helpers, model, n, says):
    model = model()
    with pytest.raises(CapabilityError, match=says):
        FirstLayer().run(helpers.make_view(model, images(n, model.input_shape), [0] * n))


@pytest.mark.parametrize(("value", "error"), [(0.0, CapabilityError), (np.nan, DivergenceError)])
def test_an_update_that_says_nothing_is_refused(helpers, value, error):
    model = perceptron()
    with pytest.raises(error):
        FirstLayer().run(helpers.make_view(model, images(1), [0], observed=np.full(model.spec.size, value, np.float32)))


def test_noise_shows_in_the_residual_and_the_objective(helpers):
    model = perceptron()
    x = images(1)
    clean = helpers.make_view(model, x, [0]).observed
    noise = np.random.default_rng(0).normal(0, np.abs(clean).max(), clean.shape).astype(np.float32)
    f = FirstLayer().run(helpers.make_view(model, x, [0], observed=clean + noise))
    assert f.extra["rank_one_residual"] > 0.1
    assert f.objective > 0.1
    assert float(psnr(f.x[0], x[0])) < 30


def coupled(units=60):
    """A dense ReLU layer that sees the pixels, then statistics of the batch."""
    kl = tf.keras.layers

    def build():
        layers = [tf.keras.Input((8, 8, 1)), kl.Flatten(), kl.Dense(units, "relu"), kl.BatchNormalization()]
        return tf.keras.Sequential([*layers, kl.Dense(10)])

    return from_keras(build)


@pytest.mark.slow
@pytest.mark.parametrize("y", [[1, 2, 3], [4, 4, 0]])
def test_where_logits_depend_on_the_batch_its_labels_are_told_together(helpers, y):
    """Alone, an example's gradient through batch statistics is nothing, and tells no label."""
    x = helpers.smooth_images(3, (8, 8, 1), 2)
    f = FirstLayer().run(helpers.make_view(coupled(), x, y))
    assert f.extra["separated"] == 3
    order = [int(np.argmax([float(psnr(a, b)) for b in x])) for a in f.x]
    assert sorted(order) == [0, 1, 2]
    assert min(float(psnr(a, x[k])) for a, k in zip(f.x, order)) > 60
    np.testing.assert_array_equal(f.y, np.array(y)[order])
    assert f.objective < 1e-6


@pytest.mark.slow
def test_joint_labels_are_not_told_of_other_examples_or_other_updates(helpers):
    model, x, y = coupled(), helpers.smooth_images(3, (8, 8, 1), 2), [1, 2, 3]
    view = helpers.make_view(model, x, y)
    np.testing.assert_array_equal(joint_labels(view, x), y)
    assert joint_labels(view, helpers.smooth_images(3, (8, 8, 1), 9)) is None
    assert joint_labels(view, np.concatenate([x[:2], x[:1]])) is None
    noise = np.random.default_rng(0).normal(size=view.observed.shape).astype(np.float32)
    noisy = view.observed + 0.5 * noise * np.linalg.norm(view.observed) / np.linalg.norm(noise)
    assert joint_labels(dataclasses.replace(view, observed=noisy), x) is None
    several = helpers.make_view(model, x, y, helpers.local_steps(3, 0.1))
    assert joint_labels(several, x) is None
