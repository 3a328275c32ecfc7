"""Outpost: what it prunes, where and how large its noise is, how often, and the likelihood that knows it."""

import numpy as np
import pytest
from fedpriv_attacks.parts.known_noise import KnownNoise
from fedpriv_defenses.outpost import Outpost

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks, defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.models.zoo import lenet, mlp
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

EQUAL = Procedure.fedsgd(weighting="uniform", learning_rate=1.0)


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(20,), activation="sigmoid")


def seen(model, data, *stack, batch=1, procedure=EQUAL, seed=0):
    return next(iter(Exposure(model, data, 1, batch, defenses=stack, procedure=procedure, seed=seed)))


@pytest.mark.slow
def test_each_tensor_keeps_its_largest_and_noise_is_where_gradients_are_largest(model, data):
    plain, defended = (seen(model, data, *stack).view for stack in ((), (Outpost(scale=0.5),)))
    gradient, sent = -plain.observed, -defended.observed
    noisy = np.abs(gradient) >= np.sort(np.abs(gradient))[-round(0.4 * len(gradient))]
    tensors = [model.spec.unflatten_numpy(a) for a in (gradient, sent, noisy.astype(np.float32), plain.weights)]
    for before, after, noised, weights in zip(*tensors, strict=True):
        kept = np.abs(before) >= np.sort(np.abs(before).ravel())[-max(1, round(0.2 * before.size))]
        where = noised > 0
        np.testing.assert_allclose(after[~where], np.where(kept, before, 0)[~where], atol=1e-6)
        noise = (after - np.where(kept, before, 0))[where]
        if weights.std() > 0:
            expected = 0.5 * min(weights.var(), 1)
            assert abs(noise.std() / expected - 1) < 5 / np.sqrt(len(noise))
        else:  # weights that are all alike have no risk
            np.testing.assert_allclose(noise, 0, atol=1e-6)


@pytest.mark.slow
def test_the_chance_of_a_step_falls_as_it_says_and_begins_anew_each_round(model, data):
    procedure = make_procedure(local_epochs=4, batch_size=None, weighting="uniform", client={"learning_rate": 0.01})
    exposure = Exposure(
        model, data, 60, 1, cohort=1, rounds=2, procedure=procedure, defenses=(Outpost(decay=1.0),), seed=2
    )
    federation, shares = exposure.federation, [[], []]
    state = federation.start()
    for number in range(2):
        state, record = federation.step(state, evaluate=False, clients=list(range(60)))
        shares[number] = record.metrics["outpost/perturbed"]
    expected = np.mean([1 / (1 + i) for i in range(4)])
    deviation = np.sqrt(sum((p := 1 / (1 + i)) * (1 - p) for i in range(4))) / 4 / np.sqrt(60)
    for share in shares:
        assert abs(share - expected) < 4 * deviation


@pytest.mark.slow
def test_known_noise_is_a_chi_square_at_the_truth(data):
    model = lenet((28, 28, 1), 10, init="uniform")
    o = seen(model, data, Outpost(scale=0.05), procedure=Procedure.fedsgd())
    objective, view = KnownNoise().prepared(o.view)
    observed = tf.constant(view.observed)
    norm = float(tf.norm(observed))

    def nats(x):
        simulated = view.simulate(tf.constant(x), tf.constant(o.truth.y))
        return float(objective(simulated / norm, observed / norm, model.spec)) * objective.factor(view, norm)

    told = np.isfinite(view.defenses[0].noise_by_coordinate(observed, tf.ones_like(observed), model.spec)).sum()
    assert 0.199 * model.spec.size <= told < 0.25 * model.spec.size
    # Few of the kept are taken for what they are not.
    assert nats(o.truth.x) < 2 * told
    assert nats(np.zeros_like(o.truth.x)) > 20 * told


def test_all_of_it_at_zero_is_no_defense(model, data):
    plain, idle = (
        seen(model, data, *stack).view.observed for stack in ((), (defenses.create("outpost(scale=0,prune=0)"),))
    )
    np.testing.assert_allclose(idle, plain, atol=1e-7)


@pytest.mark.slow
def test_the_likelihood_gains_on_attacks_that_do_not_know_it(data):
    # Images on which nothing was chosen.
    model, gains, others = lenet((28, 28, 1), 10), [], data.take(np.arange(100, 102))
    for o in Exposure(model, others, 2, 1, defenses=(Outpost(),), seed=11):
        static = run_trial(attacks.create("dlg(restarts=2)"), o)
        knowing = run_trial(attacks.create("maximum_posterior"), o)
        assert knowing.finding.replayed == ("noise of outpost",)
        gains.append(knowing.score.images[0].psnr - static.score.images[0].psnr)
    assert np.mean(gains) > 4


@pytest.mark.parametrize("text", ["outpost(prune=1)", "outpost(fisher=0)", "outpost(scale=-1)", "outpost(decay=-1)"])
def test_impossible_parameters_are_refused(text):
    with pytest.raises(ParameterError, match=text[8:].partition("=")[0]):
        defenses.create(text)
