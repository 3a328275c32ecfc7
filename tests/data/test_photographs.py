"""Colour patches of scikit-image's photographs: balanced, always the same, and no pixel in both sets."""

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data import load
from fedpriv.data.photographs import LEAST_CONTRAST, _patches, photographs


def test_patches_are_balanced_coloured_and_show_something():
    train, test = photographs()
    assert train.x.shape == (3500, 32, 32, 3)
    assert test.x.shape == (1050, 32, 32, 3)
    for data, each in ((train, 500), (test, 150)):
        np.testing.assert_array_equal(np.bincount(data.y), [each] * 7)
        np.testing.assert_array_equal(data.y[:14], list(range(7)) * 2)
        assert np.std(data.x.mean(axis=-1), axis=(1, 2)).min() / 255 >= LEAST_CONTRAST
    assert np.abs(train.x[..., 0].astype(int) - train.x[..., 2]).mean() > 10
    assert len(np.unique(train.x.reshape(3500, -1), axis=0)) > 3490


def test_no_row_of_a_photograph_is_in_both_sets():
    rows = np.broadcast_to(np.arange(500, dtype=np.int32)[:, None, None], (500, 40, 3))
    noisy = rows + np.arange(40)[None, :, None] * 500  # contrast, and the row is still told by a value modulo 500
    sets = [set(np.unique(_patches(noisy, test) % 500)) for test in (False, True)]
    assert sets[0]
    assert sets[1]
    assert not sets[0] & sets[1]


def test_it_is_loaded_by_name_and_in_part():
    train, test = load("photographs(train_per_class=10,test_per_class=3)")
    assert (len(train), len(test)) == (70, 21)
    np.testing.assert_array_equal(train.x[:7], photographs()[0].x[:7])


def test_a_photograph_that_is_missing_is_named(monkeypatch, tmp_path):
    from fedpriv.data import photographs as module

    monkeypatch.setitem(module.FILES, "cat", "no_such_cat.png")
    with pytest.raises(DataError, match=r"no_such_cat\.png cannot be read"):
        photographs()


def test_more_than_there_are_is_refused():
    with pytest.raises(ParameterError, match="train_per_class"):
        load("photographs(train_per_class=501)")
