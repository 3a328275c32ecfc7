"""Graphs, mixing weights and their spectral gaps, against closed forms; and what makes no graph."""

import math

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.topology.average import mean, mean_and_spread, mix, mix_and_measure, pull, spread
from fedpriv.topology.buffers import Buffers
from fedpriv.topology.gossip import Gossip
from fedpriv.topology.mixing import contraction, growth, metropolis

ALL = {
    "ring": 12,
    "grid": 12,
    "torus": 12,
    "complete": 6,
    "star": 6,
    "random_regular(degree=3)": 10,
    "small_world": 12,
    "erdos_renyi": 10,
    "exponential": 11,
    "one_peer_exponential": 11,
    "edges(pairs=[0-1,1-2,2-0])": 3,
}


def matrices(graph, peers, **more):
    return [m.toarray() for m in Gossip(graph=graph, **more).wiring(peers).matrices]


@pytest.mark.parametrize(("graph", "peers"), ALL.items())
def test_weights_are_doubly_stochastic_and_follow_the_links(graph, peers):
    wiring = Gossip(graph=graph).wiring(peers)
    for links, matrix in zip(wiring.links, wiring.matrices, strict=True):
        weights = matrix.toarray()
        np.testing.assert_allclose(weights.sum(0), 1, atol=1e-12)
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
        assert weights.min() >= 0
        off = weights - np.diag(np.diag(weights))
        assert set(zip(*np.nonzero(off.T), strict=True)) == set(map(tuple, links.tolist()))
    assert 0 <= wiring.contraction < 1
    assert "spectral gap" in wiring.notes()[0]


def test_spectral_gaps_have_their_closed_forms():
    n = 12  # a ring's weights are 1/3, so its eigenvalues are (1 + 2 cos(2 pi k / n)) / 3
    assert Gossip(graph="ring").wiring(n).contraction == pytest.approx((1 + 2 * math.cos(2 * math.pi / n)) / 3)
    assert Gossip(graph="complete").wiring(7).contraction == pytest.approx(0, abs=1e-12)
    # A star's Metropolis weights are 1/n at every link: eigenvalue 1 - 1/n for what sums to 0 over the leaves.
    assert Gossip(graph="star").wiring(8).contraction == pytest.approx(1 - 1 / 8)
    side = [(1 + 2 * math.cos(2 * math.pi * k / 4)) for k in range(4)]  # torus: (1 + sum of both cosines' parts) / 5
    torus = sorted(abs((a + b - 1) / 5) for a in side for b in side)[-2]
    assert Gossip(graph="torus").wiring(16).contraction == pytest.approx(torus)
    # Exponential with 2^k peers: 1 - 2 / (k + 1) (Ying et al. 2021, arXiv 2110.13363, proposition 1).
    assert Gossip(graph="exponential").wiring(16).contraction == pytest.approx(1 - 2 / 5)
    ring = metropolis(Gossip(graph="ring").wiring(1600).links[0], 1600)
    assert contraction([ring]) == pytest.approx((1 + 2 * math.cos(2 * math.pi / 1600)) / 3, abs=1e-9)


def test_one_peer_exponential_averages_exactly_after_log2_rounds():
    product = np.linalg.multi_dot(matrices("one_peer_exponential", 16)[::-1])
    np.testing.assert_allclose(product, 1 / 16, atol=1e-15)
    assert Gossip(graph="one_peer_exponential").wiring(16).contraction == 0
    assert Gossip(graph="one_peer_exponential").wiring(12).contraction > 0.3  # no power of 2


def test_missing_peers_leave_weights_that_keep_the_mean():
    wiring = Gossip(graph="torus").wiring(12)
    present = np.ones(12, bool)
    present[[3, 7]] = False
    links, matrix = wiring.among(0, present)
    weights = matrix.toarray()
    np.testing.assert_allclose([weights.sum(0), weights.sum(1)], 1, atol=1e-12)
    assert weights[3, 3] == weights[7, 7] == 1
    assert present[links].all()


