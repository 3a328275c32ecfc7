"""R-GAP: exact where the rank analysis says so, flagged where it says not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import typer
from fedpriv_attacks.rgap.attack import RGAP
from fedpriv_attacks.rgap.ranks import rank_analysis
from typer.testing import CliRunner

from fedpriv.base.errors import CapabilityError, DivergenceError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.metrics.image import psnr
from fedpriv.models import load as load_model
from fedpriv.models.keras_model import from_keras
from fedpriv.procedure.procedure import Optimizer, make_procedure

SHAPE = (8, 7, 2)


def network(*layers, shape=SHAPE, dtype="float64", classes=5, last_bias=True, scale=0.5):
    """A Keras chain with U(-scale, scale) weights; `layers` are functions of (keras.layers, common options)."""

    def build():
        kl = tf.keras.layers
        uniform = tf.keras.initializers.RandomUniform
        common = {"dtype": dtype}

        def weights():
            return {"kernel_initializer": uniform(-scale, scale), "bias_initializer": uniform(-scale, scale), **common}

        made = [layer(kl, weights, common) for layer in layers]
        last = [kl.Flatten(**common), kl.Dense(classes, use_bias=last_bias, **weights())]
        return tf.keras.Sequential([tf.keras.Input(shape, dtype=dtype), *made, *last])

    return from_keras(build, verify=False)


def conv(filters, window, stride=1, activation="sigmoid", padding="same", bias=True):
    return lambda kl, weights, common: kl.Conv2D(
        filters, window, stride, padding, activation=activation, use_bias=bias, **weights()
    )


def dense(units, activation="tanh"):
    return lambda kl, weights, common: kl.Dense(units, activation, **weights())


def flat(kl, weights, common):
    return kl.Flatten(**common)


def leaky(kl, weights, common):
    return kl.LeakyReLU(0.2, **common)


def average(kl, weights, common):
    return kl.AveragePooling2D(2, **common)


def zeros(kl, weights, common):
    return kl.ZeroPadding2D(((2, 1), (0, 1)), **common)


INVERTIBLE = {
    "sigmoids": lambda **o: network(conv(8, 3), conv(8, 3, 2), **o),
    "no biases": lambda **o: network(conv(8, 3, bias=False), conv(8, 3, 2, bias=False), last_bias=False, **o),
    "leaky": lambda **o: network(conv(6, 3, activation=None), leaky, conv(8, (3, 2), (2, 1), "linear"), leaky, **o),
    "zeros and tanh": lambda **o: network(zeros, conv(8, 3, 1, "tanh", "valid"), flat, dense(40), **o),
    "elu, softplus": lambda **o: network(conv(6, 3, activation="elu"), conv(16, 3, 2, "softplus"), **o),
    "dense only": lambda **o: network(flat, dense(30, "sigmoid"), dense(20, "softplus"), **o),
    "one layer": lambda **o: network(flat, **o),
    "one layer, no bias": lambda **o: network(flat, last_bias=False, **o),
}
#: Each is short of equations in some layer.
SHORT = {
    "stride": lambda **o: network(conv(1, 2, 2, padding="valid"), conv(8, 3), **o),
    "pooling": lambda **o: network(conv(8, 3), average, conv(8, 3), **o),
    "dead": lambda **o: network(conv(2, 3, activation="relu"), **o, scale=0.02),
}


def image(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(0.05, 0.95, (1, *shape))


@pytest.fixture(scope="module")
def make_view(helpers):
    return helpers.make_view


@pytest.mark.parametrize("name", INVERTIBLE)
def test_a_float64_chain_is_inverted_to_rounding(make_view, name):
    model = INVERTIBLE[name]()
    x = image()
    analysis = rank_analysis(model)
    assert analysis.invertible, analysis.describe()
    finding = RGAP().run(make_view(model, x, [3]))
    assert finding.extra["invertible"]
    assert float(psnr(finding.x[0], x[0])) > 100
    assert list(finding.y) == [3]
    assert finding.objective < 1e-12
    assert finding.extra["label_misfit"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", INVERTIBLE)
def test_a_float32_update_is_enough(make_view, name):
    model = INVERTIBLE[name](dtype="float32")
    x = image(seed=1).astype(np.float32)
    finding = RGAP().run(make_view(model, x, [1], seed=1))
    assert float(psnr(finding.x[0], x[0])) > 70
    assert finding.x.dtype == np.float32
    # The error it expects is that of rounding alone, and of the right order.
    rms = float(np.sqrt(np.mean(np.square(finding.x - x))))
    assert finding.extra["expected_error"] < 1e-3
    assert rms < 100 * finding.extra["expected_error"] + 1e-7


@pytest.mark.parametrize("name", SHORT)
def test_it_fails_where_the_rank_analysis_says_so_and_says_so(make_view, name):
    model = SHORT[name]()
    x = image()
    analysis = rank_analysis(model, example=x[0])
    assert not analysis.invertible
    assert "not invertible" in analysis.describe()
    finding = RGAP().run(make_view(model, x, [2]))
    assert not finding.extra["invertible"]
    assert finding.extra["expected_error"] == float("inf")
    assert float(psnr(finding.x[0], x[0])) < 40


def test_where_the_first_layer_is_short_another_example_has_the_same_update(make_view):
    x = image()
    finding = RGAP().run(make_view(SHORT["stride"](), x, [2]))
    assert finding.objective < 1e-12
    assert float(psnr(finding.x[0], x[0])) < 20


@pytest.mark.slow
def test_refining_makes_up_for_a_layer_that_narrow_ones_before_it_constrain(make_view):
    model = network(conv(6, 3, activation="elu"), conv(6, 3, 2, "softplus"))
    x = image()
    analysis = rank_analysis(model)
    assert not analysis.invertible
    assert analysis.index <= 0
    assert "make up for it" in analysis.describe()
    view = make_view(model, x, [3])
    assert float(psnr(RGAP().run(view).x[0], x[0])) < 40
    assert float(psnr(RGAP(refine=20).run(view).x[0], x[0])) > 100


@pytest.mark.slow
@pytest.mark.parametrize("label", [0, 1])
def test_two_classes_without_a_bias_have_either_sign(make_view, label):
    model = network(conv(8, 3), conv(8, 3, 2), last_bias=False, classes=2)
    for seed in range(3):
        x = image(seed=seed)
        finding = RGAP().run(make_view(model, x, [label], seed=seed))
        assert list(finding.y) == [label]
        assert float(psnr(finding.x[0], x[0])) > 90


def full_matrix(model, index, x, label):
    """A = [W; K] of one layer, column by column from the network itself."""
    layers, flat = model.chain, model.initial_weights(0)
    weights = dict(zip(model.spec.names, map(tf.constant, model.spec.unflatten_numpy(flat)), strict=True))

    def linear(layer, value):
        value = tf.reshape(value, [1, *layer.input_shape])
        if layer.kind == "dense":
            return value @ weights[layer.kernel]
        if layer.kind == "average_pool":
            return tf.nn.avg_pool2d(value, layer.window, layer.stride, "VALID")
        return tf.nn.conv2d(value, weights[layer.kernel], layer.stride, [[0, 0], *layer.padding, [0, 0]])

    def after(layer, value):
        value = value + weights[layer.bias] if layer.bias else value
        if layer.activation == "leaky_relu":
            return tf.nn.leaky_relu(value, layer.slope)
        return getattr(tf.nn, layer.activation, tf.identity)(value)

    value = tf.constant(x)
    for layer in layers[:index]:
        value = after(layer, linear(layer, value))
    layer = layers[index]
    z = linear(layer, value)
    with tf.GradientTape() as tape:
        tape.watch(z)
        out = after(layer, z)
        for following in layers[index + 1 :]:
            out = after(following, linear(following, out))
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([label], tf.reshape(out, [1, -1]))
    k = tape.gradient(loss, z)
    slope = np.ones(z.shape) if layer.activation == "linear" else None
    if slope is None:
        with tf.GradientTape() as tape:
            tape.watch(z)
            out = after(layer, z)
        slope = tape.gradient(out, z).numpy()
    columns = []
    for i in range(int(np.prod(layer.input_shape))):
        unit = tf.reshape(tf.one_hot(i, int(np.prod(layer.input_shape)), dtype=tf.float64), [1, *layer.input_shape])
        rows = [linear(layer, unit).numpy()[slope != 0]] if index < len(layers) - 1 else []
        if layer.kernel:
            with tf.GradientTape() as tape:
                tape.watch(weights[layer.kernel])
                product = tf.reduce_sum(k * linear(layer, unit))
            rows.append(tape.gradient(product, weights[layer.kernel]).numpy().ravel())
        columns.append(np.concatenate(rows))
    matrix = np.stack(columns, 1)
    sizes = np.abs(matrix).max(1, keepdims=True)
    return matrix / np.where(sizes > 0, sizes, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        lambda: network(conv(4, 3), conv(3, 3, 2), shape=(6, 5, 2)),
        lambda: network(conv(1, 2, 2, padding="valid"), conv(8, 3), shape=(6, 6, 2)),
        lambda: network(conv(4, 3, activation="relu"), average, conv(4, 2), shape=(6, 6, 1)),
        lambda: network(conv(2, (3, 1), (2, 1), "leaky_relu"), flat, dense(3, "relu"), shape=(5, 6, 2)),
    ],
)
def test_ranks_are_those_of_the_matrices_written_out(model):
    model = model()
    x = image(model.input_shape, 3)[0]
    found = rank_analysis(model, example=x, seed=0).layers
    for index, layer in enumerate(found):
        matrix = full_matrix(model, index, x[None], 0)
        assert layer.unknowns == matrix.shape[1]
        assert layer.rank == np.linalg.matrix_rank(matrix), layer.name
        assert layer.weight_equations + layer.gradient_equations == matrix.shape[0]


def test_virtual_constraints_of_narrow_layers_before():
    # 8 inputs spread to 40 values, of which a layer of 4 units and no more shows its own gradient's worth.
    model = network(conv(8, 3, 1, "tanh", "same"), average, conv(2, 1), shape=(4, 4, 1))
    pool = rank_analysis(model).layers[1]
    assert (pool.unknowns, pool.rank, pool.virtual) == (128, 32, 128 - 16)
    assert pool.deficit == 96
    assert pool.index == 96 - 112


@pytest.mark.slow
def test_the_lenet_of_the_dlg_paper_is_invertible():
    analysis = rank_analysis(load_model("lenet(init=uniform)", (32, 32, 3), 100))
    assert [layer.unknowns for layer in analysis.layers] == [3072, 3072, 768, 768]
    assert analysis.invertible
    assert analysis.index == 0
    assert analysis.as_dict()["layers"][0]["deficit"] == 0


def test_weighing_the_equations_is_what_float32_needs(make_view):
    model = network(conv(8, 3), conv(8, 3, 2), conv(8, 3), dtype="float32", scale=1.0)
    x = image(seed=2).astype(np.float32)
    view = make_view(model, x, [0])
    quality = {w: float(psnr(RGAP(weighted=w).run(view).x[0], x[0])) for w in (True, False)}
    assert quality[True] > quality[False] + 10


@pytest.mark.slow
def test_refining_lowers_the_misfit_and_keeps_what_it_refined(make_view):
    model = network(conv(8, 3), conv(8, 3, 2), dtype="float32", scale=1.0)
    x = image(seed=3).astype(np.float32)
    view = make_view(model, x, [4])
    plain, refined = RGAP().run(view), RGAP(refine=2).run(view)
    np.testing.assert_array_equal(refined.extra["unrefined"], plain.x)
    assert refined.extra["misfits"][-1] < refined.extra["misfits"][0]
    assert refined.evaluations > plain.evaluations
    assert float(psnr(refined.x[0], x[0])) > float(psnr(plain.x[0], x[0])) - 1


def test_a_clipped_update_is_as_good_since_a_factor_cancels(make_view):
    model = INVERTIBLE["sigmoids"](dtype="float64")
    x = image()
    view = make_view(model, x, [3])
    finding = RGAP().run(make_view(model, x, [3], observed=view.observed * 0.01))
    assert float(psnr(finding.x[0], x[0])) > 100
    assert finding.objective > 1  # the replay knows of no clipping


def test_noise_spoils_it_and_shows(make_view):
    model = INVERTIBLE["sigmoids"]()
    x = image()
    clean = make_view(model, x, [3]).observed
    noisy = clean + np.random.default_rng(0).normal(0, 1e-3, clean.shape)
    finding = RGAP().run(make_view(model, x, [3], observed=noisy))
    assert float(psnr(finding.x[0], x[0])) < 40
    assert finding.extra["expected_error"] > 1e9 * RGAP().run(make_view(model, x, [3])).extra["expected_error"]


def test_the_same_view_gives_the_same_bits(make_view):
    model = INVERTIBLE["sigmoids"](dtype="float32")
    view = make_view(model, image(), [3])
    np.testing.assert_array_equal(RGAP(refine=1).run(view, 0).x, RGAP(refine=1).run(view, 1).x)


def largest(kl, weights, common):
    return kl.MaxPooling2D(2, **common)


def batch_norm(kl, weights, common):
    return kl.BatchNormalization(**common)


@pytest.mark.parametrize(
    ("layers", "says"),
    [((conv(4, 3), largest), "pools by maximum"), ((conv(4, 3), batch_norm), "plain sequence")],
)
def test_networks_it_cannot_go_through_are_refused(make_view, layers, says):
    model = network(*layers)
    with pytest.raises(CapabilityError, match=says):
        RGAP().run(make_view(model, image(), [0]))
    with pytest.raises(CapabilityError, match=says):
        rank_analysis(model)


def test_views_it_cannot_use_are_refused(make_view):
    model = network(flat, dense(4))
    two = make_view(model, np.repeat(image(), 2, 0), [0, 1])
    with pytest.raises(CapabilityError, match="2 examples"):
        RGAP().run(two)
    many = make_procedure(local_epochs=3, batch_size=None)
    with pytest.raises(CapabilityError, match="one local step"):
        RGAP().run(make_view(model, image(), [0], many))
    adam = make_procedure(local_epochs=1, batch_size=None, client=Optimizer(kind="adam"))
    with pytest.raises(CapabilityError, match="'adam'"):
        RGAP().run(make_view(model, image(), [0], adam))
    blind = dataclasses.replace(make_view(model, image(), [0]), procedure=None)
    with pytest.raises(CapabilityError, match="procedure"):
        RGAP().run(blind)
    for value, error in ((0.0, CapabilityError), (np.nan, DivergenceError)):
        with pytest.raises(error):
            RGAP().run(make_view(model, image(), [0], observed=np.full(model.spec.size, value)))


def test_a_layer_too_wide_for_memory_is_refused_before_it_is_tried(make_view):
    view = make_view(network(conv(8, 3), conv(8, 3)), image(), [0])
    with pytest.raises(CapabilityError, match="448 values, more than max_unknowns=400"):
        RGAP(max_unknowns=400).run(view)


def test_the_example_given_must_fit():
    with pytest.raises(ParameterError, match="shape"):
        rank_analysis(network(flat), example=np.zeros((2, 2)))


@pytest.mark.slow
def test_the_command_says_in_advance_whether_a_network_can_be_inverted():

    from fedpriv_attacks.rgap.command import ranks

    app = typer.Typer()
    app.command()(ranks)
    plain = CliRunner().invoke(app, ["lenet"], catch_exceptions=False).output
    assert "fully invertible by recursion" in plain
    found = json.loads(CliRunner().invoke(app, ["convnet(width=1)", "--json"], catch_exceptions=False).output)
    assert not found["invertible"]
    assert max(layer["deficit"] for layer in found["layers"]) > 0
