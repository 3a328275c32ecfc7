import numpy as np
import pytest

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.models import zoo
from fedpriv.models.model import cross_entropy

IMAGE_MODELS = [zoo.logistic, zoo.mlp_2nn, zoo.cnn, zoo.lenet, zoo.convnet]


@pytest.mark.parametrize(
    ("make", "shape", "classes", "weights"),
    [
        (zoo.logistic, (28, 28, 1), 10, 7_850),
        (zoo.mlp_2nn, (28, 28, 1), 10, 199_210),  # McMahan et al. 2017, section 3
        (zoo.cnn, (28, 28, 1), 10, 1_663_370),  # McMahan et al. 2017, section 3
        (zoo.lenet, (32, 32, 3), 100, 912 + 2 * 3_612 + 768 * 100 + 100),
        (zoo.lenet, (28, 28, 1), 10, 312 + 2 * 3_612 + 588 * 10 + 10),
    ],
)
def test_number_of_weights(make, shape, classes, weights):
    model = make(shape, classes)
    assert model.spec.size == weights
    assert model.initial_weights(0).shape == (weights,)


@pytest.mark.slow
@pytest.mark.parametrize("make", IMAGE_MODELS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (17, 9, 2), (5, 4, 1)])
def test_any_image_shape(make, shape):
    model = make(shape, 7)
    logits = model.logits(model.initial_weights(1), np.random.default_rng(0).uniform(size=(3, *shape)))
    assert logits.shape == (3, 7)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()
    assert model.classifier_bias() == slice(model.spec.size - 7, model.spec.size)
    assert model.classifier_kernel().stop == model.spec.size - 7
    assert len(model.layers) == len(model.spec.names)
    assert model.layers[-1] == "dense"


@pytest.mark.parametrize("make", [zoo.logistic, zoo.mlp_2nn])
def test_flat_features(make):
    model = make((30,), 3)
    assert model.logits(model.initial_weights(0), np.zeros((2, 30), "float32")).shape == (2, 3)


@pytest.mark.parametrize("make", [zoo.cnn, zoo.convnet])
def test_too_small_an_image_is_refused(make):
    with pytest.raises(ModelError, match=r"at least 4x4 pixels, got shape \(3, 8, 1\)"):
        make((3, 8, 1), 10)


@pytest.mark.parametrize("make", [zoo.cnn, zoo.lenet, zoo.convnet])
@pytest.mark.parametrize("shape", [(784,), (28, 28)])
def test_convolutions_need_images(make, shape):
    with pytest.raises(ModelError, match="height, width, channels"):
        make(shape, 10)


def test_impossible_sizes_are_refused():
    with pytest.raises(ModelError, match="num_classes=1"):
        zoo.logistic((4,), 1)
    with pytest.raises(ModelError, match="at least one value"):
        zoo.logistic((0,), 2)
    with pytest.raises(ParameterError, match="hidden"):
        zoo.mlp_2nn((4,), 2, hidden=[0])
    with pytest.raises(ParameterError, match="width=0"):
        zoo.convnet((8, 8, 1), 2, width=0)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "extra"), [("group", 2), ("batch_eval", 2), ("batch_train", 2)])
def test_convnet_with_normalization(norm, extra):
    plain, model = zoo.convnet((8, 8, 1), 3, width=8), zoo.convnet((8, 8, 1), 3, width=8, norm=norm)
    assert model.name == f"convnet(width=8,norm={norm})"
    assert model.spec.size == plain.spec.size + extra * (8 + 16 + 16 + 32)  # a scale and a shift a channel
    assert (model.moments is not None) == norm.startswith("batch")
    x = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
    together = model.apply(model.initialize(0), x, True).numpy()
    alone = model.apply(model.initialize(0), x[:1], True).numpy()
    assert np.allclose(together[:1], alone, atol=1e-4) == (norm != "batch_train")


