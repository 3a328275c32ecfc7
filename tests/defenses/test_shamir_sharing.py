"""Shamir's sharing of vectors: any t sums determine the sum, more see lies, and the field is large enough."""

import itertools

import numpy as np
import pydantic
import pytest
from fedpriv_defenses.secure_sum.shamir_sharing import FieldShares, ShamirSharing, field_for
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import MessageError, StackError
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.parties import SERVER, aggregator, client
from fedpriv.defense.protocol import Aborted, Revealed
from fedpriv.defense.stations import Station
from fedpriv.defense.wire import Interference
from tests.defenses.test_shared_sum import TOTAL, plan_of, run

MANY = ShamirSharing(bits=20, aggregators=6, threshold=2)


def liars(*parties, by=1):
    """The first element of what they publish is false."""

    def lie(delivery):
        if delivery.sender not in parties or delivery.receiver != SERVER or delivery.phase != "publish":
            return delivery.payload
        values = np.frombuffer(delivery.payload, "<u4").copy()
        values[0] = (int(values[0]) + by) % (2**31 - 1)
        return values.tobytes()

    return Interference(by_sender=lie)


@pytest.mark.parametrize("who", range(6))
def test_one_liar_among_holders_to_spare_is_named_and_the_true_sum_comes_out(who):
    session, outcome = run(MANY, interference=liars(aggregator(who)))
    np.testing.assert_array_equal(outcome.total, TOTAL)
    assert session.accused == (aggregator(who),)
    (seen,) = session.seen_by([SERVER])
    np.testing.assert_array_equal(seen.value, TOTAL)


def test_as_many_lies_as_can_be_told_are_and_one_more_ends_the_round():
    for pair in itertools.combinations(range(6), 2):  # 6 = t + 2 e
        session, outcome = run(MANY, interference=liars(*map(aggregator, pair)))
        np.testing.assert_array_equal(outcome.total, TOTAL)
        assert session.accused == tuple(map(aggregator, pair))
    session, outcome = run(MANY, interference=liars(*map(aggregator, range(3))))
    assert isinstance(outcome, Aborted)
    assert outcome.reason.startswith(
        "the shares of 6 holders contradict each other, and with threshold=2 these are too"
    )
    assert session.seen_by([SERVER]) == ()


def test_beyond_what_is_guaranteed_liars_who_collude_have_an_honest_holder_accused():
    """Of s sums, ceil((s - t) / 2) false ones never pass; one more that are made up together may."""
    p = 2**31 - 1

    def colluding(liars, silent):
        """Lies that lie on a polynomial that is 1 at 0, and 0 at the points of the `silent` ones."""

        def lie(delivery):
            if delivery.sender not in map(aggregator, liars) or delivery.phase != "publish":
                return delivery.payload
            if delivery.receiver != SERVER:
                return delivery.payload
            x, push = delivery.sender.index + 1, 1
            for zero in silent:
                push = push * (zero + 1 - x) * pow(zero + 1, -1, p) % p
            values = np.frombuffer(delivery.payload, "<u4").copy()
            values[0] = (int(values[0]) + push) % p
            return values.tobytes()

        return Interference(by_sender=lie)

    five = ShamirSharing(bits=20, aggregators=5, threshold=3)
    session, outcome = run(five, interference=colluding((0, 1), (3, 4)))
    assert isinstance(outcome, Revealed)
    assert int(outcome.total[0]) == int(TOTAL[0]) + 1
    assert session.accused == (aggregator(2),)  # who was honest
    session, outcome = run(five, interference=colluding((0,), (3, 4)))  # floor((5 - 3) / 2)
    np.testing.assert_array_equal(outcome.total, TOTAL)
    assert session.accused == (aggregator(0),)
    six = five.with_(aggregators=6)
    for liars in itertools.combinations(range(6), 2):  # ceil((6 - 3) / 2)
        silent = [c for c in range(6) if c not in liars][:2]
        session, outcome = run(six, interference=colluding(liars, silent))
        assert isinstance(outcome, Aborted)
        assert session.accused == ()


def test_one_holder_to_spare_sees_a_lie_and_none_does_not():
    spare, exact = MANY.with_(aggregators=3), MANY.with_(aggregators=2)
    session, outcome = run(spare, interference=liars(aggregator(2)))
    assert isinstance(outcome, Aborted)
    assert "one takes 4; run the round again with more holders" in outcome.reason
    assert session.accused == ()
    assert session.seen_by([SERVER]) == ()  # off by one, or by two: the server cannot tell
    session, outcome = run(spare, interference=liars(aggregator(2), by=12345678))
    assert isinstance(outcome, Aborted)
    (seen,) = session.seen_by([SERVER])  # only one of the three is a sum that contributions can have
    np.testing.assert_array_equal(seen.value, TOTAL)
    # With exactly t sums a random lie gives a number too large for any contributions; one made up for it passes.
    assert "a holder or a client has lied" in run(exact, interference=liars(aggregator(1), by=12345678))[1].reason
    _, outcome = run(exact, interference=liars(aggregator(1), by=2**31 - 2))  # weight -1 at its point: plus one
    assert isinstance(outcome, Revealed)
    assert int(outcome.total[0]) == int(TOTAL[0]) + 1


