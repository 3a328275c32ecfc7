"""GGL and GIAS on a small generator of 8x8 images, so that what they should find is known."""

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.inversion.generative import GGL, GIAS
from fedpriv_attacks.parts.generator import Generator, Layer, chain
from fedpriv_attacks.parts.latent import FreedNorm, Latent, LatentAndResidual, LatentAndWeights, LatentNorm
from fedpriv_attacks.parts.likelihood import NoiseLikelihood
from fedpriv_attacks.parts.objectives import Masked
from fedpriv_attacks.parts.optimizers.first_order import Adam
from fedpriv_attacks.parts.priors import Scene
from fedpriv_defenses.sparse import TopK, kept

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.metrics.image import psnr

SHAPE, LATENT = (8, 8, 1), 4
LAYERS = (
    Layer("dense", 32, activation="tanh"),
    Layer("reshape", shape=(2, 2, 8)),
    Layer("conv2d_transpose", 8, kernel=4, stride=2, activation="tanh"),
    Layer("conv2d_transpose", 4, kernel=4, stride=2, activation="tanh"),
    Layer("conv2d", 1, kernel=3, activation="sigmoid"),
)
QUICK = Adam(steps=250, learning_rate=0.1, decay="cosine")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The file of a generator with random weights, large enough that its images differ."""
    rng = np.random.default_rng(3)
    weights = tuple(rng.normal(0, 0.6 if len(s) > 1 else 0.1, s).astype(np.float32) for s in chain(LAYERS, LATENT)[1])
    return str(Generator("small", LATENT, LAYERS, weights).save(tmp_path_factory.mktemp("g") / "small.npz"))


@pytest.fixture(scope="module")
def model(helpers):
    return helpers.dense(SHAPE)


@pytest.fixture(scope="module")
def inside(path, model, helpers):
    """An image that the generator makes, and its view."""
    z = np.random.default_rng(5).normal(size=(1, LATENT)).astype(np.float32)
    x = Latent(generator=path).decoder().decode(z).numpy()
    return x, helpers.make_view(model, x, [7])


def ggl(path, **parameters):
    return GGL(coordinates=Latent(generator=path, spread=0.3), optimizer=QUICK, **parameters)


def gias(path, **parameters):
    return GIAS(coordinates=Latent(generator=path, spread=0.3), optimizer=QUICK, **parameters)


def noised(view, size, seed=0):
    """The view with white noise of `size` times the update's norm."""
    noise = np.random.default_rng(seed).normal(size=view.observed.shape)
    noise *= size * np.linalg.norm(view.observed) / np.linalg.norm(noise)
    return dataclasses.replace(view, observed=(view.observed + noise).astype(np.float32))


@pytest.fixture(scope="module")
def found(path, inside):
    return ggl(path).run(inside[1], seed=1)


def test_an_image_in_its_range_is_found_from_its_gradient(inside, found):
    x, _ = inside
    assert float(psnr(found.x[0], x[0])) > 40
    assert list(found.y) == [7]
    assert found.extra["unexplained"] < 1e-3
    assert "makes images that explain" in found.extra["verdict"]
    assert found.extra["variables"].shape == (1, LATENT)


def test_the_same_seed_gives_the_same_bits(path, inside, found):
    again, other = (ggl(path).run(inside[1], seed=s) for s in (1, 2))
    np.testing.assert_array_equal(again.x, found.x)
    assert again.objective == found.objective
    assert not np.array_equal(other.x, found.x)


def test_an_image_outside_its_range_is_not_found_and_it_says_so(path, model, helpers):
    x = np.indices((8, 8)).sum(0)[None, ..., None].astype(np.float32) % 2  # a chessboard
    finding = ggl(path).run(helpers.make_view(model, x, [2]))
    assert float(psnr(finding.x[0], x[0])) < 15
    assert finding.extra["unexplained"] > 0.05
    assert "outside the generator's range" in finding.extra["verdict"]


def test_noise_that_defeats_pixels_does_not_defeat_it_and_is_recognized(path, inside):
    from fedpriv_attacks.inversion.dlg import DLG

    x, view = inside
    view = noised(view, 0.3)
    finding = ggl(path).run(view)
    plain = DLG(restarts=1, **{"optimizer.max_evaluations": 300}).run(view)
    assert float(psnr(finding.x[0], x[0])) > float(psnr(plain.x[0], x[0])) + 6
    assert finding.extra["learned_nats"] > 20
    assert "like noise" in finding.extra["verdict"]


