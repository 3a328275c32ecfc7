"""PersonalLayers: what stays with a client, where its next round begins, and who attacks what is shared."""

import numpy as np
import pytest
from fedpriv_attacks.parts.consistent import Consistent
from fedpriv_defenses.freeze import Freeze
from fedpriv_defenses.personal_layers import PersonalLayers

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks
from fedpriv.data.embedded import fashion_small
from fedpriv.data.partition import Partition
from fedpriv.federation.federation import Federation
from fedpriv.models.zoo import lenet, mlp
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(16,), activation="sigmoid")


HEAD = PersonalLayers(layers=("dense2",))


def personal(model, layers=("dense2",)):
    gone = PersonalLayers(layers=layers).personal(model.spec)
    return np.repeat([name in gone for name in model.spec.names], model.spec.sizes)


def federated(model, data, *stack, clients=2, engine="graph"):
    parts = tuple(np.split(np.arange(6 * clients), clients))
    procedure = make_procedure(local_epochs=2, batch_size=None, client={"learning_rate": 0.5}, weighting="uniform")
    return Federation(
        model, data.take(np.arange(6 * clients)), Partition("p", parts), procedure, stack, seed=1, engine=engine
    )


@pytest.mark.slow
def test_a_client_goes_on_with_its_own_layers_and_the_shared_ones_are_averaged(model, data):
    place = personal(model)
    defended = federated(model, data, HEAD)
    first, record = defended.step(defended.start(), evaluate=False)
    second, _ = defended.step(first, evaluate=False)
    assert record.bytes_up == 2 * 4 * int((~place).sum())
    begun = defended.start().weights
    np.testing.assert_array_equal(second.weights[place], begun[place])
    # By hand: each client trains from the shared layers of the server and the personal ones of its own.
    own, shared = [begun, begun], begun
    for _ in range(2):
        moved = []
        for c in range(2):
            alone = federated(model, data)
            start = np.where(place, own[c], shared).astype(np.float32)
            state, _ = alone.step(alone.opened(0, start), evaluate=False, clients=[c])
            own[c] = state.weights
            moved.append(state.weights - start)
        shared = np.where(place, begun, shared + np.mean(moved, 0)).astype(np.float32)
    np.testing.assert_allclose(second.weights, shared, atol=2e-6)


def test_clients_learn_though_the_server_has_no_classifier(model, data):
    federation = federated(model, data, HEAD)
    losses = [r.loss for r in federation.run(12, evaluate_every=0).records]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(model, data, tmp_path):
    whole = federated(model, data, HEAD).run(4, evaluate_every=0)
    federated(model, data, HEAD).run(2, evaluate_every=0, checkpoint=tmp_path / "c")
    again = federated(model, data, HEAD).run(4, evaluate_every=0, checkpoint=tmp_path / "c")
    np.testing.assert_array_equal(again.weights, whole.weights)


def seen(model, data, *stack, adversary=None):
    made = Procedure.fedsgd(weighting="uniform")
    knows = Adversary() if adversary is None else adversary
    return next(iter(Exposure(model, data, 1, 1, defenses=stack, procedure=made, adversary=knows, seed=4)))


@pytest.mark.slow
def test_what_is_shared_is_exact_and_the_rest_is_left_open(model, data):
    place = personal(model)
    plain, o = (seen(model, data, *stack) for stack in ((), (HEAD,)))
    np.testing.assert_allclose(o.view.observed, np.where(place, 0, plain.view.observed), atol=1e-7)
    simulated = o.view.simulate(tf.constant(o.truth.x), tf.constant(o.truth.y)).numpy()
    np.testing.assert_allclose(simulated, o.view.observed, atol=1e-6)
    fitted, view = Consistent().prepared(o.view)
    whole = view.simulate(tf.constant(o.truth.x), tf.constant(o.truth.y))
    assert np.abs(whole.numpy()[place]).max() > 1e-3
    assert float(fitted(whole, tf.constant(o.view.observed), model.spec)) < 1e-9


@pytest.mark.slow
def test_an_attack_that_knows_what_is_missing_sees_through_it(data):
    model, inner = lenet((28, 28, 1), 10, init="uniform"), attacks.create("dlg(restarts=2)")
    quality = []
    for knows in (Adversary(), Adversary(knows=Adversary().knows - {"defense"})):
        o = seen(model, data, PersonalLayers(layers=("dense",)), adversary=knows)
        trial = run_trial(inner, o)
        assert trial.replayed == (("personal_layers",) if "defense" in knows.knows else ())
        quality.append(trial.score.images[0].psnr)
    assert quality[0] > 25 > 15 > quality[1]


def test_nothing_is_sent_of_them_though_signs_are_taken_after(model, data):
    place, after = personal(model), registry.defenses.create("sign_sgd")
    state, record = (federation := federated(model, data, HEAD, after)).step(federation.start(), evaluate=False)
    moved = state.weights - federation.start().weights
    assert not moved[place].any()
    assert moved[~place].all()
    assert record.bytes_up == -(-2 * (model.spec.size + 32) // 8)


@pytest.mark.parametrize("other", ["top_k(fraction=0.1)", "additive_noise(stddev=1)"])
def test_what_a_client_keeps_is_neither_noised_nor_compressed(other, model, data):
    with pytest.raises(StackError, match=r"changes it first; put personal_layers before it"):
        federated(model, data, registry.defenses.create(other), HEAD)


def test_layers_that_are_all_kept_back_by_two_are_refused(model, data):
    others = PersonalLayers(layers=("dense1",)), Freeze(layers=("dense1",))
    for other in others:
        with pytest.raises(StackError, match=r"personal_layers \(position 1\) and .* together leave out all layers"):
            federated(model, data, HEAD, other)


@pytest.mark.parametrize(
    ("layers", "message"),
    [(("dens2",), "no layer 'dens2'.*Did you mean 'dense2'"), (("dense1", "dense2"), "leave one to share")],
)
def test_layers_that_are_not_there_are_named(layers, message, model, data):
    with pytest.raises(ParameterError, match=message):
        seen(model, data, PersonalLayers(layers=layers))
