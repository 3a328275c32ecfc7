"""Whoever holds the shares, and whichever these are: the sum comes out, drop-outs and false messages end or not."""

import itertools

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from fedpriv_defenses.secure_sum.shamir_sharing import ShamirSharing
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedpriv.base.errors import ParameterError, ProtocolError, StackError
from fedpriv.defense.attrition import Attrition, BernoulliAttrition, FixedAttrition, PartiesAttrition
from fedpriv.defense.domain import Ring
from fedpriv.defense.parties import SERVER, aggregator, client
from fedpriv.defense.protocol import Aborted, Revealed
from fedpriv.defense.stations import Plan
from fedpriv.defense.wire import Interference

BITS = 20
MASK = np.uint64(2**BITS - 1)
#: Five clients' ring elements; the last column's stand for negative numbers too.
VECTORS = np.array([[1, 2, 3], [40, 50, 60], [900, 0, MASK], [7, 7, MASK - 8], [0, 1, 2**18]], np.uint64)
TOTAL = VECTORS.sum(0) & MASK
#: Every shape: additive and Shamir's, among outsiders, all clients, and some of them.
SHAPES = {
    "additive, aggregators": AdditiveSharing(bits=BITS, aggregators=3),
    "additive, clients": AdditiveSharing(bits=BITS, among="clients"),
    "additive, committee": AdditiveSharing(bits=BITS, among="committee", committee=3),
    "shamir, aggregators": ShamirSharing(bits=BITS, aggregators=5, threshold=3),
    "shamir, clients": ShamirSharing(bits=BITS, among="clients", threshold=3),
    "shamir, committee": ShamirSharing(bits=BITS, among="committee", committee=4, threshold=2),
}
SHAPES |= {f"{name}, vectors": p.with_(compressed=False) for name, p in SHAPES.items()}


def plan_of(cohort, n=3):
    return Plan.everybody(cohort, n - 1)


def run(protocol, vectors=VECTORS, attrition=None, watched=None, only=None, **options):
    m, n = vectors.shape
    options = {"round": 0, "seed": 0, **options}
    session = protocol.open(plan_of(m, n), range(m), attrition=attrition, watched=watched, **options)
    session.begin()
    for c in range(m) if only is None else only:
        session.submit(c, vectors[c])
    return session, session.finish()


@pytest.fixture(params=SHAPES)
def protocol(request):
    return SHAPES[request.param]


def holders(session):
    return [h.party for h in session.holders]


def test_the_sum_comes_out(protocol):
    session, outcome = run(protocol)
    assert isinstance(outcome, Revealed)
    np.testing.assert_array_equal(outcome.total, TOTAL)
    assert outcome.clients == (0, 1, 2, 3, 4)
    assert session.accused == ()


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(SHAPES)), st.integers(8, 56), st.integers(1, 6), st.data())
def test_any_sum_comes_out(name, bits, m, data):
    protocol = SHAPES[name].with_(bits=bits)
    rows = [[data.draw(st.integers(0, 2**bits - 1)) for _ in range(2)] for _ in range(m)]
    outcome = run(protocol, np.array(rows, np.uint64))[1]
    if m < (protocol.committee or 0) or m < (getattr(protocol, "threshold", 0) if protocol.among == "clients" else 0):
        assert isinstance(outcome, Aborted)
        return
    assert [int(t) for t in outcome.total] == [sum(column) % 2**bits for column in zip(*rows)]


def test_a_committee_is_drawn_by_a_public_draw_anew_in_each_round():
    protocol = SHAPES["additive, committee"]
    drawn = [protocol.holders(range(5), r, 7) for r in range(400)]
    assert drawn == [protocol.holders([4, 2, 0, 1, 3], r, 7) for r in range(400)]
    assert all(len(set(d)) == 3 for d in drawn)
    counts = [sum(client(c) in d for d in drawn) for c in range(5)]
    assert stats.chisquare(counts).pvalue > 1e-4  # every client as often as every other
    assert len(set(drawn)) == 10  # all committees of three of five
    assert drawn != [protocol.holders(range(5), r, 8) for r in range(400)]
    session, _ = run(protocol, round=3, seed=7)
    assert tuple(holders(session)) == drawn[3]


