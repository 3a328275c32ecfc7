"""`simulate` is what the clients did: at the truth it gives what was observed."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.data.partition import Partition
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense
from fedpriv.federation import replay as replay_module
from fedpriv.procedure.procedure import Procedure, Sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Capability
from fedpriv.threat.tap import Tap


def observe(federation, adversary=Adversary(), rounds=1):  # noqa: B008  immutable
    return federation.run(rounds, taps=[Tap(adversary, rounds={rounds - 1})], evaluate_every=0).observations


def replayed(observation):
    return observation.view.simulate(observation.truth.x, observation.truth.y).numpy()


class HalfRate(Defense):
    """Halves each step's gradient and, by its state, updates of later rounds."""

    name: ClassVar[str] = "half_rate"

    def initial_state(self, plan):
        return (np.float32(1),)

    def gradient(self, gradient, context):
        return gradient / 2

    def update(self, update, context):
        return update * tf.cast(context.state[0], update.dtype)

    def aggregate(self, total, context):
        return Passed(total, state=(context.state[0] / 4,))


class Rows(Defense):
    """Clips each example's gradient."""

    per_example: ClassVar[bool] = True

    def gradient(self, gradient, context):
        norms = tf.norm(gradient, axis=1, keepdims=True)
        return gradient * tf.minimum(tf.ones_like(norms), 0.1 / norms)


CASES = {
    "fedsgd": {"procedure": Procedure.fedsgd()},
    "five epochs": {"batch_size": None, "local_epochs": 5},
    "five epochs of momentum": {"batch_size": None, "local_epochs": 5, "client": {"kind": "momentum"}},
    "adam": {"batch_size": None, "local_epochs": 2, "client": {"kind": "adam", "learning_rate": 0.01}},
    "proximal": {"batch_size": None, "local_epochs": 3, "proximal": 0.5},
    "weight decay": {"batch_size": None, "local_epochs": 3, "client": {"kind": "momentum", "weight_decay": 0.1}},
    "step limit": {"batch_size": None, "local_epochs": 9, "max_local_steps": 2},
    "clipped": {"batch_size": None, "local_epochs": 2, "defenses": (Clip(norm=0.02),)},
    "third-party defense": {"batch_size": None, "local_epochs": 2, "defenses": (HalfRate(),)},
    "per-example defense": {"batch_size": None, "defenses": (Rows(),)},
    "schedule": {"batch_size": None, "client": {"schedule": {"kind": "step", "decay": 0.1}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_at_the_truth_it_is_the_observation(federate, double_model, case):
    seen = observe(federate(model=double_model, **CASES[case]), rounds=2)
    assert len(seen) == 5
    for o in seen:
        assert o.view.observed.dtype == np.float64
        np.testing.assert_allclose(replayed(o), o.view.observed, rtol=1e-9, atol=1e-13)
        elsewhere = o.view.simulate(1 - o.truth.x, o.truth.y).numpy()
        assert np.abs(elsewhere - o.view.observed).max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("steps", [1, 3])
def test_sums_of_ragged_clients_too(federate, double_model, weighting, steps):
    """One step takes the short cut through the whole batch, three steps replay client by client."""
    federation = federate(
        model=double_model, batch_size=None, local_epochs=steps, weighting=weighting, defenses=(SecretSharing(bits=60),)
    )
    (o,) = observe(federation)
    assert (o.view.kind, o.view.num_examples) == ("sum", (5, 12, 1, 8, 4))
    np.testing.assert_allclose(replayed(o), o.view.observed, atol=1e-7)  # contributions are encoded from float32
    (released,) = observe(
        federate(model=double_model, batch_size=None, local_epochs=steps, weighting=weighting), Adversary("observer")
    )
    np.testing.assert_allclose(replayed(released), released.view.observed, rtol=1e-9, atol=1e-13)


def test_the_short_cut_is_left_out_where_it_would_be_wrong(federate, toy):
    """Batch statistics of one large batch are not those of its parts."""
    from fedpriv.models.keras_model import from_keras

    def build():
        layers = tf.keras.layers
        return tf.keras.Sequential(
            [tf.keras.Input((4, 4, 1)), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)]
        )

    mixing = from_keras(build, "bn", batch_norm="train")
    parts = Partition("p", tuple(np.split(np.arange(12), [5])))
    (o,) = observe(federate(model=mixing, partition=parts, batch_size=None), Adversary("observer"))
    np.testing.assert_allclose(replayed(o), o.view.observed, rtol=1e-3, atol=1e-5)


def test_a_released_mean_is_over_the_expected_cohort_where_the_server_divides_by_that(federate, double_model):
    federation = federate(
        model=double_model,
        batch_size=None,
        weighting="uniform",
        sampling=Sampling.poisson(0.5),
        defenses=(CentralDP(clip=50.0, noise_multiplier=0.0),),
        seed=2,
    )
    (o,) = observe(federation, Adversary("observer"))
    assert o.view.clients != 2.5
    np.testing.assert_allclose(replayed(o), o.view.observed, rtol=1e-6, atol=1e-9)


def test_shuffled_minibatches_are_known_up_to_their_order(federate, double_model):
    federation = federate(model=double_model, batch_size=4)
    errors = []
    for o in observe(federation):
        n = len(o.truth.y)
        error = np.abs(replayed(o) - o.view.observed).max()
        if n <= 4:  # one batch: no order matters
            assert error < 1e-13
            continue
        errors.append(error)
        from fedpriv.base.seeds import Purpose, fold, graph_seed

        seed = fold(graph_seed(0, Purpose.CLIENT, 0), o.truth.clients[0])
        order = tf.random.experimental.stateless_shuffle(tf.range(n), seed=fold(fold(seed, 2), 0)).numpy()
        in_order = o.view.simulate(o.truth.x[order], o.truth.y[order]).numpy()
        np.testing.assert_allclose(in_order, o.view.observed, rtol=1e-9, atol=1e-13)
    assert 1e-6 < max(errors) < 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"batch_size": None, "local_epochs": 3}, {"batch_size": 5, "local_epochs": 2}])
