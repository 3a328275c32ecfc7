"""Peeling: whole batches of a wide ReLU layer, each example proven, and nothing that is not."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from fedpriv_attacks.exact import peel
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.exact.peel import Peel

from experiments.benchmarks.peel_steps import trained
from fedpriv import load_model, make_defense
from fedpriv.base.errors import CapabilityError
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import fashion_small
from fedpriv.models import zoo
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure

SHAPE, CLASSES = (6, 7, 1), 5
#: A batch of Fashion-MNIST's test images of which one was claimed with something of another.
# fmt: off
SEEN = (
    2, 25, 35, 49, 68, 147, 191, 279, 358, 477, 507, 585, 607, 624, 725, 800, 902, 916, 939, 958, 1006, 1051, 1089,
    1133, 1174, 1189, 1199, 1201, 1368, 1421, 1432, 1617, 1644, 1731, 1752, 1800, 1893, 1945,
)
# fmt: on


@pytest.fixture(scope="module")
def model():
    return zoo.mlp_2nn(SHAPE, CLASSES, [300])


def batch(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def weights(model, seed=0):
    """Kernels N(0, 1/4) before a ReLU, no biases."""
    rng = np.random.default_rng(seed)
    made = model.initialize(seed)
    return model.spec.flatten_numpy([rng.normal(0, 0.5, made[0].shape), *made[1:]])


def nearest(found, x):
    """How far each example found is from the nearest true one, in its worst value, and which that is."""
    claimed = found.x[: found.extra["recovered"]].reshape(-1, 1, x[0].size)
    apart = np.abs(claimed - x.reshape(1, len(x), -1)).max(axis=2)
    return apart.min(axis=1), apart.argmin(axis=1)


@pytest.mark.slow
def test_the_whole_batch_in_waves(helpers, model):
    x, y = batch(12)
    view = helpers.make_view(model, x, y, weights=weights(model))
    finding = Peel().run(view)
    apart, which = nearest(finding, x)
    assert sorted(which) == list(range(12))
    assert apart.max() < 1e-3
    np.testing.assert_array_equal(finding.y, y[which])
    assert max(finding.extra["certificates"]) < 1e-3
    np.testing.assert_allclose(finding.extra["weights"], 1 / 12, rtol=1e-3)
    assert finding.objective < 1e-6
    # Lone units alone give less.
    assert len(finding.extra["waves"]) > 1
    assert FirstLayer().run(view).extra["separated"] < 12


def test_what_a_sum_of_64_lacks_are_digits():
    # The same images of which float32 leaves out the one whose label the network is surest of.
    drawn = fashion_small()[1].take(np.random.default_rng(0).choice(2000, 64, replace=False))
    recovered = {}
    for dtype in ("float32", "float64"):
        model = load_model(f"2nn(hidden=[1000],spread=0.5,dtype={dtype})", drawn.input_shape, drawn.num_classes)
        procedure = make_procedure(batch_size=None, client={"learning_rate": 1000.0})
        (seen,) = Exposure(model, drawn, 1, 64, procedure=procedure, seed=0)
        finding = Peel().run(seen.view)
        assert nearest(finding, seen.truth.x)[0].max() < 1e-2
        recovered[dtype] = finding.extra["recovered"]
    assert recovered == {"float32": 63, "float64": 64}


def test_past_its_reach_it_claims_only_what_is_there(helpers):
    narrow = zoo.mlp_2nn(SHAPE, CLASSES, [80])
    x, y = batch(24, 1)
    finding = Peel().run(helpers.make_view(narrow, x, y, weights=weights(narrow, 1)))
    assert 0 < finding.extra["recovered"] == sum(finding.extra["waves"]) < 24
    assert nearest(finding, x)[0].max() < 1e-2
    assert np.isnan(finding.x[finding.extra["recovered"] :]).all()
    assert "no unit is left" in finding.extra["reason"]
    assert "at least 30 units" in finding.extra["reason"]


def test_an_example_that_is_there_twice_is_not_told_from_two_alike(helpers, model):
    x, y = batch(6, 2)
    x, y = np.concatenate([x, x[:1]]), np.append(y, y[0])
    finding = Peel().run(helpers.make_view(model, x, y, weights=weights(model)))
    assert finding.extra["rank"] == 6
    assert finding.extra["unsure"] == 1
    assert sorted(nearest(finding, x)[1]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("alike", [0.9, 0.97])
def test_the_mean_of_examples_much_alike_is_not_claimed(helpers, model, alike):
    """Two exposures of an image fire the same units: what is read off them is their mean, of twice the weight."""
    x, y = batch(4, 2)
    x, y = np.concatenate([x, alike * x[:3]]), np.concatenate([y, y[:3]])
    finding = Peel().run(helpers.make_view(model, x, y, weights=weights(model)))
    assert finding.extra["unsure"] == 3
    assert finding.extra["recovered"] == 1
    assert nearest(finding, x)[0].max() < 1e-3


def peeled(model, x, y, steps=1, rate=0.1, defense=None, weights=None):
    """What a server finds in one client's update."""
    data = Dataset("batch", x, np.asarray(y, np.int32), CLASSES)
    procedure = make_procedure(batch_size=None, local_epochs=steps, client={"learning_rate": rate})
    defenses = (make_defense(defense),) if defense else ()
    (observation,) = Exposure(model, data, 1, len(x), procedure=procedure, defenses=defenses, seed=0, weights=weights)
    return Peel().run(observation.view)


