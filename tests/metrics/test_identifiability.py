"""IIP: known answers, matching, ties, and what is refused."""

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.data.dataset import Dataset
from fedpriv.metrics import identifiability as module
from fedpriv.metrics.identifiability import identifiability, logits_of
from fedpriv.metrics.interval import wilson

SHAPE = (6, 5, 3)


def images(n, seed=0):
    return np.random.default_rng(seed).random((n, *SHAPE)).astype(np.float32)


def noisy(x, amount=0.05, seed=9):
    return x + np.random.default_rng(seed).normal(0, amount, x.shape).astype(np.float32)


def test_good_reconstructions_identify_their_originals_in_any_order():
    x = images(6)
    found = identifiability(noisy(x)[[3, 1, 5, 0, 2, 4]], x, images(300, seed=1))
    assert found.identified.all()
    assert found.precision == 1
    assert found.interval == wilson(6, 6)
    assert found.gallery == 306
    assert found.nearest.tolist() == list(range(6))


def test_a_reconstruction_nearer_to_a_stranger_identifies_nobody():
    x, others = images(3), images(40, seed=1)
    found = identifiability(np.stack([noisy(x)[0], others[7], noisy(x)[2]]), x, others, matched=[0, 1, 2])
    assert found.identified.tolist() == [True, False, True]
    assert found.nearest[1] == 3 + 7
    assert found.precision == pytest.approx(2 / 3)


def test_noise_finds_its_own_at_the_rate_of_chance():
    x = images(200)
    found = identifiability(images(200, seed=5), x, images(200, seed=1), matched=np.arange(200))
    assert found.precision < 0.03


def test_one_image_reconstructed_twice_counts_once():
    x = images(2)
    found = identifiability(np.stack([noisy(x)[0], noisy(x, seed=10)[0]]), x, images(50, seed=1))
    assert found.identified.tolist() == [True, False]


def test_spare_missing_and_spoiled_reconstructions_are_failures():
    x = images(2)
    spare = np.concatenate([images(2, seed=3), noisy(x)])
    assert identifiability(spare, x, images(50, seed=1)).precision == 0
    assert identifiability(noisy(x)[1:], x).identified.tolist() == [False, True]
    assert identifiability(np.zeros((0, *SHAPE)), x).nearest.tolist() == [-1, -1]
    spoiled = noisy(x)
    spoiled[0, 0, 0, 0] = np.inf
    found = identifiability(spoiled, x, matched=[0, 1])
    assert found.identified.tolist() == [False, True]
    assert found.nearest.tolist() == [-1, 1]


def test_originals_in_the_gallery_are_counted_once():
    x, others = images(4), images(20, seed=1)
    everything = np.concatenate([others[:10], x[[2, 0]], others[10:]])
    found = identifiability(noisy(x), x, everything)
    assert found.precision == 1
    assert found.gallery == 24
    levels = (images(30, seed=2) * 255).astype(np.uint8)
    data = Dataset("crowd", levels, np.zeros(30, np.int32), 2)
    found = identifiability(noisy(data.floats()[5:8], 0.01), data.floats()[5:8], data)
    assert found.precision == 1
    assert found.gallery == 30


def test_copies_in_the_gallery_are_ties_or_refused():
    x = images(3)
    crowd = np.concatenate([x[[1]], images(9, seed=1), x[[1]]])
    found = identifiability(noisy(x), x, crowd)
    assert found.identified.tolist() == [True, False, True]
    assert found.tied.tolist() == [False, True, False]
    with pytest.raises(ParameterError, match=r"originals \[1\] have an identical copy"):
        identifiability(noisy(x), x, crowd, duplicates="refuse")
    twins = x[[0, 1, 0]]
    assert identifiability(noisy(twins), twins).identified.tolist() == [False, True, False]


def test_ties_in_the_features_are_failures():
    x = images(3)
    found = identifiability(x, x, images(5, seed=1), features=lambda a: np.zeros((len(a), 2)))
    assert found.tied.all()
    assert found.precision == 0


def test_a_gallery_that_takes_many_pieces_gives_the_same(monkeypatch):
    x, others = images(5), images(150, seed=1)
    rough = noisy(x, 1.5)
    whole = identifiability(rough, x, others, matched=range(5))
    assert 0 < whole.precision < 1
    monkeypatch.setattr(module, "_CHUNK", 2)
    parts = identifiability(rough, x, others, matched=range(5))
    np.testing.assert_array_equal(parts.nearest, whole.nearest)
    np.testing.assert_array_equal(parts.identified, whole.identified)


def test_features_decide_what_is_near():
    x = images(4)
    shifted = np.roll(x, 1, axis=2)
    others = images(60, seed=1)
    means = lambda a: a.mean(axis=(1, 2))  # noqa: E731
    assert identifiability(shifted, x, others, features=means, matched=range(4)).precision == 1
    dark = x * 0.2
    assert identifiability(dark, x, others, matched=range(4), distance="cosine").precision == 1
    assert identifiability(dark, x, np.concatenate([others, others * 0.2]), matched=range(4)).precision < 1


def test_a_models_logits_are_features(logistic_model, toy):
    features = logits_of(logistic_model, logistic_model.initial_weights(0), batch=4)
    x = toy.x[:3]
    assert features(x).shape == (3, 3)
    assert identifiability(x, x, toy, features=features).precision == 1


def test_feature_vectors_have_identities_too():
    x = np.random.default_rng(0).random((4, 7))
    assert identifiability(x + 0.01, x).precision == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"reconstructions": np.zeros((3, 4, 4, 3))}, "the reconstructions are"),
        ({"gallery": np.zeros((3, 4, 4, 3))}, "the gallery are"),
        ({"originals": np.zeros((0, *SHAPE))}, "no originals"),
        ({"distance": "cosin"}, "Did you mean 'cosine'"),
        ({"duplicates": "ignore"}, "duplicates='ignore'"),
        ({"features": lambda a: a}, "one vector each"),
        ({"features": lambda a: np.full((len(a), 2), np.nan)}, "not finite"),
        ({"matched": [0, 0]}, "at most once"),
        ({"matched": [0, 5]}, "at most once"),
        ({"matched": [0]}, "2 integers"),
        ({"originals": np.full((2, *SHAPE), np.nan)}, "originals must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, says):
    x = images(2)
    with pytest.raises(ParameterError, match=says):
        identifiability(**{"reconstructions": x, "originals": x, "gallery": images(5, seed=1), **arguments})