def test_a_client_that_gives_one_holder_another_share_does_not_spoil_the_sum():
    def lie(delivery):
        if (delivery.sender, delivery.receiver) != (client(2), aggregator(5)):
            return delivery.payload
        return (7).to_bytes(4, "little") * 3

    session, outcome = run(MANY, interference=Interference(by_sender=lie))
    np.testing.assert_array_equal(outcome.total, TOTAL)
    assert session.accused == (aggregator(5),)


def test_a_sum_that_does_not_arrive_counts_as_a_holder_gone_while_t_are_left():
    def lost(*parties):
        def lie(delivery):
            return (
                None
                if delivery.sender in parties and delivery.phase == "publish" and delivery.receiver == SERVER
                else (delivery.payload)
            )

        return Interference(by_sender=lie)

    session, outcome = run(MANY, interference=lost(*map(aggregator, range(4))))
    np.testing.assert_array_equal(outcome.total, TOTAL)
    assert session.accused == tuple(map(aggregator, range(4)))
    outcome = run(MANY, interference=lost(*map(aggregator, range(5))))[1]
    assert "the message of aggregator 0 to server in phase 'publish' never came" in outcome.reason


def test_fewer_than_t_holders_can_explain_every_contribution():
    """For any guess there is exactly one share of a third holder that fits it, so two exclude none."""
    protocol = ShamirSharing(bits=20, aggregators=3, threshold=3, compressed=False)
    session, _ = run(protocol)
    held = [session.shares(aggregator(i))[0] for i in range(2)]
    from fedpriv_defenses.secure_sum import shamir

    field = session.scheme.field
    for guess in (np.zeros(3, np.uint64), np.full(3, 77, np.uint64)):
        third = field.matmul(shamir.lagrange(field, [0, 1, 2], [3]), np.stack([guess, *held]))[0]
        found, _ = session.scheme.combined({0: held[0], 1: held[1], 2: third}, 1)
        np.testing.assert_array_equal(found, guess)


def test_the_field_is_the_smallest_that_tells_every_sum():
    assert field_for(20, 2047, "x").exponent == 31
    assert field_for(20, 2048, "x").exponent == 61  # 2048 * 2^20 is 2^31
    assert field_for(32, 1, "x").exponent == 61
    with pytest.raises(StackError, match=r"x: a sum over 10 clients of integers of bits=64 may reach 10 \* 2\^63.*57"):
        field_for(64, 10, "x")
    assert field_for(57, 10, "x").exponent == 61


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 40), st.integers(1, 9), st.sampled_from([-1, 1]))
def test_sums_at_the_edge_are_right(bits, clients, sign):
    most = 2 ** (bits - 1)
    ring = np.array([[(sign * most) % 2**bits, most - 1]] * clients, np.uint64)
    outcome = run(ShamirSharing(bits=bits, aggregators=3, threshold=2), ring)[1]
    assert [int(t) for t in outcome.total] == [(clients * sign * most) % 2**bits, clients * (most - 1) % 2**bits]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 7), st.integers(0, 4), st.booleans(), st.data())
def test_any_t_shares_give_the_contribution(threshold, spare, compressed, data):
    k = threshold + spare
    points = sorted(data.draw(st.permutations(range(1, 30)))[:k])
    values = np.array([data.draw(st.integers(0, 2**24 - 1)) for _ in range(3)], np.uint64)
    scheme = FieldShares(field_for(24, 1, "x"), 24, 3, points, threshold, compressed)
    messages = scheme.split(values)
    assert [len(m) for m in messages] == [32 if compressed else 12] * (threshold - 1) + [12] * (spare + 1)
    shares = [scheme.share(i, m) for i, m in enumerate(messages)]
    chosen = data.draw(st.permutations(range(k)))[:threshold]
    np.testing.assert_array_equal(scheme.combined({i: shares[i] for i in chosen}, 1)[0], values)


def test_numbers_that_are_no_elements_are_refused():
    scheme = FieldShares(field_for(20, 1, "x"), 20, 2, [1, 2], 2, False)
    with pytest.raises(MessageError, match=r"no element of the field of 2\^31 - 1"):
        scheme.unpack((2**31 - 1).to_bytes(4, "little") * 2)
    with pytest.raises(MessageError, match="no element"):
        scheme.plus(1, None, b"\xff" * 8)


def test_place_on_the_line():
    protocol = ShamirSharing(bits=24)
    assert (protocol.takes, protocol.maps(Ring(24), plan_of(3))) == (Ring(24), Ring(24))
    assert protocol.parties() == (SERVER, *map(aggregator, range(3)))
    assert protocol.stations == [Station.MESSAGE]
    assert protocol.claims(plan_of(3), Real()) == []
    assert protocol.replay() is None
    for bad in ({"threshold": 1}, {"threshold": 4}, {"aggregators": 65}, {"among": "nobody"}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(bad))):
            ShamirSharing(**bad)
    assert ShamirSharing(among="clients", threshold=9).threshold == 9  # cohorts decide
