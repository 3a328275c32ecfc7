"""What clients see of a malicious server, and what they do not."""

import numpy as np
import pytest
from fedpriv_defenses.watch.commitment import BroadcastCommitment
from fedpriv_defenses.watch.gradients import WatchGradients
from fedpriv_defenses.watch.weights import WatchWeights

from fedpriv.base.errors import AbortError, StackError
from fedpriv.base.registry import defenses
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.features import Features
from fedpriv.data.partition import Partition
from fedpriv.federation.federation import Federation
from fedpriv.models import load
from fedpriv.procedure.procedure import make_procedure
from fedpriv.threat.acts import Plant
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

CLIENTS, EACH, WIDTH, UNITS = 3, 16, 36, 64


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    n = CLIENTS * EACH
    x = rng.uniform(size=(n, WIDTH)).astype(np.float32)
    kind = Features(shape=(WIDTH,))
    return Dataset("made", x, np.arange(n, dtype=np.int32) % 3, 3, kind=kind)


@pytest.fixture(scope="module")
def model(data):
    return load(f"2nn(hidden=[{UNITS},32])", data)


def made(model, data, *given, **more):
    parts = tuple(np.arange(c * EACH, (c + 1) * EACH) for c in range(CLIENTS))
    procedure = make_procedure(sampling={"kind": "full"}, weighting="uniform")
    fields = {"partition": Partition("blocks", parts), "procedure": procedure, "seed": 0, **more}
    return Federation(model=model, train=data, defenses=given, **fields)


def run(federation, *acts, rounds=1):
    taps = [Tap(Adversary().acting(*acts))] if acts else []
    return federation.run(rounds, taps=taps, evaluate_every=0)


def changed(model, change):
    """An act that changes the first kernel `[WIDTH, UNITS]` and its bias in place."""
    kernel, bias = (model.spec.slice_of(n) for n in model.spec.names[:2])

    def plant(weights, occasion):
        first, second = weights[kernel].reshape(WIDTH, UNITS).copy(), weights[bias].copy()
        change(first, second)
        weights[kernel], weights[bias] = first.ravel(), second
        return weights

    return plant


def bins(first, second):
    """Every unit measures the mean; thresholds are its quantiles over uniform features."""
    first[:] = 1 / WIDTH
    second[:] = -np.linspace(0.4, 0.6, UNITS)


