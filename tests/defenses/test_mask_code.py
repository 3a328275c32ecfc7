"""The code of LightSecAgg: what pieces of a mask tell, and what they do not."""

import itertools

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.field import PrimeField
from fedpriv_defenses.secure_sum.mask_code import MaskCode
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

FIELDS = {31: PrimeField(31), 61: PrimeField(61)}


def determinant(matrix, p):
    """By Gaussian elimination in Python's integers."""
    rows, found = [[int(v) for v in row] for row in matrix], 1
    for i in range(len(rows)):
        pivot = next((r for r in range(i, len(rows)) if rows[r][i]), None)
        if pivot is None:
            return 0
        if pivot != i:
            rows[i], rows[pivot], found = rows[pivot], rows[i], -found
        found = found * rows[i][i] % p
        inverse = pow(rows[i][i], -1, p)
        for r in range(i + 1, len(rows)):
            factor = rows[r][i] * inverse % p
            rows[r] = [(a - factor * b) % p for a, b in zip(rows[r], rows[i])]
    return found % p


@st.composite
def codes(draw):
    n = draw(st.integers(1, 12))
    enough = draw(st.integers(1, n))
    private = draw(st.integers(0, enough - 1))
    field = FIELDS[draw(st.sampled_from([31, 61]))]
    return MaskCode(field, draw(st.integers(1, 20)), n, private, enough)


@settings(max_examples=60, deadline=None)
@given(codes(), st.data())
def test_any_u_pieces_of_a_sum_of_masks_give_it(code, data):
    masks = [code.field.uniform(code.length) for _ in range(3)]
    pieces = [code.encode(mask) for mask in masks]
    assert all(p.shape == (code.pieces, -(-code.length // (code.enough - code.private))) for p in pieces)
    summed = code.field.add(code.field.add(pieces[0], pieces[1]), pieces[2])
    some = data.draw(st.permutations(range(code.pieces)))[: data.draw(st.integers(code.enough, code.pieces))]
    expected = code.field.add(code.field.add(masks[0], masks[1]), masks[2])
    np.testing.assert_array_equal(code.decode(some, summed[some]), expected)
    with pytest.raises(ValueError, match="do not determine"):
        code.decode(some[: code.enough - 1], summed[some[: code.enough - 1]])


@pytest.mark.parametrize("exponent", [31, 61])
@pytest.mark.parametrize(("n", "private", "enough"), [(6, 1, 2), (6, 2, 5), (6, 5, 6), (7, 3, 4)])
def test_any_t_columns_of_the_uniform_parts_block_and_any_u_of_all_have_an_inverse(exponent, n, private, enough):
    code = MaskCode(FIELDS[exponent], 10, n, private, enough)
    p = code.field.p
    for chosen in itertools.combinations(range(n), private):
        assert determinant(code.encoder[list(chosen), code.parts :], p) != 0
    for chosen in itertools.combinations(range(n), enough):
        assert determinant(code.encoder[list(chosen)], p) != 0


@pytest.mark.parametrize("exponent", [31, 61])
def test_t_pieces_are_uniform_together_whatever_the_mask(exponent):
    code = MaskCode(FIELDS[exponent], 2 * 20_000, pieces=4, private=2, enough=4)
    constant = np.full(code.length, 12345, np.uint64)
    tables = []
    for mask in (np.zeros(code.length, np.uint64), constant):
        pieces = code.encode(mask)
        for pair in itertools.combinations(range(4), 2):
            high = (pieces[list(pair)] >> np.uint64(exponent - 3)).astype(int)  # 8 x 8 cells
            table = np.bincount(high[0] * 8 + high[1], minlength=64)
            assert stats.chisquare(table).pvalue > 1e-6
            tables.append(table)
    for before, after in zip(tables[:6], tables[6:]):
        assert stats.chi2_contingency([before, after])[1] > 1e-6
    # A third piece is told by two and the mask: together they are not uniform.
    weights, values = code.combinations([0, 1, 2], code.encode(constant)[:3])
    assert (values == values[0, 0]).all()
    assert weights.shape == (1, 2)


def test_u_minus_1_pieces_leave_every_value_of_a_missing_one_possible():
    code = MaskCode(FIELDS[31], 6, pieces=5, private=1, enough=4)
    mask = code.field.uniform(6)
    pieces = code.encode(mask)[:3]
    found = set()
    for guess in range(50):
        whole = np.concatenate([pieces, np.full((1, code.width), guess, np.uint64)])
        found.add(tuple(code.decode([0, 1, 2, 3], whole)))
    assert len(found) == 50  # each completes to another mask, and nothing tells them apart
    assert code.combinations([0, 1, 2], pieces)[0].shape == (2, 3)  # of three parts, two combinations are known


@settings(max_examples=60, deadline=None)
@given(codes(), st.data())
def test_between_t_and_u_pieces_tell_combinations_of_parts_and_t_none(code, data):
    mask = code.field.uniform(code.length)
    some = data.draw(st.permutations(range(code.pieces)))[: data.draw(st.integers(0, code.enough))]
    weights, values = code.combinations(some, code.encode(mask)[some])
    assert len(weights) == len(values) == max(0, len(some) - code.private)
    parts = np.zeros(code.parts * code.width, np.uint64)
    parts[: code.length] = mask
    np.testing.assert_array_equal(code.field.matmul(weights, parts.reshape(code.parts, -1)), values)
    if len(some) == code.enough:  # as many as there are parts, and independent
        assert determinant(weights, code.field.p) != 0


@settings(max_examples=60, deadline=None)
@given(codes(), st.data())
def test_as_many_false_pieces_as_there_are_more_than_u_are_noticed(code, data):
    spare = code.pieces - code.enough
    pieces = code.encode(code.field.uniform(code.length))
    everyone = list(range(code.pieces))
    assert code.odd_one(everyone, pieces) is None
    if spare:
        false = data.draw(st.lists(st.sampled_from(everyone), min_size=1, max_size=spare, unique=True))
        for number in false:
            pieces[number, data.draw(st.integers(0, code.width - 1))] ^= np.uint64(1)
        assert code.decode(everyone, pieces) is None
        if len(false) == 1:
            assert code.odd_one(everyone, pieces) == (false[0] if spare >= 2 else None)
        elif 2 * len(false) <= spare:
            assert code.odd_one(everyone, pieces) is None


def test_codes_that_cannot_be_are_refused():
    for private, enough in ((2, 2), (0, 5), (-1, 2)):
        with pytest.raises(ValueError, match="0 <= private < enough <= pieces"):
            MaskCode(FIELDS[31], 4, 4, private, enough)
