"""Unmix: images from mixtures that the defenses themselves made, with enough of them, and none with too few."""

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.mixed.decoding import classes_of, decode, moments
from fedpriv_attacks.mixed.signs import darker_border, look_of, signed, smooth
from fedpriv_attacks.mixed.unmix import Unmix
from fedpriv_defenses.mixing.instahide import InstaHide
from fedpriv_defenses.mixing.mixup import MixUp

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import fashion_small
from fedpriv.defense.mixture import Mixture
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context
from fedpriv.metrics.matching import match
from fedpriv.models.zoo import mlp
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.testing.closeness import closeness

INNER = "dlg(restarts=3,tolerance=1e-11,optimizer.max_evaluations=1000)"
THOROUGH = "dlg(restarts=6,tolerance=1e-11,optimizer.max_evaluations=1000)"


@pytest.fixture(scope="module")
def small():
    """Images of 7 x 7: those that attacks are judged on come first, after 1000 come auxiliary ones."""
    train = fashion_small()[0]
    x = train.floats(np.arange(2000)).reshape(-1, 7, 4, 7, 4, 1).mean((2, 4)).astype(np.float32)
    return Dataset("fashion_7", x, train.y[:2000], 10)


@pytest.fixture(scope="module")
def model():
    return mlp((7, 7, 1), 10, hidden=(64,), activation="sigmoid")


def chosen(small, classes, each=1):
    rows = np.concatenate([np.flatnonzero(small.y[:1000] == c)[:each] for c in classes])
    return small.take(rows)


def encoded(defense, model, data, rounds):
    """What a client with `data` trains on in so many rounds: `[rounds n, p]` and shares of classes."""
    plan = Plan.everybody(1, model.spec.size, max_examples=len(data))
    x, y = tf.constant(data.floats(slice(None))), tf.constant(data.y)
    made = [
        defense.batch(x, y, Context(plan=plan, seed=tf.constant([7, r], tf.int64), model=model)).value
        for r in range(rounds)
    ]
    return np.concatenate([m[0].numpy() for m in made]).reshape(-1, 49), np.concatenate([m[1].numpy() for m in made])


def psnr(found, true):
    order = match(found.reshape(len(found), -1), true.reshape(len(true), -1))
    return float(-10 * np.log10(np.mean(np.square(found[order] - true)) + 1e-12))


@pytest.mark.parametrize(("rounds", "least"), [(1, 60), (3, 60)])
def test_plain_mixtures_of_different_classes_are_a_linear_system(rounds, least, small, model):
    data = chosen(small, (0, 3, 5))
    found = decode(*encoded(MixUp(), model, data, rounds), 3, MixUp().mixture())
    np.testing.assert_array_equal(found.y, [0, 3, 5])
    assert psnr(found.x, data.x.reshape(3, -1)) > least


def test_images_of_one_class_are_told_apart_by_clustering(small, model):
    data = chosen(small, (0, 3), each=2)
    found = decode(*encoded(MixUp(), model, data, 6), 4, MixUp().mixture())
    np.testing.assert_array_equal(found.y, [0, 0, 3, 3])
    assert psnr(found.x, data.x.reshape(4, -1)) > 60


def test_images_that_are_all_of_one_class_are_refused(small, model):
    data = chosen(small, (3,), each=3)
    with pytest.raises(CapabilityError, match="n = 3 images are of 1 classes"):
        decode(*encoded(MixUp(), model, data, 6), 3, MixUp().mixture())


