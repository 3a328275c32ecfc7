"""Clipped sums of examples' gradients, against each example's own gradient by itself."""

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.models import load
from fedpriv.models.example_gradients import ExampleClip, by_products, clipped_sum, layers_of, positions, shortcut
from fedpriv.models.keras_model import from_keras

IMAGE = (12, 12, 1)


def examples(model, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (n, *model.input_shape)).astype(model.spec.dtype)
    y = rng.integers(0, max(model.num_classes, 2), (n, *model.task.target_shape)).astype(model.task.target_dtype)
    return tf.constant(x), tf.constant(y)


def weights_of(model, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(w + rng.normal(0, 0.1, w.shape), model.spec.dtype) for w in model.initialize(0)]


def own_gradients(model, weights, x, y):
    """Each example's gradient, one after the other, as float64 `[b, d]`."""
    rows = []
    for i in range(len(y)):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = model.example_losses(weights, x[i : i + 1], y[i : i + 1])
        found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        rows.append(np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in found]))
    return np.array(rows, np.float64)


def expected_sum(rows, clip):
    means = rows.reshape(-1, clip.group, rows.shape[1]).mean(1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return (means * np.minimum(1, clip.norm / np.maximum(lengths, 1e-30))).sum(0), lengths[:, 0]


def made(model, weights, x, y, clip, **options):
    out = tf.function(lambda: vars(clipped_sum(model, weights, x, y, clip, **options)), autograph=False)()
    return np.concatenate([np.ravel(t) for t in out.pop("total")]), {k: float(v) for k, v in out.items()}


def keras(*layers, shape=IMAGE, classes=3, dtype="float32", **options):
    def build():
        before = tf.keras.backend.floatx()
        tf.keras.backend.set_floatx(dtype)
        try:
            return tf.keras.Sequential([tf.keras.Input(shape), *(layer() for layer in layers)])
        finally:
            tf.keras.backend.set_floatx(before)

    return from_keras(build, "odd", shape, classes, **options)


def kl():
    return tf.keras.layers


def shared():
    """One layer used twice, another three times with places of different number."""

    def build():
        inputs = tf.keras.Input((6, 5))
        once = kl().Dense(5, "tanh")
        x = once(once(inputs))
        pooled = once(kl().GlobalAveragePooling1D()(x))
        return tf.keras.Model(inputs, kl().Dense(3)(kl().Concatenate()([kl().Flatten()(x), pooled])))

    return from_keras(build, "shared")


def shared_convolution():
    def build():
        inputs = tf.keras.Input((8, 8, 2))
        conv = kl().Conv2D(2, 3, padding="same", activation="tanh")
        x = conv(kl().AveragePooling2D(2)(conv(inputs)))
        return tf.keras.Model(inputs, kl().Dense(3)(kl().Flatten()(x)))

    return from_keras(build, "shared convolution")


def embedded():
    """Tokens, some of which occur several times in an example."""

    def build():
        inputs = tf.keras.Input((9,))
        tokens = kl().Lambda(lambda x: tf.cast(x * 4, tf.int32))(inputs)
        x = kl().LayerNormalization()(kl().Embedding(6, 4)(tokens))
        return tf.keras.Model(inputs, kl().Dense(3)(kl().Flatten()(kl().Dense(4, "tanh")(x))))

    return from_keras(build, "embedded")


def tied():
    """An embedding whose transpose gives the logits: two uses that do not add up."""

    class Tied(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.table = self.add_weight(name="table", shape=(3, 4))

        def call(self, x, training=None):
            tokens = tf.cast(x * 3, tf.int32)
            return tf.reduce_mean(tf.gather(self.table, tokens), 1) @ tf.transpose(self.table)

    return from_keras(Tied, "tied", (5,), 3)


def time_major():
    """Rows of its product are not in the order of the examples; only the trial can tell."""

    class TimeMajor(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.kernel = self.add_weight(name="kernel", shape=(4, 3))

        def call(self, x, training=None):
            turned = tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 4])
            out = tf.reshape(turned @ self.kernel, [5, -1, 3])
            return tf.reduce_sum(tf.tanh(out), 0)

    return from_keras(TimeMajor, "time major", (5, 4), 3)


def transposed():
    class Transposed(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.kernel = self.add_weight(name="kernel", shape=(3, 4))
            self.scale = self.add_weight(name="scale", shape=(5, 1), initializer="ones")

        def call(self, x, training=None):
            rows = tf.reshape(x - self.scale, [-1, 4])
            return tf.reduce_sum(tf.tanh(tf.reshape(tf.matmul(rows, self.kernel, transpose_b=True), [-1, 5, 3])), 1)

    return from_keras(Transposed, "transposed", (5, 4), 3)


#: Models by name, and whether their sum is had layer by layer.
ODD = {
    "shared": (shared, True),
    "shared convolution": (shared_convolution, True),
    "embedded": (embedded, True),
    "tied": (tied, False),
    "time major": (time_major, False),
    "transposed": (transposed, True),
    "strides": (
        lambda: keras(
            lambda: kl().Conv2D(40, 3, 2, "same", activation="tanh"),
            lambda: kl().Conv2D(8, (3, 2), activation="tanh"),
            lambda: kl().Conv2D(4, 1, use_bias=False),
            kl().Flatten,
            lambda: kl().Dense(3),
        ),
        True,
    ),
    "dilation": (
        lambda: keras(
            lambda: kl().Conv2D(4, 3, dilation_rate=2, activation="tanh"), kl().Flatten, lambda: kl().Dense(3)
        ),
        False,
    ),
    "grouped convolution": (
        lambda: keras(
            lambda: kl().Conv2D(4, 3, activation="tanh"),
            lambda: kl().DepthwiseConv2D(3),
            kl().Flatten,
            lambda: kl().Dense(3),
        ),
        False,
    ),
    "recurrent": (lambda: keras(lambda: kl().GRU(4), lambda: kl().Dense(3), shape=(5, 3)), False),
    "frozen statistics": (
        lambda: keras(
            lambda: kl().Conv2D(2, 3), kl().BatchNormalization, kl().Flatten, lambda: kl().Dense(3), batch_norm="eval"
        ),
        False,
    ),
}


#: The others take as long to build as all of these, and are slow tests.
FEW = ("shared", "embedded", "time major", "strides")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in ODD])
def test_odd_models_give_the_sum_of_single_gradients(name):
    build, quick = ODD[name]
    model = build()
    assert shortcut(model) is quick
    agrees(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("logistic", "mlp", "mlp(hidden=[8,8],task=binary)", "2nn", "cnn", "tanh_cnn", "lenet", "convnet", "resnet20"),
        *("convnet(norm=group)", "convnet(norm=batch_eval)"),
    ],
)
def test_all_models_of_the_zoo_give_the_sum_of_single_gradients(name):
    model = load(name, input_shape=(28, 28, 1), num_classes=2)
    assert shortcut(model) == ("batch" not in name)
    agrees(model)


