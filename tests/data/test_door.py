"""The door: whatever is handed over, by file, function or array, is checked once and told what was expected."""

import dataclasses
import sys
import types
import warnings

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ParameterError, UnknownNameError
from fedpriv.data import load, make_partition
from fedpriv.data.check import make_dataset
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.features import Features
from fedpriv.data.kinds.image import Image
from fedpriv.data.kinds.tokens import Tokens

RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 6, 6, 3)).astype(np.float32), np.arange(12, dtype=np.int32) % 3


def from_npz(tmp_path, x, y, **more):
    np.savez(tmp_path / "own.npz", x=x, y=y, **more)
    return load(tmp_path / "own.npz")


def from_function(tmp_path, x, y, **more):
    module = types.ModuleType("fedpriv_test_data")
    module.make = lambda: Dataset("own", np.asarray(x), np.asarray(y), more.pop("num_classes", 3), **more)
    sys.modules["fedpriv_test_data"] = module
    return load("fedpriv_test_data:make")


WAYS = [from_npz, from_function]


def with_value(value):
    x = X.copy()
    x[7, 0, 0, 0] = value
    return x


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("x", "y", "more", "says"),
    [
        (RNG.random((12, 3, 8, 8)).astype(np.float32), Y, {}, r"channels first.*np\.moveaxis"),
        (with_value(np.nan), Y, {}, r"1 pixels are NaN or infinite \(the first in example 7\)"),
        (with_value(1.05), Y, {}, r"span \[.*, 1.05\]; expected \[0, 1\]; clip them"),
        (X * 255, Y, {}, "divide by 255"),
        (X - 3, Y, {}, "rescale them"),
        (X, Y, {"keys": np.arange(3)}, r"3 client keys|keys have shape \(3,\)"),
        (X, Y, {"num_classes": 2}, r"label 2.*(num_classes=3|expected 0 to 1)"),
        (X, Y - 1, {}, "label -1"),
        (X, Y, {"class_names": ("a", "b")}, "2 class names|out of range"),
    ],
)
def test_what_cannot_be_is_refused_by_every_way_in(tmp_path, way, x, y, more, says):
    with pytest.raises(DataError, match=says):
        way(tmp_path, x, y, **more)


@pytest.mark.parametrize("way", WAYS)
def test_rounding_beyond_the_range_is_clipped(tmp_path, way):
    train, _ = way(tmp_path, with_value(1.0000001), Y)
    assert train.x.max() == 1.0
    assert way(tmp_path, with_value(-1e-6), Y)[0].x.min() >= 0


def test_a_function_that_fails_is_told_in_one_line():
    module = types.ModuleType("fedpriv_test_data")
    module.make = lambda: {}["pixels"]
    sys.modules["fedpriv_test_data"] = module
    with pytest.raises(DataError, match="'fedpriv_test_data:make' failed to load: KeyError: 'pixels'"):
        load("fedpriv_test_data:make")


def test_channels_first_may_be_meant(tmp_path):
    x = RNG.random((4, 3, 8, 8)).astype(np.float32)
    assert make_dataset("own", x, Y[:4], file="here", kind="image").input_shape == (3, 8, 8)
    assert from_npz(tmp_path, x, Y[:4], kind="features")[0].input_shape == (3, 8, 8)
    own = from_function(tmp_path, x, Y[:4], kind=Features(shape=(3, 8, 8)))
    assert own[0].input_shape == (3, 8, 8)
    assert make_dataset("own", np.moveaxis(x, 1, -1), Y[:4], file="here").kind == Image(shape=(8, 8, 3))


def test_features_may_have_any_range_if_asked_for():
    x = RNG.normal(size=(12, 5)) * 40
    with pytest.raises(DataError, match="kind='features'"):
        make_dataset("own", x, Y, file="here")
    made = make_dataset("own", x, Y, file="here", kind="features")
    assert made.kind == Features(shape=(5,), low=x.min(), high=x.max())


def test_an_archive_may_say_what_its_examples_are(tmp_path):
    x, y = RNG.integers(0, 9, (12, 4)), RNG.normal(size=12)
    np.savez(tmp_path / "t.npz", x=x, y=Y, kind="tokens(length=4,vocabulary=9)")
    assert load(tmp_path / "t.npz")[0].kind == Tokens(length=4, vocabulary=9)
    np.savez(tmp_path / "t.npz", x=x, y=Y, kind="tokens(length=4,vocabulary=3)")
    with pytest.raises(DataError, match="expected 0 to 2"):
        load(tmp_path / "t.npz")
    np.savez(tmp_path / "f.npz", x=x[:8], y=y[:8], x_test=x[8:] + 3, y_test=y[8:], kind="features", num_classes=0)
    train, test = load(tmp_path / "f.npz")
    assert train.kind == test.kind == Features(shape=(4,), low=x.min(), high=max(x[:8].max(), x[8:].max() + 3))
    assert train.num_classes == 0
    np.savez(tmp_path / "u.npz", x=x, y=Y, kind="tokns")
    with pytest.raises(UnknownNameError, match="Did you mean 'tokens'"):
        load(tmp_path / "u.npz")


def test_quantities_are_told_from_classes():
    made = make_dataset("own", X, Y / 7, file="here", num_classes=0)
    assert made.y.dtype == np.float32
    np.testing.assert_allclose(made.targets(np.array([5])), [Y[5] / 7])
    with pytest.raises(ParameterError, match="targets of 'own' are quantities"):
        make_partition("dirichlet", made, 3)
    assert len(make_partition("shards", made, 3)) == 3
    with pytest.raises(DataError, match="num_classes=0 for quantities"):
        make_dataset("own", X, Y / 7, file="here")
    with pytest.raises(DataError, match="NaN"):
        make_dataset("own", X, np.full(12, np.nan), file="here", num_classes=0)


def test_test_examples_that_were_trained_on_are_counted(tmp_path):
    with pytest.warns(UserWarning, match="2 of 4 test examples are in the training set too"):
        from_npz(tmp_path, X[:10], Y[:10], x_test=X[8:], y_test=Y[8:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_npz(tmp_path, X[:8], Y[:8], x_test=X[8:], y_test=Y[8:])


BASE = Dataset("own", X, Y, 3, ("a", "b", "c"), np.arange(12) % 4)


@pytest.mark.parametrize(
    "change",
    [
        {"x": with_value(0.5)},
        {"x": (X * 255).astype(np.uint8)},
        {"y": Y[::-1].copy()},
        {"num_classes": 4, "class_names": ("a", "b", "c", "d")},
        {"class_names": ("a", "c", "b")},
        {"class_names": ()},
        {"keys": np.arange(12) % 3},
        {"keys": None},
        {"keys": np.array([str(k) for k in range(12)])},
        {"x": X.reshape(12, -1), "kind": None},
        {"x": X, "kind": Features(shape=(6, 6, 3))},
        {"x": X, "kind": Features(shape=(6, 6, 3), high=2)},
    ],
    ids=lambda c: ",".join(c),
)
def test_the_fingerprint_covers_all_that_results_depend_on(change):
    assert dataclasses.replace(BASE, **change).fingerprint != BASE.fingerprint


def test_the_fingerprint_is_of_contents_alone():
    same = dataclasses.replace(BASE, name="other", source="elsewhere", y=Y.astype(np.int64), keys=list(BASE.keys))
    assert same.fingerprint == BASE.fingerprint


def test_who_owned_what_tells_datasets_apart_after_taking_some_too():
    some = np.arange(6)
    assert BASE.take(some).fingerprint != dataclasses.replace(BASE, keys=np.arange(12)[::-1] % 4).take(some).fingerprint
