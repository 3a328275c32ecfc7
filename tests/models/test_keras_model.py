import threading

import numpy as np
import pytest

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.models.keras_model import from_keras
from fedpriv.models.model import cross_entropy

X = np.random.default_rng(0).uniform(size=(4, 6, 6, 2)).astype("float32")


def sequential(*layers, shape=(6, 6, 2)):
    return tf.keras.Sequential([tf.keras.Input(shape), *layers])


def small():
    kl = tf.keras.layers
    return sequential(kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(5))


def shared():
    kl = tf.keras.layers
    inputs = tf.keras.Input((6, 6, 2))
    conv = kl.Conv2D(2, 3, padding="same", activation="tanh")
    x = kl.Flatten()(kl.Concatenate()([conv(conv(inputs)), inputs]))
    return tf.keras.Model(inputs, kl.Dense(3)(x))


def nested():
    kl = tf.keras.layers
    inner = tf.keras.Sequential([kl.Dense(4, activation="relu"), kl.Dense(4)])  # builds itself when first called
    inputs = tf.keras.Input((6, 6, 2))
    return tf.keras.Model(inputs, kl.Dense(3)(inner(inner(kl.Dense(4)(kl.Flatten()(inputs))))))


def subclassed():
    """Weights in lists, dictionaries and tuples, a helper module, an eager tensor, Python control flow."""

    class Scale(tf.Module):
        def __init__(self):
            super().__init__()
            self.by = tf.Variable([1.5], name="by")

    class Block(tf.keras.layers.Layer):
        def build(self, shape):
            self.parts = [self.add_weight(shape=(shape[-1], 4), name=f"part{i}") for i in range(2)]
            self.offsets = {"a": (self.add_weight(shape=(4,), name="a"),)}
            self.half = tf.constant(0.5)
            self.scale = Scale()

        def call(self, x):
            if tf.reduce_sum(x) > -1e9:  # an `if` on a tensor, as Keras allows
                x = x * 1.0
            return self.scale.by * self.half * (x @ self.parts[0] - x @ self.parts[1]) + self.offsets["a"][0]

    class Net(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.out = tf.keras.layers.Dense(3)  # made first, used last
            self.flatten = tf.keras.layers.Flatten()
            self.blocks = [Block(), Block()]

        def call(self, x):
            x = self.flatten(x)
            for block in self.blocks:
                x = tf.nn.tanh(block(x))
            return self.out(x)

    return Net()


def recurrent():
    kl = tf.keras.layers
    return sequential(kl.Reshape((6, 12)), kl.LSTM(4), kl.Dense(3))


def attention():
    kl = tf.keras.layers
    inputs = tf.keras.Input((6, 6, 2))
    x = kl.Reshape((6, 12))(inputs)
    x = kl.LayerNormalization()(x + kl.MultiHeadAttention(2, 3)(x, x))
    return tf.keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling1D()(x)))


def separable():
    kl = tf.keras.layers
    return sequential(
        kl.SeparableConv2D(3, 3), kl.DepthwiseConv2D(2), kl.PReLU(), kl.Conv2DTranspose(2, 2), kl.Flatten(), kl.Dense(3)
    )


ANY = [small, shared, nested, subclassed, recurrent, attention, separable]


@pytest.mark.slow
@pytest.mark.parametrize("build", ANY)
def test_logits_are_the_keras_models(build):
    keras = build()
    expected = keras(X).numpy()
    model = from_keras(keras, "mine", (6, 6, 2))
    weights = model.initialize(0)
    np.testing.assert_allclose(model.apply(weights, X, False), expected, atol=1e-6)
    compiled = tf.function(lambda w, x: model.apply(w, x, True))
    np.testing.assert_allclose(compiled(weights, X), expected, atol=1e-6)
    # other weights give other logits, and the Keras model has its own again afterwards
    assert np.abs(model.apply([w + 0.1 for w in weights], X, False) - expected).max() > 1e-3
    np.testing.assert_array_equal(keras(X), expected)


