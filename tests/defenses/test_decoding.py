"""Which values do not lie on the polynomial of the others."""

import itertools

import pytest
from fedpriv_defenses.secure_sum.decoding import null_vector, suspects
from hypothesis import given, settings
from hypothesis import strategies as st

P = 2**31 - 1


def polynomial(coefficients, x):
    return sum(c * x**i for i, c in enumerate(coefficients)) % P


def test_every_single_lie_among_t_plus_2_is_found():
    points, true = [1, 2, 5, 7, 9], [polynomial([4, 3, 2], x) for x in (1, 2, 5, 7, 9)]
    for i in range(5):
        false = list(true)
        false[i] = (false[i] + 1) % P
        assert suspects(points, false, 3, P) == [i]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6), st.integers(0, 4), st.data())
def test_all_wrong_ones_are_under_suspicion_and_enough_others_are_not(threshold, wrong, data):
    n = threshold + 2 * wrong + data.draw(st.integers(0, 1))
    points = data.draw(st.permutations(range(1, 40)))[:n]
    coefficients = [data.draw(st.integers(0, P - 1)) for _ in range(threshold)]
    values = [polynomial(coefficients, x) for x in points]
    lies = data.draw(st.permutations(range(n)))[:wrong]
    for i in lies:
        values[i] = (values[i] + data.draw(st.integers(1, P - 1))) % P
    found = suspects(points, values, threshold, P)
    assert set(lies) <= set(found)
    assert n - len(found) >= threshold + wrong


def test_more_lies_than_can_be_told_put_everybody_under_suspicion():
    values = [polynomial([4, 3, 2], x) for x in range(1, 7)]
    values[1] += 5
    values[4] += 11
    assert suspects(range(1, 7), values, 3, P) == list(range(6))  # one of 3 + 3 can be told
    assert null_vector([[1, 2], [2, 5]], P) is None


def test_too_few_values_put_nobody_under_suspicion():
    assert suspects([1, 2, 3], [5, 6, 8], 2, P) == []


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[0, 0, 1, 5], [0, 2, 0, 7]], [[1, 2], [2, 4]]])
def test_a_null_vector_is_orthogonal_to_every_row(rows):
    found = null_vector(rows, P)
    assert found is not None
    assert any(found)
    assert all(sum(a * b for a, b in itertools.zip_longest(row, found)) % P == 0 for row in rows)
