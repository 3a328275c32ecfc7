"""DLG: reconstructs what it should, fails where it must, and says so."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.inversion import matching
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.matching import Recipe, Restarts, noise_floor, reconstruct
from fedpriv_attacks.parts.initializers import Normal
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, DivergenceError, ParameterError
from fedpriv.metrics.image import psnr
from fedpriv.metrics.matching import match
from fedpriv.threat.attack import Capability

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def model(helpers):
    return helpers.dense(SHAPE)


@pytest.fixture(scope="module")
def found(helpers, model):
    """One image, its finding and its view."""
    x, y = helpers.smooth_images(1, SHAPE, 1), [7]
    view = helpers.make_view(model, x, y)
    return x, y, view, DLG().run(view, seed=3)


@pytest.mark.slow
def test_one_image_and_its_label_from_one_gradient(found):
    x, y, _, finding = found
    assert float(psnr(finding.x[0], x[0])) > 40
    assert list(finding.y) == y
    assert finding.objective <= np.sqrt(finding.extra["noise_floor"])  # half of the update's digits
    assert finding.restarts == 1


@pytest.mark.slow
@pytest.mark.parametrize("init", ["default", "uniform"])
def test_it_goes_on_to_what_the_precision_gives_whatever_the_initialization(helpers, init):
    model = registry.models.load("lenet")((12, 12, 1), 10, init=init)
    x, y = helpers.smooth_images(1, (12, 12, 1), 1), [7]
    view = helpers.make_view(model, x, y)
    finding = DLG().run(view)
    early = DLG(target=2e-8).run(view)
    assert finding.restarts == 1
    assert finding.objective < early.objective <= 2e-8
    assert float(psnr(finding.x[0], x[0])) > max(50, float(psnr(early.x[0], x[0])) + 3)


@pytest.mark.slow
def test_a_start_ends_at_the_noise_floor(helpers):
    model = registry.models.load("logistic")(SHAPE, 10)
    x, y = helpers.smooth_images(1, SHAPE, 6), [3]
    view = helpers.make_view(model, x, y, helpers.local_steps(1, 1e-4))  # rounding of the weights hides digits
    finding = DLG(labels="auto").run(view)
    assert finding.extra["statuses"] == ["target"]
    assert finding.objective <= finding.extra["noise_floor"]
    assert finding.evaluations < 100


def test_the_finding_is_filled_in_honestly(found):
    _, _, _, f = found
    assert f.x.shape == (1, *SHAPE)
    assert f.x.dtype == np.float32
    assert f.x.min() >= 0
    assert f.x.max() <= 1
    assert f.evaluations == sum(f.extra["evaluations"]) > 0
    assert f.restarts == len(f.extra["objectives"]) == len(f.extra["statuses"])
    assert f.objective == min(f.extra["objectives"])
    assert f.seconds > 0
    assert f.compile_seconds > 0
    assert f.history[0, 0] == 1
    assert f.history[-1, 0] <= f.evaluations
    assert f.history[-1, 1] < f.history[0, 1]
    np.testing.assert_allclose(f.extra["label_probabilities"].sum(-1), 1, rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(found):
    _, _, view, first = found
    again, other = DLG().run(view, seed=3), DLG().run(view, seed=4)
    np.testing.assert_array_equal(again.x, first.x)
    assert again.evaluations == first.evaluations
    assert not np.array_equal(other.x, first.x)


def test_views_that_differ_in_tensors_only_share_one_graph(helpers, model, found, monkeypatch):
    view = helpers.make_view(model, helpers.smooth_images(1, SHAPE, 9), [2], seed=5)
    monkeypatch.setattr(matching, "_compile", lambda *a: pytest.fail("compiled again"))
    finding = DLG().run(view)
    assert finding.compile_seconds == 0.0
    assert list(finding.y) == [2]


@pytest.mark.slow
def test_the_objective_does_not_depend_on_the_client_rate(helpers, model):
    x, y = helpers.smooth_images(1, SHAPE, 2), [4]
    once = LBFGS(max_evaluations=1)
    values = [
        reconstruct(view, Recipe(optimizer=once), Restarts(), Normal())
        for view in (helpers.make_view(model, x, y, helpers.local_steps(1, rate)) for rate in (1.0, 0.1))
    ]
    assert values[0].objective == pytest.approx(values[1].objective, rel=1e-3)


@pytest.mark.slow
def test_five_local_steps_are_replayed(helpers, model):
    x, y = helpers.smooth_images(1, SHAPE, 3), [5]
    view = helpers.make_view(model, x, y, helpers.local_steps(5, 0.1))
    assert Capability.SINGLE_STEP not in view.capabilities
    finding = DLG().run(view)
    assert float(psnr(finding.x[0], x[0])) > 30
    assert list(finding.y) == y


def test_heavy_noise_defeats_it(helpers, model):
    x, y = helpers.smooth_images(1, SHAPE, 3), [5]
    clean = helpers.make_view(model, x, y)
    rng = np.random.default_rng(0)
    size = np.linalg.norm(clean.observed) / np.sqrt(clean.observed.size)
    noisy = (clean.observed + rng.normal(0, 10 * size, clean.observed.shape)).astype(np.float32)
    finding = DLG(restarts=2, **{"optimizer.max_evaluations": 300}).run(helpers.make_view(model, x, y, observed=noisy))
    assert float(psnr(finding.x[0], x[0])) < 15
    assert finding.objective > 0.1
    assert finding.restarts == 2


def test_a_batch_of_two(helpers, model):
    x, y = helpers.smooth_images(2, SHAPE, 4), [1, 8]
    finding = DLG().run(helpers.make_view(model, x, y))
    assert finding.x.shape == (2, *SHAPE)
    order = match(finding.x, x)
    assert sorted(finding.y) == y
    quality = [float(psnr(a, b)) for a, b in zip(finding.x[np.asarray(order)], x, strict=True)]
    assert min(quality) > 25


@pytest.mark.slow
def test_known_labels_are_used_only_when_told(helpers, model):
    x, y = helpers.smooth_images(1, SHAPE, 5), [6]
    view = helpers.make_view(model, x, y, knows=("labels",))
    finding = DLG(labels="known").run(view)
    assert list(finding.y) == y
    np.testing.assert_array_equal(finding.extra["label_probabilities"], np.eye(10, dtype=np.float32)[[6]])
    with pytest.raises(CapabilityError, match="the examples' labels"):
        DLG(labels="known").run(helpers.make_view(model, x, y))


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda u: np.zeros_like(u), CapabilityError, "exactly zero"),
        (lambda u: np.where(np.arange(u.size) == 3, np.nan, u), DivergenceError, "1 non-finite"),
        (lambda u: np.where(np.arange(u.size) < 2, np.inf, u), DivergenceError, "2 non-finite"),
    ],
)
def test_an_update_that_says_nothing_is_refused(helpers, model, spoil, error, says):
    x = helpers.smooth_images(1, SHAPE)
    observed = spoil(helpers.make_view(model, x, [0]).observed)
    with pytest.raises(error, match=says):
        DLG().run(helpers.make_view(model, x, [0], observed=observed))


def test_weights_that_are_not_finite_are_reported(helpers, model):
    x = helpers.smooth_images(1, SHAPE)
    good = helpers.make_view(model, x, [0])
    weights = np.full(model.spec.size, np.nan, np.float32)
    with pytest.raises(DivergenceError, match="not finite at any of 2 starts"):
        DLG(restarts=2).run(helpers.make_view(model, x, [0], weights=weights, observed=good.observed))


def test_an_adversary_without_the_procedure_is_refused(helpers, model):
    import dataclasses

    view = helpers.make_view(model, helpers.smooth_images(1, SHAPE), [0])
    blind = dataclasses.replace(view, procedure=None)
    with pytest.raises(CapabilityError, match="local training procedure"):
        DLG().run(blind)


@pytest.mark.slow
def test_restarts_side_by_side_find_what_they_find_one_by_one(helpers, model, found):
    _, _, view, _ = found
    strict = {"target": 1e-30, "tolerance": 1e-29, "restarts": 3, "optimizer.max_evaluations": 60}
    one, two = DLG(**strict).run(view), DLG(**strict, side_by_side=2).run(view)
    assert one.restarts == two.restarts == 3
    assert one.extra["objectives"] == two.extra["objectives"]
    np.testing.assert_array_equal(one.x, two.x)


@pytest.mark.slow
def test_a_small_rate_raises_the_floor_so_that_restarts_are_not_wasted(helpers, model):
    x, y = helpers.smooth_images(1, SHAPE, 6), [3]
    view = helpers.make_view(model, x, y, helpers.local_steps(1, 1e-4))
    finding = DLG().run(view)
    full = helpers.make_view(model, x, y)
    assert finding.extra["noise_floor"] > 1e6 * noise_floor(full, float(np.linalg.norm(full.observed)))
    assert noise_floor(view, float(np.linalg.norm(view.observed))) == pytest.approx(finding.extra["noise_floor"])
    assert finding.restarts == 1


@pytest.mark.slow
def test_feature_vectors_and_double_precision(helpers):
    model = helpers.dense((20,), classes=3, hidden=16, dtype="float64")
    x = np.random.default_rng(0).uniform(size=(1, 20))
    finding = DLG().run(helpers.make_view(model, x, [2]))
    np.testing.assert_allclose(finding.x, x, atol=1e-2)
    assert list(finding.y) == [2]


def test_parameters_are_checked():
    with pytest.raises(ParameterError, match="tolerance"):
        registry.attacks.create("dlg(target=1e-3,tolerance=1e-6)")
