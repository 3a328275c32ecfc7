import subprocess
import sys
import textwrap

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import DivergenceError
from fedpriv.base.seeds import graph_seed
from fedpriv.data.dataset import Dataset
from fedpriv.engine.graph import GraphEngine
from fedpriv.engine.result import CohortTask

EVERYONE = [0, 1, 2, 3, 4]


def cohort(federation, chunk=None, lanes=None, clients=EVERYONE, **options):
    engine = GraphEngine(federation)
    engine.chunk_clients, engine.lanes = chunk or engine.chunk_clients, lanes or engine.lanes
    start = federation.start()
    protocol, session = federation.line.protocol, None
    if protocol is not None:
        session = protocol.open(federation.plan, clients, round=0, seed=0)
    task = CohortTask(
        weights=start.weights,
        clients=clients,
        round=0,
        rate=0.1,
        states=start.defenses,
        own=start.clients,
        session=session,
        **options,
    )
    return engine.cohort(task)


def same_bits(a, b):
    assert a.total.tobytes() == b.total.tobytes()
    assert (a.weight, a.loss, a.log, a.survivors) == (b.weight, b.loss, b.log, b.survivors)
    assert {c: u.tobytes() for c, u in a.updates.items()} == {c: u.tobytes() for c, u in b.updates.items()}


@pytest.fixture
def clipped(federate):
    return federate(defenses=(Clip(norm=0.05),), batch_size=4, local_epochs=2, weighting="examples")


@pytest.mark.slow
def test_neither_chunks_nor_lanes_change_a_bit(clipped):
    everyone = frozenset(EVERYONE)
    reference = cohort(clipped, 64, 2, wanted=everyone)
    assert set(reference.updates) == everyone
    assert set(reference.log) == {"clip/norm", "clip/clipped"}
    for chunk, lanes in ((1, 1), (3, 2), (64, 3)):
        same_bits(cohort(clipped, chunk, lanes, wanted=everyone), reference)


def test_the_cohort_is_the_weighted_sum_of_its_ragged_clients(federate, parts):
    for weighting, shares in (("examples", parts.sizes / 12), ("uniform", np.ones(5))):
        found = cohort(federate(batch_size=4, weighting=weighting), wanted=frozenset(EVERYONE))
        expected = sum(s * found.updates[c].astype(np.float64) for c, s in enumerate(shares))
        np.testing.assert_allclose(found.total, expected, atol=1e-7)
        assert found.weight == pytest.approx(shares.sum(), rel=1e-6)


def test_a_client_does_the_same_in_any_cohort_and_in_any_order(clipped):
    whole = cohort(clipped, wanted=frozenset(EVERYONE))
    some = cohort(clipped, clients=[3, 1], wanted=frozenset(EVERYONE))
    assert some.survivors == [3, 1]
    for c in (1, 3):
        assert some.updates[c].tobytes() == whole.updates[c].tobytes()


def test_only_what_is_wanted_is_brought_back(clipped):
    assert cohort(clipped).updates == {}
    assert set(cohort(clipped, wanted=frozenset([2, 77])).updates) == {2}


def test_nobody_is_a_cohort_too(clipped):
    nobody = cohort(clipped, clients=[])
    assert (nobody.weight, nobody.survivors, nobody.log, nobody.bytes_up) == (0, [], {}, 0)
    assert np.isnan(nobody.loss)
    assert not nobody.total.any()


@pytest.mark.slow
def test_bytes_are_those_of_the_survivors_messages(federate, logistic_model):
    d = logistic_model.spec.size
    for weighting, numbers in (("uniform", d), ("examples", d + 1)):
        federation = federate(weighting=weighting)
        assert cohort(federation, clients=[0, 3]).bytes_up == 2 * 4 * numbers