@pytest.mark.parametrize("how", [{"rate": 1e-3}, {"steps": 2, "rate": 1e-3}, {"defense": "clip(norm=0.1)"}])
def test_pairs_alike_are_not_claimed_where_little_tells_them(model, how):
    """Rounding hides what two differ in; over steps, or behind clipping, one example's weight is not so plain."""
    x, y = batch(4, 2)
    finding = peeled(model, np.concatenate([x, 0.9 * x]), np.concatenate([y, y]), **how)
    assert finding.extra["recovered"] == 0
    assert finding.extra["unsure"] > 0


def test_what_is_outside_of_its_kinds_range_is_not_claimed_as_moved_into_it():
    """Pixels from 0 to 255 under a network unsure enough to move: they are found, but are no images."""
    model = zoo.mlp_2nn(SHAPE, CLASSES, [200, 50])
    base = model.spec.unflatten_numpy(model.initial_weights(0))
    unsure = model.spec.flatten_numpy([*base[:-2], base[-2] / 100, base[-1]])
    x, y = batch(2, 0)
    finding = peeled(model, 255 * x, y, rate=1e-2, weights=unsure)
    assert finding.extra["recovered"] == 0
    assert finding.extra["unsure"] == 2
    assert "outside of the range" in finding.extra["reason"]


def test_behind_clipping_a_weight_that_most_have_is_ones(model):
    x, y = batch(8, 2)
    finding = peeled(model, x, y, defense="clip(norm=0.1)")
    assert finding.extra["recovered"] > 4
    assert nearest(finding, x)[0].max() < 1e-2


@pytest.mark.parametrize("task", ["", "task=binary,"])
def test_of_two_classes_no_mixture_is_claimed(helpers, task):
    """One direction of gradients for all labels, and examples so near that they share linear regions."""
    model = load_model(f"mlp({task}hidden=[40],activation=relu)", input_shape=(9,), num_classes=2)
    recovered = unsure = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, y = (0.5 + rng.normal(0, 0.05, (8, 9))).astype(np.float32), rng.integers(0, 2, 8)
        finding = Peel().run(helpers.make_view(model, x, y, weights=model.initial_weights(seed)))
        assert nearest(finding, x)[0].max(initial=0) < 1e-2, seed
        recovered += finding.extra["recovered"]
        unsure += finding.extra["unsure"]
    assert recovered > 0
    assert unsure > 0  # mixtures, which the row space alone would believe


def test_quantities_leave_the_weight_open(helpers):
    model = load_model("mlp(hidden=[60],activation=relu)", input_shape=(9,), num_classes=0)
    x = np.random.default_rng(0).uniform(size=(4, 9)).astype(np.float32)
    with pytest.raises(CapabilityError, match="whose targets leave that open"):
        Peel().run(helpers.make_view(model, x, np.linspace(0, 1, 4, dtype=np.float32)))


