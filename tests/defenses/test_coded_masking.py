"""LightSecAgg's protocol: sums that are exact, faults that end a round, and what coalitions make of their messages."""

import itertools
import os
import re

import numpy as np
import pydantic
import pytest
from fedpriv_defenses.secure_sum.coded_masking import CodedMasking
from fedpriv_defenses.secure_sum.coded_parties import CodedClient, Round, book_of
from fedpriv_defenses.secure_sum.mask_code import MaskCode
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import MessageError, ProtocolError, StackError
from fedpriv.defense.attrition import Attrition, BernoulliAttrition, FixedAttrition, PartiesAttrition
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.parties import SERVER, client
from fedpriv.defense.protocol import Aborted, Revealed
from fedpriv.defense.stations import Plan, Station
from fedpriv.defense.wire import Interference

PHASES = ("advertise", "share", "masked_input", "recover")
#: Bytes of a key, of an entry in the book of keys, of a tag, and of a sender's number.
KEY, ENTRY, TAG, NUMBER = 32, 40, 16, 4


def plan_of(cohort, n=5):
    return Plan.everybody(cohort, n - 1)


def vectors_of(m, n, bits=16, seed=0):
    drawn = np.random.default_rng(seed).integers(0, 2**bits, (m, n), dtype=np.uint64)
    drawn[0, :3] = [0, 2 ** (bits - 1), 2**bits - 1][: min(3, n)]  # the lowest, and minus one
    return drawn


def ring_sum(vectors, clients, bits=16):
    return vectors[list(clients)].sum(0, dtype=np.uint64) & np.uint64(2**bits - 1)


def run(protocol=None, m=6, n=5, attrition=None, turned_up=None, bits=16, **options):
    vectors = vectors_of(m, n, bits)
    protocol = protocol or CodedMasking(colluders=2, dropouts=2, bits=bits)
    session = protocol.open(plan_of(m, n), range(m), round=3, seed=0, attrition=attrition, **options)
    session.begin(turned_up)
    for c in range(m):
        session.submit(c, vectors[c])
    return session, session.finish(), vectors


class Gone(Attrition):
    """Clients that go when a phase begins."""

    name = "gone"
    by_phase: dict[str, tuple[int, ...]]

    def alive(self, phase, parties, round, seed):
        return [p for p in parties if p not in {client(c) for c in self.by_phase.get(phase.name, ())}]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_sum_is_that_of_whoever_sent_or_too_few_are_left(data):
    m, n = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 30))
    bits = data.draw(st.sampled_from([8, 16, 26, 32, 52]))
    dropouts = data.draw(st.integers(0, m - 1))
    t = data.draw(st.integers(0, m - dropouts - 1))
    rule = BernoulliAttrition(
        rate=data.draw(st.sampled_from([0, 0.1, 0.3])), phases=data.draw(st.sampled_from([PHASES[1:], PHASES[2:]]))
    )
    protocol = CodedMasking(colluders=t, dropouts=dropouts, bits=bits)
    vectors = vectors_of(m, n, bits)
    session = protocol.open(plan_of(m, n), range(m), round=0, seed=data.draw(st.integers(0, 2**64)), attrition=rule)
    there = session.begin()
    sent = [c for c in there if data.draw(st.booleans()) or dropouts == 0]  # others are too slow
    for c in sent:
        session.submit(c, vectors[c])
    outcome = session.finish()
    # Whoever did not send, or is not there in the last phase that began, cannot answer.
    answering = len(session.there("client"))
    if isinstance(outcome, Revealed):
        assert outcome.clients == tuple(sent)
        np.testing.assert_array_equal(outcome.total, ring_sum(vectors, sent, bits))
        assert answering >= m - dropouts
    else:
        assert answering < m - dropouts
        assert f"below the U={m - dropouts} that it takes" in outcome.reason or (
            not session.submitted and "below min_clients=1" in outcome.reason
        )


@pytest.mark.parametrize(("bits", "cohort", "width"), [(24, 127, 4), (24, 128, 8), (32, 6, 8), (57, 8, 8), (8, 6, 4)])
def test_the_field_is_the_smallest_that_holds_the_largest_sum(bits, cohort, width):
    protocol = CodedMasking(bits=bits)
    session = protocol.open(plan_of(cohort), range(cohort), round=0, seed=0)
    assert session.field.width == width
    protocol.check(plan_of(cohort))
    lowest = np.full(5, 2 ** (bits - 1), np.uint64)  # as far below 0 as a ring element goes
    if cohort < 10:
        session.begin()
        for c in range(cohort):
            session.submit(c, lowest)
        outcome = session.finish()
        assert [int(v) for v in outcome.total] == [cohort * -(2 ** (bits - 1)) % 2**bits] * 5


