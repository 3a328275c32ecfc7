"""Coordinates: bijections that favour low frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.parts.coordinates import Pixels, Smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedpriv.base.lazy import tf


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17), st.integers(1, 3), st.floats(0.5, 100))
def test_smooth_round_trip_of_any_image(n, height, width, channels, cutoff):
    x = np.random.default_rng(0).normal(size=(n, height, width, channels))
    c = Smooth(cutoff=cutoff)
    np.testing.assert_allclose(c.decode(c.start(tf.constant(x), None), x.shape), x, atol=1e-9)


def test_a_very_high_cutoff_is_a_rotation_and_a_low_one_shrinks_high_frequencies():
    v = np.random.default_rng(0).normal(size=(1, 16, 16, 1))
    assert np.linalg.norm(Smooth(cutoff=1e9).decode(tf.constant(v), v.shape)) == pytest.approx(np.linalg.norm(v))
    low, high = np.zeros((2, 1, 16, 16, 1))
    low[0, 0, 0, 0] = high[0, 15, 15, 0] = 1.0
    decoded = [np.linalg.norm(Smooth(cutoff=2.0).decode(tf.constant(u), u.shape)) for u in (low, high)]
    assert decoded[0] == pytest.approx(1.0)
    assert decoded[1] == pytest.approx(1 / (1 + 7.5**2))


@pytest.mark.parametrize("coordinates", [Pixels(), Smooth()])
def test_feature_vectors_stay_as_they_are(coordinates):
    x = tf.constant([[1.0, 2.0, 3.0]])
    v = coordinates.start(x, None)
    np.testing.assert_array_equal(v, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(coordinates.decode(v, (1, 3)), x)
    assert coordinates.size((1, 3)) == 3


def test_a_cutoff_must_be_positive():
    with pytest.raises(ValidationError, match="cutoff"):
        Smooth(cutoff=0.0)