def test_its_derivative_is_right(federate, double_model, options):
    """Against central differences, of the matching objective over examples and over label probabilities."""
    o = observe(federate(model=double_model, **options))[1]
    rng = np.random.default_rng(0)
    x, y = rng.random(o.truth.x.shape), rng.dirichlet(np.ones(3), 12)

    @tf.function
    def objective(x, y):
        return tf.reduce_sum(tf.square(o.view.simulate(x, y) - o.view.observed))

    with tf.GradientTape() as tape:
        tensors = tf.constant(x), tf.constant(y)
        tape.watch(tensors)
        value = objective(*tensors)
    for i, gradient in enumerate(tape.gradient(value, tensors)):
        direction = rng.normal(size=gradient.shape)
        step = 1e-4 * direction
        moved = [objective(*(t + s * step if i == j else t for j, t in enumerate(tensors))).numpy() for s in (1, -1)]
        assert float(np.sum(gradient * direction)) == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 5])
def test_the_looped_replay_is_the_unrolled_one_and_as_differentiable(federate, double_model, monkeypatch, batch_size):
    o = observe(federate(model=double_model, batch_size=batch_size, local_epochs=3))[1]

    def run():
        @tf.function
        def matched(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                simulated = o.view.simulate(x, o.truth.y)
                objective = tf.reduce_sum(tf.square(simulated - o.view.observed))
            return simulated, tape.gradient(objective, x)

        return matched(tf.constant(0.9 * o.truth.x, tf.float64))

    unrolled = run()
    monkeypatch.setattr(replay_module, "UNROLL_STEPS", 0)
    for a, b in zip(unrolled, run(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
        assert np.abs(a).max() > 0


def test_other_numbers_of_examples_are_refused(federate):
    o = observe(federate(batch_size=None))[1]
    for x, y in ((o.truth.x[:-1], o.truth.y), (o.truth.x, o.truth.y[:-1])):
        with pytest.raises(ParameterError, match="12 examples; give one row an example"):
            o.view.simulate(x, y)


def test_labels_may_be_of_any_kind(federate, double_model):
    o = observe(federate(model=double_model, batch_size=None))[1]
    expected = replayed(o)
    for y in (o.truth.y.astype(np.int32), np.eye(3)[o.truth.y], np.eye(3, dtype=np.float32)[o.truth.y]):
        np.testing.assert_allclose(o.view.simulate(o.truth.x, y), expected, atol=1e-15)


@pytest.mark.slow
def test_views_share_a_graph_only_if_it_would_be_the_same(federate):
    view, other = (observe(federate(batch_size=None, seed=s))[0].view for s in (0, 8))
    base = view.static
    assert base == other.static  # other weights, updates and labels go in as tensors
    assert hash(base) == hash(other.static)

    def key(**changes):
        return dataclasses.replace(view, **changes).static

    def stateful(*values):
        return key(defenses=(HalfRate(),) * len(values), states=tuple((np.float32(v),) for v in values))

    noise = [key(defenses=(CentralDP(clip=1.0, noise_multiplier=z),), states=((),)) for z in (1.0, 2.0)]
    assert noise[0] == noise[1]  # noise is not replayed
    different = [
        base,
        key(procedure=view.procedure.model_copy(update={"local_epochs": 2})),
        key(num_examples=(6,)),
        key(plan=dataclasses.replace(view.plan, weighting="uniform")),
        key(defenses=(Clip(norm=1.0),), states=((),)),
        key(defenses=(Clip(norm=2.0),), states=((),)),
        key(defenses=(Rows(),), states=((),)),
        key(defenses=(CentralDP(clip=1.0, noise_multiplier=1.0),), states=((),), kind="released"),
        stateful(1),
        stateful(1, 2),
    ]
    assert stateful(1) == stateful(2)  # states go in as tensors, too
    assert len(set(different)) == len(different)


def test_what_is_known_of_batch_norm_is_a_capability(federate):
    view = observe(federate(batch_size=None))[0].view
    ours = {Capability.BATCH_STATISTICS, Capability.RUNNING_STATISTICS}
    assert not ours & view.capabilities
    statistics = ((np.zeros(2), np.ones(2)),)
    told = dataclasses.replace(view, batch_statistics=statistics)
    assert ours & told.capabilities == {Capability.BATCH_STATISTICS}
    assert told.static == view.static  # they go into a compiled attack as tensors
    fresh = dataclasses.replace(view, model=dataclasses.replace(view.model, running=statistics))
    assert not ours & fresh.capabilities  # mean 0 and variance 1 are where every network starts
    trained = dataclasses.replace(view.model, running=((np.zeros(2), np.full(2, 0.5)),))
    assert ours & dataclasses.replace(view, model=trained).capabilities == {Capability.RUNNING_STATISTICS}


@pytest.mark.slow
def test_it_says_what_it_is(federate):
    view = observe(federate(batch_size=None))[0].view
    assert "one client's update of round 0" in view.describe()
    assert view != observe(federate(batch_size=None))[0].view