def test_a_holder_keeps_its_own_share_without_sending_it(protocol):
    session, _ = run(protocol)
    k = len(session.holders)
    own = k if protocol.among != "aggregators" else 0
    arrived = [d for h in session.holders for d in session.wire.received(h.party) if d.phase == "share"]
    assert len(arrived) == 5 * k - own
    assert all(d.sender != d.receiver for d in arrived)
    for holder in session.holders:
        assert set(session.shares(holder.party)) == set(range(5)) - {holder.party.index if own else -1}


def test_bytes_on_the_wire_are_those_of_the_messages():
    vectors = np.ones((5, 10), np.uint64)
    wire = run(SHAPES["additive, clients"], vectors)[0].wire
    # Of five shares four are keys; a client keeps its own, which is the vector for the last one only.
    assert wire.bytes(phase="share") == 4 * (3 * 32 + 25) + 4 * 32
    wire = run(SHAPES["shamir, aggregators"], vectors)[0].wire
    assert wire.traffic() == {
        ("share", "client", "aggregator"): 5 * (2 * 32 + 3 * 10 * 4),  # elements of the field of 2^31 - 1
        ("publish", "aggregator", "aggregator"): 5 * 4 * 1,
        ("publish", "aggregator", "server"): 5 * 10 * 4,
        ("publish", "server", "aggregator"): 5 * 25,
    }
    wire = run(SHAPES["shamir, aggregators, vectors"].with_(bits=32), vectors)[0].wire
    assert wire.bytes(phase="share") == 5 * 5 * 10 * 8  # the sum does not fit the smaller field


def opened_by(session, coalition, **options):
    return {s.clients[0]: s.value for s in session.seen_by(coalition, **options) if s.kind == "client"}


def test_as_many_holders_as_it_takes_lay_open_every_contribution_and_fewer_the_sum(protocol):
    session, outcome = run(protocol)
    parties, needed = holders(session), session.scheme.needed
    for coalition in itertools.combinations(parties, needed):
        own = {p.index for p in coalition if p.role == "client"}
        found = opened_by(session, coalition)
        assert set(found) == set(range(5)) - own
        for c, value in found.items():
            np.testing.assert_array_equal(value, VECTORS[c])
    for coalition in itertools.combinations(parties, needed - 1):
        for more in ((), (SERVER,)):
            whole, *rest = session.seen_by([*coalition, *more])
            assert (whole.kind, whole.clients) == ("sum", outcome.clients)
            np.testing.assert_array_equal(whole.value, TOTAL)
            assert {d.receiver for d in whole.payloads} == set(coalition)
            own = [p.index for p in coalition if p.role == "client"]
            if own:
                (rest,) = rest
                assert rest.clients == tuple(c for c in range(5) if c not in own)
                np.testing.assert_array_equal(rest.value, VECTORS[list(rest.clients)].sum(0) & MASK)


def test_the_server_holds_the_sum(protocol):
    session, _ = run(protocol, watched=[SERVER])
    (seen,) = session.seen_by([SERVER])
    assert (seen.kind, seen.clients, seen.payloads) == ("sum", (0, 1, 2, 3, 4), ())
    np.testing.assert_array_equal(seen.value, TOTAL)


@pytest.mark.parametrize("name", ["additive, clients", "shamir, clients"])
def test_all_but_one_client_know_the_last_ones_contribution_from_the_sum(name):
    session, _ = run(SHAPES[name].with_(**({"threshold": 5} if "shamir" in name else {})))
    whole, rest = session.seen_by([client(c) for c in (0, 1, 3, 4)])
    assert (whole.kind, rest.kind, rest.clients) == ("sum", "sum", (2,))
    np.testing.assert_array_equal(rest.value, VECTORS[2])
    pair, _ = run(SHAPES["additive, clients"], VECTORS[:2])
    assert [s.clients for s in pair.seen_by([client(0)])] == [(0, 1), (1,)]
    np.testing.assert_array_equal(pair.seen_by([client(0)])[1].value, VECTORS[1])


