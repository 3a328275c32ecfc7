"""Keras models of tokens: which layer looks them up, and that points stand for its rows."""

import numpy as np
import pytest

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models import load
from fedpriv.models.sequences import with_presence

LENGTH, VOCABULARY, WIDTH = 5, 12, 4


def sequences(n: int = 4, each: bool = False, vocabulary: int = VOCABULARY) -> Dataset:
    draws = np.random.default_rng(0)
    x = draws.integers(1, vocabulary, (n, LENGTH)).astype(np.int32)
    x[::2, 3:] = 0
    y = np.roll(x, -1, 1) if each else (x[:, 0] > 6).astype(np.int32)
    kind = Tokens(length=LENGTH, vocabulary=vocabulary, padding=0)
    return Dataset("made", x, y, vocabulary if each else 2, kind=kind)


def embed(**more):
    return tf.keras.layers.Embedding(VOCABULARY, WIDTH, **more)


def recurrent():
    return tf.keras.Sequential(
        [
            tf.keras.Input([LENGTH]),
            embed(mask_zero=True, name="words"),
            tf.keras.layers.LSTM(3, unroll=True),
            tf.keras.layers.Dense(2),
        ]
    )


class TokenAndPositionEmbedding(tf.keras.layers.Layer):
    """As in Keras's guide to transformers."""

    def __init__(self):
        super().__init__()
        self.words, self.places = embed(name="words"), tf.keras.layers.Embedding(LENGTH, WIDTH, name="places")

    def call(self, x):
        return self.words(x) + self.places(tf.range(tf.shape(x)[-1]))


def transformer():
    """A causal self-attention, and a head of its own."""
    kl = tf.keras.layers
    inputs = tf.keras.Input([LENGTH])
    h = TokenAndPositionEmbedding()(inputs)
    h = kl.LayerNormalization()(h + kl.MultiHeadAttention(2, 2)(h, h, use_causal_mask=True))
    return tf.keras.Model(inputs, kl.Dense(VOCABULARY)(h))


class Reversible(tf.keras.layers.Embedding):
    """An embedding that is its own head, as keras_nlp has one."""

    def call(self, inputs, reverse=False):
        if reverse:
            return tf.matmul(inputs, self.embeddings, transpose_b=True)
        return super().call(inputs)


class Tied(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.words = Reversible(VOCABULARY, WIDTH, name="words")
        self.dense = tf.keras.layers.Dense(WIDTH, "tanh")

    def call(self, x):
        return self.words(self.dense(self.words(x)), reverse=True)


def shifted():
    inputs = tf.keras.Input([LENGTH])
    words = embed(name="words")
    both = words(inputs) + words(tf.roll(inputs, 1, 1))
    return tf.keras.Model(inputs, tf.keras.layers.Dense(2)(tf.reduce_mean(both, 1)))


def two_tables():
    inputs = tf.keras.Input([LENGTH])
    both = tf.concat([embed(name="words")(inputs), embed(name="others")(inputs)], 2)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(2)(tf.reduce_mean(both, 1)))


def counting():
    inputs = tf.keras.Input([LENGTH])
    h = tf.concat([tf.reduce_mean(embed(name="words")(inputs), 1), tf.reduce_mean(inputs, 1, keepdims=True)], 1)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(2)(h))


def frozen():
    return tf.keras.Sequential([tf.keras.Input([LENGTH]), embed(trainable=False, name="words"), *flat()])


def without():
    return tf.keras.Sequential([tf.keras.Input([LENGTH]), tf.keras.layers.Dense(2)])


def flat():
    return [tf.keras.layers.Flatten(), tf.keras.layers.Dense(2)]


