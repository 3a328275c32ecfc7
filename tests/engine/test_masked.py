"""Where clients train on workers, masks are put on there, and nothing else of a contribution comes back."""

import os
from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.fixed_point import FixedPoint
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from scipy import stats

from fedpriv.base import registry
from fedpriv.base.errors import MessageError, OverflowDetected, ProtocolError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.parties import SERVER, aggregator, client
from fedpriv.defense.passed import Passed
from fedpriv.defense.protocol import Protocol, Revealed, Session
from fedpriv.defense.stations import Defense
from fedpriv.engine.graph import GraphEngine
from fedpriv.engine.result import CohortTask
from fedpriv.engine.tff.engine import TffEngine
from fedpriv.engine.tff.runtime import Runtime

EVERYONE = [0, 1, 2, 3, 4]
#: Coarser than the last bits in which the two TensorFlows differ.
STEP = 2.0**-6


@pytest.fixture(scope="module")
def address():
    runtime = Runtime()
    yield runtime.address
    runtime.close()


class Round:
    """One cohort on one engine, and what came back from where it trained.

    Attributes:
      result: the cohort's; None after an overflow, which is the error.
      session: its session.
      back: by client, what came back of it: `masked` or `encoded`, and the flags.
      names: of all that came back.
    """

    def __init__(self, engine, federation, chunk=2, clients=EVERYONE, watched=None):
        start = federation.start()
        self.back, self.names = {}, set()
        self.session = federation.line.protocol.open(
            federation.plan, clients, round=0, seed=0, watched=watched, tallies=len(federation.line.tallies)
        )
        self.dealt = {}
        deal = self.session.deal

        def noted(number):
            self.dealt[number] = deal(number)
            return self.dealt[number]

        self.session.deal = noted
        task = CohortTask(
            weights=start.weights, clients=clients, round=0, rate=0.1, states=start.defenses, own=start.clients,
            session=self.session,
        )  # fmt: skip
        engine.chunk_clients = chunk
        self.sums = []
        if isinstance(engine, TffEngine):
            self._listen(engine, clients, chunk)
        self.result = self.error = None
        try:
            self.result = engine.cohort(task)
        except OverflowDetected as error:
            self.error = error

    def _listen(self, engine, clients, chunk):
        inner, there = type(engine.pool).map, list(clients)

        def heard(computation, jobs):
            for out in inner(engine.pool, computation, jobs):
                self.names |= set(out)
                ids, there[:] = there[:chunk], there[chunk:]
                for i, number in enumerate(ids):
                    flags = {n: bool(np.asarray(out[n][i])) for n in ("finite", "ok", "bounded")}
                    vector = next(out[n] for n in ("masked", "encoded") if n in out)[i]
                    self.back[number] = (np.asarray(vector).astype(np.uint64), flags)
                self.sums.append(np.asarray(out["reports"]))
                yield out

        engine.pool.map = heard


@pytest.fixture
def engines(federate, address):
    """`engines(**options)`: both engines for one federation, which is given last."""
    made = []

    def make(**options):
        graph = federate(**options)
        tff = federate(**options, engine="tff", engine_options={"workers": [address]})
        made.append(TffEngine(tff))
        return GraphEngine(graph), made[-1], graph

    yield make
    for engine in made:
        engine.close()


def encoded(graph, federation):
    """Every client's plain contribution."""
    kept = {}
    session_of = federation.line.protocol.open

    def opened(*args, **options):
        session = session_of(*args, **options)
        submit = session.submit
        session.submit = lambda number, vector: kept.update({number: vector.copy()}) or submit(number, vector)
        return session

    object.__setattr__(federation.line.protocol, "open", opened)
    graph.masks_in_graph = False
    Round(graph, federation)
    object.__delattr__(federation.line.protocol, "open")
    return kept