@pytest.mark.parametrize("name", SHAPES)
def test_shares_of_fewer_holders_are_uniform_whatever_is_shared(name):
    """In 2^8 equal cells, each share alone, and 16 x 16 of two together where two are fewer than it takes."""
    protocol = SHAPES[name]
    for value in (0, 1000, 2**BITS - 1):
        vectors = np.full((5, 20_000), value, np.uint64)
        session, _ = run(protocol, vectors, only=range(5))
        whole = float(2**BITS if isinstance(protocol, AdditiveSharing) else 2**31 - 1)
        shares = [session.shares(h.party)[c] / whole for h in session.holders for c in (1,) if h.party != client(c)]
        fewer = session.scheme.needed - 1
        for one in shares[:3]:
            assert stats.chisquare(np.histogram(one, 256, (0, 1))[0]).pvalue > 1e-7
        for a, b in itertools.combinations(shares[:3], 2) if fewer >= 2 else ():
            cells = np.histogram2d(a, b, 16, ((0, 1), (0, 1)))[0]
            assert stats.chisquare(cells.ravel()).pvalue > 1e-7


def test_an_eavesdropper_learns_who_talks_unless_channels_are_open(protocol):
    session, _ = run(protocol, wire=True)
    (seen,) = session.seen_by([], wire=True)
    assert (seen.kind, seen.value) == ("payloads", None)
    assert all(d.payload is None for d in seen.payloads)
    session, _ = run(protocol.with_(encrypted=False), wire=True)
    found = opened_by(session, [], wire=True)  # a share that was kept follows from the published sums
    assert set(found) == set(range(5))
    for c, value in found.items():
        np.testing.assert_array_equal(value, VECTORS[c])


class Gone(Attrition):
    """Parties that go as a phase begins: `at` is {phase: parties}."""

    name = "gone"
    at: dict = {}

    def alive(self, phase, parties, round, seed):
        return [p for p in parties if str(p) not in self.at.get(phase.name, ())]


def test_a_holder_that_goes_ends_an_additive_round_and_no_shamir_one_while_t_are_left(protocol):
    parties, needed = holders(run(protocol)[0]), None
    for lost in range(1, len(parties) + 1):
        gone = [str(p) for p in parties[:lost]]
        session, outcome = run(protocol, attrition=Gone(at={"publish": gone}))
        needed = session.scheme.needed
        if len(parties) - lost >= needed:
            assert isinstance(outcome, Revealed)
            np.testing.assert_array_equal(outcome.total, TOTAL)  # they had sent their shares
            assert outcome.clients == (0, 1, 2, 3, 4)
            continue
        assert isinstance(outcome, Aborted)
        assert outcome.phase == "publish"
        assert outcome.reason.startswith(" and ".join(gone) + f" of {len(parties)} gone, and ")
        assert session.wire.bytes(phase="publish") == 0
        assert session.seen_by([SERVER]) == ()
        for coalition in itertools.combinations(parties, needed - 1):
            assert all(s.value is None for s in session.seen_by([SERVER, *coalition]))
    assert needed == (len(parties) if isinstance(protocol, AdditiveSharing) else protocol.threshold)


def test_a_client_that_goes_before_it_sends_is_not_in_the_sum(protocol):
    session, outcome = run(protocol, attrition=Gone(at={"share": ["client 1"]}))
    if protocol.among == "committee" and client(1) in protocol.holders(range(5), 0, 0):
        if isinstance(protocol, AdditiveSharing):
            assert outcome.reason == "client 1 of 3 gone, and all are needed; run the round again"
            assert session.wire.bytes() == 0
            return
        assert client(1) not in holders(session)
    assert outcome.clients == (0, 2, 3, 4)
    np.testing.assert_array_equal(outcome.total, VECTORS[[0, 2, 3, 4]].sum(0) & MASK)


