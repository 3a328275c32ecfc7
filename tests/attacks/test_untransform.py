"""Untransform: images come back from behind a known transform, their ways are told, and it refuses what it must."""

import numpy as np
import pytest
from fedpriv_attacks.mixed.untransform import Untransform, fitted
from fedpriv_defenses.ats.ats import ATS

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks
from fedpriv.data.embedded import fashion_small
from fedpriv.models.zoo import lenet, mlp
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


def quality(found, truth):
    return -10 * np.log10(np.mean((np.clip(found, 0, 1) - truth) ** 2, axis=(1, 2, 3)))


@pytest.mark.slow
def test_an_image_comes_back_that_the_static_attack_finds_moved(data):
    model = mlp((28, 28, 1), 10, hidden=(20,), activation="sigmoid")
    o = next(iter(Exposure(model, data, 1, 1, defenses=(ATS(policy="43-18"),), seed=1)))
    inner = "dlg(restarts=1,optimizer.max_evaluations=150)"
    trial = run_trial(Untransform(inner=inner, replay=False, steps=150), o)
    # What it starts from is what the attack gives that does not know the defense.
    static = quality(trial.finding.extra["transformed"], o.truth.x)[0]
    assert static < 15
    assert trial.score.images[0].psnr > static + 8


@pytest.mark.slow
def test_a_published_policy_is_undone_through_the_replay(data):
    # Images on which nothing was chosen.
    model, gains, others = lenet((28, 28, 1), 10, init="uniform"), [], data.take(np.arange(100, 103))
    for o in Exposure(model, others, 3, 1, defenses=(ATS(policy="43-18-18"),), seed=11):
        trial = run_trial(attacks.create("untransform(inner=dlg(restarts=2))"), o)
        assert trial.replayed == ("ats",)
        gains.append(trial.score.images[0].psnr - quality(trial.finding.extra["transformed"], o.truth.x)[0])
    assert np.mean(gains) > 4


def test_ways_are_told_by_what_they_leave(data):
    made, x = ATS(policy="3-1-7").transformation(), data.floats(np.arange(4))
    true = np.array([0, 3, 5, 6])
    there = made.apply(tf.constant(x), tf.constant(true)).numpy()
    every = fitted(np.tile(there, (8, 1, 1, 1)), np.repeat(np.arange(8), 4), made, 100)
    misfit = every.misfit.reshape(8, 4)
    np.testing.assert_array_equal(misfit.argmin(0), true)
    assert np.sort(misfit, 0)[1].min() > 3 * misfit.min(0).max()


def test_it_needs_to_know_a_transform(data):
    model = mlp((28, 28, 1), 10, hidden=(4,), activation="sigmoid")
    blind = Adversary(knows=Adversary().knows - {"defense"})
    for stack, adversary in (((), Adversary()), ((ATS(),), blind)):
        o = next(iter(Exposure(model, data, 1, 1, defenses=stack, adversary=adversary)))
        with pytest.raises(CapabilityError, match=r"knows of none here \(defenses known: none\)"):
            Untransform().run(o.view)


def test_its_inner_attack_must_optimize():
    with pytest.raises(ParameterError, match="'first_layer' does not match an update by optimization"):
        attacks.create("untransform(inner=first_layer)")
