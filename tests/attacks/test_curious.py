"""Trap weights: how many examples they catch, and where they catch none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.malicious.curious import Curious, CuriousAct, is_trap, trap

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.data.partition import Partition
from fedpriv.federation.federation import Federation
from fedpriv.models import load
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Occasion
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap


def exposed(adversary, batch=20, model="2nn"):
    train, _ = fashion_small()
    (o,) = Exposure(load(model, train), train, trials=1, batch=batch, adversary=Adversary.parse(adversary))
    return o


def test_a_trap_is_what_the_paper_says():
    kernel = trap(784, 50, 0.5, 0.9, 0)
    assert np.all(np.sum(kernel < 0, axis=0) == 392)
    np.testing.assert_allclose(np.sort(kernel[kernel > 0]), 0.9 * np.sort(-kernel[kernel < 0]))
    assert is_trap(kernel.astype(np.float32))
    assert np.all(kernel.sum(axis=0) < 0)
    assert not is_trap(np.random.default_rng(0).normal(size=(784, 50)))
    np.testing.assert_array_equal(kernel, trap(784, 50, 0.5, 0.9, 0))


def test_traps_catch_more_than_honest_weights_and_nothing_false():
    caught, honest = exposed("server(acts=[curious(scale=0.97)])"), exposed("server")
    np.testing.assert_array_equal(caught.truth.x, honest.truth.x)
    finding = Curious().run(caught.view)
    count = finding.extra["separated"]
    assert count > FirstLayer().run(honest.view).extra["separated"]
    for x, y in zip(finding.x[:count], finding.y[:count], strict=True):
        away = np.abs(caught.truth.x - x).max(axis=(1, 2, 3))
        assert away.min() < 1e-2
        assert caught.truth.y[np.argmin(away)] == y


def found_and_false(finding, truth):
    claimed = finding.x[np.isfinite(finding.x).all(axis=(1, 2, 3))]
    away = [np.sqrt(np.mean(np.square(truth.x - x), axis=(1, 2, 3))).min() for x in claimed]
    return sum(a < 0.02 for a in away), sum(a >= 0.02 for a in away)


@pytest.mark.slow
def test_mixtures_that_look_like_one_example_are_told_by_their_weight():
    """Units that fire for few catch two of a class as one; the two weigh in the update what no single one does."""
    o = exposed("server(acts=[curious(scale=0.7)])", batch=100)
    right, false = found_and_false(Curious(claims="all").run(o.view), o.truth)
    assert false > 0
    finding = Curious().run(o.view)
    assert found_and_false(finding, o.truth) == (right, 0)
    assert finding.extra["uncertified"] == false
    assert "do not weigh what one example does" in finding.extra["reason"]
    marked = FirstLayer().run(o.view).extra
    assert (sum(marked["certified"]), len(marked["certified"])) == (right, right + false)


@pytest.mark.slow
def test_a_sum_of_clients_of_two_sizes_is_certified_by_either_weight():
    train, _ = fashion_small()
    model = load("2nn", train)
    parts = Partition("two", (np.arange(4), np.arange(4, 16)))
    procedure = make_procedure(local_epochs=1, batch_size=None, sampling={"kind": "full"}, weighting="uniform")
    shared = (defenses.create("secret_sharing(aggregators=3)"),)
    federation = Federation(model, train, parts, procedure, shared, seed=0)
    history = federation.run(1, taps=[Tap(Adversary.parse("server(acts=[curious])"))], evaluate_every=0)
    (o,) = history.observations
    finding = Curious().run(o.view)
    right, false = found_and_false(finding, o.truth)
    assert right >= 4
    assert false == 0
    assert all(finding.extra["certified"])


@pytest.mark.slow
def test_what_cannot_be_weighed_is_not_claimed():
    train, _ = fashion_small()
    exposure = Exposure(
        load("2nn", train),
        train,
        trials=1,
        batch=20,
        adversary=Adversary.parse("server(acts=[curious])"),
        defenses=(defenses.create("clip(norm=0.01)"),),
    )
    (o,) = exposure
    assert Curious(claims="all").run(o.view).extra["separated"] > 0
    finding = Curious().run(o.view)
    assert finding.extra["separated"] == 0
    assert "left out" in finding.extra["reason"]


def test_withheld_updates_are_refused_and_silent_traps_are_not():
    view = exposed("server(acts=[curious])").view
    with pytest.raises(CapabilityError, match="exactly zero"):
        Curious().run(dataclasses.replace(view, observed=np.zeros_like(view.observed)))
    silent = view.observed.copy()
    silent[: view.model.spec.slice_of(view.model.spec.names[1]).stop] = 0
    finding = Curious().run(dataclasses.replace(view, observed=silent))
    assert "no example fires any unit" in finding.extra["reason"]
    assert (finding.y == -1).all()  # labels are given, as where units fire: scores of both go together


@pytest.mark.slow
def test_noise_leaves_nothing_and_no_act_is_refused():
    view = exposed("server(acts=[curious])").view
    noise = np.random.default_rng(0).normal(0, np.std(view.observed), view.observed.shape).astype(np.float32)
    assert Curious().run(dataclasses.replace(view, observed=view.observed + noise)).extra["separated"] == 0
    with pytest.raises(CapabilityError, match=r"carry none.*server\(acts=\[curious\]\)"):
        Curious().run(exposed("server", batch=2).view)


def test_the_act_says_what_it_cannot_do():
    train, _ = fashion_small()
    model = load("cnn", train)
    weights = model.initial_weights(0)
    with pytest.raises(CapabilityError, match="no dense layer that sees the raw example"):
        CuriousAct().broadcast(weights, Occasion(0, 0, model.spec, model))
    with pytest.raises(ParameterError, match="names no model"):
        CuriousAct().broadcast(weights, Occasion(0, 0, model.spec))
    assert CuriousAct(clients=(1,)).broadcast(weights, Occasion(0, 0, model.spec, model)) is weights
