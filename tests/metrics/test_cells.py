"""Cells: which are right, by column, and which the attack was surest of."""

import json

import numpy as np
import pytest

from fedpriv.data.kinds.columns import TOLERANCE, Categorical, Columns, Numeric
from fedpriv.data.kinds.features import Features
from fedpriv.metrics.cells import Cells, by_column, cells, joined
from fedpriv.metrics.score import score
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth

KIND = Columns(
    fields=(
        Numeric(name="age", mean=40, spread=10, low=0, high=90),
        Categorical(name="city", values=("Graz", "Linz", "Wien")),
    )
)
ROWS = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [2, 0, 0, 1]], np.float32)
TRUTH = Truth(x=ROWS, y=np.zeros(3, np.int32), kind=KIND, clients=(0,))


def test_a_cell_is_right_up_to_the_tolerance():
    found = ROWS.copy()
    found[0, 0] += TOLERANCE - 1e-3
    found[1, 0] += TOLERANCE + 1e-3
    found[2] = np.nan
    np.testing.assert_array_equal(KIND.right(ROWS, found), [[True, True], [False, True], [False, False]])
    assert KIND.cell_texts(found) == [["43.18", "Graz"], ["53.2", "Linz"], ["", ""]]


def test_cells_follow_the_matching():
    found = ROWS[[2, 0, 1]].copy()
    found[1, 1:] = [0, 1, 0]  # the first row's city is wrong
    unsure = np.array([[0.1, 0.2], [0.3, 0.9], [0.0, 0.5]])
    finding = Finding(x=found, y=np.zeros(3, np.int32), extra={"uncertainty": unsure})
    made = cells(finding, score(finding, TRUTH), TRUTH, keep=2)
    assert made.columns == ("age", "city")
    np.testing.assert_array_equal(made.right, [[True, False], [True, True], [True, True]])
    np.testing.assert_array_equal(made.uncertainty, unsure[[1, 2, 0]])
    assert made.original == (("40", "Graz"), ("50", "Linz"))
    assert made.found[0] == ("40", "Linz")
    again = Cells.load(json.loads(json.dumps(made.dump())))
    np.testing.assert_array_equal(again.right, made.right)
    np.testing.assert_array_equal(again.uncertainty, made.uncertainty)
    assert (again.original, again.found) == (made.original, made.found)


def test_what_is_missing_is_wrong_and_fully_uncertain():
    finding = Finding(x=ROWS[:2], y=np.zeros(2, np.int32), extra={"uncertainty": np.zeros((2, 2))})
    made = cells(finding, score(finding, TRUTH), TRUTH, keep=3)
    assert made.right.tolist() == [[True, True], [True, True], [False, False]]
    assert made.uncertainty.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert made.found[2] == ("", "")


def test_there_are_none_of_other_kinds_nor_of_labels():
    kind = Features(shape=(2,), low=0, high=1)
    truth = Truth(x=np.zeros((1, 2), np.float32), y=np.zeros(1, np.int32), kind=kind, clients=(0,))
    finding = Finding(x=truth.x, y=truth.y)
    assert cells(finding, score(finding, truth), truth, 1) is None
    finding = Finding(y=TRUTH.y)
    assert cells(finding, score(finding, TRUTH), TRUTH, 1) is None


def test_shares_by_column_with_the_surest_quarter():
    right = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    unsure = np.array([[0.0, 0.9], [0.5, 0.8], [0.6, 0.3], [0.7, 0.4]])
    age, city, whole = by_column([Cells(("age", "city"), right, unsure)])
    assert (age["right"], age["cells"], age["accuracy"]) == (2, 4, 0.5)
    assert (age["surest"], age["surest_right"], city["surest_right"]) == (1, 1, 1)
    assert city["uncertainty"] == pytest.approx(0.6)
    assert (whole["column"], whole["right"], whole["surest_accuracy"]) == ("all columns", 4, 1.0)
    low, high = whole["accuracy_interval"]
    assert 0 < low < 0.5 < high < 1
    plain = by_column([Cells(("age", "city"), right, None), Cells(("age", "city"), right, None)])
    assert plain[0]["cells"] == 8
    assert "surest" not in plain[0]


def test_trials_are_joined():
    one, two = (Cells(("a",), np.array([[ok]]), np.array([[0.1]]), (("x",),), (("y",),)) for ok in (True, False))
    assert joined([one, two]).right.tolist() == [[True], [False]]
    assert joined([one, two]).original == (("x",), ("x",))
    assert joined([one, Cells(("a",), np.array([[True]]), None)]).uncertainty is None
