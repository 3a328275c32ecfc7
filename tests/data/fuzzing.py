"""What the fuzzed doors share: edits of bytes and arrays, and what must hold of whatever comes out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpriv.base.errors import FedprivError
from fedpriv.data.dataset import Dataset


def told(error: FedprivError) -> None:
    """A message is one line that says something."""
    text = str(error)
    assert text.strip(), repr(error)
    assert len(text.splitlines()) == 1, text
    assert len(text) < 2000, text


def loads_or_tells(door: Callable[[], Any]) -> Any:
    """What comes through a door, or None where it was refused in one line; any other error is a failure."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            made = door()
        except FedprivError as e:
            told(e)
            return None
    strange = [w for w in said if issubclass(w.category, RuntimeWarning)]
    assert not strange, strange[0].message
    return made


def valid(train: Dataset, test: Dataset | None) -> None:
    """All that the rest of fedpriv relies on."""
    for dataset in filter(None, (train, test)):
        kind, x, y = dataset.kind, dataset.x, dataset.y
        assert len(x) == len(y) > 0
        assert x.flags.c_contiguous
        assert x.shape[1:] == tuple(kind.shape)
        assert x.dtype in (np.uint8, np.float32) if kind.dtype == "float32" else x.dtype == np.int32
        np.testing.assert_array_equal(kind.checked(x, "here"), x)
        floats = dataset.floats()
        assert floats.dtype == np.float32
        assert np.isfinite(floats).all()
        unit = np.asarray(kind.to_unit(floats))
        assert np.isfinite(unit).all()
        if dataset.num_classes:
            assert isinstance(dataset.num_classes, int)
            assert y.dtype == np.int32
            assert y.shape == (len(x),) or kind.name == "tokens"
            assert 0 <= y.min() <= y.max() < dataset.num_classes
            assert not dataset.class_names or len(dataset.class_names) == dataset.num_classes
        else:
            assert y.dtype == np.float32
            assert np.isfinite(y).all()
            assert y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1)
        assert dataset.keys is None or np.shape(dataset.keys) == (len(x),)
        assert all(isinstance(name, str) for name in dataset.class_names)
        assert len(dataset.fingerprint) == 16
        dataset.take(np.arange(1))
    if test is not None:
        assert (test.kind, test.num_classes) == (train.kind, train.num_classes)
        assert test.y.shape[1:] == train.y.shape[1:]


@st.composite
def edited(draw: st.DrawFn, whole: bytes, most: int = 3) -> bytes:
    """`whole` with bits flipped, pieces cut out or doubled, its end cut off or something behind it."""
    made = bytearray(whole)
    for _ in range(draw(st.integers(0, most))):
        how = draw(st.sampled_from(["flip", "cut", "tail", "out", "twice"]))
        place = draw(st.integers(0, max(len(made) - 1, 0)))
        if how == "flip" and made:
            made[place] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del made[place:]
        elif how == "tail":
            made += draw(st.binary(max_size=8))
        elif how == "out":
            del made[place : place + draw(st.integers(1, 16))]
        else:
            made[place:place] = made[place : place + draw(st.integers(1, 16))]
    return bytes(made)


SPECIAL = [0, 1, -1, 2, 7, 255, 256, 1e-40, 0.5, 1.05, 1 + 1e-6, -1e-6, 2**31, 2**40, 1e39, 1e300]
SPECIAL += [float("nan"), float("inf"), float("-inf")]

DTYPES = ["?", "i1", "u1", "i2", ">i4", "i8", "u8", "f2", ">f4", "f8", "g", "c8", "U3", "S2", "M8[s]", "m8[s]", "O"]


def any_array() -> st.SearchStrategy[np.ndarray]:
    """Arrays of any type and of few axes, some of them empty."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
    plain = st.sampled_from(DTYPES[:-1]).flatmap(lambda d: hnp.arrays(d, shapes))
    odd = st.sampled_from(
        [
            np.array([None, "a", 3], object),
            np.zeros(4, [("a", "f4"), ("b", "i4")]),
            np.array(b"images"),
            np.array("features"),
            np.array(3),
            np.full(12, 2**63, np.uint64),
        ]
    )
    return st.one_of(plain, odd)


@st.composite
def edited_array(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """`array` in another type, shape or length, with another value, or something else in its place."""
    how = draw(st.sampled_from(["type", "value", "shorter", "reshape", "axes", "scale", "shift", "one_hot", "other"]))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "type":
            try:
                return array.astype(draw(st.sampled_from(DTYPES)))
            except (TypeError, ValueError):
                return array
        if how == "value" and array.size and array.dtype.kind in "iuf":
            made = array.astype(draw(st.sampled_from(["f4", "f8", "i8", array.dtype.str])))
            value = draw(st.sampled_from(SPECIAL))
            try:
                made[tuple(draw(st.integers(0, n - 1)) for n in made.shape)] = value
            except (ValueError, OverflowError):
                return array
            return made
        if how == "shorter" and array.ndim:
            return array[: draw(st.integers(0, len(array)))]
        if how == "reshape":
            shapes = [(-1,), (1, -1), (-1, 1), (len(array), -1) if array.ndim and len(array) else (-1,)]
            return array.reshape(draw(st.sampled_from(shapes)))
        if how == "axes" and array.ndim > 1:
            return np.moveaxis(array, draw(st.integers(0, array.ndim - 1)), draw(st.integers(0, array.ndim - 1)))
        if how in ("scale", "shift") and array.dtype.kind in "iuf":
            factor = draw(st.sampled_from(SPECIAL))
            return array * np.float64(factor) if how == "scale" else array + np.float64(factor)
        if how == "one_hot" and array.dtype.kind == "i" and array.ndim == 1:
            return np.eye(3, dtype=draw(st.sampled_from(["f4", "u1", "i8"])))[array % 3]
    return draw(any_array())


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of an `.npz`."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
