"""Priors: known values, derivatives, shapes without neighbours, shifts found, the user's own."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from fedpriv_attacks.parts.priors import L2, Box, Custom, GroupConsistency, Orthogonality, Prior, Scene, TotalVariation

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf

NOWHERE = Scene(None, None, None)


def value(prior, x):
    return float(prior(tf.constant(x), NOWHERE))


def gradient(prior, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = prior(x, NOWHERE)
    return tape.gradient(f, x).numpy()


def random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 1.5, shape)


def variation(x, power=1):
    """By the definition."""
    parts = [np.abs(np.diff(x, axis=axis)) ** power for axis in (1, 2)]
    return sum(p.mean() for p in parts if p.size)


@pytest.mark.parametrize("shape", [(1, 5, 5, 3), (2, 4, 7, 1), (3, 1, 6, 2), (1, 6, 1, 3)])
@pytest.mark.parametrize("power", [1, 2])
def test_total_variation_is_what_its_name_says(shape, power):
    x = random(*shape)
    assert value(TotalVariation(power=power, weight=2.0), x) == pytest.approx(2 * variation(x, power))


def test_total_variation_of_pictures_worked_out_by_hand():
    flat, edge = np.full((1, 4, 4, 1), 0.3), np.zeros((1, 4, 4, 1))
    edge[:, :, 2:] = 1.0  # one step of height 1 across, in a third of the differences across
    stairs = np.tile(np.arange(4) / 3, (4, 1))[None, :, :, None]  # the same height in three steps
    corner = np.zeros((1, 2, 2, 1))
    corner[0, 0, 0] = 1  # one pixel with both neighbours; both differences are 1
    for prior in (TotalVariation(), TotalVariation(power=2), TotalVariation(isotropic=True)):
        assert value(prior, flat) == pytest.approx(0, abs=1e-6)
        assert value(prior, np.full((2, 1, 1, 3), 0.3)) == 0
    assert value(TotalVariation(), edge) == pytest.approx(1 / 3) == pytest.approx(value(TotalVariation(), stairs))
    assert value(TotalVariation(power=2), edge) == pytest.approx(1 / 3)
    assert value(TotalVariation(power=2), stairs) == pytest.approx(1 / 9)
    assert value(TotalVariation(), corner) == pytest.approx(0.5 + 0.5)
    assert value(TotalVariation(isotropic=True), corner) == pytest.approx(2**0.5, abs=1e-5)
    assert value(TotalVariation(isotropic=True, power=2), corner) == pytest.approx(2)


def test_opponents_see_where_colours_change():
    grey, red = np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4, 3))
    grey[:, :, 2:] = 1.0
    red[:, :, 2:, 0] = 1.0
    plain, opponents = TotalVariation(), TotalVariation(opponents=True)
    assert value(opponents, grey) == pytest.approx(value(plain, grey) / 2)  # three of the six channels are flat
    assert value(opponents, red) == pytest.approx(value(plain, red) * 3 / 2)  # red, red-green, red-blue of six
    x = random(2, 5, 6, 3)
    six = np.concatenate([x, x[..., :1] - x[..., 1:2], x[..., :1] - x[..., 2:], x[..., 1:2] - x[..., 2:]], -1)
    for power in (1, 2):
        assert value(opponents.with_(power=power), x) == pytest.approx(variation(six, power))
    isotropic = TotalVariation(isotropic=True)
    assert value(isotropic.with_(opponents=True), x) == pytest.approx(value(isotropic, six))


def test_opponents_where_there_are_three_channels():
    auto = TotalVariation(opponents="auto")
    colour, grey = random(2, 5, 6, 3), random(2, 5, 6, 1)
    assert value(auto, colour) == value(TotalVariation(opponents=True), colour) != value(TotalVariation(), colour)
    assert value(auto, grey) == value(TotalVariation(), grey)


def test_examples_without_neighbours_or_colours_are_refused_by_name():
    with pytest.raises(ParameterError, match="'l2'"):
        value(TotalVariation(), random(2, 6))
    with pytest.raises(ParameterError, match="1 channels; set opponents to false"):
        value(TotalVariation(opponents=True), random(1, 4, 4, 1))


def test_l2_and_box():
    x = random(2, 4, 3, 2)
    assert value(L2(weight=3.0, center=0.25), x) == pytest.approx(3 * np.mean((x - 0.25) ** 2))
    outside = np.maximum(0, -x) + np.maximum(0, x - 1)
    assert value(Box(weight=3.0), x) == pytest.approx(3 * np.mean(outside**2))
    assert value(Box(), np.clip(x, 0, 1)) == 0
    assert value(Box(low=-0.5, high=1.5), x) == 0
    assert value(L2(), random(2, 6)) > 0
    with pytest.raises(ParameterError, match="not below"):
        value(Box(low=1.0, high=0.0), x)


def test_orthogonality_is_the_mean_squared_cosine_of_pairs():
    a, b = np.array([1.0, -1, 0, 0]), np.array([0, 0, 1.0, -1])
    batch = lambda *rows: np.stack(rows).reshape(-1, 2, 2, 1)  # noqa: E731
    assert value(Orthogonality(), batch(a)) == 0
    assert value(Orthogonality(), batch(a, b)) == pytest.approx(0)
    assert value(Orthogonality(), batch(a, 3 * a + 0.7)) == pytest.approx(1)
    assert value(Orthogonality(weight=2.0), batch(a, -a, b)) == pytest.approx(2 / 3)
    assert value(Orthogonality(centered=False), batch(a + 1, b + 1)) == pytest.approx((4 / 6) ** 2)
    assert np.isfinite(gradient(Orthogonality(), np.full((3, 4, 4, 1), 0.5))).all()


@pytest.mark.parametrize(
    "prior",
    [
        TotalVariation(),
        TotalVariation(power=2, opponents=True),
        TotalVariation(isotropic=True, opponents=True),
        L2(),
        Box(),
        Orthogonality(),
        GroupConsistency(),
    ],
    ids=lambda p: p.describe(),
)
def test_derivatives(prior):
    group = prior.over == "group"
    x, step = random(*([2] if group else []), 2, 3, 4, 3), 1e-6
    frozen = x.mean(0)

    def fixed(x):  # the group's mean is a target that is not differentiated
        return np.sum((x - frozen) ** 2) / frozen.size if group else value(prior, x)

    found = gradient(prior, x).reshape(-1)
    for i in range(0, x.size, 5):
        e = np.zeros(x.size)
        e[i] = step
        e = e.reshape(x.shape)
        assert found[i] == pytest.approx((fixed(x + e) - fixed(x - e)) / (2 * step), abs=1e-7)


def test_derivatives_are_finite_where_neighbours_are_equal():
    for prior in (TotalVariation(), TotalVariation(isotropic=True), TotalVariation(power=2)):
        np.testing.assert_array_equal(gradient(prior, np.full((1, 4, 4, 3), 0.5)), 0)


def test_group_consistency_without_shifts():
    x = random(3, 2, 4, 4, 1)
    expected = 5 * sum(np.mean((m - x.mean(0)) ** 2) for m in x)
    assert value(GroupConsistency(weight=5.0), x) == pytest.approx(expected)
    assert value(GroupConsistency(), np.stack([x[0]] * 3)) == pytest.approx(0)
    assert value(GroupConsistency(align=True), random(3, 2, 6)) > 0  # vectors are never aligned


@pytest.fixture
def shifted():
    """Four views of two pictures, each moved, and where to."""
    rng = np.random.default_rng(1)
    pictures = np.zeros((2, 16, 12, 3))
    pictures[:, 5:9, 4:9] = rng.uniform(0.5, 1, (2, 4, 5, 3))
    moves = np.array([[[0, 0], [0, 0]], [[1, -1], [0, 1]], [[-1, 1], [1, 0]], [[0, 0], [-1, -1]]])
    return np.stack([[np.roll(p, m, (0, 1)) for p, m in zip(pictures, row)] for row in moves]), moves


def test_shifts_are_found_and_cost_nothing_once_aligned(shifted):
    x, moves = shifted
    reference = tf.constant(x[0])
    found = GroupConsistency(align=True).shifts(tf.constant(x), reference).numpy()
    np.testing.assert_array_equal(found, -moves)
    plain, aligned = value(GroupConsistency(), x), value(GroupConsistency(align=True), x)
    assert aligned < 0.05 * plain
    slope = gradient(GroupConsistency(align=True), x)
    assert np.abs(slope).max() < 0.3 * np.abs(gradient(GroupConsistency(), x)).max()


def test_shifts_beyond_reach_are_not_taken(shifted):
    x, _ = shifted
    far = np.stack([x[0], np.roll(x[0], 5, 1)])
    found = GroupConsistency(align=True, reach=2).shifts(tf.constant(far), tf.constant(x[0])).numpy()
    assert np.abs(found).max() <= 2
    tiny = random(2, 1, 1, 2, 1)
    assert np.isfinite(value(GroupConsistency(align=True), tiny))


def mean_brightness(x, scene):
    """A prior of a user's own, found by its path."""
    return tf.square(tf.reduce_mean(x) - 0.5)


