"""Recurrent networks and the bag: Keras's outputs, padding, points, second derivatives."""

import numpy as np
import pytest

from fedpriv.base.errors import FedprivError, ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models import load
from fedpriv.models.example_gradients import shortcut
from fedpriv.models.sequences import with_presence

LENGTH, VOCABULARY = 5, 12


def sequences(n: int, each: bool, padded: bool = True) -> Dataset:
    draws = np.random.default_rng(0)
    x = draws.integers(1, VOCABULARY, (n, LENGTH)).astype(np.int32)
    if padded:
        x[::2, 3:] = 0
    y = np.roll(x, -1, 1) if each else (x[:, 0] > 6).astype(np.int32)
    kind = Tokens(length=LENGTH, vocabulary=VOCABULARY, padding=0)
    return Dataset("made", x, y, VOCABULARY if each else 2, kind=kind)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "each"), [("lstm", True), ("gru", False)])
def test_outputs_are_those_of_keras_with_the_same_weights(name, each):
    data = sequences(4, each)
    model = load(f"{name}(layers=2,width=7,units=6)", data)
    weights = model.initialize(3)
    kl = tf.keras.layers
    layer = kl.LSTM if name == "lstm" else kl.GRU
    head = [layer(6, return_sequences=each), kl.Dense(VOCABULARY if each else 2)]
    keras = tf.keras.Sequential([kl.Embedding(VOCABULARY, 7, mask_zero=True), layer(6, return_sequences=True), *head])
    keras.build((None, LENGTH))
    given = dict(zip(model.spec.names, weights, strict=True))
    for i in range(2 if name == "gru" else 0):  # Keras keeps the two biases in one
        given[f"gru{i}/bias"] = np.stack([given[f"gru{i}/bias"], given.pop(f"gru{i}/recurrent_bias")])
    keras.set_weights(list(given.values()))
    ours = model.apply([tf.constant(w) for w in weights], data.x, True)
    np.testing.assert_allclose(ours, keras(data.x), atol=1e-6)
    assert np.std(ours) > 1e-4


@pytest.mark.parametrize(
    ("name", "each"), [("lstm", True), ("gru(tied=true)", True), ("lstm", False), ("bag_of_embeddings", False)]
)
def test_points_with_presence_stand_for_padded_tokens(name, each):
    data = sequences(4, each)
    model = load(name, data)
    weights = [tf.constant(w * 3) for w in model.initialize(0)]
    points = with_presence(tf.gather(weights[model.embedding.table], data.x), data.x != 0)
    tokens = model.apply(weights, data.x.astype(np.float32), False)
    np.testing.assert_allclose(model.apply(weights, points, False), tokens, atol=1e-6)
    unmasked = model.apply(weights, points[:, :, :-1], False)
    assert np.abs(unmasked - tokens)[::2].max() > 1e-4
    np.testing.assert_allclose(unmasked[1::2], tokens[1::2], atol=1e-6)


def test_a_bag_knows_no_order():
    data = sequences(3, each=False, padded=False)
    model = load("bag_of_embeddings", data)
    weights = model.initialize(0)
    np.testing.assert_allclose(
        model.apply(weights, data.x, True), model.apply(weights, data.x[:, ::-1].copy(), True), atol=1e-6
    )


@pytest.mark.parametrize(("name", "each"), [("lstm", True), ("gru", False), ("bag_of_embeddings", False)])
def test_second_derivatives_agree_with_differences(name, each):
    data = sequences(2, each)
    size = "width=4" if name.startswith("bag") else "width=4,units=4"
    model = load(f"{name}({size},dtype=float64)", data)
    weights = [tf.constant(w * 3) for w in model.initialize(0)]
    points = tf.gather(weights[0], data.x)
    direction = tf.constant(np.random.default_rng(1).normal(size=points.shape))
    present, y = tf.constant(data.x != 0), tf.constant(data.y)

    @tf.function(autograph=False)
    def squared(x):
        """The squared norm of the gradient at points, and its slope along `direction`."""
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = tf.reduce_mean(model.example_losses(weights, with_presence(x, present), y))
            found = tape.gradient(loss, weights[1:])
            value = tf.add_n([tf.reduce_sum(tf.square(g)) for g in found])
        return value, tf.reduce_sum(outer.gradient(value, x) * direction)

    step = 1e-5
    numeric = (squared(points + step * direction)[0] - squared(points - step * direction)[0]) / (2 * step)
    slope = squared(points)[1].numpy()
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)
    assert abs(slope) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gpt(layers=1,width=8,heads=2)", pytest.param("lstm(width=4,units=4)", marks=pytest.mark.slow)]
)
def test_examples_gradients_are_clipped_layer_by_layer(name):
    assert shortcut(load(name, sequences(2, each=True)))


@pytest.mark.parametrize(
    ("text", "each", "error", "says"),
    [
        ("bag_of_embeddings", True, ModelError, "as it knows no places; use 'gpt'"),
        ("bag_of_embeddings(hidden=[4,0])", False, ParameterError, "hidden=[4, 0]"),
        ("lstm(tied=true)", False, ParameterError, "ties the next-token head to the table, but the task is 'classes'"),
        ("gru(tied=true,units=5)", True, ParameterError, "units=5 to be width=64"),
        ("lstm(units=0)", False, ParameterError, "units=0; at least 1"),
        ("lstm(task=next_token)", False, ParameterError, "the data has one target a sequence"),
        ("gpt(task=classes)", True, ParameterError, "the data's have [5]"),
        ("gpt(width=10,heads=4)", True, ParameterError, "width=10 is no multiple of heads=4"),
    ],
)
def test_what_does_not_fit_is_named(text, each, error, says):
    with pytest.raises(error) as raised:
        load(text, sequences(2, each))
    assert says in str(raised.value)


@pytest.mark.parametrize("name", ["gpt", "lstm", "bag_of_embeddings"])
def test_images_are_no_tokens(name):
    with pytest.raises(FedprivError, match="needs tokens"):
        load(name, input_shape=(8, 8, 1), num_classes=2)


def test_other_shapes_than_numbers_or_points_are_refused():
    model = load("gpt", sequences(2, each=True))
    weights = model.initialize(0)
    with pytest.raises(ModelError, match=r"points of its embedding space \(n, length, 64\)"):
        model.apply(weights, np.zeros((1, LENGTH, 3), np.float32), True)
    with pytest.raises(ModelError, match="at most 5 tokens, got 6"):
        model.apply(weights, np.zeros((1, LENGTH + 1), np.float32), True)
