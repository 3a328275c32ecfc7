"""Decepticons: what planted weights show of single tokens, by its law, and where they show nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.text.dager import DAGER
from fedpriv_attacks.text.decepticons import Decepticons, DecepticonsAct
from scipy.optimize import linear_sum_assignment

from fedpriv.base.errors import CapabilityError, FedprivError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.data.corpora import sentences
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models import load
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Occasion
from fedpriv.threat.adversary import Adversary

MORE = [("gpt", 1), ("gpt", 4), ("gpt", 8), ("bert", 1), ("bert", 4), ("bert", 8)]

MALICIOUS = Adversary.parse("server(acts=[decepticons])")


def texts(n, length, vocabulary, each, seed=0):
    draws = np.random.default_rng(seed)
    w = draws.integers(1, vocabulary, (n, length + 1)).astype(np.int32)
    y = w[:, 1:] if each else draws.integers(0, 3, n)
    kind = Tokens(length=length, vocabulary=vocabulary, padding=0)
    return Dataset("made", w[:, :-1].copy(), np.ascontiguousarray(y), vocabulary if each else 3, kind=kind)


def planted(model, client=0, **parameters):
    weights = model.initial_weights(0)
    return DecepticonsAct(**parameters).broadcast(weights, Occasion(0, client, model.spec, model))


def view_of(helpers, model, data, **more):
    more.setdefault("weights", None)
    if more["weights"] is None:
        more["weights"] = planted(model)
    return dataclasses.replace(helpers.make_view(model, data.x, data.y, **more), data_kind=data.kind)


def judged(finding, x, y=None):
    """(share of tokens in place, wrong tokens, share of right classes), rows matched one-to-one."""
    x = np.asarray(x).astype(int)
    right = np.array([[np.sum((f == a) & (a != 0)) for f in finding.x] for a in x])
    i, j = linear_sum_assignment(-right)
    claimed = finding.x[j]
    wrong = int(np.sum(np.isfinite(claimed) & (claimed != x[i])))
    classes = None if y is None or finding.y is None else float(np.mean(finding.y[j] == np.asarray(y)[i]))
    return right[i, j].sum() / np.sum(x != 0), wrong, classes


def law(finding, tokens):
    return (1 - 1 / finding.extra["condition"]["bins"]) ** (tokens - 1)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "n", "bins"), [(64, 8, 511), (16, 4, 127)])
def test_tokens_are_alone_in_their_bins_by_the_law(helpers, width, n, bins):
    """With k bins and T independent tokens, (1 - 1/k)^(T-1) of them."""
    shares = []
    for seed in range(4):
        data = texts(n, 16, 1000, True, seed)
        model = load(f"gpt(width={width})", data)
        finding = Decepticons().run(view_of(helpers, model, data))
        assert finding.extra["condition"]["bins"] == bins
        assert finding.extra["condition"]["alone"] == pytest.approx((1 - 1 / bins) ** (16 * n - 1))
        assert judged(finding, data.x)[1] == 0
        shares.append(finding.extra["read"] / (16 * n))
    assert np.mean(shares) == pytest.approx(finding.extra["condition"]["alone"], abs=0.07)


@pytest.mark.parametrize(
    ("name", "batch"),
    [pytest.param(*p, marks=pytest.mark.slow) for p in MORE],
)
def test_sentences_beyond_the_width(name, batch):
    """As many tokens as the law allows for, or more, and none that is wrong, whatever the width."""
    train, _ = sentences()
    (o,) = Exposure(load(name, train), train, trials=1, batch=batch, adversary=MALICIOUS)
    finding = Decepticons().run(o.view)
    share, wrong, classes = judged(finding, o.truth.x, o.truth.y)
    tokens = int(np.sum(o.truth.x != 0))
    assert batch < 4 or tokens > 64
    assert share > law(finding, tokens) - 0.05
    assert wrong == 0
    assert classes >= 0.75
    assert finding.extra["sequences"] >= batch


@pytest.mark.slow
def test_a_secure_sum_is_one_larger_batch_to_it():
    """Secure aggregation is executed; behind clipping too, since bins are no small part of the update."""
    data = texts(40, 10, 300, False)
    line = [defenses.create("clip(norm=1)"), defenses.create("secagg")]
    (o,) = Exposure(load("bert", data), data, adversary=MALICIOUS, batch=3, cohort=3, defenses=line, trials=1)
    assert (o.view.kind, o.view.clients) == ("sum", 3)
    finding = Decepticons().run(o.view)
    share, wrong, _ = judged(finding, o.truth.x)
    assert share > law(finding, 90) - 0.05
    assert wrong == 0
    assert finding.y is None  # what was clipped has no size to tell classes by


def test_sequences_that_begin_alike_are_told_apart(helpers):
    data = texts(3, 12, 500, True, 3)
    x = data.x.copy()
    x[1, :2] = x[0, :2]
    data = dataclasses.replace(data, x=x)
    finding = Decepticons().run(view_of(helpers, load("gpt(width=64)", data), data))
    share, wrong, _ = judged(finding, x)
    assert finding.extra["sequences"] == 3
    assert wrong == 0
    assert share > 0.85


def test_without_the_act_it_is_refused(helpers):
    data = texts(1, 8, 60, True)
    model = load("gpt(width=32)", data)
    with pytest.raises(CapabilityError, match=r"carry none.*server\(acts=\[decepticons\]\)"):
        Decepticons().run(view_of(helpers, model, data, weights=model.initial_weights(0)))


def test_noise_leaves_nothing_to_claim(helpers):
    data = texts(2, 8, 200, True)
    view = view_of(helpers, load("gpt(width=32)", data), data)
    noise = np.random.default_rng(0).normal(0, np.std(view.observed), view.observed.shape).astype(np.float32)
    finding = Decepticons().run(dataclasses.replace(view, observed=view.observed + noise))
    assert np.isnan(finding.x).all()
    assert "none of" in finding.extra["reason"]


@pytest.mark.parametrize(
    ("name", "each", "reason"),
    [
        ("lstm", False, "as in 'gpt' and 'bert'"),
        ("bag_of_embeddings", False, "as in 'gpt' and 'bert'"),
        ("gpt(width=8,heads=2)", True, "width of at least 16"),
        ("gpt(layers=1,width=16)", False, "a second attention"),
    ],
)
def test_models_that_cannot_be_planted_are_named(helpers, name, each, reason):
    data = texts(2, 6, 50, each)
    model = load(name, data)
    with pytest.raises(CapabilityError, match=f"act 'decepticons'.*{reason}"):
        planted(model)
    with pytest.raises(CapabilityError, match=f"attack 'decepticons'.*{reason}"):
        Decepticons().run(view_of(helpers, model, data, weights=model.initial_weights(0)))


@pytest.mark.slow
def test_a_client_that_looks_sees_it(helpers):
    """Kernels of rank 2, and next tokens that the model knew and no longer does."""
    data = texts(4, 8, 20, True, 2)
    model = load("gpt(width=16)", data)
    weights = model.initial_weights(0)
    view = helpers.make_view(model, data.x, data.y, observed=weights * 0)
    x = data.x.astype(np.float32)
    for _ in range(60):
        weights = weights + np.asarray(dataclasses.replace(view, weights=weights).simulate(x, data.y))
    sent = DecepticonsAct().broadcast(weights, Occasion(0, 0, model.spec, model))

    def kernel(flat):
        return flat[model.spec.slice_of("block0/wide/kernel")].reshape(16, 64)

    def loss(flat):
        return float(np.mean(model.example_losses(model.spec.unflatten_numpy(flat), x, tf.constant(data.y))))

    assert np.linalg.matrix_rank(kernel(weights)) == 16
    assert np.linalg.matrix_rank(kernel(sent)) == 2
    assert loss(weights) < 0.8  # rounding decides how far below
    assert loss(sent) > 1.5


def test_the_threat_line_says_what_is_changed():
    text = "server(acts=[decepticons(clients=[1],seed=3)])"
    adversary = Adversary.parse(text)
    assert str(adversary) == text
    assert "It changes: the weights it sends to clients [1] (dense parts that sort tokens" in adversary.describe()
    assert "Threat model F" in adversary.describe()
    with pytest.raises(FedprivError, match="observer cannot do"):
        Adversary.parse("observer(acts=[decepticons])")
    data = texts(1, 6, 50, True)
    model = load("gpt(width=16)", data)
    honest = model.initial_weights(0)
    np.testing.assert_array_equal(planted(model, clients=(1,)), honest)
    assert not np.array_equal(planted(model), planted(model, seed=1))
    np.testing.assert_array_equal(planted(model), planted(model, client=1, clients=(1,)))


@pytest.mark.slow
def test_dager_gives_less_past_its_law():
    """149 and more tokens of a width of 64: DAGER's span holds every token, and bins do not care."""
    train, _ = sentences()
    model = load("gpt", train)
    (o,) = Exposure(model, train, trials=1, batch=8, adversary=MALICIOUS)
    (honest,) = Exposure(model, train, trials=1, batch=8)
    np.testing.assert_array_equal(o.truth.x, honest.truth.x)
    ours, theirs = Decepticons().run(o.view), DAGER(seconds=30).run(honest.view)
    assert not theirs.extra["condition"]["holds"]
    assert judged(ours, o.truth.x)[0] > judged(theirs, honest.truth.x)[0] + 0.25