class Counts(Defense):
    """Tallies how many examples there are."""

    name: ClassVar[str] = "counts"

    def tallies(self, plan):
        return {"n": 100.0}

    def update(self, update, context):
        return Passed(update, tally={"n": tf.cast(context.num_examples, update.dtype)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "k", "compressed"),
    [
        (32, 3, True),
        pytest.param(20, 2, True, marks=pytest.mark.slow),
        pytest.param(64, 3, False, marks=pytest.mark.slow),
    ],
)
def test_both_engines_and_both_ways_give_the_same_sum_to_the_bit(engines, bits, k, compressed):
    sharing = SecretSharing(aggregators=k, bits=bits, range=1.0, resolution=STEP, compressed=compressed)
    graph, tff, federation = engines(
        defenses=(Clip(norm=1.0), Counts(), sharing), batch_size=4, local_epochs=2, weighting="examples"
    )
    assert (graph.masks_in_graph, tff.masks_in_graph) == (False, True)
    found = []
    for engine in (graph, tff):
        for inside in (False, True):
            engine.masks_in_graph = inside
            found.append(Round(engine, federation))
            assert set(found[-1].dealt) == (set(EVERYONE) if inside else set())
    first = found[0].result
    assert first.tally == {"counts/n": pytest.approx(30, rel=1e-3)}
    for other in found[1:]:
        assert other.result.total.tobytes() == first.total.tobytes()
        np.testing.assert_array_equal(other.session.outcome.total, found[0].session.outcome.total)
        assert other.session.wire.traffic() == found[0].session.wire.traffic()
        same = ("weight", "survivors", "bytes_up", "tally")
        assert [getattr(other.result, f) for f in same] == [getattr(first, f) for f in same]
        assert other.result.log == pytest.approx(first.log, rel=1e-5)
    assert first.log["fixed_point/rounded_away"] > 0.1


@pytest.mark.slow
def test_what_comes_back_of_a_contribution_is_uniform_and_opened_by_the_keys_alone(engines):
    sharing = SecretSharing(aggregators=3, bits=8, range=1.0, resolution=2.0**-4)
    graph, tff, federation = engines(defenses=(Clip(norm=1.0), Counts(), sharing), batch_size=4)
    plain = encoded(graph, federation)
    assert sum(int(np.count_nonzero(v)) for v in plain.values()) > 50
    rounds = [Round(tff, federation, chunk=5) for _ in range(25)]
    for one in rounds:
        assert one.names == {"bits", "bounded", "finite", "masked", "ok", "reports"}
        assert [float(s[-1]) for s in one.sums] == [0.0]  # nor do the tallies, which are part of a contribution
        for number, (masked, _) in one.back.items():
            np.testing.assert_array_equal(one.dealt[number].unmask(masked), plain[number])
            fewer = Dealt(keys=one.dealt[number].keys[:1], signs=one.dealt[number].signs[:1], bits=8)
            assert not np.array_equal(fewer.unmask(masked), plain[number])
    came = np.array([[one.back[c][0] for c in EVERYONE] for one in rounds])  # [rounds, clients, n]
    held = np.array([plain[c] for c in EVERYONE])

    def p(values):
        return stats.chisquare(np.bincount((values & np.uint64(255)).astype(int).ravel(), minlength=256)).pvalue

    for combined in (came, came - held, came[1:] - came[:-1], came[:, 1:] - came[:, :-1]):
        assert p(combined) > 1e-6
    # The same contributions every time, so any dependence on them would make a coordinate's values uneven over rounds.
    high = [np.bincount((came[..., i] >> np.uint64(4)).astype(int).ravel(), minlength=16) for i in range(held.shape[1])]
    assert min(stats.chisquare(counts).pvalue for counts in high) > 1e-6
    # Without masks the contribution itself comes back, and the test above would say so.
    tff.masks_in_graph = False
    bare = Round(tff, federation, chunk=5)
    assert "encoded" in bare.names
    for number, (vector, _) in bare.back.items():
        np.testing.assert_array_equal(vector, plain[number])
    assert p(np.array([vector for vector, _ in bare.back.values()])) < 1e-6


@pytest.mark.slow
def test_a_client_that_is_not_finite_sends_nothing_and_its_keys_reach_nobody(engines, toy):
    x = toy.x.copy()
    x[6] = np.nan  # one of client 1's
    options = {"train": Dataset("spoiled", x, toy.y, 3), "test": None, "on_nonfinite": "drop", "batch_size": 4}
    graph, tff, federation = engines(defenses=(SecretSharing(range=1.0, resolution=STEP),), **options)
    found = []
    for engine in (graph, tff):
        engine.masks_in_graph = True
        found.append(Round(engine, federation))
        one = found[-1]
        assert (one.result.dropped, one.result.survivors) == ([1], [0, 2, 3, 4])
        assert one.session.outcome.clients == (0, 2, 3, 4)
        arrived = {d.payload for a in (0, 1) for d in one.session.wire.received(aggregator(a))}
        assert one.dealt[0].keys[0].tobytes() in arrived
        assert one.dealt[1].keys[0].tobytes() not in arrived
    vector, flags = found[1].back[1]
    assert not flags["finite"]
    assert not vector.any()
    assert found[0].result.total.tobytes() == found[1].result.total.tobytes()