def test_a_client_that_holds_shares_and_contributes_nothing_is_a_holder_gone():
    session, outcome = run(SHAPES["additive, clients"], only=[0, 1, 2, 3])
    assert outcome == Aborted(reason="client 4 of 5 gone, and all are needed; run the round again", phase="publish")
    assert session.seen_by([SERVER]) == ()
    _, outcome = run(SHAPES["shamir, clients"], only=[0, 1, 3])
    assert outcome.clients == (0, 1, 3)
    np.testing.assert_array_equal(outcome.total, VECTORS[[0, 1, 3]].sum(0) & MASK)


def test_too_few_survivors_reveal_nothing(protocol):
    session, outcome = run(protocol.with_(min_clients=4), attrition=FixedAttrition(count=2))
    assert isinstance(outcome, Aborted)
    assert "needed" in outcome.reason or outcome.reason.startswith("3 of 5 clients finished, below min_clients=4")
    assert session.wire.bytes(receiver="server") == 0
    assert session.seen_by([SERVER]) == ()
    server = run(protocol, attrition=PartiesAttrition(gone=["server"], phase="publish"))[1]
    assert server == Aborted(reason="the server is gone; run the round again", phase="publish")
    nobody = run(protocol, np.zeros((0, 3), np.uint64))[1] if protocol.committee is None else outcome
    assert isinstance(nobody, Aborted)


def test_cohorts_that_are_too_small_end_the_round_or_the_line():
    small = VECTORS[:2]
    assert run(SHAPES["additive, committee"], small)[1].reason.startswith("2 clients were sampled, below committee=3")
    assert run(SHAPES["shamir, clients"], small)[1].reason.startswith("2 hold shares, below threshold=3")
    with pytest.raises(StackError, match="additive_sharing wants committee=3"):
        SHAPES["additive, committee"].check(plan_of(2))
    with pytest.raises(StackError, match="shamir_sharing wants threshold=3"):
        SHAPES["shamir, clients"].check(plan_of(2))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 2**60), st.floats(0, 0.5))
def test_whoever_drops_out_the_sum_is_that_of_its_clients_or_there_is_none(name, seed, rate):
    session, outcome = run(SHAPES[name], attrition=BernoulliAttrition(rate=rate), seed=seed)
    if isinstance(outcome, Aborted):
        parties = holders(session)
        assert session.wire.bytes(receiver="server") == 0
        for coalition in itertools.combinations(parties, max(0, session._protocol.least(len(parties)) - 1)):
            assert all(s.value is None for s in session.seen_by([SERVER, *coalition]))
        return
    np.testing.assert_array_equal(outcome.total, VECTORS[list(outcome.clients)].sum(0) & MASK)
    assert outcome.clients == session.submitted


def changed(payload, way, place):
    """A false message of the same kind: a bit, the length, other bytes, nothing."""
    raw = bytearray(payload)
    if way == "flip":
        raw[place % len(raw)] ^= 1 << (place % 8)
    elif way == "short":
        del raw[-1:]
    elif way == "long":
        raw.append(place % 256)
    elif way == "ones":
        raw[:] = b"\xff" * len(raw)
    return None if way == "lost" else bytes(raw)


WAYS = ("flip", "short", "long", "ones", "lost")


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 200), st.sampled_from(WAYS), st.integers(0, 999))
def test_a_message_changed_on_the_way_ends_the_round_or_leaves_the_true_sum(name, which, way, place):
    seen = []

    def meddle(delivery):
        seen.append(delivery)
        return changed(delivery.payload, way, place) if len(seen) - 1 == which else delivery.payload

    session, outcome = run(SHAPES[name], interference=Interference(in_transit=meddle))
    if isinstance(outcome, Revealed):
        np.testing.assert_array_equal(outcome.total, TOTAL)
    else:
        hit = seen[which]
        assert f"{hit.sender} to {hit.receiver}" in outcome.reason
        assert outcome.phase == hit.phase
    if which < len(seen) and seen[which].phase == "share":
        assert isinstance(outcome, Aborted)
        assert all(s.value is None for s in session.seen_by([SERVER]))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 200), st.sampled_from(WAYS), st.integers(0, 999))
