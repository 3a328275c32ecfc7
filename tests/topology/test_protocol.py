"""Protocols by themselves: what they keep, and that they bring peers together; models drawn at random, no training."""

import numpy as np
import pytest

from fedpriv.topology.gossip import Gossip
from fedpriv.topology.protocol import Moment

PEERS, SIZE = 8, 40


class Run:
    """Exchanges alone, round after round, some peers missing with a probability."""

    def __init__(self, missing=0.0, compress=None, dtype=np.float32, **settings):
        self.wiring = Gossip(**settings).wiring(PEERS)
        self.rng, self.missing, self.compress = np.random.default_rng(5), missing, compress
        self.models = self.rng.normal(size=(PEERS, SIZE)).astype(dtype)
        self.masses, self.own = np.ones(PEERS), self.wiring.protocol.begin(self.models)
        self.first, self.number = self.models.astype(np.float64), 0

    def round(self):
        links, matrix = self.wiring.among(self.number, self.rng.random(PEERS) >= self.missing)
        done = self.wiring.protocol.exchange(
            Moment(
                models=self.models,
                masses=self.masses,
                own=self.own,
                links=links,
                matrix=matrix,
                number=self.number,
                rng=self.rng,
                compress=self.compress,
            )
        )
        self.models, self.masses, self.own, self.number = done.models, done.masses, done.own, self.number + 1
        return done

    @property
    def held(self):
        """The peers' models, over their sum-weights."""
        return self.models / self.masses[:, None]

    @property
    def spread(self):
        return float(np.sqrt(((self.held - self.held.mean(0)) ** 2).sum(1).mean()))

    @property
    def mean(self):
        return (self.models.astype(np.float64).sum(0) + self.own.get("flying", np.zeros((1, 1, 1))).sum((0, 1))) / PEERS


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol", ["push_sum", "push_sum(delay=3)", "gosgd", "gosgd(probability=1)", "gosgd(delay=2)"]
)
@pytest.mark.parametrize("graph", ["exponential", "small_world", "one_peer_exponential"])
def test_sum_weights_keep_the_mean_to_float_error(protocol, graph):
    run = Run(graph=graph, protocol=protocol, missing=0.2, dtype=np.float64)
    before = run.spread
    for _ in range(120):
        run.round()
        np.testing.assert_allclose(run.mean, run.first.mean(0), atol=1e-13)
        flying = run.own.get("flying_mass", np.zeros(1)).sum()
        assert run.masses.sum() + flying == pytest.approx(PEERS, abs=1e-12)
        assert run.masses.min() > 0
    assert run.spread < 1e-3 * before
    np.testing.assert_allclose(run.held, np.broadcast_to(run.first.mean(0), (PEERS, SIZE)), atol=5e-3)


def test_without_their_weights_models_passed_on_would_not_agree_on_the_mean():
    run = Run(graph="star", protocol="push_sum", dtype=np.float64)
    for _ in range(200):
        run.round()
    assert run.spread < 1e-9
    assert np.abs(run.models - run.first.mean(0)).max() > 0.1  # the numerators are no models
    np.testing.assert_allclose(run.held[0], run.first.mean(0), atol=1e-9)


def test_late_models_agree_but_not_on_the_mean():
    run = Run(protocol="d_psgd(delay=2)")
    for _ in range(200):
        run.round()
    assert run.spread < 1e-4
    assert np.abs(run.mean - run.first.mean(0)).max() > 1e-2
    on_time = Run(protocol="d_psgd", dtype=np.float64)
    for _ in range(200):
        on_time.round()
    np.testing.assert_allclose(on_time.mean, on_time.first.mean(0), atol=1e-6)


def test_time_varying_exponential_gives_the_exact_mean_after_three_rounds():
    run = Run(graph="one_peer_exponential", dtype=np.float64)
    for _ in range(3):
        assert len(run.round().links) == PEERS
    np.testing.assert_allclose(run.models, np.broadcast_to(run.first.mean(0), (PEERS, SIZE)), atol=1e-15)


def top(k):
    def compress(lacking):
        sent = np.zeros_like(lacking)
        where = np.argsort(-np.abs(lacking), 1)[:, :k]
        np.put_along_axis(sent, where, np.take_along_axis(lacking, where, 1), 1)
        return sent, np.full(len(lacking), 38 * k)

    return compress


def test_choco_agrees_on_the_mean_though_it_sends_a_tenth():
    run = Run(protocol="choco(gamma=0.1)", compress=top(4))
    before, done = run.spread, None
    for _ in range(1500):
        done = run.round()
    np.testing.assert_allclose(run.mean, run.first.mean(0), atol=1e-4)
    assert run.spread < 1e-2 * before
    assert done.bits == 16 * 38 * 4
    np.testing.assert_array_equal(done.message(3), run.own["public"][3])
    # The same sparsifier on the models themselves loses what it leaves out.
    models, matrix = run.first.copy(), run.wiring.matrices[0].toarray()
    for _ in range(1500):
        sent, _ = top(4)(models)
        models = models + 0.1 * (matrix @ sent - sent)
    assert np.sqrt(((models - models.mean(0)) ** 2).sum(1).mean()) > 0.05 * before


def test_choco_with_too_large_a_step_comes_apart():
    run = Run(protocol="choco(gamma=1)", compress=top(2))
    for _ in range(200):
        run.round()
    assert not run.spread < 10


def test_several_exchanges_a_round_are_a_power_of_the_matrix():
    run = Run(protocol="d_psgd(steps=3)")
    done = run.round()
    matrix = run.wiring.matrices[0].toarray()
    np.testing.assert_allclose(run.models, np.linalg.matrix_power(matrix, 3) @ run.first, atol=1e-6)
    np.testing.assert_allclose(done.last(2), (matrix @ matrix @ run.first)[2], atol=1e-6)
    np.testing.assert_allclose(done.message(2), run.first[2], atol=1e-6)
    assert done.bits == 3 * 16 * 32 * SIZE


@pytest.mark.parametrize("protocol", ["d_psgd", "push_sum", "gosgd"])
def test_rows_say_how_models_came_of_messages(protocol):
    run = Run(graph="exponential" if protocol == "push_sum" else "ring", protocol=protocol, dtype=np.float64)
    for _ in range(3):
        run.round()
    held, state = run.held, run.rng.bit_generator.state
    links, matrix = run.wiring.among(run.number, np.ones(PEERS, bool))
    run.rng.random(PEERS)  # as `round` draws who is missing
    drawn = np.random.default_rng()
    drawn.bit_generator.state = run.rng.bit_generator.state
    run.rng.bit_generator.state = state
    moment = Moment(
        models=run.models, masses=run.masses, own={}, links=links, matrix=matrix, number=run.number, rng=drawn
    )
    rows = run.wiring.protocol.rows(moment)
    run.round()
    np.testing.assert_allclose(rows @ held, run.held, atol=1e-12)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-12)