def agrees(model):
    weights, (x, y) = weights_of(model), examples(model, 6)
    rows = own_gradients(model, weights, x, y)
    clip = ExampleClip(float(np.median(np.linalg.norm(rows, axis=1))))
    found, said = made(model, weights, x, y, clip)
    expected, lengths = expected_sum(rows, clip)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    assert said["norm"] == pytest.approx(lengths.sum(), rel=1e-5)
    assert said["clipped"] == 3
    assert said["strange"] == 0
    assert said["loss"] == pytest.approx(float(tf.reduce_sum(model.example_losses(weights, x, y))), rel=1e-5)


@pytest.fixture(scope="module")
def small():
    return keras(
        lambda: kl().Conv2D(6, 3, 2, activation="tanh"),
        kl().MaxPooling2D,
        kl().Flatten,
        lambda: kl().Dense(5, "tanh"),
        lambda: kl().Dense(3),
        dtype="float64",
    )


@pytest.mark.slow
def test_microbatches_are_means_clipped_together(small):
    weights, (x, y) = weights_of(small), examples(small, 12)
    rows = own_gradients(small, weights, x, y)
    clip = ExampleClip(0.3, group=4)
    found, _ = made(small, weights, x, y, clip)
    np.testing.assert_allclose(found, expected_sum(rows, clip)[0], atol=1e-12)
    short, said = made(small, weights, x[:6], y[:6], ExampleClip(0.3, group=4))
    padded = np.concatenate([rows[:6], np.zeros((2, rows.shape[1]))])
    np.testing.assert_allclose(short, expected_sum(padded, ExampleClip(0.3, group=4))[0], atol=1e-12)
    assert said["count"] == 6


