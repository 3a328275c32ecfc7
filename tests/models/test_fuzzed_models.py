"""Whatever a user's function returns as a model is a model that can be trained, or is refused in one line."""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import FedprivError
from fedpriv.models.loading import load

kl = tf.keras.layers
SHAPE, CLASSES = (6, 6, 1), 3
SETTINGS = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Stateful(kl.Layer):
    """Counts its calls in a variable."""

    def build(self, shape):
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x * (1 + 0 * self.count)


class Untrained(kl.Layer):
    """Breaks when it is called."""

    def call(self, x):
        raise RuntimeError("two\nlines")


class Pair(kl.Layer):
    """Returns two tensors."""

    def call(self, x):
        return x, x


MIDDLE = {
    "conv": lambda: kl.Conv2D(2, 3, padding="same"),
    "dense": lambda: kl.Dense(4, activation="relu"),
    "wide": lambda: kl.Dense(4, dtype="float64"),
    "half": lambda: kl.Dense(4, dtype="mixed_float16"),
    "norm": kl.BatchNormalization,
    "frozen norm": lambda: kl.BatchNormalization(trainable=False),
    "sync norm": kl.experimental.SyncBatchNormalization,
    "group": lambda: kl.GroupNormalization(1),
    "layer": kl.LayerNormalization,
    "unit": kl.UnitNormalization,
    "dropout": lambda: kl.Dropout(0.5),
    "noise": lambda: kl.GaussianNoise(0.1),
    "flip": kl.RandomFlip,
    "relu": kl.ReLU,
    "softmax": kl.Softmax,
    "flat": kl.Flatten,
    "pool": lambda: kl.MaxPooling2D(2),
    "mean": kl.GlobalAveragePooling2D,
    "reshape": lambda: kl.Reshape((-1, 2)),
    "no reshape": lambda: kl.Reshape((5,)),
    "lookup": lambda: kl.Embedding(4, 2),
    "recurrent": lambda: kl.SimpleRNN(3),
    "memory": lambda: kl.LSTM(3, return_sequences=True),
    "rounded": lambda: kl.Lambda(tf.round),
    "nothing": lambda: kl.Lambda(lambda x: None),
    "complex": lambda: kl.Lambda(lambda x: tf.cast(x, tf.complex64)),
    "whole": lambda: kl.Lambda(lambda x: tf.cast(x, tf.int32)),
    "infinite": lambda: kl.Lambda(lambda x: x / 0.0),
    "joined": lambda: kl.Lambda(lambda x: tf.reduce_mean(x)),
    "response": lambda: kl.Lambda(tf.nn.lrn),
    "spectral": lambda: kl.SpectralNormalization(kl.Dense(4)) if hasattr(kl, "SpectralNormalization") else kl.ReLU(),
    "masked": lambda: kl.Masking(0.0),
    "stateful": Stateful,
    "untrained": Untrained,
    "pair": Pair,
}
LAST = {
    "logits": lambda: kl.Dense(CLASSES),
    "softmax": lambda: kl.Dense(CLASSES, activation="softmax"),
    "sigmoid": lambda: kl.Dense(CLASSES, activation="sigmoid"),
    "one": lambda: kl.Dense(1),
    "many": lambda: kl.Dense(CLASSES + 1),
    "none": kl.ReLU,
}
INPUTS = [SHAPE, (6, 6, 3), (None, None, 1), (36,), (), None]


def stack(names, last, inputs):
    def net():
        first = [] if inputs is None else [tf.keras.Input(inputs)]
        return tf.keras.Sequential([*first, *(MIDDLE[n]() for n in names), LAST[last]()])

    return net


def graph(names, last, copies):
    """The same layers between several inputs or outputs."""

    def net():
        inputs = [tf.keras.Input(SHAPE) for _ in range(copies)]
        x = inputs[0] if copies == 1 else kl.Add()(inputs)
        for n in names:
            x = MIDDLE[n]()(x)
        return tf.keras.Model(inputs, [x, LAST[last]()(x)] if copies == 2 else LAST[last]()(x))

    return net


def raising(error):
    def net():
        raise error

    return net


