"""The rotation: orthonormal for every size, undone exactly, and flat where a vector was not."""

import numpy as np
import pytest
import scipy.linalg
from fedpriv_defenses.distributed.rotation import Rotation, hadamard

from fedpriv.base.lazy import tf


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10, 101, 1024])
def test_is_orthonormal_and_undone(size):
    turn = Rotation(size, 3)
    x = np.random.default_rng(0).normal(size=size)
    y = turn.rotate(tf.constant(x)).numpy()
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-13)
    np.testing.assert_allclose(turn.unrotate(tf.constant(y)).numpy(), x, atol=1e-13)


@pytest.mark.parametrize("size", [1, 2, 8, 32, 512])
def test_is_made_of_walsh_hadamard_transforms(size):
    matrix = scipy.linalg.hadamard(size) / np.sqrt(size)
    x = np.random.default_rng(1).normal(size=size)
    np.testing.assert_allclose(hadamard(tf.constant(x), size).numpy(), matrix @ x, atol=1e-13)


def test_flattens():
    size = 4001
    one = np.zeros(size)
    one[17] = 1.0
    blocks = np.repeat([1.0, 0.0], [400, size - 400]) / 20
    for x in (one, blocks):
        y = Rotation(size).rotate(tf.constant(x)).numpy()
        # Sub-Gaussian with variance 2 / d: beyond 4 deviations lie fewer than one in 1,000.
        assert (np.abs(y) > 4 * np.sqrt(2 / size)).mean() < 1e-3
        assert np.abs(y).max() < 6 * np.sqrt(2 / size)


def test_the_seed_is_the_only_choice():
    x = tf.constant(np.arange(9.0))
    assert np.array_equal(Rotation(9, 1).rotate(x), Rotation(9, 1).rotate(x))
    assert not np.array_equal(Rotation(9, 1).rotate(x), Rotation(9, 2).rotate(x))