@pytest.mark.slow
def test_a_contribution_that_does_not_fit_is_not_sent(engines):
    graph, tff, federation = engines(defenses=(SecretSharing(range=1e-4),), batch_size=4)
    for engine in (graph, tff):
        engine.masks_in_graph = True
        one = Round(engine, federation)
        assert str(one.error).startswith("round 0: the contribution of client 0 exceeds the fixed-point range")
        assert one.session.submitted == ()
    vector, flags = one.back[0]
    assert not flags["ok"]
    assert not vector.any()


@pytest.mark.slow
def test_a_watched_client_knows_its_own_contribution_without_sending_it(engines):
    sharing = SecretSharing(range=1.0, resolution=STEP)
    graph, tff, federation = engines(defenses=(Clip(norm=1.0), sharing), batch_size=4)
    plain = encoded(graph, federation)
    for engine in (graph, tff):
        engine.masks_in_graph = True
        one = Round(engine, federation, watched=[client(2), aggregator(0)])
        whole, rest = one.session.seen_by([client(2), aggregator(0)])
        assert (whole.clients, rest.clients) == ((0, 1, 2, 3, 4), (0, 1, 3, 4))
        expected = sum(plain[c].astype(object) for c in (0, 1, 3, 4)) % 2**32
        assert rest.value.tolist() == expected.tolist()
    everything = Round(tff, federation, watched=[aggregator(0), aggregator(1)])
    for sighting in everything.session.seen_by([aggregator(0), aggregator(1)]):
        np.testing.assert_array_equal(sighting.value, plain[sighting.clients[0]])


class Chain(Protocol):
    """Each client shares a key with the next one, which it adds and that one subtracts, and adds one of its own.

    The masking of Bonawitz et al. (2017) on a path in place of the complete graph; a toy, whose server knows all keys.
    """

    name: ClassVar[str] = "chain"
    phases: ClassVar[tuple[str, ...]] = ("masked", "unmask")
    input_phase: ClassVar[str] = "masked"

    def session(self, opening):
        return ChainSession(opening)


class ChainSession(Session):
    def __init__(self, opening):
        super().__init__(opening)
        self.shared = {pair: os.urandom(32) for pair in zip(opening.clients, opening.clients[1:])}
        self.selves = {c: os.urandom(32) for c in opening.clients}
        self.sum = np.zeros(opening.length, np.uint64)

    def masks(self, number):
        signed = [(key, 1 if number == pair[0] else -1) for pair, key in self.shared.items() if number in pair]
        signed.append((self.selves[number], 1))
        keys = np.frombuffer(b"".join(k for k, _ in signed), np.uint8).reshape(-1, 32)
        return Dealt(keys=keys, signs=np.array([s for _, s in signed], np.int8), bits=24)

    def take(self, number, encoded):
        dealt = self.masks(number)
        self.take_masked(number, dealt.mask(encoded), dealt)

    def take_masked(self, number, masked, dealt):
        self.sum += self.wire.send(client(number), SERVER, masked, bits=24)

    def exchange(self, phase):
        for number in self.submitted:
            own = np.frombuffer(self.wire.send(client(number), SERVER, self.selves[number]), np.uint8)
            self.sum = Dealt(keys=own[None], signs=np.ones(1, np.int8), bits=24).unmask(self.sum)

    def total(self):
        return self.sum, self.submitted

    def seen_by(self, coalition, *, wire=False):
        return ()


@pytest.mark.slow
def test_clients_may_have_different_numbers_of_masks_of_both_signs(engines):
    codec = FixedPoint(bits=24, range=1.0, resolution=STEP)
    graph, tff, federation = engines(defenses=(Clip(norm=1.0), codec, Chain()), batch_size=4)
    plain = encoded(graph, federation)
    expected = (sum(v.astype(object) for v in plain.values()) % 2**24).tolist()
    for engine in (graph, tff):
        engine.masks_in_graph = True
        one = Round(engine, federation, chunk=2)
        assert [len(one.dealt[c].signs) for c in EVERYONE] == [2, 3, 3, 3, 2]
        assert isinstance(one.session.outcome, Revealed)
        assert one.session.outcome.total.tolist() == expected


