"""Gossip: peers of their own models; against FedAvg, closed forms, conservation of mass, and resumed runs."""

import re

import numpy as np
import pytest

from fedpriv.base.errors import (
    BudgetError,
    DivergenceError,
    EngineError,
    LedgerError,
    ParameterError,
    StackError,
    UnknownNameError,
)
from fedpriv.data.partition import Partition
from fedpriv.procedure.procedure import Sampling
from fedpriv.rounds.masked import masked_messages, unmasked_sum
from fedpriv.topology.gossip import Gossip


@pytest.fixture(scope="module")
def even():
    """Six clients of five examples."""
    return Partition("even", tuple(np.arange(30).reshape(6, 5)))


@pytest.fixture
def gossip(federate, even):
    """`gossip(graph=..., protocol=..., ...)`; other keywords as `federate`."""

    def make(graph="ring", protocol="d_psgd", masks=False, **options):
        options = {"partition": even, "weighting": "uniform", "batch_size": 2, **options}
        return federate(topology=Gossip(graph=graph, protocol=protocol, masks=masks), **options)

    return make


def apart(federation, state, spread=1.0):
    """The state with models drawn anew, so that there is something to mix."""
    rng = np.random.default_rng(3)
    models = (spread * rng.normal(size=state.server["models"].shape)).astype(np.float32)
    return type(state)(
        state.round, models.mean(0), {**state.server, "models": models}, state.defenses, state.clients
    ), models.astype(np.float64)


def still(gossip, **options):
    """Peers that hardly train: what moves is the exchange alone."""
    return gossip(client={"learning_rate": 1e-12}, **options)


@pytest.mark.slow
def test_on_the_complete_graph_d_psgd_is_fedavg_with_everybody(gossip, federate, even):
    server = federate(partition=even, weighting="uniform", batch_size=2, local_epochs=2)
    peers = gossip("complete", local_epochs=2)
    ours, theirs = peers.run(3), server.run(3)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-6)
    assert ours.records[-1].loss == pytest.approx(theirs.records[-1].loss, abs=1e-6)
    assert ours.records[-1].accuracy == pytest.approx(theirs.records[-1].accuracy)
    assert ours.records[-1].metrics["consensus_distance"] < 1e-6
    assert peers.config() != server.config()
    assert server.config()["topology"] == "server"


def test_the_consensus_distance_contracts_as_the_spectral_gap_says(gossip):
    federation = still(gossip)
    state, models = apart(federation, federation.start())
    # The slowest mode of a ring of 6: it shrinks by exactly the contraction each round.
    wiring = federation.wiring.wiring(6)
    values, vectors = np.linalg.eigh(wiring.matrices[0].toarray())
    mode = vectors[:, np.argsort(values)[-2]]
    state.server["models"] = np.outer(mode, np.ones(models.shape[1])).astype(np.float32)
    before = np.linalg.norm(state.server["models"]) / np.sqrt(6)
    for round_number in range(3):
        state, record = federation.step(state, evaluate=False)
        expected = before * wiring.contraction ** (round_number + 1)
        assert record.metrics["consensus_distance"] == pytest.approx(expected, rel=1e-5)
    # Whatever the models, never slower than that.
    state, models = apart(federation, federation.start())
    distance = np.sqrt(((models - models.mean(0)) ** 2).sum(1).mean())
    for _ in range(3):
        state, record = federation.step(state, evaluate=False)
        assert record.metrics["consensus_distance"] <= distance * wiring.contraction * (1 + 1e-5)
        distance = record.metrics["consensus_distance"]
        np.testing.assert_allclose(state.weights, models.mean(0), atol=1e-6)


def test_masks_cancel_in_every_receivers_sum_and_hide_each_message(gossip):
    plain, masked = gossip(), gossip(masks=True)
    ours, theirs = masked.run(2), plain.run(2)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-7)
    assert ours.records[0].bytes_up == 2 * theirs.records[0].bytes_up
    models, weights = np.random.default_rng(0).normal(size=(3, 50)), np.array([0.2, 0.3, 0.1])
    messages = masked_messages(weights, models)
    np.testing.assert_allclose(unmasked_sum(messages), weights @ models, atol=1e-9)
    assert np.abs(messages[0].view(np.int64) * 2.0**-32).mean() > 1e6  # nothing like a model
    (alone,) = masked_messages(weights[:1], models[:1])
    np.testing.assert_allclose(alone.view(np.int64) * 2.0**-32, 0.2 * models[0], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["gosgd(delay=1)", "choco(compression=random_k(fraction=0.3))"])
