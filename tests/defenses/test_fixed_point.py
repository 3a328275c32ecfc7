import numpy as np
import pytest
from fedpriv_defenses.fixed_point import FixedPoint, finest_power_of_two
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.lazy import tf


def as_unsigned(encoded):
    return encoded.numpy().view(np.uint64)


def test_known_encodings():
    codec = FixedPoint(bits=8, limit=1.0, step=1 / 64, weight_step=0.25)
    encoded, ok = codec.encode(tf.constant([0.0, 1 / 64, -1 / 64, 1.0, -1.0, 1.0]))
    assert bool(ok)
    np.testing.assert_array_equal(as_unsigned(encoded), [0, 1, 255, 64, 192, 4])
    np.testing.assert_array_equal(codec.decode(encoded), [0, 1 / 64, -1 / 64, 1, -1, 1])


def test_ties_go_to_even_and_errors_stay_within_half_a_step():
    codec = FixedPoint(bits=16, limit=4.0, step=0.5, weight_step=1.0)
    encoded, _ = codec.encode(tf.constant([0.25, 0.75, -0.25, -0.75, 1.0]))
    np.testing.assert_array_equal(codec.decode(encoded), [0, 1, 0, -1, 1])
    values = tf.random.stateless_uniform([10_000], [1, 2], -4, 4)
    decoded = codec.decode(codec.encode(tf.concat([values, [1.0]], 0))[0])
    assert np.abs(decoded[:-1] - values.numpy()).max() <= 0.25


@pytest.mark.parametrize("bad", [1.0001, -1.0001, np.inf, -np.inf, np.nan])
def test_what_does_not_fit_is_seen(bad):
    codec = FixedPoint(bits=32, limit=1.0, step=2**-20, weight_step=1.0)
    encoded, ok = codec.encode(tf.constant([0.5, bad, 1.0], tf.float32))
    assert not bool(ok)
    assert as_unsigned(encoded)[1] == 0
    assert bool(codec.encode(tf.constant([0.5, -1.0, 1.0]))[1])


@pytest.mark.parametrize("weight", [-0.1, 1.1, np.nan])
def test_a_weight_outside_0_to_1_is_seen(weight):
    codec = FixedPoint(bits=32, limit=4.0, step=2**-20, weight_step=1.0)
    assert not bool(codec.encode(tf.constant([0.5, weight], tf.float32))[1])


@given(st.floats(1e-30, 1e30), st.integers(1, 2**63 - 1))
def test_finest_power_of_two_is_the_finest(limit, largest):
    step = finest_power_of_two(limit, largest)
    assert np.log2(step) == int(np.log2(step))
    from fractions import Fraction

    assert Fraction(limit) / Fraction(step) <= largest < 2 * Fraction(limit) / Fraction(step)


def test_all_64_bits_are_used_without_wrapping():
    codec = FixedPoint(bits=64, limit=1.0, step=finest_power_of_two(1.0, 2**63 - 1), weight_step=1.0)
    encoded, ok = codec.encode(tf.constant([1.0, -1.0, 1.0]))
    assert bool(ok)
    np.testing.assert_array_equal(encoded, [2**62, -(2**62), 1])
    np.testing.assert_array_equal(codec.decode(encoded), [1, -1, 1])
