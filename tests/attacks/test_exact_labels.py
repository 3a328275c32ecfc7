"""Exact labels: from known examples, with how often each occurs."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.exact.dense_input import dense_input
from fedpriv_attacks.exact.exact_labels import _integers, count_labels

from fedpriv.models import zoo

SHAPE, CLASSES = (5, 6, 1), 6


def shares(view, x):
    """Each distinct example's share of the gradient in the first layer's pre-activations."""
    return np.linalg.lstsq(x.reshape(len(x), -1).T, dense_input(view).kernel, rcond=None)[0]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_of_distinct_examples(helpers, activation, dtype):
    rng = np.random.default_rng(0)
    model = helpers.dense(SHAPE, CLASSES, 25, activation=activation, dtype=dtype)
    x, y = rng.uniform(size=(8, *SHAPE)), rng.integers(0, CLASSES, 8)
    view = helpers.make_view(model, x, y)
    for examples in (8, None):
        labels = count_labels(view, dense_input(view), x, shares(view, x), examples)
        np.testing.assert_array_equal(labels.y, y)
        np.testing.assert_array_equal(labels.multiplicities, np.ones(8))
        assert labels.residual < 1e-3


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_repeated_examples_with_several_labels(helpers, scale):
    rng = np.random.default_rng(1)
    model = zoo.mlp_2nn(SHAPE, CLASSES, [40, 30], dtype="float64")
    x = rng.uniform(size=(3, *SHAPE))
    which, y = np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 4, 0, 5, 2])
    view = helpers.make_view(model, x[which], y)
    labels = count_labels(view, dense_input(view), x, scale * shares(view, x), 6)
    np.testing.assert_array_equal(labels.multiplicities, [3, 1, 2])
    np.testing.assert_array_equal(labels.y, [1, 1, 4, 0, 2, 5])


def test_wrong_examples_leave_a_residual(helpers):
    rng = np.random.default_rng(2)
    model = zoo.mlp_2nn(SHAPE, CLASSES, [40, 30])
    x = rng.uniform(size=(3, *SHAPE))
    view = helpers.make_view(model, x, [0, 1, 2])
    wrong = rng.uniform(size=x.shape)
    assert count_labels(view, dense_input(view), wrong, shares(view, x), 3).residual > 0.1


def test_integers_keep_their_sum():
    np.testing.assert_array_equal(_integers(np.array([0.9, 0.1, 2.0]), 3), [1, 0, 2])
    np.testing.assert_array_equal(_integers(np.array([-0.4, 1.3, 1.3]), 3).sum(), 3)
    np.testing.assert_array_equal(_integers(np.array([3.0, 2.0]), 1).sum(), 1)
