import itertools

import numpy as np
import pydantic
import pytest
from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedpriv.base.errors import OverflowDetected, ParameterError, ProtocolError, StackError
from fedpriv.defense.attrition import BernoulliAttrition, FixedAttrition, PartiesAttrition
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.parties import SERVER, aggregator, client
from fedpriv.defense.protocol import Aborted, Revealed
from fedpriv.defense.stations import Plan, Station
from fedpriv.defense.wire import Interference

VECTORS = np.array([[1, 2, 3], [40, 50, 60], [2**32 - 1, 0, 7]], np.uint64)
RING32 = np.uint64(2**32 - 1)


def plan_of(cohort, n=3):
    return Plan.everybody(cohort, n - 1)


def run(protocol=None, vectors=VECTORS, attrition=None, **options):
    m, n = vectors.shape
    session = (protocol or AdditiveSharing(aggregators=3)).open(
        plan_of(m, n), range(m), round=0, seed=0, attrition=attrition, **options
    )
    session.begin()
    for c in range(m):
        session.submit(c, vectors[c])
    return session, session.finish()


def aggregators(*numbers):
    return [aggregator(i) for i in numbers]


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 64), st.integers(2, 5), st.integers(1, 6), st.booleans(), st.data())
def test_the_sum_is_the_sum_modulo_the_ring(bits, k, m, compressed, data):
    element = st.integers(0, 2**bits - 1)
    rows = [[data.draw(element) for _ in range(4)] for _ in range(m)]
    session, outcome = run(AdditiveSharing(aggregators=k, bits=bits, compressed=compressed), np.array(rows, np.uint64))
    assert isinstance(outcome, Revealed)
    assert outcome.clients == tuple(range(m))
    assert [int(t) for t in outcome.total] == [sum(column) % 2**bits for column in zip(*rows)]  # Python's never wrap
    assert session.outcome is outcome


@pytest.mark.parametrize(("bits", "size"), [(8, 10), (20, 25), (32, 40), (33, 42), (64, 80)])
def test_bytes_are_those_of_the_messages(bits, size):
    vectors = np.ones((9, 10), np.uint64)
    full, _ = run(AdditiveSharing(aggregators=3, bits=bits, compressed=False), vectors)
    assert full.wire.bytes(sender="client") == 9 * 3 * size
    short, _ = run(AdditiveSharing(aggregators=3, bits=bits), vectors)
    assert short.wire.traffic() == {
        ("share", "client", "aggregator"): 9 * (2 * 32 + size),
        ("publish", "aggregator", "aggregator"): 3 * 2 * 2,  # nine clients are two bytes of a roll
        ("publish", "aggregator", "server"): 3 * size,
        ("publish", "server", "aggregator"): 3 * size,
    }


def test_the_server_sees_the_sum_alone():
    session, outcome = run(watched=[SERVER])
    (seen,) = session.seen_by([SERVER])
    assert (seen.kind, seen.clients, seen.payloads) == ("sum", (0, 1, 2), ())
    np.testing.assert_array_equal(seen.value, outcome.total)
    # What it received are three sums that are each masked, and the messages of no client.
    published = [np.frombuffer(d.payload, "<u4") for d in session.wire.received(SERVER)]
    assert [d.sender for d in session.wire.received(SERVER)] == aggregators(0, 1, 2)
    np.testing.assert_array_equal(np.sum(published, 0, dtype=np.uint32), outcome.total)
    for pair in itertools.combinations(published, 2):
        assert not (np.sum(pair, 0, dtype=np.uint32) == outcome.total).any()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("with_server", [True, False])
