"""Federations of token models: engines agree, updates are replayed from points, and what they can be combined with."""

import math

import numpy as np
import pytest
from fedpriv_defenses.dp_sgd.dp_sgd import DPSGD

from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.data.partition import Partition
from fedpriv.engine.tff.runtime import Runtime
from fedpriv.models import load
from fedpriv.models.sequences import with_presence
from fedpriv.rounds.exposure import Exposure
from fedpriv.topology.gossip import Gossip

LENGTH, VOCABULARY = 5, 12
PARTS = Partition("even", tuple(np.arange(24).reshape(4, 6)))
GPT = "gpt(layers=1,width=8,heads=2)"
LSTM = "lstm(width=6,units=6)"
BAG = "bag_of_embeddings(width=6,hidden=[])"


def sequences(each: bool) -> Dataset:
    """Tokens that count up, so that the next one is known; every other sequence ends in padding."""
    x = (np.random.default_rng(0).integers(0, VOCABULARY - 1, (24, 1)) + np.arange(LENGTH + 1)) % (VOCABULARY - 1) + 1
    x[::2, 4:] = 0
    x = x.astype(np.int32)
    y = np.ascontiguousarray(x[:, 1:]) if each else (x[:, 0] > 6).astype(np.int32)
    kind = Tokens(length=LENGTH, vocabulary=VOCABULARY, padding=0)
    return Dataset("made", np.ascontiguousarray(x[:, :-1]), y, VOCABULARY if each else 2, kind=kind)


def options(name, each, **more):
    data = sequences(each)
    client = {"learning_rate": 0.05, "kind": "adam"}
    fields = {"client": client, "batch_size": 4, "local_epochs": 2, "partition": PARTS, **more}
    return {"model": load(name, data), "train": data, "test": data, **fields}


@pytest.fixture(scope="module")
def address():
    runtime = Runtime()
    yield runtime.address
    runtime.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "each"), [(GPT, True), pytest.param(LSTM, False, marks=pytest.mark.slow)])
def test_both_engines_train_to_the_same_weights(federate, address, name, each):
    tff = {"engine": "tff", "engine_options": {"workers": [address]}}
    sgd = {"client": {"learning_rate": 0.2}}
    graph, other = (federate(**options(name, each, **sgd), **engine).run(2) for engine in ({}, tff))
    np.testing.assert_allclose(other.weights, graph.weights, atol=1e-5)
    assert graph.records[1].test_loss < graph.records[0].test_loss
    for a, b in zip(graph.records, other.records, strict=True):
        assert (b.loss, b.test_loss) == pytest.approx((a.loss, a.test_loss), rel=1e-4)


@pytest.mark.slow
def test_a_next_token_model_learns_and_says_its_perplexity(federate):
    records = federate(**options(GPT, True)).run(6).records
    for record in records:
        assert record.metrics["test_perplexity"] == pytest.approx(math.exp(record.test_loss))
    assert records[-1].metrics["test_perplexity"] < 4 < records[0].metrics["test_perplexity"]


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bits(federate, tmp_path):
    path = tmp_path / "run.npz"
    whole = federate(**options(GPT, True)).run(6)
    federate(**options(GPT, True)).run(3, checkpoint=path)
    assert federate(**options(GPT, True)).run(6, checkpoint=path).weights.tobytes() == whole.weights.tobytes()


@pytest.mark.slow
def test_examples_gradients_are_clipped_in_drawn_batches(federate):
    """With a clip that binds nothing and no noise, DP-SGD on full batches is SGD."""
    one = {"batch_size": 6, "local_epochs": 1, "client": {"learning_rate": 0.5}, "weighting": "uniform"}
    loose = (DPSGD(clip=1e6, noise_multiplier=0.0),)
    plain, clipped = (federate(**options(GPT, True, **one), defenses=d).run(1).weights for d in ((), loose))
    np.testing.assert_allclose(clipped, plain, atol=1e-5)
    drawn = {**one, "batch_size": 3, "batch_selection": "poisson", "rounds": 2}
    noisy = federate(**options(GPT, True, **drawn), defenses=(DPSGD(clip=0.1, noise_multiplier=0.5),)).run(2)
    assert np.isfinite(noisy.weights).all()
    assert noisy.records[-1].epsilon > 0


@pytest.mark.slow
def test_peers_gossip_about_next_tokens(federate):
    federation = federate(**options(LSTM, True), topology=Gossip(graph="ring", protocol="d_psgd"), weighting="uniform")
    last = federation.run(2).records[-1]
    assert last.metrics["test_perplexity"] == pytest.approx(math.exp(last.test_loss))


@pytest.mark.parametrize(("name", "each"), [(GPT, True), (BAG, False)])
def test_an_update_is_replayed_from_points_but_for_the_rows_looked_up(name, each):
    data = sequences(each)
    model = load(name, data)
    view = next(iter(Exposure(model, data, trials=1, batch=2))).view
    spec, where = model.spec, model.embedding
    table = tf.constant(spec.unflatten_numpy(view.weights)[where.table])
    points = with_presence(tf.gather(table, data.x[:2]), data.x[:2] != 0)
    found = spec.unflatten_numpy(view.simulate(points, tf.constant(data.y[:2])).numpy())
    true = spec.unflatten_numpy(view.observed)
    for i, (a, b) in enumerate(zip(found, true, strict=True)):
        if i != where.table:
            np.testing.assert_allclose(a, b, atol=1e-6)
    rows = np.abs(true[where.table] - found[where.table]).sum(1) > 1e-7
    tokens = data.x[:2][(data.y if each else data.x)[:2] != 0]  # where the target is padding, nothing is learned
    np.testing.assert_array_equal(np.flatnonzero(rows), np.unique(tokens))