def small():
    return tf.keras.Sequential([tf.keras.Input([LENGTH]), tf.keras.layers.Embedding(7, WIDTH, name="words"), *flat()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "each", "tied"), [(recurrent, False, False), (transformer, True, False), (Tied, True, True)]
)
def test_points_stand_for_the_rows_of_the_embedding(build, each, tied):
    data = sequences(each=each)
    model = load(f"tests.models.test_keras_tokens:{build.__name__}", data)
    found = model.embedding
    assert model.task.name == ("next_token" if each else "classes")
    assert model.spec.shapes[found.table] == (VOCABULARY, WIDTH)
    assert "words" in model.spec.names[found.table]
    assert found.tied == tied
    assert (found.head is not None) == (each and not tied)
    assert (found.positions is not None) == (build is transformer)
    weights = [tf.constant(w * 3) for w in model.initialize(1)]
    points = tf.gather(weights[found.table], data.x)
    for training in (True, False):
        tokens = model.apply(weights, data.x.astype(np.float32), training)
        masked = model.apply(weights, with_presence(points, data.x != 0), training)
        np.testing.assert_allclose(masked, tokens, atol=1e-5)
    whole = model.apply(weights, points, False)
    np.testing.assert_allclose(whole[1::2], tokens[1::2], atol=1e-5)
    if build is recurrent:  # the others have no mask
        assert np.abs(whole - tokens)[::2].max() > 1e-4


def test_the_queries_gradient_lies_in_the_span_of_the_inputs():
    data = sequences(1, each=True)
    model = load("tests.models.test_keras_tokens:transformer", data)
    (attention,) = model.attention
    assert attention.causal
    weights = [tf.constant(w * 3) for w in model.initialize(1)]
    x = tf.constant(data.x)
    inputs = attention.inputs(weights, x)[0].numpy()
    np.testing.assert_allclose(attention.inputs(weights, x[:, :3])[0], inputs[:3], atol=1e-6)
    points = tf.gather(weights[model.embedding.table], x[:, :2])
    np.testing.assert_allclose(attention.inputs(weights, points)[0], inputs[:2], atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = tf.reduce_mean(model.example_losses(weights, x, tf.constant(data.y)))
    gradient = tape.gradient(loss, weights[attention.query]).numpy().reshape(WIDTH, -1)
    counted = inputs[data.y[0] != 0]  # where the target is padding, nothing is learned
    assert len(counted) < WIDTH
    q = np.linalg.qr(counted.T)[0]
    assert np.linalg.norm(gradient) > 0
    assert np.linalg.norm(gradient - q @ (q.T @ gradient)) < 1e-4 * np.linalg.norm(gradient)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (shifted, "its layer 'words' is applied to the tokens and, another time, to what is made of them"),
        (two_tables, "its layers 'words' and 'others' both look the tokens up"),
        (counting, "its outputs depend on the tokens otherwise than by layer 'words'"),
        (frozen, "the table of its layer 'words' is not trained"),
        (without, "it has no Embedding layer that takes its tokens"),
    ],
)
def test_models_that_take_no_points_say_why_and_train_all_the_same(build, reason):
    model = load(f"tests.models.test_keras_tokens:{build.__name__}", sequences())
    assert model.embedding is None
    assert any(reason in note for note in model.notes)
    weights = model.initialize(0)
    assert model.apply(weights, sequences().x, True).shape == (4, 2)
    with pytest.raises(ModelError, match="takes token numbers alone, no points") as raised:
        model.apply(weights, np.zeros((1, LENGTH, WIDTH), np.float32), True)
    assert reason in str(raised.value)


def test_a_table_smaller_than_the_vocabulary_is_refused():
    with pytest.raises(ModelError, match=r"embedding of 7 tokens, but the data has 12; build layer 'words' with"):
        load("tests.models.test_keras_tokens:small", sequences())


def test_points_of_another_width_are_refused():
    model = load("tests.models.test_keras_tokens:recurrent", sequences())
    with pytest.raises(ModelError, match="points of 4 numbers, or 5 with presence last"):
        model.apply(model.initialize(0), np.zeros((1, LENGTH, 7), np.float32), True)
