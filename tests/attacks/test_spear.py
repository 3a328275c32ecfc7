"""SPEAR: whole batches to the rounding, and words where that is not possible."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from fedpriv_attacks.exact.dense_input import DenseInput, dense_input
from fedpriv_attacks.exact.low_rank import low_rank
from fedpriv_attacks.exact.sparse_directions import SparseDirections
from fedpriv_attacks.exact.spear import EXACT, SPEAR, Forecast, Solver

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.data import load as load_data
from fedpriv.metrics.image import psnr
from fedpriv.metrics.matching import match
from fedpriv.models import zoo
from fedpriv.models.keras_model import from_keras
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

SHAPE, CLASSES = (6, 7, 1), 5


@pytest.fixture(scope="module")
def model():
    return zoo.mlp_2nn(SHAPE, CLASSES, [80, 40])


def batch(n, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, *shape)).astype(np.float32), rng.integers(0, CLASSES, n)


def worst(finding, x):
    return min(float(psnr(finding.x[a], b)) for a, b in zip(match(finding.x, x), x, strict=True))


def pairs(finding, x):
    """The label claimed for each original."""
    return finding.y[match(finding.x, x)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "n"),
    [
        ("float32", 1),
        ("float32", 8),
        ("float64", 2),
        *(pytest.param("float32", n, marks=pytest.mark.slow) for n in (2, 5)),
        *(pytest.param("float64", n, marks=pytest.mark.slow) for n in (1, 5, 8)),
    ],
)
def test_the_batch_and_its_labels(helpers, n, dtype):
    model = zoo.mlp_2nn(SHAPE, CLASSES, [80, 40], dtype=dtype)
    x, y = batch(n, n)
    finding = SPEAR().run(helpers.make_view(model, x, y))
    assert finding.extra["exact"], finding.extra["reason"]
    assert finding.objective == 0
    assert worst(finding, x) > 80
    np.testing.assert_array_equal(pairs(finding, x), y)
    assert finding.x.dtype == np.float32
    assert finding.extra["update_error"] < 1e-4
    assert finding.extra["directions"] == finding.extra["rank"] == n


@pytest.mark.parametrize("n", [2, 6])
def test_plain_sampling_as_in_the_paper(helpers, model, n):
    x, y = batch(n, 1)
    finding = SPEAR(search="sampling").run(helpers.make_view(model, x, y))
    assert finding.extra["exact"]
    assert finding.extra["descents"] == finding.extra["planes"] == 0
    assert worst(finding, x) > 80


@pytest.mark.slow
def test_fashion_images_through_a_federation():
    training, test = load_data("fashion_small")
    data = training if test is None else test
    exposure = Exposure(
        zoo.mlp_2nn(data.input_shape, data.num_classes), data, 2, 8, procedure=Procedure.fedsgd(), seed=0
    )
    for observation in exposure:
        trial = run_trial(SPEAR(), observation, threshold_db=60)
        assert trial.finding.extra["exact"]
        assert all(image.success for image in trial.score.images)
        assert trial.score.label_accuracy == 1


@pytest.mark.slow
@pytest.mark.parametrize(("width", "n"), [(1000, 32), (2000, 64)])
def test_large_batches_where_the_width_allows(width, n):
    training, test = load_data("fashion_small")
    data = training if test is None else test
    model = zoo.mlp_2nn(data.input_shape, data.num_classes, [width, 200])
    observation = Exposure(model, data, 1, n, procedure=Procedure.fedsgd(), seed=7).observe(0)[0]
    trial = run_trial(SPEAR(seconds=600), observation, threshold_db=60)
    extra = trial.finding.extra
    assert extra["recovered"] >= n - 1, extra["reason"]  # one of 64 leaves no trace above the rounding
    assert sum(image.success for image in trial.score.images) == extra["recovered"]
    assert extra["exact"] == (extra["recovered"] == n)


@pytest.mark.slow
def test_sixteen_fashion_images():
    training, test = load_data("fashion_small")
    data = training if test is None else test
    exposure = Exposure(zoo.mlp_2nn(data.input_shape, data.num_classes), data, 4, 16, procedure=Procedure.fedsgd())
    for observation in exposure:
        assert run_trial(SPEAR(), observation).finding.extra["exact"]


def test_a_sum_of_clients_is_one_batch():
    training, test = load_data("fashion_small")
    data = training if test is None else test
    model = zoo.mlp_2nn(data.input_shape, data.num_classes)
    defense = (registry.defenses.create("secret_sharing(aggregators=3)"),)
    exposure = Exposure(model, data, 1, 2, 3, Procedure.fedsgd(weighting="uniform"), defense, seed=3)
    observation = exposure.observe(0)[0]
    assert observation.view.kind == "sum"
    trial = run_trial(SPEAR(), observation, threshold_db=60)
    assert all(image.success for image in trial.score.images)
    assert trial.score.label_accuracy == 1


def test_the_number_of_examples_need_not_be_known(helpers, model):
    x, y = batch(5)
    view = dataclasses.replace(helpers.make_view(model, x, y), num_examples=None)
    finding = SPEAR().run(view)
    assert finding.extra["exact"]
    assert len(finding.x) == 5
    assert np.isnan(finding.extra["update_error"])


def test_repeated_images_are_counted_with_their_labels(helpers, model):
    x, _ = batch(4)
    which, y = [0, 1, 2, 3, 0, 1, 1], np.array([4, 1, 0, 2, 4, 3, 1])
    finding = SPEAR().run(helpers.make_view(model, x[which], y))
    assert finding.extra["rank"] == 4
    assert sorted(finding.extra["multiplicities"]) == [1, 1, 2, 3]
    assert finding.extra["exact"], finding.extra["reason"]
    assert worst(finding, x[which]) > 80
    assert sorted(zip(_nearest(finding.x, x), finding.y.tolist())) == sorted(zip(which, y.tolist()))


def _nearest(found, x):
    return [int(np.argmin(np.square(x - f).reshape(len(x), -1).sum(1))) for f in found]


def test_an_update_scaled_as_a_whole_changes_nothing(helpers, model):
    x, _ = batch(3)
    x, y = x[[0, 1, 2, 2]], np.array([0, 1, 2, 3])
    observed = helpers.make_view(model, x, y).observed
    finding = SPEAR().run(helpers.make_view(model, x, y, observed=observed * np.float32(0.3)))
    assert finding.extra["exact"]
    assert sorted(finding.y) == [0, 1, 2, 3]
    assert worst(finding, x) > 80


def test_a_clients_rate_does_not_matter(helpers, model):
    x, y = batch(4)
    for rate in (1e-3, 0.5):
        assert worst(SPEAR().run(helpers.make_view(model, x, y, helpers.local_steps(1, rate))), x) > 80


def test_the_same_seed_gives_the_same_bits(helpers, model):
    x, y = batch(4)
    view = helpers.make_view(model, x, y)
    one, two = SPEAR().run(view, 5), SPEAR().run(view, 5)
    np.testing.assert_array_equal(one.x, two.x)
    assert one.extra["samples"] == two.extra["samples"]


def test_synthetic_gradients_with_a_known_factorization():
    """X^T D with random X and sparse D that a network would leave, without any network."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(7, 42))
    layer = _synthetic(x, rng)
    found, _, _ = SPEAR()._search(layer, low_rank(layer), 0, time.perf_counter())
    assert found.score == 1
    order = match(found.x.astype(np.float32), x.astype(np.float32))
    np.testing.assert_allclose(found.x[order], x, atol=1e-9)


