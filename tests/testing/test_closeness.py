"""How near a finding is, by the kind of examples."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.data.kinds.features import Features
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.testing.closeness import blank, closeness, measure
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth

KIND = Tokens(length=4, vocabulary=50, padding=0)
TEXTS = np.array([[5, 6, 7, 5], [9, 8, 0, 0]], np.float32)
TRUTH = Truth(TEXTS, np.array([0, 1]), (0,), kind=KIND)


def near(x, truth=TRUTH):
    return closeness(Finding(np.asarray(x, np.float32), None), truth)


def test_texts_are_measured_by_their_tokens_and_not_by_their_numbers():
    assert near(TEXTS[::-1]).tokens == 1  # in another order of the batch
    assert near(TEXTS[:, ::-1]).tokens == 1  # of the tokens
    assert near(TEXTS + 1).tokens < 0.6  # though numbers lie close
    assert near(TEXTS[:1]).tokens == 0.5  # one is missing
    assert near(np.full_like(TEXTS, np.nan)).tokens == 0
    assert near(TEXTS).psnr is None
    assert near(TEXTS).examples == 1


def test_one_token_repeated_is_what_texts_are_held_against():
    # Token 5 at every place: two of four in the first text, none in the second.
    assert blank(TRUTH) == pytest.approx(0.25)
    assert measure(KIND).texts
    assert measure(KIND).written(0.5) == "50% of the tokens"


def test_values_count_by_their_range():
    kind = Features(shape=(2,), low=-10, high=10)
    truth = Truth(np.array([[-10, 10]], np.float32), np.array([0]), (0,), kind=kind)
    assert near([[-10, 8]], truth).psnr == pytest.approx(-10 * np.log10(0.1**2 / 2))
    assert near([[-10, 12]], truth).psnr > 100  # made valid first
    assert blank(truth) == pytest.approx(-10 * np.log10(0.25))


def test_targets_that_are_texts_are_no_labels():
    truth = Truth(TEXTS, TEXTS.astype(int), (0,), kind=KIND)
    assert closeness(Finding(TEXTS, TEXTS.astype(np.int32)), truth).labels is None
