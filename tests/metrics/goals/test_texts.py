"""Reconstruction of texts: the columns, the words and the labels follow from the kind, and nothing speaks of images."""

import json
import re

import numpy as np
import pytest

from fedpriv.base.atomic import to_json
from fedpriv.base.errors import ParameterError
from fedpriv.data.kind import Measured
from fedpriv.data.kinds.features import Features
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.metrics.goals.labels import Labels
from fedpriv.metrics.goals.reconstruction import Reconstruction
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth

KIND = Tokens(length=5, vocabulary=20, padding=0)
X = np.array([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0], [11, 12, 13, 14, 0], [15, 16, 17, 18, 19]], np.float32)


@pytest.fixture(scope="module")
def goal():
    return Reconstruction().about(KIND.measured)


def truth(y=None, each=False):
    y = (np.roll(X, -1, 1) if each else np.arange(4)) if y is None else y
    return Truth(X, np.asarray(y, np.int64), (0,), kind=KIND, num_classes=20 if each else 4)


def found():
    x = X[::-1].copy()
    x[0, 1] = 3  # of [15, 16, ...]
    return x


def test_columns_and_words_are_those_of_texts(goal):
    scores = [goal.score(Finding(x=found(), y=np.arange(4)[::-1]), truth()) for _ in range(2)]
    row = goal.summarize(scores)
    assert row["images"] == 8
    assert row["success_rate"] == 3 / 4
    assert row["token_accuracy_mean"] == pytest.approx(1 - 1 / 20)
    low, high = row["rouge_l_interval"]
    assert row["rouge_l_mean"] == pytest.approx((3 + 4 / 5) / 4)
    assert low <= row["rouge_l_mean"] <= high
    assert row["label_accuracy"] == 1.0
    assert goal.unit == "text"
    assert goal.column(goal.shade).label == "ROUGE-L"
    names = [c.name for c in goal.columns()]
    assert len(set(names)) == len(names)
    for wanted in (goal.headline, goal.shade, *goal.curves):
        assert wanted in row
    assert goal.verdict(row).startswith("gets through (6 of 8 texts, 95% interval ")
    assert "mean ROUGE-L 0.950" in goal.verdict(row)
    said = " ".join([goal.verdict(row), goal.describe(scores), *goal.rules, goal.table_note, goal.noted, *names, *row])
    said += " ".join([*goal.details(scores), *scores[0].rows()[0]])
    assert not re.findall(r"psnr|ssim|dB|\bmse\b|image\b", said, re.IGNORECASE)
    assert "6 of 8 texts reconstructed (75%" in goal.describe(scores)
    assert scores[0].rows()[2]["text"] == 2


def test_it_is_the_same_question_kept_under_the_same_key(goal):
    assert goal.identity() == Reconstruction().identity()
    assert goal.config() == Reconstruction().config()
    assert goal.name == "reconstruction"
    images = Reconstruction()
    assert images.about(Features(shape=(3,)).measured) is images
    assert Labels().about(KIND.measured).unit == "image"
    again = Measured.load(json.loads(to_json(KIND.measured.dump())))
    assert again == KIND.measured


def test_scores_come_back_from_json(goal):
    score = goal.score(Finding(x=found()), truth())
    again = goal.load(json.loads(to_json(goal.dump(score))))
    assert goal.summarize([again]) == goal.summarize([score])
    assert [u.values for u in goal.units(again)] == [u.values for u in goal.units(score)]
    assert goal.units(score)[3].values == {"rouge_l": 0.8, "success": 0.0}


def test_targets_that_are_sequences_are_no_labels(goal):
    asked = truth(each=True)
    score = goal.score(Finding(x=found(), y=asked.y), asked)
    assert score.label_accuracy is None
    assert [i.label for i in score.images] == [None] * 4
    assert "label_accuracy" not in goal.summarize([score])
    for one in (Reconstruction(), Labels()):
        with pytest.raises(ParameterError, match=r"targets of shape \[5\] are no labels.*claim the texts"):
            one.score(Finding(y=asked.y), asked)


def test_images_and_texts_are_not_summarized_together(goal):
    image = Truth(np.full((1, 2, 2, 1), 0.5, np.float32), np.array([0]), (0,))
    scores = [goal.score(Finding(x=image.x), image), goal.score(Finding(x=found()), truth())]
    with pytest.raises(ParameterError, match="summarized together"):
        goal.summarize(scores)