def _synthetic(x, rng, units=90):
    weights = rng.normal(size=(x.shape[1], units))
    weights -= weights.mean(0)
    d = np.where(x @ weights > 0, rng.normal(size=(len(x), units)), 0.0)
    zeros = np.zeros(units)
    return DenseInput(x.T @ d, d.sum(0), weights, zeros, weights, zeros, "k", "b", True, 1.0, 0.0)


def test_the_score_is_one_for_the_truth_and_less_for_a_mixture():
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(4, 42))
    layer = _synthetic(x, rng)
    factors = low_rank(layer)
    d = np.linalg.lstsq(x.T, layer.kernel, rcond=None)[0]
    directions = d @ factors.units
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    solver = Solver(layer, factors)
    true = solver.reconstruct(directions)
    assert true.score == 1
    np.testing.assert_allclose(true.x, x, atol=1e-9)
    np.testing.assert_allclose(true.d, d, atol=1e-9)
    mixed = directions.copy()
    mixed[0] = (directions[0] + directions[1]) / 2
    assert 0.3 < solver.reconstruct(mixed).score < 0.95


@pytest.mark.parametrize(("size", "exact"), [(1e-6, True), (1e-3, False)])
def test_noise_is_reported(helpers, model, size, exact):
    x, y = batch(4)
    clean = helpers.make_view(model, x, y).observed
    noisy = clean + np.random.default_rng(0).normal(0, size, clean.shape)
    finding = SPEAR(seconds=2).run(helpers.make_view(model, x, y, observed=noisy.astype(np.float32)))
    assert finding.extra["exact"] == exact
    assert len(finding.x) == 4
    if exact:
        assert finding.extra["error"] < EXACT
        rms = np.sqrt(np.mean(np.square(finding.x[match(finding.x, x)] - x), axis=(1, 2, 3)))
        assert rms.max() < 2 * finding.extra["error"]
    else:
        assert finding.extra["reason"]


