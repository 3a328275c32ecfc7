"""First-order optimizers: textbook recursions step by step, schedules, honest counts, the best point, bad values."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from fedpriv_attacks.parts.optimizers.first_order import SGD, Adam, SignedAdam
from fedpriv_attacks.parts.optimizers.minimum import Status

from fedpriv.base.lazy import tf

CURVATURE = np.array([1.0, 10.0, 100.0])


def bowl(x):
    c = tf.constant(CURVATURE, x.dtype)
    return 0.5 * tf.reduce_sum(c * (x - 1) ** 2), c * (x - 1)


def slope(x):
    return CURVATURE * (x - 1)


def last(found):
    """The last point of the path."""
    rows = int(np.sum(~np.isnan(found.history.numpy()[:, 0])))
    return found.path.numpy()[rows - 1]


def adam(x, steps, rate, gradient=slope, b1=0.9, b2=0.999, eps=1e-8):
    """The algorithm of Kingma & Ba, line by line."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - rate(t - 1) * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return x


def momentum(x, steps, rate, mu, nesterov):
    velocity = np.zeros_like(x)
    for t in range(steps):
        velocity = mu * velocity + slope(x)
        x = x - rate(t) * (slope(x) + mu * velocity if nesterov else velocity)
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_is_the_paper_s(dtype):
    found = Adam(steps=50, learning_rate=0.05, path=True).minimize(bowl, tf.zeros([3], dtype))
    expected = adam(np.zeros(3), 50, lambda t: 0.05)
    np.testing.assert_allclose(last(found), expected, rtol=1e-4 if dtype == "float32" else 1e-12)


def test_its_first_step_is_the_learning_rate_whatever_the_gradient_s_size():
    found = Adam(steps=1, learning_rate=0.3, path=True).minimize(bowl, tf.zeros([3], "float64"))
    np.testing.assert_allclose(last(found), 0.3, rtol=1e-7)


def test_signed_adam_is_adam_on_signs_with_a_rate_that_falls_after_3_5_and_7_eighths():
    def rate(t):
        return 0.1 * 0.1 ** ((t >= 30) + (t >= 50) + (t >= 70))

    found = SignedAdam(steps=80, path=True).minimize(bowl, tf.zeros([3], "float64"))
    assert SignedAdam().steps == 24_000
    expected = adam(np.zeros(3), 80, rate, lambda x: np.sign(slope(x)))
    np.testing.assert_allclose(last(found), expected, rtol=1e-12)