@pytest.mark.slow
@pytest.mark.parametrize("build", ANY)
def test_it_is_a_pure_function(build):
    model = from_keras(build, "mine", (6, 6, 2))

    def gradients(w, x):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(model.apply(w, x, True) ** 2)
        return tape.gradient(loss, w)

    traced = tf.function(gradients).get_concrete_function(
        [tf.TensorSpec(s) for s in model.spec.shapes], tf.TensorSpec((None, 6, 6, 2))
    )
    assert traced.captured_inputs == []
    assert traced.variables == ()
    assert None not in gradients([tf.constant(w) for w in model.initialize(0)], tf.constant(X))


@pytest.mark.slow
@pytest.mark.parametrize("build", [nested, subclassed, attention])
def test_names_and_initial_weights_do_not_depend_on_what_was_built_before(build):
    first = from_keras(build, "mine", (6, 6, 2))
    again = from_keras(build, "mine", (6, 6, 2))
    assert first.spec == again.spec
    np.testing.assert_array_equal(first.initial_weights(3), again.initial_weights(3))
    assert not np.array_equal(first.initial_weights(3), first.initial_weights(4))


@pytest.mark.slow
def test_names_and_kinds():
    model = from_keras(nested, "mine")
    assert model.spec.names[:4] == ("dense/kernel", "dense/bias", "sequential/dense/kernel", "sequential/dense/bias")
    assert model.layers == ("dense",) * 8
    assert set(from_keras(separable, "mine").layers) == {"conv", "other", "dense"}
    assert from_keras(recurrent, "mine").layers == ("recurrent",) * 3 + ("dense",) * 2


def test_the_classifier_comes_last_even_if_made_first():
    model = from_keras(subclassed, "mine", (6, 6, 2))
    assert model.spec.names[-2:] == ("dense/kernel", "dense/bias")
    bias = model.classifier_bias()
    flat = model.initial_weights(0)
    moved = flat.copy()
    moved[bias] += [1, 2, 3]
    np.testing.assert_allclose(model.logits(moved, X) - model.logits(flat, X), np.tile([1, 2, 3], (4, 1)), atol=1e-5)


def test_a_model_brings_its_own_initial_weights():
    keras = small()
    model = from_keras(keras)
    for seed in (0, 1):
        for own, weight in zip(keras.get_weights(), model.initialize(seed), strict=True):
            np.testing.assert_array_equal(own, weight)
    assert any("whatever the seed" in note for note in model.notes)


def test_pretrained_weights_of_a_function_stay():
    def build():
        model = small()
        model.layers[0].set_weights([np.ones((3, 3, 2, 3)), np.full(3, 2.0)])
        return model

    kernel, bias, head, _ = from_keras(build).initialize(9)
    assert (kernel == 1).all()
    assert (bias == 2).all()
    assert head.std() > 0


def test_frozen_layers_become_constants():
    keras = small()
    keras.layers[0].trainable = False
    model = from_keras(keras)
    assert model.spec.names == ("dense/kernel", "dense/bias")
    np.testing.assert_allclose(model.apply(model.initialize(0), X, True), keras(X), atol=1e-6)
    assert any("2 weights that are not trainable" in note for note in model.notes)


def with_batch_norm():
    kl = tf.keras.layers
    return sequential(kl.Conv2D(3, 3), kl.BatchNormalization(momentum=0.5), kl.Flatten(), kl.Dense(5))


def test_batch_norm_modes():
    keras = with_batch_norm()
    keras(X, training=True)  # moves the running statistics
    frozen = from_keras(keras)
    batch = from_keras(keras, batch_norm="train")
    weights = frozen.initialize(0)
    statistics = [v.numpy() for v in keras.non_trainable_variables]
    for training in (True, False):
        np.testing.assert_allclose(frozen.apply(weights, X, training), keras(X, training=False), atol=1e-5)
    in_training = [batch.apply(weights, X, training) for training in (True, False)]
    for was, variable in zip(statistics, keras.non_trainable_variables):
        np.testing.assert_array_equal(was, variable)
    for logits in in_training:
        np.testing.assert_allclose(logits, keras(X, training=True), atol=1e-5)
    assert "frozen" in frozen.notes[0]
    assert "evaluation" in batch.notes[0]