def test_a_layer_without_bias_hides_the_scale(helpers):
    kl = tf.keras.layers
    build = lambda: tf.keras.Sequential(  # noqa: E731
        [tf.keras.Input(SHAPE), kl.Flatten(), kl.Dense(80, "relu", use_bias=False), kl.Dense(CLASSES)]
    )
    x, y = batch(4)
    x *= np.array([1.0, 0.5, 0.8, 0.9], np.float32)[:, None, None, None]
    finding = SPEAR().run(helpers.make_view(from_keras(build, "nobias"), x, y))
    assert not finding.extra["exact"]
    assert "no bias" in finding.extra["reason"]
    largest = x.max(axis=(1, 2, 3), keepdims=True)
    assert worst(finding, x / largest) > 80


def test_too_hard_a_batch_is_owned_up_to(helpers):
    narrow = zoo.mlp_2nn(SHAPE, CLASSES, [24])
    x, y = batch(9)
    finding = SPEAR(seconds=0.5).run(helpers.make_view(narrow, x, y))
    assert not finding.extra["exact"]
    assert "direction" in finding.extra["reason"]
    assert finding.extra["score"] < 1
    assert finding.x.shape == (9, *SHAPE)
    assert_certified_rows_are_exact(finding, x)


def assert_certified_rows_are_exact(finding, x):
    """Certified rows are originals, each of another; what is not claimed is not-a-number with label -1."""
    sure = np.array(finding.extra["certified"])
    assert sure.sum() == finding.extra["recovered"]
    nearest = [min((float(np.sqrt(np.mean(np.square(f - o)))), i) for i, o in enumerate(x)) for f in finding.x[sure]]
    assert all(error < EXACT for error, _ in nearest), (nearest, finding.extra)
    assert len({i for _, i in nearest}) == len(nearest)
    missing = np.isnan(finding.x).all(axis=(1, 2, 3))
    assert np.isfinite(finding.x[~missing]).all()
    np.testing.assert_array_equal(finding.y == -1, missing)


def test_the_certified_part_of_a_batch_that_was_not_finished(helpers, model, monkeypatch):
    """Two of eight examples fire nearly the same units: only their sum is found, and the other six are exact."""
    x, y = batch(8, 3)
    view = helpers.make_view(model, x, y)
    layer = dense_input(view)
    factors = low_rank(layer, 8)
    a = np.linalg.lstsq(x.reshape(8, -1).T, layer.kernel, rcond=None)[0] @ factors.units
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    mixed = a.copy()
    mixed[6], mixed[7] = a[6] + a[7], a[6] - 0.5 * a[7]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)

    def stopped(self, layer, factors, seed, began):
        search = SparseDirections(factors.units, np.random.default_rng(0))
        search.directions = mixed
        return Solver(layer, factors).reconstruct(mixed), search, Forecast(8, search.live, 9e3, 7e4, False)

    monkeypatch.setattr(SPEAR, "_search", stopped)
    finding = SPEAR(seconds=100).run(view)
    assert finding.extra["certified"] == [True] * 6 + [False] * 2
    assert np.isnan(finding.x[6:]).all()
    assert_certified_rows_are_exact(finding, x)
    assert sorted(finding.y[:6]) == sorted(y[:6])
    assert "6 of 8 examples are certified" in finding.extra["reason"]
    assert "may take about 70000 s for 8 examples, and ends after 100 s" in finding.extra["warnings"][0]


def test_a_hopeless_search_ends_at_once_and_says_why(helpers):
    """Twenty examples in at most 60 units: hardly any vector has more zeros than chance gives it."""
    x, y = batch(20, 1)
    view = helpers.make_view(zoo.mlp_2nn(SHAPE, CLASSES, [60]), x, y)
    with pytest.warns(UserWarning, match="spear: the search for 20 examples in .* may take .* It ends after 0.01 s"):
        finding = SPEAR(seconds=0.01).run(view)
    assert finding.extra["recovered"] == 0
    assert np.isnan(finding.x).all()
    assert set(finding.y) == {-1}
    assert "0 of 20 examples are certified" in finding.extra["reason"]
    assert finding.extra["warnings"]