def test_signs_make_it_blind_to_the_objective_s_scale():
    scaled = lambda x: (1e-6 * bowl(x)[0], 1e-6 * bowl(x)[1])  # noqa: E731
    start = tf.zeros([3], "float64")
    plain, small = (SignedAdam(steps=60).minimize(f, start) for f in (bowl, scaled))
    np.testing.assert_array_equal(plain.position, small.position)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_sgd_with_momentum(mu, nesterov):
    found = SGD(steps=40, learning_rate=0.003, momentum=mu, nesterov=nesterov, path=True).minimize(
        bowl, tf.zeros([3], "float64")
    )
    np.testing.assert_allclose(last(found), momentum(np.zeros(3), 40, lambda t: 0.003, mu, nesterov), rtol=1e-12)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("none", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("step", [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        ("linear", [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", 0.5 + 0.5 * np.cos(np.pi * np.arange(8) / 8)),
    ],
)
def test_schedules(decay, expected):
    np.testing.assert_allclose(SGD(steps=8, learning_rate=2.0, decay=decay).rates(), 2 * np.array(expected))
    warm = SGD(steps=8, learning_rate=2.0, decay=decay, warmup=4).rates()
    np.testing.assert_allclose(warm, 2 * np.array(expected) * np.minimum(1, np.arange(1, 9) / 4))


def test_soft_signs_lie_between_the_gradient_and_its_sign():
    optimizer, g = SGD(steps=10, signed="soft"), tf.constant([-3.0, -0.1, 0.0, 0.1, 3.0], "float64")
    early = optimizer.direction(g, tf.constant(0), 1.0, None).numpy()
    late = optimizer.direction(g, tf.constant(9), 1.0, None).numpy()
    np.testing.assert_allclose(early, np.tanh(g))
    np.testing.assert_allclose(late, np.tanh(g.numpy() * 0.1) / 0.1)


def test_large_gradients_are_scaled_to_the_clip_and_small_ones_left():
    optimizer = SGD(clip=5.0)
    for norm, expected in ((50.0, 5.0), (2.0, 2.0)):
        g = tf.constant([0.6 * norm, 0.8 * norm], "float64")
        np.testing.assert_allclose(optimizer.direction(g, tf.constant(0), 1.0, None), [0.6 * expected, 0.8 * expected])


def test_langevin_noise_has_its_size_and_follows_the_start():
    flat = lambda x: (tf.reduce_sum(x) * 0.0, tf.zeros_like(x))  # noqa: E731
    noisy = SGD(steps=1, learning_rate=0.5, langevin=0.2, path=True)
    start = tf.random.stateless_normal([20_000], [1, 2])
    first, again, other = (last(noisy.minimize(flat, s)) for s in (start, start, start + 1.0))
    np.testing.assert_array_equal(first, again)
    assert np.std(first - start) == pytest.approx(0.5 * 0.2 * 0.5, rel=0.05)
    assert abs(np.corrcoef(first - start, other - (start + 1))[0, 1]) < 0.05


def test_the_objective_is_evaluated_once_more_than_there_are_steps():
    calls = []

    def counted(x):
        noted = tf.numpy_function(lambda: calls.append(1) or np.int64(0), [], tf.int64)
        f, g = bowl(x)
        return f + tf.cast(noted, x.dtype), g

    found = Adam(steps=37).minimize(counted, tf.zeros([3], "float64"))
    assert len(calls) == int(found.evaluations) == 38
    assert int(found.iterations) == 37
    assert Status(int(found.status)) is Status.BUDGET


def test_the_best_point_is_kept_not_the_last():
    away = SGD(steps=20, learning_rate=0.05, path=True)  # the steepest direction diverges
    found = away.minimize(bowl, tf.constant([1.0, 1.0, 1.01], "float64"))
    np.testing.assert_array_equal(found.position, [1.0, 1.0, 1.01])
    assert float(found.objective) == pytest.approx(bowl(found.position)[0].numpy())
    assert float(found.gradient_norm) == pytest.approx(1.0)
    assert np.abs(last(found) - 1).max() > 1e3


def test_the_target_stops_it_and_may_be_a_tensor():
    start = tf.zeros([3], "float64")
    fixed = Adam(steps=500, learning_rate=0.05, target=1e-2).minimize(bowl, start)
    passed = Adam(steps=500, learning_rate=0.05, target=1e-9).minimize(bowl, start, tf.constant(1e-2, "float64"))
    assert Status(int(fixed.status)) is Status.TARGET
    assert float(fixed.objective) <= 1e-2
    assert int(passed.evaluations) == int(fixed.evaluations) < 500
    assert fixed.history[~np.isnan(fixed.history[:, 0])][-1, 0] == int(fixed.evaluations)


def test_projection_follows_every_step():
    box = lambda x: tf.clip_by_value(x, 0.0, 0.5)  # noqa: E731
    found = Adam(steps=100, learning_rate=0.1, path=True).minimize(bowl, tf.zeros([3], "float64"), project=box)
    np.testing.assert_allclose(found.position, 0.5)
    assert found.path.numpy().max() <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 7, 15, 16, 100])
def test_history_and_path_are_thinned_and_end_with_the_end(steps):
    optimizer = SGD(steps=steps, learning_rate=0.003, history=16)
    bare, found = (o.minimize(bowl, tf.zeros([3], "float64")) for o in (optimizer, optimizer.with_(path=True)))
    assert (bare.path.shape, found.path.shape) == ((0, 3), (16, 3))
    np.testing.assert_array_equal(bare.history, found.history)
    used = ~np.isnan(found.history.numpy()[:, 0])
    rows = found.history.numpy()[used]
    assert (rows[0, 0], rows[-1, 0]) == (1, steps + 1)
    assert len(rows) == min(steps + 1, 16)
    assert all(np.diff(rows[:, 0]) > 0)
    assert rows[: min(steps + 1, 4), 0].tolist() == [1, 2, 3, 4][: steps + 1]
    np.testing.assert_allclose([bowl(x)[0] for x in found.path[used]], rows[:, 1], rtol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_start_that_is_not_finite_is_reported(bad):
    found = Adam(steps=10).minimize(bowl, tf.constant([bad, 1.0, 1.0], "float64"))
    assert Status(int(found.status)) is Status.NON_FINITE
    assert (int(found.evaluations), float(found.objective)) == (1, np.inf)


def test_a_step_to_where_the_objective_is_not_finite_ends_it_at_the_best_point_before():
    found = SGD(steps=1000, learning_rate=0.05).minimize(bowl, tf.constant([1.0, 1.0, 1.01]))
    assert Status(int(found.status)) is Status.NON_FINITE
    assert int(found.evaluations) < 500
    np.testing.assert_allclose(found.position, [1.0, 1.0, 1.01])
    assert np.isinf(found.history.numpy()[~np.isnan(found.history[:, 0])][-1, 1])


def test_same_start_same_bits_and_no_state_between_calls():
    minimize = tf.function(lambda x: tuple(SignedAdam(steps=30, path=True, history=8).minimize(bowl, x)))
    one, other = tf.zeros([3], "float64"), tf.constant([3.0, -2.0, 1.0], "float64")
    first = [t.numpy() for t in minimize(one)[:-1]]
    minimize(other)
    for before, after in zip(first, minimize(one)):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"learning_rate": 0.0}, {"beta_1": 1.0}, {"decay": "stairs"}, {"clip": 0.0}, {"signed": "hard"}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(pydantic.ValidationError):
        Adam(**wrong)


def test_equal_settings_are_equal_and_hash_alike():
    assert Adam(steps=5) == Adam(steps=5) != SignedAdam(steps=5)
    assert hash(Adam(steps=5)) == hash(Adam(steps=5)) != hash(Adam(steps=6))
    assert SignedAdam(signed="true").signed is True
