"""Label counts: rounding against every possibility, closed forms of the equations, and LLG by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fedpriv_attacks.labels.counts import (
    greedy_counts,
    misfit,
    nearest_counts,
    regressed_counts,
    simplex_projection,
    solve_counts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import CapabilityError, DivergenceError


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(-4, 9), min_size=2, max_size=4), st.integers(1, 7))
def test_rounding_is_the_nearest_of_all_count_vectors(values, total):
    values = np.array(values)
    counts = nearest_counts(values, total)
    assert counts.sum() == total
    assert counts.min() >= 0
    every = np.array([c for c in itertools.product(range(total + 1), repeat=len(values)) if sum(c) == total])
    best = np.min(np.sum((every - values) ** 2, 1))
    assert np.sum((counts - values) ** 2) == pytest.approx(best, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=12).filter(sum))
def test_whole_counts_are_left_alone(counts):
    assert nearest_counts(np.array(counts) + 1e-12, sum(counts)).tolist() == counts
    assert misfit(np.array(counts, float), np.array(counts)) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=10), st.integers(1, 50))
def test_projection_is_on_the_simplex(values, total):
    projected = simplex_projection(np.array(values), total)
    assert projected.min() >= 0
    assert projected.sum() == pytest.approx(total)


def test_what_is_not_finite_cannot_be_rounded():
    with pytest.raises(DivergenceError, match="1 non-finite values of 3"):
        nearest_counts(np.array([1.0, np.nan, 2.0]), 3)


def test_counts_solve_the_gradient_exactly_if_each_class_has_one_prediction():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.dirichlet(np.ones(7), 7)
        counts = rng.multinomial(40, rng.dirichlet(np.ones(7)))
        gradient = counts @ (p - np.eye(7)) / 40
        np.testing.assert_allclose(solve_counts(gradient, p, 40), counts, atol=1e-8)


def test_wrong_predictions_give_wrong_counts():
    p = np.full((3, 3), 1 / 3)
    gradient = np.array([4, 1, 1]) @ (np.array([[0.8, 0.1, 0.1]] * 3) - np.eye(3)) / 6
    assert nearest_counts(solve_counts(gradient, p, 6), 6).tolist() != [4, 1, 1]


def test_predictions_that_are_not_finite_are_named():
    with pytest.raises(DivergenceError, match="predictions at the features"):
        solve_counts(np.zeros(2), np.full((2, 2), np.nan), 3)


def test_misfit_of_noise_is_about_one():
    rng = np.random.default_rng(0)
    values = rng.uniform(10, 30, (200, 50))
    measured = [misfit(v, np.round(v).astype(int)) for v in values]
    assert np.mean(measured) == pytest.approx(1.0, abs=0.02)


def test_llg_by_hand():
    # Negative first: one each of classes 0 and 2. Then -9 + 4 = -5 is the lowest (class 0 again), then -1, then 0.5.
    gradients = np.array([-9.0, 1.0, -3.0])
    assert greedy_counts(gradients, -4.0, 0.0, 2).tolist() == [1, 0, 1]
    assert greedy_counts(gradients, -4.0, 0.0, 3).tolist() == [2, 0, 1]
    assert greedy_counts(gradients, -4.0, 0.0, 4).tolist() == [3, 0, 1]
    assert greedy_counts(gradients, -4.0, 0.0, 6).tolist() == [3, 1, 2]
    # An offset on class 0 takes the second example away from it.
    assert greedy_counts(gradients, -4.0, np.array([-8.0, 0.0, 0.0]), 3).tolist() == [1, 1, 1]


def test_llg_takes_the_most_negative_if_there_are_too_many():
    assert greedy_counts(np.array([-1.0, -5.0, -2.0, 8.0]), -1.0, 0.0, 2).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("impact", [0.0, 1.0, np.nan])
def test_an_impact_that_is_not_negative_is_refused(impact):
    with pytest.raises(CapabilityError, match="impact"):
        greedy_counts(np.array([1.0, -1.0]), impact, 0.0, 3)


def test_regression_is_exact_where_predictions_do_not_vary():
    p, labels = np.tile([0.5, 0.3, 0.2], (9, 1)), np.arange(9) % 3
    gradient = p[0] - np.array([5, 0, 1]) / 6
    np.testing.assert_allclose(regressed_counts(gradient, p, labels, 6), [5, 0, 1], atol=1e-9)


def test_regression_falls_back_on_frequencies_where_predictions_are_right():
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(regressed_counts(np.zeros(2), np.eye(2)[labels], labels, 8), [6, 2], atol=1e-9)