def test_wrong_mixtures_among_right_ones_do_little(small, model):
    data = chosen(small, (0, 3, 5))
    encodings, shares = encoded(MixUp(), model, data, 6)
    rng = np.random.default_rng(0)
    encodings = encodings + rng.normal(0, 0.01, encodings.shape)
    encodings[[2, 9]] = rng.random((2, 49))
    assert psnr(decode(encodings, shares, 3, MixUp().mixture()).x, data.x.reshape(3, -1)) > 30
    spoiled = encodings + rng.normal(0, 0.5, encodings.shape)
    spoiled[:6] = encodings[:6]
    spoiled[2] = encodings[5]
    trust = np.where(np.arange(18) < 6, 1.0, 1e-4)
    shares[2] = shares[5]
    assert psnr(decode(spoiled, shares, 3, MixUp().mixture(), trust=trust).x, data.x.reshape(3, -1)) > 25


def test_without_signs_it_takes_as_many_mixtures_as_products(small, model):
    data, defense = chosen(small, (0, 3, 5)), InstaHide()
    encodings, shares = encoded(defense, model, data, 4)
    with pytest.raises(CapabilityError, match=r"need n \(n \+ 1\) / 2 = 6 independent mixtures, but 3 are seen"):
        decode(encodings[:3] - 0.5, shares[:3], 3, defense.mixture())
    found = decode(encodings - 0.5, shares, 3, defense.mixture())
    true = data.x.reshape(3, -1) - 0.5
    assert psnr(np.abs(found.x), np.abs(true)) > 60
    # One sign a coordinate is left, alike for all images.
    agree = np.sign(found.x) * np.sign(true) * (np.abs(true) > 1e-3)
    assert np.all(np.abs(agree.sum(0)) == np.abs(agree).sum(0))


def test_auxiliary_images_tell_the_signs_and_neighbours_alone_may_not(small, model):
    defense = InstaHide()
    look = look_of(small.x[1000:].reshape(1000, -1) - 0.5, small.y[1000:], 10)
    told, guessed = [], []
    for classes in ((0, 3, 5), (1, 4, 7), (2, 8, 9)):
        data = chosen(small, classes)
        encodings, shares = encoded(defense, model, data, 4)
        found = decode(encodings - 0.5, shares, 3, defense.mixture())
        true = data.x.reshape(3, -1) - 0.5
        told.append(psnr(signed(found.x, found.y, look), true))
        guessed.append(psnr(darker_border(signed(found.x, found.y, smooth((7, 7, 1))), (7, 7, 1)), true))
    assert np.median(told) > 25
    assert np.median(told) >= np.median(guessed)


@pytest.mark.slow
def test_hidden_images_of_one_class_are_told_apart_by_many_mixtures(small, model):
    data, defense = chosen(small, (0, 3), each=2), InstaHide()
    encodings, shares = encoded(defense, model, data, 20)
    found = decode(encodings - 0.5, shares, 4, defense.mixture())
    assert psnr(np.abs(found.x), np.abs(data.x.reshape(4, -1) - 0.5)) > 20


def test_public_images_are_averaged_out_by_hundreds_of_mixtures(small, model):
    mixture = Mixture(images=4, public=2, largest=0.65, flips=True)
    pool = small.x[1000:1300].reshape(300, -1) - 0.5
    true, rng = chosen(small, (0, 5)).x.reshape(2, -1) - 0.5, np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(4), 4000)
    weights = weights[weights.max(1) <= 0.65][:1000]
    plain = weights[:, :2] @ true + sum(weights[:, [j]] * pool[rng.integers(300, size=len(weights))] for j in (2, 3))
    encodings = plain * rng.choice([-1, 1], plain.shape)
    shares = np.zeros((len(weights), 10))
    shares[:, [0, 5]] = weights[:, :2] / weights[:, :2].sum(1, keepdims=True)
    public, look = moments(mixture, pool), look_of(small.x[1300:].reshape(700, -1) - 0.5, small.y[1300:], 10)

    def near(count):
        found = decode(encodings[:count], shares[:count], 2, mixture, public=public)
        return psnr(signed(found.x, found.y, look, public.shift) - public.shift, true)

    assert near(len(weights)) > 18
    assert near(10) < near(len(weights)) - 3


