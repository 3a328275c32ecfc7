"""Transformers: who sees whom, second derivatives, and that they learn."""

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models import load

LENGTH, VOCABULARY = 6, 20


def sequences(n: int, each: bool, padded: bool = True) -> Dataset:
    draws = np.random.default_rng(0)
    x = draws.integers(1, VOCABULARY, (n, LENGTH)).astype(np.int32)
    if padded:
        x[::2, 4:] = 0
    y = np.roll(x, -1, 1) if each else (x[:, 0] > 10).astype(np.int32)
    kind = Tokens(length=LENGTH, vocabulary=VOCABULARY, padding=0)
    return Dataset("made", x, y, VOCABULARY if each else 2, kind=kind)


def weights_of(model, seed=0):
    return [tf.constant(w * 5 if w.ndim > 1 else w) for w in model.initialize(seed)]


def test_a_decoder_sees_only_what_came_before():
    data = sequences(3, each=True, padded=False)
    model = load("gpt", data)
    weights, other = weights_of(model), data.x.copy()
    other[:, 3] = (other[:, 3] + 1) % VOCABULARY
    before, after = (model.apply(weights, x, False).numpy() for x in (data.x, other))
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).max(axis=-1).min() > 1e-3


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_padding_is_not_seen(name):
    data = sequences(4, each=False)
    model = load(name, data)
    weights = weights_of(model)
    shorter = model.apply(weights, data.x[::2, :4], False)
    np.testing.assert_allclose(model.apply(weights, data.x[::2], False), shorter, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "each"), [("gpt", True), ("gpt(tied=false,positions=sinusoidal)", True), ("gpt", False), ("bert", False)]
)
def test_points_of_the_embedding_stand_for_tokens(name, each):
    data = sequences(3, each, padded=False)
    model = load(name, data)
    weights = weights_of(model)
    points = tf.gather(weights[model.embedding.table], data.x)
    np.testing.assert_allclose(
        model.apply(weights, points, False), model.apply(weights, data.x.astype(np.float32), False), atol=1e-5
    )


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_the_queries_gradient_lies_in_the_span_of_the_inputs(name):
    data = sequences(1, each=False, padded=False)
    model = load(f"{name}(width=32)", data)
    weights = weights_of(model)
    for attention in model.attention:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(model.example_losses(weights, data.x, tf.constant(data.y)))
        gradient = tape.gradient(loss, weights[attention.query]).numpy()
        inputs = attention.inputs(weights, tf.constant(data.x))[0].numpy()
        q = np.linalg.qr(inputs.T)[0]
        assert np.linalg.norm(gradient) > 0
        assert np.linalg.norm(gradient - q @ (q.T @ gradient)) < 1e-4 * np.linalg.norm(gradient)


@pytest.mark.parametrize(("name", "each"), [("gpt", True), ("bert", False)])
def test_second_derivatives_agree_with_differences(name, each):
    data = sequences(2, each, padded=False)
    model = load(f"{name}(width=8,heads=2,dtype=float64)", data)
    weights = weights_of(model)
    points = tf.gather(weights[model.embedding.table], data.x)
    direction = tf.constant(np.random.default_rng(1).normal(size=points.shape))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(weights[5])
            loss = tf.reduce_mean(model.example_losses(weights, x, tf.constant(data.y)))
        return tf.reduce_sum(tape.gradient(loss, weights[5]) ** 2)

    with tf.GradientTape() as tape:
        tape.watch(points)
        value = gradient(points)
    slope = tf.reduce_sum(tape.gradient(value, points) * direction)
    step = 1e-5
    numeric = (gradient(points + step * direction) - gradient(points - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-5)
