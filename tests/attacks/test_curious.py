"""Trap weights: how many examples they catch, and where they catch none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.malicious.curious import Curious, CuriousAct, is_trap, trap

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.data.embedded import fashion_small
from fedpriv.models import load
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Occasion
from fedpriv.threat.adversary import Adversary


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
