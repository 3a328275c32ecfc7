"""Duplicates of a label in a batch: as many as were asked for, each example once, and errors that say what to give."""

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.data.dataset import Dataset
from fedpriv.experiment.assembly import make_stage, with_same_label
from fedpriv.experiment.setting import Exposed, Setting


def toy(labels, classes=10):
    x = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return Dataset("toy", x, np.array(labels, np.int32), classes, (), None, "made up")


@pytest.mark.parametrize("count", [0, 2, 3, 4])
def test_as_many_share_a_label_as_were_asked_for(count):
    data = toy(np.random.default_rng(0).integers(0, 10, 400))
    order = with_same_label(data, 4, 12, count)
    assert sorted(order) == list(range(400))
    for labels in data.y[order[:48]].reshape(12, 4):
        counts = np.sort(np.unique(labels, return_counts=True)[1])[::-1]
        assert list(counts) == [*([count] if count else []), *[1] * (4 - count)]


def test_what_is_not_attacked_keeps_its_order():
    data = toy([0, 0, 1, 2, 0, 1, 2, 2])
    order = with_same_label(data, 2, 1, 2)
    np.testing.assert_array_equal(order, [0, 1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(with_same_label(data, 2, 1, 0), [0, 2, 1, 3, 4, 5, 6, 7])


def test_a_stage_attacks_such_batches_and_another_seed_other_ones():
    setting = Setting(attack="dlg", model="logistic", exposure=Exposed(images=8, batch=4, same_label=3))
    seen = []
    for seed in (0, 1):
        for observation in make_stage(setting, seed).exposure:
            assert max(np.bincount(observation.truth.y)) == 3
            seen.append(observation.truth.x.tobytes())
    assert len(set(seen)) == 4


def test_the_identity_is_that_of_before_where_labels_come_as_they_come():
    assert "same_label" not in Exposed().identity()
    assert Exposed(batch=4, images=4, same_label=0).identity()["same_label"] == 0


@pytest.mark.parametrize(("batch", "count"), [(4, 1), (4, 5), (1, 2)])
def test_impossible_counts_are_refused(batch, count):
    with pytest.raises(ValueError, match=f"same_label={count} of batch={batch}"):
        Exposed(images=batch, batch=batch, same_label=count)


def test_data_that_cannot_give_such_batches_are_refused():
    with pytest.raises(ParameterError, match="takes 4 labels a batch, but 'toy' has 2"):
        with_same_label(toy([0, 1] * 10), 4, 1, 0)
    with pytest.raises(ParameterError, match="too few examples"):
        with_same_label(toy([0, 1, 2, 3] * 3), 4, 4, 4)
    with pytest.raises(ParameterError, match="are no classes"):
        with_same_label(toy([0.5, 0.1], classes=0), 2, 1, 0)
