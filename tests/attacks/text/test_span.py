"""Spans: ranks by linear algebra, and the chance that a random vector lies near."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.text.span import ROOM, Span, numeric_rank


@pytest.mark.parametrize("noise", [1e-12, 1e-5, 1e-3])
@pytest.mark.parametrize(("width", "tokens"), [(24, 5), (64, 40), (64, 62), (200, 150)])
def test_the_rank_is_that_of_linear_algebra(width, tokens, noise):
    draws = np.random.default_rng(width + tokens)
    clean = draws.normal(size=(width, tokens)) @ draws.normal(size=(tokens, 3 * width))
    matrix = clean + noise * draws.normal(size=clean.shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    rank, floor = numeric_rank(values, width - 1, 3 * width)
    assert rank == np.linalg.matrix_rank(clean) == tokens
    assert values[tokens] <= floor < values[tokens - 1]


def test_strong_directions_do_not_hide_weak_ones():
    draws = np.random.default_rng(0)
    scales = 10.0 ** -np.arange(0, 5, 0.5)
    clean = (draws.normal(size=(40, 10)) * scales) @ draws.normal(size=(10, 120))
    values = np.linalg.svd(clean + 1e-7 * draws.normal(size=clean.shape), compute_uv=False)
    assert numeric_rank(values, 39, 120)[0] == 10


def test_the_bound_on_tokens_cuts_what_drifted():
    values = 1.0 / np.arange(1, 41) ** 2
    assert numeric_rank(values, 12, 120) == (12, values[12])


def span(width, rank, draws, noise=1e-6):
    inputs = draws.normal(size=(rank, width))
    gradient = inputs.T @ draws.normal(size=(rank, 3 * width)) + noise * draws.normal(size=(width, 3 * width))
    directions, values, _ = np.linalg.svd(gradient)
    found, floor = numeric_rank(values, width - 1, 3 * width)
    return inputs, Span(directions, values, found, floor, width)


def test_inputs_are_within_the_errors_and_others_are_not():
    draws = np.random.default_rng(3)
    inputs, found = span(48, 20, draws)
    near, ratio = found.distances(inputs)
    far, others = found.distances(draws.normal(size=(500, 48)))
    assert ratio.max() < ROOM < others.min() / 100
    assert near.max() < 1e-4 < far.min()


@pytest.mark.parametrize(("width", "rank"), [(16, 12), (64, 30)])
def test_chance_is_how_often_random_vectors_are_near(width, rank):
    draws = np.random.default_rng(5)
    _, found = span(width, rank, draws)
    far, _ = found.distances(draws.normal(size=(20_000, width)))
    for probability in (0.02, 0.3):
        bar = found.threshold(probability)
        assert np.mean(far <= bar) == pytest.approx(probability, rel=0.2)
        assert found.chance(bar) == pytest.approx(probability, rel=1e-6)


def test_a_full_span_tells_nothing():
    draws = np.random.default_rng(6)
    _, found = span(16, 12, draws)
    full = Span(found.directions, found.values, 15, found.floor, 15)
    assert full.spare == 0
    assert full.chance(0.1) == 1.0
    assert full.threshold(0.1) == 0.0
