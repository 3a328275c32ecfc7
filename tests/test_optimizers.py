import numpy as np
import pytest

from fedpriv.base.lazy import tf, tff
from fedpriv.procedure import optimizers
from fedpriv.procedure.procedure import Optimizer

KINDS = ("sgd", "momentum", "adam", "yogi", "adagrad")


def by_formula(o, weights, gradients, rate):
    """Four steps in float64, from the definitions."""
    w, a, v = weights.astype(np.float64), 0.0, 0.0 if o.kind == "adam" else o.epsilon**2
    for t, g in enumerate(gradients.astype(np.float64), 1):
        if o.kind == "sgd":
            w = w - rate * g
        elif o.kind == "momentum":
            a = o.momentum * a + g
            w = w - rate * a
        elif o.kind == "adagrad":
            v = v + g * g
            w = w - rate * g / (np.sqrt(v) + o.epsilon)
        else:
            a = o.beta_1 * a + (1 - o.beta_1) * g
            if o.kind == "adam":
                v = o.beta_2 * v + (1 - o.beta_2) * g * g
            else:
                v = v - (1 - o.beta_2) * np.sign(v - g * g) * g * g
            corrected = rate * np.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
            w = w - corrected * a / (np.sqrt(v) + o.epsilon)
    return w


def run(stepper, weights, gradients, rate, dtype):
    state, w = stepper.initialize([weights.shape], dtype), (tf.constant(weights, dtype),)
    for g in gradients:
        state, w = stepper.next(state, w, (tf.constant(g, dtype),), tf.constant(rate, dtype))
    return w[0]


@pytest.mark.parametrize("kind", KINDS)
def test_four_steps_follow_the_formula(kind):
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=7), rng.normal(size=(4, 7))
    o = Optimizer(kind=kind, momentum=0.8, beta_1=0.7, beta_2=0.95, epsilon=0.02)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
        found = run(optimizers.build(o), weights, gradients, 0.3, dtype)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, by_formula(o, weights, gradients, 0.3), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "yogi"])
def test_it_is_tffs_optimizer(kind):
    """An independent implementation of the same formulas (TFF's Adagrad has epsilon inside the root instead)."""
    rng = np.random.default_rng(1)
    weights, gradients = rng.normal(size=5).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    o = Optimizer(kind=kind, learning_rate=0.1, momentum=0.9, epsilon=1e-2)
    make = {
        "sgd": lambda t: t.build_sgdm(0.1),
        "momentum": lambda t: t.build_sgdm(0.1, momentum=0.9),
        "adam": lambda t: t.build_adam(0.1, beta_2=0.99, epsilon=1e-2),
        "yogi": lambda t: t.build_yogi(0.1, beta_2=0.99, epsilon=1e-2, initial_preconditioner_value=1e-4),
    }[kind]
    theirs = make(tff.learning.optimizers)
    state, w = theirs.initialize(tf.TensorSpec([5], tf.float32)), tf.constant(weights)
    for g in gradients:
        state, w = theirs.next(state, w, tf.constant(g))
    np.testing.assert_allclose(run(optimizers.build(o), weights, gradients, 0.1, "float32"), w, rtol=1e-5, atol=1e-6)


def test_a_state_survives_numpy():
    """What a checkpoint keeps is arrays: a step from them is the same step."""
    for kind in KINDS:
        stepper = optimizers.build(Optimizer(kind=kind))
        w, g, rate = (tf.constant([1.0, -2.0]),), (tf.constant([0.3, 0.1]),), tf.constant(0.1)
        state, w = stepper.next(stepper.initialize([[2]], "float32"), w, g, rate)
        kept = tf.nest.map_structure(lambda a: tf.convert_to_tensor(np.asarray(a)), state)
        np.testing.assert_array_equal(stepper.next(state, w, g, rate)[1][0], stepper.next(kept, w, g, rate)[1][0])


@pytest.mark.parametrize("kind", ["sgd", "momentum"])
def test_weight_decay_is_pytorchs(kind):
    """g <- g + decay w, then the optimizer; two steps by hand."""
    rate, decay, momentum = 0.1, 0.05, 0.9 if kind == "momentum" else 0.0
    stepper = optimizers.build(Optimizer(kind=kind, learning_rate=rate, momentum=0.9, weight_decay=decay))
    w, state = (tf.constant([1.0, -2.0], tf.float64),), stepper.initialize([(2,)], "float64")
    by_hand, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for g in ([0.3, 0.1], [-0.2, 0.4]):
        state, w = stepper.next(state, w, (tf.constant(g, tf.float64),), tf.constant(rate, tf.float64))
        velocity = momentum * velocity + np.array(g) + decay * by_hand
        by_hand = by_hand - rate * velocity
    np.testing.assert_allclose(w[0], by_hand, rtol=1e-14)