def by_hand(weights, x):
    """What enters the batch normalization of `with_batch_norm`, `[n, 4, 4, 3]`, in float64 NumPy."""
    kernel, bias = (np.asarray(w, np.float64) for w in weights[:2])
    patches = np.lib.stride_tricks.sliding_window_view(np.asarray(x, np.float64), (3, 3), (1, 2))
    return np.einsum("nijcab,abco->nijo", patches, kernel) + bias


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_moments_of_what_enters_batch_norm(mode):
    model = from_keras(with_batch_norm, batch_norm=mode)
    weights = model.initialize(3)
    ((mean, variance),) = model.moments(weights, X)
    entering = by_hand(weights, X)
    np.testing.assert_allclose(mean, entering.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(variance, entering.var((0, 1, 2)), atol=1e-6)
    traced = tf.function(model.moments, autograph=False)(weights, tf.constant(X))
    np.testing.assert_allclose(traced[0][1], variance, atol=1e-6)
    np.testing.assert_array_equal(model.apply(weights, X, True), model.apply(weights, X, True))


def test_moments_come_in_the_order_of_use_once_a_use():
    kl = tf.keras.layers

    def build():
        inputs = tf.keras.Input((6, 6, 2))
        first, twice = kl.BatchNormalization(name="first"), kl.BatchNormalization(name="twice")
        x = kl.Dense(3, use_bias=False)(first(inputs))
        return tf.keras.Model(inputs, kl.Dense(3)(kl.Flatten()(twice(tf.nn.relu(twice(x))))))

    keras = build()
    keras(X, training=True)
    model = from_keras(keras)
    found = model.moments(model.initialize(0), X)
    assert [m.shape[0] for m, _ in found] == [m.shape[0] for m, _ in model.running] == [2, 3, 3]
    np.testing.assert_allclose(found[0][0], X.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_array_equal(model.running[1][0], keras.get_layer("twice").moving_mean)
    np.testing.assert_array_equal(model.running[1][0], model.running[2][0])
    assert model.statistics(model.initial_weights(0)) == model.running


def test_what_has_no_moments_or_only_the_initial_statistics():
    assert (from_keras(small).moments, from_keras(small).running) == (None, None)
    assert from_keras(small).statistics(from_keras(small).initial_weights(0)) is None
    fresh = from_keras(with_batch_norm, batch_norm="eval")
    assert len(fresh.running) == 1
    assert fresh.statistics(fresh.initial_weights(0)) is None
    assert from_keras(with_batch_norm, batch_norm="train").running is None
    assert hash(fresh) == hash(fresh)  # compiled attacks are kept by model
    assert fresh != from_keras(with_batch_norm, batch_norm="eval")


def test_statistics_that_nothing_was_learned_from_are_not_frozen_unless_asked():
    """New ones run along; those that a model came with stay."""
    assert from_keras(with_batch_norm).notes == from_keras(with_batch_norm, batch_norm="running").notes
    trained = with_batch_norm()
    trained(X, training=True)
    assert from_keras(trained).notes == from_keras(trained, batch_norm="eval").notes
    assert "no client sends" in from_keras(trained).notes[0]
    one = from_keras(with_batch_norm, batch_norm="train")
    weights = one.initialize(0)
    together, alone = (one.apply(weights, x, False).numpy() for x in (X, X[:1]))
    assert not np.allclose(together[:1], alone, atol=1e-3)


def test_what_a_user_should_know_of_a_model_is_noted():
    kl = tf.keras.layers
    scaled = from_keras(lambda: sequential(kl.Rescaling(1 / 255), kl.Flatten(), kl.Dense(5)))
    assert "scales by 0.003922, as for pixels from 0 to 255" in scaled.notes[0]
    centred = from_keras(lambda: sequential(kl.Rescaling(2.0, offset=-1.0), kl.Flatten(), kl.Dense(5)))
    assert centred.notes == ()
    rounded = from_keras(lambda: sequential(kl.Lambda(tf.round), kl.Flatten(), kl.Dense(5)))
    assert "no gradient with respect to its input" in rounded.notes[0]


def test_batch_norm_inside_a_loop_has_no_moments():
    class Loop(tf.keras.layers.Layer):
        def build(self, shape):
            self.norm = tf.keras.layers.BatchNormalization()
            self.norm.build(shape)

        def call(self, x):
            return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, self.norm(x)), (tf.constant(0), x))[1]

    def build():
        kl = tf.keras.layers
        return sequential(Loop(), kl.Flatten(), kl.Dense(2))

    model = from_keras(build, batch_norm="train")
    with pytest.raises(ModelError, match="inside a loop or a condition"):
        tf.function(model.moments, autograph=False)(model.initialize(0), tf.constant(X))
    with pytest.raises(ModelError, match="say batch_norm=train"):
        from_keras(build)