def test_all_but_one_see_shares_and_the_published_sum(compressed, with_server):
    session, outcome = run(AdditiveSharing(aggregators=3, compressed=compressed), watched=None)
    for pair in itertools.combinations(range(3), 2):
        (seen,) = session.seen_by([*aggregators(*pair), *[SERVER] * with_server])
        assert (seen.kind, seen.clients) == ("sum", (0, 1, 2))
        np.testing.assert_array_equal(seen.value, outcome.total)
        assert [(d.sender, d.receiver) for d in seen.payloads] == [
            (client(c), aggregator(a)) for c in range(3) for a in pair
        ]
        held = [session.shares(aggregator(a)) for a in pair]
        for c in range(3):
            assert not (sum(shares[c] for shares in held) & RING32 == VECTORS[c]).any()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("bits", [20, 32, 64])
@pytest.mark.parametrize("k", [2, 3])
def test_all_together_see_every_contribution_exactly(k, bits, compressed):
    vectors = VECTORS & np.uint64(2**bits - 1)
    session, _ = run(AdditiveSharing(aggregators=k, bits=bits, compressed=compressed), vectors, watched=None)
    seen = session.seen_by(aggregators(*range(k)))
    assert [(s.kind, s.clients) for s in seen] == [("client", (0,)), ("client", (1,)), ("client", (2,))]
    for sighting, vector in zip(seen, vectors, strict=True):
        assert sighting.value.dtype == np.uint64
        np.testing.assert_array_equal(sighting.value, vector)
        assert len(sighting.payloads) == k


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("value", [0, 5, 255])
def test_shares_of_a_small_ring_are_uniform_whatever_is_shared(compressed, value):
    # In the integers mod 2^8 every share, and every combination of two of three, takes each of 256 values alike.
    vectors = np.full((1, 100_000), value, np.uint64)
    session, _ = run(AdditiveSharing(aggregators=3, bits=8, compressed=compressed), vectors, watched=None)
    shares = [session.shares(aggregator(i))[0] for i in range(3)]
    for i, j in itertools.combinations(range(3), 2):
        for combined in (shares[i], shares[j], shares[i] + shares[j], shares[i] - shares[j]):
            counts = np.bincount((combined & np.uint64(255)).astype(int), minlength=256)
            assert stats.chisquare(counts).pvalue > 1e-6
        # Jointly too: 16 x 16 cells of the two high halves.
        joint = np.histogram2d(shares[i] >> np.uint64(4), shares[j] >> np.uint64(4), bins=16)[0]
        assert stats.chisquare(joint.ravel()).pvalue > 1e-6
    np.testing.assert_array_equal(sum(shares) & np.uint64(255), vectors[0])


def test_an_eavesdropper_learns_who_talks_unless_channels_are_open():
    session, _ = run(wire=True)
    (seen,) = session.seen_by([], wire=True)
    assert (seen.kind, seen.clients, seen.value) == ("payloads", (0, 1, 2), None)
    assert all(d.payload is None for d in seen.payloads)
    assert sum(d.size for d in seen.payloads) == session.wire.bytes(phase="share")
    opened, _ = run(AdditiveSharing(aggregators=3, encrypted=False), wire=True)
    found = opened.seen_by([], wire=True)
    assert [s.kind for s in found] == ["client"] * 3
    np.testing.assert_array_equal([s.value for s in found], VECTORS)
    # A corrupted aggregator on the encrypted wire is no better than without it.
    both, outcome = run(wire=True, watched=aggregators(0))
    (seen,) = both.seen_by(aggregators(0), wire=True)
    assert seen.kind == "sum"
    np.testing.assert_array_equal(seen.value, outcome.total)


def test_clients_take_themselves_out_of_the_sum():
    session, outcome = run(watched=[client(2), aggregator(0), SERVER])
    whole, rest = session.seen_by([aggregator(0), client(2)])
    np.testing.assert_array_equal(whole.value, outcome.total)
    assert (rest.kind, rest.clients) == ("sum", (0, 1))
    assert whole.value[0] < VECTORS[2, 0]  # the difference wraps
    np.testing.assert_array_equal(rest.value, [41, 52, 63])
    assert session.seen_by([client(2)]) == ()  # nobody sends the clients anything
    with pytest.raises(ProtocolError, match="client 0 was not watched"):
        session.seen_by([SERVER, client(0)])


