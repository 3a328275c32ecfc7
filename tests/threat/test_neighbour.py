"""A neighbour in gossip: what it is sent, what that determines, and what it does not hold."""

import gc

import numpy as np
import pytest
from fedpriv_attacks.rounds.marginalization import recover

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.data.partition import Partition
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.capability import Capability
from fedpriv.threat.dossier import dossiers
from fedpriv.threat.observation import Observation
from fedpriv.threat.tap import Tap
from fedpriv.threat.truth import Truth


@pytest.fixture(scope="module")
def even():
    return Partition("even", tuple(np.arange(30).reshape(6, 5)))


@pytest.fixture
def watched(federate, even):
    """`watched(topology, adversary, rounds)`: observations, and the models after each round."""

    def run(topology, adversary="neighbour(0)", rounds=3, **options):
        options = {"batch_size": None, "weighting": "uniform", "client": {"learning_rate": 0.3}, **options}
        federation = federate(partition=even, topology=topology, **options)
        tap, state, seen, models = Tap(Adversary.parse(adversary)), federation.start(), [], []
        for _ in range(rounds):
            models.append(federation._rounds.models_of(state).copy())
            state, record = federation.step(state, [tap], evaluate=False)
            seen += record.observations
        return seen, models, federation

    return run


def updates(federation, models, peer, toy):
    """What that peer's local training added in each round."""
    part = federation.partition.indices[peer]
    return [_trained(federation, toy.x[part], toy.y[part], before[peer]) for before in models]


def _trained(federation, x, y, weights):
    from tests.conftest import ByHand

    return -0.3 * ByHand.gradient(weights.astype(np.float64), x, y)


def test_a_neighbour_holds_the_models_it_was_sent_and_the_first_updates(watched, toy):
    seen, models, federation = watched("gossip(graph=ring)")
    assert [(o.view.round, o.view.pseudonym, o.view.kind) for o in seen] == [
        (0, "peer 1", "update"),
        (0, "peer 5", "update"),
        *((r, p, "model") for r in (1, 2) for p in ("peer 1", "peer 5")),
    ]
    first = seen[0].view
    expected = updates(federation, models, 1, toy)
    np.testing.assert_allclose(first.observed, expected[0], atol=1e-6)
    part = federation.partition.indices[1]
    np.testing.assert_allclose(first.simulate(toy.x[part], toy.y[part]), first.observed, atol=1e-6)
    assert Capability.SINGLE_CLIENT in first.capabilities
    later = seen[2].view
    np.testing.assert_allclose(later.weights + later.observed, models[1][1] + expected[1], atol=1e-6)
    np.testing.assert_array_equal(later.weights, models[1][0])  # its own model, which is not where the other began
    assert not later.capabilities & {Capability.REAL_UPDATE, Capability.SINGLE_CLIENT}
    assert "a peer's model, but not where it began" in later.describe()
    assert seen[0].truth.clients == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "adversary", "exact"),
    [
        ("gossip(graph=ring)", "neighbour(0)", False),
        ("gossip(graph=ring)", "neighbour(0,2)", {"peer 1"}),  # of peer 1's neighbours, it is both
        ("gossip(graph=ring)", "eavesdropper", {f"peer {p}" for p in range(6)}),
        ("gossip(graph=complete)", "neighbour(3)", {f"peer {p}" for p in range(6) if p != 3}),
        ("gossip(graph=ring,protocol=push_sum)", "neighbour(0,2)", {"peer 1"}),
        ("gossip(graph=ring,protocol=d_psgd(steps=2))", "neighbour(0,2)", {"peer 1"}),
        ("gossip(graph=ring,protocol=d_psgd(delay=1))", "neighbour(0,2)", False),
        ("gossip(graph=complete,protocol=gosgd)", "neighbour(0,1,2,3,4)", False),
    ],
)
def test_models_of_two_rounds_determine_an_update_where_all_the_victim_was_sent_is_known(
    watched, toy, topology, adversary, exact
):
    seen, models, federation = watched(topology, adversary)
    (dossier,) = dossiers(o.view for o in seen)
    later = [r for r in recover(dossier, estimate=False) if r.view.round > 0]
    assert {r.sender for r in later} == (exact or set())
    for one in later:
        assert one.known == pytest.approx(1)
        expected = updates(federation, models, int(one.sender.split()[1]), toy)[one.view.round]
        np.testing.assert_allclose(one.view.observed, expected, atol=2e-6)
        part = federation.partition.indices[int(one.sender.split()[1])]
        np.testing.assert_allclose(one.view.simulate(toy.x[part], toy.y[part]), one.view.observed, atol=2e-6)
    if topology == "gossip(graph=ring)" and adversary == "neighbour(0)":
        guesses = [r for r in recover(dossier) if r.view.round > 0]
        assert [r.known for r in guesses] == pytest.approx([2 / 3] * 4)
        expected = updates(federation, models, 1, toy)[1]
        error = np.linalg.norm(guesses[0].view.observed - expected) / np.linalg.norm(expected)
        assert error > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "adversary", "exact"),
    [
        ("ring", "neighbour(0)", set()),
        ("ring", "neighbour(0,2)", {"peer 1"}),
        ("ring", "eavesdropper", {f"peer {p}" for p in range(6)}),
        ("complete", "neighbour(3)", {f"peer {p}" for p in range(6) if p != 3}),
    ],
)
@pytest.mark.parametrize("compression", ["top_k", "random_k"])
def test_compressed_messages_give_away_what_is_sent_twice(watched, toy, graph, adversary, exact, compression):
    protocol = f"choco(compression={compression}(fraction=0.5),gamma=0.4)"
    seen, models, federation = watched(f"gossip(graph={graph},protocol={protocol})", adversary)
    assert {o.view.kind for o in seen} == {"update", "model"}
    (dossier,) = dossiers(o.view for o in seen)
    later = [r for r in recover(dossier, estimate=False) if r.view.round > 0]
    assert {r.sender for r in later} == exact
    for one in later:
        peer, visible = int(one.sender.split()[1]), one.view.visible
        assert 0 < visible.mean() == one.exact < 0.6  # 0.5 sends a half, and of that a part twice
        expected = updates(federation, models, peer, toy)[one.view.round]
        np.testing.assert_allclose(one.view.observed[visible], expected[visible], atol=2e-6)
        assert not one.view.observed[~visible].any()
        np.testing.assert_allclose(one.view.weights[visible], models[one.view.round][peer][visible], atol=2e-6)
        assert np.abs(one.view.weights - models[one.view.round][peer]).max() > 1e-3  # what was not sent is not known
        assert not one.determined
        assert one.view.defenses == ()  # the compression is no part of what a replay has to give
    if not exact:
        guesses = [r for r in recover(dossier) if r.view.round > 0]
        assert [r.exact for r in guesses] == [0] * len(guesses) != []
        assert max(r.known for r in guesses) < 1


