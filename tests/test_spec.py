import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.models.spec import Spec

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@settings(deadline=None, max_examples=15)
@given(SHAPES, st.sampled_from(["float32", "float64"]))
def test_flattening_and_back_is_the_identity(shapes, dtype):
    spec = Spec(tuple(f"w{i}" for i in range(len(shapes))), tuple(shapes), dtype)
    flat = np.random.default_rng(0).normal(size=spec.size).astype(dtype)
    tensors, arrays = spec.unflatten(tf.constant(flat)), spec.unflatten_numpy(flat)
    assert [tuple(t.shape) for t in tensors] == list(shapes)
    for i, (t, a) in enumerate(zip(tensors, arrays, strict=True)):
        np.testing.assert_array_equal(t, a)
        np.testing.assert_array_equal(flat[spec.slice_of(f"w{i}")], a.ravel())
    np.testing.assert_array_equal(spec.flatten(tensors), flat)
    np.testing.assert_array_equal(spec.flatten_numpy(arrays), flat)


def test_names_must_fit():
    with pytest.raises(ParameterError, match="1 names for 2 shapes"):
        Spec(("a",), ((1,), (2,)))
    with pytest.raises(ParameterError, match="repeat"):
        Spec(("a", "a"), ((1,), (2,)))