def test_a_coalition_is_checked():
    session, _ = run(watched=aggregators(0))
    for stranger in (aggregator(3), client(9)):
        with pytest.raises(ParameterError, match=f"there is no {stranger} in this round"):
            session.seen_by([stranger])
    with pytest.raises(ProtocolError, match="aggregator 1 was not watched"):
        session.seen_by(aggregators(0, 1))
    with pytest.raises(ProtocolError, match="not tapped"):
        session.seen_by([], wire=True)
    with pytest.raises(ParameterError, match="there is no aggregator 3"):
        run(watched=aggregators(3))
    assert session.seen_by([]) == ()


def test_a_client_may_be_gone_before_it_sends_or_after():
    before, outcome = run(attrition=PartiesAttrition(gone=["client 1"]))
    assert outcome.clients == (0, 2)
    np.testing.assert_array_equal(outcome.total, (VECTORS[0] + VECTORS[2]) & RING32)
    assert before.wire.bytes(phase="share") == 2 * (2 * 32 + 3 * 4)
    _, outcome = run(attrition=PartiesAttrition(gone=["client 1"], phase="publish"))
    assert outcome.clients == (0, 1, 2)
    np.testing.assert_array_equal(outcome.total, VECTORS.sum(0) & RING32)


def test_a_sum_over_too_few_stays_closed():
    protocol = AdditiveSharing(aggregators=2, min_clients=2)
    session, outcome = run(protocol, attrition=FixedAttrition(count=2), watched=None)
    assert isinstance(outcome, Aborted)
    assert outcome.phase == "publish"
    assert outcome.reason.startswith("1 of 3 clients finished, below min_clients=2; the sum stays closed")
    assert session.wire.bytes(receiver="server") == 0
    assert session.seen_by([SERVER]) == ()
    for a in (0, 1):
        (seen,) = session.seen_by([SERVER, aggregator(a)])
        assert (seen.kind, seen.value, len(seen.payloads)) == ("payloads", None, 1)
    # Nothing undoes that two aggregators who pool their shares hold what was shared.
    (seen,) = session.seen_by(aggregators(0, 1))
    assert seen.kind == "client"
    np.testing.assert_array_equal(seen.value, VECTORS[seen.clients[0]])
    assert run(protocol, attrition=FixedAttrition(count=1))[1].count == 2
    assert run(vectors=np.zeros((0, 3), np.uint64))[1].reason.startswith("0 of 0 clients")
    nobody = run(attrition=FixedAttrition(count=3))[1]
    assert nobody.reason.startswith("0 of 3 clients")


def test_an_aggregator_that_is_gone_ends_the_round_with_nothing_revealed():
    late, outcome = run(attrition=PartiesAttrition(gone=["aggregator 1"], phase="publish"), watched=None)
    assert outcome == Aborted(reason="aggregator 1 of 3 gone, and all are needed; run the round again", phase="publish")
    assert late.wire.bytes(phase="publish") == 0
    assert late.seen_by([SERVER]) == ()
    assert [s.kind for s in late.seen_by([SERVER, *aggregators(0, 2)])] == ["payloads"]
    # Before the input phase, no client trains or sends in vain.
    early = AdditiveSharing(aggregators=3).open(
        plan_of(3), range(3), round=0, seed=0, attrition=PartiesAttrition(gone=["aggregator 1"]), watched=None
    )
    assert early.begin() == ()
    assert not early.submit(0, VECTORS[0])
    assert early.finish() == Aborted(
        reason="aggregator 1 of 3 gone, and all are needed; run the round again", phase="share"
    )
    assert early.wire.bytes() == 0
    assert early.seen_by([SERVER, *aggregators(0, 1, 2)]) == ()
    server = run(attrition=PartiesAttrition(gone=["server"], phase="publish"))[1]
    assert server == Aborted(reason="the server is gone; run the round again", phase="publish")


