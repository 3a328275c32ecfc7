import numpy as np
import pydantic
import pytest
from fedpriv_defenses.clip import Clip
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf, tfp
from fedpriv.defense.domain import Real

vectors = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))


def clipped(vector, norm):
    out = Clip(norm=norm).update(tf.constant(vector), None)
    return out.value, out.log


@given(vectors, st.floats(1e-3, 1e3))
def test_norm_never_exceeds_the_bound_and_short_updates_pass(vector, norm):
    out, metrics = clipped(vector, norm)
    before, after = np.linalg.norm(vector.astype(np.float64)), np.linalg.norm(out.numpy().astype(np.float64))
    assert after <= norm * (1 + 1e-6)
    if before <= norm * (1 - 1e-6):
        np.testing.assert_allclose(out, vector, rtol=0, atol=1e-37)  # subnormal floats may be flushed to zero
        assert float(metrics["clipped"]) == 0
    if before > norm * (1 + 1e-6):
        assert after == pytest.approx(norm, rel=1e-6)
        assert float(metrics["clipped"]) == 1
    assert float(metrics["norm"]) == pytest.approx(before, rel=1e-5, abs=1e-18)


def test_direction_is_kept_so_a_clip_alone_hides_nothing():
    vector = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    out, _ = clipped(vector, 0.01)
    cosine = out.numpy() @ vector / np.linalg.norm(out) / np.linalg.norm(vector)
    assert cosine == pytest.approx(1, abs=1e-6)


def test_same_as_tf_privacy():
    query = tfp.GaussianSumQuery(1.5, 0.0)
    for scale in (0.01, 1.0, 100.0):
        vector = (scale * np.random.default_rng(1).normal(size=500)).astype(np.float32)
        (theirs,) = query.preprocess_record(1.5, [tf.constant(vector)])
        np.testing.assert_allclose(clipped(vector, 1.5)[0], theirs, rtol=2e-6)


def test_derivatives_are_finite_even_at_zero():
    x = tf.zeros([5])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            out = tf.reduce_sum(Clip(norm=1.0).update(x, None).value ** 2)
        first = inner.gradient(out, x)
    second = outer.jacobian(first, x)
    assert np.isfinite(first).all()
    np.testing.assert_allclose(second, 2 * np.eye(5))


def test_a_bad_norm_is_refused_by_name():
    with pytest.raises(pydantic.ValidationError, match="norm"):
        Clip(norm=0)
    with pytest.raises(ParameterError, match="norm='-1'"):
        registry.build(Clip, {"norm": "-1"}, "defense 'clip'")


def test_non_finite_updates_stay_visible():
    for bad in (np.nan, np.inf, 1e30):  # the last is finite, its square is not
        out, _ = clipped(np.array([1.0, bad], np.float32), 1.0)
        assert not np.isfinite(out).all()


def test_a_norm_whose_square_vanishes_is_refused():
    long = np.full(4, 1e-17, np.float32)
    assert np.linalg.norm(clipped(100 * long, 1e-15)[0]) == pytest.approx(1e-15, rel=1e-5)
    with pytest.raises(ParameterError, match="norm='1e-20'"):
        registry.build(Clip, {"norm": "1e-20"}, "defense 'clip'")


def test_claims_nothing(make_plan):
    assert Clip(norm=1.0).claims(make_plan(), Real(1.0)) == []
    assert Clip(norm=1.0).maps(Real(), None) == Real(1.0)
    assert Clip(norm=1.0).maps(Real(0.5), None) == Real(0.5)
