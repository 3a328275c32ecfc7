"""Masked sums of Bonawitz et al. (2017) and Bell et al. (2020): exact, hidden, and closed where they must be."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from fedpriv_defenses.secure_sum import sealing
from fedpriv_defenses.secure_sum.pairwise import messages
from fedpriv_defenses.secure_sum.pairwise.client import SEALED, SHARE
from fedpriv_defenses.secure_sum.pairwise.graph import (
    at_least,
    bounds,
    components,
    degree_for,
    most_of,
    neighbours_of,
)
from fedpriv_defenses.secure_sum.pairwise.protocols import NeighbourMasking, PairwiseMasking
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedpriv.base.errors import MessageError, ParameterError, ProtocolError, StackError
from fedpriv.defense.attrition import BernoulliAttrition, FixedAttrition, PartiesAttrition
from fedpriv.defense.parties import SERVER, client
from fedpriv.defense.protocol import Aborted, Revealed
from fedpriv.defense.ring import RingFormat
from fedpriv.defense.stations import Plan
from fedpriv.defense.wire import Interference


def plan_of(cohort, n=3):
    return Plan.everybody(cohort, n - 1)


def vectors_of(count, n, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits - 1, (count, n), dtype=np.uint64, endpoint=True)


def run(protocol, vectors, attrition=None, **options):
    m, n = vectors.shape
    session = protocol.open(plan_of(m, n), range(m), round=3, seed=0, attrition=attrition, **options)
    for c in session.begin():
        session.submit(c, vectors[c])
    return session, session.finish()


def gone(phase, *clients):
    return PartiesAttrition(gone=[f"client {c}" for c in clients], phase=phase)


def total_of(vectors, clients, bits):
    return vectors[list(clients)].sum(0, dtype=np.uint64) & np.uint64(2**bits - 1)


PROTOCOLS = [
    PairwiseMasking(),
    PairwiseMasking(active=True),
    NeighbourMasking(neighbours=4, threshold=2, dropout=0.5),
]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_what_comes_out_is_the_sum_of_those_who_have_sent_whoever_drops_out_when(data):
    bits = data.draw(st.sampled_from([8, 16, 20, 32, 40, 64]))
    protocol = data.draw(st.sampled_from(PROTOCOLS)).model_copy(update={"bits": bits, "min_clients": 1})
    m, rate = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([0, 0.05, 0.3]))
    vectors = vectors_of(m, data.draw(st.integers(1, 5)), bits, data.draw(st.integers(0, 99)))
    session = protocol.open(
        plan_of(m, vectors.shape[1]), range(m), round=0, seed=data.draw(st.integers(0, 99)),
        attrition=BernoulliAttrition(rate=rate),
    )  # fmt: skip
    sent = [c for c in session.begin() if session.submit(c, vectors[c])]
    outcome = session.finish()
    if isinstance(outcome, Aborted):
        assert "threshold" in outcome.reason or "min_clients" in outcome.reason
        assert rate > 0 or m == 1
    else:
        assert outcome.clients == tuple(sent)
        assert np.array_equal(outcome.total, total_of(vectors, sent, bits))


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.name}-{p.is_active}")
@pytest.mark.parametrize("phase", ["advertise", "share_keys", "masked_input", "unmask"])
def test_masks_of_whoever_goes_come_off_to_the_bit(protocol, phase):
    vectors = vectors_of(9, 40, 32)
    session, outcome = run(protocol, vectors, gone(phase, 1, 6))
    assert isinstance(outcome, Revealed), outcome
    inside = range(9) if phase == "unmask" else [c for c in range(9) if c not in (1, 6)]
    assert outcome.clients == tuple(inside)
    assert np.array_equal(outcome.total, total_of(vectors, inside, 32))
    assert all(s >= 0 for s in session.seconds.values())


@pytest.mark.parametrize("protocol", PROTOCOLS[:2], ids=["passive", "active"])
def test_too_few_survivors_end_the_round_with_nothing_revealed(protocol):
    vectors = vectors_of(6, 8, 32)
    for phase in ("share_keys", "masked_input", "unmask"):
        session, outcome = run(protocol, vectors, gone(phase, 0, 1, 2, 3), watched=None)
        assert isinstance(outcome, Aborted)
        assert outcome.phase == phase
        assert f"threshold={session.degree.threshold}" in outcome.reason
        seen = session.seen_by([SERVER])
        assert all(s.value is None for s in seen)
        # Nor can the server with any one client make anything of it.
        assert all(s.value is None for s in session.seen_by([SERVER, client(5)]))


def test_a_sum_over_fewer_than_min_clients_stays_closed():
    _, outcome = run(PairwiseMasking(min_clients=4, threshold=0.4), vectors_of(5, 4, 32), gone("input", 0, 1))
    assert isinstance(outcome, Aborted)
    assert "below min_clients=4" in outcome.reason
    _, alone = run(PairwiseMasking(), vectors_of(3, 4, 32), gone("advertise", 0, 1))
    assert isinstance(alone, Aborted)
    assert "below min_clients=2" in alone.reason


def test_the_server_alone_has_the_sum_and_the_message_of_each_client_is_uniform():
    vectors = np.zeros((4, 4000), np.uint64)
    vectors[1] = 7
    session, _ = run(PairwiseMasking(bits=8), vectors, watched=None)
    (seen,) = session.seen_by([SERVER])
    assert (seen.kind, seen.clients) == ("sum", (0, 1, 2, 3))
    assert (seen.value == 7).all()
    masked = [d for d in session.wire.received(SERVER) if d.phase == "masked_input"]
    for delivery in masked:
        counts = np.bincount(np.frombuffer(delivery.payload, np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    # Nor do two messages together tell more: the masks between two clients come off, their own ones do not.
    both = sum(np.frombuffer(d.payload, np.uint8) for d in masked[:2])
    assert stats.chisquare(np.bincount(both, minlength=256)).pvalue > 1e-6


@pytest.mark.parametrize("protocol", PROTOCOLS[:2], ids=["passive", "active"])
def test_t_minus_1_clients_with_the_server_learn_the_sum_of_the_others_and_t_learn_everything(protocol):
    vectors = vectors_of(7, 20, 32)
    session, _ = run(protocol, vectors, gone("input", 2), watched=None)
    t = session.degree.threshold
    few = list(range(t - 1))
    (seen,) = session.seen_by([SERVER, *map(client, few)])
    others = tuple(c for c in range(7) if c not in few and c != 2)
    assert (seen.kind, seen.clients) == ("sum", others) if len(others) > 1 else ("client", others)
    assert np.array_equal(seen.value, total_of(vectors, others, 32))
    for many in itertools.combinations([c for c in range(7) if c != 2], t):
        found = session.seen_by([SERVER, *map(client, many)])
        assert {s.clients for s in found} == {(c,) for c in range(7) if c not in many and c != 2}
        for s in found:
            assert s.kind == "client"
            assert np.array_equal(s.value, vectors[s.clients[0]])


def test_clients_without_the_server_and_eavesdroppers_learn_nothing():
    session, _ = run(PairwiseMasking(), vectors_of(5, 6, 32), watched=None, wire=True)
    assert session.seen_by(map(client, range(4))) == ()
    (heard,) = session.seen_by([], wire=True)
    assert (heard.kind, heard.value) == ("payloads", None)
    assert all(d.payload is None for d in heard.payloads)
    unprotected, _ = run(PairwiseMasking(encrypted=False), vectors_of(5, 6, 32), watched=None, wire=True)
    (heard,) = unprotected.seen_by([], wire=True)
    assert (heard.kind, heard.clients) == ("sum", (0, 1, 2, 3, 4))
    assert np.array_equal(heard.value, total_of(vectors_of(5, 6, 32), range(5), 32))


@pytest.mark.parametrize("protocol", PROTOCOLS[:2], ids=["passive", "active"])
def test_a_client_that_was_only_slow_is_not_unmasked(protocol):
    """Its vector comes after its mask key was recovered: of its own mask, nobody has revealed a share."""
    vectors = np.zeros((6, 8000), np.uint64)
    session, outcome = run(protocol.model_copy(update={"bits": 8}), vectors, gone("masked_input", 4), watched=None)
    assert isinstance(outcome, Revealed)
    late = np.frombuffer(session.members[4].masked(vectors[4]), np.uint8).copy()
    # All that the server has: shares of 4's mask key, of which the pairwise masks come off.
    for delivery in session.wire.received(SERVER):
        if delivery.phase == "unmask":
            holder = session.members[delivery.sender.index]
            told = messages.records(delivery.payload, SHARE, "", range(6))[4]
            assert told == holder.shares_held()[4][0]
            assert told != holder.shares_held()[4][1]
    keys, signs = session.members[4].mask_keys()
    form = RingFormat(8, len(late))
    form.add_keystreams(late, keys[1:], [-s for s in signs[1:]])
    assert stats.chisquare(np.bincount(late, minlength=256)).pvalue > 1e-6
    form.add_keystreams(late, keys[:1], [-1])
    assert not late.any()


def lying_server(told):
    """Tells every client of `told` that client 3 has not survived."""

    def lie(delivery):
        if delivery.sender == SERVER and delivery.phase in ("consistency", "unmask") and len(delivery.payload) == 28:
            ids = list(np.frombuffer(delivery.payload, "<u4"))
            if delivery.receiver.index in told and 3 in ids:
                ids.remove(3)
                return messages.pack_ids(ids)
        return delivery.payload

    return Interference(by_sender=lie)


def test_a_server_that_tells_clients_different_survivors_is_only_caught_by_signatures():
    vectors = vectors_of(7, 5, 32)
    session, _ = run(PairwiseMasking(threshold=0.4), vectors, watched=None, interference=lying_server({0, 1, 2}))
    s, b = {}, {}
    for delivery in session.wire.received(SERVER):
        if delivery.phase == "unmask":
            c = delivery.sender.index
            share = messages.records(delivery.payload, SHARE, "", range(7)).get(3)
            held = session.members[c].shares_held()[3]
            (s if share == held[0] else b)[c] = share
    # With a threshold of 3 of 7, three clients give shares of its mask key, and the others of its own mask.
    assert len(s) == 3
    assert len(b) == 4
    assert min(len(s), len(b)) >= session.degree.threshold
    caught, outcome = run(PairwiseMasking(active=True), vectors, interference=lying_server({0, 1, 2}), watched=None)
    assert isinstance(outcome, Aborted)
    assert outcome.phase == "consistency"
    assert "signature does not fit the survivors it was told" in outcome.reason
    assert all(d.phase != "unmask" for d in caught.wire.received(SERVER))


def test_thresholds_that_an_active_server_could_split_are_refused():
    with pytest.raises(StackError, match=r"threshold=0.5 of 9 clients is 5, but against an active server 7"):
        PairwiseMasking(active=True, threshold=0.5).check(plan_of(9))
    assert PairwiseMasking(active=True).degree(9).threshold == 7
    assert PairwiseMasking().degree(9).threshold == 5


def test_a_client_answers_once_and_only_for_a_list_it_can_be_on():
    session, _ = run(PairwiseMasking(), vectors_of(5, 3, 32))
    one = session.members[2]
    with pytest.raises(MessageError, match="client 2 is asked a second time"):
        one.reveal(messages.pack_ids([0, 1, 2, 3]))
    fresh, _ = run(PairwiseMasking(), vectors_of(5, 3, 32), gone("unmask", 2))
    for ids, reason in [
        ([0, 1, 3, 4], "leaves it out, though it has sent"),
        ([1, 2], "has 2 clients, below threshold=3"),
        ([0, 1, 2, 9], "names client 9"),
    ]:
        with pytest.raises(MessageError, match=reason):
            fresh.members[2].reveal(messages.pack_ids(ids))
    with pytest.raises(MessageError, match="names client 1 twice"):
        fresh.members[2].reveal(messages.pack_ids([0, 1, 1, 2]))


def test_one_key_given_for_two_clients_is_refused():
    def copied(delivery):
        if delivery.sender == SERVER and delivery.phase == "share_keys" and len(delivery.payload) == 3 * 68:
            first = delivery.payload[4:68]
            return delivery.payload[:72] + first + delivery.payload[136:]
        return delivery.payload

    _, outcome = run(PairwiseMasking(), vectors_of(4, 3, 32), interference=Interference(by_sender=copied))
    assert isinstance(outcome, Aborted)
    assert "was given for another client too" in outcome.reason


def test_keys_that_somebody_changed_do_not_carry_their_signature():
    def swapped(delivery):
        if delivery.sender == SERVER and delivery.phase == "share_keys" and len(delivery.payload) in (3 * 132, 3 * 68):
            return delivery.payload[:4] + bytes(31) + b"\x09" + delivery.payload[36:]
        return delivery.payload

    for active, caught in ((True, "signature does not fit its keys"), (False, "do not open")):
        _, outcome = run(
            PairwiseMasking(active=active), vectors_of(4, 3, 32), interference=Interference(by_sender=swapped)
        )
        assert isinstance(outcome, Aborted), active
        assert caught in outcome.reason


@pytest.mark.parametrize("kind", ["mask key", "own mask"])
def test_a_false_share_is_seen_with_and_without_one_to_spare(kind):
    def false(delivery):
        if delivery.phase != "unmask" or delivery.sender != client(0):
            return delivery.payload
        entry = 4 + SHARE
        place = entry * (3 if kind == "mask key" else 1) + 4
        return delivery.payload[:place] + bytes([delivery.payload[place] ^ 1]) + delivery.payload[place + 1 :]

    for threshold in (0.4, 0.8):  # with and without true shares enough
        session, outcome = run(
            PairwiseMasking(threshold=threshold),
            vectors_of(5, 3, 32),
            gone("input", 3),
            interference=Interference(by_sender=false),
            watched=[SERVER],
        )
        if threshold == 0.4:
            assert np.array_equal(outcome.total, total_of(vectors_of(5, 3, 32), (0, 1, 2, 4), 32))
            continue
        assert isinstance(outcome, Aborted)
        assert f"{kind} do not fit together" in outcome.reason
        assert all(s.value is None for s in session.seen_by([SERVER]))


def test_bytes_are_the_closed_form_of_the_paper():
    """A client: 2 keys up; n - 1 sealed pairs of shares up and down; its vector; n shares. Keys of n - 1 down."""
    n, length = 6, 50
    session, _ = run(PairwiseMasking(bits=16), vectors_of(n, length, 16))
    up = n * (64 + 32 + (n - 1) * (4 + SEALED) + 2 * length + n * (4 + SHARE))
    assert session.wire.bytes(sender="client") == up
    down = n * ((n - 1) * 68 + (n - 1) * (4 + SEALED) + 4 * n)
    assert session.wire.bytes(receiver="client") == down


def test_beyond_the_ring_or_before_the_round_is_a_mistake_of_the_program():
    session = PairwiseMasking(bits=8).open(plan_of(3), range(3), round=0, seed=0)
    with pytest.raises(ProtocolError, match="has not begun"):
        session.submit(0, np.zeros(3, np.uint64))
    session.begin()
    with pytest.raises(ProtocolError, match=r"contributes 256, which is no integer mod 2\^8"):
        session.submit(0, np.full(3, 256, np.uint64))


def test_no_two_rounds_share_a_mask_whatever_the_seed():
    vectors = vectors_of(3, 64, 32)
    both = [run(PairwiseMasking(), vectors, watched=None)[0] for _ in range(2)]
    sent = [[d.payload for d in s.wire.received(SERVER) if d.phase == "masked_input"] for s in both]
    assert len({*sent[0], *sent[1]}) == 6


@pytest.mark.parametrize("bits", [8, 20, 32, 40, 64])
def test_keystreams_are_added_in_tiles_and_threads_as_in_one_piece(bits):
    form = RingFormat(bits, 300_001)
    keys = [bytes([i]) * 32 for i in range(3)]
    total = np.zeros(form.length, form.dtype)
    form.add_keystreams(total, keys, [1, -1, 1])
    stream = Cipher(algorithms.ChaCha20(keys[1], bytes(16)), None).encryptor().update(bytes(form.length * form.width))
    expected = form.expand(keys[0]) - form.reduce(form.words(stream).copy()) + form.expand(keys[2])
    assert np.array_equal(form.reduce(total), form.reduce(expected))


# The graph of Bell et al. (2020).


def test_tails_are_those_of_drawing_without_replacement():
    exact = [
        sum(Fraction(math.comb(6, i) * math.comb(13, 5 - i), math.comb(19, 5)) for i in range(low, 6))
        for low in range(7)
    ]
    np.testing.assert_allclose(at_least(19, 6, 5), [float(e) for e in exact], rtol=1e-12)
    far = sum(Fraction(math.comb(60, i) * math.comb(940, 50 - i), math.comb(1000, 50)) for i in range(30, 51))
    assert at_least(1000, 60, 50)[30] == pytest.approx(float(far), rel=1e-9)


def test_a_billion_clients_need_no_more_neighbours_than_a_thousand_in_the_complete_graph():
    """Bell et al. (2020), abstract; with a third corrupted, a third gone, 2^-40 and 2^-30."""
    assert degree_for(10**9, 1 / 3, 1 / 3, 40, 30).neighbours < 999
    # 10,000 clients, 5% corrupted, 5% gone: 3% of the others (300) are enough there against a semi-malicious server.
    assert degree_for(10_000, 0.05, 0.05, 40, 30).neighbours < 300


def test_the_degree_keeps_its_bounds_and_none_smaller_does():
    found = degree_for(200, 0.1, 0.15, 40, 20)
    assert found.exposed <= 2**-40
    assert found.stuck <= 2**-20
    for threshold in range(1, found.neighbours):
        less = bounds(200, found.neighbours - 2, threshold, 0.1, 0.15)
        assert less.exposed > 2**-40 or less.stuck > 2**-20


def test_bounds_are_above_what_happens():
    """10,000 random graphs with 20 clients of whom 4 are corrupted and 3 go: how often each event comes about."""
    n, k, t = 20, 6, 3
    claimed = bounds(n, k, t, 0.2, 0.15)
    draw, exposed, stuck = random.Random(0), 0, 0
    trials = 2_000
    for _ in range(trials):
        graph = neighbours_of(range(n), k, draw.randbytes(32))
        people = draw.sample(range(n), 7)
        bad, away = set(people[:4]), set(people[4:])
        honest = [c for c in range(n) if c not in bad]
        left = [c for c in honest if c not in away]
        parts = components(left, {c: set(graph[c]) for c in left})
        exposed += len(parts) > 1 or any(len(bad & set(graph[c])) >= t for c in honest)
        stuck += any(len(set(graph[c]) - away) < t for c in range(n))
    assert 0 < exposed / trials <= claimed.exposed
    assert stuck / trials <= claimed.stuck


@given(st.integers(1, 40), st.integers(1, 20))
def test_neighbours_are_mutual_and_as_many_as_asked_for(n, half):
    graph = neighbours_of(range(0, 3 * n, 3), 2 * half, b"x")
    for c, others in graph.items():
        assert len(others) == min(2 * half, n - 1)
        assert c not in others
        assert list(others) == sorted(set(others))
        assert all(c in graph[o] for o in others)


def test_a_graph_that_falls_apart_ends_the_round_before_a_share_is_revealed():
    """Four of six on a ring of six, of which two that are no neighbours go."""
    protocol, ended = NeighbourMasking(neighbours=2, threshold=1, dropout=0.4), 0
    for _ in range(30):
        session, outcome = run(protocol, vectors_of(6, 4, 32), gone("input", 0, 1), watched=None)
        apart = 1 not in session.server.graph[0]
        assert isinstance(outcome, Aborted) == apart
        if apart:
            assert "fall into 2 groups that no mask ties together" in outcome.reason
            assert all(d.phase != "unmask" for d in session.wire.received(SERVER))
            assert all(s.value is None for s in session.seen_by([SERVER]))
            ended += 1
    assert ended


def test_more_that_go_than_the_graph_is_made_for_end_the_round():
    _, outcome = run(NeighbourMasking(neighbours=4, threshold=2), vectors_of(9, 4, 32), gone("input", 0, 1))
    assert isinstance(outcome, Aborted)
    assert "2 of 9 clients are gone, above the 1 of dropout" in outcome.reason


def test_corrupted_clients_that_cut_the_graph_have_the_sums_of_its_parts():
    """Two opposite ones on a ring of six: the server with them has two sums of two, as `exposed` says."""
    vectors = vectors_of(6, 4, 32)
    session, outcome = run(NeighbourMasking(neighbours=2, threshold=3), vectors, watched=None)
    assert isinstance(outcome, Revealed)
    assert session.degree.exposed == 1
    graph = session.server.graph
    far = next(c for c in range(6) if c not in graph[0] and c != 0 and not set(graph[c]) & set(graph[0]))
    found = session.seen_by([SERVER, client(0), client(far)])
    assert [len(s.clients) for s in found] == [2, 2]
    for s in found:
        assert np.array_equal(s.value, total_of(vectors, s.clients, 32))


def test_shares_of_clients_are_counted_as_written_and_upwards():
    assert [most_of(s, 100) for s in (0.29, 0.57, 0.1, 0.0)] == [29, 57, 10, 0]
    assert [most_of(0.1, n) for n in (1, 2, 9, 11)] == [0, 1, 1, 2]
    assert PairwiseMasking(threshold=0.55).degree(100).threshold == 55
    for n in range(2, 40):
        found = degree_for(n, 0.1, 0.1, 40, 20)
        assert found.threshold > most_of(0.1, n)  # the corrupted alone recover nothing
        assert found.threshold <= found.neighbours + 1
        assert found.exposed <= 2**-40


def test_a_client_takes_each_step_once_and_in_order():
    session, _ = run(PairwiseMasking(active=True), vectors_of(5, 3, 32), watched=None)
    one = session.members[2]
    told = messages.pack_ids(range(5))
    for again in (one.advertise, one.share_keys, lambda: one.masked(np.zeros(3, np.uint64))):
        with pytest.raises(MessageError, match="client 2 is asked a second time"):
            again()
    with pytest.raises(MessageError, match="sign_survivors"):
        one.sign_survivors(told)


def test_what_was_signed_in_another_run_or_round_does_not_fit():
    """The server gives every client what the others had signed elsewhere."""
    elsewhere = {}

    def keeping(delivery):
        if delivery.sender != SERVER and delivery.phase in ("advertise", "consistency"):
            elsewhere[delivery.phase, delivery.sender.index] = delivery.payload
        return delivery.payload

    def replaying(phase):
        def lie(delivery):
            if delivery.sender == client(1) and delivery.phase == phase:
                return elsewhere[phase, 1]
            return delivery.payload

        return Interference(by_sender=lie)

    vectors = vectors_of(5, 3, 32)
    run(PairwiseMasking(active=True), vectors, interference=Interference(by_sender=keeping))
    for phase, says in (("advertise", "signature does not fit its keys"), ("consistency", "does not fit the surviv")):
        _, outcome = run(PairwiseMasking(active=True), vectors, interference=replaying(phase))
        assert isinstance(outcome, Aborted)
        assert says in outcome.reason


def test_a_coalition_may_have_a_client_that_never_came():
    session, _ = run(PairwiseMasking(), vectors_of(5, 3, 32), gone("advertise", 0), watched=None)
    (seen,) = session.seen_by([SERVER, client(0), client(3)])
    assert seen.clients == (1, 2, 4)


def test_a_survivor_that_answers_nonsense_counts_as_gone():
    def nonsense(delivery):
        return b"?" if delivery.phase == "unmask" and delivery.sender == client(4) else delivery.payload

    vectors = vectors_of(5, 3, 32)
    session, outcome = run(PairwiseMasking(), vectors, interference=Interference(by_sender=nonsense), watched=None)
    assert np.array_equal(outcome.total, total_of(vectors, range(5), 32))
    (seen,) = session.seen_by([SERVER, client(0)])
    assert np.array_equal(seen.value, total_of(vectors, range(1, 5), 32))


@pytest.mark.parametrize(
    ("clients", "round", "says"),
    [
        ([0, -1], 0, "client -1 does not fit"),
        ([2**32], 0, "does not fit a message"),
        (["a"], 0, "no whole number"),
        ([0, 1], -1, "round -1 does not fit"),
        ([0, 1], 1.5, "round 1.5 is no whole number"),
    ],
)
def test_ids_and_rounds_that_no_message_holds_are_refused(clients, round, says):
    with pytest.raises(ProtocolError, match=says):
        PairwiseMasking().open(plan_of(3), clients, round=round, seed=0)


def test_what_is_no_array_or_no_party_is_named():
    session = PairwiseMasking().open(plan_of(3), range(3), round=0, seed=0)
    session.begin()
    with pytest.raises(ProtocolError, match="contributes a list instead of a numpy array"):
        session.submit(0, [1, 2, 3])
    with pytest.raises(ParameterError, match=r"'server' is no party; write e.g. Party.parse"):
        session.seen_by(["server"])


def test_what_cannot_be_is_named():
    with pytest.raises(StackError, match="the 10 left cannot outnumber the corrupted"):
        NeighbourMasking(corrupted=0.5, dropout=0.5).check(plan_of(20))
    with pytest.raises(StackError, match="neighbours=4 and threshold=None belong together"):
        NeighbourMasking(neighbours=4).check(plan_of(20))
    with pytest.raises(StackError, match="neighbours=5 is odd"):
        NeighbourMasking(neighbours=5, threshold=2).check(plan_of(20))
    with pytest.raises(StackError, match="threshold=9 is above the 4 neighbours"):
        NeighbourMasking(neighbours=4, threshold=9).check(plan_of(20))
    with pytest.raises(StackError, match="min_clients=2 in every sum, but cohorts have at most 1"):
        PairwiseMasking().check(plan_of(1))


# Every message, changed.


CHANGES = st.tuples(
    st.sampled_from(["flip", "cut", "longer", "zeros", "twice", "empty"]), st.integers(0, 10**6), st.integers(1, 255)
)


def changed(how, payload):
    kind, place, other = how
    at = place % max(len(payload), 1)
    if kind == "flip" and payload:
        return payload[:at] + bytes([payload[at] ^ other]) + payload[at + 1 :]
    changes = {"cut": payload[:at], "longer": payload + b"\x00", "zeros": bytes(len(payload)), "twice": payload * 2}
    return changes.get(kind, b"")


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_a_message_changed_by_a_client_or_on_the_way_ends_the_round_or_changes_nothing(data):
    """Apart from a client's own vector, which may be false as any contribution may."""
    protocol = data.draw(st.sampled_from(PROTOCOLS))
    vectors = vectors_of(6, 4, 32)
    where = data.draw(st.sampled_from(["by_sender", "in_transit"]))
    victim, how, seen = data.draw(st.integers(0, 80)), data.draw(CHANGES), itertools.count()

    def meddle(delivery):
        mine = where == "in_transit" or (delivery.sender != SERVER and delivery.phase != "masked_input")
        return changed(how, delivery.payload) if mine and next(seen) == victim else delivery.payload

    _, outcome = run(protocol, vectors, gone("input", 2), interference=Interference(**{where: meddle}))
    if isinstance(outcome, Aborted):
        assert len(outcome.reason) > 30
    else:
        assert np.array_equal(outcome.total, total_of(vectors, outcome.clients, 32))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_false_vector_of_the_wrong_form_ends_the_round(data):
    cut = data.draw(st.integers(0, 19))

    def meddle(delivery):
        if delivery.phase == "masked_input" and delivery.sender == client(1):
            return (delivery.payload + b"\x01")[: 21 if cut == 16 else cut]
        return delivery.payload

    _, outcome = run(PairwiseMasking(), vectors_of(4, 4, 32), interference=Interference(by_sender=meddle))
    assert isinstance(outcome, Aborted)
    assert "the masked vector of client 1 has" in outcome.reason


def test_sealed_messages_are_sized_as_stated():
    assert len(sealing.seal(bytes(32), bytes(2 * messages.ID + 2 * SHARE))) == SEALED


def test_attrition_of_a_fixed_number_in_a_large_cohort():
    vectors = vectors_of(60, 30, 32)
    session, outcome = run(NeighbourMasking(), vectors, FixedAttrition(count=6))
    assert isinstance(outcome, Revealed)
    assert session.degree.neighbours < 59
    assert np.array_equal(outcome.total, total_of(vectors, outcome.clients, 32))
