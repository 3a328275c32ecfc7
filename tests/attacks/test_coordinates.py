"""Coordinates: bijections that favour low frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.coordinates import Pixels, Smooth
from fedpriv._lazy import tf
from fedpriv.errors import ParameterError


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17), st.integers(1, 3), st.floats(0.5, 100))
def test_smooth_round_trip_of_any_image(n, height, width, channels, cutoff):
    x = np.random.default_rng(0).normal(size=(n, height, width, channels))
    c = Smooth(cutoff)
    np.testing.assert_allclose(c.decode(c.encode(tf.constant(x))), x, atol=1e-9)


def test_a_very_high_cutoff_is_a_rotation_and_a_low_one_shrinks_high_frequencies():
    v = np.random.default_rng(0).normal(size=(1, 16, 16, 1))
    assert np.linalg.norm(Smooth(1e9).decode(tf.constant(v))) == pytest.approx(np.linalg.norm(v))
    low, high = np.zeros((2, 1, 16, 16, 1))
    low[0, 0, 0, 0] = high[0, 15, 15, 0] = 1.0
    decoded = [np.linalg.norm(Smooth(2.0).decode(tf.constant(u))) for u in (low, high)]
    assert decoded[0] == pytest.approx(1.0)
    assert decoded[1] == pytest.approx(1 / (1 + 7.5**2))


@pytest.mark.parametrize("coordinates", [Pixels(), Smooth()])
def test_feature_vectors_stay_as_they_are(coordinates):
    x = tf.constant([[1.0, 2.0, 3.0]])
    assert coordinates.decode(coordinates.encode(x)) is x


def test_a_cutoff_must_be_positive():
    with pytest.raises(ParameterError, match="cutoff"):
        Smooth(0.0)
