"""Noise from a short seed comes off, noise from 128 bits does not."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_experiments.weak_noise.attack import SeedSearch
from fedpriv_experiments.weak_noise.defense import WeakLocalDP
from fedpriv_experiments.weak_noise.philox import block, normal_pair

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import NORMAL_CHILD, child, gaussian
from fedpriv.data import load
from fedpriv.models import load as load_model
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

WEAK = WeakLocalDP(clip=1.0, noise_multiplier=1.0, bits=8)
SEARCH = SeedSearch(bits=8, then="first_layer")


def observe(defense, **more):
    _, test = load("fashion_small")
    model = load_model("logistic", test.input_shape, test.num_classes)
    return Exposure(model, test, 1, defenses=(defense,), **more).observe(0)[0]


def test_it_is_the_generator_that_defenses_use():
    words = np.array([0, 5, 2**31, 2**32 - 1], np.uint64)
    first, second = block(words, NORMAL_CHILD % (1 << 64), 0)
    for n in (7, 10):
        pairs = (n + 1) // 2
        found = [normal_pair(first.view(np.uint64), second.view(np.uint64), j, pairs) for j in range(pairs)]
        values = np.concatenate([np.stack([pair[k] for pair in found]) for k in (0, 1)])[:n]
        for i, word in enumerate(words):
            seed = tf.constant([int(word), 0], tf.int64)
            np.testing.assert_array_equal(child(seed, NORMAL_CHILD), [first[i], second[i]])
            np.testing.assert_allclose(values[:, i], gaussian(seed, [n], "float64"), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_noise_from_a_short_seed_comes_off():
    seen = observe(WEAK)
    noised = run_trial(SEARCH.then, seen).score.images[0].psnr
    found = run_trial(SEARCH, seen)
    assert found.score.images[0].psnr > 40 > 15 > noised
    assert found.score.images[0].label_right
    assert 1 <= found.finding.measures["words_tried"] <= 256


def test_noise_from_128_bits_stays():
    with pytest.raises(CapabilityError, match="none of the 256 seeds of 8 bits explains this message's noise"):
        run_trial(SEARCH, observe(LocalDP(clip=1.0, noise_multiplier=1.0)))


@pytest.mark.slow
def test_fewer_bits_than_the_generator_has_find_nothing():
    words = {observe(WEAK, seed=s).view.observed.tobytes() for s in range(3)}
    assert len(words) == 3
    with pytest.raises(CapabilityError, match="is seeded with more bits"):
        run_trial(SeedSearch(bits=1, then="first_layer"), observe(WEAK))


@pytest.mark.slow
def test_without_noise_that_it_knows_there_is_nothing_to_take_off():
    from fedpriv_defenses.clip import Clip

    from fedpriv.threat.adversary import Adversary

    with pytest.raises(CapabilityError, match="with 0 such defenses"):
        run_trial(SEARCH, observe(Clip(norm=1.0)))
    with pytest.raises(CapabilityError, match="with 0 such defenses"):
        run_trial(SEARCH, observe(WEAK, adversary=Adversary.parse("server", blind=["defense"])))


def test_it_promises_nothing():
    _, test = load("fashion_small")
    model = load_model("logistic", test.input_shape, test.num_classes)
    assert Exposure(model, test, 1, defenses=(WEAK,)).federation.ledger() is None


def test_noise_too_weak_to_tell_seeds_apart_is_left_on():
    weak = WeakLocalDP(clip=100.0, noise_multiplier=0.001, bits=8)
    with pytest.raises(CapabilityError, match="too little beside a clip of 100 to tell the right seed"):
        run_trial(SEARCH, observe(weak))


def test_what_the_other_attack_brings_in_is_its_own_knowledge():
    search = SeedSearch(bits=8, then="ggl")
    assert search.brings() == search.then.brings() != ()