@pytest.mark.slow
@pytest.mark.parametrize("refine", ["weights", "residual"])
def test_the_second_step_reaches_beyond_the_range(path, inside, model, helpers, refine):
    x = np.clip(inside[0] + 0.3 * (helpers.smooth_images(1, SHAPE, 4) - 0.5), 0, 1)
    view = helpers.make_view(model, x, [3])
    first = ggl(path).run(view)
    second = gias(path, refine=refine).run(view)
    np.testing.assert_array_equal(second.extra["latent_step"]["x"], first.x)
    assert float(psnr(second.x[0], x[0])) > float(psnr(first.x[0], x[0])) + 5
    assert second.objective < first.objective
    assert second.extra["unexplained"] < 0.2 * first.extra["unexplained"]
    assert second.evaluations == first.evaluations + 301
    assert np.all(np.diff(second.history[:, 0]) > 0)


@pytest.mark.slow
def test_the_path_goes_through_both_steps_and_groups_stay_together(path, inside):
    quick = {"optimizer": Adam(steps=20), "refine_optimizer": Adam(steps=20), "restarts": 1}
    finding = GIAS(coordinates=Latent(generator=path), path=True, group=2, **quick).run(inside[1])
    assert finding.path.shape == (len(finding.history), 1, *SHAPE)
    assert finding.evaluations == finding.history[-1, 0] == 2 * (21 + 21)
    assert finding.extra["variables"].shape[0] == 2


def test_a_sum_over_clients_is_attacked_as_a_batch(path, model, inside):
    from fedpriv_attacks.inversion.generative import _residual

    x, view = inside
    z = np.random.default_rng(8).normal(size=(2, LATENT)).astype(np.float32)
    x, y = Latent(generator=path).decoder().decode(z).numpy(), np.array([1, 8])
    summed = dataclasses.replace(view, kind="sum", clients=2, num_examples=(1, 1), labels=y)
    summed = dataclasses.replace(summed, observed=summed.simulate(x, y).numpy())
    finding = ggl(path, labels="joint", restarts=3).run(summed)
    assert finding.x.shape == (2, *SHAPE)
    assert np.linalg.norm(_residual(summed, x, y)) < 1e-4
    assert finding.extra["unexplained"] < 0.05


def test_an_update_that_says_nothing_is_refused(path, inside):
    empty = dataclasses.replace(inside[1], observed=np.zeros_like(inside[1].observed))
    with pytest.raises(CapabilityError, match="exactly zero"):
        ggl(path).run(empty)


def test_without_a_second_step_gias_is_ggl(path, inside, found):
    finding = gias(path, refine="none").run(inside[1], seed=1)
    np.testing.assert_array_equal(finding.x, found.x)


@pytest.fixture(scope="module")
def pruned(inside):
    """The view of a client that sends a tenth of its gradient."""
    view, defense = inside[1], TopK(fraction=0.1)
    magnitudes = np.abs(view.observed)
    sent = np.where(magnitudes >= np.sort(magnitudes)[-kept(0.1, magnitudes.size)], view.observed, 0)
    return dataclasses.replace(view, observed=sent.astype(np.float32), defenses=(defense,), states=((),))


def test_the_likelihood_of_what_was_sent_finds_what_that_of_the_whole_does_not(path, inside, pruned):
    """Who does not know that nine tenths were left out explains zeros; who looks at the rest alone finds the image."""
    x, blind = inside[0], dataclasses.replace(pruned, defenses=(), states=())
    masked = ggl(path, objective=Masked(inner=NoiseLikelihood(free_scale=True))).run(blind, seed=1)
    assert float(psnr(masked.x[0], x[0])) > float(psnr(ggl(path).run(blind, seed=1).x[0], x[0])) + 10


def test_the_second_step_takes_an_objective_that_goes_by_the_defense(path, pruned):
    quick = {"refine_optimizer": Adam(steps=20), "objective": "consistent", "restarts": 1}
    finding = gias(path, **quick).run(pruned, seed=1)
    first = finding.extra["latent_step"]
    assert finding.evaluations > first["evaluations"]
    with pytest.raises(CapabilityError, match="changed by no known defense"):
        gias(path, **quick).run(dataclasses.replace(pruned, defenses=(), states=()))


