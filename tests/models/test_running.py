"""Running statistics of batch normalization, carried in the weights."""

import numpy as np
import pytest
import tensorflow as tf

from fedpriv import Adversary, Federation, Procedure, Tap, make_defense
from fedpriv.base.errors import ModelError, StackError
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.stations import Defense
from fedpriv.models.keras_model import from_keras
from fedpriv.models.loading import load
from fedpriv.models.to_tff import to_functional_model
from fedpriv.threat.capability import Capability

MOMENTUM = 0.8
kl = tf.keras.layers


def net(epsilon=1e-3):
    """A batch normalization of the inputs themselves, then a dense layer: its statistics are the data's."""
    normal = kl.BatchNormalization(momentum=MOMENTUM, epsilon=epsilon)
    return tf.keras.Sequential([tf.keras.Input((4,)), normal, kl.Dense(3)])


def examples(n, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(rng.uniform(0.2, 0.8, 4), 0.1, (n, 4)).clip(0, 1).astype("float32"), rng.randint(0, 3, n)


def federation(build=net, clients=4, each=6, procedure=None, batch_norm="running", x_seed=0, **options):
    x, y = examples(clients * each, x_seed)
    parts = tuple(np.arange(each) + each * i for i in range(clients))
    model = from_keras(build, batch_norm=batch_norm)
    settings = {"batch_size": 2, "client": {"learning_rate": 0.05}, **(procedure or {})}
    return Federation(
        model, Dataset("blobs", x, y, 3), Partition("own", parts), Procedure(**settings), seed=3, **options
    )


def test_the_buffers_stand_before_the_weights():
    model = from_keras(net)
    assert model.buffers == 3
    assert model.spec.names[:3] == (
        "running_share",
        "batch_normalization/running_mean",
        "batch_normalization/running_variance",
    )
    assert model.buffer_size == 1 + 4 + 4
    assert model.layers[:4] == ("statistics", "statistics", "statistics", "norm")
    assert model.classifier_bias() is not None
    assert "every client sends" in model.notes[0]
    fresh = model.initial_weights(0)
    assert not fresh[:9].any()
    assert model.statistics(fresh) is None
    ((mean, variance),) = model.estimates(model.initialize(0))
    np.testing.assert_array_equal([mean, variance], [[0] * 4, [1] * 4])


def test_after_some_batches_they_are_the_weighted_mean_of_what_was_seen():
    """The closed form: batch i of n weighs momentum^(n-1-i), of all the weights together."""
    model = from_keras(net)
    weights = [tf.constant(w) for w in model.initialize(0)]
    batches = [examples(5, seed)[0] for seed in range(4)]
    for x in batches:
        outputs, moved = model.advance(weights, x)
        np.testing.assert_allclose(outputs, model.apply(weights, x, True), atol=1e-6)
        weights = [*moved, *weights[3:]]
    share = MOMENTUM ** np.arange(3, -1, -1)
    share /= share.sum()
    ((mean, variance),) = model.estimates(weights)
    np.testing.assert_allclose(mean, share @ [x.mean(0) for x in batches], atol=1e-6)
    np.testing.assert_allclose(variance, share @ [x.var(0) for x in batches], atol=1e-6)


def test_without_the_share_they_are_kerass():
    keras, model = net(), from_keras(net)
    weights = [tf.constant(w) for w in model.initialize(0)]
    for seed in range(3):
        x, _ = examples(5, seed)
        keras(x, training=True)
        weights = [*model.advance(weights, x)[1], *weights[3:]]
    norm = keras.layers[0]
    left = MOMENTUM**3  # of the mean 0 and variance 1 that Keras starts with
    np.testing.assert_allclose(weights[1], norm.moving_mean, atol=1e-6)
    np.testing.assert_allclose(weights[2] + left, norm.moving_variance, atol=1e-5)
    np.testing.assert_allclose(weights[0], [1 - left], atol=1e-6)


def test_a_model_that_came_with_statistics_goes_on_from_them():
    keras = net()
    x, _ = examples(20)
    keras(x, training=True)
    model = from_keras(keras, batch_norm="running")
    weights = model.initialize(0)
    np.testing.assert_array_equal(weights[0], [1])
    np.testing.assert_allclose(model.apply(weights, x, False), keras(x, training=False), atol=1e-6)
    _, moved = model.advance([tf.constant(w) for w in weights], x)
    before = keras.layers[0].moving_variance.numpy()
    keras(x, training=True)
    np.testing.assert_allclose(moved[1], keras.layers[0].moving_mean, atol=1e-6)
    np.testing.assert_allclose(moved[2], keras.layers[0].moving_variance, atol=1e-6)
    assert np.abs(moved[2] - before).max() > 1e-3


def test_a_layer_that_is_applied_twice_moves_twice_and_a_frozen_one_not():
    def build():
        inputs = tf.keras.Input((4,))
        twice, still = kl.BatchNormalization(momentum=0.5, name="twice"), kl.BatchNormalization(name="still")
        still.trainable = False
        return tf.keras.Model(inputs, kl.Dense(3)(still(twice(twice(inputs)))))

    model = from_keras(build)
    assert model.buffers == 3
    x, _ = examples(9)
    weights = [tf.constant(w) for w in model.initialize(0)]
    _, moved = model.advance(weights, x)
    np.testing.assert_allclose(moved[0], [0.75], atol=1e-6)
    first, second, still = model.moments(weights, x)
    np.testing.assert_allclose(moved[1], 0.25 * first[0] + 0.5 * second[0], atol=1e-6)
    np.testing.assert_allclose(still[0], second[0] * 0, atol=1e-2)  # it sees what is normalized already
    found = model.estimates([*moved, *weights[3:]])
    np.testing.assert_array_equal(found[2][1], np.ones(4))
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_where_no_layer_is_trained_there_is_nothing_to_keep():
    def build():
        return tf.keras.Sequential([tf.keras.Input((4,)), kl.BatchNormalization(trainable=False), kl.Dense(3)])

    for mode in ("auto", "running"):
        model = from_keras(build, batch_norm=mode)
        assert (model.buffers, model.couples_examples) == (0, False)
        assert "frozen" in model.notes[0]


@pytest.mark.slow
def test_the_mean_over_clients_is_that_of_all_they_saw():
    """Shares and sums are averaged, so their quotient weighs every batch, whoever saw it."""
    run = federation(procedure={"batch_size": None, "weighting": "uniform"})
    state, _ = run.step(run.start(), clients=[0, 2])
    ((mean, variance),) = run.model.estimates(run.model.spec.unflatten_numpy(state.weights))
    x = run.train.floats()
    np.testing.assert_allclose(mean, (x[0:6].mean(0) + x[12:18].mean(0)) / 2, atol=1e-5)
    np.testing.assert_allclose(variance, (x[0:6].var(0) + x[12:18].var(0)) / 2, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("client", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("server", ["sgd", "adam"])
def test_no_optimizer_touches_them(client, server):
    """Whatever trains the weights, the statistics are the same averages."""
    procedure = {
        "client": {"kind": client, "learning_rate": 0.01},
        "server": {"kind": server, "learning_rate": 0.5},
        "proximal": 0.1,
    }
    run, plain = federation(procedure=procedure), federation()
    ours, theirs = (f.step(f.start(), clients=[0, 1, 3])[0].weights for f in (run, plain))
    np.testing.assert_allclose(ours[:9], theirs[:9], atol=1e-6)
    assert np.abs(ours[9:] - theirs[9:]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 3, 40])
@pytest.mark.parametrize("client", ["sgd", "adam"])
def test_a_replay_of_the_data_is_what_was_sent(epochs, client):
    """Also after a round, when the statistics are no longer those of the start; unrolled and in a loop."""
    procedure = {"batch_size": None, "local_epochs": epochs, "client": {"kind": client, "learning_rate": 0.01}}
    run = federation(procedure=procedure)
    state, _ = run.step(run.start(), clients=[0, 1])
    _, record = run.step(state, [Tap(Adversary())], clients=[2])
    view = record.observations[0].view
    observed = np.asarray(view.observed)
    simulated = view.simulate(tf.constant(run.train.floats()[12:18]), tf.constant(run.train.y[12:18]))
    assert np.abs(observed[1:9]).min() > 1e-5
    np.testing.assert_allclose(simulated, observed, atol=1e-6)


@pytest.mark.slow
def test_both_engines_move_them_alike():
    runs = [federation(engine=name) for name in ("graph", "tff")]
    try:
        ours, theirs = (f.step(f.start(), clients=[0, 1, 3])[0].weights for f in runs)
    finally:
        for f in runs:
            f.close()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours[:9].any()


def test_an_evaluated_example_stands_alone():
    run = federation()
    weights = run.model.spec.unflatten_numpy(run.run(2).weights)
    x = run.train.floats()
    together, alone = (run.model.apply(weights, part, False).numpy() for part in (x, x[:1]))
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)


@pytest.mark.slow
def test_clipping_counts_them():
    run = federation(defenses=[make_defense("clip(norm=0.05)")])
    _, record = run.step(run.start(), [Tap(Adversary())], clients=[1])
    update = np.asarray(record.observations[0].view.observed)
    np.testing.assert_allclose(np.linalg.norm(update), 0.05, rtol=1e-5)
    assert np.linalg.norm(update[:9]) > 0.01


def test_per_example_gradients_are_refused():
    class PerExample(Defense):
        name = "per_example"
        per_example = True

        def gradient(self, value, context):
            return tf.reduce_mean(value, 0)

    with pytest.raises(StackError, match="depend on its batch"):
        federation(defenses=[PerExample()])


def test_what_noise_makes_of_a_variance_is_never_negative():
    model = from_keras(net)
    weights = model.initialize(0)
    weights[0], weights[2] = np.float32([0.5]), np.float32([-1, 0.25, 0, 1])
    np.testing.assert_allclose(model.estimates(weights)[0][1], [0, 0.5, 0, 2])
    weights[0] = np.float32([-0.5])  # a share that is nothing: the statistics of the start
    np.testing.assert_array_equal(model.estimates(weights)[0][1], np.ones(4))
    assert np.isfinite(model.apply(weights, examples(3)[0], False)).all()


def test_tff_s_own_processes_are_no_place_for_them():
    with pytest.raises(ModelError, match="never move"):
        to_functional_model(from_keras(net), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet(width=2,norm=batch_running)", "resnet20(norm=batch_running)"])
def test_our_own_networks_have_them(name):
    model = load(name, (8, 8, 1), 3)
    assert model.buffers == (9 if name.startswith("conv") else 39)
    assert model.buffer_size == ({"c": 4 + 2 * (2 + 4 + 4 + 8), "r": 1395}[name[0]])
    x = np.random.RandomState(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    weights = [tf.constant(w) for w in model.initialize(0)]
    outputs, moved = model.advance(weights, x)
    after = [*moved, *weights[model.buffers :]]
    np.testing.assert_allclose(model.apply(after, x, False), outputs, atol=1e-4)  # one batch: the same statistics


@pytest.mark.slow
def test_a_new_network_learns_by_default():
    """Two classes whose features differ in the second digit only, far from mean 0: frozen statistics learn slowly."""
    rng = np.random.RandomState(1)
    y = rng.randint(0, 3, 240)
    x = (0.5 + 0.01 * rng.normal(size=(240, 4)) + 0.02 * np.eye(4)[y]).astype("float32")
    parts = tuple(np.arange(24) + 24 * i for i in range(10))
    accuracy = {}
    for mode in ("auto", "eval"):
        model = from_keras(lambda: net(1e-6), batch_norm=mode)
        run = Federation(
            model,
            Dataset("digits", x, y, 3),
            Partition("own", parts),
            Procedure(batch_size=8, client={"learning_rate": 0.2}),
            test=Dataset("same", x, y, 3),
            seed=0,
        )
        accuracy[mode] = run.run(12).accuracy
    assert accuracy["auto"] > 0.7 > 0.6 > accuracy["eval"]


def one_step(**options):
    run = federation(procedure={"batch_size": None}, **options)
    state, _ = run.step(run.start(), clients=[0, 1])
    _, record = run.step(state, [Tap(Adversary())], clients=[2])
    return record.observations[0].view


@pytest.mark.slow
def test_an_update_of_one_step_gives_the_batchs_statistics_away():
    """Nobody told the server; in the second round, so that the statistics before are not nothing."""
    view = one_step()
    assert view.batch_statistics is None
    ((mean, variance),) = view.moments_of_batch
    x = examples(24)[0][12:18]
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(variance, x.var(0), atol=1e-5)
    assert Capability.BATCH_STATISTICS in view.capabilities
    assert Capability.RUNNING_STATISTICS in view.capabilities


@pytest.mark.slow
def test_where_an_update_gives_none_away():
    assert one_step(batch_norm="train").moments_of_batch is None
    assert one_step(defenses=[make_defense("clip(norm=0.1)")]).moments_of_batch is None
    assert one_step(defenses=[make_defense("secret_sharing(aggregators=2)")]).moments_of_batch is None
    steps = federation(procedure={"batch_size": 2})
    _, record = steps.step(steps.start(), [Tap(Adversary())], clients=[2])
    assert record.observations[0].view.moments_of_batch is None


def test_a_batch_that_the_one_step_did_not_see_whole_is_not_read():
    """One step on 2 of 6 examples: nobody is told which, so their statistics are not the client's."""
    run = federation(procedure={"batch_size": 2, "max_local_steps": 1})
    _, record = run.step(run.start(), [Tap(Adversary())], clients=[2])
    assert record.observations[0].view.moments_of_batch is None


@pytest.mark.parametrize(("momentum", "read"), [(0.0, True), (0.99, True), (0.9999, False), (1.0, False)])
def test_a_batch_is_read_only_where_rounding_leaves_something_of_it(momentum, read):
    model = from_keras(
        lambda: tf.keras.Sequential([tf.keras.Input((4,)), kl.BatchNormalization(momentum=momentum), kl.Dense(3)])
    )
    assert (model.sent is not None) is read


def test_what_a_model_asks_to_leave_alone_does_not_move():
    """Keras's idiom for a base that is not to be adapted: it is called with training=False."""

    def build():
        base = tf.keras.Sequential([tf.keras.Input((4,)), kl.BatchNormalization(momentum=0.5)])
        inputs = tf.keras.Input((4,))
        x = kl.BatchNormalization(momentum=0.5)(base(inputs, training=False))
        return tf.keras.Model(inputs, kl.Dense(3)(x))

    model = from_keras(build)
    weights = [tf.constant(w) for w in model.initialize(0)]
    _, moved = model.advance(weights, examples(5)[0])
    assert sorted(moved[0].numpy()) == [0, 0.5]
    still, other = model.estimates([*moved, *weights[model.buffers :]])
    np.testing.assert_array_equal(still, [[0] * 4, [1] * 4])
    assert np.abs(other[0]).max() > 0.1
    assert model.sent is None  # an update says nothing of the one that stayed


def test_several_axes_are_normalized_apart():
    def build():
        layers = [tf.keras.Input((4, 3, 2)), kl.BatchNormalization(axis=[1, 2], momentum=0.5), kl.Flatten()]
        return tf.keras.Sequential([*layers, kl.Dense(3)])

    model = from_keras(build)
    x = np.random.RandomState(0).uniform(size=(5, 4, 3, 2)).astype("float32")
    weights = [tf.constant(w) for w in model.initialize(0)]
    outputs, moved = model.advance(weights, x)
    assert [m.shape for m in moved] == [w.shape for w in weights[:3]]
    after = [*moved, *weights[3:]]
    np.testing.assert_allclose(model.apply(after, x, False), outputs, atol=1e-5)
    ((mean, variance),) = model.estimates(after)
    np.testing.assert_allclose(mean, x.mean((0, 3)).ravel(), atol=1e-6)
    np.testing.assert_allclose(variance, x.var((0, 3)).ravel(), atol=1e-6)


def test_a_layer_that_is_never_called_is_nothing():
    class Spare(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.unused, self.used, self.last = kl.BatchNormalization(), kl.BatchNormalization(), kl.Dense(3)

        def call(self, x):
            return self.last(self.used(x))

    model = from_keras(Spare, input_shape=(4,))
    assert model.buffers == 3
    assert from_keras(Spare, input_shape=(4,), batch_norm="eval").buffers == 0