def test_rounds_that_cannot_be_are_refused_when_the_federation_is_made():
    with pytest.raises(StackError, match=r"light: sums of 9 .* beyond half the field .* use bits <= 57, or small"):
        CodedMasking(bits=58).check_as(plan_of(9), "light")
    with pytest.raises(StackError, match=r"of 4 clients, colluders=3 is T=3 and dropouts=0\.3 leaves U=3, but T < U"):
        CodedMasking(colluders=3).check(plan_of(4))
    with pytest.raises(StackError, match=r"wants min_clients=3 .* at most 2 clients"):
        CodedMasking(min_clients=3).check(plan_of(2))
    with pytest.raises(ProtocolError, match="fit no field"):
        CodedMasking(bits=64).open(plan_of(2), range(2), round=0, seed=0)
    for bad in ({"bits": 7}, {"colluders": -1}, {"colluders": 1.5}, {"dropouts": float("inf")}, {"min_clients": 0}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(bad))):
            CodedMasking(**bad)
    for n in range(1, 200):  # the defaults fit any cohort
        t, u = CodedMasking().thresholds().of(n)
        assert 0 <= t < u <= n
        assert t == n // 2
        CodedMasking().check(plan_of(n))


def test_t_and_u_follow_from_the_clients_that_come_and_not_from_the_plan():
    protocol = CodedMasking(colluders=0.5, dropouts=0.25, bits=16)
    session, outcome, vectors = run(protocol, m=12, turned_up=[0, 3, 4, 8])
    assert (session.server.round.code.private, session.server.round.code.enough) == (2, 3)
    np.testing.assert_array_equal(outcome.total, ring_sum(vectors, [0, 3, 4, 8]))
    fixed = run(CodedMasking(colluders=3, dropouts=2, bits=16), m=12, turned_up=[0, 3, 4, 8])[1]
    assert fixed.phase == "advertise"
    assert "of 4 clients, colluders=3 is T=3 and dropouts=2 leaves U=2" in fixed.reason


