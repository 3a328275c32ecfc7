"""What sums of many rounds are sums of: exact arithmetic, and the promise of drawing clients in batches."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.defense.attrition import FixedAttrition
from fedpriv.procedure.participation import determined, least_weight, rank, reduced
from fedpriv.procedure.procedure import Sampling
from fedpriv.procedure.sampling import cohort
from fedpriv.procedure.selection import BatchPartition


def matrix_of(sampling, population, seed, rounds):
    rows = np.zeros((rounds, population), int)
    for r in range(rounds):
        rows[r, cohort(sampling, population, seed, r)] = 1
    return rows


def strategy(size, batch):
    return Sampling(kind="strategy", strategy=f"batch_partition(size={size},batch={batch})")


matrices = st.integers(1, 5).flatmap(
    lambda m: st.lists(st.lists(st.integers(0, 1), min_size=m, max_size=m), min_size=1, max_size=6)
)


@given(matrices)
def test_rank_is_that_of_numpy(rows):
    assert rank(rows) == np.linalg.matrix_rank(np.array(rows))


@given(matrices)
def test_groups_are_all_those_whose_indicator_is_in_the_row_space(rows):
    matrix = np.array(rows)
    found = determined(matrix, matrix.shape[1])
    for group in found:
        indicator = np.isin(np.arange(matrix.shape[1]), group).astype(int)
        assert rank(np.vstack([matrix, indicator])) == rank(matrix)
    singles = [
        i for i in range(matrix.shape[1]) if rank(np.vstack([matrix, np.eye(matrix.shape[1])[i]])) == rank(matrix)
    ]
    assert [g for g in found if len(g) == 1] == [(i,) for i in singles]
    assert determined(matrix, 1) == [(i,) for i in singles]


@given(matrices)
def test_least_weight_is_the_lightest_combination(rows):
    matrix = np.array(rows)
    lightest = least_weight(matrix)
    if not matrix.any():
        assert lightest is None
        return
    basis = [[int(v * 60) for v in row] for row in reduced(matrix)[0]]
    # Small whole factors of the reduced rows bound it from above; a lighter one than found would contradict it.
    weights = [
        np.count_nonzero(np.array(c) @ np.array(basis)) for c in product((-2, -1, 0, 1, 2), repeat=len(basis)) if any(c)
    ]
    assert lightest <= min(weights)
    assert least_weight(matrix, lightest - 1) is None


def test_two_cohorts_that_differ_in_one_client_tell_that_client():
    assert determined(np.array([[1, 1, 1], [1, 1, 0]])) == [(2,)]
    assert determined(np.array([[1, 1, 1], [1, 1, 0]]), 2) == [(2,), (0, 1)]
    assert least_weight(np.array([[1, 1, 0], [0, 1, 1]])) == 2  # a difference of two clients, of none of them the sum
    assert determined(np.array([[1, 1, 0], [0, 1, 1]]), 1) == []


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 2**32),
    st.integers(1, 10),
    st.integers(0, 1),
)
def test_no_combination_of_any_rounds_is_about_fewer_clients_than_a_batch(batch, in_round, more, seed, rounds, left):
    population = batch * (in_round + more) + min(left, batch - 1)
    matrix = matrix_of(strategy(batch * in_round, batch), population, seed, rounds)
    assert (matrix.sum(1) == batch * in_round).all()
    assert least_weight(matrix, batch - 1) is None
    # Which follows from every round having one weight for all of a batch.
    made = BatchPartition(size=batch * in_round, batch=batch)
    for members in made.batches(population, seed):
        assert (matrix[:, members] == matrix[:, members[:1]]).all()


def test_it_is_as_tight_as_said_and_single_clients_drawn_one_by_one_are_not_safe():
    batched = matrix_of(strategy(4, 2), 8, 0, 32)
    assert least_weight(batched) == 2
    assert {len(g) for g in determined(batched, 2)} == {2}
    assert len(determined(matrix_of(Sampling.fixed(4), 8, 0, 32))) == 8


def test_batches_stay_and_rounds_differ():
    made = BatchPartition(size=6, batch=3)
    assert np.array_equal(made.batches(11, 5), made.batches(11, 5))
    assert sorted(made.batches(12, 5).ravel()) == list(range(12))
    assert made.batches(11, 5).shape == (3, 3)
    drawn = {tuple(made.draw(12, 5, r)) for r in range(20)}
    assert 1 < len(drawn) <= 6  # pairs of four batches
    assert "2 of them in no batch, which never take part" in made.describe(11)
    assert made.amplified("event", "add_or_remove_one", 12) == "event"


def test_impossible_batches_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"size=5 is no multiple of batch=2; try size=4"):
        BatchPartition(size=5, batch=2)
    with pytest.raises(ParameterError, match=r"exceeds the 6 clients in whole batches of a population of 7"):
        BatchPartition(size=8, batch=2).check(7)


def test_a_batch_that_arrives_in_part_is_told_of(federate):
    whole = federate(sampling=strategy(4, 2))
    assert whole.run(2).records[0].warnings == []
    broken = federate(sampling=strategy(4, 2), attrition=FixedAttrition(count=1, phase="input")).run(1).records[0]
    assert len(broken.lost) == 1
    assert "1 batch of 2 arrived without all of their clients" in broken.warnings[0]
    assert "min_clients=4" in broken.warnings[0]


def test_a_batch_that_is_missing_as_a_whole_breaks_nothing():
    made = BatchPartition(size=4, batch=2)
    whole = made.batches(8, 0)[0]
    assert made.warn(8, 0, 0, whole.tolist()) == ""
    assert "1 batch" in made.warn(8, 0, 0, whole[:1].tolist())
