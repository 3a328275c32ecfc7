import random

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.models.seeding import eagerly, seeded


def draws():
    return (
        random.random(),
        np.random.uniform(),
        float(tf.random.uniform([])),
        float(tf.keras.layers.Dense(1).kernel_initializer([1, 1])),
    )


def test_same_seed_same_draws():
    with seeded(3):
        first = draws()
    with seeded(3):
        again = draws()
    with seeded(4):
        other = draws()
    assert first == again
    assert all(a != b for a, b in zip(first, other))


def test_the_program_around_draws_as_if_nothing_had_happened():
    tf.keras.utils.set_random_seed(11)
    undisturbed = [draws(), draws()]
    tf.keras.utils.set_random_seed(11)
    disturbed = [draws()]
    with seeded(3):
        draws()
    disturbed.append(draws())
    assert undisturbed == disturbed


def test_restores_after_an_error():
    state = random.getstate()

    def failing():
        with seeded(1):
            draws()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert random.getstate() == state


def test_eagerly_leaves_graphs():
    assert eagerly(tf.executing_eagerly)
    with tf.Graph().as_default():
        assert not tf.executing_eagerly()
        assert eagerly(tf.executing_eagerly)
    seen = []

    @tf.function(autograph=False)
    def traced():
        seen.append(eagerly(tf.executing_eagerly))
        return tf.constant(0)

    traced()
    assert seen == [True]