def traps(first, second):
    rng = np.random.default_rng(1)
    for unit in range(UNITS):
        sizes, order = np.abs(rng.normal(size=WIDTH // 2)), rng.permutation(WIDTH)
        first[order[: WIDTH // 2], unit], first[order[WIDTH // 2 :], unit] = -sizes, 0.9 * sizes


def unbalanced(first, second):
    """Traps of an adversary that knows of `balance`: one weight more is negative."""
    traps(first, second)
    first[np.argmax(first, 0), np.arange(UNITS)] *= -1e-3


def test_honest_training_does_not_alarm(model, data):
    history = run(made(model, data, WatchWeights(), WatchGradients(isolated=0.9)), rounds=4)
    for record in history.records:
        assert record.metrics["watch_weights/alarm"] == record.metrics["watch_gradients/alarm"] == 0
        assert not record.warnings
    # measures of two rounds are there from the second on
    assert history.records[0].metrics["watch_weights/change"] == 0 < history.records[1].metrics["watch_weights/change"]
    assert history.records[1].metrics["watch_weights/loss"] == pytest.approx(1, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "which"), [(bins, {"similarity", "rank"}), (traps, {"balance"}), (unbalanced, set())]
)
def test_structure_in_weights_is_seen_and_an_act_that_knows_evades(model, data, change, which):
    act = Plant(weights=changed(model, change))
    (record,) = run(made(model, data, WatchWeights()), act).records
    seen = {n for n in WatchWeights.measures if record.metrics[f"watch_weights/alarm_{n}"]}
    assert seen == which
    assert bool(record.warnings) == bool(which)
    if which:
        assert "100% of the clients suspect" in record.warnings[0]
        assert all(name in record.warnings[0] for name in which)


@pytest.mark.slow
def test_similarity_and_rank_are_what_they_say(model, data):
    federation = made(model, data, WatchWeights())
    first, second = model.spec.unflatten_numpy(federation.start().weights)[:3:2]
    expected = []
    for kernel in (first, second):
        unit = kernel / np.linalg.norm(kernel, axis=0)
        cosines = np.abs(unit.T @ unit) - np.eye(kernel.shape[1])
        expected.append(np.sort(cosines.max(1))[kernel.shape[1] // 2])
    metrics = run(federation).records[0].metrics
    assert metrics["watch_weights/similarity"] == pytest.approx(max(expected), rel=1e-4)
    ranks = [np.sum(k**2) / np.linalg.norm(k, 2) ** 2 for k in (first, second)]
    assert metrics["watch_weights/rank"] == pytest.approx(min(ranks), rel=0.02)


@pytest.mark.slow
def test_a_change_between_rounds_is_seen_where_nothing_came_before_it_is_not(model, data):
    def larger(weights, occasion):
        return 3 * weights

    for rounds, seen in (((0,), False), ((2,), True)):
        federation = made(model, data, WatchWeights(similarity=2, rank=0, balance=2, loss=1e9))
        records = run(federation, Plant(weights=larger, rounds=rounds), rounds=rounds[0] + 1).records
        assert bool(records[-1].metrics["watch_weights/alarm_change"]) == seen


def test_single_examples_and_dead_units_are_seen_in_gradients(model, data):
    def dead(first, second):
        first[:], second[:] = -1, -1

    def rare(first, second):  # each unit looks at one feature, and fires for its largest values
        first[:], second[:] = np.eye(WIDTH)[:, np.arange(UNITS) % WIDTH], -0.94

    watch = WatchGradients(isolated=0.4)
    (lone,) = run(made(model, data, watch), Plant(weights=changed(model, rare))).records
    assert lone.metrics["watch_gradients/alarm_isolated"] == 1
    (silent,) = run(made(model, data, watch), Plant(weights=changed(model, dead))).records
    assert silent.metrics["watch_gradients/alarm_silent"] == 1
    assert silent.metrics["watch_gradients/silent"] == 1


@pytest.mark.slow
def test_a_last_layer_that_lets_one_class_through_is_dominated(model, data):
    """Of a client's examples one is of class 2; with all others certain, its gradient is all there is."""
    y = np.zeros(len(data.x), np.int32)
    y[::EACH] = 2
    one = Dataset("made", data.x, y, 3, kind=data.kind)
    name = model.spec.names[-1]

    def certain(weights, occasion):
        weights[model.spec.slice_of(name)] = [30, 0, 0]
        return weights

    federation = made(model, one, WatchGradients(isolated=2))
    (record,) = run(federation, Plant(weights=certain)).records
    assert record.metrics["watch_gradients/alarm_dominance"] == 1
    (honest,) = run(made(model, one, WatchGradients(isolated=2))).records
    assert honest.metrics["watch_gradients/alarm"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True])
def test_who_withholds_adds_zeros_and_the_round_goes_on(model, data, secure):
    protocol = [defenses.create("secret_sharing(aggregators=3,range=1)")] if secure else []
    act = Plant(weights=changed(model, bins), clients=(1,))
    federation = made(model, data, WatchWeights(answer="withhold"), *protocol)
    start = federation.start().weights
    history = run(federation, act)
    others = made(model, data, *protocol)
    alone = others.step(others.start(), clients=[0, 2], evaluate=False)[0].weights
    assert history.records[0].metrics["watch_weights/alarm"] == pytest.approx(1 / 3)
    assert "sent updates of zeros" in history.records[0].warnings[0]
    np.testing.assert_allclose(history.weights - start, (alone - start) * 2 / 3, atol=1e-4)
    if not secure:
        views = [o.view for o in history.observations]
        assert [not v.observed.any() for v in views] == [False, True, False]


@pytest.mark.slow
def test_clients_that_compare_refuse_what_differs_and_not_what_is_malicious(model, data):
    act = Plant(weights=changed(model, bins), clients=(1,))
    history = run(made(model, data, BroadcastCommitment()), act)
    (record,) = history.records
    assert "2 different sets of weights (1 of 3 clients got others than most: 1)" in record.aborted
    np.testing.assert_array_equal(history.weights, made(model, data).start().weights)
    assert not history.observations
    alike = run(made(model, data, BroadcastCommitment()), Plant(weights=changed(model, bins)))
    assert not alike.records[0].aborted
    assert len(alike.observations) == CLIENTS
    honest = run(made(model, data, BroadcastCommitment()))
    np.testing.assert_array_equal(honest.weights, run(made(model, data)).weights)
    with pytest.raises(AbortError, match="and refuse"):
        run(made(model, data, BroadcastCommitment(), on_abort="stop"), act)


def test_a_refused_round_reveals_no_secure_sum(model, data):
    act = Plant(weights=changed(model, bins), clients=(1,))
    secure = defenses.create("secret_sharing(aggregators=3,range=1)")
    history = run(made(model, data, BroadcastCommitment(), secure), act)
    assert history.records[0].aborted
    assert not history.observations


def test_a_commitment_tells_rounds_apart():
    got = {c: np.zeros(4, np.float32) for c in range(3)}
    assert BroadcastCommitment().refusal(got, 0) == ""
    got[2] = np.array([0, 0, 0, 1e-30], np.float32)
    assert "clients got others than most: 2)" in BroadcastCommitment().refusal(got, 0)


def test_models_without_what_is_looked_at_are_refused(data):
    with pytest.raises(StackError, match="no dense kernel of at least 16 by 16; use watch_gradients"):
        made(load("logistic", data), data, WatchWeights())


@pytest.mark.slow
def test_both_engines_see_refuse_and_withhold_alike(model, data):
    act = Plant(weights=changed(model, bins), clients=(1,))
    found = []
    for engine in ("graph", "tff"):
        watched = made(model, data, WatchWeights(answer="withhold"), WatchGradients(isolated=0.9), engine=engine)
        history = run(watched, act, rounds=2)
        committed = made(model, data, BroadcastCommitment(), engine=engine)
        refused = run(committed, act)
        found.append((history, refused.records[0].aborted))
        watched.close()
        committed.close()
    (graph, why), (tff, same) = found
    assert why == same != ""
    np.testing.assert_allclose(graph.weights, tff.weights, atol=1e-6)
    for one, two in zip(graph.records, tff.records, strict=True):
        assert one.metrics["watch_weights/alarm"] == two.metrics["watch_weights/alarm"] > 0
        assert one.warnings == two.warnings