def test_a_resumed_run_has_the_same_bits(gossip, protocol, tmp_path):
    attrition = "none" if "choco" in protocol else "bernoulli(rate=0.3)"
    whole = gossip(protocol=protocol, attrition=attrition).run(4)
    for rounds in (2, 4):
        again = gossip(protocol=protocol, attrition=attrition).run(rounds, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(again.weights, whole.weights)
    assert [r.row() | {"seconds": 0} for r in again.records] == [r.row() | {"seconds": 0} for r in whole.records]
    assert whole.records[0].lost != [] or protocol.startswith("choco")


def test_defenses_act_on_each_peers_update_and_the_account_is_that_of_its_messages(gossip):
    defenses = ["clip(norm=0.01)"]
    from fedpriv.base import registry

    made = tuple(registry.defenses.create(d) for d in defenses)
    federation = gossip("complete", defenses=made)
    start = federation.start()
    after, record = federation.step(start)
    assert np.linalg.norm(after.weights - start.weights) <= 0.01 * (1 + 1e-4)
    assert record.metrics["clip/clipped"] == 1
    noisy = gossip(defenses=(registry.defenses.create("local_dp(clip=0.1,noise_multiplier=2)"),))
    ledger = noisy.run(2).ledger
    server = noisy.line.claims()[0]
    assert (
        ledger.epsilon(1e-5, against="server").assumes[0].startswith("'server' is here whoever sees a peer's messages")
    )
    from fedpriv.account.accounting import composed_epsilon

    expected = composed_epsilon(server.event, "replace_one", "rdp", 2, 1e-5)
    assert ledger.epsilon(1e-5, against="server").value == pytest.approx(expected)
    # The sum of all noises, that whoever sees a server's model would meet, is nobody's here.
    assert ledger.epsilon(1e-5, against="released").value == pytest.approx(expected)
    assert any("which no server makes here" in why for why in ledger.refusals)
    (said,) = noisy.account_notes(1e-5, 2)
    assert "not claimed: noise is added once and then averaged in one round alone, but these are 2" in said


def test_the_graph_amplifies_privacy_where_noise_is_added_once(gossip):
    from fedpriv.account.network import shares
    from fedpriv.base import registry

    noise = (registry.defenses.create("local_dp(clip=1,noise_multiplier=4)"),)
    federation = gossip("ring", defenses=noise)
    found, why = federation._rounds.network([0], 1e-5)
    local = federation.ledger().epsilon(1e-5, against="server", rounds=1).value
    assert why == []
    assert found[1] == found[5] == pytest.approx(local)  # neighbours send it their noised update itself
    assert found[2] == found[3] == found[4] == 0  # nothing of theirs has reached it after one exchange
    # Two exchanges share one noise: their messages together give y2 away, of which the second alone has a third.
    wiring = Gossip(graph="ring").wiring(6)
    two = shares(wiring.matrices[0], wiring.links[0], 2, [0])
    np.testing.assert_allclose(two, [1, 1, 1, 0, 1, 1], atol=1e-9)
    # Masks leave sums, in which the others' noise stays: of two neighbours, half each.
    np.testing.assert_allclose(
        shares(wiring.matrices[0], wiring.links[0], 1, [0], masked=True), [1, 0.5, 0, 0, 0, 0.5], atol=1e-9
    )
    everybody = Gossip(graph="complete").wiring(6)
    np.testing.assert_allclose(
        shares(everybody.matrices[0], everybody.links[0], 5, [0], masked=True)[1:], 0.2, atol=1e-9
    )
    for other, said in (("push_sum", "d_psgd in time"), ("d_psgd(delay=1)", "d_psgd in time")):
        assert said in gossip(protocol=other, defenses=noise).account_notes(1e-5, 1)[0]


def test_what_gossip_cannot_carry_is_refused_by_name(gossip, federate, even):
    from fedpriv.base import registry

    def defended(text, **options):
        return gossip(defenses=(registry.defenses.create(text),), **options).start()

    with pytest.raises(StackError, match="central_dp acts at the aggregate station, which needs a server"):
        defended("central_dp(clip=1,noise_multiplier=1)")
    with pytest.raises(
        StackError, match=r"^secret_sharing acts at the encode .* needs a server, and gossip has none; masks"
    ):
        defended("secret_sharing(aggregators=3)")
    with pytest.raises(StackError, match=r"choco\(compression=...\)"):
        defended("random_k(fraction=0.5)")
    with pytest.raises(EngineError, match="engine='tff' trains all clients from one server's model"):
        gossip(engine="tff").start()
    with pytest.raises(ParameterError, match="gossip has no cohorts"):
        gossip(sampling=Sampling.fixed(2)).start()
    with pytest.raises(ParameterError, match="gossip has no server, so a server optimizer"):
        gossip(server={"learning_rate": 0.5}).start()
    with pytest.raises(ParameterError, match="needs all peers in every round"):
        gossip(protocol="choco", attrition="bernoulli(rate=0.1)").start()
    with pytest.raises(
        ParameterError, match="whose links go one way, are then not doubly stochastic; use protocol=push_sum"
    ):
        gossip("exponential", attrition="bernoulli(rate=0.1)").start()
    with pytest.raises(ParameterError, match="graph 'torus' needs at least 9 peers, but there are 6"):
        gossip("torus").start()
    with pytest.raises(ParameterError, match="a peer without examples cannot train"):
        federate(partition=even, topology="gossip(peers=7)").start()
    with pytest.raises(ParameterError, match="peers=3, but 6 clients hold examples"):
        federate(partition=even, topology="gossip(peers=3)").start()
    with pytest.raises(ParameterError, match="topology 'server' has no parameter 'graph'"):
        federate(topology="server(graph=ring)").config()
    with pytest.raises(UnknownNameError, match="Did you mean 'gossip'"):
        federate(topology="gosip").config()
    with pytest.raises(DivergenceError, match="the update of client"):
        gossip(client={"learning_rate": 1e38}).run(3)
    ledger = gossip(defenses=(registry.defenses.create("local_dp(clip=1,noise_multiplier=2)"),)).ledger()
    ledger.claims = ()
    with pytest.raises(LedgerError, match="no server makes"):
        ledger.epsilon(1e-5)


@pytest.mark.slow
def test_the_page_on_gossip_runs(capsys):
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "gossip.md").read_text()
    code, attacking = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, "docs/gossip.md", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(
        "topology 'gossip': torus of 9 peers: connected, each sends to 4 a round; spectral gap 0.6"
    )
    apart, accuracy = map(float, told[1].split())
    assert 0 < apart < 1
    assert accuracy > 0.6
    exec(compile(attacking, "docs/gossip.md", "exec"), {})
    (known,) = capsys.readouterr().out.splitlines()
    assert known.startswith("1.0 [")
    assert min(map(int, re.findall(r"\d+", known)[2:])) > 100


