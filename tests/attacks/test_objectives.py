"""Objectives: known values, derivatives against finite differences, layer selection, degenerate updates."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from fedpriv_attacks.parts.objectives import L1, Angular, Cosine, Masked, Objective, Signed, SquaredError
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.models.spec import Spec

SPEC = Spec(("conv/kernel", "conv/bias", "dense/kernel", "dense/bias"), ((2, 3), (3,), (3, 2), (2,)), "float64")
D = SPEC.size
ALL = [
    SquaredError(),
    SquaredError(layer_weights="size"),
    SquaredError(layer_weights="decay"),
    SquaredError(layer_weights=[1.0, 0.0, 2.0, 3.0]),
    SquaredError(layers=["conv/*"]),
    Cosine(),
    Cosine(per_layer=True),
    Cosine(layers="2:"),
    Angular(),
    L1(),
    Masked(),
    Masked(inner=SquaredError(), threshold=0.2),
    Signed(),
]


def unit(seed, d=D):
    v = np.random.default_rng(seed).normal(size=d)
    return v / np.linalg.norm(v)


def value(objective, s, o, spec=SPEC):
    return float(objective(tf.constant(s), tf.constant(o), spec))


def gradient(objective, s, o, spec=SPEC):
    s = tf.constant(s)
    with tf.GradientTape() as tape:
        tape.watch(s)
        f = objective(s, tf.constant(o), spec)
    return tape.gradient(f, s).numpy()


def name(objective):
    return objective.describe()


@pytest.mark.parametrize("objective", ALL, ids=name)
def test_zero_at_the_truth_and_more_elsewhere(objective):
    o = unit(0)
    assert value(objective, o, o) == pytest.approx(0, abs=1e-9)
    assert value(objective, unit(1), o) > 0.01


@pytest.mark.parametrize("objective", ALL, ids=name)
def test_derivatives(objective):
    s, o = unit(1), unit(0)
    step = 1e-6
    numeric = [(value(objective, s + step * e, o) - value(objective, s - step * e, o)) / (2 * step) for e in np.eye(D)]
    np.testing.assert_allclose(gradient(objective, s, o), numeric, atol=1e-7)


@pytest.mark.parametrize("objective", ALL, ids=name)
@pytest.mark.parametrize("where", ["truth", "zero", "opposite", "nothing observed"])
def test_derivatives_are_finite_at_the_ends(objective, where):
    o = unit(0)
    s = {"truth": o, "zero": 0 * o, "opposite": -o, "nothing observed": o}[where]
    o = 0 * o if where == "nothing observed" else o
    assert np.isfinite(value(objective, s, o))
    assert np.isfinite(gradient(objective, s, o)).all()


def test_values_of_vectors_at_known_angles():
    east, north = np.eye(D)[0], np.eye(D)[1]
    both = (east + north) / np.sqrt(2)
    for other, angle in ((both, 45), (north, 90), (-both, 135), (-east, 180)):
        for length in (1.0, 7.0):
            assert value(Cosine(), length * other, east) == pytest.approx(1 - np.cos(np.radians(angle)))
            assert value(Angular(), length * other, east) == pytest.approx(angle / 180, abs=1e-4)
        assert value(SquaredError(), other, east) == pytest.approx(2 - 2 * np.cos(np.radians(angle)))
    assert value(SquaredError(), 0 * east, east) == value(Cosine(), 0 * east, east) == 1.0
    assert value(L1(), 0 * both, both) == pytest.approx(1)
    assert value(L1(), north, both) == pytest.approx((1 / np.sqrt(2) + 1 - 1 / np.sqrt(2)) / np.sqrt(2))


def test_a_small_angle_survives_float32_where_the_arc_cosine_does_not():
    o = np.eye(1000)[0]
    s = np.cos(1e-3) * o + np.sin(1e-3) * np.eye(1000)[1]
    spec = Spec(("w",), ((1000,),))
    found = float(Angular()(tf.constant(s, "float32"), tf.constant(o, "float32"), spec))
    assert found == pytest.approx(1e-3 / np.pi, rel=0.11)  # less the smoothing of 1e-4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.floats(1e-3, 1e3))
def test_angles_do_not_see_lengths(seed, length):
    s, o = unit(seed), unit(seed + 1)
    for objective in (Cosine(), Cosine(per_layer=True), Angular(), Signed()):
        assert value(objective, length * s, o) == pytest.approx(value(objective, s, o), rel=1e-6)


def test_layer_weights():
    o, s = unit(0), unit(1)
    parts = list(zip(np.split(s, np.cumsum(SPEC.sizes)[:-1]), np.split(o, np.cumsum(SPEC.sizes)[:-1])))

    def expected(weights):
        return sum(w * np.sum((a - b) ** 2) for w, (a, b) in zip(weights, parts)) / sum(
            w * np.sum(b**2) for w, (_, b) in zip(weights, parts)
        )

    for written, weights in (
        ("size", 1 / np.array(SPEC.sizes)),
        ("decay", [1, 0.75, 0.5, 0.25]),
        ((1, 2, 0, 4), [1, 2, 0, 4]),
    ):
        assert value(SquaredError(layer_weights=written), s, o) == pytest.approx(expected(weights))
    assert value(SquaredError(layer_weights=(1, 1, 1, 1)), s, o) == pytest.approx(value(SquaredError(), s, o))


def test_every_layer_an_angle_of_its_own_but_for_those_that_did_not_move():
    o, s = unit(0), unit(1)
    o[:6] = 0
    cut = np.cumsum(SPEC.sizes)[:-1]
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(np.split(s, cut)[1:], np.split(o, cut)[1:])
    ]
    assert value(Cosine(per_layer=True), s, o) == pytest.approx(1 - np.mean(cosines))


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ("dense/bias", [3]),
        (["conv/*", "dense/bias"], [0, 1, 3]),
        ("*/kernel", [0, 2]),
        (":2", [0, 1]),
        ("-1:", [3]),
        ("::2", [0, 2]),
        (0.5, [0, 1]),
        ("0.25", [0]),
        (0.01, [0]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_layers_are_chosen(layers, chosen):
    objective = SquaredError(layers=layers)
    assert objective.chosen(SPEC) == chosen
    s, o = unit(1), unit(0)
    kept = np.concatenate([np.arange(SPEC.offsets[i], SPEC.offsets[i] + SPEC.sizes[i]) for i in chosen])
    relative = np.sum((s - o)[kept] ** 2) / np.sum(o[kept] ** 2)
    assert value(objective, s, o) == pytest.approx(relative)
    assert set(np.flatnonzero(gradient(objective, s, o))) == set(kept)


@pytest.mark.parametrize(
    ("layers", "said"),
    [("conv/kernl", "Did you mean 'conv/kernel'"), ("7:", "selects none"), ("a:b", "no slice"), (1.5, r"\(0, 1\]")],
)
def test_layers_that_are_not_there_are_refused(layers, said):
    with pytest.raises(ParameterError, match=said):
        value(SquaredError(layers=layers), unit(1), unit(0))


def test_a_wrong_number_of_layer_weights_is_refused():
    with pytest.raises(ParameterError, match="conv/kernel"):
        value(SquaredError(layer_weights=[1.0, 2.0]), unit(1), unit(0))
    with pytest.raises(pydantic.ValidationError):
        SquaredError(layer_weights=[-1.0])


def test_masked_looks_only_where_something_was_sent():
    o, s = unit(0), unit(1)
    pruned = np.where(np.abs(o) >= np.sort(np.abs(o))[-4], o, 0)
    assert value(Masked(inner=SquaredError()), o, pruned) == 0 < value(SquaredError(), o, pruned)
    kept = pruned != 0
    np.testing.assert_array_equal(gradient(Masked(), s, pruned)[~kept], 0)
    expected = s[kept] @ pruned[kept] / np.linalg.norm(s[kept]) / np.linalg.norm(pruned[kept])
    assert value(Masked(), s, pruned) == pytest.approx(1 - expected)
    assert Masked(threshold=2.0).distance(tf.constant(s), tf.constant(o), SPEC).numpy() == pytest.approx(1)


def test_signed_is_the_share_of_energy_with_the_wrong_sign():
    o = np.sign(unit(0)) / np.sqrt(D)
    s = unit(0) * np.linspace(0.1, 9, D)
    assert value(Signed(), s, o) == 0.0
    assert value(Signed(), -s, o) == pytest.approx(1)
    turned = s.copy()
    turned[3] *= -1
    assert value(Signed(), turned, o) == pytest.approx(s[3] ** 2 / np.sum(s**2))
    o[3] = 0  # not sent
    assert value(Signed(), turned, o) == 0.0


def test_the_floor_is_the_value_that_rounding_leaves():
    o, noise = unit(0, 10_000), 1e-3 * unit(1, 10_000)
    noise -= (noise @ o) * o
    spec = Spec(("w",), ((10_000,),), "float64")
    squared = float(noise @ noise)
    for objective in (SquaredError(), Cosine(), Masked()):
        assert value(objective, o + noise, o, spec) == pytest.approx(objective.floor(squared), rel=1e-3)
    assert value(Angular(), o + noise, o, spec) == pytest.approx(Angular().floor(squared), rel=0.02)
    assert L1().floor(squared) == Signed().floor(squared) == 0.0


def test_objectives_are_hashable_and_own_ones_need_one_method():
    assert hash(SquaredError(layers=["a"])) == hash(SquaredError(layers=("a",)))
    assert Masked(inner=SquaredError()).config()["inner"]["kind"] == "squared_error"

    class Largest(Objective):
        """Largest difference."""

        def distance(self, simulated, observed, spec):
            return tf.reduce_max(tf.abs(simulated - observed))

    s, o = unit(1), unit(0)
    assert value(Largest(layers="dense/bias"), s, o) == np.abs(s - o)[-2:].max()
