"""DAGER: exact batches while tokens are below the width, and words where that is not so."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from fedpriv_attacks.text.dager import DAGER
from fedpriv_attacks.text.exchange import exchange
from fedpriv_defenses.sparse import TopK

from fedpriv.base.errors import CapabilityError
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.data.loading import load as load_data
from fedpriv.models import load
from fedpriv.procedure.procedure import Procedure


def texts(n, length, vocabulary, each, seed=0, padded=()):
    draws = np.random.default_rng(seed)
    w = draws.integers(1, vocabulary, (n, length + 1)).astype(np.int32)
    for row, end in padded:
        w[row, end:] = 0
    y = w[:, 1:] if each else draws.integers(0, 3, n)
    kind = Tokens(length=length, vocabulary=vocabulary, padding=0)
    return Dataset("made", w[:, :-1].copy(), np.ascontiguousarray(y), vocabulary if each else 3, kind=kind)


def view_of(helpers, name, data, **more):
    return dataclasses.replace(helpers.make_view(load(name, data), data.x, data.y, **more), data_kind=data.kind)


def attacked(helpers, name, data, attack=None, **more):
    return (attack or DAGER()).run(view_of(helpers, name, data, **more))


def same(found, data):
    """Whether sequences and targets are those of the data, in any order."""
    mine = sorted((tuple(x), tuple(np.atleast_1d(y))) for x, y in zip(found.x.astype(int).tolist(), found.y.tolist()))
    true = sorted((tuple(x), tuple(np.atleast_1d(y))) for x, y in zip(data.x.tolist(), data.y.tolist()))
    return mine == true


@pytest.mark.parametrize(
    ("n", "rows"), [(3, "use"), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((1, "use"), (3, "ignore")))]
)
def test_next_tokens_exactly(helpers, n, rows):
    data = texts(n, 8, 150, True, n)
    finding = attacked(helpers, "gpt(width=32)", data, DAGER(rows=rows))
    assert finding.extra["exact"], finding.extra["reason"]
    assert finding.objective < 1e-9
    assert same(finding, data)
    assert finding.extra["condition"]["ranks"] == [8 * n, 8 * n]
    assert finding.extra["condition"]["room"] == 31  # a normalization without offset takes one dimension


@pytest.mark.slow
def test_short_sequences_and_repeated_ones(helpers):
    data = texts(3, 8, 150, True, 4, padded=[(0, 5)])
    x, y = data.x.copy(), data.y.copy()
    x[2], y[2] = x[1], y[1]
    data = dataclasses.replace(data, x=x, y=y)
    finding = attacked(helpers, "gpt(width=32)", data)
    assert finding.extra["exact"], finding.extra["reason"]
    assert same(finding, data)


@pytest.mark.slow
def test_classes_of_sequences_are_told_by_the_last_place(helpers):
    data = texts(2, 6, 150, False, 5)
    finding = attacked(helpers, "gpt(width=32,layers=3)", data)
    assert finding.extra["exact"], finding.extra["reason"]
    assert same(finding, data)


@pytest.mark.slow
def test_sentences_with_repeated_unknown_and_padded_tokens(helpers):
    _, test = load_data("sentences")
    data = test.take(np.random.default_rng(3).permutation(len(test))[:2])
    assert (data.x == 0).any()
    assert np.unique(data.x[data.x > 0]).size < (data.x > 0).sum() < 63
    finding = attacked(helpers, "gpt", data)
    assert finding.extra["exact"], finding.extra["reason"]
    assert same(finding, data)
    assert finding.extra["warnings"] == []


@pytest.mark.slow
def test_a_single_block_is_enough_where_the_dense_part_is_read(helpers):
    data = texts(2, 6, 150, True, 11)
    finding = attacked(helpers, "gpt(width=32,layers=1)", data)
    assert finding.extra["exact"], finding.extra["reason"]
    assert same(finding, data)


@pytest.mark.slow
def test_what_is_promised_goes_by_the_most_tokens_there_can_be(helpers):
    short, long = texts(2, 8, 60, True, 12), texts(4, 8, 60, True, 12, padded=[(0, 3), (1, 3), (2, 3), (3, 3)])
    certain = attacked(helpers, "gpt(width=32)", short)
    assert certain.extra["condition"]["promised"]
    lucky = attacked(helpers, "gpt(width=32)", long)
    assert not lucky.extra["condition"]["promised"]
    assert lucky.extra["exact"]
    full = attacked(helpers, "gpt(width=32)", texts(5, 8, 150, True, 6), DAGER(seconds=2, beam=4))
    assert "40 tokens" in full.extra["warnings"][0]
    assert "31 dimensions" in full.extra["warnings"][0]


@pytest.mark.slow
def test_replays_sort_what_the_span_tells_by_place_alone(helpers):
    data = texts(2, 6, 150, False, 13)
    view = view_of(helpers, "bert(width=64)", data)
    options = [np.unique(data.x[:, p]) for p in range(6)]
    x, y, misfit = exchange(view, [], options, 2, 0, 1e-9, time.monotonic() + 60, 0)
    assert misfit < 1e-9
    assert sorted(map(tuple, x.tolist())) == sorted(map(tuple, data.x.tolist()))
    assert sorted(y.tolist()) == sorted(data.y.tolist())


@pytest.mark.slow
def test_a_wrong_batch_is_never_called_exact(helpers):
    draws = np.random.default_rng(0)
    exact = 0
    for seed in range(100):
        n, length = int(draws.integers(1, 5)), int(draws.integers(3, 7))
        each = bool(draws.integers(2))
        data = texts(n, length, int(draws.integers(8, 60)), each, seed, padded=[(0, max(2, length // 2))])
        name = "gpt(width=16)" if each or draws.integers(2) else "bert(width=16)"
        finding = attacked(helpers, name, data, DAGER(seconds=3))
        assert not finding.extra["exact"] or same(finding, data), seed
        exact += finding.extra["exact"]
    assert exact > 40


@pytest.mark.slow
def test_an_encoder_is_searched_whole(helpers):
    data = texts(2, 6, 150, False, 3)
    assert len(np.unique(data.x)) == data.x.size
    finding = attacked(helpers, "bert(width=64)", data, DAGER(seconds=30))
    assert finding.extra["exact"], finding.extra["reason"]
    assert same(finding, data)


@pytest.mark.slow
def test_more_tokens_than_the_width_are_not_claimed(helpers):
    data = texts(5, 8, 150, True, 6)
    finding = attacked(helpers, "gpt(width=32)", data, DAGER(seconds=5, beam=8))
    assert not finding.extra["exact"]
    assert not finding.extra["condition"]["holds"]
    assert finding.extra["condition"]["spare"][0] == 0
    assert "too many tokens for this width" in finding.extra["reason"]


def test_noise_is_not_claimed(helpers):
    data = texts(1, 8, 60, True, 7)
    view = view_of(helpers, "gpt(width=32)", data)
    noise = np.random.default_rng(0).normal(0, np.std(view.observed), view.observed.shape).astype(np.float32)
    finding = attacked(helpers, "gpt(width=32)", data, DAGER(seconds=5, beam=8), observed=view.observed + noise)
    assert not finding.extra["exact"]
    assert finding.extra["reason"]


@pytest.mark.slow
def test_scaling_the_update_as_clipping_does_stops_nothing(helpers):
    data = texts(2, 8, 150, True, 8)
    view = view_of(helpers, "gpt(width=32)", data)
    finding = attacked(helpers, "gpt(width=32)", data, observed=(view.observed * 0.01).astype(np.float32))
    assert same(finding, data)
    assert not finding.extra["exact"]  # the replay knows of no clipping


@pytest.mark.slow
def test_sparse_updates_hide_the_span(helpers):
    data = texts(2, 8, 60, True, 9)
    view = view_of(helpers, "gpt(width=32)", data)
    least = np.quantile(np.abs(view.observed), 0.9)
    kept = np.where(np.abs(view.observed) >= least, view.observed, 0).astype(np.float32)
    finding = attacked(helpers, "gpt(width=32)", data, DAGER(seconds=5, beam=8), observed=kept)
    assert not finding.extra["exact"]


def test_a_frozen_attention_and_a_model_without_one_are_refused(helpers):
    data = texts(1, 8, 60, True)
    model = load("gpt(width=16)", data)
    view = helpers.make_view(model, data.x, data.y)
    observed = view.observed.copy()
    for index in (model.attention[0].query, *model.attention[0].others):
        observed[model.spec.slice_of(model.spec.names[index])] = 0
    with pytest.raises(CapabilityError, match="did not move"):
        attacked(helpers, "gpt(width=16)", data, observed=observed)
    with pytest.raises(CapabilityError, match="takes no tokens"):
        DAGER().run(helpers.make_view(helpers.dense(), np.zeros((1, 8, 8, 1)), [0]))
    sgd = Procedure.fedsgd()
    adam = sgd.model_copy(update={"client": sgd.client.model_copy(update={"kind": "adam"})})
    with pytest.raises(CapabilityError, match="adam"):
        attacked(helpers, "gpt(width=16)", data, procedure=adam)


@pytest.mark.slow
def test_what_a_defense_leaves_out_promises_nothing(helpers):
    data = texts(1, 6, 60, False, 3)
    view = view_of(helpers, "gpt(width=32,layers=2,tied=false)", data)
    assert DAGER().run(view).extra["condition"]["promised"]
    known = dataclasses.replace(view, defenses=(TopK(fraction=0.5),), states=((),))
    condition = DAGER(seconds=5).run(known).extra["condition"]
    assert not condition["promised"]
    assert not condition["holds"]
    assert condition["vocabulary"] == 59  # no token is ruled out by a row that did not arrive
