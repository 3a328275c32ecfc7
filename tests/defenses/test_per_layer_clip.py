"""Per-layer clipping: each layer keeps its bound, and the whole the one that `maps` states."""

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.per_layer_clip import PerLayerClip, layer_of, layers
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.domain import Real
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling

SPEC = Spec(("a/kernel", "a/bias", "b/kernel", "b/bias", "scale"), ((3, 2), (2,), (2, 4), (4,), (1,)))


def context():
    plan = Plan(
        spec=SPEC,
        population=3,
        cohort=3,
        expected_cohort=3.0,
        sampling=Sampling.full(),
        weighting="uniform",
        max_examples=1,
    )
    return Context(plan=plan, seed=tf.zeros([2], tf.int64))


def norms_of(value):
    squares = dict.fromkeys(layers(SPEC), 0.0)
    for name, part in zip(SPEC.names, np.split(np.asarray(value, np.float64), np.cumsum(SPEC.sizes)[:-1]), strict=True):
        squares[layer_of(name)] += float(part @ part)
    return {name: np.sqrt(v) for name, v in squares.items()}


def test_layers_are_what_has_the_same_name_up_to_the_last_slash():
    assert layers(SPEC) == {"a": 8, "b": 12, "scale": 1}


@pytest.mark.parametrize(
    ("defense", "bounds"),
    [
        (PerLayerClip(norms=(0.5, 1.0, 2.0)), (0.5, 1.0, 2.0)),
        (PerLayerClip(total=3.0), (np.sqrt(3),) * 3),
        (PerLayerClip(total=3.0, split="size"), tuple(3 * np.sqrt(n / 21) for n in (8, 12, 1))),
    ],
)
def test_every_layer_is_cut_to_its_bound_and_shorter_ones_are_left(defense, bounds):
    plan = context().plan
    assert tuple(defense.bounds(SPEC).values()) == pytest.approx(bounds)
    assert defense.maps(Real(), plan).l2 == pytest.approx(np.sqrt(np.square(bounds).sum()))
    assert defense.maps(Real(0.1), plan) == Real(0.1)
    update = np.linspace(-9, 9, SPEC.size).astype(np.float32)
    update[: SPEC.sizes[0] + SPEC.sizes[1]] *= 1e-3
    out = defense.update(tf.constant(update), context())
    np.testing.assert_array_equal(out.value[:8], update[:8])
    found = norms_of(out.value)
    assert found["b"] == pytest.approx(bounds[1], rel=1e-5)
    assert found["scale"] == pytest.approx(bounds[2], rel=1e-5)
    assert float(out.log["clipped"]) == pytest.approx(2 / 3)
    assert float(out.log["norm"]) == pytest.approx(np.linalg.norm(update), rel=1e-5)


@settings(max_examples=80)
@given(st.lists(st.floats(width=32), min_size=21, max_size=21))
def test_no_update_is_longer_than_stated(values):
    defense = PerLayerClip(norms=(0.5, 1.0, 2.0))
    out = np.asarray(defense.update(tf.constant(values, tf.float32), context()).value, np.float64)
    if np.isfinite(out).all():
        for (_, norm), bound in zip(norms_of(out).items(), (0.5, 1.0, 2.0), strict=True):
            assert norm <= bound * (1 + 1e-6)


def test_noise_after_it_covers_the_total(federate, logistic_model):
    many = len(layers(logistic_model.spec))
    per_layer = PerLayerClip(norms=(0.3,) * many)
    total = 0.3 * np.sqrt(many)
    private = federate(defenses=(per_layer, CentralDP(clip=9.0, noise_multiplier=1.0)), weighting="uniform")
    (claim,) = private.line.claims()
    assert claim.sensitivity == pytest.approx(total)
    assert claim.event.noise_multiplier == pytest.approx(9 / total)


def test_mistakes_are_named():
    with pytest.raises(ParameterError, match=r"2 bounds for 3 layers \(a, b, scale\)"):
        PerLayerClip(norms=(1.0, 2.0)).check(context().plan)
    for wrong in ({}, {"norms": (1.0,), "total": 1.0}):
        with pytest.raises(ValueError, match="norms, one a layer, or total"):
            PerLayerClip(**wrong)
