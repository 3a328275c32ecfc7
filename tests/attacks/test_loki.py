"""LOKI: clients told apart in a secure sum, and what ends it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.malicious.loki import Loki, LokiAct

from fedpriv.base.errors import CapabilityError, ModelError, ParameterError
from fedpriv.base.registry import defenses
from fedpriv.data.loading import load as load_data
from fedpriv.models import load
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Occasion
from fedpriv.threat.adversary import Adversary

WRONG = 0.03
KNOWS = ["num_examples", "procedure", "defense", "auxiliary(data=fashion_small,examples=500)"]


class SameForAll(LokiAct):
    """What is left of it where all clients make sure that they got the same."""

    def broadcast(self, weights, occasion):
        return super().broadcast(weights, dataclasses.replace(occasion, client=occasion.cohort[0]))


@pytest.fixture(scope="module")
def fashion():
    return load_data("fashion_small")


@pytest.fixture(scope="module")
def network(fashion):
    return load("2nn(hidden=[32,32])", fashion[0])


def seen(network, data, act="loki(sets=16,bins=64)", line=("secagg(range=1)",), **more):
    more = {"batch": 4, "cohort": 16, "trials": 1, **more}
    adversary = Adversary("server", KNOWS, acts=[act])
    (o,) = Exposure(network, data, adversary=adversary, defenses=[defenses.create(d) for d in line], **more)
    return o


def judged(finding, truth, clients):
    """(examples found and attributed to their client, wrong claims or attributions)."""
    x = truth.x.reshape(clients, -1, truth.x[0].size)
    right = wrong = 0
    for row, client in zip(finding.x.reshape(len(finding.x), -1), finding.extra["client"], strict=False):
        good = np.sqrt(np.mean(np.square(x[client] - row), -1)).min() < WRONG
        right, wrong = right + good, wrong + (not good)
    return right, wrong


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_secure_sum_of_16_clients_falls_apart(fashion, network, epochs):
    """Each client's images, attributed to it, by the law of its own batch of 4 and not that of 64."""
    procedure = make_procedure(local_epochs=epochs, batch_size=4 if epochs == 1 else 2)
    o = seen(network, fashion[1], procedure=procedure)
    assert (o.view.kind, o.view.clients) == ("sum", 16)
    finding = Loki().run(o.view)
    right, wrong = judged(finding, o.truth, 16)
    assert wrong == 0
    assert right == finding.extra["certified"]
    assert finding.extra["condition"]["alone"] == pytest.approx((1 - 1 / 64) ** 3)
    assert right / 64 > finding.extra["condition"]["alone"] - (0.15 if epochs == 1 else 0.3)
    assert len(set(finding.extra["client"])) == 16


@pytest.mark.slow
def test_one_broadcast_for_all_ends_it(fashion, network):
    o = seen(network, fashion[1], SameForAll(sets=16, bins=64))
    finding = Loki().run(o.view)
    assert set(finding.extra["client"]) <= {0}
    assert finding.extra["certified"] < 35


@pytest.mark.slow
def test_noise_ends_it(fashion, network):
    o = seen(network, fashion[1], line=["local_dp(clip=1,noise_multiplier=1)"], cohort=1)
    finding = Loki().run(o.view)
    assert finding.extra["certified"] == 0
    assert "too noisy" in finding.extra["reason"]


def test_what_cannot_be_is_named(fashion, network):
    with pytest.raises(ParameterError, match=r"sets=4, but 16 clients take part in round 0; give loki\(sets=16\)"):
        seen(network, fashion[1], "loki(sets=4,bins=8)")
    with pytest.raises(ModelError, match="takes examples of shape"):
        LokiAct().model(load("mlp", input_shape=(8,), num_classes=2))
    (honest,) = Exposure(network, fashion[1], trials=1)
    with pytest.raises(CapabilityError, match=r"has not done it: let it be server\(acts=\[loki\]\)"):
        Loki().run(honest.view)
    act = LokiAct(sets=2, bins=8)
    changed = act.model(network)
    sent = [
        act.broadcast(changed.initial_weights(0), Occasion(0, c, changed.spec, changed, cohort=(5, 9))) for c in (5, 9)
    ]
    tensors = zip(changed.spec.names, *(changed.spec.unflatten_numpy(w) for w in sent), strict=True)
    differ = [name for name, a, b in tensors if (a != b).any()]
    assert differ == ["sparse_imprint_sets/conv/kernel", "sparse_imprint_sets/conv/bias"]
