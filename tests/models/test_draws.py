"""Draws: what layers do with them, and what the loss adds, against formulas written out."""

import numpy as np
import pytest

from fedpriv.base.errors import ModelError, ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.models import load as load_model
from fedpriv.models.draws import Draw, drawn, means
from fedpriv.models.example_gradients import ExampleClip, clipped_sum, shortcut
from fedpriv.models.keras_model import from_keras
from fedpriv.models.to_tff import to_functional_model

X = np.random.default_rng(0).uniform(size=(5, 4, 4, 1))
Y = np.array([0, 1, 2, 1, 0], np.int32)


def made(text, shape=(4, 4, 1), dtype="float64"):
    model = load_model(text, shape, 3, dtype=dtype)
    rng = np.random.default_rng(1)
    return model, [tf.constant(w + rng.normal(0, 0.1, w.shape), dtype) for w in model.initialize(0)]


def values_of(model, rows=5, seed=(3, 4)):
    return drawn(model.draws, tf.constant(seed, tf.int64), rows, model.spec.dtype)


def test_dropout_is_a_mask_over_its_mean():
    model, weights = made("2nn(hidden=[7],dropout=0.25)")
    (mask,) = values_of(model)
    first, first_bias, second, second_bias = (w.numpy() for w in weights)
    hidden = np.maximum(X.reshape(5, -1) @ first + first_bias, 0)
    outputs, penalties, buffers = model.stochastic(weights, X, (mask,))
    np.testing.assert_allclose(outputs, (hidden * mask.numpy() / 0.75) @ second + second_bias, rtol=1e-12)
    assert penalties is None
    assert buffers == ()
    np.testing.assert_allclose(model.apply(weights, X, True), hidden @ second + second_bias, rtol=1e-12)


def test_precode_is_a_sample_and_its_divergence():
    model, weights = made("2nn(hidden=[7],precode=2,precode_beta=0.3)")
    (eps,) = values_of(model)
    first, b1, encoder, b2, decoder, b3, last, b4 = (w.numpy() for w in weights)
    mean, log_variance = np.split(np.maximum(X.reshape(5, -1) @ first + b1, 0) @ encoder + b2, 2, axis=1)
    z = mean + np.exp(log_variance / 2) * eps.numpy()
    divergence = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, 1)
    outputs, penalties, _ = model.stochastic(weights, X, (eps,))
    np.testing.assert_allclose(outputs, (z @ decoder + b3) @ last + b4, rtol=1e-12)
    np.testing.assert_allclose(penalties, 0.3 * divergence, rtol=1e-12)
    losses = model.example_losses(weights, X, tf.constant(Y), True, (eps,))
    np.testing.assert_allclose(losses, model.task.losses(outputs, tf.constant(Y)) + 0.3 * divergence, rtol=1e-12)
    # Evaluation takes the mean, and adds nothing.
    still = model.apply(weights, X, False)
    np.testing.assert_allclose(still, (mean @ decoder + b3) @ last + b4, rtol=1e-12)
    np.testing.assert_array_equal(
        model.example_losses(weights, X, tf.constant(Y), False), model.task.losses(still, tf.constant(Y))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["lenet(dropout=0.5,precode=4)", "convnet(width=4,dropout=0.3,precode=4)", "cnn(dropout=0.5,precode=4)"],
)
def test_at_their_means_draws_change_nothing(text):
    model, weights = made(text)
    plain = model.apply(weights, X, True)
    np.testing.assert_array_equal(model.stochastic(weights, X, means(model.draws, 5, "float64"))[0], plain)
    np.testing.assert_array_equal(model.stochastic(weights, X, None)[0], plain)
    assert np.abs(model.stochastic(weights, X, values_of(model))[0] - plain).max() > 1e-3
    assert [d.name for d in model.draws] == ["dropout", "precode"]
    # What stands before the last layers alone is untouched by both.
    assert {n.rpartition("/")[0] for n in model.spec.names[model.draws[1].before :]} == {
        "precode_encoder",
        "precode_decoder",
        model.spec.names[-1].rpartition("/")[0],
    }


def test_a_model_without_draws_has_no_other_way_to_be_trained():
    for text in ("lenet", "lenet(dropout=0,precode=0)"):
        model, _ = made(text)
        assert model.draws == ()
        assert model.stochastic is None
        assert model.name == "lenet(dtype=float64)"


def test_masks_follow_their_law_and_the_seed():
    draw, seed = Draw("one", (50, 20), "keep", 0.7), tf.constant([1, 2], tf.int64)
    mask = draw.values(seed, 40, "float32").numpy()
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert abs(mask.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / mask.size)
    shares = mask.reshape(40, -1).mean(1)  # examples draw apart: the spread of their shares is binomial
    assert shares.std() == pytest.approx(np.sqrt(0.7 * 0.3 / 1000), rel=0.5)
    np.testing.assert_array_equal(draw.values(seed, 40, "float32"), mask)
    other = draw.values(tf.constant([1, 3], tf.int64), 40, "float32").numpy()
    assert np.mean(other == mask) == pytest.approx(0.7**2 + 0.3**2, abs=0.02)
    two = drawn((Draw("a", (9,)), Draw("b", (9,))), seed, 4, "float64")
    assert not np.any(two[0].numpy() == two[1].numpy())