def test_a_whole_step_of_compressed_gossip_is_no_mean_that_a_neighbour_began_with(watched):
    """With gamma=1 on a complete graph the copies' means are alike, but the peers' models are not."""
    seen, *_ = watched("gossip(graph=complete,protocol=choco(compression=top_k(fraction=0.5),gamma=1))", rounds=2)
    assert {o.view.kind for o in seen if o.view.round == 1} == {"model"}


@pytest.mark.slow
def test_masks_leave_sums_where_there_are_two_to_mask(watched, toy):
    seen, models, federation = watched("gossip(graph=ring,masks=true)")
    assert [(o.view.kind, o.view.members, o.truth.clients) for o in seen[:2]] == [
        ("sum", ("peer 1", "peer 5"), (1, 5)),
        ("model", ("peer 1", "peer 5"), (1, 5)),
    ]
    both = (updates(federation, models, 1, toy)[0] + updates(federation, models, 5, toy)[0]) / 2
    np.testing.assert_allclose(seen[0].view.observed, both, atol=1e-6)
    assert seen[0].view.letter is None
    # Two colluding peers that receive from each other know their own part of a sum.
    seen, *_ = watched("gossip(graph=ring,masks=true)", "neighbour(0,1)", 1)
    assert [(o.view.kind, o.view.members) for o in seen] == [("update", ("peer 2",)), ("update", ("peer 5",))]
    # On the complete graph all begin alike in every round, so that sums of later updates are known too.
    seen, models, federation = watched("gossip(graph=complete,masks=true)", "neighbour(0)", 2)
    assert [o.view.kind for o in seen] == ["sum", "sum"]
    rest = np.mean([updates(federation, models, p, toy)[1] for p in range(1, 6)], 0)
    np.testing.assert_allclose(seen[1].view.observed, rest, atol=2e-6)
    seen, *_ = watched("gossip(graph=star,masks=true)", "neighbour(2)", 1)  # a leaf: one sender, nothing masks it
    assert [o.view.kind for o in seen] == ["update"]