def test_moments_have_right_second_derivatives():
    """Against central differences in double precision, through the gradient of a function of the moments."""
    kl = tf.keras.layers

    def build():
        inputs = tf.keras.Input((6, 6, 2), dtype="float64")
        x = kl.Conv2D(3, 3, dtype="float64")(inputs)
        x = kl.Activation("tanh", dtype="float64")(kl.BatchNormalization(dtype="float64")(x))
        x = kl.BatchNormalization(dtype="float64")(kl.Conv2D(2, 3, dtype="float64")(x))
        return tf.keras.Model(inputs, kl.Dense(2, dtype="float64")(kl.Flatten(dtype="float64")(x)))

    model = from_keras(build, batch_norm="train")
    weights, rng = model.initialize(0), np.random.default_rng(1)

    @tf.function(autograph=False)
    def first_and_second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.add_n([tf.reduce_sum(tf.sin(3 * m) + v * v) for m, v in model.moments(weights, x)])
            squared = tf.reduce_sum(inner.gradient(value, x) ** 2)
        return squared, outer.gradient(squared, x)

    x, direction = X.astype("float64"), rng.normal(size=X.shape)
    gradient = first_and_second(tf.constant(x))[1].numpy()
    h = 1e-5
    numeric = (first_and_second(x + h * direction)[0] - first_and_second(x - h * direction)[0]) / (2 * h)
    assert np.sum(gradient * direction) == pytest.approx(float(numeric), rel=1e-6)


def test_group_norm_parity():
    kl = tf.keras.layers
    keras = sequential(kl.Conv2D(4, 3), kl.GroupNormalization(2), kl.Flatten(), kl.Dense(5))
    np.testing.assert_allclose(from_keras(keras).apply(keras.get_weights(), X, True), keras(X), atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: tf.keras.layers.AlphaDropout(0.5),
        lambda: tf.keras.layers.RandomFlip(),
    ],
)
def test_random_layers(layer):
    def build():
        return sequential(layer(), tf.keras.layers.Flatten(), tf.keras.layers.Dense(3))

    with pytest.raises(ModelError, match=r"draws random numbers in training.*allow_stateful_random=True"):
        from_keras(build)
    model = from_keras(build, allow_stateful_random=True)
    weights = model.initialize(0)
    np.testing.assert_array_equal(model.apply(weights, X, False), model.apply(weights, X, False))
    assert np.abs(model.apply(weights, np.tile(X, (8, 1, 1, 1)), True)[:4] - model.apply(weights, X, False)).max() > 0
    assert any("same bits" in note for note in model.notes)


def test_dropout_of_rate_zero_is_no_randomness():
    from_keras(lambda: sequential(tf.keras.layers.Flatten(), tf.keras.layers.Dropout(0.0), tf.keras.layers.Dense(3)))


@pytest.mark.parametrize("as_layer", [True, False])
def test_softmax_at_the_end(as_layer):
    kl = tf.keras.layers

    def build():
        head = [kl.Dense(3), kl.Softmax()] if as_layer else [kl.Dense(3, activation="softmax")]
        return sequential(kl.Flatten(), *head)

    with pytest.raises(ModelError, match=r"ends in softmax.*outputs='probabilities'"):
        from_keras(build, "mine")
    keras = build()
    model = from_keras(keras, outputs="probabilities")
    weights = model.initialize(0)
    np.testing.assert_allclose(tf.nn.softmax(model.apply(weights, X, True)), keras(X), atol=1e-6)
    assert np.abs(model.apply(weights, X, True).numpy().sum(-1) - 1).max() > 1e-3  # logits, not probabilities
    assert model.classifier_bias() is not None