def test_running_statistics_move_as_the_draws_say():
    model, _ = made("convnet(width=4,norm=batch_running,dropout=0.5)", dtype="float32")
    weights, x = [tf.constant(w) for w in model.initialize(0)], X.astype("float32")
    outputs, _, buffers = model.stochastic(weights, x, values_of(model))
    plain, moved = model.advance(weights, x)
    for ours, theirs in zip(buffers, moved, strict=True):  # the statistics stand before the mask
        np.testing.assert_array_equal(ours, theirs)
    assert np.abs(outputs - plain).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["2nn(hidden=[7],dropout=0.5,precode=2)", pytest.param("lenet(dropout=0.5)", marks=pytest.mark.slow)]
)
def test_clipped_sums_of_examples_take_each_its_own_draws(text):
    model, weights = made(text, dtype="float32")
    draws, x = values_of(model), tf.constant(X, tf.float32)
    assert shortcut(model)
    clip = ExampleClip(0.3)
    rows = []
    for i in range(5):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = model.example_losses(
                weights, x[i : i + 1], tf.constant(Y[i : i + 1]), True, [d[i : i + 1] for d in draws]
            )
        rows.append(np.concatenate([np.ravel(g) for g in tape.gradient(loss, weights, unconnected_gradients="zero")]))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = np.sum(rows * np.minimum(1, 0.3 / norms), 0)
    assert np.any(norms > 0.3)
    for single in (True, False):
        with_draws = tf.function(
            lambda s=single: clipped_sum(model, weights, x, tf.constant(Y), clip, None, s, draws).total, autograph=False
        )
        np.testing.assert_allclose(np.concatenate([np.ravel(t) for t in with_draws()]), wanted, atol=1e-5)


def keras(*layers):
    kl = tf.keras.layers
    return tf.keras.Sequential([kl.Input((4, 4, 2)), *layers, kl.Flatten(), kl.Dense(3)])


@pytest.mark.slow
def test_layers_of_keras_take_their_draws_from_outside():
    kl = tf.keras.layers
    x = np.random.default_rng(0).normal(size=(200, 4, 4, 2)).astype("float32")
    cases = {
        "dropout": (kl.Dropout(0.4), (4, 4, 2)),
        "rows": (kl.Dropout(0.4, noise_shape=(None, 4, 1, 1)), (4, 1, 1)),
        "spatial": (kl.SpatialDropout2D(0.4), (1, 1, 2)),
        "noise": (kl.GaussianNoise(0.7), (4, 4, 2)),
        "gaussian": (kl.GaussianDropout(0.4), (4, 4, 2)),
    }
    for name, (layer, shape) in cases.items():
        model = from_keras(keras(layer))
        assert [d.shape for d in model.draws] == [shape], name
        identity = [np.eye(32, 3, dtype="float32"), np.zeros(3, "float32")]
        (value,) = values_of(model, 200)
        out = model.stochastic(identity, x, (value,))[0].numpy()
        wide = np.broadcast_to(value, x.shape).reshape(200, -1)[:, :3]
        flat = x.reshape(200, -1)[:, :3]
        spread = np.sqrt(0.4 / 0.6)
        wanted = {"noise": flat + 0.7 * wide, "gaussian": flat * (1 + spread * wide)}.get(name, flat * wide / 0.6)
        np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(model.apply(identity, x, True), flat)


@pytest.mark.slow
def test_what_draws_cannot_do_is_refused_by_name():
    kl = tf.keras.layers
    with pytest.raises(ModelError, match=r"noise_shape=\(1, 4, 4, 1\).*examples share a mask"):
        from_keras(keras(kl.Dropout(0.4, noise_shape=(1, 4, 4, 1))))
    with pytest.raises(ModelError, match=r"draws random numbers in training \('alpha_dropout"):
        from_keras(keras(kl.AlphaDropout(0.4)))
    with pytest.raises(ModelError, match="draws for 4 rows of one example"):
        from_keras(keras(kl.TimeDistributed(kl.Dropout(0.4))))
    with pytest.raises(ModelError, match="TFF's learning processes have no place"):
        to_functional_model(made("lenet(precode=4)")[0], 0)
    for text, said in {
        "lenet(dropout=1)": r"dropout=1.* lies in \[0, 1\)",
        "cnn(dropout=-0.1)": r"dropout=-0.1",
        "2nn(precode=-2)": r"precode=-2 is the size",
        "convnet(precode=4,precode_beta=-1)": r"precode_beta=-1.0 is a weight",
        "2nn(hidden=[],dropout=0.5)": r"hidden=\[\] has none",
    }.items():
        with pytest.raises(ParameterError, match=said):
            load_model(text, (4, 4, 1), 3)
    model, weights = made("lenet(dropout=0.5)")
    with pytest.raises(ModelError, match="draws values of shape"):
        model.stochastic(weights, X, (tf.ones([5, 3], tf.float64),))
    with pytest.raises(ModelError, match="drew fewer values"):
        model.stochastic(weights, X, (*values_of(model), tf.ones([5, 3], tf.float64)))


def test_soteria_does_not_go_with_draws(federate):
    from fedpriv_defenses.soteria import Soteria

    with pytest.raises(StackError, match=r"model 'lenet\(dropout=0.5\)' draws random numbers.*use one of the two"):
        federate(model=load_model("lenet(dropout=0.5)", (4, 4, 1), 3), defenses=(Soteria(),)).run(1)
