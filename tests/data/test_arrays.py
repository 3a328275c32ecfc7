"""Arrays in memory become datasets, however they are laid out; what is missing is refused by name."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from fedpriv import from_arrays
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data.arrays import MISSING_INT32
from fedpriv.data.table import from_frame

RNG = np.random.default_rng(3)
IMAGES = RNG.random((20, 5, 4))
NAMES = ["b", "a", "c", "a"] * 5


def test_columns_first_in_memory_is_the_same_data():
    rows, columns = (from_arrays(a, NAMES)[0] for a in (IMAGES, np.asfortranarray(IMAGES)))
    assert rows.fingerprint == columns.fingerprint
    assert columns.x.flags.c_contiguous
    assert columns.input_shape == (5, 4, 1)


def test_every_example_keeps_its_label():
    train, test = from_arrays(np.arange(20)[:, None] / 20.0, NAMES, test_fraction=0.3)
    assert (len(train), len(test)) == (14, 6)
    for data in (train, test):
        for x, y in zip(data.floats()[:, 0], data.y):
            assert data.class_names[y] == NAMES[round(float(x) * 20)]


def test_levels_keep_their_order_and_those_that_never_occur():
    assert from_arrays(IMAGES, NAMES)[0].class_names == ("a", "b", "c")
    made, _ = from_arrays(IMAGES, NAMES, class_names=["c", "b", "a", "d"], test_fraction=0)
    assert (made.class_names, made.num_classes) == (("c", "b", "a", "d"), 4)
    assert from_arrays(IMAGES, [0.0, 1.0] * 10)[0].num_classes == 2  # R's numbers are doubles
    assert from_arrays(IMAGES, RNG.random(20), num_classes=0.0)[0].y.dtype == np.float32
    assert from_arrays(IMAGES, [True, False] * 10)[0].num_classes == 2


def test_whole_numbers_are_levels_unless_they_are_zeros_and_ones():
    levels = np.repeat(np.array([0, 51, 255, 102], np.int32), 10).reshape(10, 2, 2, 1)
    made, _ = from_arrays(levels, [0, 1] * 5, test_fraction=0)
    assert made.x.dtype == np.uint8
    assert made.floats().max() == 1
    binary, _ = from_arrays((levels > 100).astype(np.int32), [0, 1] * 5, test_fraction=0)
    assert sorted(set(binary.floats().ravel())) == [0, 1]


def holed(values, at, hole):
    values = np.array(values, object if isinstance(values, list) else None)
    values[at] = hole
    return values


@pytest.mark.parametrize(
    ("x", "y", "options", "says"),
    [
        (IMAGES, holed(np.zeros(20, np.int32), 4, MISSING_INT32), {}, r"y has 1 missing values \(the first in row 5\)"),
        (holed(np.ones((20, 3), np.int32), (2, 1), MISSING_INT32), NAMES, {}, r"x has 1 missing .* row 3\)"),
        (holed(IMAGES, (7, 0, 0), np.nan), NAMES, {}, r"NaN or infinite \(the first in example 7\)"),
        (IMAGES, holed(np.zeros(20), 4, np.nan), {}, "labels have dtype float64"),
        (IMAGES, holed(np.zeros(20), 4, np.nan), {"num_classes": 0}, "targets are NaN"),
        (IMAGES, holed(NAMES, 2, "NA"), {}, r"y has 1 missing values \(the first in row 3\)"),
        (IMAGES, [None, *NAMES[1:]], {}, r"y has 1 missing values \(the first in row 1\)"),
        (IMAGES, NAMES, {"class_names": ["a", "b"]}, "y is 'c' in row 3, which is no class"),
        (IMAGES, NAMES, {"num_classes": 0}, "y holds names, but num_classes=0"),
        (IMAGES, RNG.random(20), {}, "numbers that are not whole; with num_classes=0"),
        (IMAGES.astype(str), NAMES, {}, "x has dtype <U.*expected numbers"),
        (IMAGES, NAMES[1:], {}, "20 images but 19 labels"),
        (IMAGES[:, 0, 0], NAMES, {}, "have shape"),
    ],
)
def test_what_does_not_fit_is_refused(x, y, options, says):
    with pytest.raises(DataError, match=says):
        from_arrays(x, y, **options)


def test_a_class_may_be_called_na_if_it_is_listed():
    made, _ = from_arrays(IMAGES, holed(NAMES, 2, "NA"), class_names=["a", "b", "c", "NA"], test_fraction=0)
    assert 3 in made.y


def test_a_share_is_a_share():
    with pytest.raises(ParameterError, match="test_fraction=1"):
        from_arrays(IMAGES, NAMES, test_fraction=1)


def test_factors_of_a_frame_keep_their_levels():
    rows = pandas.DataFrame(
        {
            "dose": pandas.Categorical(["low", "high", "low", "mid"], categories=["low", "mid", "high"]),
            "out": pandas.Categorical(["no", "yes", "no", "no"], categories=["yes", "no", "perhaps"]),
        }
    )
    train, _ = from_frame(rows, "doses", test_fraction=0)
    assert train.kind.fields[0].values == ("low", "mid", "high")
    assert train.class_names == ("yes", "no", "perhaps")
    assert sorted(train.kind.decode(train.x, train.y)["dose"]) == ["high", "low", "low", "mid"]
    with pytest.raises(DataError, match="column 'dose' has 1 missing values"):
        from_frame(rows.where(rows["dose"] != "mid"), "doses")


def test_a_missing_whole_number_of_a_frame_is_seen():
    rows = pandas.DataFrame({"n": np.array([1, MISSING_INT32, 3], np.int32), "out": ["u", "v", "u"]})
    with pytest.raises(DataError, match=r"column 'n' has 1 missing values \(the first in row 2\)"):
        from_frame(rows, "t")