class SomeOnly(ChainSession):
    def masks(self, number):
        return super().masks(number) if number != 3 else None


def test_masks_for_some_clients_alone_are_refused(engines, monkeypatch):
    codec = FixedPoint(bits=24, range=1.0)
    _, tff, federation = engines(defenses=(codec, Chain()), batch_size=4)
    monkeypatch.setattr(Chain, "session", lambda self, opening: SomeOnly(opening))
    with pytest.raises(ProtocolError, match="client 3 is dealt None, but client 0 masks mod 2\\^24"):
        Round(tff, federation)


@pytest.mark.slow
def test_a_protocol_without_such_masks_gets_the_contributions(engines, monkeypatch):
    codec = FixedPoint(bits=24, range=1.0, resolution=STEP)
    graph, tff, federation = engines(defenses=(Clip(norm=1.0), codec, Chain()), batch_size=4)
    masked = Round(tff, federation)
    dealing = ChainSession.masks
    monkeypatch.setattr(Chain, "session", lambda self, opening: ByHost(opening, dealing))
    for engine in (graph, tff):
        engine.masks_in_graph = True
        one = Round(engine, federation)
        assert set(one.dealt.values()) == {None}
        np.testing.assert_array_equal(one.session.outcome.total, masked.session.outcome.total)


class ByHost(ChainSession):
    """The same, with masks that only the session puts on."""

    def __init__(self, opening, dealing):
        super().__init__(opening)
        self.dealing = dealing

    def masks(self, number):
        return None

    def take(self, number, encoded):
        dealt = self.dealing(self, number)
        self.take_masked(number, dealt.mask(encoded), dealt)


class Fails(ChainSession):
    """One client's keys agree on nothing."""

    at = 3

    def masks(self, number):
        if number == self.at:
            raise MessageError(f"client {number} agrees on nothing; run the round again without it")
        return super().masks(number)


@pytest.mark.slow
def test_a_deal_that_fails_ends_the_round_and_still_nothing_plain_comes_back(engines, monkeypatch):
    codec = FixedPoint(bits=24, range=1.0, resolution=STEP)
    graph, tff, federation = engines(defenses=(Clip(norm=1.0), codec, Chain()), batch_size=4)
    plain = encoded(graph, federation)
    monkeypatch.setattr(Chain, "session", lambda self, opening: Fails(opening))
    one = Round(tff, federation)
    assert one.result.aborted.startswith("client 3 agrees on nothing")
    assert one.result.survivors == []
    assert set(one.back) == set(EVERYONE)
    for number, (vector, flags) in one.back.items():
        assert flags["ok"]
        assert np.mean(vector == plain[number]) < 0.2
    monkeypatch.setattr(Fails, "at", 0)
    early = Round(tff, federation)
    assert early.result.aborted.startswith("client 0 agrees on nothing")
    assert early.back == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["secagg", pytest.param("secagg_plus", marks=pytest.mark.slow)])
def test_pairwise_masks_are_put_on_there_too_and_drop_outs_taken_out(engines, toy, name):
    x = toy.x.copy()
    x[6] = np.nan  # one of client 1's: it shared its keys, and never sends
    more = ",neighbours=4,threshold=3" if name == "secagg_plus" else ",threshold=0.6"
    options = {"train": Dataset("spoiled", x, toy.y, 3), "test": None, "on_nonfinite": "drop", "batch_size": 4}
    graph, tff, federation = engines(
        defenses=(Clip(norm=1.0), registry.defenses.create(f"{name}(range=1,resolution={STEP}{more})")), **options
    )
    plain = encoded(graph, federation)
    assert set(plain) == {0, 2, 3, 4}
    expected = sum(v.astype(object) for v in plain.values()) % 2**32
    one = Round(tff, federation, watched=[SERVER, client(2), client(3)])
    assert {len(d.signs) for d in one.dealt.values()} == {5}
    assert one.session.outcome.total.tolist() == expected.tolist()
    assert one.session.outcome.clients == (0, 2, 3, 4)
    for number in plain:
        assert np.mean(one.back[number][0] == plain[number]) < 0.2
    (rest,) = one.session.seen_by([SERVER, client(2)])
    assert rest.clients == (0, 3, 4)
    assert rest.value.tolist() == ((expected - plain[2].astype(object)) % 2**32).tolist()