def test_a_party_that_sends_nonsense_ends_the_round_and_is_named(name, which, way, place):
    """A sender may also lie well: another share, another sum. Then see below, by protocol."""
    seen = []

    def lie(delivery):
        seen.append(delivery)
        return changed(delivery.payload, way, place) if len(seen) - 1 == which else delivery.payload

    session, outcome = run(SHAPES[name], interference=Interference(by_sender=lie))
    if which >= len(seen):
        assert isinstance(outcome, Revealed)
        np.testing.assert_array_equal(outcome.total, TOTAL)
        return
    hit = seen[which]
    well_made = way in ("flip", "ones") and (hit.phase == "share" or SERVER in (hit.sender, hit.receiver))
    if isinstance(outcome, Aborted):
        assert str(hit.sender) in outcome.reason or "contradict" in outcome.reason or "lied" in outcome.reason
    elif not well_made:
        np.testing.assert_array_equal(outcome.total, TOTAL)
    if isinstance(SHAPES[name], ShamirSharing) and len(session.holders) > session.scheme.needed:
        # Where holders are to spare, no lie but a client's own contribution changes the sum.
        assert isinstance(outcome, Aborted) or (outcome.total == TOTAL).all()


def test_a_message_that_is_sent_again_ends_the_round(protocol):
    frames = {}

    def replay(delivery):
        channel = (delivery.sender, delivery.receiver)
        first = frames.setdefault(channel, delivery.payload)
        return first if delivery.phase == "publish" and delivery.receiver != SERVER else delivery.payload

    session, outcome = run(protocol, interference=Interference(in_transit=replay))
    if protocol.among == "committee" or protocol.among == "clients":  # they have sent one another shares before
        assert isinstance(outcome, Aborted)
        assert "or sent a second time" in outcome.reason
        assert session.wire.bytes(receiver="server") == 0
        assert session.seen_by([SERVER]) == ()


def test_an_additive_holder_that_publishes_a_false_sum_goes_unseen():
    def lie(delivery):
        if delivery.sender != aggregator(1) or delivery.receiver != SERVER:
            return delivery.payload
        return bytes([delivery.payload[0] ^ 1]) + delivery.payload[1:]

    _, outcome = run(SHAPES["additive, aggregators"], interference=Interference(by_sender=lie))
    assert isinstance(outcome, Revealed)
    assert abs(int(outcome.total[0]) - int(TOTAL[0])) == 1  # off by the lie, and nobody knows
    assert (outcome.total[1:] == TOTAL[1:]).all()


def test_what_differs_in_whose_shares_it_has_ends_the_round():
    for name in ("additive, clients", "shamir, aggregators"):
        session = SHAPES[name].open(plan_of(5), range(5), round=0, seed=0, watched=None)
        session.begin()
        for c in range(4):
            session.submit(c, VECTORS[c])
        messages = session.make_messages(VECTORS[4])
        for holder, message in list(zip(session.holders, messages))[1:]:
            session.deliver(holder, 4, message)
        session._submitted.add(4)  # it has sent to most
        outcome = session.finish()
        assert outcome.reason.startswith(f"{session.holders[0].party} has no share of client 4, others do")
        assert session.wire.bytes(receiver="server") == 0
    with pytest.raises(ProtocolError, match=r"client 1 contributes 1048576, which is no integer mod 2\^20"):
        run(SHAPES["shamir, clients"], np.array([[0, 1], [2**20, 0], [0, 0]], np.uint64))


def losing(session_holders):
    """The sums that these holders publish are lost on the way."""

    def lose(delivery):
        lost = delivery.phase == "publish" and delivery.receiver == SERVER and delivery.sender in session_holders
        return None if lost else delivery.payload

    return Interference(in_transit=lose)


