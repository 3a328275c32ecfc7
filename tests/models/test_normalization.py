import numpy as np
import pytest

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.models.normalization import batch_norm_call, group_norm_call, is_batch_norm, is_group_norm

X = np.random.default_rng(0).normal(2, 3, size=(5, 4, 3, 6)).astype("float32")


def built(layer):
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.5, 2, size=w.shape) for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("axis", [-1, 1, 3])
def test_batch_norm_is_kerass_in_both_modes(axis):
    layer = built(tf.keras.layers.BatchNormalization(axis=axis))
    np.testing.assert_allclose(batch_norm_call(layer, "eval")(tf.constant(X)), layer(X, training=False), atol=1e-5)
    before = [w.copy() for w in layer.get_weights()]
    ours = batch_norm_call(layer, "train")(tf.constant(X))
    for was, now in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(was, now)
    np.testing.assert_allclose(ours, layer(X, training=True), atol=1e-5)


def test_batch_norm_without_scale_or_shift():
    layer = built(tf.keras.layers.BatchNormalization(scale=False, center=False))
    out = batch_norm_call(layer, "train")(tf.constant(X)).numpy()
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.var((0, 1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_is_kerass(groups):
    layer = built(tf.keras.layers.GroupNormalization(groups))
    np.testing.assert_allclose(group_norm_call(layer)(tf.constant(X)), layer(X), atol=1e-5)


@pytest.mark.parametrize("kind", ["group", "batch"])
def test_second_derivatives_against_finite_differences(kind):
    """What tf.nn.moments gets wrong: it stops the gradient of the mean inside the variance."""
    layers = tf.keras.layers
    layer = (
        layers.GroupNormalization(2, dtype="float64") if kind == "group" else layers.BatchNormalization(dtype="float64")
    )
    layer = built(layer)
    call = group_norm_call(layer) if kind == "group" else batch_norm_call(layer, "train")
    rng = np.random.default_rng(2)
    x, dx, weights = X.astype("float64"), rng.normal(size=X.shape), rng.normal(size=X.shape)

    @tf.function(autograph=False)
    def first_and_second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(weights * tf.sigmoid(call(x)))
            squared = tf.reduce_sum(inner.gradient(value, x) ** 2)
        return squared, outer.gradient(squared, x)

    h = 1e-6
    gradient = first_and_second(tf.constant(x))[1].numpy()
    numeric = (first_and_second(tf.constant(x + h * dx))[0] - first_and_second(tf.constant(x - h * dx))[0]) / (2 * h)
    assert np.sum(gradient * dx) == pytest.approx(float(numeric), rel=1e-6)


def test_what_is_refused():
    masked = built(tf.keras.layers.BatchNormalization(name="masked"))
    with pytest.raises(ModelError, match="'masked' gets a mask"):
        batch_norm_call(masked, "train")(tf.constant(X), mask=tf.ones([5, 4, 3]))
    with pytest.raises(ModelError, match="last axis"):
        group_norm_call(built(tf.keras.layers.GroupNormalization(2, axis=1)))(tf.constant(X))
    with pytest.raises(ModelError, match="virtual_batch_size=2"):
        batch_norm_call(tf.compat.v1.keras.layers.BatchNormalization(virtual_batch_size=2), "train")


def test_which_layer_is_which():
    layers = tf.keras.layers
    assert is_batch_norm(layers.BatchNormalization())
    assert is_batch_norm(layers.experimental.SyncBatchNormalization())
    assert not is_batch_norm(layers.LayerNormalization())
    assert is_group_norm(layers.GroupNormalization(2))
