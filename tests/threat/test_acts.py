"""A malicious server sends chosen weights to chosen clients, and holds what that brings."""

from typing import ClassVar

import numpy as np
import pytest

from fedpriv.base.errors import CapabilityError, DataError, FedprivError, ParameterError
from fedpriv.base.registry import defenses
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Act, Occasion, Plant
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Capability
from fedpriv.threat.enact import enacted
from fedpriv.threat.tap import Tap

SETTINGS = {"batch_size": None, "weighting": "uniform"}


def halved(weights, occasion):
    """Half the broadcast weights, moved by the client's number."""
    return weights / 2 + occasion.client


@pytest.fixture
def trap(tmp_path, logistic_model):
    """(path, weights) of planted weights."""
    weights = np.random.default_rng(5).normal(size=logistic_model.spec.size).astype(np.float32)
    np.save(tmp_path / "trap.npy", weights)
    return tmp_path / "trap.npy", weights


def listen(federation, *adversaries, rounds=1):
    return federation.run(rounds, taps=[Tap(a) for a in adversaries], evaluate_every=0)


@pytest.mark.slow
def test_chosen_clients_train_from_the_planted_weights(federate, trap, toy, parts, by_hand):
    """Client 1's update is the gradient at the trap, the others' that at the broadcast."""
    path, weights = trap
    adversary = Adversary.parse(f"server(acts=[plant(weights={path},clients=[1])])")
    federation = federate(**SETTINGS)
    sent = federation.start().weights
    seen = listen(federation, adversary).observations
    assert [o.truth.clients for o in seen] == [(c,) for c in range(5)]
    for client, o in enumerate(seen):
        got = weights if client == 1 else sent
        np.testing.assert_array_equal(o.view.weights, got)
        mine = parts.indices[client]
        np.testing.assert_allclose(o.view.observed, -0.1 * by_hand.gradient(got, toy.x[mine], toy.y[mine]), atol=1e-6)
        np.testing.assert_allclose(o.view.simulate(o.truth.x, o.truth.y), o.view.observed, atol=1e-6)


@pytest.mark.slow
def test_what_is_planted_moves_the_model_as_any_update_does(federate, trap):
    path, _ = trap
    federation = federate(**SETTINGS)
    acting = Adversary().acting(Plant(weights=str(path), clients=(1,)))
    honest, malicious = listen(federation, Adversary()), listen(federation, acting)
    assert not np.array_equal(honest.weights, malicious.weights)
    mean = np.mean([o.view.observed for o in malicious.observations], 0)
    np.testing.assert_allclose(malicious.weights - federation.start().weights, mean, atol=1e-6)


def test_an_eavesdropper_sees_what_was_sent_to_each_and_an_observer_does_not(federate, trap):
    path, weights = trap
    acting = Adversary().acting(Plant(weights=str(path), clients=(1,)))
    wire, observer = Adversary("eavesdropper"), Adversary("observer")
    seen = listen(federate(**SETTINGS), acting, wire, observer).observations
    on_the_wire = [o.view for o in seen if o.view.adversary == wire]
    np.testing.assert_array_equal(on_the_wire[1].weights, weights)
    (public,) = [o.view for o in seen if o.view.adversary == observer]
    np.testing.assert_array_equal(public.weights, on_the_wire[0].weights)


@pytest.mark.slow
def test_a_sum_is_seen_from_what_all_behind_it_got(federate, trap):
    """A sum of clients who got different weights is seen from the broadcast."""
    path, weights = trap
    everybody, one = (Adversary.parse(f"server(acts=[plant(weights={path}{who})])") for who in ("", ",clients=[1]"))
    federation = federate(defenses=[defenses.create("secagg")], **SETTINGS)
    sent = federation.start().weights
    for adversary, got in ((everybody, weights), (one, sent)):
        (o,) = listen(federation, adversary).observations
        assert o.view.kind == "sum"
        np.testing.assert_array_equal(o.view.weights, got)