def test_names_tell_changed_parameters():
    assert zoo.lenet().name == "lenet"
    assert zoo.lenet(init="uniform", dtype="float64").name == "lenet(init=uniform,dtype=float64)"
    assert zoo.mlp_2nn(hidden=[5, 6]).name == "2nn(hidden=[5,6])"


def test_same_seed_same_weights():
    model, again = zoo.lenet(init="uniform"), zoo.lenet(init="uniform")
    np.testing.assert_array_equal(model.initial_weights(5), again.initial_weights(5))
    assert not np.array_equal(model.initial_weights(5), model.initial_weights(6))


@pytest.mark.parametrize("init", ["default", "uniform"])
def test_layers_of_equal_shape_get_different_weights(init):
    conv2, conv3 = (zoo.lenet(init=init).initialize(0)[i] for i in (2, 4))
    assert conv2.shape == conv3.shape
    assert not np.array_equal(conv2, conv3)


def test_uniform_initialization_of_the_dlg_paper():
    for weights in zoo.lenet(init="uniform").initialize(0):
        assert weights.min() >= -0.5
        assert weights.max() <= 0.5
        assert weights.std() > 0.1  # biases too: U(-0.5, 0.5) has a standard deviation of 0.289
    flat = zoo.lenet(init="uniform").initial_weights(0)
    assert flat.std() == pytest.approx(1 / np.sqrt(12), rel=0.01)


def test_default_initialization_is_glorot_with_zero_biases():
    kernel, bias = zoo.logistic((100,), 10).initialize(0)
    assert np.abs(kernel).max() <= np.sqrt(6 / 110)
    assert np.abs(kernel).max() > 0.95 * np.sqrt(6 / 110)
    assert not bias.any()


