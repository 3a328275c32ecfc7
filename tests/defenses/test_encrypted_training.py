"""Federations that train under encryption: what comes out, and what adversaries see."""

import numpy as np
import pytest
from fedpriv_defenses.encryption.ckks import Ckks
from fedpriv_defenses.encryption.paillier import Paillier
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import SharedGraphError
from fedpriv.defense.attrition import PartiesAttrition
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.capability import Capability
from fedpriv.threat.position import Coalition, Server
from fedpriv.threat.tap import Tap

SETTINGS = {"batch_size": None}


def seen(federation, at):
    adversary = Adversary(at)
    _, record = federation.step(federation.start(), [Tap(adversary)], evaluate=False)
    return [o for o in record.observations if o.view.adversary == adversary]


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_training_is_that_of_any_exact_sum_to_the_bit(federate, weighting):
    gone = PartiesAttrition(gone=["client 1"])
    settings = {**SETTINGS, "weighting": weighting, "attrition": gone}
    exact = {"bits": 30, "range": 1.0}
    words = [SecretSharing(**exact), Ckks(**exact), Paillier(**exact), Ckks(fraction=0.3, **exact)]
    runs = [federate(defenses=(word,), **settings).run(2, evaluate_every=0) for word in words]
    assert [r.survivors for r in runs[0].records] == [4, 4]
    for other in runs[1:]:
        assert [r.survivors for r in other.records] == [4, 4]
        assert other.weights.tobytes() == runs[0].weights.tobytes()


@pytest.mark.slow
def test_training_is_plain_training_within_the_encoding(federate):
    plain = federate(**SETTINGS).run(4, evaluate_every=0).weights
    step = Ckks(range=1.0).codec().steps(federate(**SETTINGS).plan).step
    for word in (Ckks(range=1.0), Paillier(range=1.0)):
        weights = federate(defenses=(word,), **SETTINGS).run(4, evaluate_every=0).weights
        assert np.abs(weights - plain).max() < 1e-6 + 20 * step


def test_a_key_holder_that_is_gone_costs_the_round(federate):
    federation = federate(defenses=(Ckks(),), attrition=PartiesAttrition(gone=["key_holder 0"], phase="decrypt"))
    start = federation.start()
    state, record = federation.step(start, [Tap(Adversary()), Tap(Adversary(Coalition(members=("server",))))])
    np.testing.assert_array_equal(state.weights, start.weights)
    assert record.aborted.startswith("the key holder is gone")
    assert [(o.view.kind, o.view.observed) for o in record.observations] == [("shares", None)] * 2


@pytest.mark.slow
def test_what_adversaries_see_where_part_is_encrypted(federate):
    federation = federate(defenses=(Ckks(fraction=0.5, select="first", range=1.0),), **SETTINGS)
    d = federation.plan.spec.size
    plain = [o.view.observed for o in seen(federate(**SETTINGS), "server")]
    *parts, whole = seen(federation, "server")
    assert [(o.view.kind, o.truth.clients) for o in parts] == [("update", (c,)) for c in range(5)]
    hidden = np.arange(d) < np.ceil(d / 2)
    for o, update in zip(parts, plain, strict=True):
        np.testing.assert_array_equal(o.view.visible, ~hidden)
        assert not o.view.observed[hidden].any()
        np.testing.assert_allclose(o.view.observed[~hidden], update[~hidden], atol=1e-6)
        assert o.view.capabilities >= {Capability.REAL_UPDATE, Capability.SINGLE_CLIENT}
        assert Capability.WHOLE_UPDATE not in o.view.capabilities
        assert f"{d // 2} of its {d} coordinates" in o.view.describe()
    assert (whole.view.kind, whole.view.visible) == ("sum", None)
    assert Capability.WHOLE_UPDATE in whole.view.capabilities
    assert [o.view.kind for o in seen(federation, Server(sums=False))] == ["update"] * 5
    (at_holder,) = seen(federation, Coalition(members=("key_holder 0",)))
    assert at_holder.view.kind == "sum"
    np.testing.assert_array_equal(at_holder.view.visible, hidden)
    np.testing.assert_allclose(at_holder.view.observed[hidden], whole.view.observed[hidden], atol=1e-6)
    everything = seen(federation, Coalition(members=("server", "key_holder 0")))
    assert [o.view.visible for o in everything] == [None] * 5
    for o, update in zip(everything, plain, strict=True):
        np.testing.assert_allclose(o.view.observed, update, atol=1e-6)


def test_a_replay_is_of_what_is_visible(federate):
    federation = federate(defenses=(Ckks(fraction=0.5, select="random", range=1.0),), **SETTINGS)
    for o in seen(federation, "server"):
        replayed = o.view.simulate(o.truth.x, o.truth.y).numpy()
        np.testing.assert_allclose(replayed, o.view.observed, atol=1e-6)
        if o.view.visible is not None:
            assert not replayed[~o.view.visible].any()
            assert replayed[o.view.visible].any()
            with pytest.raises(SharedGraphError, match="'visible' belongs to one view"):
                _ = o.view.static.visible