def test_only_in_the_rounds_that_it_names(federate, trap):
    path, weights = trap
    acting = Adversary().acting(Plant(weights=str(path), rounds=(1,)))
    seen = listen(federate(**SETTINGS), acting, rounds=2).observations
    planted = [np.array_equal(o.view.weights, weights) for o in seen]
    assert planted == [False] * 5 + [True] * 5


@pytest.mark.slow
def test_a_function_sends_each_client_its_own(federate):
    here = halved.__module__
    for weights in (halved, f"{here}:halved"):
        acting = Adversary().acting(Plant(weights=weights))
        assert str(acting) == f"server(acts=[plant(weights={here}:halved)])"
        federation = federate(**SETTINGS)
        sent = federation.start().weights
        for client, o in enumerate(listen(federation, acting).observations):
            np.testing.assert_allclose(o.view.weights, sent / 2 + client, atol=1e-6)


@pytest.mark.slow
def test_exposures_plant_too(toy, logistic_model, trap):
    path, weights = trap
    acting = Adversary.parse(f"server(acts=[plant(weights={path})])")
    for o in Exposure(logistic_model, toy, trials=2, adversary=acting):
        np.testing.assert_array_equal(o.view.weights, weights)


def test_without_acts_nothing_changes(federate):
    federation = federate(**SETTINGS)
    one, two = listen(federation, Adversary()), federation.run(1, evaluate_every=0)
    np.testing.assert_array_equal(one.weights, two.weights)


def test_what_cannot_be_planted_is_named(tmp_path, federate, logistic_model):
    def act(**options):
        return Plant(**options).broadcast(np.zeros(4, np.float32), Occasion(0, 0, logistic_model.spec))

    np.save(tmp_path / "short.npy", np.zeros(3))
    np.savez(tmp_path / "two.npz", a=np.zeros(4), b=np.zeros(4))
    np.savez(tmp_path / "named.npz", weights=np.ones(4), b=np.zeros(4))
    (tmp_path / "text.npy").write_text("no array")
    np.testing.assert_array_equal(act(weights=str(tmp_path / "named.npz")), np.ones(4))
    with pytest.raises(ParameterError, match=r"shape \[3\].*takes \[4\] finite numbers"):
        act(weights=str(tmp_path / "short.npy"))
    with pytest.raises(DataError, match=r"holds arrays \['a', 'b'\]; name the weights 'weights'"):
        act(weights=str(tmp_path / "two.npz"))
    for name in ("text.npy", "none.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            act(weights=str(tmp_path / name))
    with pytest.raises(ParameterError, match="finite numbers"):
        act(weights=lambda weights, occasion: weights * np.nan)
    for text in ("eavesdropper", "observer", "client(0)", "aggregators(0)"):
        with pytest.raises(FedprivError, match=f"the {text.partition('(')[0]} cannot do"):
            Adversary.parse(text).acting("plant(weights=a.npy)")


class Wider(Act):
    """Has clients make two local steps where they were told one: an act on the procedure."""

    changes: ClassVar[str] = "procedure"

    def describe(self):
        return "the number of local epochs"

    def procedure(self, procedure):
        return procedure.model_copy(update={"local_epochs": procedure.local_epochs + 1})


@pytest.mark.slow
def test_acts_on_the_procedure_change_what_clients_do(toy, logistic_model, federate):
    federation = federate(**SETTINGS)
    assert enacted(federation, ()) is federation
    assert enacted(federation, [Wider()]).procedure.local_epochs == federation.procedure.local_epochs + 1
    malicious = Adversary().acting(Wider())
    with pytest.raises(CapabilityError, match="changes the procedure, which is fixed when a federation is made"):
        listen(federation, malicious)
    listen(enacted(federation, malicious.acts), malicious)
    (o,) = Exposure(logistic_model, toy, trials=1, batch=3, adversary=malicious)
    (honest,) = Exposure(logistic_model, toy, trials=1, batch=3)
    assert Capability.SINGLE_STEP in honest.view.capabilities
    assert Capability.SINGLE_STEP not in o.view.capabilities
    assert o.view.procedure.local_epochs == 2
    np.testing.assert_allclose(o.view.simulate(o.truth.x, o.truth.y), o.view.observed, atol=1e-6)
    assert "It changes: the number of local epochs." in malicious.describe()