names = st.lists(st.sampled_from(sorted(MIDDLE)), max_size=4)
flat = names.map(lambda n: [*n, "flat"])
nets = st.one_of(
    st.builds(stack, flat, st.sampled_from(sorted(LAST)), st.sampled_from(INPUTS)),
    st.builds(stack, flat, st.just("logits"), st.just(SHAPE)),
    st.builds(stack, names, st.just("logits"), st.just(SHAPE)),
    st.builds(graph, flat, st.just("logits"), st.integers(1, 3)),
)
returned = st.one_of(
    st.sampled_from([None, 3, "net", [], (1, 2), {}, tf.keras.Model, kl.Dense(3), np.zeros(3), tf.constant(1.0)]).map(
        lambda value: lambda: value
    ),
    st.sampled_from(
        [ValueError("a\nb"), KeyError(), OSError(5, "x"), RuntimeError("\x1b[31m" * 99), AssertionError()]
    ).map(raising),
)


def through_the_door(net, options=""):
    """The model, or the message that it was refused with, on one line."""
    module = types.ModuleType("fedpriv_fuzzed_nets")
    module.net = net
    sys.modules[module.__name__] = module
    refused = ""
    try:
        return load(f"fedpriv_fuzzed_nets:net{options}", SHAPE, CLASSES)
    except FedprivError as e:
        refused = str(e)
    finally:
        del sys.modules[module.__name__]
    assert refused.strip()
    assert refused.isprintable(), refused  # so it has no line end
    assert len(refused) < 2000, refused
    return refused


def can_be_trained(model):
    """What the rest of fedpriv relies on."""
    assert model.num_classes == CLASSES
    first, again = model.initialize(3), model.initialize(3)
    assert [w.shape for w in first] == [tuple(s) for s in model.spec.shapes]
    assert all(w.dtype == model.spec.dtype for w in first)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    x = np.random.RandomState(0).uniform(size=(4, *SHAPE)).astype(model.spec.dtype)
    y = tf.constant([0, 1, 2, 0])

    @tf.function(autograph=False)
    def losses(weights, x):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(model.example_losses(weights, x, y))
        return loss, tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    weights = [tf.constant(w) for w in first]
    loss, gradient = losses(weights, tf.constant(x))
    assert loss.shape == ()
    assert [g.shape for g in gradient] == [w.shape for w in weights]
    assert model.apply(weights, x, False).shape == (4, CLASSES)
    assert model.apply(weights, x[:1], False).shape == (1, CLASSES)
    if model.advance is not None:
        outputs, moved = model.advance(weights, x)
        assert outputs.shape == (4, CLASSES)
        assert [m.shape for m in moved] == [w.shape for w in weights[: model.buffers]]


def check_net(net, options=""):
    model = through_the_door(net, options)
    if not isinstance(model, str) and model.num_classes == CLASSES:
        can_be_trained(model)


@SETTINGS
@given(nets)
def test_any_stack_of_layers(net):
    check_net(net)


@SETTINGS
@given(returned)
def test_anything_that_is_no_model(net):
    assert isinstance(through_the_door(net), str)


@SETTINGS
@given(
    flat,
    st.sampled_from(["outputs", "batch_norm", "task", "allow_stateful_random", "input_shape", "width"]),
    st.one_of(
        st.sampled_from(["running", "train", "eval", "auto", "probabilities", "true", "binary", "-1"]), st.text()
    ),
)
def test_any_option_of_a_net(layers, option, value):
    written = "".join(c for c in value if c.isalnum() or c in "-._ ")
    check_net(stack(layers, "logits", SHAPE), f"({option}={written})")


@pytest.mark.slow
def test_every_layer_by_itself():
    """One after another, so that none hides behind chance."""
    seen = {name: through_the_door(stack([name, "flat"], "logits", SHAPE)) for name in MIDDLE}
    fine = {name for name, model in seen.items() if not isinstance(model, str)}
    assert {"conv", "norm", "frozen norm", "sync norm", "group", "layer", "relu", "pool", "mean"} <= fine
    assert {"dropout", "noise"} <= fine
    assert not fine & {"flip", "half", "wide", "nothing", "stateful", "untrained", "pair", "joined"}
    for name in ("conv", "sync norm", "dropout"):
        can_be_trained(seen[name])


@pytest.mark.slow
def test_every_layer_by_itself_can_be_trained():
    for name in MIDDLE:
        model = through_the_door(stack([name, "flat"], "logits", SHAPE))
        if not isinstance(model, str):
            can_be_trained(model)
