"""Fishing: one example's gradient out of a batch's mean, by class and by feature, and where it is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.malicious.fishing import Fishing, FishingAct

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.metrics.score import summarize
from fedpriv.models import load
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.acts import Occasion
from fedpriv.threat.adversary import Adversary


def chosen(labels):
    """The first test examples with these labels, in order; none of them is auxiliary."""
    _, train = fashion_small()
    rows = [np.flatnonzero(train.y == c)[list(labels[:i]).count(c)] for i, c in enumerate(labels)]
    return dataclasses.replace(train, x=train.x[rows], y=train.y[rows])


def exposed(text, labels, line=(), engine="graph"):
    data = chosen(labels)
    given = tuple(defenses.create(d) for d in line)
    procedure = Procedure.fedsgd().model_copy(update={"weighting": "uniform"})
    more = {"adversary": Adversary.parse(text), "defenses": given, "procedure": procedure, "engine": engine}
    (o,) = Exposure(load("mlp(hidden=[64],activation=relu)", data), data, trials=1, batch=len(labels), **more)
    return o


MIXED = [0, 1, 2, 4, 5, 6, 7, 8, 9] * 3 + [3]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["graph", pytest.param("tff", marks=pytest.mark.slow)])
def test_the_only_example_of_a_class_is_all_of_the_gradient(engine):
    o = exposed("server(acts=[fishing(label=3)])", MIXED, engine=engine)
    finding = Fishing(then="first_layer").run(o.view)
    assert finding.extra["caught"] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(finding.x[0], o.truth.x[-1], atol=1e-2)
    assert finding.y[0] == 3
    assert np.isnan(finding.x[1:]).all()


@pytest.mark.slow
def test_feature_fishing_takes_one_of_many_of_a_class():
    """A binomial number of the n examples lies below the quantile q of auxiliary data: one with n q (1-q)^(n-1)."""
    n, q = 12, 1 / 12
    plain = Fishing(then="first_layer").run(exposed("server(acts=[fishing(label=3)])", [3] * n).view)
    assert "12 examples were caught" in plain.extra["reason"]
    once = 0
    for seed in range(8):
        o = exposed(f"server(acts=[fishing(label=3,data=fashion_small,quantile={q:.4f},seed={seed})])", [3] * n)
        finding = Fishing(then="first_layer", most=1).run(o.view)
        if not finding.extra["reason"]:
            once += 1
            assert finding.extra["caught"] == pytest.approx(1, abs=0.1)
            assert np.abs(o.truth.x - finding.x[0]).max(axis=(1, 2, 3)).min() < 0.05
    assert once >= 1


@pytest.mark.slow
def test_a_class_that_is_absent_gives_nothing():
    finding = Fishing().run(exposed("server(acts=[fishing(label=3)])", MIXED[:-1]).view)
    assert finding.extra["reason"] == "no example of class 3 was caught"
    assert np.isnan(finding.x).all()


@pytest.mark.slow
def test_trials_with_and_without_a_catch_are_summarized_together():
    act, one = "server(acts=[fishing(label=3)])", Fishing(then="first_layer")
    trials = [run_trial(one, exposed(act, labels)) for labels in ([*MIXED[:2], 3], MIXED[:3])]
    assert summarize([t.score for t in trials]).label_accuracy == pytest.approx(1 / 6)


def test_an_update_of_zeros_was_withheld():
    view = exposed("server(acts=[fishing(label=3)])", MIXED[:3]).view
    with pytest.raises(CapabilityError, match="exactly zero"):
        Fishing().run(dataclasses.replace(view, observed=np.zeros_like(view.observed)))


@pytest.mark.slow
def test_per_example_clipping_with_noise_leaves_nothing():
    line = ("dp_sgd(clip=1,noise_multiplier=1)",)
    finding = Fishing(then="first_layer").run(exposed("server(acts=[fishing(label=3)])", MIXED, line).view)
    assert "no count" in finding.extra["reason"] or "no example" in finding.extra["reason"]
    assert np.isnan(finding.x).all()


@pytest.mark.slow
def test_mistakes_are_named():
    with pytest.raises(CapabilityError, match=r"server\(acts=\[fishing\(label=0\)\]\)"):
        Fishing().run(exposed("server", [0, 1]).view)
    model = load("2nn", chosen([0, 1]))
    weights = model.initial_weights(0)
    with pytest.raises(ParameterError, match="classes 0 to 9"):
        FishingAct(label=10).broadcast(weights, Occasion(0, 0, model.spec, model))
    sent = FishingAct(label=3).broadcast(weights, Occasion(0, 0, model.spec, model))
    assert np.linalg.matrix_rank(sent[model.classifier_kernel()].reshape(-1, 10)) == 1