def spoiled(toy, *examples):
    x = toy.x.copy()
    x[list(examples)] = np.nan
    return Dataset("spoiled", x, toy.y, toy.num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("defenses", [(), (SecretSharing(aggregators=2),)], ids=["plain", "shared"])
def test_a_diverged_client_stops_the_round_or_is_left_out_of_it(federate, toy, defenses):
    bad = spoiled(toy, 6)  # one of client 1's
    with pytest.raises(DivergenceError, match=r"round 0.*client 1 is not finite.*rate"):
        cohort(federate(train=bad, defenses=defenses, batch_size=4))
    kept = federate(train=bad, defenses=defenses, batch_size=4, on_nonfinite="drop")
    found = cohort(kept, 2)
    assert (found.dropped, found.survivors) == ([1], [0, 2, 3, 4])
    without = cohort(federate(defenses=defenses, batch_size=4), 3, clients=[0, 2, 3, 4])
    assert found.total.tobytes() == without.total.tobytes()
    assert (found.weight, found.loss) == (without.weight, without.loss)


@pytest.mark.slow
def test_a_diverged_client_that_holds_shares_is_a_holder_gone(federate, toy):
    settings = {"train": spoiled(toy, 6), "batch_size": 4, "on_nonfinite": "drop"}
    additive = SecretSharing(among="clients", range=1.0)
    history = federate(defenses=(additive,), **settings).run(2)
    assert [r.aborted[:15] for r in history.records] == ["client 1 of 5 g"] * 2  # its column of shares is missing
    assert [r.dropped for r in history.records] == [[1], [1]]
    np.testing.assert_array_equal(history.weights, federate(**settings).start().weights)
    shamir = federate(defenses=(additive.with_(threshold=3),), **settings).run(1)
    assert (shamir.records[0].aborted, shamir.records[0].survivors) == ("", 4)
    plain = federate(**settings).run(1)
    np.testing.assert_allclose(shamir.weights, plain.weights, atol=1e-6)


def test_when_all_diverge_nothing_moves(federate, toy):
    federation = federate(train=spoiled(toy, *range(30)), on_nonfinite="drop")
    history = federation.run(1)
    assert history.records[0].survivors == 0
    assert history.records[0].dropped == EVERYONE
    np.testing.assert_array_equal(history.weights, federation.start().weights)


@pytest.mark.slow
def test_the_secure_sum_is_the_plain_one_up_to_rounding(federate):
    protocol = SecretSharing(aggregators=3, range=1.0)
    for weighting in ("examples", "uniform"):
        shared = federate(defenses=(protocol,), batch_size=4, weighting=weighting)
        plain, summed = cohort(federate(batch_size=4, weighting=weighting)), cohort(shared, 2)
        assert np.abs(plain.total - summed.total).max() <= 5 * protocol.parts()[0].steps(shared.plan).step
        assert summed.weight == pytest.approx(plain.weight, rel=1e-6)
        assert summed.updates == {}


def test_evaluation_is_the_mean_over_all_examples(federate, toy, logistic_model, by_hand):
    federation = federate()
    flat = np.random.default_rng(0).normal(0, 1, logistic_model.spec.size).astype(np.float32)
    many = np.random.default_rng(1).integers(0, 30, 1203)  # three evaluation batches, the last one short
    x, y = toy.x[many], toy.y[many]
    loss, accuracy = GraphEngine(federation).evaluate(flat, x, y.astype(np.int32))
    assert loss == pytest.approx(by_hand.loss(flat, x, y), rel=1e-5)
    logits = x.reshape(len(x), -1) @ flat[:-3].reshape(-1, 3) + flat[-3:]
    assert accuracy == np.mean(logits.argmax(1) == y)


@pytest.mark.slow
def test_pixels_as_bytes_train_as_their_floats(federate, toy):
    grey = np.round(toy.x * 255).astype(np.uint8)
    same = Dataset("same", grey.astype(np.float32) / np.float32(255), toy.y, 3)
    as_bytes, as_floats = (cohort(federate(train=t, batch_size=4)) for t in (Dataset("b", grey, toy.y, 3), same))
    np.testing.assert_allclose(as_bytes.total, as_floats.total, atol=1e-6)


def test_a_divergence_of_the_model_itself_names_the_round(federate):
    with pytest.raises(DivergenceError, match=r"round 0: the global model.*server"):
        federate(server={"learning_rate": 3e38}, client={"learning_rate": 100.0}).run(3)


def test_seeds_of_rounds_and_purposes_do_not_meet():
    seeds = [tuple(graph_seed(s, p, r)) for s in range(5) for p in range(5) for r in range(20)]
    assert len(set(seeds)) == len(seeds)


MEMORY = """
    import sys
    import numpy as np
    from experiments.benchmarks.cohort_memory import peak_memory
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.partition import Partition
    from fedpriv.federation.federation import Federation
    from fedpriv.models.zoo import mlp_2nn
    from fedpriv.procedure.procedure import make_procedure
    few, many, hidden = map(int, sys.argv[1:])
    rng = np.random.default_rng(0)
    data = Dataset("noise", rng.integers(0, 256, (many, 28, 28, 1), np.uint8), rng.integers(0, 10, many), 10)
    model = mlp_2nn(hidden=[hidden, hidden])
    parts = Partition("one each", tuple(np.arange(many)[:, None]))
    federation = Federation(model, data, parts, make_procedure())
    state = federation.start()
    for clients in (few, many):
        _, record = federation.step(state, evaluate=False, clients=range(clients))
        assert record.survivors == clients
        print(peak_memory() // 1024, model.spec.size)
"""


def added_megabytes(few, many, hidden):
    """Peak memory that `many` clients need beyond what `few` need, and what their updates would take at once."""
    arguments = [sys.executable, "-c", textwrap.dedent(MEMORY), str(few), str(many), str(hidden)]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    (before, d), (after, _) = (map(int, line.split()) for line in out.splitlines())
    return (after - before) / 1024, many * d * 4 / 2**20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cohort():
    added, at_once = added_megabytes(200, 2000, 50)
    assert at_once > 300
    assert added < 100


@pytest.mark.slow
def test_ten_thousand_clients_of_the_2nn_need_bounded_memory():
    added, at_once = added_megabytes(500, 10_000, 200)
    assert at_once > 7000
    assert added < 300