def test_the_wire_holds_every_receivers_sum_and_the_models_that_these_determine(watched, toy):
    seen, models, federation = watched("gossip(graph=complete,masks=true)", "eavesdropper", 1)
    assert [(o.view.kind, o.view.pseudonym) for o in seen] == [("update", f"peer {p}") for p in range(6)]
    np.testing.assert_allclose(seen[4].view.observed, updates(federation, models, 4, toy)[0], atol=1e-6)
    halves = ",".join(f"{a}-{b}" for a in range(3) for b in range(3, 6))  # three receivers hold the same sum
    seen, models, federation = watched(f"gossip(graph=edges(pairs=[{halves}]),masks=true)", "eavesdropper", 2)
    assert [o.view.kind for o in seen] == ["sum"] * 6 + ["model"] * 6
    rest = np.mean([updates(federation, models, p, toy)[0] for p in (3, 4, 5)], 0)
    np.testing.assert_allclose(seen[0].view.observed, rest, atol=1e-6)


def test_it_listens_from_when_it_says_and_to_whom_the_tap_asks(watched):
    seen, *_ = watched("gossip(graph=ring)", "neighbour(0,since=2)")
    assert {o.view.round for o in seen} == {2}
    adversary = Adversary.parse("neighbour(0,3,since=1)")
    assert str(adversary) == "neighbour(0,3,since=1)"
    assert Adversary.parse(str(adversary)) == adversary
    assert "from round 1 on" in adversary.describe()


def test_a_view_holds_nothing_of_the_truth_nor_of_peers_it_has_no_link_to(watched):
    seen, models, _ = watched("gossip(graph=ring)")
    view, strange = seen[-1].view, models[2][3]
    reached, todo = set(), [view]
    while todo:
        thing = todo.pop()
        if id(thing) in reached or isinstance(thing, type) or callable(thing) or type(thing).__name__ == "module":
            continue
        reached.add(id(thing))
        assert not isinstance(thing, Truth | Observation)
        if isinstance(thing, np.ndarray) and thing.shape == strange.shape:
            assert not np.allclose(thing, strange)
        todo += gc.get_referents(thing)


def test_positions_that_do_not_exist_are_refused(watched, federate, even):
    with pytest.raises(CapabilityError, match="in gossip peers exchange models without a server"):
        watched("gossip(graph=ring)", "server")
    with pytest.raises(CapabilityError, match="with a server clients send each other nothing"):
        federate().run(1, taps=[Tap(Adversary.parse("neighbour(0)"))])
    assert "among peers" in Adversary.parse("eavesdropper").at.who()
    with pytest.raises(CapabilityError, match="the adversary is all 6 peers, so that nobody is left"):
        watched("gossip(graph=ring)", "neighbour(0,1,2,3,4,5)")
    with pytest.raises(CapabilityError, match="the adversary is peer 9, but there are 6 peers"):
        watched("gossip(graph=ring)", "neighbour(9)")
    with pytest.raises(ParameterError, match=r"write neighbour\(0\) or neighbour\(0,3\)"):
        Adversary.parse("neighbour(anna)")


def test_it_holds_its_own_examples(watched, toy):
    for adversary, peers in (("neighbour(0)", [0]), ("neighbour(0,2)", [0, 2])):
        seen, _, federation = watched("gossip(graph=ring)", adversary, 1)
        part = np.concatenate([federation.partition.indices[p] for p in peers])
        for observation in seen:
            np.testing.assert_allclose(observation.view.own.x, toy.x[part], atol=1e-6)
            assert observation.view.own.slot is None  # a replay is of the others
        adversary = seen[0].view.adversary
        assert adversary.at.holds_data_of() == tuple(peers)
        assert "on examples of their own" in adversary.describe() or "on examples of its own" in adversary.describe()
    seen, *_ = watched("gossip(graph=ring)", "eavesdropper", 1)
    assert seen[0].view.own is None
    assert seen[0].view.adversary.at.holds_data_of() == ()
    assert "examples of" not in seen[0].view.adversary.at.who()
