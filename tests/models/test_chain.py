"""Chain: what it says of a network is what the network computes, and it says nothing of networks it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.models import load as load_model
from fedpriv.models.keras_model import from_keras

FUNCTIONS = {
    "linear": lambda z, s: z,
    "sigmoid": lambda z, s: 1 / (1 + np.exp(-z)),
    "tanh": lambda z, s: np.tanh(z),
    "relu": lambda z, s: np.maximum(z, 0),
    "leaky_relu": lambda z, s: np.where(z > 0, z, s * z),
    "elu": lambda z, s: np.where(z > 0, z, s * np.expm1(z)),
    "softplus": lambda z, s: np.log1p(np.exp(z)),
}


def by_hand(model, flat, x):
    """Logits of one example, computed from the chain alone with loops."""
    weights = dict(zip(model.spec.names, model.spec.unflatten_numpy(flat), strict=True))
    for layer in model.chain:
        assert layer.input_shape == x.shape or (layer.kind == "dense" and layer.input_shape == (x.size,))
        if layer.kind == "dense":
            z = x.reshape(-1) @ weights[layer.kernel]
        else:
            x = np.pad(x, (*layer.padding, (0, 0)))
            z = np.zeros(layer.output_shape)
            for i, j in np.ndindex(*layer.output_shape[:2]):
                a, b = i * layer.stride[0], j * layer.stride[1]
                patch = x[a : a + layer.window[0], b : b + layer.window[1]]
                if layer.kind == "conv":
                    z[i, j] = np.tensordot(patch, weights[layer.kernel], 3)
                else:
                    z[i, j] = patch.mean((0, 1)) if layer.kind == "average_pool" else patch.max((0, 1))
        z = z + (weights[layer.bias] if layer.bias else 0)
        x = FUNCTIONS[layer.activation](z, layer.slope)
        assert layer.output_shape == x.shape
    return x


def keras(*layers, shape=(7, 6, 2)):
    def build():
        return tf.keras.Sequential([tf.keras.Input(shape), *(make() for make in layers)])

    return from_keras(build, verify=False)


L = {
    "same": lambda: tf.keras.layers.Conv2D(3, (3, 2), (2, 1), padding="same", activation="tanh"),
    "valid": lambda: tf.keras.layers.Conv2D(3, 3, 2, use_bias=False),
    "zeros": lambda: tf.keras.layers.ZeroPadding2D(((1, 0), (2, 1))),
    "leaky": lambda: tf.keras.layers.LeakyReLU(0.1),
    "elu": lambda: tf.keras.layers.ELU(0.7),
    "average": lambda: tf.keras.layers.AveragePooling2D((3, 2), 2),
    "largest": lambda: tf.keras.layers.MaxPooling2D(2, 1),
    "flat": lambda: tf.keras.layers.Flatten(),
    "six": lambda: tf.keras.layers.Dense(6, "softplus"),
    "four": lambda: tf.keras.layers.Dense(4),
    "batch": lambda: tf.keras.layers.BatchNormalization(),
    "dropout": lambda: tf.keras.layers.Dropout(0.0),
    "nested": lambda: tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(5, "relu")]),
}


def made(*names, shape=(7, 6, 2)):
    return keras(*(L[n] for n in names), shape=shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        lambda: load_model("logistic", (4, 3, 2), 5),
        lambda: load_model("2nn(hidden=[7,6])", (4, 3, 2), 5),
        lambda: load_model("cnn", (9, 8, 1), 5),
        lambda: load_model("lenet(init=uniform)", (9, 12, 2), 5),
        lambda: load_model("convnet(width=2)", (9, 8, 3), 5),
        lambda: made("same", "valid", "leaky", "flat", "four"),
        lambda: made("zeros", "same", "average", "elu", "nested", "four"),
        lambda: made("zeros", "valid", "largest", "flat", "six", "four", shape=(9, 9, 1)),
    ],
)
def test_the_chain_computes_the_models_logits(model):
    model = model()
    assert model.chain
    rng = np.random.default_rng(0)
    flat = (model.initial_weights(0) + rng.normal(0, 0.1, model.spec.size)).astype(model.spec.dtype)
    x = rng.uniform(size=model.input_shape)
    expected = model.logits(tf.constant(flat), tf.constant(x[None], model.spec.dtype)).numpy()[0]
    np.testing.assert_allclose(by_hand(model, flat.astype(float), x), expected, rtol=2e-4, atol=2e-5)


def test_a_softmax_that_was_left_out_is_not_in_the_chain():
    def build():
        kl = tf.keras.layers
        return tf.keras.Sequential([tf.keras.Input((3,)), kl.Dense(4, "tanh"), kl.Dense(3, "softmax")])

    model = from_keras(build, outputs="probabilities")
    assert [layer.activation for layer in model.chain] == ["tanh", "linear"]


def functional():
    inputs = tf.keras.Input((3,))
    return tf.keras.Model(inputs, tf.keras.layers.Dense(2)(inputs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        lambda: load_model("resnet20", (8, 8, 3), 5),
        lambda: made("valid", "batch", "flat", "four"),
        lambda: made("valid", "dropout", "flat", "four"),
        lambda: made("zeros", "average", "flat", "four"),
        lambda: made("four", "flat", "four"),  # dense on every pixel
        lambda: from_keras(functional),
    ],
)
def test_nothing_is_said_of_other_networks(model):
    assert model().chain == ()


def test_a_subclass_may_do_anything_and_is_not_known():
    class Dense(tf.keras.layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    assert keras(lambda: Dense(3), shape=(4,)).chain == ()


def test_a_layer_used_twice_is_no_plain_chain():
    layer = tf.keras.layers.Dense(4)
    model = tf.keras.Sequential([tf.keras.Input((4,)), layer, tf.keras.layers.ReLU(), layer])
    assert from_keras(model, verify=False).chain == ()