def test_network_amplification_is_claimed_only_where_its_theorem_applies(gossip):
    from fedpriv.base import registry

    def noisy(*more, **options):
        texts = ("local_dp(clip=1,noise_multiplier=4)", *more)
        return gossip("complete", masks=True, defenses=tuple(map(registry.defenses.create, texts)), **options)

    assert noisy()._rounds.network([0], 1e-5)[0] is not None
    for later in ("top_k(fraction=0.1)", "clip(norm=0.1)"):
        found, (why,) = noisy(later)._rounds.network([0], 1e-5)
        assert found is None
        assert "is the last that acts on what is sent" in why
    # Privacy spent before is counted by the ledger, with and without a claim of this run's own.
    spent = noisy().run(3).spent
    again = noisy(earlier=spent)
    found, (why,) = again._rounds.network([0], 1e-5)
    assert found is None
    assert "before this" in why
    whole = noisy().ledger().epsilon(1e-5, against="server", rounds=4).value
    assert again.ledger().epsilon(1e-5, against="server", rounds=1).value == pytest.approx(whole)
    with pytest.raises(BudgetError, match="spent already"):
        noisy(earlier=spent, budget="epsilon=1,delta=1e-5,against=server").run(1)
    assert gossip(earlier=spent).ledger().earlier == tuple(spent)


def test_masks_that_attrition_leaves_bare_are_told_beforehand_and_in_the_round(gossip):
    federation = gossip(masks=True, attrition="parties(gone=[client 3])")
    assert any("leaves a peer one other to receive from" in note for note in federation.notes())
    _, record = federation.step(federation.start(), evaluate=False)
    assert any("masks hide nothing at 2 peers (such as peer 2)" in said for said in record.warnings)
    assert gossip(masks=True).run(1).records[0].warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("against", ["released", "server"])
def test_a_budget_sets_the_noise_by_the_claims_that_count_without_a_server(gossip, against):
    from fedpriv.base import registry

    open_noise = (registry.defenses.create("local_dp(clip=1)"),)
    federation = gossip(defenses=open_noise, budget=f"epsilon=8,delta=1e-5,against={against}", rounds=3)
    history = federation.run(3)
    assert len(history.records) == 3
    assert 7.8 < history.ledger.epsilon(1e-5, against=against).value <= 8