@pytest.mark.parametrize(("bits", "width"), [(16, 4), (32, 8)])
@pytest.mark.parametrize(("m", "t", "dropouts", "n"), [(10, 3, 2, 23), (9, 4, 3, 8), (1, 0, 0, 5)])
def test_bytes_are_those_of_the_paper(bits, width, m, t, dropouts, n):
    u = m - dropouts
    late = min(1, dropouts)
    session, outcome, _ = run(
        CodedMasking(colluders=t, dropouts=dropouts, bits=bits),
        m,
        n,
        FixedAttrition(count=late, phase="masked_input"),
        bits=bits,
    )
    assert isinstance(outcome, Revealed)
    piece, left = -(-n // (u - t)) * width, m - late
    roll = -(-m // 8)
    expected = {
        ("advertise", "client", "server"): m * KEY,
        ("advertise", "server", "client"): m * m * ENTRY,
        ("share", "client", "server"): m * (m - 1) * (piece + TAG),
        ("share", "server", "client"): m * (m - 1) * (NUMBER + piece + TAG),
        ("masked_input", "client", "server"): left * n * width,
        ("recover", "server", "client"): left * roll,
        ("recover", "client", "server"): left * (roll + piece),
    }
    assert session.wire.traffic() == {k: v for k, v in expected.items() if m > 1 or k != ("share", "server", "client")}
    assert list(session.seconds) == list(PHASES)


@pytest.mark.parametrize(
    ("by_phase", "expected"),
    [
        ({"advertise": (1,)}, (0, 2, 3, 4, 5)),
        ({"share": (1,)}, (0, 2, 3, 4, 5)),
        ({"masked_input": (1,)}, (0, 2, 3, 4, 5)),
        ({"recover": (1,)}, (0, 1, 2, 3, 4, 5)),
        ({"share": (1,), "recover": (4,)}, (0, 2, 3, 4, 5)),
        ({"masked_input": (1,), "recover": (4,)}, (0, 2, 3, 4, 5)),
        ({"share": (0, 1, 2)}, "share: 3 of 6 clients are there, below the U=4"),
        ({"share": (0,), "masked_input": (1, 2)}, "masked_input: 3 of 6 clients are there, below the U=4"),
        ({"masked_input": (0, 1), "recover": (2,)}, "recover: 3 of 6 clients are left, below the U=4"),
        ({"advertise": range(5)}, "advertise: of 1 clients, colluders=2 is T=2"),
    ],
)
def test_clients_that_go_at_any_stage(by_phase, expected):
    session, outcome, vectors = run(attrition=Gone(by_phase=by_phase), watched=None, wire=True)
    if isinstance(expected, tuple):
        assert outcome.clients == expected
        np.testing.assert_array_equal(outcome.total, ring_sum(vectors, expected))
        (seen,) = session.seen_by([SERVER])
        assert (seen.kind, seen.clients) == ("sum", expected)
        np.testing.assert_array_equal(seen.value, outcome.total)
    else:
        assert f"{outcome.phase}: {outcome.reason}".startswith(expected)
        for coalition in ([SERVER], [SERVER, client(4), client(5)], [client(4)]):
            assert all(s.value is None for s in session.seen_by(coalition))
        assert session.wire.bytes(phase="recover") == 0


def test_too_few_for_a_sum_worth_the_name_and_a_server_that_is_gone_end_the_round():
    protocol = CodedMasking(colluders=1, dropouts=4, bits=16, min_clients=4)
    outcome = run(protocol, attrition=FixedAttrition(count=3))[1]
    assert outcome.phase == "recover"
    assert outcome.reason.startswith("3 of 6 clients finished, below min_clients=4; the sum stays closed")
    assert run(protocol, turned_up=[])[1].phase == "advertise"
    early = run(CodedMasking(colluders=0, dropouts=0, min_clients=4), turned_up=[0, 1])[1]
    assert early.reason.startswith("2 of 6 clients are there, below min_clients=4")
    for phase in PHASES:
        gone = run(attrition=PartiesAttrition(gone=["server"], phase=phase))[1]
        assert gone == Aborted(reason="the server is gone; run the round again", phase=phase)


def test_a_client_that_was_only_slow_is_not_unmasked(monkeypatch):
    vectors = vectors_of(6, 5)

    def played(slow_ones_mask):
        """A round whose masks repeat but for client 2's, which is there too late."""
        drawn = itertools.count()  # of each client in turn: the key of its mask, and that of its uniform parts

        def urandom(size):
            number = next(drawn)
            return slow_ones_mask if number == 2 * 2 else number.to_bytes(size, "little")

        protocol = CodedMasking(colluders=2, dropouts=2, bits=16)
        session = protocol.open(plan_of(6), range(6), round=0, seed=0, watched=[SERVER])
        monkeypatch.setattr(os, "urandom", urandom)
        session.begin()
        monkeypatch.undo()
        for c in (0, 1, 3, 4, 5):
            session.submit(c, vectors[c])
        outcome = session.finish()
        late = session.clients[2].masked(vectors[2])  # arrives now
        held = [d.payload for d in session.wire.received(SERVER) if d.phase in ("masked_input", "recover")]
        return session, outcome, held, late

    session, outcome, held, late = played(b"\1" * 32)
    _, again, held_again, late_again = played(b"\2" * 32)
    # What the server can read is the same whatever the slow one's mask, so its vector stays under a one-time pad.
    assert held == held_again
    assert late != late_again
    assert outcome.clients == again.clients == (0, 1, 3, 4, 5)
    (seen,) = session.seen_by([SERVER])
    assert seen.clients == outcome.clients
    np.testing.assert_array_equal(seen.value, ring_sum(vectors, outcome.clients))
    with pytest.raises(ProtocolError, match="client 2 contributes, but the input phase is over"):
        session.submit(2, vectors[2])
    # Nor does anybody answer a second time, for a sum with it.
    with pytest.raises(MessageError, match="client 0 is asked for a second sum"):
        session.clients[0].answer(session.server.round.roll(range(6)))


def altered(phase, sender, receiver, change):
    """The first message in that phase, from and to that role, is changed."""
    done = []

    def lie(delivery):
        if (delivery.phase, delivery.sender.role, delivery.receiver.role) == (phase, sender, receiver) and not done:
            done.append(delivery)
            return change(delivery)
        return delivery.payload

    return lie


def flipped(place):
    def change(delivery):
        message = bytearray(delivery.payload)
        message[place] ^= 1
        return bytes(message)

    return change


LIES = {
    "a key that is cut": ("advertise", "client", "server", lambda d: d.payload[:-1], "sent no key of 32 bytes"),
    "a key of small order": ("advertise", "client", "server", lambda d: bytes(32), "has not the key of client 0"),
    "a book with another key": ("advertise", "server", "client", flipped(-1), "did not seal for it in this round"),
    "a book without one's own key": ("advertise", "server", "client", flipped(9), "has not the key of client 0"),
    "a book of strangers": ("advertise", "server", "client", flipped(7), "names strangers"),
    "a book that is cut": ("advertise", "server", "client", lambda d: d.payload[:-3], "cut short"),
    "a book without the last": ("advertise", "server", "client", lambda d: d.payload[:-ENTRY], "not of"),
    "a book with one twice": (
        "advertise", "server", "client", lambda d: d.payload[:-ENTRY] + d.payload[-2 * ENTRY : -ENTRY], "client twice"
    ),
    "a book with one key for two": (
        "advertise", "server", "client", lambda d: d.payload[:-KEY] + d.payload[-ENTRY - KEY : -ENTRY],
        "one key for two clients",
    ),
    "a book too short for T": ("advertise", "server", "client", lambda d: d.payload[: 2 * ENTRY], "T=2 and dropouts=2"),
    "no book": ("advertise", "server", "client", lambda d: None, "never came"),
    "pieces that are cut": ("share", "client", "server", lambda d: d.payload[:-1], "client 0 sent pieces that are not"),
    "a piece that is changed": ("share", "client", "server", flipped(30), "that client 0 did not seal for it"),
    "pieces in another order": (
        "share", "client", "server", lambda d: d.payload[len(d.payload) // 5 :] + d.payload[: len(d.payload) // 5],
        "that client 0 did not seal for it",
    ),
    "a piece in another's name": ("share", "server", "client", flipped(0), "a piece of nobody|did not seal"),
    "a piece of nobody": (
        "share", "server", "client", lambda d: b"\xff" * 4 + d.payload[4:], "a piece of nobody in this round"
    ),
    "a piece that is too long": ("share", "server", "client", lambda d: d.payload + b"0", "got a piece that is not of"),
    "a vector that is cut": ("masked_input", "client", "server", lambda d: d.payload[:-4], "client 0 sent what is no"),
    "a vector beyond the field": ("masked_input", "client", "server", lambda d: b"\xff" * 20, "client 0 sent what is"),
    "a mask that is false": (
        "masked_input", "client", "server", lambda d: b"\0\0\0\x40" * 5, "larger than contributions can add up to"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_messages_that_are_not_what_they_should_be_end_the_round(name):
    phase, sender, receiver, change, reason = LIES[name]
    lie = altered(phase, sender, receiver, change)

    session, outcome, _ = run(interference=Interference(by_sender=lie), watched=None)
    assert isinstance(outcome, Aborted)
    assert re.search(reason, outcome.reason), outcome.reason
    assert re.search("run the round again|never came|run the round with", outcome.reason), outcome.reason
    for coalition in ([SERVER], [SERVER, client(1), client(2)], [client(1), client(2), client(3), client(4)]):
        assert all(s.value is None for s in session.seen_by(coalition))


@pytest.mark.parametrize("phase", PHASES[:3])
def test_messages_changed_or_repeated_on_the_way_end_the_round(phase):
    for change in (flipped(-1), flipped(0), lambda d: d.payload[:-1], lambda d: None):
        lie = altered(phase, "client", "server", change)
        outcome = run(interference=Interference(in_transit=lie))[1]
        assert outcome.phase == phase
        assert "client 0 to server" in outcome.reason
    frames = []

    def replayed(delivery):  # the frame that came before on any channel
        frames.append(delivery.payload)
        return frames[-2] if len(frames) > 1 and delivery.phase == phase else delivery.payload

    outcome = run(interference=Interference(in_transit=replayed))[1]
    assert "was changed on the way, or sent a second time" in outcome.reason


def test_a_piece_that_is_delivered_twice_is_refused():
    before = {}

    def again(delivery):
        if delivery.phase == "share" and delivery.receiver == client(3):
            payload, before["last"] = before.get("last", delivery.payload), delivery.payload
            return payload
        return delivery.payload

    outcome = run(interference=Interference(by_sender=again))[1]
    assert outcome == Aborted(reason="client 3 got a second piece of client 0; run the round again", phase="share")


def lying(*clients, change=None):
    def lie(delivery):
        false = delivery.phase == "recover" and delivery.sender in [client(c) for c in clients]
        return (change or flipped(1))(delivery) if false else delivery.payload

    return Interference(by_sender=lie)


def test_more_answers_than_u_contradict_a_false_one():
    session, outcome, vectors = run(interference=lying(2), watched=None)  # six answer, four are needed
    assert outcome.phase == "recover"
    assert outcome.reason == (
        "the sums of pieces of 6 clients contradict each other, and if one alone is false, it is that of client 2; run "
        "the round again without it"
    )
    (seen,) = session.seen_by([SERVER])  # whoever is curious leaves the false one out
    assert seen.kind == "sum"
    np.testing.assert_array_equal(seen.value, ring_sum(vectors, range(6)))
    one_more = run(interference=lying(2), attrition=PartiesAttrition(gone=["client 0"], phase="recover"))[1]
    two = run(interference=lying(2, 4, change=lambda d: flipped(1 + (d.sender == client(4)))(d)))[1]
    for outcome, count in ((one_more, 5), (two, 6)):
        assert outcome.reason.startswith(f"the sums of pieces of {count} clients contradict each other; run the round")


def test_what_a_curious_server_makes_of_answers_that_contradict_each_other():
    """Of m answers, (m - U) // 2 false ones are told from the rest, and one of U + 1 by what sums cannot be.

    A lie by one unit moves the sum but a little, whichever answer is left out: which is the sum cannot be told.
    """

    def elsewhere(delivery):
        return flipped(1 + delivery.sender.index % 3)(delivery)

    cases = (
        (4, (2, 4), elsewhere, True),
        (1, (2,), flipped(4), True),
        (1, (2,), flipped(1), False),
        (2, (0, 2, 4), elsewhere, False),
        (3, (2, 4), elsewhere, False),
    )
    for dropouts, false, change, opened in cases:
        protocol = CodedMasking(colluders=1, dropouts=dropouts, bits=16)
        session, outcome, vectors = run(protocol, interference=lying(*false, change=change), watched=None)
        assert "contradict each other" in outcome.reason
        (seen,) = session.seen_by([SERVER])
        assert seen.kind == ("sum" if opened else "payloads")
        if opened:
            np.testing.assert_array_equal(seen.value, ring_sum(vectors, range(6)))
        seen = session.seen_by([SERVER, client(1)])
        assert [s.kind for s in seen] == (["sum", "sum"] if opened else ["payloads"])


def test_each_step_of_a_client_runs_once_and_in_order():
    protocol = CodedMasking(colluders=2, dropouts=2, bits=16)
    vectors = vectors_of(6, 5)
    session = protocol.open(plan_of(6), range(6), round=0, seed=0)
    session.begin()
    agreed, asked = session.server.round, session.clients[0]
    early = CodedClient(0)
    for step in (early.share, lambda: early.masked(vectors[0]), lambda: early.answer(agreed.roll(range(6)))):
        with pytest.raises(MessageError, match=r"client 0 is asked .* before"):
            step()
    with pytest.raises(MessageError, match="to share a second mask"):
        asked.share()
    with pytest.raises(MessageError, match="to enter a second round"):
        asked.enter(agreed)
    for c in range(6):
        session.submit(c, vectors[c])
    with pytest.raises(MessageError, match="client 0 is asked for a second contribution"):
        asked.masked(vectors[1])
    late = protocol.open(plan_of(6), range(6), round=0, seed=0)
    late.begin()
    late.clients[0].answer(late.server.round.roll(range(1, 6)))
    with pytest.raises(MessageError, match="its contribution after its answer"):
        late.clients[0].masked(vectors[0])
    assert isinstance(session.finish(), Revealed)


def test_a_contribution_is_laid_open_without_the_piece_that_was_false():
    protocol, vectors = CodedMasking(colluders=1, dropouts=3, bits=16), vectors_of(6, 5)
    session = protocol.open(plan_of(6), range(6), round=0, seed=0, watched=None)
    encode = MaskCode.encode

    def with_a_false_one(code, mask):
        pieces = encode(code, mask)
        pieces[0, 0] = (pieces[0, 0] + np.uint64(1_000_003)) % np.uint64(code.field.p)
        return pieces

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MaskCode, "encode", with_a_false_one)
        session.begin()
    for c in range(6):
        session.submit(c, vectors[c])
    assert isinstance(session.finish(), Aborted)
    for size in (5, 6):  # U + 2 tell which is false
        seen = session.seen_by([SERVER, *map(client, range(size))])
        assert [s.clients for s in seen if s.kind == "client"] == [(c,) for c in range(6)]
        np.testing.assert_array_equal([s.value for s in seen], vectors)


def test_shares_of_a_cohort_are_counted_exactly():
    decimals = ((0.29, 100, 29), (0.28, 25, 7), (0.07, 100, 7), (0.9999999999, 10, 9), (1e-10, 10**10, 1))
    fractions = ((1 / 3, 3, 1), (2 / 3, 9, 6), (1 / 7, 700, 100), (0.3333, 3, 0))
    for share, n, count in decimals + fractions:
        assert CodedMasking(colluders=share, dropouts=0).thresholds().of(n)[0] == count


def test_u_answers_hide_a_small_lie_and_no_large_one():
    """T = U - 1, so that a mask has one part, and a liar moves each element of the sum by as much as it likes."""
    protocol = CodedMasking(colluders=3, dropouts=2, bits=16)
    rule = FixedAttrition(count=2)

    def moved_by(amount, session):
        def change(delivery):
            code, field = session.server.round.code, session.field
            numbers = session.server.round.numbers(delivery.payload[:1])
            unit = np.zeros((4, 1), np.uint64)
            unit[numbers.index(delivery.sender.index)] = 1
            # What one more in this answer adds to the mask.
            weight = code.decode(numbers, np.repeat(unit, code.width, 1))[:1]
            push = field.multiply(field.inverse(weight), np.array([field.p - amount], np.uint64))
            values = field.unpack(delivery.payload[1:])
            return delivery.payload[:1] + field.pack(field.add(values, push))

        return change

    def outcome_of(amount):
        held = {}
        lie = lying(*range(6), change=lambda d: moved_by(amount, held["session"])(d) if d.sender == liar else d.payload)
        vectors = vectors_of(6, 5)
        session = held["session"] = protocol.open(
            plan_of(6), range(6), round=0, seed=0, attrition=rule, interference=lie
        )
        there = session.begin()
        liar = client(there[0])
        for c in there:
            session.submit(c, vectors[c])
        return session.finish(), ring_sum(vectors, there)

    outcome, true = outcome_of(7)
    assert isinstance(outcome, Revealed)  # nothing is left over to tell
    np.testing.assert_array_equal(outcome.total, (true + np.uint64(7)) & np.uint64(2**16 - 1))
    outcome, _ = outcome_of(2**20)
    assert outcome.reason.startswith("the sum is larger than contributions can add up to")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: None,
        lambda d: d.payload[:-1],
        lambda d: b"\xff" * len(d.payload),
        lambda d: bytes([d.payload[0] ^ 128]) + d.payload[1:],
        lambda d: bytes([d.payload[0] ^ 1]) + d.payload[1:],
        lambda d: bytes(len(d.payload)),
    ],
    ids=["lost", "cut", "no elements", "over others", "over strangers", "over nobody"],
)
def test_an_answer_that_is_none_counts_as_a_client_that_is_gone(change):
    _, outcome, vectors = run(interference=lying(0, 5, change=change))
    np.testing.assert_array_equal(outcome.total, ring_sum(vectors, range(6)))
    session, outcome, _ = run(interference=lying(0, 2, 5, change=change), watched=None)
    assert outcome.reason.startswith("3 of 6 clients have answered, below the U=4 that it takes to recover the sum (")
    assert "client 0" in outcome.reason
    assert all(s.value is None for s in session.seen_by([SERVER]))


@pytest.mark.parametrize("change", [flipped(0), lambda d: b"\0", lambda d: d.payload + b"\0", lambda d: b"\xff"])
def test_a_roll_that_was_changed_yields_no_answer(change):
    def lie(delivery):
        return change(delivery) if delivery.phase == "recover" and delivery.sender == SERVER else delivery.payload

    session, outcome, _ = run(interference=Interference(by_sender=lie), watched=None)
    assert outcome.reason.startswith("0 of 6 clients have answered")
    assert all(s.value is None for s in session.seen_by([SERVER]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_becomes_of_one_message_the_round_ends_with_a_reason_or_the_true_sum(data):
    in_transit = data.draw(st.booleans())
    seen, at = [], data.draw(st.integers(0, 90))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "lost", "earlier", "random", "zeros"]))

    def change(delivery):
        payload = delivery.payload
        seen.append(payload)
        # A client may say what it likes of its own contribution, as long as it is a vector.
        own_word = delivery.phase == "masked_input" and not in_transit and kind not in ("cut", "grow", "lost")
        if len(seen) - 1 != at or own_word:
            return payload
        if kind == "flip":
            return flipped(data.draw(st.integers(0, len(payload) - 1)))(delivery)
        if kind == "cut":
            return payload[: data.draw(st.integers(0, len(payload) - 1))]
        if kind == "grow":
            return payload + data.draw(st.binary(min_size=1, max_size=50))
        if kind == "earlier":
            return seen[data.draw(st.integers(0, len(seen) - 1))]
        if kind == "random":
            return data.draw(st.binary(max_size=300))
        return None if kind == "lost" else bytes(len(payload))

    name = "in_transit" if in_transit else "by_sender"
    session, outcome, vectors = run(interference=Interference(**{name: change}), watched=None)
    if isinstance(outcome, Revealed):
        assert outcome.clients == tuple(range(6))
        np.testing.assert_array_equal(outcome.total, ring_sum(vectors, range(6)))
    else:
        assert len(outcome.reason) > 30
        for seen in session.seen_by([SERVER]):  # a false answer ends the round, and may be left out by the curious
            if seen.value is not None:
                assert "contradict each other" in outcome.reason
                np.testing.assert_array_equal(seen.value, ring_sum(vectors, range(6)))
    assert all(s.kind != "client" for s in session.seen_by([SERVER, client(1), client(4)]))  # T of them
    assert all(s.value is None for s in session.seen_by([client(c) for c in range(6)]))


COALITIONS = [c for size in range(7) for c in itertools.combinations(range(6), size)]


@pytest.mark.parametrize("bits", [16, 32])
def test_what_every_coalition_makes_of_a_round(bits):
    session, outcome, vectors = run(
        attrition=FixedAttrition(count=1, phase="recover"), watched=None, wire=True, bits=bits
    )
    assert outcome.count == 6
    for inside in COALITIONS if bits == 16 else COALITIONS[::7]:
        members = [client(c) for c in inside]
        others = tuple(c for c in range(6) if c not in inside)
        alone = session.seen_by(members)
        assert [s.kind for s in alone] == (["payloads"] if inside else [])
        assert all(s.value is None for s in alone)
        for wire in (False, True):
            seen = session.seen_by([SERVER, *members], wire=wire)
            if len(inside) >= 4:  # U
                assert [(s.kind, s.clients) for s in seen] == [("client", (c,)) for c in range(6)]
                for sighting in seen:
                    np.testing.assert_array_equal(sighting.value, vectors[sighting.clients[0]])
                    assert len(sighting.payloads) >= 2
                continue
            assert [(s.kind, s.clients) for s in seen] == [
                ("sum", tuple(range(6))),
                *([("sum", others)] if inside else []),
            ]
            for sighting in seen:
                assert sighting.value.dtype == np.uint64
                np.testing.assert_array_equal(sighting.value, ring_sum(vectors, sighting.clients, bits))
            told = session.combinations([SERVER, *members], wire=wire)
            known = max(0, len(inside) - 2)
            assert set(told) == (set(others) if known else set())
            assert {len(weights) for weights, _ in told.values()} <= {known}
    (heard,) = session.seen_by([], wire=True)
    assert (heard.kind, heard.value, heard.clients) == ("payloads", None, tuple(range(6)))
    assert {d.payload for d in heard.payloads} == {None}


def test_between_t_and_u_clients_with_the_server_learn_combinations_of_each_contribution():
    protocol = CodedMasking(colluders=1, dropouts=1, bits=16)  # four parts of two elements, the last one empty
    session, _, vectors = run(protocol, n=7, watched=None)
    found = session.combinations([SERVER, client(0), client(2), client(5)])
    assert set(found) == {1, 3, 4}
    for weights, _ in found.values():
        assert weights.shape == (2, 4)
    add_up(found, session, vectors)
    # Clients alone hold pieces of masks, and nothing that these were added to; one with the server is within T.
    for coalition in ([client(0), client(2), client(5)], [SERVER, client(0)], [SERVER]):
        assert session.combinations(coalition) == {}


def add_up(found, session, vectors):
    """The parts of each contribution, weighted so, add up to what was found."""
    code, field = session.server.round.code, session.field
    for c, (weights, values) in found.items():
        parts = np.zeros(code.padded, np.uint64)
        parts[: code.length] = field.embed(vectors[c], 16)
        np.testing.assert_array_equal(field.matmul(weights, parts.reshape(code.parts, -1)), values)


def test_combinations_are_right_where_coalitions_hold_other_pieces_of_one_client_than_of_another():
    rule = Gone(by_phase={"share": (5,)})  # the server still holds pieces for it, one of them garbled
    protocol = CodedMasking(colluders=1, dropouts=1, bits=16)

    def garbled(delivery):
        if delivery.phase == "share" and delivery.sender == client(1):
            return flipped(-1)(delivery)  # its piece for client 5
        return delivery.payload

    session, outcome, vectors = run(
        protocol, attrition=rule, interference=Interference(by_sender=garbled), watched=None
    )
    assert isinstance(outcome, Revealed)
    found = session.combinations([SERVER, client(2), client(4), client(5)])
    assert {c: len(weights) for c, (weights, _) in found.items()} == {0: 2, 1: 1, 3: 2}
    add_up(found, session, vectors)


def test_a_client_that_has_gone_still_opens_what_the_server_holds_for_it():
    rule = Gone(by_phase={"share": (0,), "masked_input": (1,)})
    session, outcome, vectors = run(CodedMasking(colluders=0, dropouts=2, bits=16), attrition=rule, watched=None)
    assert outcome.clients == (2, 3, 4, 5)
    seen = session.seen_by([SERVER, client(0), client(1), client(2), client(3)])
    assert [s.clients for s in seen] == [(2,), (3,), (4,), (5,)]
    for sighting in seen:
        np.testing.assert_array_equal(sighting.value, vectors[sighting.clients[0]])
    assert [s.kind for s in session.seen_by([SERVER, client(0), client(1), client(2)])] == ["sum", "sum"]


def test_answers_that_the_server_has_got_are_completed_by_those_of_its_friends():
    """Three answers are one too few; a client that has gone, and works with the server, holds the fourth."""
    rule = Gone(by_phase={"recover": (0, 1)})
    session, outcome, vectors = run(attrition=rule, interference=lying(2, change=lambda d: None), watched=None)
    assert "3 of 6 clients have answered" in outcome.reason
    assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"]
    seen = session.seen_by([SERVER, client(1)])
    assert [(s.kind, s.clients) for s in seen] == [("sum", tuple(range(6))), ("sum", (0, 2, 3, 4, 5))]
    for sighting in seen:
        np.testing.assert_array_equal(sighting.value, ring_sum(vectors, sighting.clients))


def test_without_private_channels_an_eavesdropper_is_as_good_as_the_server():
    protocol = CodedMasking(colluders=2, dropouts=2, bits=16, encrypted=False)
    session, outcome, _ = run(protocol, wire=True, watched=[client(c) for c in range(4)])
    (seen,) = session.seen_by([], wire=True)
    assert seen.kind == "sum"
    np.testing.assert_array_equal(seen.value, outcome.total)
    assert [s.kind for s in session.seen_by([client(0), client(1)], wire=True)] == ["sum", "sum"]
    assert [s.kind for s in session.seen_by([client(c) for c in range(4)], wire=True)] == ["client"] * 6


def test_what_is_not_watched_is_not_made_up():
    session, _, _ = run(watched=[SERVER])
    with pytest.raises(ProtocolError, match="client 1 was not watched"):
        session.seen_by([SERVER, client(1)])
    with pytest.raises(ProtocolError, match="not tapped"):
        session.seen_by([], wire=True)
    early = run(attrition=PartiesAttrition(gone=["server"], phase="advertise"), watched=None)[0]
    assert early.seen_by([SERVER, client(0)]) == ()


def test_masked_contributions_and_pieces_look_like_nothing():
    session, _, vectors = run(n=400, watched=None)
    received = [d for d in session.wire.received(SERVER) if d.phase == "masked_input"]
    for delivery in received:
        values = session.field.unpack(delivery.payload)
        assert abs(values.mean() / session.field.p - 0.5) < 6 / np.sqrt(12 * 400)
        embedded = session.field.embed(vectors[delivery.sender.index], 16)
        assert not (values == embedded).any()
    again = [d.payload for d in run(n=400, watched=None)[0].wire.received(SERVER) if d.phase == "masked_input"]
    assert all(a != b.payload for a, b in zip(again, received))  # masks are fresh, whatever the run's seed


def test_clients_keep_pieces_in_the_width_they_have_on_the_wire():
    for bits, width in ((16, 4), (32, 8)):
        session, _, _ = run(bits=bits, n=101)
        kept = [c._held.nbytes for c in session.clients.values()]
        assert kept == [6 * 51 * width] * 6  # n pieces of d / (U - T) elements


def test_elements_beyond_the_ring_are_a_mistake():
    session = CodedMasking(bits=20).open(plan_of(1), [0], round=0, seed=0)
    session.begin()
    with pytest.raises(ProtocolError, match=r"contributes 1048576, which is no integer mod 2\^20"):
        session.submit(0, np.array([0, 2**20, 1, 0, 0], np.uint64))


def test_a_client_refuses_what_would_tell_on_others():
    session = CodedMasking(colluders=2, dropouts=2, bits=16).open(plan_of(6), range(6), round=0, seed=0)
    session.begin()
    agreed, asked = session.server.round, session.clients[0]
    with pytest.raises(MessageError, match="asked for a sum over 3 clients, below U=4"):
        asked.answer(agreed.roll([0, 1, 2]))
    with pytest.raises(MessageError, match="no roll of 1 bytes"):
        asked.answer(b"")
    strange = CodedClient(0)
    with pytest.raises(MessageError, match="has not the key of client 0"):
        strange.enter(agreed)
    lonely = CodedMasking(colluders=0, dropouts=0).thresholds()
    book = book_of({-5: bytes(32), 2**40: b"\1" * 32})  # ids of any size
    opening = type("Opening", (), {"clients": (-5, 2**40), "length": 3, "round": 0})
    assert Round(lonely, 16, session.field, opening, book).roster == (-5, 2**40)


def test_a_second_contribution_of_one_client_is_refused():
    session, _, _ = run(CodedMasking(colluders=2, dropouts=2, bits=16), watched=[SERVER])
    sent = next(d for d in session.wire.received(SERVER) if d.phase == "masked_input" and d.sender == client(1))
    with pytest.raises(MessageError, match="second contribution of client 1"):
        session.server.receive(1, sent.payload)


def test_place_on_the_line():
    protocol = CodedMasking(bits=24)
    assert (protocol.takes, protocol.maps(Ring(24), None)) == (Ring(24), Ring(24))
    assert protocol.parties() == (SERVER,)
    assert protocol.stations == [Station.MESSAGE]
    assert protocol.replay() is None
    assert protocol.claims(plan_of(10), Real()) == []
    assert protocol.notes(plan_of(100)) == (
        "of 100 clients, 50 with the server learn nothing but the sum, 70 learn everything, and those between learn a "
        "part; 70 must stay to the end; an element takes 4 bytes on the wire",
    )