def test_a_missing_share_ends_the_round():
    def half_sent():
        session = AdditiveSharing(aggregators=3).open(plan_of(2), range(2), round=0, seed=0, watched=None)
        session.begin()
        session.submit(0, VECTORS[0])
        messages = session.make_messages(VECTORS[1])
        session.deliver(session.holders[0], 1, messages[0])
        session.deliver(session.holders[2], 1, messages[2])
        return session, messages

    session, _ = half_sent()
    outcome = session.finish()
    assert isinstance(outcome, Aborted)
    assert outcome.reason.startswith("aggregator 1 has no share of client 1, others do")
    (opened,) = session.seen_by(aggregators(0, 1, 2))  # of client 1 even all of them have not enough
    assert opened.clients == (0,)
    session, messages = half_sent()
    session.deliver(session.holders[1], 1, messages[1])
    outcome = session.finish()
    np.testing.assert_array_equal(outcome.total, (VECTORS[0] + VECTORS[1]) & RING32)


def test_each_aggregator_takes_one_message_a_client_of_the_right_length():
    session = AdditiveSharing(aggregators=3).open(plan_of(2), range(2), round=0, seed=0)
    session.begin()
    session.submit(0, VECTORS[0])
    with pytest.raises(ProtocolError, match="second share of client 0"):
        session.deliver(session.holders[0], 0, bytes(32))
    with pytest.raises(ProtocolError, match="31 bytes from client 1 instead of 32"):
        session.deliver(session.holders[0], 1, bytes(31))
    with pytest.raises(ProtocolError, match="8 bytes from client 1 instead of 12"):
        session.deliver(session.holders[2], 1, bytes(8))


def dealing(protocol=None, begun=True, **options):
    session = (protocol or AdditiveSharing(aggregators=3)).open(plan_of(3), range(3), round=0, seed=0, **options)
    if begun:
        session.begin()
    return session


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(("bits", "k"), [(8, 2), (20, 3), (64, 4)])
def test_contributions_masked_elsewhere_are_the_same_messages(bits, k, compressed):
    vectors = VECTORS & np.uint64(2**bits - 1)
    protocol = AdditiveSharing(aggregators=k, bits=bits, compressed=compressed)
    session, ours = dealing(protocol, watched=None), run(protocol, vectors)
    for c in range(3):
        dealt = session.deal(c)
        assert (dealt.keys.shape, dealt.signs.tolist(), dealt.bits) == ((k - 1, 32), [-1] * (k - 1), bits)
        assert session.submit_masked(c, dealt.mask(vectors[c]))
    outcome = session.finish()
    np.testing.assert_array_equal(outcome.total, ours[1].total)
    assert outcome.clients == (0, 1, 2)
    assert session.wire.traffic() == ours[0].wire.traffic()
    seen = session.seen_by(aggregators(*range(k)))
    np.testing.assert_array_equal([s.value for s in seen], vectors)


def test_a_watched_client_takes_off_its_own_masks():
    session = dealing(watched=[client(2), aggregator(0)])
    for c in range(3):
        session.submit_masked(c, session.deal(c).mask(VECTORS[c]))
    outcome = session.finish()
    whole, rest = session.seen_by([aggregator(0), client(2)])
    np.testing.assert_array_equal(whole.value, outcome.total)
    np.testing.assert_array_equal(rest.value, [41, 52, 63])