@pytest.mark.slow
def test_a_batch_with_labels_optimized_jointly(path, model, helpers):
    z = np.random.default_rng(6).normal(size=(2, LATENT)).astype(np.float32)
    x = Latent(generator=path).decoder().decode(z).numpy()
    finding = gias(path, refine="residual", labels="joint", restarts=3).run(helpers.make_view(model, x, [1, 8]))
    assert finding.x.shape == (2, *SHAPE)
    assert finding.extra["label_probabilities"].shape == (2, 10)
    assert sorted(finding.y) == [1, 8]


@pytest.mark.slow
def test_double_precision_and_local_steps(path, helpers):
    model = helpers.dense(SHAPE, dtype="float64")
    z = np.random.default_rng(5).normal(size=(1, LATENT))
    x = Latent(generator=path).decoder().decode(z).numpy()
    finding = ggl(path).run(helpers.make_view(model, x, [7], helpers.local_steps(3)))
    assert float(psnr(finding.x[0], x[0])) > 35


def test_other_shapes_are_refused_by_name(path, helpers):
    model = helpers.dense((6, 8, 1))
    view = helpers.make_view(model, helpers.smooth_images(1, (6, 8, 1)), [0])
    with pytest.raises(ParameterError, match=r"generator 'small.npz' makes examples of shape \(8, 8, 1\)"):
        ggl(path).run(view)
    with pytest.raises(ParameterError, match="'fashion' makes examples"):
        GGL().run(view)


def test_other_coordinates_are_refused(inside):
    _, view = inside
    with pytest.raises(ParameterError, match="'latent_norm' needs coordinates 'latent', not 'pixels'"):
        GGL(coordinates="fedpriv_attacks.parts.coordinates:Pixels").run(view)
    with pytest.raises(ParameterError, match="'ggl' needs coordinates 'latent', not 'pixels'"):
        GGL(coordinates="fedpriv_attacks.parts.coordinates:Pixels", priors=()).run(view)


@pytest.mark.parametrize("kind", [Latent, LatentAndResidual, LatentAndWeights])
def test_coordinates_start_in_the_generators_range_and_are_differentiable(path, kind):
    coordinates, shape = kind(generator=path, spread=1.0), (2, *SHAPE)
    v = coordinates.start(tf.zeros(shape), tf.constant([1, 2]))
    assert v.shape == (coordinates.size(shape),)
    z = tf.reshape(v[: 2 * LATENT], [2, LATENT])
    with tf.GradientTape() as tape:
        tape.watch(v)
        x = coordinates.decode(v, shape)
        value = tf.reduce_sum(tf.square(x))
    np.testing.assert_allclose(x, coordinates.decoder().decode(z), atol=1e-6)
    gradient = tape.gradient(value, v).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:LATENT]).max() > 0
    assert np.abs(gradient[-1]) > 0
    assert 0.5 < np.std(z) < 2


def test_the_latents_priors_are_negative_log_densities(path):
    shape = (1, *SHAPE)
    v = tf.constant(np.random.default_rng(0).normal(size=LATENT + 64))
    coordinates = LatentAndResidual(generator=path)
    x = coordinates.decode(v, shape)
    scene = Scene(None, None, None, v, (), coordinates)
    parts = float(LatentNorm(weight=2.0)(x, scene)), float(FreedNorm(weight=1.0)(x, scene))
    assert parts == pytest.approx((np.sum(v[:LATENT] ** 2), 0.5 * np.sum(v[LATENT:] ** 2)))
    with pytest.raises(ParameterError, match="'freed_norm' needs coordinates 'latent_and_residual', not 'latent'"):
        FreedNorm()(x, scene._replace(coordinates=Latent(generator=path)))


def test_the_likelihood_is_that_of_noise_of_the_best_size(model):
    rng = np.random.default_rng(0)
    observed = rng.normal(size=model.spec.size)
    observed /= np.linalg.norm(observed)
    noise = rng.normal(size=observed.shape) * 1e-3

    def exact(error):
        size = np.mean(error**2)
        return 0.5 * np.sum(error**2) / size + 0.5 * len(error) * np.log(size)

    nll = NoiseLikelihood(floor_error=1e-12)
    ours = [float(nll(tf.constant(observed + s * noise), tf.constant(observed), model.spec)) for s in (1, 3)]
    assert ours[1] - ours[0] == pytest.approx(exact(3 * noise) - exact(noise), rel=1e-6)
    free = NoiseLikelihood(free_scale=True)
    values = [float(free(tf.constant(f * (observed + noise)), tf.constant(observed), model.spec)) for f in (1, 0.2)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert float(nll(tf.constant(observed), tf.constant(observed), model.spec)) == 0
