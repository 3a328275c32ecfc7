"""Token sets: what an embedding's rows show, where a tied head does not hide it, and where something does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from fedpriv_attacks.text.token_set import TokenSet, _counts

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models import load
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial


def texts(n, length, vocabulary, each, seed=0):
    draws = np.random.default_rng(seed)
    w = draws.integers(1, vocabulary, (n, length + 1)).astype(np.int32)
    y = w[:, 1:] if each else draws.integers(0, 2, n)
    kind = Tokens(length=length, vocabulary=vocabulary, padding=0)
    return Dataset("made", w[:, :-1].copy(), np.ascontiguousarray(y), vocabulary if each else 2, kind=kind)


def view_of(helpers, name, data, **more):
    return helpers.make_view(load(name, data), data.x, data.y, **more)


@pytest.mark.parametrize(
    ("name", "each"), [("gpt(tied=false,width=32)", True), ("gpt(width=32)", False), ("bert(width=32)", False)]
)
def test_rows_that_moved_are_the_tokens(helpers, name, each):
    data = texts(4, 8, 120, each)
    finding = TokenSet().run(view_of(helpers, name, data))
    assert finding.extra["set"] == sorted(set(data.x.ravel().tolist()))
    assert finding.extra["exact"]
    assert finding.x.shape == data.x.shape
    assert sum(finding.extra["tokens"].values()) == data.x.size


def test_a_tied_head_is_told_apart_while_places_are_fewer_than_the_width(helpers):
    data = texts(2, 8, 120, True)
    model = load("gpt(width=32)", data)
    draws = np.random.default_rng(1)
    # Far from the start of training, where predictions differ from place to place.
    weights = (model.initial_weights(0) * 4 + draws.normal(0, 0.01, model.spec.size)).astype(np.float32)
    finding = TokenSet().run(helpers.make_view(model, data.x, data.y, weights=weights))
    assert finding.extra["source"] == "rows outside of the head's part"
    assert finding.extra["set"] == sorted(set(data.x.ravel().tolist()))
    assert not finding.extra["exact"]
    assert finding.extra["gap"] > 100


def test_noise_covers_the_rows(helpers):
    data = texts(2, 8, 60, False)
    view = view_of(helpers, "gpt(width=16)", data)
    noise = np.random.default_rng(0).normal(0, 1, view.observed.shape) * np.abs(view.observed).max()
    noisy = view_of(helpers, "gpt(width=16)", data, observed=(view.observed + noise).astype(np.float32))
    with pytest.raises(CapabilityError, match="no set of them stands out"):
        TokenSet().run(noisy)


def test_a_frozen_embedding_shows_nothing(helpers):
    data = texts(2, 8, 60, False)
    view = view_of(helpers, "gpt(width=16)", data)
    observed = view.observed.copy()
    observed[view.model.spec.slice_of("embedding/table")] = 0
    with pytest.raises(CapabilityError, match="frozen"):
        TokenSet().run(view_of(helpers, "gpt(width=16)", data, observed=observed))


def test_a_model_without_an_embedding_is_refused(helpers):
    model = helpers.dense()
    with pytest.raises(CapabilityError, match="has none"):
        TokenSet().run(helpers.make_view(model, np.zeros((1, 8, 8, 1)), [0]))


def test_counts_are_exact_where_sizes_are_multiples():
    np.testing.assert_array_equal(_counts(np.array([2.0, 6.0, 4.0]), 6, False), [1, 3, 2])
    np.testing.assert_array_equal(_counts(np.array([2.0, 6.0, 4.0]), 9, True), [1, 3, 2])
    assert _counts(np.array([1.0, 1.7, 3.1]), 8, False).sum() == 8
    assert _counts(np.zeros(0), 8, False).shape == (0,)


def test_bag_of_tokens_with_repeats(helpers):
    data = texts(1, 12, 8, False)
    finding = TokenSet().run(view_of(helpers, "gpt(width=32)", data))
    true = Counter(data.x.ravel().tolist())
    assert set(finding.extra["tokens"]) == set(true)
    assert set(finding.x.ravel().astype(int).tolist()) == set(true)  # none is crowded out by repetitions


def tagger():
    """A Keras model."""
    layers = tf.keras.layers
    x = tf.keras.Input([8])
    h = layers.GlobalAveragePooling1D()(layers.Embedding(120, 8)(x))
    return tf.keras.Model(x, layers.Dense(2)(h))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bag_of_embeddings", "lstm", "gru", f"{__name__}:tagger"])
def test_sets_of_other_models_and_several_local_steps(helpers, name):
    data = texts(6, 8, 120, False, 3)
    model = load(name, data)
    steps = Procedure(local_epochs=2, batch_size=2, client={"learning_rate": 0.1})
    observation = next(iter(Exposure(model, data, 1, batch=6, procedure=steps)))
    trial = run_trial(TokenSet(), observation)
    assert trial.finding.extra["exact"]
    assert trial.finding.extra["set"] == sorted(set(data.x.ravel().tolist()))
    assert trial.score.rows()[0]["set_accuracy"] == 1.0
