"""Shamir's sharing: t shares determine, t - 1 tell nothing, contradictions are seen."""

import itertools
import math
import os

import numpy as np
import pytest
from fedpriv_defenses.secure_sum import shamir
from fedpriv_defenses.secure_sum.field import PrimeField
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

FIELDS = [PrimeField(31), PrimeField(61)]


def test_a_known_polynomial():
    """f(x) = 5 + 3 x + 2 x^2: f(1) = 10, f(2) = 19, f(4) = 49."""
    field = PrimeField(31)
    shares = np.array([[10], [19], [49]], np.uint64)
    assert shamir.recover(field, shares, [1, 2, 4], 3) == 5
    # Weights at 0 for points 1, 2, 3 are 3, -3, 1.
    assert shamir.lagrange(field, [1, 2, 3], [0]).tolist() == [[3, field.p - 3, 1]]


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_any_t_shares_determine_the_secrets(field):
    secrets = field.uniform(6)
    shares = shamir.share(field, secrets, 3, [1, 2, 3, 7, 9])
    for chosen in itertools.combinations(range(5), 3):
        points = [[1, 2, 3, 7, 9][i] for i in chosen]
        assert np.array_equal(shamir.recover(field, shares[list(chosen)], points, 3), secrets)
    with pytest.raises(ValueError, match="2 shares do not determine"):
        shamir.recover(field, shares[:2], [1, 2], 3)


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_fewer_than_t_shares_fit_every_secret(field):
    """For t - 1 given shares and any secret there is exactly one polynomial, so they exclude none."""
    shares = shamir.share(field, field.uniform(4), 3, [1, 2, 3])
    for guess in (np.zeros(4, np.uint64), field.uniform(4)):
        third = field.matmul(shamir.lagrange(field, [0, 1, 2], [3]), np.stack([guess, *shares[:2]]))
        assert np.array_equal(shamir.recover(field, np.stack([*shares[:2], third[0]]), [1, 2, 3], 3), guess)


@pytest.mark.parametrize("secret", [0, 1, 2**31 - 2])
def test_t_minus_1_shares_are_uniform_whatever_is_shared(secret):
    field = PrimeField(31)
    shares = shamir.share(field, np.full(20_000, secret, np.uint64), 3, [1, 2, 3])[:2]
    for one in shares:
        assert stats.kstest(one / field.p, "uniform").pvalue > 1e-6
    joint = (shares * np.uint64(4) // np.uint64(field.p)).astype(int)
    table = np.bincount(joint[0] * 4 + joint[1], minlength=16)
    assert stats.chisquare(table).pvalue > 1e-6


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_a_false_share_beyond_the_threshold_is_seen(field):
    secrets = field.uniform(5)
    shares = shamir.share(field, secrets, 2, [1, 2, 3, 4])
    for row in range(4):
        false = shares.copy()
        false[row, 2:3] = field.add(false[row, 2:3], np.ones(1, np.uint64))
        assert shamir.recover(field, false, [1, 2, 3, 4], 2) is None


@given(st.lists(st.binary(min_size=7, max_size=7), min_size=1, max_size=5), st.data())
def test_byte_strings_come_back(strings, data):
    n = data.draw(st.integers(1, 8))
    t = data.draw(st.integers(1, n))
    points = data.draw(st.permutations(range(1, 20)))[:n]
    shares = shamir.share_strings(strings, t, points)
    assert shares.shape == (n, len(strings), 2)
    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(t, n))]
    assert shamir.recover_strings(shares[chosen], [points[i] for i in chosen], t, 7) == strings


def test_strings_whose_shares_contradict_each_other_are_none_and_the_others_come_back():
    strings = [os.urandom(32) for _ in range(3)]
    shares = shamir.share_strings(strings, 2, [1, 2, 3])
    shares[2, 1, 4] ^= np.uint64(1)
    assert shamir.recover_strings(shares, [1, 2, 3], 2, 32) == [strings[0], None, strings[2]]
    # With no share to spare a false one gives another value, or one that no string becomes.
    assert shamir.recover_strings(shares[1:], [2, 3], 2, 32)[1] != strings[1]


def test_impossible_thresholds_and_points_are_refused():
    field, secret = PrimeField(31), np.array([5], np.uint64)
    for t, points in [(0, [1, 2]), (3, [1, 2]), (2, [1, 1]), (2, [0, 1]), (1, [field.p])]:
        with pytest.raises(ValueError, match=r"threshold=|points="):
            shamir.share(field, secret, t, points)


@pytest.mark.parametrize("exponent", [31, 61])
def test_powers_and_lagrange_weights_are_those_of_the_integers_modulo_p(exponent):
    field = PrimeField(exponent)
    points, wanted = [1, 2, 5, 9, field.p - 1], [0, 5, 7, field.p - 2]
    for count in range(9):
        expected = [[pow(x, i, field.p) for i in range(count)] for x in points]
        assert (
            shamir.powers(field, points, count).astype(object) == np.array(expected, object).reshape(5, count)
        ).all()
    found = shamir.lagrange(field, points, wanted)
    for row, z in zip(found, wanted, strict=True):
        for value, x in zip(row, points, strict=True):
            others = [y for y in points if y != x]
            above, below = (math.prod(int(at) - y for y in others) for at in (z, x))
            assert int(value) == above * pow(below, -1, field.p) % field.p