def test_lenet_pads_two_pixels_on_every_side():
    """A stride-2 convolution of a 32-pixel image sees the pixels 0 to 2 at its first position, as PyTorch's does."""
    model = zoo.lenet((32, 32, 3), 4)
    w = model.initialize(0)
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    h = padded
    for i, stride in enumerate((2, 2, 1)):
        if i:
            h = np.pad(h, [(0, 0), (2, 2), (2, 2), (0, 0)])
        h = tf.sigmoid(tf.nn.conv2d(h, w[2 * i], stride, "VALID") + w[2 * i + 1]).numpy()
    expected = h.reshape(2, -1) @ w[6] + w[7]
    np.testing.assert_allclose(model.apply(w, x, False), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", IMAGE_MODELS)
def test_gradient_against_finite_differences(make):
    model = make((8, 6, 1), 3, dtype="float64")
    rng = np.random.default_rng(1)
    flat, x, y = model.initial_weights(0), rng.uniform(size=(4, 8, 6, 1)), tf.constant([0, 1, 2, 1])

    @tf.function
    def loss_and_gradient(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_mean(cross_entropy(model.logits(w, x, True), y))
        return loss, tape.gradient(loss, w)

    gradient = loss_and_gradient(tf.constant(flat))[1].numpy()
    assert gradient.dtype == np.float64
    direction = rng.normal(size=flat.shape)
    h = 1e-8  # small, so that hardly any ReLU changes its side
    numeric = (loss_and_gradient(flat + h * direction)[0] - loss_and_gradient(flat - h * direction)[0]) / (2 * h)
    assert gradient @ direction == pytest.approx(float(numeric), rel=1e-5, abs=1e-8)


def matching_loss(model, flat, observed):
    """|| gradient of the loss at (x, softmax(y)) - observed ||^2, the objective of DLG."""

    def distance(x, y):
        weights = model.spec.unflatten(flat)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(cross_entropy(model.apply(weights, x, True), tf.nn.softmax(y)))
        return tf.reduce_sum((model.spec.flatten(tape.gradient(loss, weights)) - observed) ** 2)

    return distance


@pytest.mark.slow
@pytest.mark.parametrize("make", [zoo.logistic, zoo.lenet, zoo.convnet])
def test_gradient_matching_against_finite_differences(make):
    """The second derivatives that every gradient-inversion attack rests on, in images and in soft labels."""
    model = make((8, 6, 2), 3, dtype="float64")
    rng = np.random.default_rng(2)
    flat = model.initial_weights(0)
    distance = tf.function(matching_loss(model, flat, rng.normal(size=flat.shape) * 0.1))
    x, y = rng.uniform(size=(2, 8, 6, 2)), rng.normal(size=(2, 3))

    @tf.function
    def gradients(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            d = distance(x, y)
        return tape.gradient(d, [x, y])

    gx, gy = (g.numpy() for g in gradients(tf.constant(x), tf.constant(y)))
    h, dx, dy = 1e-6, rng.normal(size=x.shape), rng.normal(size=y.shape)
    along_x = (distance(x + h * dx, y) - distance(x - h * dx, y)) / (2 * h)
    along_y = (distance(x, y + h * dy) - distance(x, y - h * dy)) / (2 * h)
    assert np.sum(gx * dx) == pytest.approx(float(along_x), rel=1e-5, abs=1e-9)
    assert np.sum(gy * dy) == pytest.approx(float(along_y), rel=1e-5, abs=1e-9)
    assert np.abs(gx).max() > 0
    assert np.abs(gy).max() > 0


def operations(graph):
    return sum(
        op.type not in ("Const", "Placeholder", "Identity", "NoOp", "ReadVariableOp") for op in graph.get_operations()
    )


def test_no_operations_beyond_those_of_hand_written_code():
    def plain(w, x):
        x = tf.reshape(x, [-1, 784])
        x = tf.nn.relu(tf.nn.bias_add(x @ w[0], w[1]))
        x = tf.nn.relu(tf.nn.bias_add(x @ w[2], w[3]))
        return tf.nn.bias_add(x @ w[4], w[5])

    model = zoo.mlp_2nn()

    def step(apply):
        def run(flat, x, y):
            w = model.spec.unflatten(flat)
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_mean(cross_entropy(apply(w, x), y))
            return model.spec.flatten(tape.gradient(loss, w))

        return tf.function(run).get_concrete_function(
            tf.TensorSpec([model.spec.size]), tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([None], tf.int32)
        )

    ours, hand = step(lambda w, x: model.apply(w, x, True)), step(plain)
    assert operations(ours.graph) <= operations(hand.graph)
    x, y = np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype("float32"), tf.constant([1, 2, 3, 4])
    flat = tf.constant(model.initial_weights(0))
    np.testing.assert_array_equal(ours(flat, tf.constant(x), y), hand(flat, tf.constant(x), y))


def test_the_first_layer_of_the_2nn_as_peeling_takes_it():
    model = zoo.mlp_2nn((28, 28, 1), 10, hidden=[1000], spread=0.5)
    first, bias, second, _ = model.initialize(3)
    assert abs(np.std(first) - 0.5) < 5 * 0.5 / np.sqrt(2 * first.size)  # of a normal sample's deviation, five sigma
    assert abs(np.mean(first)) < 5 * 0.5 / np.sqrt(first.size)
    assert not bias.any()
    assert np.abs(second).max() <= np.sqrt(6 / 1010)  # Glorot's bound, as without `spread`
    assert model.name == "2nn(hidden=[1000],spread=0.5)"
    assert not np.array_equal(first, model.initialize(4)[0])


def test_the_2nn_without_its_first_bias():
    model = zoo.mlp_2nn((4,), 3, hidden=[6, 5], first_bias=False)
    assert model.spec.shapes == ((4, 6), (6, 5), (5,), (5, 3), (3,))
    assert model.name == "2nn(hidden=[6,5],first_bias=False)"


@pytest.mark.parametrize(
    ("wrong", "says"), [({"spread": 0.0}, "spread=0"), ({"hidden": [], "spread": 1.0}, "has none")]
)
def test_a_first_layer_that_cannot_be(wrong, says):
    with pytest.raises(ParameterError, match=says):
        zoo.mlp_2nn((4,), 3, **wrong)