def test_probabilities_that_no_layer_shows():
    class Net(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = tf.keras.layers.Dense(3)

        def call(self, x):
            return tf.nn.softmax(self.dense(tf.reshape(x, [-1, 72])))

    with pytest.raises(ModelError, match="needs logits"):
        from_keras(Net, "mine", (6, 6, 2))
    with pytest.raises(ModelError, match="no softmax is seen"):
        from_keras(Net, "mine", (6, 6, 2), outputs="probabilities")


def counting():
    class Count(tf.keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), trainable=False, name="calls")

        def call(self, x):
            self.calls.assign_add(1.0)
            return x

    return sequential(Count(), tf.keras.layers.Flatten(), tf.keras.layers.Dense(3))


def hiding():
    class Hidden(tf.keras.layers.Layer):
        def build(self, shape):
            variable = tf.Variable(2.0, name="hidden")
            self.read = lambda: variable * 1.0

        def call(self, x):
            return x * self.read()

    return sequential(Hidden(), tf.keras.layers.Flatten(), tf.keras.layers.Dense(3))


def two_inputs():
    a, b = tf.keras.Input((6,)), tf.keras.Input((6,))
    return tf.keras.Model([a, b], tf.keras.layers.Dense(2)(a + b))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: 7, {}, "expected a tf.keras.Model.*int"),
        (two_inputs, {}, "2 inputs"),
        (counting, {}, "changes a variable"),
        (hiding, {}, "depends on hidden"),
        (lambda: sequential(tf.keras.layers.Flatten()), {}, "no trainable weights"),
        (lambda: sequential(tf.keras.layers.Conv2D(3, 3)), {}, r"expected logits \(batch, classes\)"),
        (lambda: sequential(tf.keras.layers.Flatten(), tf.keras.layers.Dense(1)), {}, "task=binary"),
        (
            lambda: sequential(tf.keras.layers.Flatten(), tf.keras.layers.Dense(4, activation="sigmoid")),
            {},
            "sigmoid.*needs logits",
        ),
        (
            lambda: sequential(tf.keras.layers.Flatten(), tf.keras.layers.Dense(4, dtype="mixed_float16")),
            {},
            "mixed precision in",
        ),
        (small, {"num_classes": 10}, "has 5 outputs, but the data has 10 classes"),
        (small, {"input_shape": (28, 28, 1)}, r"\(6, 6, 2\), but the data has \(28, 28, 1\)"),
        (subclassed, {}, "does not declare its input shape"),
        (lambda: tf.keras.Sequential([tf.keras.layers.Conv2D(3, 9)]), {"input_shape": (6, 6, 2)}, "cannot take"),
        (small, {"outputs": "probabilities"}, "no softmax is seen"),
    ],
)
def test_what_is_refused(build, options, message):
    with pytest.raises(ModelError, match=message):
        from_keras(build, "mine", **options)


def test_wrong_examples_and_weights_are_refused():
    model = from_keras(small, "mine")
    weights = model.initialize(0)
    with pytest.raises(ModelError, match=r"'mine' takes examples of shape \(6, 6, 2\), got \(5, 6, 2\)"):
        model.apply(weights, X[:, 1:], False)
    with pytest.raises(ModelError, match="takes 4 weight tensors, got 3"):
        model.apply(weights[:3], X, False)


def test_a_failing_call_puts_the_weights_back():
    keras = small()
    model = from_keras(keras)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        model.apply([np.zeros((3, 3, 2, 3)), np.zeros(3), np.zeros((1, 5)), np.zeros(5)], X, False)
    assert all(isinstance(v, tf.Variable) for v in (keras.layers[0].kernel, keras.layers[2].kernel))


