"""Replays: exact, one gradient, surrogate weights, a batch an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.inversion.dlf import DLF
from fedpriv_attacks.inversion.inverting_gradients import InvertingGradients
from fedpriv_attacks.inversion.matching import merged
from fedpriv_attacks.inversion.sme import SME
from fedpriv_attacks.parts.replay import Epochs, Exact, OneGradient, Sent, Surrogate

from fedpriv.base.lazy import tf
from fedpriv.metrics.image import psnr
from fedpriv.metrics.matching import match
from fedpriv.procedure.procedure import make_procedure

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def model(helpers):
    return helpers.dense(SHAPE, dtype="float64")


def sent(view):
    dtype = view.model.spec.dtype
    return Sent(*(tf.constant(v, dtype) for v in (view.weights, view.observed, view.client_rate)))


def replayed(replay, view, x, y):
    own = tf.constant(replay.variables(), view.model.spec.dtype)
    return replay(view.static, sent(view), tf.constant(x), tf.constant(y), own).numpy()


def batches(n, size, epochs):
    return make_procedure(local_epochs=epochs, batch_size=size, client={"learning_rate": 0.1})


def test_one_step_is_the_same_for_all_but_the_surrogate(helpers, model):
    x, y = helpers.smooth_images(3, SHAPE).astype(float), [1, 2, 2]
    view = helpers.make_view(model, x, y)
    for replay in (Exact(), OneGradient(), Epochs(), Surrogate(start=0.0)):
        np.testing.assert_allclose(replayed(replay, view, x, y), view.observed, rtol=1e-9, atol=1e-12)


def test_after_several_steps_one_gradient_is_off_and_a_surrogate_is_nearer(helpers, model):
    x, y = helpers.smooth_images(2, SHAPE).astype(float), [1, 2]
    view = helpers.make_view(model, x, y, helpers.local_steps(5, 0.02))

    def error(replay):
        return np.linalg.norm(replayed(replay, view, x, y) - view.observed) / np.linalg.norm(view.observed)

    assert error(Exact()) < 1e-9
    assert error(OneGradient()) > 0.02
    assert error(Surrogate(start=0.5)) < 0.3 * error(OneGradient())


def test_one_gradient_is_as_long_as_all_the_steps_together(helpers, model):
    """At a vanishing rate the weights do not move, so it is exact."""
    x, y = helpers.smooth_images(4, SHAPE).astype(float), [1, 2, 3, 4]
    view = helpers.make_view(model, x, y, make_procedure(local_epochs=3, batch_size=2, client={"learning_rate": 1e-6}))
    np.testing.assert_allclose(replayed(OneGradient(), view, x, y), view.observed, rtol=1e-3, atol=1e-12)


def test_epochs_replay_each_epoch_on_its_own_batch(helpers, model):
    """Shuffling an epoch's copies reproduces what a client sends that shuffled that way."""
    x, y = helpers.smooth_images(4, SHAPE).astype(float), np.array([1, 2, 3, 4])
    procedure = batches(4, 2, 2)
    order = np.array([2, 0, 3, 1])
    view = helpers.make_view(model, x, y, procedure)
    assert Epochs().copies(view.static) == 2
    assert Epochs().copies(helpers.make_view(model, x, y, helpers.local_steps(5)).static) == 1

    same = replayed(Epochs(), view, np.concatenate([x, x]), np.concatenate([y, y]))
    np.testing.assert_allclose(same, view.observed, rtol=1e-9, atol=1e-12)
    shuffled = replayed(Epochs(), view, np.concatenate([x, x[order]]), np.concatenate([y, y[order]]))
    assert np.abs(shuffled - view.observed).max() > 1e-6

    by_hand = view.model.spec
    first = helpers.make_view(model, x, y, batches(4, 2, 1))
    second = helpers.make_view(model, x[order], y[order], batches(4, 2, 1), weights=first.weights + first.observed)
    np.testing.assert_allclose(shuffled, first.observed + second.observed, rtol=1e-8, atol=1e-12)
    assert by_hand.size == len(shuffled)


def test_long_runs_are_replayed_in_a_loop_to_the_same_numbers(helpers, model):
    x, y = helpers.smooth_images(2, SHAPE).astype(float), np.array([1, 2])
    procedure = batches(2, 1, 20)  # 40 steps, more than are unrolled
    view = helpers.make_view(model, x, y, procedure)
    copies = Epochs().copies(view.static)
    found = replayed(Epochs(), view, np.tile(x, (copies, 1, 1, 1)), np.tile(y, copies))
    np.testing.assert_allclose(found, view.observed, rtol=1e-8, atol=1e-12)


def test_merged_undoes_the_order_of_copies_within_labels():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(4, 3)), np.array([0, 1, 1, 0])
    copies = np.concatenate([x, x[[3, 2, 1, 0]]])
    np.testing.assert_allclose(merged(copies, 4, y), x)
    assert not np.allclose(merged(copies, 4, np.arange(4)), x)  # unequal labels never trade places


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize(("rate", "surrogate_helps"), [(0.2, True), (1.0, False)])
def test_the_exact_replay_beats_one_gradient_on_federated_averaging(helpers, rate, surrogate_helps, seed):
    """The surrogate's point lies on the straight line the weights would take, so it serves short ways only."""
    model = helpers.dense(SHAPE, hidden=96)
    x, y = helpers.smooth_images(4, SHAPE, seed), [1, 5, 7, 9]
    view = helpers.make_view(model, x, y, helpers.local_steps(5, rate), knows=("labels",))
    quality = {}
    for kind in (InvertingGradients, SME):
        for replay in ("exact", "one_gradient", "surrogate"):
            if (kind is SME) == (replay == "surrogate"):
                attack = kind(
                    replay=replay, labels="known", **{"optimizer.steps": 1500, "priors.total_variation.weight": 1e-3}
                )
                found = attack.run(view).x
                quality[replay] = np.median([float(psnr(a, b)) for a, b in zip(found[match(found, x)], x)])
    assert quality["exact"] > quality["one_gradient"] + 20
    assert bool(quality["surrogate"] > quality["one_gradient"] + 3) is surrogate_helps


@pytest.mark.slow
def test_shuffled_epochs_are_attacked_without_knowing_the_order(helpers):
    model = helpers.dense(SHAPE)
    x, y = helpers.smooth_images(4, SHAPE, 3), [1, 5, 7, 9]
    view = helpers.make_view(model, x, y, batches(4, 2, 2), knows=("labels",))
    attack = DLF(labels="known", **{"optimizer.steps": 300, "priors.total_variation.weight": 1e-3})
    finding = attack.run(view)
    assert finding.x.shape == (4, *SHAPE)
    assert finding.history[-1, 1] < 0.2 * finding.history[0, 1]
