"""Conditional rounding: never longer than the bound, and right on average."""

import math

import numpy as np
import pytest
from fedpriv_defenses.distributed.rounding import ATTEMPTS, conditional_rounding, rounded_norm

from fedpriv.base.lazy import tf

BETA = math.exp(-0.5)


def rounder(bound):
    compiled = tf.function(lambda values, seed: conditional_rounding(values, bound, seed), autograph=False)

    def rounded(values, seed=1):
        found, tries = compiled(tf.constant(values, tf.float64), tf.constant([seed, 2], tf.int64))
        return found.numpy(), int(tries)

    return rounded


def test_goes_up_or_down_with_the_value_as_mean():
    values = np.array([0.25, -0.25, 3.0, -7.5, 0.999, 1e9 + 0.5])
    rounded = rounder(1e12)
    found = np.array([rounded(values, s)[0] for s in range(600)])
    assert ((found == np.floor(values)) | (found == np.ceil(values))).all()
    np.testing.assert_allclose(found.mean(0), values, atol=5 * 0.5 / math.sqrt(600))
    assert (found[:, 2] == 3).all()


@pytest.mark.parametrize("norm", [0.3, 5.0, 40.0])
def test_keeps_the_bound_and_fails_an_attempt_as_rarely_as_said(norm):
    size = 400
    values = np.full(size, norm / math.sqrt(size))  # far from integers, where rounding lengthens most
    bound = rounded_norm(norm, size, BETA)
    rounded, tries = rounder(bound), []
    for seed in range(60):
        found, took = rounded(values, seed)
        assert np.linalg.norm(found) <= bound
        tries.append(took)
    assert np.mean(tries) < 1 / (1 - BETA)


def test_rounds_towards_zero_where_no_attempt_fits():
    values = np.append(np.full(400, 0.4), [-2.6, 1.9])
    found, tries = rounder(np.linalg.norm(values))(values)
    assert tries == ATTEMPTS
    assert found.tolist() == [0.0] * 400 + [-2.0, 1.0]


def test_the_bound_is_that_of_tff():
    from tensorflow_federated.python.aggregators.discretization import inflated_l2_norm_bound

    for norm, size in ((0.5, 10), (100.0, 250), (1000.0, 1 << 16)):
        theirs = inflated_l2_norm_bound(l2_norm_bound=norm, gamma=1.0, beta=BETA, dim=size)
        assert rounded_norm(norm, size, BETA) == pytest.approx(float(theirs), rel=1e-6)
