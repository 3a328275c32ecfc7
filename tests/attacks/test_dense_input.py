"""The first dense layer in a flat update: found by what it does, refused where there is none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.exact.dense_input import dense_input, find_dense_input

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.models import zoo
from fedpriv.models.keras_model import from_keras
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import make_procedure

SHAPE = (6, 5, 2)


def by_hand(view, x, y):
    """The mean gradient of the first layer's kernel and bias, by backpropagation through its pre-activations."""
    model = view.model
    weights = [tf.constant(w) for w in model.spec.unflatten_numpy(np.asarray(view.weights))]
    flat = tf.constant(x.reshape(len(x), -1), model.spec.dtype)
    with tf.GradientTape() as tape:
        z = flat @ weights[0] + weights[1]
        tape.watch(z)
        h = tf.nn.relu(z)
        for kernel, bias in zip(weights[2:-2:2], weights[3:-2:2]):
            h = tf.nn.relu(h @ kernel + bias)
        logits = h @ weights[-2] + weights[-1]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    d = tape.gradient(loss, z).numpy().astype(np.float64)
    return flat.numpy().astype(np.float64).T @ d, d.sum(0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_the_gradients_are_those_of_backpropagation(helpers, dtype, rate):
    model = zoo.mlp_2nn(SHAPE, 4, [12, 9], dtype=dtype)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(3, *SHAPE)), [0, 3, 3]
    view = helpers.make_view(model, x, y, helpers.local_steps(1, rate))
    layer = dense_input(view)
    kernel, bias = by_hand(view, x, y)
    tolerance = 20 * layer.rounding + 1e-9 if dtype == "float64" else 20 * layer.rounding + 1e-6
    np.testing.assert_allclose(layer.kernel, kernel, atol=tolerance)
    np.testing.assert_allclose(layer.bias, bias, atol=tolerance)
    assert (layer.inputs, layer.units, layer.rate_known) == (60, 12, True)
    assert np.linalg.matrix_rank(layer.kernel, tol=1e-4) <= 3
    np.testing.assert_allclose(
        layer.preactivations(x.reshape(3, -1)), x.reshape(3, -1) @ layer.kernel_weights + layer.bias_weights
    )


def test_names_and_activation_of_known_models():
    assert dataclasses.astuple(find_dense_input(zoo.mlp_2nn(SHAPE, 4))) == ("dense1/kernel", "dense1/bias", True, 1.0)
    assert dataclasses.astuple(find_dense_input(zoo.logistic(SHAPE, 4))) == ("dense/kernel", "dense/bias", False, 1.0)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "elu", "gelu", "softplus", "linear", "leaky_relu", "swish"])
def test_a_bias_is_found_whatever_the_activation(activation):
    layers = [tf.keras.Input(SHAPE), tf.keras.layers.Flatten(), tf.keras.layers.Dense(16, activation, name="first")]
    model = from_keras(lambda: tf.keras.Sequential([*layers, tf.keras.layers.Dense(3)]), activation)
    assert find_dense_input(model).bias == "first/bias"
    assert find_dense_input(model).input_scale == 1.0


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "elu", "gelu", "softplus", "linear", "leaky_relu", "swish"])
def test_only_relu_counts_as_rectified(activation):
    layers = [tf.keras.Input(SHAPE), tf.keras.layers.Flatten(), tf.keras.layers.Dense(16, activation)]
    model = from_keras(lambda: tf.keras.Sequential([*layers, tf.keras.layers.Dense(3)]), activation)
    assert not find_dense_input(model).rectified


@pytest.mark.parametrize(
    "first",
    [
        lambda kl: [kl.Conv2D(3, 3, padding="same"), kl.Flatten()],
        lambda kl: [kl.Rescaling(2.0, -1.0), kl.Flatten()],
        lambda kl: [kl.Permute((2, 1, 3)), kl.Flatten()],
        lambda kl: [kl.Dense(7), kl.Flatten()],
        lambda kl: [kl.AveragePooling2D((1, 5)), kl.Flatten()],
    ],
    ids=["convolution", "offset", "permuted", "by pixel", "pooled"],
)
def test_a_layer_behind_another_is_not_taken_for_the_first(first):
    kl = tf.keras.layers
    build = lambda: tf.keras.Sequential([tf.keras.Input(SHAPE), *first(kl), kl.Dense(8, "relu"), kl.Dense(3)])  # noqa: E731
    with pytest.raises(CapabilityError, match="no dense layer that sees the raw example of 60 values"):
        find_dense_input(from_keras(build, "other"))


def test_square_layers_are_told_apart_and_no_bias_is_invented():
    kl = tf.keras.layers
    build = lambda: tf.keras.Sequential(  # noqa: E731
        [
            tf.keras.Input((5,)),
            kl.Dense(5, "relu", use_bias=False, name="a"),
            kl.Dense(5, "relu", name="b"),
            kl.Dense(5, name="c"),
        ]
    )
    assert dataclasses.astuple(find_dense_input(from_keras(build, "square"))) == ("a/kernel", None, True, 1.0)