def test_open_sizes_take_the_datas():
    kl = tf.keras.layers

    def build():
        return sequential(kl.Conv2D(3, 3), kl.GlobalAveragePooling2D(), kl.Dense(4), shape=(None, None, 2))

    assert from_keras(build, input_shape=(9, 7, 2)).input_shape == (9, 7, 2)
    with pytest.raises(ModelError, match="leaves open"):
        from_keras(build)


def test_regularizers_are_told_to_be_left_out():
    model = from_keras(lambda: sequential(tf.keras.layers.Flatten(), tf.keras.layers.Dense(3, kernel_regularizer="l2")))
    assert any("regularization" in note for note in model.notes)


def test_stopped_gradients_are_told():
    class Whiten(tf.keras.layers.Layer):
        def call(self, x):
            mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
            return (x - mean) * tf.math.rsqrt(variance + 1e-3)

    model = from_keras(lambda: sequential(Whiten(), tf.keras.layers.Flatten(), tf.keras.layers.Dense(3)))
    assert any("second derivatives" in note for note in model.notes)
    assert from_keras(small).notes == ()


def double():
    kl = tf.keras.layers
    options = {"dtype": "float64", "activation": "tanh"}
    inputs = tf.keras.Input((6, 6, 2), dtype="float64")
    return tf.keras.Model(
        inputs, kl.Dense(3, dtype="float64")(kl.Flatten(dtype="float64")(kl.Conv2D(2, 3, **options)(inputs)))
    )


def test_double_precision_and_loops_and_nested_gradients():
    """Gradient descent in a while loop, then the gradient of its result with respect to the examples."""
    model = from_keras(double)
    assert model.spec.dtype == "float64"
    flat, y = tf.constant(model.initial_weights(0)), tf.constant([0, 1, 2, 1])

    def trained(x):
        def step(i, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_mean(cross_entropy(model.logits(w, x, True), y))
            return i + 1, w - 0.1 * tape.gradient(loss, w)

        return tf.while_loop(lambda i, _: i < 3, step, (0, flat), maximum_iterations=3)[1]

    @tf.function
    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum((trained(x) - flat) ** 2)
        return value, tape.gradient(value, x)

    x = X.astype("float64")
    dx, h = np.random.default_rng(1).normal(size=x.shape), 1e-6
    gradient = value_and_gradient(tf.constant(x))[1].numpy()
    numeric = (value_and_gradient(x + h * dx)[0] - value_and_gradient(x - h * dx)[0]) / (2 * h)
    assert np.sum(gradient * dx) == pytest.approx(float(numeric), rel=1e-6)


def test_in_a_plain_graph_and_built_in_one():
    model = from_keras(subclassed, "mine", (6, 6, 2))
    weights = model.initialize(0)
    expected = model.apply(weights, X, True).numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        np.testing.assert_allclose(session.run(model.apply(weights, tf.constant(X), True)), expected, atol=1e-6)
        assert session.graph.get_collection("variables") == []
        np.testing.assert_array_equal(from_keras(small).initial_weights(1), from_keras(small).initial_weights(1))


def test_vectorized_over_clients():
    model = from_keras(small)
    flats = np.stack([model.initial_weights(s) for s in range(3)])
    together = tf.vectorized_map(lambda w: model.logits(w, X, True), flats)
    for one, flat in zip(together, flats):
        np.testing.assert_allclose(one, model.logits(flat, X, True), atol=1e-5)


def test_threads_do_not_see_each_others_weights():
    model = from_keras(small)
    flats = [model.initial_weights(s) for s in range(4)]
    expected = [model.logits(f, X).numpy() for f in flats]
    wrong = []

    def work(i):
        for _ in range(15):
            if np.abs(model.logits(flats[i], X) - expected[i]).max() > 1e-6:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_initial_weights_that_are_kept_are_nobody_elses():
    model = from_keras(small, "m", (6, 6, 2), 5)
    first = [w.copy() for w in model.initialize(0)]
    for w in model.initialize(0):
        w[:] = 7
    assert not np.array_equal(model.initialize(1)[0], first[0])
    for one, other in zip(model.initialize(0), first, strict=True):
        np.testing.assert_array_equal(one, other)