def test_classes_are_counted_by_their_part_of_all_shares():
    shares = np.zeros((4, 10))
    shares[:, 2], shares[:, 6] = 0.7, 0.3
    np.testing.assert_array_equal(classes_of(shares, 4), [2, 2, 2, 6])
    np.testing.assert_array_equal(classes_of(shares[:2], 2), [2, 6])


def episode(model, data, defense, rounds, seed=0, **more):
    exposure = Exposure(
        model,
        data,
        1,
        len(data),
        defenses=(defense,),
        rounds=rounds,
        procedure=more.pop("procedure", Procedure.fedsgd(weighting="uniform", learning_rate=1.0)),
        seed=seed,
        **more,
    )
    return exposure.episodes(0)[0]


def test_mixup_is_undone_from_updates(small, model):
    seen = episode(model, chosen(small, (0, 1, 2)), MixUp(), 2)
    found = Unmix(inner=INNER).run(seen.held, 0)
    assert closeness(found, seen.truth).examples > 18
    assert found.measures["encodings"] == 6


@pytest.mark.slow
def test_noise_in_place_of_updates_is_no_mixture(small, model):
    seen = episode(model, chosen(small, (0, 1, 2)), MixUp(), 2)
    attack = Unmix(inner=INNER)
    noise = np.random.default_rng(0)
    spoiled = dataclasses.replace(
        seen.held,
        pages=tuple(
            dataclasses.replace(p, observed=noise.normal(0, p.observed.std(), p.observed.shape).astype(np.float32))
            for p in seen.held.pages
        ),
    )
    try:
        control = closeness(
            attack.with_(inner="dlg(restarts=1,optimizer.max_evaluations=100)").run(spoiled, 0), seen.truth
        )
        assert control.examples < 12
    except CapabilityError:
        pass


@pytest.mark.slow
def test_instahide_is_undone_from_four_rounds_and_not_from_one(small, model, tmp_path):
    from fedpriv.threat.adversary import Adversary

    path = tmp_path / "others.npz"
    np.savez(path, x=small.x[1000:], y=small.y[1000:])
    seen = episode(model, chosen(small, (0, 1)), InstaHide(), 4, adversary=Adversary().knowing(f"auxiliary({path})"))
    attack = Unmix(inner=THOROUGH)
    assert closeness(attack.run(seen.held, 0), seen.truth).examples > 20
    with pytest.raises(CapabilityError, match="independent mixtures"):
        attack.run(seen.held.pages[0], 0)


@pytest.mark.slow
def test_it_refuses_what_it_cannot_undo(small, model):
    data = chosen(small, (0, 1))
    fast = Unmix(inner="dlg(restarts=1,optimizer.max_evaluations=20)")
    bare = episode(model, data, MixUp(), 1).held
    unknowing = dataclasses.replace(
        bare, pages=tuple(dataclasses.replace(p, defenses=(), states=()) for p in bare.pages)
    )
    with pytest.raises(CapabilityError, match="undoes mixing that it knows, and knows of none"):
        fast.run(unknowing, 0)
    steps = make_procedure(local_epochs=2, batch_size=None, weighting="uniform")
    with pytest.raises(CapabilityError, match="needs"):
        fast.run(episode(model, data, MixUp(), 1, procedure=steps).held, 0)
    few = episode(model, data, InstaHide(), 1).held
    with pytest.raises(CapabilityError, match=r"need n \(n \+ 1\) / 2 = 3 independent mixtures, but 2 are seen"):
        Unmix(inner="dlg(restarts=1000000)").run(few, 0)
    with pytest.raises(CapabilityError, match="cannot be told by their neighbours"):
        smooth((49,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unmix(inner=first_layer)", "does not match an update by optimization"),
        ("unmix(inner=idlg)", "finds one class an image"),
        ("unmix(restarts=0)", "restarts"),
    ],
)
def test_inner_attacks_that_cannot_serve_are_refused(text, message):
    with pytest.raises(ParameterError, match=message):
        attacks.create(text)
