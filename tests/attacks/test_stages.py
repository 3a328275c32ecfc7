"""Stages: priors that weigh less and less, and the heaviest kept under which the update is explained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.inversion.inverting_gradients import InvertingGradients
from fedpriv_attacks.inversion.matching import _CACHE, Restarts, reconstruct
from fedpriv_attacks.inversion.stages import heaviest, mismatch, unsettled_mismatch
from fedpriv_attacks.parts.optimizers.first_order import SGD
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.metrics.image import psnr

SHAPE = (8, 8, 1)
LIGHT = {"restarts": 1, "labels": "auto", "optimizer.max_evaluations": 600}


def test_a_lighter_prior_must_explain_twice_as_much():
    assert heaviest([1e-2, 1e-3, 6e-4, 9e-4]) == 1
    assert heaviest([1e-2, 1e-3, 1e-5]) == 2
    assert heaviest([1e-2, 9e-3, 8e-3]) == 0
    assert heaviest([float("inf"), 1e-2]) == 1
    assert heaviest([float("inf")]) == 0


@pytest.mark.slow
def test_where_the_update_decides_the_prior_goes(helpers):
    model = helpers.dense(SHAPE)
    x, y = helpers.smooth_images(1, SHAPE, 3), [5]
    view = helpers.make_view(model, x, y)
    heavy = {**LIGHT, "priors": "total_variation(weight=0.1)"}
    one, all_of_them = DLG(**heavy).run(view), DLG(**heavy, stages=4, easing=0.03).run(view)
    errors = all_of_them.extra["stages"]
    assert errors[0] == pytest.approx(mismatch(view, one))
    assert errors[-1] < 1e-3 * errors[0]
    assert float(psnr(all_of_them.x[0], x[0])) > float(psnr(one.x[0], x[0])) + 10
    assert all_of_them.evaluations > one.evaluations
    assert all_of_them.history[-1, 0] <= all_of_them.evaluations
    assert np.all(np.diff(all_of_them.history[:, 0]) > 0)


@pytest.mark.slow
def test_stages_are_judged_before_their_images_are_clipped(helpers):
    """Black pixels that come out a little below zero are clipped: nearer to the truth, farther from the update."""
    x, y = np.round(helpers.smooth_images(1, SHAPE, 3)), [5]  # black and white
    model = helpers.dense(SHAPE)
    clean = helpers.make_view(model, x, y).observed
    noise = np.random.default_rng(0).normal(size=clean.shape) * 1e-2 * np.linalg.norm(clean) / np.sqrt(clean.size)
    view = helpers.make_view(model, x, y, observed=(clean + noise).astype(np.float32))
    attack = DLG(**LIGHT, priors="total_variation(weight=1e-9)")
    finding, recipe = attack.run(view), attack.recipe()
    decoded = recipe.coordinates.decode(tf.constant(finding.extra["variables"][0]), (1, *SHAPE)).numpy()
    assert decoded.min() < 0
    np.testing.assert_allclose(np.clip(decoded, 0, 1), finding.x, atol=1e-6)
    assert float(psnr(finding.x[0], x[0])) > float(psnr(decoded[0], x[0]))
    unclipped = unsettled_mismatch(view, finding, recipe)
    assert unclipped < mismatch(view, finding)
    assert mismatch(view, replace(finding, x=decoded)) == pytest.approx(unclipped, rel=1e-3)
    assert attack.with_(stages=2).run(view).extra["stages"][0] == pytest.approx(unclipped, rel=1e-3)


@pytest.mark.slow
def test_where_noise_decides_the_prior_stays(helpers):
    model = helpers.dense(SHAPE)
    x, y = helpers.smooth_images(1, SHAPE, 3), [5]
    clean = helpers.make_view(model, x, y).observed
    noise = np.random.default_rng(0).normal(size=clean.shape) * np.linalg.norm(clean) / np.sqrt(clean.size)
    view = helpers.make_view(model, x, y, observed=(clean + noise).astype(np.float32))
    heavy = {**LIGHT, "priors": "total_variation(weight=0.1)"}
    found = DLG(**heavy, stages=2, easing=0.01, path=True).run(view)
    first = DLG(**heavy).run(view)
    # The way ends at what is kept, though a lighter stage was tried after it.
    np.testing.assert_allclose(found.path[-1], found.x, atol=1e-3)
    assert found.history[-1, 0] == first.history[-1, 0] < found.evaluations
    assert len(found.extra["stages"]) == 2
    np.testing.assert_array_equal(found.x, first.x)
    assert found.evaluations > first.evaluations


@pytest.mark.slow
def test_no_stage_is_made_at_the_noise_floor(helpers):
    x = helpers.smooth_images(1, SHAPE, 3)
    view = helpers.make_view(helpers.dense(SHAPE), x, [5], helpers.local_steps(1, 1e-4))
    found = Inversion(labels="auto", stages=4).run(view)
    assert len(found.extra["stages"]) == 1


@pytest.mark.slow
def test_stages_are_runs_of_lighter_priors_and_slower_rates_in_one_graph(helpers):
    view = helpers.make_view(helpers.dense(SHAPE), helpers.smooth_images(1, SHAPE, 3), [5])
    easing, prior = 0.16, "total_variation(weight={})"
    attack = InvertingGradients(optimizer="adam(steps=20)", stages=3, easing=easing, priors=prior.format(0.01))
    _CACHE.clear()
    found = attack.run(view)
    assert len(_CACHE) == 1
    x = None
    for stage in range(3):
        rate = attack.optimizer.learning_rate * easing ** (stage / 4)
        once = attack.with_(
            stages=1, priors=prior.format(0.01 * easing**stage), optimizer=f"adam(steps=20,learning_rate={rate})"
        )
        seen = reconstruct(view, once.recipe(), Restarts(), once.initializer, found.y, 0, x)
        x = seen.extra["variables"]
        error = unsettled_mismatch(view, seen, once.recipe())
        assert found.extra["stages"][stage] == pytest.approx(error, rel=1e-2)
    # The factors count: without them the last stage ends elsewhere.
    plain = attack.with_(easing=1.0).run(view)
    assert plain.extra["stages"][0] == found.extra["stages"][0]
    assert plain.extra["stages"][2] != pytest.approx(found.extra["stages"][2], rel=0.05)


def test_only_optimizers_with_a_rate_take_a_pace():
    def bowl(v):
        return tf.reduce_sum(v**2), 2 * v

    start, half = tf.constant([1.0, -2.0]), tf.constant(0.5)
    once = SGD(steps=1, learning_rate=0.1).slowed(0.5).minimize(bowl, start)
    np.testing.assert_allclose(SGD(steps=1, learning_rate=0.1).minimize(bowl, start, pace=half).position, once.position)
    np.testing.assert_allclose(once.position, [0.9, -1.8], rtol=1e-6)
    with pytest.raises(ParameterError, match="'lbfgs' has no learning rate"):
        LBFGS().minimize(bowl, start, pace=half)
    assert LBFGS().slowed(0.5) == LBFGS()
