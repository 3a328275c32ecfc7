"""The Cocktail Party Attack: images come apart without any zeros, approximately, and it says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.exact.cocktail import CocktailParty, CocktailPartyBox, scaled_sources
from fedpriv_attacks.exact.dense_input import dense_input
from fedpriv_attacks.exact.low_rank import low_rank
from fedpriv_attacks.parts.optimizers.first_order import Adam

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.data import load as load_data
from fedpriv.metrics.image import psnr
from fedpriv.metrics.matching import match
from fedpriv.models import zoo
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

SHAPE = (28, 28, 1)
SHORT = Adam(steps=400, learning_rate=1e-2)


@pytest.fixture(scope="module")
def images():
    training, test = load_data("fashion_small")
    data = training if test is None else test
    x = np.asarray(data.x[:12], np.float32) / (255 if data.x.dtype == np.uint8 else 1)
    return x.reshape(-1, *SHAPE), np.asarray(data.y[:12])


def qualities(finding, x):
    return [float(psnr(finding.x[a], b)) for a, b in zip(match(finding.x, x), x, strict=True)]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_images_come_apart_without_relu(helpers, images, activation):
    x, y = images[0][:4], images[1][:4]
    model = helpers.dense(SHAPE, 10, 60, activation=activation, scale=0.2)
    finding = CocktailPartyBox(restarts=1).run(helpers.make_view(model, x, y))
    assert np.mean(qualities(finding, x)) > 22
    assert sorted(finding.y) == sorted(y)
    assert finding.extra["scaled_by"] == "bias"
    assert not finding.extra["exact"]
    assert (finding.x.min() >= 0) & (finding.x.max() <= 1)
    assert finding.evaluations == 2501
    assert len(finding.history) > 2


@pytest.mark.slow
def test_the_box_separates_better_than_the_paper_in_the_same_time(helpers, images):
    x, y = images[0][:6], images[1][:6]
    view = helpers.make_view(zoo.mlp_2nn(), x, y)
    ours = CocktailPartyBox(restarts=1).run(view)
    paper = CocktailParty(optimizer=Adam(steps=2500, learning_rate=1e-2)).run(view)
    assert np.mean(qualities(paper, x)) > 12
    assert np.mean(qualities(ours, x)) > np.mean(qualities(paper, x)) + 3


def test_true_unmixing_rows_give_the_examples_to_the_rounding(helpers, images):
    x, y = images[0][:5].astype(np.float64), images[1][:5]
    layer = dense_input(helpers.make_view(zoo.mlp_2nn(dtype="float64"), x, y))
    factors = low_rank(layer, 5, 1e-15)
    flat = x.reshape(5, -1)
    unmixing = np.linalg.lstsq((factors.inputs * factors.values), flat.T, rcond=None)[0].T
    scaled = unmixing * np.array([[3.0], [-2.0], [0.1], [1.0], [-50.0]])
    found, d = scaled_sources(scaled, factors, layer)
    np.testing.assert_allclose(found, flat, atol=1e-9)
    np.testing.assert_allclose(flat.T @ d, layer.kernel, atol=1e-9)
    nobias = dataclasses.replace(layer, bias=None)
    found, _ = scaled_sources(scaled, factors, nobias)
    np.testing.assert_allclose(found, flat / flat.max(axis=1, keepdims=True), atol=1e-9)


@pytest.mark.slow
def test_one_image_is_exact(helpers, images):
    x, y = images[0][:1], images[1][:1]
    finding = CocktailParty(optimizer=SHORT).run(helpers.make_view(zoo.mlp_2nn(), x, y))
    assert qualities(finding, x)[0] > 80
    assert list(finding.y) == list(y)


@pytest.mark.slow
def test_a_sum_of_clients_is_one_batch():
    training, test = load_data("fashion_small")
    data = training if test is None else test
    exposure = Exposure(
        zoo.mlp_2nn(), data, 1, 1, 4, Procedure.fedsgd(weighting="uniform"), (_secret_sharing(),), seed=1
    )
    observation = exposure.observe(0)[0]
    assert observation.view.kind == "sum"
    trial = run_trial(CocktailPartyBox(restarts=1), observation)
    assert np.mean([min(image.psnr, 100) for image in trial.score.images]) > 18


def _secret_sharing():
    from fedpriv.base import registry

    return registry.defenses.create("secret_sharing(aggregators=3)")


@pytest.mark.slow
def test_the_number_of_examples_need_not_be_known(helpers, images):
    x, y = images[0][:3], images[1][:3]
    view = dataclasses.replace(helpers.make_view(zoo.mlp_2nn(), x, y), num_examples=None)
    finding = CocktailParty(optimizer=SHORT).run(view)
    assert finding.extra["rank"] == len(finding.x) == 3


@pytest.mark.slow
def test_the_best_of_several_starts_is_kept_and_seeds_count(helpers, images):
    x, y = images[0][:4], images[1][:4]
    view = helpers.make_view(zoo.mlp_2nn(), x, y)
    attack = CocktailParty(optimizer=Adam(steps=60, learning_rate=1e-2), restarts=3)
    one, same, other = attack.run(view, 1), attack.run(view, 1), attack.run(view, 2)
    assert one.restarts == 3
    assert one.objective == min(one.extra["objectives"])
    np.testing.assert_array_equal(one.x, same.x)
    assert one.extra["objectives"][0] == other.extra["objectives"][0]
    assert one.extra["objectives"][1] != other.extra["objectives"][1]
    assert one.evaluations == 3 * 61


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(30,), (5, 9, 3), (1, 20, 1)])
def test_other_shapes_and_double_precision(helpers, shape):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(3, *shape))
    model = zoo.mlp_2nn(shape, 4, [20], dtype="float64")
    finding = CocktailPartyBox(optimizer=SHORT, restarts=1).run(helpers.make_view(model, x, [0, 1, 2]))
    assert finding.x.shape == (3, *shape)
    assert np.isfinite(finding.x).all()


@pytest.mark.slow
def test_a_repeated_image_is_one_source(helpers, images):
    x, y = images[0][[0, 1, 1]], np.array([3, 4, 5])
    finding = CocktailPartyBox(optimizer=SHORT, restarts=1).run(helpers.make_view(zoo.mlp_2nn(), x, y))
    assert finding.extra["rank"] == 2
    assert len(finding.x) == len(finding.y) in (2, 3)


def test_what_it_cannot_read_is_refused(helpers, images):
    x, y = images[0][:3], images[1][:3]
    model = zoo.mlp_2nn(hidden=[30])
    attack = CocktailParty(optimizer=SHORT)
    with pytest.raises(CapabilityError, match="one local step"):
        attack.run(helpers.make_view(model, x, y, helpers.local_steps(3)))
    with pytest.raises(CapabilityError, match="no dense layer"):
        attack.run(helpers.make_view(zoo.lenet(SHAPE, 10), x, y))
    with pytest.raises(CapabilityError, match="full rank 4"):
        attack.run(helpers.make_view(helpers.dense(SHAPE, 10, 4, scale=0.2), images[0][:8], images[1][:8]))
    good = helpers.make_view(model, x, y)
    with pytest.raises(CapabilityError, match="did not move"):
        attack.run(dataclasses.replace(good, observed=np.zeros_like(good.observed)))
    with pytest.raises(DivergenceError, match="non-finite"):
        attack.run(dataclasses.replace(good, observed=np.full_like(good.observed, np.inf)))
    with pytest.raises(DivergenceError, match="contrast of attack 'cocktail_party' is not finite"):
        attack.with_(temperature=1e6).run(good)


def test_it_is_written_as_text_and_printed(helpers):
    attack = CocktailParty(optimizer="adam(steps=7)", box=2)
    assert attack.optimizer.steps == 7
    assert attack.config()["optimizer"]["steps"] == 7
    assert CocktailPartyBox().config()["name"] == "cocktail_party_box"
