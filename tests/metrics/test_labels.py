"""Label metrics by class: known answers, and the cases they must refuse."""

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.labels import label_count_accuracy, label_existence_accuracy


def test_known_answers():
    # Classes 0 to 4: claimed has 0, 1, 1; there are 0, 0, 2. Class 0 exists rightly, 1 and 2 wrongly, 3 and 4 rightly.
    assert label_existence_accuracy([0, 1, 1], [0, 0, 2], 5) == pytest.approx(3 / 5)
    assert label_count_accuracy([0, 1, 1], [0, 0, 2], 5) == pytest.approx(2 / 5)


def test_order_does_not_matter_and_the_truth_is_perfect():
    assert label_existence_accuracy([3, 1, 1], [1, 3, 1], 4) == 1.0
    assert label_count_accuracy([3, 1, 1], [1, 3, 1], 4) == 1.0


def test_right_classes_in_wrong_numbers_exist_but_do_not_count():
    assert label_existence_accuracy([0, 0, 0, 1], [0, 1, 1, 1], 2) == 1.0
    assert label_count_accuracy([0, 0, 0, 1], [0, 1, 1, 1], 2) == 0.0


@pytest.mark.parametrize("claimed", [[0.5], [[0]], [5], [-1]])
def test_what_are_no_labels_is_refused(claimed):
    for metric in (label_existence_accuracy, label_count_accuracy):
        with pytest.raises(ParameterError, match="claimed labels must be integers"):
            metric(claimed, [0], 5)


def test_nothing_claimed_is_allowed():
    assert label_existence_accuracy([], [0], 4) == 0.75
