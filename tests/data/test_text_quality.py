"""How near a reconstructed text comes to its original: known values, parity with a reference package, padding."""

import numpy as np
import pytest

from fedpriv.data.kinds.text_quality import edit_distance, held, in_bag, in_place, in_set, matching_costs, rouge
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.metrics.matching import match
from fedpriv.metrics.score import score
from fedpriv.threat.finding import Finding
from fedpriv.threat.truth import Truth

KIND = Tokens(length=6, vocabulary=30, padding=0)


def test_rouge_by_hand():
    # police killed the gunman / police kill the gunman, as in Lin's paper: 3 of 4 tokens, 1 of 3 pairs
    assert rouge([1, 2, 3, 4], [1, 9, 3, 4]) == pytest.approx({"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 3 / 4})
    # the gunman kill police: as many tokens, one pair, a common subsequence of two
    assert rouge([1, 2, 3, 4], [3, 4, 9, 1]) == pytest.approx({"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 1 / 2})
    # recall 2/4, precision 2/3
    assert rouge([5, 6, 7, 8], [5, 6, 1])["rouge_1"] == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    # a token counts as often as both have it
    assert rouge([5, 5, 6], [5, 6, 6])["rouge_1"] == pytest.approx(2 / 3)


def test_texts_too_short_for_a_pair():
    assert rouge([4], [4]) == {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0}
    assert rouge([4], [5]) == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    assert rouge([4], [4, 5])["rouge_2"] == 0.0
    assert rouge([], [4]) == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    assert rouge([], [])["rouge_l"] == 1.0


@pytest.mark.slow  # the reference package takes seconds to import
def test_parity_with_the_reference_package():
    from rouge_score.rouge_scorer import RougeScorer

    class Numbers:
        def tokenize(self, text):
            return text.split()

    reference = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False, tokenizer=Numbers())
    draws = np.random.default_rng(0)
    for _ in range(300):
        a, b = (draws.integers(1, 8, draws.integers(2, 14)).tolist() for _ in range(2))
        theirs = reference.score(" ".join(map(str, a)), " ".join(map(str, b)))
        expected = {f"rouge_{n.lower()}": theirs[f"rouge{n}"].fmeasure for n in "12L"}
        assert rouge(a, b) == pytest.approx(expected)


def test_edits_by_hand():
    assert edit_distance([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert edit_distance([1, 2, 3, 4], [2, 3, 4]) == pytest.approx(1 / 4)
    assert edit_distance([1, 2], [3, 4, 5]) == 1
    assert edit_distance([], []) == 0


def test_padding_is_nobodys_token():
    original, found = np.array([5, 6, 7, 0, 0, 0]), np.array([5, 9, 7, 0, 0, 0])
    assert held(original, 0) == [5, 6, 7]
    assert held(original, None) == [5, 6, 7, 0, 0, 0]
    assert in_place(original, found, 0) == pytest.approx(2 / 3)
    assert in_place(original, found, None) == pytest.approx(5 / 6)
    assert in_place(np.zeros(3), np.zeros(3), 0) == 1
    assert in_place(np.zeros(3), np.array([0, 4, 0]), 0) == 0
    values = KIND.score(original, found)
    assert values["rouge_1"] == pytest.approx(2 / 3)
    assert values["edit_distance"] == pytest.approx(1 / 3)


def test_only_a_text_with_every_token_in_place_and_no_other_is_reconstructed():
    original = np.array([5, 6, 7, 0, 0, 0])
    good = {name: KIND.success(KIND.score(original, np.array(found)), 30.0) for name, found in (
        ("equal", [5, 6, 7, 0, 0, 0]), ("shifted", [0, 5, 6, 7, 0, 0]), ("longer", [5, 6, 7, 8, 0, 0]),
        ("swapped", [6, 5, 7, 0, 0, 0]))}  # fmt: skip
    assert good == {"equal": True, "shifted": False, "longer": False, "swapped": False}


def test_what_is_found_anywhere_counts_once():
    assert in_bag([[1, 2, 2, 3]], [[3, 2, 9]]) == [0.5]
    assert in_bag([[1, 2], [1, 4]], [[4, 9], [1, 9]]) == [0.5, 0.5]  # the one 1 goes to the first text
    assert in_set([[1, 2, 2, 3]], [[3, 2, 9]]) == pytest.approx([2 / 3])
    assert in_set([[1, 2], [1, 4]], [[4, 9], [1, 9]]) == [0.5, 1.0]


def test_a_bag_is_no_text():
    x = np.array([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0]])
    tokens = np.sort(x.ravel())[::-1].reshape(2, 6)  # all tokens, in an order of their own
    scored = score(Finding(x=tokens.astype(np.float32)), Truth(x.astype(np.float32), np.array([0, 1]), (0,), kind=KIND))
    assert [i.extra["bag_accuracy"] for i in scored.images] == [1.0, 1.0]
    assert [i.extra["set_accuracy"] for i in scored.images] == [1.0, 1.0]
    assert not any(i.success for i in scored.images)
    assert max(i.extra["rouge_2"] for i in scored.images) < 0.5


def test_matching_puts_texts_in_order_even_where_words_moved():
    x = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9], [10, 11, 12, 0, 0, 0], [20, 21, 22, 23, 24, 25]])
    moved = np.array([[25, 24, 23, 22, 21, 20], [0, 10, 11, 12, 0, 0], [2, 3, 7, 8, 9, 1], [1, 2, 3, 4, 5, 29]])
    assert match(moved, x, KIND).tolist() == [3, 2, 1, 0]
    costs = matching_costs(x, x, 0)
    assert costs.shape == (4, 4)
    np.testing.assert_array_equal(np.diag(costs), 0)
    assert costs[0, 3] == costs.max() == 1
    # of two with the same tokens in the same order, the one in place
    again = np.array([[0, 10, 11, 12, 0, 0], [10, 11, 12, 0, 0, 0]])
    assert match(again, x[2:3], KIND).tolist() == [1]


def test_a_place_that_is_not_a_number_holds_no_token():
    x = np.array([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]], np.float32)
    found = np.array([[5, np.nan, 7, 8, np.nan, np.nan], [np.nan] * 6], np.float32)
    scored = score(Finding(x=found), Truth(x, np.array([0, 1]), (0,), kind=KIND))
    assert [i.finite for i in scored.images] == [True, False]
    assert scored.images[0].extra["token_accuracy"] == 3 / 4
    assert scored.images[0].extra["edit_distance"] == 1 / 4
    assert not scored.images[0].success
    assert KIND.words(found[0]) == ["5", "", "7", "8", "", ""]
    assert KIND.words(found[1]) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_text_that_is_not_finite_has_no_token_right(bad):
    x = np.array([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]], np.float32)
    found = x.copy()
    found[0] = bad
    scored = score(Finding(x=found), Truth(x, np.array([0, 1]), (0,), kind=KIND))
    assert [i.finite for i in scored.images] == [False, True]
    assert scored.images[0].extra == {**KIND.missing(x[0]), "bag_accuracy": 0.0, "set_accuracy": 0.0}
    assert scored.images[1].success
