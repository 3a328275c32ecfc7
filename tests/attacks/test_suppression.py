"""Gradient suppression: an executed secure sum that is one client's update, and where it is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.malicious.suppression import Suppression, SuppressionAct, isolated

from fedpriv.base.errors import CapabilityError
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.models import load
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary

MALICIOUS = Adversary.parse("server(acts=[suppression(target=[0])])")


def exposed(model="2nn", adversary=MALICIOUS, cohort=4, batch=1, line=("secagg",), data=None, engine="graph"):
    train = fashion_small()[0] if data is None else data
    given = tuple(defenses.create(d) for d in line)
    federation = {"adversary": adversary, "defenses": given, "engine": engine}
    (o,) = Exposure(load(model, train), train, trials=1, batch=batch, cohort=cohort, **federation)
    return o


@pytest.mark.slow
@pytest.mark.parametrize("model", ["2nn", "cnn"])
def test_the_secure_sum_is_the_targets_update_to_the_bit(model):
    """The executed sum does not change by a bit with the other clients' data, and is the target's update."""
    train, _ = fashion_small()
    x, y = train.x.copy(), train.y.copy()
    x[1:4], y[1:4] = train.x[100:103], train.y[100:103]
    among, other = exposed(model), exposed(model, data=dataclasses.replace(train, x=x, y=y))
    alone = exposed(model, cohort=1, line=())
    assert (among.view.kind, among.view.clients) == ("sum", 4)
    np.testing.assert_array_equal(alone.truth.x, among.truth.x[:1])
    assert not np.array_equal(among.truth.x[1:], other.truth.x[1:])
    spec = among.view.model.spec
    bias = spec.slice_of(spec.names[-1])
    hidden = slice(0, bias.start)
    np.testing.assert_array_equal(among.view.observed[hidden], other.view.observed[hidden])
    assert not np.array_equal(among.view.observed[bias], other.view.observed[bias])
    step = 1e-4 * np.abs(alone.view.observed).max()
    np.testing.assert_allclose(among.view.observed[hidden] * 4, alone.view.observed[hidden], atol=step)
    np.testing.assert_allclose(isolated(among.view)[1].observed[bias], alone.view.observed[bias], atol=step)


@pytest.mark.slow
def test_what_is_behind_a_secure_sum_is_read():
    o = exposed()
    finding = Suppression(then="first_layer").run(o.view)
    assert finding.extra["target"] == "client 0"
    assert finding.extra["suppressed"] == 3
    np.testing.assert_allclose(finding.x[0], o.truth.x[0], atol=1e-2)
    assert finding.y[0] == o.truth.y[0]


@pytest.mark.slow
def test_one_broadcast_for_all_leaves_the_sum_a_sum():
    """Without the act, or with it for everybody or nobody, it is refused."""
    for text in ("server", "server(acts=[suppression(target=[0,1,2,3])])", "server(acts=[suppression(target=[9])])"):
        with pytest.raises(CapabilityError, match=r"suppression\(target=\[0\]\)|needs one target in the sum"):
            Suppression().run(exposed(adversary=Adversary.parse(text)).view)


def test_sums_without_names_are_refused():
    view = dataclasses.replace(exposed().view, members=None)
    with pytest.raises(CapabilityError, match="must know who is in the sum"):
        Suppression().run(view)


def test_a_suppressed_client_sees_it():
    """All zeros but the last bias; a target's model is what it was, but for one unit."""
    train, _ = fashion_small()
    model = load("2nn", train)
    honest = model.initial_weights(0)
    from fedpriv.threat.acts import Occasion

    dead, target = (SuppressionAct().broadcast(honest, Occasion(0, c, model.spec, model)) for c in (1, 0))
    x = train.floats(np.arange(20))
    assert np.ptp(np.asarray(model.logits(dead, x)), axis=0).max() == 0
    assert np.ptp(np.asarray(model.logits(target, x)), axis=0).max() > 0.1
    assert np.sum(target != honest) <= 201
    np.testing.assert_array_equal(SuppressionAct(rounds=(1,)).broadcast(honest, Occasion(0, 1, model.spec)), honest)