@pytest.fixture(scope="module")
def without_bias():
    return zoo.mlp_2nn(SHAPE, CLASSES, [300], spread=0.5, first_bias=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_bias_lengths_are_found(helpers, without_bias, seed):
    """The last kernel's gradients make some labels sure, whose length only the weight tells."""
    x, y = batch(20, seed)
    view = helpers.make_view(without_bias, x, y, seed=seed)
    finding = Peel().run(view)
    assert finding.extra["recovered"] >= 18
    assert nearest(finding, x)[0].max() < 1e-2
    assert finding.y[: finding.extra["recovered"]].tolist() == y[nearest(finding, x)[1]].tolist()


def test_without_a_bias_a_wrong_weight_leaves_lengths_out(helpers, without_bias):
    """An update that somebody halved: no example weighs what the numbers say, and nobody is known to change weights."""
    x, y = batch(20, 0)
    whole = helpers.make_view(without_bias, x, y)
    half = helpers.make_view(without_bias, x, y, observed=whole.observed / 2)
    finding = Peel().run(half)
    assert finding.extra["recovered"] == 0
    assert finding.extra["unsure"] >= 18


def test_without_a_bias_two_labels_are_refused_and_a_narrow_layer_says_what_it_lacks(helpers):
    x, y = batch(4)
    two = load_model("2nn(hidden=[300],first_bias=False)", SHAPE, 2)
    with pytest.raises(CapabilityError, match="has no bias and labels are two"):
        Peel().run(helpers.make_view(two, x, y % 2))
    narrow = load_model("2nn(hidden=[50],first_bias=False)", SHAPE, CLASSES)
    finding = Peel().run(helpers.make_view(narrow, x, y))
    assert finding.extra["recovered"] == 0
    assert "at least 34 units" in finding.extra["reason"]


def test_noise_leaves_nothing_proven(helpers, model):
    x, y = batch(6)
    clean = helpers.make_view(model, x, y, weights=weights(model))
    assert Peel().run(clean).extra["recovered"] == 6
    noise = np.random.default_rng(0).normal(0, 1e-2, clean.observed.shape).astype(np.float32)
    noisy = helpers.make_view(model, x, y, weights=weights(model), observed=clean.observed + noise)
    assert Peel().run(noisy).extra["recovered"] == 0


def steps(count, rate, batch_size=None):
    return make_procedure(batch_size=batch_size, local_epochs=count, client={"learning_rate": rate})


@pytest.mark.parametrize(("count", "rate"), [(4, 0.01), (10, 0.005)])
def test_all_of_a_batch_over_several_steps(helpers, model, count, rate):
    """The last kernel moves; the shares are mixtures of where it was and where it went. Then replayed to the end."""
    x, y = batch(10, 4)
    finding = Peel().run(helpers.make_view(model, x, y, steps(count, rate)))
    assert finding.extra["recovered"] == 10
    apart, which = nearest(finding, x)
    assert apart.max() < 1e-3
    np.testing.assert_array_equal(finding.y, y[which])


def test_over_several_steps_the_number_of_examples_must_be_known(helpers, model):
    """A batch all of pairs looks like one of half as many examples, and weights are known roughly."""
    x, y = batch(10, 4)
    view = helpers.make_view(model, x, y, steps(4, 0.01))
    assert Peel().run(view).extra["recovered"] == 10
    assert Peel().run(replace(view, num_examples=None)).extra["recovered"] == 0


def test_a_part_over_steps_of_unknown_batches(helpers, model):
    x, y = batch(10, 4)
    finding = Peel().run(helpers.make_view(model, x, y, steps(2, 0.005, 5)))
    assert finding.extra["recovered"] >= 1
    np.testing.assert_allclose(finding.extra["weights"], 2 / 5, rtol=1e-2)  # two epochs in batches of five
    assert nearest(finding, x)[0].max() < 1e-2


def test_steps_that_move_what_fires_leave_nothing_proven(helpers, model):
    x, y = batch(10, 4)
    assert Peel().run(helpers.make_view(model, x, y, steps(10, 1.0))).extra["recovered"] == 0


def test_over_several_steps_the_mean_of_examples_much_alike_is_not_claimed(helpers, model):
    x, y = batch(4, 2)
    x, y = np.concatenate([x, 0.9 * x]), np.concatenate([y, y])
    finding = Peel().run(helpers.make_view(model, x, y, steps(4, 0.001)))
    assert nearest(finding, x)[0].max(initial=0) < 1e-2
    assert finding.extra["unsure"] > 0


def test_over_several_steps_a_mixture_that_fits_by_chance_is_not_claimed():
    """3% of another image, whose weight and own share fit: of a network that was trained for a while."""
    model, weights_then = trained(300, 30)
    _, test = fashion_small()
    data = test.take(np.array(SEEN))
    (seen,) = Exposure(model, data, 1, 38, procedure=steps(6, 0.01), seed=0, weights=weights_then)
    finding = Peel().run(seen.view)
    assert finding.extra["recovered"] >= 1
    assert nearest(finding, seen.truth.x)[0].max() < 1e-2


def test_masks_that_are_not_known_are_named(helpers):
    x, y = batch(4, 1)
    model = zoo.mlp_2nn(SHAPE, CLASSES, [300], dropout=0.3)
    (seen,) = Exposure(model, Dataset("made", x, y.astype(np.int32), CLASSES), 1, 4)
    finding = Peel().run(seen.view)
    assert finding.extra["recovered"] == 0
    assert "masks or noise that are not known" in finding.extra["reason"]


def test_what_it_does_not_apply_to(helpers, model):
    x, y = batch(4)
    with pytest.raises(CapabilityError, match="one example fires alone"):
        Peel().run(helpers.make_view(helpers.dense(SHAPE, CLASSES), x, y))
    x, y = batch(60)
    with pytest.raises(CapabilityError, match="at most 42 examples"):
        Peel().run(helpers.make_view(model, x, y))


@pytest.mark.slow
def test_no_certificate_is_false(helpers, model):
    for seed in range(1000):
        n = 2 + seed % 38
        x, y = batch(n, seed)
        finding = Peel().run(helpers.make_view(model, x, y, weights=weights(model, seed)))
        assert nearest(finding, x)[0].max(initial=0) < 1e-2, seed


def lone_in_turn(model, view, x):
    """Which examples units that fire for one alone give, one after the other, by the true activations."""
    kernel, bias = model.spec.unflatten_numpy(np.asarray(view.weights))[:2]
    on, known = x.reshape(len(x), -1) @ kernel + bias > 0, np.zeros(len(x), bool)
    while True:
        lone = on[:, np.sum(on[~known], axis=0) == 1] & ~known[:, None]
        if not lone.any():
            return known
        known |= lone.any(axis=1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_carries_as_far_as_lone_units_do(helpers, seed):
    model = zoo.mlp_2nn(SHAPE, CLASSES, [200])
    x, y = batch(36, seed)
    view = helpers.make_view(model, x, y, weights=weights(model, seed))
    finding = Peel().run(view)
    apart, which = nearest(finding, x)
    reached = lone_in_turn(model, view, x)
    assert apart.max() < 1e-2
    assert set(which) <= set(np.flatnonzero(reached))
    assert len(set(which)) >= 0.9 * reached.sum()


def test_what_is_mixed_in_shows_in_the_weight(helpers, model):
    """Where the network is sure of a label, the row space does not see a hundredth of another example."""
    x, y = batch(12, 3)
    peeling = peel._Peeling(
        helpers.make_view(model, x, y, weights=weights(model, 3)), 1e-3, time.perf_counter() + 60, 0
    )
    found = peeling.run()
    assert len(found) == 12 == len(peeling.sure())
    assert max(peeling.strays(found, found)) <= 0

    def mixed(part):
        x = found[0].x + part * (found[1].x - found[0].x)
        one = replace(found[0], x=x)
        weight = peeling.space.weight(peeling.space.left.T @ one.row, one.share @ peeling.space.right)
        return replace(one, weight=weight)

    assert peeling.strays([mixed(0.01), mixed(0.1)], found) == pytest.approx([0.01, 0.1], rel=0.3)
    claimed = peel._weighed([mixed(0.01), *found[1:]], peeling)
    assert len(claimed) == 11
    assert claimed == found[1:]
    assert "may be mixed into them" in peel._reason("", 1)


def test_the_residual_that_fits_is_the_labels():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 3)
    residuals = p - np.eye(5)[[0, 3, 4]]
    assert list(peel._labels_of(residuals[:, 1:])) == [0, 3, 4]
    assert list(peel._labels_of(-residuals[:, 1:])) == [-1, -1, -1]
    a, b = rng.normal(size=(2, 6, 4, 4))
    a, b = a @ a.transpose(0, 2, 1), b @ b.transpose(0, 2, 1)
    values, vectors = peel._least(a, b)
    for i in range(6):
        wanted = scipy.linalg.eigh(a[i], b[i])[0][0]
        v = vectors[i]
        assert values[i] == pytest.approx(wanted, rel=1e-6) == (v @ a[i] @ v) / (v @ b[i] @ v)


def test_what_noise_leaves_imprecise_is_not_claimed(helpers, model):
    x, y = batch(6)
    clean = helpers.make_view(model, x, y, weights=weights(model))
    peeling = peel._Peeling(clean, 1e-3, time.perf_counter() + 60, 0)
    found = peeling.run()
    assert max(f.error for f in found) < peel.PRECISE
    peeling.found = [replace(found[0], error=2 * peel.PRECISE), *found[1:]]
    assert len(peeling.sure()) == 5