def test_a_forecast_far_beyond_the_seconds_ends_the_search():
    forecast = Forecast(20, 40, 1e5, 4321.0, True)
    assert forecast.warnings(5000) == []
    assert not forecast.hopeless(1000)
    assert forecast.hopeless(400)
    assert "at least about 4000 s for 20 examples, and ends after 100 s" in forecast.warnings(100)[0]
    assert "20 examples in 40 active units may take at least about 4321 s" in forecast.says


def test_modern_goes_on_where_only_a_part_was_found(helpers, model):
    x, y = batch(20, 1)
    view = helpers.make_view(zoo.mlp_2nn(SHAPE, CLASSES, [60]), x, y)
    finding = registry.attacks.create("modern(attacks=[spear(seconds=0.01)])").run(view)
    assert finding.extra["tried"][0]["mismatch"] == float("inf")


@pytest.mark.slow
def test_no_certificate_is_false_in_a_hundred_batches(helpers):
    rng = np.random.default_rng(11)
    complete = 0
    for i in range(100):
        model = zoo.mlp_2nn(SHAPE, CLASSES, [int(rng.integers(20, 90)), 40])
        x, y = batch(int(rng.integers(2, 13)), 1000 + i)
        if i % 3 == 0:  # similar examples, whose sums are sparse
            x[1:] = np.clip(0.8 * x[:1] + 0.2 * x[1:], 0, 1)
        try:
            finding = SPEAR(seconds=1).run(helpers.make_view(model, x, y), i)
        except CapabilityError:  # too narrow for that many
            continue
        assert_certified_rows_are_exact(finding, x)
        complete += finding.extra["exact"]
    assert complete > 15  # the clock decides how many


def test_too_large_a_batch_is_refused_with_its_cost(helpers, model):
    x, y = batch(8)
    with pytest.raises(CapabilityError, match=r"8 examples in \d+ active.* 2\^7 x 2\.7 draws.*max_samples is 100"):
        SPEAR(search="sampling", max_samples=100).run(helpers.make_view(model, x, y))
    narrow = zoo.mlp_2nn(SHAPE, CLASSES, [16])
    x, y = batch(12)
    with pytest.raises(CapabilityError, match="out of reach"):
        SPEAR().run(helpers.make_view(narrow, x, y))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "elu", "leaky_relu"])
def test_units_that_are_never_off_are_refused(helpers, activation):
    kl = tf.keras.layers
    build = lambda: tf.keras.Sequential(  # noqa: E731
        [tf.keras.Input(SHAPE), kl.Flatten(), kl.Dense(20, activation), kl.Dense(CLASSES)]
    )
    x, y = batch(2)
    with pytest.raises(CapabilityError, match="reads the zeros of ReLU units"):
        SPEAR().run(helpers.make_view(from_keras(build, activation), x, y))


def test_other_models_and_procedures_are_refused(helpers, model):
    x, y = batch(3)
    with pytest.raises(CapabilityError, match=r"one local step.*\(3 local steps\)"):
        SPEAR().run(helpers.make_view(model, x, y, helpers.local_steps(3)))
    view = helpers.make_view(model, x, y)
    blind = dataclasses.replace(view, num_examples=None, procedure=make_procedure(batch_size=2))
    with pytest.raises(CapabilityError, match="one local step"):
        SPEAR().run(blind)
    with pytest.raises(CapabilityError, match="local training procedure"):
        SPEAR().run(dataclasses.replace(view, procedure=None))
    images = np.zeros((2, 16, 16, 3), np.float32)
    with pytest.raises(CapabilityError, match="no dense layer that sees the raw example"):
        SPEAR().run(helpers.make_view(zoo.lenet((16, 16, 3), 4), images, [0, 1]))


def test_updates_that_say_nothing_are_refused(helpers, model):
    x, y = batch(2)
    good = helpers.make_view(model, x, y).observed
    with pytest.raises(CapabilityError, match="did not move"):
        SPEAR().run(helpers.make_view(model, x, y, observed=np.zeros_like(good)))
    with pytest.raises(DivergenceError, match="non-finite"):
        SPEAR().run(helpers.make_view(model, x, y, observed=np.full_like(good, np.nan)))


@pytest.mark.parametrize("shape", [(20,), (4, 9, 3)])
def test_other_shapes(helpers, shape):
    x, y = batch(3, shape=shape)
    finding = SPEAR().run(helpers.make_view(zoo.mlp_2nn(shape, CLASSES, [60]), x, y))
    assert finding.x.shape == (3, *shape)
    assert worst(finding, x) > 80
