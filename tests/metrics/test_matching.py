import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.matching import UNMATCHED, label_accuracy, match, match_labels


@given(st.permutations(range(7)), st.integers(0, 2**31))
def test_a_shuffled_noisy_batch_is_put_back_in_order(order, seed):
    rng = np.random.default_rng(seed)
    originals = rng.random((7, 6, 5, 3))
    found = (originals + 0.01 * rng.standard_normal(originals.shape))[list(order)]
    which = match(found, originals)
    assert [order[w] for w in which] == list(range(7))


def test_one_reconstruction_counts_for_one_original_only():
    originals = np.stack([np.full(4, 0.2), np.full(4, 0.9)])
    found = np.stack([np.full(4, 0.2), np.full(4, 0.2)])  # both nearest to the first
    assert sorted(match(found, originals)) == [0, 1]


@given(arrays(np.float64, (4, 2), elements=st.floats(0, 1)), arrays(np.float64, (4, 2), elements=st.floats(0, 1)))
def test_no_permutation_costs_less(found, originals):
    def cost(p):
        return np.square(found[list(p)] - originals).sum()

    assert cost(match(found, originals)) == pytest.approx(min(map(cost, itertools.permutations(range(4)))), abs=1e-12)


def test_too_few_reconstructions_leave_originals_unmatched():
    originals = np.array([[0.0], [0.5], [1.0]])
    assert match(np.array([[0.9], [0.1]]), originals).tolist() == [1, UNMATCHED, 0]


def test_one_that_is_not_finite_gets_what_is_left():
    originals = np.array([[0.0], [0.5], [1.0]])
    assert match(np.array([[np.nan], [1.0], [0.0]]), originals).tolist() == [2, 0, 1]
    assert match(np.array([[np.inf], [1.0], [0.4], [0.0]]), originals).tolist() == [3, 2, 1]


def test_other_shapes_do_not_match():
    with pytest.raises(ParameterError, match=r"\[3\].*\[4\]"):
        match(np.zeros((2, 3)), np.zeros((2, 4)))


def test_originals_must_be_finite():
    with pytest.raises(ParameterError, match="finite"):
        match(np.zeros((1, 1)), np.array([[np.nan]]))


@pytest.mark.parametrize(
    ("claimed", "true", "accuracy"),
    [([3, 7], [7, 3], 1.0), ([3, 3], [3, 7], 0.5), ([3], [3, 3], 0.5), ([], [1], 0.0), ([1, 2, 3, 4], [4], 1.0)],
)
def test_each_claimed_label_counts_once(claimed, true, accuracy):
    assert label_accuracy(claimed, true) == accuracy


labels = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(labels, labels)
def test_label_accuracy_is_the_overlap_of_the_label_counts(claimed, true):
    overlap = sum(min(claimed.count(c), true.count(c)) for c in range(4))
    assert label_accuracy(claimed, true) == overlap / len(true)
    assert match_labels(claimed, true).sum() == overlap


@pytest.mark.parametrize("claimed", [np.zeros((2, 10)), np.array([0.5, 0.5])])
def test_probabilities_are_no_labels(claimed):
    with pytest.raises(ParameterError, match="argmax"):
        label_accuracy(claimed, [0, 1])
