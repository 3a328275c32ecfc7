import math

import numpy as np
import pytest

from fedpriv.account.correlated import banded_sensitivity, patterns, tree_sensitivity
from fedpriv.account.gaussian import gaussian_delta, gaussian_epsilon, zcdp_epsilon
from fedpriv.base.errors import ParameterError


def tree_by_all_patterns(rounds, k, apart, restart):
    def squares(taking_part):
        found = 0.0
        for first in range(0, rounds, restart or rounds):
            leaves = taking_part[first : first + (restart or rounds)]
            size = 1
            while size <= len(leaves):
                found += (leaves[: len(leaves) // size * size].reshape(-1, size).sum(axis=1) ** 2).sum()
                size *= 2
        return found

    return math.sqrt(max(squares(np.isin(np.arange(rounds), p)) for p in patterns(rounds, k, apart)))


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2, 5, 7, 8, 11, 13])
@pytest.mark.parametrize("restart", [None, 3, 4, 6])
def test_trees_are_exact(rounds, restart):
    for k in (1, 2, 3, 5):
        for apart in (1, 2, 3, 4, 6):
            expected = tree_by_all_patterns(rounds, k, apart, restart)
            assert tree_sensitivity(rounds, k, apart, restart) == pytest.approx(expected), (k, apart)


@pytest.mark.parametrize(("rounds", "k", "apart"), [(20, 3, 5), (33, 4, 6), (50, 3, 9)])
def test_one_tree_is_tf_privacys(rounds, k, apart):
    """TF Privacy counts the rounds between two participations."""
    from tensorflow_privacy.privacy.analysis.tree_aggregation_accountant import compute_zcdp_single_tree

    found = tree_sensitivity(rounds, k, apart)
    assert found**2 / 2 == pytest.approx(compute_zcdp_single_tree(1.0, rounds, k, apart - 1))


def test_restarted_trees_are_tf_privacys():
    """Once an epoch, a tree each: the depths add up."""
    from tensorflow_privacy.privacy.analysis.tree_aggregation_accountant import compute_rdp_tree_restart

    expected = compute_rdp_tree_restart(1.0, [100, 100, 100], 2.0)
    assert tree_sensitivity(300, 3, 100, restart_every=100) ** 2 == pytest.approx(expected)


def test_dp_ftrl_at_a_published_setting():
    """z = 7, 2,000 rounds, at most 6 participations, 313 rounds apart: zCDP 0.81, epsilon 8.90 at delta 1e-10."""
    sensitivity = tree_sensitivity(2000, 6, 313)
    rho = (sensitivity / 7) ** 2 / 2
    assert sensitivity**2 == pytest.approx(79)
    assert rho == pytest.approx(0.81, abs=0.005)
    assert zcdp_epsilon(rho, 1e-10) == pytest.approx(8.90, abs=0.005)
    assert gaussian_epsilon(sensitivity / 7, 1e-10) == pytest.approx(8.526, abs=0.001)  # it is a Gaussian mechanism


def test_many_participations_in_many_rounds_are_counted_too():
    """Everybody in every round of a complete tree: each of 2^l nodes of 2^(h-l) leaves counts its square."""
    assert tree_sensitivity(1024, 1024, 1) ** 2 == pytest.approx(
        sum(2**level * (1024 >> level) ** 2 for level in range(11))
    )


@pytest.mark.parametrize(("size", "bands"), [(5, 1), (8, 3), (9, 5), (7, 7)])
def test_strategies_by_all_patterns(size, bands):
    rng = np.random.default_rng(size)
    c = np.tril(rng.normal(size=(size, size))) * (np.arange(size)[:, None] - np.arange(size) < bands)
    for k in (1, 2, 3):
        for apart in (1, 2, 4):
            worst = max(np.abs(c.T @ c)[np.ix_(p, p)].sum() for p in patterns(size, k, apart))
            assert banded_sensitivity(c, k, apart) == pytest.approx(math.sqrt(worst))


def toeplitz(coefficients, size):
    c = np.zeros((size, size))
    for distance, value in enumerate(coefficients):
        c += value * np.eye(size, k=-distance)
    return c


def test_few_bands_cost_the_root_of_the_participations():
    c = toeplitz([1.0, 0.5, 0.25], 40)
    column = np.linalg.norm([1.0, 0.5, 0.25])
    assert banded_sensitivity(c, 4, 3) == pytest.approx(2 * column)
    assert banded_sensitivity(np.eye(10), 4, 1) == pytest.approx(2)
    assert banded_sensitivity(c, 1, 1) == pytest.approx(column)


def test_toeplitz_strategies_with_many_bands():
    """The square root of the prefix sums, all bands: the earliest pattern is the worst."""
    coefficients = np.cumprod([1.0, *((2 * i - 1) / (2 * i) for i in range(1, 12))])
    c = toeplitz(coefficients, 12)
    worst = max((c.T @ c)[np.ix_(p, p)].sum() for p in patterns(12, 4, 2))
    assert banded_sensitivity(c, 4, 2) == pytest.approx(math.sqrt(worst))


def test_what_is_too_large_to_search_is_bounded():
    rng = np.random.default_rng(0)
    c = np.tril(rng.uniform(size=(60, 60)))
    found = banded_sensitivity(c, 8, 2)
    p = np.sort(rng.permutation(30)[:8] * 2)
    assert found >= math.sqrt((c.T @ c)[np.ix_(p, p)].sum())
    assert found <= math.sqrt(8) * math.sqrt(8) * np.linalg.norm(c, axis=0).max() * (1 + 1e-9)


def test_gaussian_closed_forms():
    assert gaussian_delta(1.0, gaussian_epsilon(1.0, 1e-5)) == pytest.approx(1e-5, rel=1e-6)
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.3772, abs=1e-4)
    assert gaussian_epsilon(1e-9, 1e-5) == gaussian_epsilon(0.0, 1e-5) == zcdp_epsilon(0.0, 1e-5) == 0
    for rho in (1e-6, 0.01, 0.5, 30.0):
        simple = rho + 2 * math.sqrt(rho * math.log(1e5))  # Bun and Steinke 2016, proposition 1.3
        assert gaussian_epsilon(math.sqrt(2 * rho), 1e-5) <= zcdp_epsilon(rho, 1e-5) <= simple


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tree_sensitivity(0, 1, 1), "rounds=0 must be a whole number, 1 or more"),
        (lambda: tree_sensitivity(8, 1.5, 1), "max_participations=1.5"),
        (lambda: tree_sensitivity(8, 1, 0), "min_separation=0"),
        (lambda: banded_sensitivity(np.ones((3, 3)), 1, 1), "lower triangular"),
        (lambda: gaussian_epsilon(1.0, 1.0), "delta=1.0"),
        (lambda: zcdp_epsilon(-1.0, 1e-5), "rho=-1.0"),
    ],
)
def test_senseless_numbers_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
