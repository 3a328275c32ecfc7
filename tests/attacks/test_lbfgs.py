"""L-BFGS: finite termination, published minima, agreement with SciPy, honest counts, non-finite values."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
import scipy.optimize
import scipy.special
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS, Minimum, Status
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf


def of(function, dtype="float64"):
    """Value and gradient of a TensorFlow function of `[n]`."""

    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = function(x)
        return f, tape.gradient(f, x)

    return value_and_gradient


def rosenbrock(x):
    return tf.reduce_sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def quadratic(a, b, dtype="float64"):
    a, b = tf.constant(a, dtype), tf.constant(b, dtype)
    return lambda x: (
        0.5 * tf.tensordot(x, tf.linalg.matvec(a, x), 1) - tf.tensordot(b, x, 1),
        tf.linalg.matvec(a, x) - b,
    )


def positive_definite(rng, n, condition):
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (q * np.geomspace(1.0, condition, n)) @ q.T


@pytest.mark.parametrize(("n", "memory"), [(2, 100), (10, 3), (100, 20)])
def test_rosenbrock_to_1e_8(n, memory):
    start = np.tile([-1.2, 1.0], n // 2)
    found = LBFGS(memory=memory, gradient_tolerance=1e-9).minimize(of(rosenbrock), tf.constant(start, "float64"))
    assert Status(int(found.status)) is Status.GRADIENT
    assert np.max(np.abs(found.position - 1)) < 1e-8
    reference = scipy.optimize.minimize(
        scipy.optimize.rosen, start, jac=scipy.optimize.rosen_der, method="L-BFGS-B",
        options={"maxcor": memory, "gtol": 1e-9, "ftol": 0, "maxfun": 10_000, "maxiter": 10_000},
    )  # fmt: skip
    assert int(found.evaluations) <= 1.5 * reference.nfev


def test_a_quadratic_ends_after_about_n_steps_when_the_line_search_is_near_exact():
    rng = np.random.default_rng(0)
    a, b = positive_definite(rng, 12, 100.0), rng.normal(size=12)
    settings_ = LBFGS(gradient_tolerance=1e-9, armijo=1e-6, wolfe=1e-3)
    found = settings_.minimize(quadratic(a, b), tf.zeros([12], "float64"))
    assert int(found.iterations) <= 14
    np.testing.assert_allclose(found.position, np.linalg.solve(a, b), atol=1e-8)


@pytest.mark.slow
def test_quasi_newton_beats_steepest_descent_by_far_on_an_ill_conditioned_quadratic():
    rng = np.random.default_rng(1)
    a, b = positive_definite(rng, 50, 1e4), rng.normal(size=50)
    long = LBFGS(memory=50, gradient_tolerance=1e-7).minimize(quadratic(a, b), tf.zeros([50], "float64"))
    short = LBFGS(memory=1, gradient_tolerance=1e-7).minimize(quadratic(a, b), tf.zeros([50], "float64"))
    assert int(long.evaluations) < 0.6 * int(short.evaluations)
    np.testing.assert_allclose(long.position, np.linalg.solve(a, b), atol=1e-6)


_SIZE = 6


@pytest.fixture(scope="module")
def convex():
    """A compiled minimizer of a random strictly convex, non-quadratic function, and the same for SciPy."""

    def value(x, a, b):
        z = tf.linalg.matvec(a, x)
        return tf.reduce_sum(tf.math.softplus(z) + tf.math.softplus(-2.0 * z)) + 0.5 * tf.reduce_sum((x - b) ** 2)

    @tf.function
    def minimize(a, b, start):
        return tuple(LBFGS(memory=10, gradient_tolerance=1e-10).minimize(of(lambda x: value(x, a, b)), start))

    def reference(a, b, start):
        def function(x):
            z = a @ x
            f = np.sum(np.logaddexp(0, z) + np.logaddexp(0, -2 * z)) + 0.5 * np.sum((x - b) ** 2)
            slope = scipy.special.expit(z) - 2 * scipy.special.expit(-2 * z)
            return f, a.T @ slope + x - b

        return scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 0})

    return minimize, reference


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 30.0), far=st.floats(0.0, 100.0))
def test_agrees_with_scipy_on_random_convex_problems(convex, seed, scale, far):
    minimize, reference = convex
    rng = np.random.default_rng(seed)
    a, b, start = scale * rng.normal(size=(_SIZE, _SIZE)), rng.normal(size=_SIZE), far * rng.normal(size=_SIZE)
    found = Minimum(*minimize(tf.constant(a), tf.constant(b), tf.constant(start)))
    expected = reference(a, b, start)
    assert float(found.objective) <= expected.fun + 1e-9 * max(1.0, abs(expected.fun))
    np.testing.assert_allclose(found.position, expected.x, atol=1e-4)


def test_evaluations_are_counted_one_by_one():
    calls = []

    def counted(x):
        def note():
            calls.append(1)
            return np.int64(0)

        noted = tf.cast(tf.numpy_function(note, [], tf.int64), x.dtype)
        f, g = of(rosenbrock)(x)
        return f + noted, g

    found = LBFGS(memory=5, max_evaluations=37).minimize(counted, tf.constant([-1.2, 1.0], "float64"))
    assert len(calls) == int(found.evaluations) == 37
    assert Status(int(found.status)) is Status.BUDGET


def test_a_budget_of_one_evaluates_the_start_only():
    found = LBFGS(max_evaluations=1).minimize(of(rosenbrock), tf.constant([-1.2, 1.0], "float64"))
    assert (int(found.evaluations), int(found.iterations), int(found.status)) == (1, 0, int(Status.BUDGET))
    np.testing.assert_array_equal(found.position, [-1.2, 1.0])


@pytest.mark.slow
def test_the_target_stops_it_and_may_be_a_tensor():
    start = tf.constant([-1.2, 1.0], "float64")
    fixed = LBFGS(target=1e-2).minimize(of(rosenbrock), start)
    passed = LBFGS(target=1e-12).minimize(of(rosenbrock), start, tf.constant(1e-2, "float64"))
    assert Status(int(fixed.status)) is Status.TARGET
    assert 1e-12 < float(fixed.objective) <= 1e-2
    assert int(passed.evaluations) == int(fixed.evaluations)


@pytest.mark.slow
def test_the_objective_falls_and_the_history_is_thinned_not_cut():
    found = LBFGS(memory=2, gradient_tolerance=1e-6, history=16).minimize(
        of(rosenbrock), tf.constant(np.tile([-1.2, 1.0], 25), "float64")
    )
    rows = found.history.numpy()
    rows = rows[~np.isnan(rows[:, 0])]
    assert int(found.iterations) > 64
    assert 8 <= len(rows) <= 16
    assert rows[0, 0] == 1
    assert rows[-1, 0] > 0.5 * int(found.evaluations)
    assert np.all(np.diff(rows[:, 0]) > 0)
    assert np.all(np.diff(rows[:, 1]) <= 1e-14)


@pytest.mark.slow
def test_a_hopeless_start_ends_early():
    plateau = of(lambda x: 1.0 + 1e-3 * rosenbrock(x) / (1.0 + rosenbrock(x)))
    start = tf.constant(np.tile([-1.2, 1.0], 20), "float64")
    patient = LBFGS(memory=1, max_evaluations=400).minimize(plateau, start)
    hasty = LBFGS(memory=1, max_evaluations=400, stagnation_window=30).minimize(plateau, start)
    assert Status(int(hasty.status)) is Status.STAGNATED
    assert int(hasty.evaluations) < 70 < int(patient.evaluations)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_start_that_is_not_finite_is_reported(bad):
    found = LBFGS().minimize(of(rosenbrock), tf.constant([bad, 1.0], "float64"))
    assert Status(int(found.status)) is Status.NON_FINITE
    assert not Status.NON_FINITE.converged
    assert np.isposinf(float(found.objective))
    assert int(found.evaluations) == 1


@pytest.mark.slow
def test_it_backs_away_from_where_the_objective_is_not_finite():
    # log is NaN below zero; the first steps overshoot there.
    found = LBFGS(gradient_tolerance=1e-9).minimize(
        of(lambda x: tf.reduce_sum(x - tf.math.log(x))), tf.constant([1e-3, 40.0, 2.0], "float64")
    )
    assert Status(int(found.status)) is Status.GRADIENT
    np.testing.assert_allclose(found.position, 1.0, atol=1e-8)


@pytest.mark.slow
def test_a_function_without_descent_ends_at_the_line_search():
    wrong = lambda x: (tf.reduce_sum(x**2), -2 * x)  # noqa: E731 - the gradient's sign is wrong
    found = LBFGS(max_evaluations=500).minimize(wrong, tf.constant([1.0, 2.0], "float64"))
    assert Status(int(found.status)) is Status.LINE_SEARCH
    assert float(found.objective) == 5.0
    assert int(found.evaluations) < 60


@pytest.mark.slow
def test_a_first_step_that_rounding_hides_is_made_longer():
    """At the start the value is 1 in float32 whatever the step; only the slope says that there is more to go."""

    def hidden(x):
        apart = x - tf.constant([3.0, -2.0])
        return 1.0 + 1e-9 * tf.reduce_sum(apart**2), 2e-9 * apart

    found = LBFGS(max_evaluations=200).minimize(hidden, tf.constant([2.5, -1.5]))
    np.testing.assert_allclose(found.position, [3.0, -2.0], atol=1e-2)


@pytest.mark.slow
def test_float32_with_a_long_memory_follows_float64():
    rng = np.random.default_rng(3)
    a, b = positive_definite(rng, 200, 1e3), rng.normal(size=200)
    found = {}
    for dtype in ("float32", "float64"):
        found[dtype] = LBFGS(max_evaluations=300, gradient_tolerance=1e-2).minimize(
            quadratic(a, b, dtype), tf.zeros([200], dtype)
        )
    assert Status(int(found["float32"].status)) is Status.GRADIENT
    assert int(found["float32"].evaluations) <= 1.2 * int(found["float64"].evaluations) + 5
    assert float(found["float32"].objective) == pytest.approx(float(found["float64"].objective), abs=1e-3)


@pytest.mark.slow
def test_same_start_same_bits_and_no_state_between_calls():
    minimize = tf.function(lambda x: tuple(LBFGS(memory=4, max_evaluations=50).minimize(of(rosenbrock), x)))
    one, other = tf.constant([-1.2, 1.0], "float64"), tf.constant([3.0, -2.0], "float64")
    first = minimize(one)[0].numpy()
    minimize(other)
    np.testing.assert_array_equal(minimize(one)[0], first)


@pytest.mark.slow
def test_going_on_with_what_was_learned_is_as_if_it_had_not_stopped():
    rng = np.random.default_rng(5)
    a, b = positive_definite(rng, 60, 1e3), rng.normal(size=60)
    settings_ = LBFGS(memory=60, gradient_tolerance=1e-5, max_evaluations=400)
    whole = settings_.minimize(quadratic(a, b), tf.zeros([60], "float64"))
    first = settings_.with_(max_evaluations=60).minimize(quadratic(a, b), tf.zeros([60], "float64"))
    assert Status(int(first.status)) is Status.BUDGET
    second = settings_.minimize(quadratic(a, b), first.position, memory=first.memory)
    anew = settings_.minimize(quadratic(a, b), first.position)
    assert int(first.evaluations) + int(second.evaluations) <= int(whole.evaluations) + 25
    assert int(second.evaluations) < int(anew.evaluations)
    np.testing.assert_allclose(second.position, np.linalg.solve(a, b), rtol=1e-3, atol=1e-6)
    again = settings_.minimize(quadratic(a, b), first.position, memory=first.memory)
    np.testing.assert_array_equal(again.position, second.position)  # the memory given was left as it was


@pytest.mark.slow
def test_a_blank_memory_is_none():
    start = tf.constant([-1.2, 1.0], "float64")
    settings_ = LBFGS(memory=5, max_evaluations=30)
    blank = tuple(tf.constant(v) for v in settings_.blank(2, "float64"))
    for one, other in zip(
        settings_.minimize(of(rosenbrock), start)[:-1], settings_.minimize(of(rosenbrock), start, memory=blank)[:-1]
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "wrong", [{"memory": 0}, {"max_evaluations": 0}, {"armijo": 0.95}, {"wolfe": 1.0}, {"history": 1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(pydantic.ValidationError):
        LBFGS(**wrong)


def test_it_refuses_to_project():
    with pytest.raises(ParameterError, match="signed_adam"):
        LBFGS().minimize(of(rosenbrock), tf.constant([-1.2, 1.0], "float64"), project=lambda x: x)


@pytest.mark.slow
def test_the_path_holds_the_points_at_the_rows_of_the_history():
    start = tf.constant(np.tile([-1.2, 1.0], 25), "float64")
    plain = LBFGS(memory=2, gradient_tolerance=1e-6, history=16)
    bare, found = (o.minimize(of(rosenbrock), start) for o in (plain, plain.with_(path=True)))
    assert bare.path.shape == (0, 50)
    np.testing.assert_array_equal(bare.position, found.position)
    used = ~np.isnan(found.history.numpy()[:, 0])
    assert found.path.shape == (16, 50)
    np.testing.assert_array_equal(found.path[0], start)
    np.testing.assert_allclose([rosenbrock(x) for x in found.path[used]], found.history[used][:, 1], rtol=1e-12)