@pytest.mark.parametrize("block_bytes", [1 << 13, 1 << 21])  # in 47 blocks, and in one
def test_averages_in_blocks(monkeypatch, block_bytes):
    monkeypatch.setattr("fedpriv.topology.average.BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    models = rng.normal(size=(40, 3001)).astype(np.float32)
    # Weights alike in long runs, alike without, all alike, many different ones, and few.
    for graph in ("ring", "random_regular", "exponential", "complete", "erdos_renyi", "small_world"):
        (matrix,) = Gossip(graph=graph).wiring(40).matrices
        expected, changed = matrix @ models.astype(np.float64), models.copy()
        np.testing.assert_allclose(mix(matrix, models), expected, atol=2e-6)
        _, (average, apart) = mix_and_measure(matrix, changed, changed)
        np.testing.assert_array_equal(changed, mix(matrix, models))
        np.testing.assert_allclose(changed, expected, atol=2e-6)
        np.testing.assert_allclose(average, expected.mean(0), atol=1e-6)
        assert apart == pytest.approx(np.sqrt(((expected - expected.mean(0)) ** 2).sum(1).mean()), abs=1e-5)
    np.testing.assert_allclose(mean(models), models.astype(np.float64).mean(0), atol=1e-6)
    centre = mean(models)
    apart = np.sqrt(((models - centre) ** 2).sum(1).mean())
    assert mean_and_spread(models)[1] == pytest.approx(apart, rel=1e-6)
    np.testing.assert_array_equal(mean_and_spread(models)[0], centre)
    masses = rng.random(40) + 0.5
    assert spread((models * masses[:, None]).astype(np.float32), centre, masses) == pytest.approx(apart, rel=1e-5)
    copies, expected = rng.normal(size=models.shape).astype(np.float32), None
    expected = models + 0.3 * (matrix @ copies - copies)
    np.testing.assert_allclose(pull(matrix, copies, models.copy(), 0.3, models), expected, atol=2e-6)


def test_buffers_are_used_again_only_when_nothing_refers_to_them():
    buffers = Buffers()
    first = buffers.take((4, 5), np.float32)
    view = first[2:, 1]
    second = buffers.take((4, 5), np.float32)
    assert second is not first
    del first
    third = buffers.take((4, 5), np.float32)
    assert not np.shares_memory(third, view)
    del view, third
    assert len({id(buffers.take((4, 5), np.float32)) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("graph", "peers", "said"),
    [
        ("torus", 14, "14 peers make no torus of rows and columns of at least 3 each; .* such as 15, 12, 16"),
        ("torus(rows=5)", 16, "no torus of 5 rows .* such as 15, 20, or leave rows out"),
        ("torus(rows=5)", 12, "no torus of 5 rows .* such as 15, 20, or leave rows out"),
        ("torus(rows=4)", 10, "no torus of 4 rows .* such as 12, 16$"),
        ("grid", 7, "7 peers make no grid"),
        ("random_regular(degree=3)", 9, "make no random_regular graph of degree=3: .* one of the two must be even"),
        ("small_world(neighbours=8)", 8, "give fewer than 8"),
        ("edges(pairs=[0-1,2-3])", 4, "not connected: nothing of peer 0 reaches peers 2, 3"),
        ("edges(pairs=[0-7])", 4, "pair 1: there is no peer 7; there are 4"),
        ("edges", 4, "needs either path=... or pairs"),
        ("ring", 1, "needs at least 2 peers"),
        ("erdos_renyi(probability=0.01)", 30, "not connected"),
    ],
)
def test_what_makes_no_graph_is_said(graph, peers, said):
    with pytest.raises(ParameterError, match=said):
        Gossip(graph=graph).wiring(peers)


def test_edge_lists_and_matrices_from_files(tmp_path):
    file = tmp_path / "links.txt"
    file.write_text("0 1  # a comment\n1,2\n\n2 0\n")
    assert len(Gossip(graph=f"edges(path={file})").wiring(3).links[0]) == 6
    file.write_text("0 1\n1 9\n")
    with pytest.raises(ParameterError, match=r"links.txt, line 2: there is no peer 9; there are 3"):
        Gossip(graph=f"edges(path={file})").wiring(3)
    file.write_text("0 1\nanna bert\n")
    with pytest.raises(DataError, match="line 2: 'anna bert' is no link"):
        Gossip(graph=f"edges(path={file})").wiring(3)
    weights = tmp_path / "weights.npy"
    lopsided = np.array([[0.5, 0.5, 0], [0.2, 0.6, 0.2], [0, 0.5, 0.5]])
    np.save(weights, lopsided)
    with pytest.raises(ParameterError, match=r"not doubly stochastic: column 1 sums to 1.6, not 1; .*push_sum"):
        Gossip(graph="edges(pairs=[0-1,1-2])", mixing=str(weights)).wiring(3)
    np.save(weights, np.full((3, 3), 1 / 3))
    with pytest.raises(
        ParameterError, match=r"gives peer . a weight of 0.333333 at peer ., but the graph has no such link"
    ):
        Gossip(graph="edges(pairs=[0-1,1-2])", mixing=str(weights)).wiring(3)
    assert Gossip(graph="complete", mixing=str(weights)).wiring(3).gap == pytest.approx(1)
    np.save(weights, np.array([[1.5, -0.5], [-0.5, 1.5]]))
    with pytest.raises(ParameterError, match=r"the weight of peer . at peer . is -0.5; give weights of 0 or more"):
        Gossip(graph="ring", mixing=str(weights)).wiring(2)
    with pytest.raises(ParameterError, match=r"has shape \[2, 2\]; 3 peers need \[3, 3\]"):
        Gossip(graph="ring", mixing=str(weights)).wiring(3)
    with pytest.raises(DataError, match="cannot be read"):
        Gossip(graph="ring", mixing="nowhere.npy").wiring(3)
    np.save(tmp_path / "complex.npy", np.eye(3) * 1j)
    with pytest.raises(DataError, match="its numbers are complex; give an"):
        Gossip(graph="ring", mixing=str(tmp_path / "complex.npy")).wiring(3)
    with pytest.raises(ParameterError, match="'push_sum', which divides its mass equally"):
        Gossip(protocol="push_sum", mixing="equal").wiring(3)
    with pytest.raises(ParameterError, match=r"graph 'star'|mixing=equal is not doubly stochastic"):
        Gossip(graph="star", mixing="equal").wiring(5)


def test_masks_say_where_they_hide_nothing():
    notes = Gossip(graph="star", masks=True).wiring(5).notes()
    assert "masks hide nothing at the 4 peers that receive from one peer alone" in notes[1]
    assert len(Gossip(graph="ring", masks=True).wiring(5).notes()) == 1
    for protocol in ("gosgd", "d_psgd(steps=2)", "d_psgd(delay=1)", "choco"):
        with pytest.raises(ParameterError, match="masks=true needs a protocol whose receivers take one weighted sum"):
            Gossip(masks=True, protocol=protocol).wiring(5)


def test_settings_that_do_not_exist_are_named():
    for given, said in (({"graph": "rang"}, "Did you mean 'ring'"), ({"protocol": "dpsgd"}, "Did you mean 'd_psgd'")):
        with pytest.raises(ValueError, match=said):
            Gossip(**given)
    with pytest.raises(ValueError, match="compresses no update"):
        Gossip(protocol="choco(compression=central_dp(clip=1,noise_multiplier=1))")
    for compression in ("clip(norm=1)", "local_dp(clip=1,noise_multiplier=1)"):
        with pytest.raises(ParameterError, match="by leaving coordinates out"):
            Gossip(protocol=f"choco(compression={compression})")
    with pytest.raises(ParameterError, match=r"topology 'gossip': .*'starr'"):
        Gossip(graph="starr")
    with pytest.raises(ParameterError, match=r"topology 'gossip': .*tested"):
        Gossip(tested=0)


def test_weights_that_never_mix_are_refused(tmp_path):
    weights = tmp_path / "weights.npy"
    for matrix, said in (
        (np.eye(4), "the 4 peers fall into 4 parts"),
        (np.kron(np.eye(2), np.full((2, 2), 0.5)), "the 4 peers fall into 2 parts"),
        (np.roll(np.eye(4), 1, 0), "its spectral gap is 0"),
    ):
        np.save(weights, matrix)
        with pytest.raises(ParameterError, match=f"never mixes: .*{said}"):
            Gossip(graph="complete", mixing=str(weights)).wiring(4)


def test_a_matrix_in_text_may_have_commas_and_what_is_wrong_is_named(tmp_path):
    file = tmp_path / "weights.csv"
    for mark in (" ", ",", ", "):
        file.write_text("\n".join([mark.join(["0.25"] * 4)] * 4), encoding="utf-8-sig")
        assert Gossip(graph="complete", mixing=str(file)).wiring(4).matrices[0].toarray().tolist() == [[0.25] * 4] * 4
    file.write_text("", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"has shape \[0\]; 4 peers need"):
        Gossip(graph="complete", mixing=str(file)).wiring(4)
    with pytest.raises(DataError, match="weights, or 'metropolis' or 'equal'"):
        Gossip(graph="complete", mixing="metropolys").wiring(4)
    weights = np.full((4, 4), 0.25)
    weights[2, 1] = np.inf
    np.save(tmp_path / "weights.npy", weights)
    with pytest.raises(ParameterError, match=r"the weight of peer 1 at peer 2 is inf; give weights"):
        Gossip(graph="complete", mixing=str(tmp_path / "weights.npy")).wiring(4)


def test_a_graph_that_is_not_connected_says_what_to_do(tmp_path):
    with pytest.raises(ParameterError, match=r"reaches peer 2, or .*; add links between them"):
        Gossip(graph="edges(pairs=[0-1])").wiring(3)
    with pytest.raises(ParameterError, match=r"none of 100 draws is; give more links, or another seed"):
        Gossip(graph="erdos_renyi(probability=0.01)").wiring(8)
    file = tmp_path / "links.txt"
    file.write_text("0 1\n1 2\n", encoding="utf-8-sig")
    assert len(Gossip(graph=f"edges(path={file})").wiring(3).links[0]) == 4


def test_the_gap_is_not_said_to_hold_of_late_or_compressed_messages():
    for protocol, holds in (("d_psgd", True), ("d_psgd(steps=2)", True), ("d_psgd(delay=1)", False), ("choco", False)):
        said = Gossip(graph="ring", protocol=protocol).wiring(5).notes()[0]
        assert ("(an exchange shrinks" in said) == holds
        assert ("of whole models in time would shrink the" in said) != holds


@pytest.mark.parametrize(("gamma", "parts"), [(0.3, True), (0.03, False)])
def test_a_step_too_large_for_drawn_coordinates_is_told_and_models_part(gamma, parts):
    wiring = Gossip(graph="ring", protocol=f"choco(gamma={gamma},compression=random_k(fraction=0.1))").wiring(6)
    assert [n for n in wiring.notes() if "is too large" in n] == wiring.notes()[1:]
    assert len(wiring.notes()) == 1 + parts
    matrix, rng = wiring.matrices[0].toarray(), np.random.default_rng(0)
    models = rng.normal(size=(6, 20000))
    models -= models.mean(0)
    public, sizes = np.zeros_like(models), []
    for _ in range(60):
        sent = rng.random(models.shape[1]) < 0.1
        public = np.where(sent, models, public)
        models = models + gamma * (matrix @ public - public)
        sizes.append(np.sqrt((models**2).mean()))
    assert (sizes[-1] > sizes[0]) == parts
    found = growth(wiring.matrices[0], 0.1, gamma)
    assert (sizes[-1] / sizes[39]) ** (1 / 20) == pytest.approx(found, abs=0.01)


def test_the_numbers_of_a_list_are_digits(tmp_path):
    file = tmp_path / "links.txt"
    file.write_text("0 \u00b2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: .* is no link"):
        Gossip(graph=f"edges(path={file})").wiring(3)
    with pytest.raises(ParameterError, match="is no link"):
        Gossip(graph="edges(pairs=[0-\u00b2])")