def test_masks_are_dealt_once_and_only_they_are_taken():
    with pytest.raises(ProtocolError, match="the input phase is not open"):
        dealing(begun=False).deal(0)
    session = dealing()
    with pytest.raises(ProtocolError, match="client 9 is not in this round"):
        session.deal(9)
    with pytest.raises(ProtocolError, match="client 0 was dealt no masks"):
        session.submit_masked(0, VECTORS[0])
    dealt = session.deal(0)
    with pytest.raises(ProtocolError, match="client 0 has its masks already"):
        session.deal(0)
    with pytest.raises(ProtocolError, match="client 0 was dealt masks; submit what they are on by submit_masked"):
        session.submit(0, VECTORS[0])
    with pytest.raises(ProtocolError, match=r"contributes 4294967296, which is no integer mod 2\^32"):
        session.submit_masked(0, np.array([1, 2**32, 0], np.uint64))
    with pytest.raises(ProtocolError, match=r"uint64\[2\] instead of uint64\[3\]"):
        session.submit_masked(0, VECTORS[0, :2])
    assert session.submit_masked(0, dealt.mask(VECTORS[0]))
    with pytest.raises(ProtocolError, match="client 0 contributes a second time"):
        session.submit_masked(0, VECTORS[0])
    session.submit(1, VECTORS[1])
    with pytest.raises(ProtocolError, match="client 1 has its masks already, or has contributed"):
        session.deal(1)
    session.deal(2)  # it never comes back, and is simply not in the sum
    outcome = session.finish()
    assert outcome.clients == (0, 1)
    np.testing.assert_array_equal(outcome.total, VECTORS[0] + VECTORS[1])
    with pytest.raises(ProtocolError, match="the input phase is not open"):
        session.deal(2)


def test_masked_messages_that_are_changed_or_cut_end_the_round():
    def cut(delivery):
        last = delivery.phase == "share" and delivery.receiver == aggregator(2) and delivery.sender == client(1)
        return delivery.payload[:-1] if last else delivery.payload

    session = dealing(interference=Interference(by_sender=cut))
    assert session.submit_masked(0, session.deal(0).mask(VECTORS[0]))
    dealt, late = session.deal(1), session.deal(2)
    assert not session.submit_masked(1, dealt.mask(VECTORS[1]))
    assert not session.submit_masked(2, late.mask(VECTORS[2]))
    assert session.finish().reason.startswith("aggregator 2 got 11 bytes from client 1 instead of 12")
    assert session.wire.bytes(receiver="server") == 0


def test_another_ring_or_a_larger_cohort_is_refused():
    protocol = AdditiveSharing(bits=20)
    session = protocol.open(plan_of(1), [0], round=0, seed=0)
    session.begin()
    with pytest.raises(ProtocolError, match=r"contributes 1048576, which is no integer mod 2\^20"):
        session.submit(0, np.array([0, 2**20, 1], np.uint64))
    with pytest.raises(OverflowDetected, match="opened for 2 clients, but only a sum over 1"):
        protocol.open(plan_of(1), [0, 1], round=0, seed=0)


@pytest.mark.slow
def test_ten_thousand_clients_take_the_memory_of_one():
    import tracemalloc

    def peak(m, n=2000):
        session = AdditiveSharing(aggregators=2).open(
            plan_of(m, n), range(m), round=0, seed=0, attrition=BernoulliAttrition(rate=0.1)
        )
        vector = np.ones(n, np.uint64)
        tracemalloc.start()
        there = session.begin()
        for c in there:
            session.submit(c, vector)
        outcome = session.finish()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert outcome.clients == there
        assert int(outcome.total[0]) == len(there)
        return used

    # Ids alone grow with the cohort: far less than the 80 MB that the shares of 10,000 clients would take.
    assert peak(10_000) - peak(100) < 8e6


def test_place_on_the_line():
    protocol = AdditiveSharing(aggregators=4, bits=24)
    assert (protocol.takes, protocol.maps(Ring(24), None)) == (Ring(24), Ring(24))
    assert protocol.parties() == (SERVER, *aggregators(0, 1, 2, 3))
    assert protocol.stations == [Station.MESSAGE]
    assert protocol.replay() is None
    assert protocol.claims(plan_of(10), Real()) == []  # hiding who sent what is not differential privacy
    with pytest.raises(StackError, match="additive_sharing wants min_clients=3"):
        AdditiveSharing(min_clients=3).check(plan_of(2))
    for bad in ({"bits": 7}, {"bits": 65}, {"aggregators": 1}, {"min_clients": 0}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(bad))):
            AdditiveSharing(**bad)