def test_a_model_of_plain_functions_with_its_weights_in_another_order():
    spec = Spec(("head", "shift", "c0", "w0"), ((7, 3), (3,), (7,), (20, 7)))

    def apply(weights, x, training=False):
        return tf.nn.relu(tf.reshape(x, [-1, 20]) @ weights[3] + weights[2]) @ weights[0] + weights[1]

    def initialize(seed):
        rng = np.random.default_rng(seed)
        return [rng.normal(size=s).astype("float32") for s in spec.shapes]

    model = Model("plain", (20,), 3, spec, apply, initialize)
    assert dataclasses.astuple(find_dense_input(model)) == ("w0", "c0", True, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("inverse", [4.0, 1 / 255])
def test_a_rescaled_input_goes_into_the_kernel(helpers, activation, inverse):
    kl = tf.keras.layers
    rescaled, plain = (
        from_keras(
            lambda scale=scale: tf.keras.Sequential(
                [tf.keras.Input(SHAPE), kl.Rescaling(scale), kl.Flatten(), kl.Dense(8, activation), kl.Dense(3)]
            ),
            f"scale{scale}",
        )
        for scale in (inverse, 1.0)
    )
    x, y = np.random.default_rng(0).uniform(size=(3, *SHAPE)), [0, 1, 2]
    weights = plain.initial_weights(0)
    shrunk = weights.copy()
    shrunk[: 60 * 8] /= inverse
    a = dense_input(helpers.make_view(rescaled, x, y, weights=shrunk))
    b = dense_input(helpers.make_view(plain, x, y, weights=weights))
    assert a.input_scale == pytest.approx(inverse, rel=1e-4)
    np.testing.assert_allclose(a.kernel, b.kernel, atol=20 * max(a.rounding, b.rounding) + 1e-6)
    np.testing.assert_allclose(a.kernel_weights, b.kernel_weights, rtol=1e-4)


def test_updates_that_say_nothing_are_refused(helpers):
    model = zoo.mlp_2nn(SHAPE, 4, [6])
    x = np.random.default_rng(0).uniform(size=(2, *SHAPE))
    good = helpers.make_view(model, x, [0, 1])
    with pytest.raises(CapabilityError, match="'dense1/kernel' did not move"):
        dense_input(dataclasses.replace(good, observed=np.zeros_like(good.observed)))
    spoiled = good.observed.copy()
    spoiled[3] = np.inf
    with pytest.raises(DivergenceError, match="1 non-finite entries in the update"):
        dense_input(dataclasses.replace(good, observed=spoiled))
    with pytest.raises(CapabilityError, match="real update"):
        dense_input(dataclasses.replace(good, kind="shares", observed=None))
    adam = make_procedure(batch_size=None, client={"kind": "adam", "learning_rate": 0.01})
    with pytest.raises(CapabilityError, match="'adam'"):
        dense_input(dataclasses.replace(good, procedure=adam))


def test_without_the_rate_the_scale_is_unknown(helpers):
    x = np.random.default_rng(0).uniform(size=(2, *SHAPE))
    view = helpers.make_view(zoo.mlp_2nn(SHAPE, 4, [6]), x, [0, 1], helpers.local_steps(1, 0.5))
    known, unknown = dense_input(view), dense_input(dataclasses.replace(view, client_rate=None))
    assert (known.rate_known, unknown.rate_known) == (True, False)
    np.testing.assert_allclose(known.kernel * 0.5, unknown.kernel)


def test_noise_that_clients_declare_adds_up_in_a_sum(federate):
    from fedpriv_attacks.exact.dense_input import declared_noise
    from fedpriv_defenses.local_dp import LocalDP
    from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

    from fedpriv.threat.adversary import Adversary
    from fedpriv.threat.tap import Tap

    noise, taps = LocalDP(clip=2.0, noise_multiplier=0.01), [Tap(), Tap(Adversary().without("defense"))]
    for weighting, share in (("uniform", 5**-0.5), ("examples", np.sqrt(25 + 144 + 1 + 64 + 16) / 30)):
        federation = federate(defenses=(noise, SecretSharing(range=4.0)), batch_size=None, weighting=weighting)
        knowing, blind = (o.view for o in federation.run(1, taps=taps, evaluate_every=0).observations)
        assert declared_noise(knowing) == pytest.approx(0.02 * share)
        assert declared_noise(blind) == 0


@pytest.mark.slow
def test_a_little_noise_in_a_sum_is_reckoned_with():
    """Of four images behind noise of 1e-6 a coordinate all come back, though units no longer agree to rounding."""
    from fedpriv_attacks.exact.first_layer import FirstLayer
    from fedpriv_defenses.local_dp import LocalDP
    from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

    from fedpriv.data.embedded import fashion_small
    from fedpriv.models.zoo import mlp
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.rounds.trial import run_trial

    def found(noise):
        model = mlp((28, 28, 1), 10, hidden=[200], activation="relu")
        stack = (LocalDP(clip=1.0, noise_multiplier=noise), SecretSharing(range=1.0))
        (seen,) = Exposure(model, fashion_small()[0], trials=1, cohort=4, defenses=stack).observe(0)
        return [i.psnr for i in run_trial(FirstLayer(), seen).score.images]

    assert min(found(1e-6)) > 50
    assert max(found(1e-2)) < 30
