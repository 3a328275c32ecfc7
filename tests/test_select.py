"""Select: exactly the largest, for many and for few, with ties and zeros, and where a sample of them misleads."""

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.base.select import _FEW, _STRIDE, kth_largest, mask_of_largest


def values(n, kind):
    rng = np.random.default_rng(n)
    found = np.abs(rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)).astype(np.float32)
    if kind == "ties":
        found[rng.random(n) < 0.6] = 0.25
        found[rng.random(n) < 0.1] = 0
    if kind == "misleading":
        found[::_STRIDE] = np.inf
    return found


@pytest.mark.parametrize("kind", ["spread", "ties", "misleading"])
@pytest.mark.parametrize("n", [50, _FEW + 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_are_those_of_a_sort(n, kind, dtype):
    x = values(n, kind).astype(dtype)
    order = np.argsort(-x, kind="stable")
    for k in (1, n // 10, n // 2, n - 1, n):
        assert kth_largest(tf.constant(x), k).numpy() == x[order[k - 1]]
        mask = mask_of_largest(tf.constant(x), k).numpy()
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(order[:k]))


def test_it_is_traced():
    x = values(_FEW + 1, "spread")
    traced = tf.function(lambda v: kth_largest(v, 100), autograph=False)
    assert traced(tf.constant(x)).numpy() == np.sort(x)[-100]
    x = values(_FEW + 1, "ties") * np.float32(-0.0)
    x[::3] = 1
    assert traced(tf.constant(x)).numpy() == 1
    assert tf.function(lambda v: kth_largest(v, _FEW), autograph=False)(tf.constant(x)).numpy() == 0