def test_a_holder_that_works_with_the_server_has_its_own_sum_whether_it_arrived_or_not(protocol):
    parties = holders(run(protocol)[0])
    needed = run(protocol)[0].scheme.needed
    lost = parties[: len(parties) - needed + 1]  # one more than can be spared
    session, outcome = run(protocol, interference=losing(lost))
    assert isinstance(outcome, Aborted)
    assert all(s.value is None for s in session.seen_by([SERVER]))
    seen = session.seen_by([SERVER, lost[0]])
    assert [s.kind for s in seen] == ["sum"] * (1 + (lost[0].role == "client"))
    np.testing.assert_array_equal(seen[0].value, TOTAL)
    for sighting in seen:
        np.testing.assert_array_equal(sighting.value, VECTORS[list(sighting.clients)].sum(0) & MASK)
    if len(parties) > needed:  # one whose sum did arrive adds nothing
        assert all(s.value is None for s in session.seen_by([SERVER, parties[-1]]))


def test_the_server_has_the_sum_if_only_its_telling_fails(protocol):
    lost = Interference(in_transit=lambda d: None if d.sender == SERVER else d.payload)
    session, outcome = run(protocol, interference=lost)
    assert isinstance(outcome, Aborted)
    (seen,) = session.seen_by([SERVER])
    np.testing.assert_array_equal(seen.value, TOTAL)
    assert all(s.value is None for s in session.seen_by(holders(session)[:1]))


@pytest.mark.parametrize("change", [lambda m: m * 2, lambda m: m[:-1], lambda m: b"\xff" * len(m), lambda m: b""])
def test_a_message_that_is_no_share_is_none_for_a_coalition(protocol, change):
    parties = holders(run(protocol)[0])
    sender = next(c for c in map(client, range(5)) if c != parties[-1])

    def lie(delivery):
        false = delivery.phase == "share" and (delivery.sender, delivery.receiver) == (sender, parties[-1])
        return change(delivery.payload) if false else delivery.payload

    session, outcome = run(protocol, interference=Interference(by_sender=lie), wire=True)
    for coalition in ([SERVER], parties[:1], parties[-1:], parties[:-1], parties, [SERVER, *parties]):
        for sighting in session.seen_by(coalition):
            assert sighting.kind != "client" or sighting.clients != (sender.index,) or len(coalition) > 1
            if sighting.kind == "client" and sighting.clients != (sender.index,):
                np.testing.assert_array_equal(sighting.value, VECTORS[sighting.clients[0]])
    session.seen_by([], wire=True)
    assert all(len(share) == 3 for share in session.shares(parties[-1]).values())
    if isinstance(outcome, Aborted) and isinstance(protocol, ShamirSharing):
        opened = opened_by(session, [p for p in parties if p != sender])
        assert sender.index in opened  # the other shares are enough
        np.testing.assert_array_equal(opened[sender.index], VECTORS[sender.index])


def test_a_coalition_is_checked(protocol):
    session, _ = run(protocol, watched=[SERVER])
    with pytest.raises(ParameterError, match="there is no client 9 in this round"):
        session.seen_by([client(9)])
    with pytest.raises(ProtocolError, match="was not watched"):
        session.seen_by(holders(session))
    with pytest.raises(ParameterError, match="server gets no shares; name one of those who do"):
        session.shares(SERVER)


def test_the_ring_of_the_codec_before_it_is_taken_where_bits_are_left_open():
    open_ended = AdditiveSharing(bits=None)
    assert open_ended.takes.accepts(Ring(24))
    assert open_ended.settled(Ring(24), plan_of(2), "x") == AdditiveSharing(bits=24)
    assert AdditiveSharing(bits=32).settled(Ring(24), plan_of(2), "x") == AdditiveSharing(bits=32)
    with pytest.raises(ParameterError, match="bits=none takes the ring of the codec before it"):
        open_ended.open(plan_of(2), range(2), round=0, seed=0)
    with pytest.raises(StackError, match="word: a sum over 5 clients of integers of bits=60"):
        ShamirSharing(bits=None).settled(Ring(60), plan_of(5), "word")