def test_a_function_of_the_user_s_own():
    x = random(2, 4, 4, 1)
    prior = Custom(function=mean_brightness, weight=2.0)
    assert value(prior, x) == pytest.approx(2 * (x.mean() - 0.5) ** 2)
    assert prior == Custom(function=mean_brightness, weight=2.0)
    hash(prior)
    assert prior.config()["function"].endswith(":mean_brightness")
    by_path = Custom(function="tensorflow:reduce_mean")
    assert by_path.function is tf.reduce_mean
    assert value(Custom(function=lambda x, scene: 0.5), x) == 0.5
    with pytest.raises(ParameterError, match=r"returned shape \(2,\)"):
        value(Custom(function=lambda x, scene: tf.reduce_sum(x, [1, 2, 3])), x)
    with pytest.raises(pydantic.ValidationError, match="no_such"):
        Custom(function="tensorflow:no_such")
    with pytest.raises(pydantic.ValidationError, match="no function"):
        Custom(function=3)


def test_a_prior_of_one_s_own_needs_one_method_and_weights_are_not_negative():
    class Bright(Prior):
        """Darkness."""

        def __call__(self, x, scene):
            return self.weight * tf.reduce_mean(1 - x)

    assert value(Bright(weight=0.5), np.zeros((1, 2, 2, 1))) == 0.5
    assert Bright().tensors(None) == ()
    with pytest.raises(pydantic.ValidationError):
        TotalVariation(weight=-1.0)
