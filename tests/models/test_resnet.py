import numpy as np
import pytest

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.models.model import cross_entropy
from fedpriv.models.resnet import resnet20

X = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def batch_train():
    return resnet20((8, 8, 3), 4, norm="batch_train")


@pytest.fixture(scope="module")
def batch_eval():
    return resnet20((8, 8, 3), 4, norm="batch_eval")


@pytest.fixture(scope="module")
def group():
    return resnet20((8, 8, 3), 4)


@pytest.mark.slow
def test_number_of_weights_of_the_paper():
    """He et al. 2015, table 6: 0.27M; 19 convolutions, 19 scales and shifts, one dense layer."""
    model = resnet20((32, 32, 3), 10)
    kernels = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    assert model.spec.size == kernels + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 650 == 269_722
    assert model.layers.count("conv") == 19
    assert model.layers.count("norm") == 38
    assert model.layers[-2:] == ("dense", "dense")
    assert model.spec.names[-2:] == ("dense/kernel", "dense/bias")


@pytest.mark.slow
def test_odd_and_oblong_images():
    shape = (9, 5, 2)
    model = resnet20(shape, 5)
    logits = model.logits(model.initial_weights(0), np.ones((2, *shape), "float32"), True)
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()


@pytest.mark.slow
def test_group_norm_keeps_examples_apart(group):
    flat = group.initial_weights(0)
    together, alone = group.logits(flat, X, True), group.logits(flat, X[:1], True)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    np.testing.assert_array_equal(together, group.logits(flat, X, False))
    assert group.notes == ()


@pytest.mark.slow
def test_batch_eval_uses_frozen_statistics_in_training_too(batch_eval):
    flat = batch_eval.initial_weights(0)
    together = batch_eval.logits(flat, X, True)
    np.testing.assert_array_equal(together, batch_eval.logits(flat, X, False))
    np.testing.assert_allclose(together[:1], batch_eval.logits(flat, X[:1], True), rtol=1e-4, atol=1e-4)
    assert "frozen" in batch_eval.notes[0]


def test_batch_train_uses_the_batch_in_evaluation_too(batch_train):
    flat = batch_train.initial_weights(0)
    together = batch_train.logits(flat, X, True)
    np.testing.assert_array_equal(together, batch_train.logits(flat, X, False))
    assert np.abs(together[:1] - batch_train.logits(flat, X[:1], True)).max() > 1e-2
    assert "evaluation" in batch_train.notes[0]


def test_batch_train_does_not_see_the_scale_of_the_images(batch_train):
    """The first convolution has no bias, so normalizing by the batch undoes any scaling of the input."""
    flat = batch_train.initial_weights(0)
    np.testing.assert_allclose(batch_train.logits(flat, X), batch_train.logits(flat, 7 * X), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_running_statistics_of_a_trained_network(batch_eval):
    widths = [16] * 7 + [32] * 6 + [64] * 6
    initial = [s for w in widths for s in (np.zeros(w), np.ones(w))]
    other = [s for w in widths for s in (np.full(w, 0.1), np.full(w, 4.0))]
    flat = batch_eval.initial_weights(0)
    same = resnet20((8, 8, 3), 4, norm="batch_eval", statistics=initial)
    moved = resnet20((8, 8, 3), 4, norm="batch_eval", statistics=other)
    np.testing.assert_array_equal(same.logits(flat, X), batch_eval.logits(flat, X))
    assert np.abs(moved.logits(flat, X) - same.logits(flat, X)).max() > 1e-3
    with pytest.raises(ModelError, match="expected"):
        resnet20((8, 8, 3), 4, norm="batch_eval", statistics=other[:-1])
    with pytest.raises(ParameterError, match="batch_eval"):
        resnet20((8, 8, 3), 4, statistics=other)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch_train"])
def test_second_derivatives_against_finite_differences(norm):
    model = resnet20((5, 4, 1), 3, norm=norm, dtype="float64")
    rng = np.random.default_rng(3)
    flat = model.initial_weights(0)
    x, y, dx = rng.uniform(size=(2, 5, 4, 1)), tf.constant([0, 2]), rng.normal(size=(2, 5, 4, 1))

    @tf.function
    def distance_and_gradient(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            w = tf.constant(flat)
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_mean(cross_entropy(model.logits(w, x, True), y))
            d = tf.reduce_sum(tape.gradient(loss, w) ** 2)
        return d, outer.gradient(d, x)

    h = 1e-7
    gradient = distance_and_gradient(tf.constant(x))[1].numpy()
    numeric = (distance_and_gradient(x + h * dx)[0] - distance_and_gradient(x - h * dx)[0]) / (2 * h)
    assert np.sum(gradient * dx) == pytest.approx(float(numeric), rel=1e-4)


def test_what_is_refused():
    with pytest.raises(ModelError, match="4x4"):
        resnet20((3, 3, 3), 10)
    with pytest.raises(ModelError, match="height, width, channels"):
        resnet20((784,), 10)
    with pytest.raises(ParameterError, match="groups=3"):
        resnet20(groups=3)