def test_layers_are_clipped_to_equal_shares(small):
    weights, (x, y) = weights_of(small), examples(small, 5)
    rows, numbers = own_gradients(small, weights, x, y), np.repeat(layers_of(small), small.spec.sizes)
    expected = np.zeros(small.spec.size)
    for layer in range(3):
        part = np.where(numbers == layer, rows, 0)
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        expected += (part * np.minimum(1, 0.3 / 3**0.5 / lengths)).sum(0)
    found, _ = made(small, weights, x, y, ExampleClip(0.3, per_layer=True))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_padding_adds_nothing(small, single):
    weights, (x, y) = weights_of(small), examples(small, 6)
    mask = tf.constant([1, 1, 1, 1, 0, 0], tf.float64)
    found, said = made(small, weights, x, y, ExampleClip(0.5), mask=mask, single=single)
    alone, _ = made(small, weights, x[:4], y[:4], ExampleClip(0.5), single=single)
    np.testing.assert_allclose(found, alone, atol=1e-13)
    assert said["count"] == 4
    nothing, said = made(small, weights, x[:1], y[:1], ExampleClip(0.5), mask=tf.zeros([1], tf.float64), single=single)
    assert not nothing.any()
    assert said["count"] == said["loss"] == 0


@pytest.mark.parametrize("single", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_example_moves_the_sum_by_more_than_the_clip(single):
    model = load("lenet", input_shape=(8, 8, 1), num_classes=3)
    weights, (x, y) = weights_of(model), examples(model, 5)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 8, 8, 1]), tf.TensorSpec([None], tf.int32)])
    def total(x, y):
        out = clipped_sum(model, weights, x, y, ExampleClip(0.5), single=single)
        return model.spec.flatten(out.total), out.strange

    without = total(x[1:], y[1:])[0].numpy()
    for value in (1e3, 1e15, 1e30, np.inf, np.nan):
        whole, strange = total(tf.concat([tf.fill([1, 8, 8, 1], np.float32(value)), x[1:]], 0), y)
        assert np.isfinite(whole).all()
        assert np.linalg.norm(whole - without) <= 0.5 * (1 + 1e-4)
        if not np.isfinite(value):
            assert strange == 1
            np.testing.assert_allclose(whole, without, atol=1e-6)


@pytest.mark.slow
def test_a_norm_that_cancels_clips_more_and_never_less():
    """Slopes of places that are each other's opposites: the gradient is nearly 0, and rounding is all that is left."""
    model = from_keras(
        lambda: tf.keras.Sequential(
            [tf.keras.Input((2, 40)), kl().Dense(40, use_bias=False), kl().Lambda(lambda x: x[:, 0] - x[:, 1])]
        ),
        "opposite",
    )
    assert shortcut(model)
    assert positions(model) == ((2,),)
    assert by_products(2, 40, 40)
    rng = np.random.default_rng(0)
    row = rng.normal(0, 1e6, (8, 1, 40))
    x = tf.constant(np.concatenate([row, row + rng.normal(0, 1, (8, 1, 40))], 1), tf.float32)
    y, weights = tf.constant(np.arange(8) % 40, tf.int32), weights_of(model)
    for i in range(8):
        found, _ = made(model, weights, x[i : i + 1], y[i : i + 1], ExampleClip(1.0))
        assert np.linalg.norm(found) <= 1 + 1e-3


@pytest.mark.slow
def test_parts_of_a_batch_add_up_whatever_their_size(small, monkeypatch):
    from fedpriv.models import example_gradients

    weights, (x, y) = weights_of(small), examples(small, 23)
    whole, said = made(small, weights, x, y, ExampleClip(0.5))
    monkeypatch.setattr(example_gradients, "physical_rows", lambda model, group=1: 4)
    parts, told = made(small, weights, x, y, ExampleClip(0.5))
    np.testing.assert_allclose(parts, whole, atol=1e-12)
    assert told == pytest.approx(said)


@pytest.mark.slow
def test_single_gradients_can_be_differentiated_again(small):
    weights, (x, y) = weights_of(small), examples(small, 3)

    @tf.function(autograph=False)
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = clipped_sum(small, weights, x, y, ExampleClip(0.5), single=True).total
            value = tf.reduce_sum(tf.square(small.spec.flatten(total)[:50]))
        return value, tape.gradient(value, x)

    step = tf.constant(np.random.default_rng(1).normal(0, 1e-5, x.shape))
    expected = float(slope(x + step)[0] - slope(x - step)[0]) / 2
    assert float(tf.reduce_sum(slope(x)[1] * step)) == pytest.approx(expected, rel=1e-4)
