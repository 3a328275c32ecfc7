"""Low rank: the number of examples in a gradient, down to the rounding."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.exact.dense_input import DenseInput
from fedpriv_attacks.exact.low_rank import low_rank

from fedpriv.base.errors import CapabilityError


def layer(kernel, rounding=0.0):
    inputs, units = kernel.shape
    weights, zeros = np.ones((inputs, units)), np.zeros(units)
    names = "first/kernel", "first/bias"
    return DenseInput(kernel, zeros, weights, zeros, weights, zeros, *names, True, 1.0, rounding)


def gradient(rank, shape=(50, 30), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


@pytest.mark.parametrize("rank", [1, 4, 29])
def test_the_rank_and_the_factors(rank):
    kernel = gradient(rank)
    factors = low_rank(layer(kernel))
    assert factors.rank == factors.numerical_rank == rank
    np.testing.assert_allclose((factors.inputs * factors.values) @ factors.units.T, kernel, atol=1e-10)
    np.testing.assert_allclose(factors.inputs.T @ factors.inputs, np.eye(rank), atol=1e-12)
    assert factors.noise < 1e-10


@pytest.mark.parametrize("size", [1e-6, 1e-4])
def test_rounding_of_the_stated_size_is_no_example(size):
    noise = np.random.default_rng(1).normal(0, size, (50, 30))
    assert low_rank(layer(gradient(5) + noise, size)).rank == 5
    assert low_rank(layer(gradient(5) + noise, 0.0), 5).rank == 5
    assert low_rank(layer(gradient(5) + noise, 0.0), 5).noise > size / 100


def test_fewer_than_the_examples_if_some_leave_no_trace():
    assert low_rank(layer(gradient(3)), 8).rank == 3


def test_full_rank_and_no_rank_are_refused():
    with pytest.raises(CapabilityError, match="full rank 30"):
        low_rank(layer(np.random.default_rng(0).normal(size=(50, 30))))
    with pytest.raises(CapabilityError, match=r"40 examples are too many|more examples than it can tell apart"):
        low_rank(layer(gradient(30)), 40)
    with pytest.raises(CapabilityError, match="does not stand out from its rounding"):
        low_rank(layer(np.random.default_rng(0).normal(0, 1e-9, (50, 30)), 1e-8))
