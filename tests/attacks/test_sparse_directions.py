"""Sparse directions: the unknown vectors of a subspace are found; random subspaces have none."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from fedpriv_attacks.exact.sparse_directions import SparseDirections, expected_draws
from hypothesis import given, settings
from hypothesis import strategies as st


def subspace(units, rank, zeros=0.5, seed=0, noise=0.0):
    """An orthonormal basis of the span of sparse vectors, and those vectors, unit length, in its coordinates."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(units, rank)) * (rng.random((units, rank)) >= zeros)
    basis = np.linalg.svd(vectors, full_matrices=False)[0]
    basis = np.linalg.qr(basis + noise * rng.normal(size=basis.shape))[0]
    inside = basis.T @ vectors
    return basis, (inside / np.linalg.norm(inside, axis=0)).T


def found(search, truth):
    return int(np.sum(np.any(np.abs(search.directions @ truth.T) > 1 - 1e-6, axis=0))) if len(search.directions) else 0


def searched(basis, rounds, way, seed=0, **options):
    search = SparseDirections(basis, np.random.default_rng(seed), **options)
    for _ in range(rounds):
        for step in way:
            getattr(search, step)({"draw": 4096, "turn": 64, "descend": 32, "climb": 4}[step])
    return search


@pytest.mark.slow
@pytest.mark.parametrize("way", [("draw",), ("turn",), ("descend",), ("draw", "climb")])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_each_way_finds_all_of_six(way, noise):
    basis, truth = subspace(80, 6, noise=noise)
    search = searched(basis, 12, way)
    assert found(search, truth) == 6
    assert search.complete
    np.testing.assert_array_equal(np.sort(search.zeros), np.sort(search.zeros)[: len(search.zeros)])


@pytest.mark.slow
@pytest.mark.parametrize(("units", "rank"), [(30, 2), (60, 3), (200, 12)])
def test_ranks_from_two_to_twelve(units, rank):
    basis, truth = subspace(units, rank, seed=rank)
    assert found(searched(basis, 30, ("draw", "descend", "climb")), truth) == rank


def test_a_single_direction_needs_no_zeros():
    search = searched(np.linalg.qr(np.ones((10, 1)))[0], 1, ("draw",))
    assert search.complete
    np.testing.assert_array_equal(search.directions, [[1.0]])


def test_the_zeros_are_counted_among_live_rows():
    basis, truth = subspace(100, 5, seed=3)
    vectors = basis @ truth.T
    search = searched(basis, 10, ("draw", "descend"))
    dead = np.all(np.abs(vectors) < 1e-12, axis=1)
    assert search.live == 100 - dead.sum()
    assert sorted(search.zeros) == sorted(np.sum(np.abs(vectors[~dead]) < 1e-12, axis=0))


def test_a_subspace_without_sparse_vectors_yields_none():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(120, 8)))[0]
    search = searched(basis, 5, ("draw", "descend", "climb"), sparsity=0.25)
    assert len(search.directions) == 0
    assert not search.complete


def test_the_same_seed_takes_the_same_way_and_another_ends_at_the_same_place():
    basis, _ = subspace(60, 5)
    one, two, other = (searched(basis, 3, ("draw", "descend", "climb"), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.directions, two.directions)
    assert (one.draws, one.planes) == (two.draws, two.planes)
    np.testing.assert_allclose(np.abs(one.directions @ other.directions.T).max(axis=1), 1, atol=1e-9)


def test_overlapping_zeros_are_where_climbing_helps():
    # Vectors 0 and 1 differ in few rows: a draw mostly hits their sums.
    rng = np.random.default_rng(5)
    off = rng.random((120, 5)) < 0.5
    off[:, 1] = off[:, 0] ^ (rng.random(120) < 0.1)
    vectors = np.where(off, 0.0, rng.normal(size=off.shape))
    basis = np.linalg.svd(vectors, full_matrices=False)[0]
    truth = (basis.T @ vectors / np.linalg.norm(vectors, axis=0)).T
    assert found(searched(basis, 8, ("draw", "climb")), truth) == 5


def test_what_is_known_of_the_rows_helps_to_the_last_direction():
    basis, truth = subspace(80, 8, seed=9)
    off = np.abs(basis @ truth.T) < 1e-12
    dual = np.linalg.inv(truth)  # column i is orthogonal to all directions but i
    search = SparseDirections(basis, np.random.default_rng(0))

    def rows(duals):
        nearest = np.argmax(np.abs(duals @ dual / np.linalg.norm(dual, axis=0)), axis=1)
        return off[search.live_rows][:, nearest].T

    search.off = rows
    for _ in range(10):
        search.descend(8)
    assert found(search, truth) == 8


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rank=st.integers(2, 5))
def test_neither_a_rotation_of_the_basis_nor_the_rows_order_matters(seed, rank):
    basis, truth = subspace(60, rank, seed=seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(rank, rank)))[0]
    order = rng.permutation(60)
    search = searched((basis @ rotation)[order], 10, ("draw", "descend", "climb"))
    assert found(search, truth @ rotation) == rank


def test_the_expected_number_of_draws():
    assert expected_draws(1, 100) == 1
    # Two vectors: one row, half of them zero; then the coupon collector's 1 + 1/2.
    assert expected_draws(2, 100) == pytest.approx(1.5 * 2)
    hit = comb(50, 9) / comb(100, 9)
    assert expected_draws(10, 100) == pytest.approx(sum(1 / k for k in range(1, 11)) / hit)
    # For wide layers near 2^(rank - 1) times the harmonic number.
    assert expected_draws(12, 10**6) == pytest.approx(2**11 * sum(1 / k for k in range(1, 13)), rel=1e-3)
    assert expected_draws(30, 40) == float("inf")


def test_the_expectation_is_met_by_drawing():
    draws = []
    for seed in range(12):
        basis, truth = subspace(200, 7, seed=seed)
        search = SparseDirections(basis, np.random.default_rng(seed))
        while found(search, truth) < 7:
            search.draw(7)
        draws.append(search.draws)
    assert np.mean(draws) == pytest.approx(expected_draws(7, 200), rel=0.7)


@pytest.mark.slow
def test_turning_finds_all_of_many_where_drawing_finds_none():
    basis, truth = subspace(600, 24, seed=2)
    assert expected_draws(24, 600) > 4e7
    assert found(searched(basis, 6, ("turn", "turn", "climb")), truth) == 24
    assert found(searched(basis, 2, ("draw",)), truth) == 0


def test_turning_hits_nothing_in_a_subspace_without_sparse_vectors():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(300, 10)))[0]
    search = searched(basis, 3, ("turn",), sparsity=0.25)
    assert search.hits == 0
    assert len(search.directions) == 0
    assert search.expected_turns() > search.turns


def test_the_expected_number_of_turns_is_right_to_a_factor_of_four():
    ratios = []
    for seed in range(6):
        basis, truth = subspace(300, 12, seed=seed)
        search = SparseDirections(basis, np.random.default_rng(seed))
        search.turn(64)
        expected = search.expected_turns()
        while found(search, truth) < 12 and search.turns < 40 * expected:
            search.turn(8)
        ratios.append(search.turns / expected)
    assert 1 / 4 < np.median(ratios) < 4
