"""The contract of protocols, on one of three phases: masks that cancel between each pair of clients.

It is the core of Bonawitz et al. (2017): clients advertise keys, send their contributions under masks that each pair
agreed on, and those who are left take out the masks towards those who have gone. Without secret shares of the keys a
client that goes after that has begun ends the round, and without second masks a server that lies about who is gone
learns a contribution.
"""

from typing import ClassVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import OverflowDetected, ParameterError, ProtocolError
from fedpriv.defense.attrition import Attrition, BernoulliAttrition, FixedAttrition, NoAttrition, PartiesAttrition
from fedpriv.defense.domain import Real
from fedpriv.defense.parties import SERVER, aggregator, client
from fedpriv.defense.protocol import Aborted, Protocol, Revealed, Session, Sighting
from fedpriv.defense.stations import Plan, Station
from fedpriv.defense.wire import Interference


def plan_of(cohort, d=3):
    return Plan.everybody(cohort, d)


class PairwiseMasks(Protocol):
    """Masks that cancel between each pair of clients; a toy."""

    name: ClassVar[str] = "pairwise_masks"
    phases: ClassVar[tuple[str, ...]] = ("advertise", "masked", "unmask")
    input_phase: ClassVar[str] = "masked"

    threshold: int = 2

    def session(self, opening):
        return MaskSession(self, opening)


class MaskSession(Session):
    def __init__(self, protocol, opening):
        super().__init__(opening)
        self.threshold = protocol.threshold
        self.keys, self.revealed = {}, None
        self.masked = np.zeros(opening.length, np.uint64)

    def mask(self, secret):
        stream = Cipher(algorithms.ChaCha20(secret, bytes(16)), None).encryptor()
        return np.frombuffer(stream.update(bytes(8 * self.opening.length)), "<u8")

    def agreed(self, one, other):
        return self.keys[one].exchange(X25519PublicKey.from_public_bytes(self.public(other)))

    def public(self, number):
        return self.keys[number].public_key().public_bytes_raw()

    def exchange(self, phase):
        self.advertise() if phase.name == "advertise" else self.unmask()

    def advertise(self):
        clients = self.there("client")
        if len(clients) < self.threshold:
            self.abort(f"{len(clients)} clients are there, below threshold={self.threshold}")
        for c in clients:
            self.keys[c.index] = X25519PrivateKey.generate()
            self.wire.send(c, SERVER, self.public(c.index), private=False)
        book = b"".join(map(self.public, self.keys))
        for c in clients:
            self.wire.send(SERVER, c, book, private=False)

    def take(self, number, encoded):
        message = encoded.copy()
        for other in self.keys:
            if other > number:
                message += self.mask(self.agreed(number, other))
            elif other < number:
                message -= self.mask(self.agreed(number, other))
        self.wire.send(client(number), SERVER, message, bits=64, private=False)
        self.masked += message

    def unmask(self):
        if len(self.submitted) < self.threshold:
            self.abort(f"{len(self.submitted)} clients have sent, below threshold={self.threshold}")
        gone = [c for c in self.keys if c not in self.submitted]
        left = [c.index for c in self.there("client")]
        if gone and len(left) < len(self.submitted):
            self.abort("a client is gone that alone could take out a mask")
        for number in left:
            for other in gone:
                secret = self.agreed(number, other)
                self.wire.send(client(number), SERVER, secret)
                self.masked += self.mask(secret) if other < number else -self.mask(secret)
        self.revealed = self.masked

    def total(self):
        return self.revealed.copy(), self.submitted

    def seen_by(self, coalition, *, wire=False):
        self.wire.require(coalition)
        heard = self.wire.overheard() if wire else self.wire.received(SERVER) if SERVER in coalition else ()
        payloads = tuple(d for d in heard if d.phase == "masked")
        if SERVER in coalition and self.revealed is not None:
            return (Sighting(kind="sum", clients=self.submitted, value=self.revealed.copy(), payloads=payloads),)
        clients = tuple(sorted(d.sender.index for d in payloads))
        return (Sighting(kind="payloads", clients=clients, payloads=payloads),) if payloads else ()


VECTORS = np.arange(20, dtype=np.uint64).reshape(5, 4) + np.uint64(2**64 - 10)


def run(attrition=None, protocol=None, vectors=VECTORS, turned_up=None, round_number=0, seed=0, **options):
    n = len(vectors)
    session = (protocol or PairwiseMasks()).open(
        plan_of(n), range(n), round=round_number, seed=seed, attrition=attrition, **options
    )
    there = session.begin(turned_up)
    sent = [c for c in range(n) if session.submit(c, vectors[c])]
    return session, there, sent, session.finish()


def test_the_masks_cancel_when_everybody_stays():
    session, there, sent, outcome = run(watched=[SERVER])
    assert there == (0, 1, 2, 3, 4)
    assert sent == [0, 1, 2, 3, 4]
    assert isinstance(outcome, Revealed)
    np.testing.assert_array_equal(outcome.total, VECTORS.sum(0, dtype=np.uint64))
    assert (outcome.clients, outcome.count) == ((0, 1, 2, 3, 4), 5)
    assert session.wire.traffic() == {
        ("advertise", "client", "server"): 5 * 32,
        ("advertise", "server", "client"): 5 * 5 * 32,
        ("masked", "client", "server"): 5 * 4 * 8,
    }
    (seen,) = session.seen_by([SERVER])
    assert (seen.kind, seen.clients) == ("sum", (0, 1, 2, 3, 4))
    assert len(seen.payloads) == 5
    for delivery, vector in zip(seen.payloads, VECTORS, strict=True):
        assert not (delivery.payload == vector).any()  # each element is under a mask of 64 bits


def test_who_goes_in_the_middle_is_taken_out_of_the_sum():
    session, there, sent, outcome = run(FixedAttrition(count=2))
    assert len(there) == 3
    assert sent == list(there) == list(outcome.clients)
    np.testing.assert_array_equal(outcome.total, VECTORS[sent].sum(0, dtype=np.uint64))
    assert session.wire.bytes(phase="unmask") == 3 * 2 * 32
    assert session.wire.bytes(phase="advertise", sender="client") == 5 * 32  # they had advertised before


def test_who_has_trained_in_vain_is_as_one_who_has_gone():
    session = PairwiseMasks().open(plan_of(5), range(5), round=0, seed=0)
    assert len(session.begin()) == 5
    for c in (0, 3, 4):
        assert session.submit(c, VECTORS[c])
    outcome = session.finish()
    assert outcome.clients == (0, 3, 4)
    np.testing.assert_array_equal(outcome.total, VECTORS[[0, 3, 4]].sum(0, dtype=np.uint64))
    assert session.finish() is outcome
    with pytest.raises(ProtocolError, match="client 1 contributes, but the input phase is over"):
        session.submit(1, VECTORS[1])


def test_going_last_matters_only_if_a_mask_is_left():
    last = PartiesAttrition(gone=["client 4"], phase="unmask")
    outcome = run(last)[3]
    assert outcome.clients == (0, 1, 2, 3, 4)

    class Both(Attrition):
        def alive(self, phase, parties, round, seed):
            gone = {"masked": [client(1)], "unmask": [client(4)]}.get(phase.name, [])
            return [p for p in parties if p not in gone]

    session, _, sent, outcome = run(Both(), watched=[SERVER], wire=True)
    assert outcome == Aborted(reason="a client is gone that alone could take out a mask", phase="unmask")
    assert sent == [0, 2, 3, 4]
    for seen in (session.seen_by([SERVER]), session.seen_by([], wire=True)):
        assert [(s.kind, s.clients, s.value) for s in seen] == [("payloads", (0, 2, 3, 4), None)]
    assert session.wire.bytes(phase="unmask") == 0


def test_a_round_may_end_before_anybody_has_trained():
    session, there, sent, outcome = run(PartiesAttrition(gone=[f"client {i}" for i in range(4)], phase="advertise"))
    assert (there, sent) == ((), [])
    assert outcome == Aborted(reason="1 clients are there, below threshold=2", phase="advertise")
    assert session.wire.bytes() == 0
    assert session.outcome is outcome


def test_clients_that_do_not_turn_up_take_no_part():
    session, there, sent, outcome = run(turned_up=[1, 2, 4])
    assert there == (1, 2, 4)
    assert sent == [1, 2, 4]
    np.testing.assert_array_equal(outcome.total, VECTORS[[1, 2, 4]].sum(0, dtype=np.uint64))
    assert session.wire.bytes(phase="advertise", sender="client") == 3 * 32
    with pytest.raises(ProtocolError, match="client 9 is not in this round"):
        run(turned_up=[1, 9])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**80), st.floats(0, 0.6), st.integers(1, 7), st.integers(0, 3))
def test_the_sum_is_that_of_whoever_sent_or_there_is_none(seed, rate, n, round_number):
    vectors = np.random.default_rng(n).integers(0, 2**64, (n, 4), np.uint64)
    rule = BernoulliAttrition(rate=rate, phases=["advertise", "masked"])
    again = [run(rule, vectors=vectors, seed=seed, round_number=round_number, watched=[SERVER]) for _ in range(2)]
    (session, there, sent, outcome), (_, _, sent_again, second) = again
    assert sent == sent_again
    assert type(outcome) is type(second)
    assert set(sent) == set(there)
    if len(sent) < 2:
        assert isinstance(outcome, Aborted)
        assert all(s.value is None for s in session.seen_by([SERVER]))
    else:
        assert outcome.clients == tuple(sent)
        np.testing.assert_array_equal(outcome.total, vectors[sent].sum(0, dtype=np.uint64))
        np.testing.assert_array_equal(outcome.total, second.total)


def test_open_checks_what_it_is_opened_for():
    def opened(clients=range(3), cohort=3, **options):
        return PairwiseMasks().open(plan_of(cohort), clients, round=0, seed=0, **options)

    assert opened().phases == ("advertise", "masked", "unmask")
    assert opened(tallies=5).opening.length == 3 + 1 + 5
    message = "pairwise_masks is opened for 4 clients, but only a sum over 3, .* sample fewer clients"
    with pytest.raises(OverflowDetected, match=message):
        opened(range(4))
    with pytest.raises(ProtocolError, match="client 1 is named twice"):
        opened([0, 1, 1])
    with pytest.raises(ParameterError, match=r"no phase 'maskd'\. Did you mean 'masked'"):
        opened(attrition=FixedAttrition(count=1, phase="maskd"))
    with pytest.raises(ParameterError, match="there is no aggregator 0"):
        opened(attrition=PartiesAttrition(gone=["aggregator 0"]))
    with pytest.raises(ParameterError, match="there is no aggregator 0"):
        opened(watched=[aggregator(0)])
    with pytest.raises(ParameterError, match="there is no client 3"):
        opened(watched=[client(3)])


@pytest.mark.parametrize(
    ("number", "vector", "message"),
    [
        (7, np.ones(4, np.uint64), "client 7 is not in this round; open the session with it"),
        (0, np.ones(5, np.uint64), r"uint64\[5\] instead of uint64\[4\]"),
        (0, np.ones(4, np.int64), r"int64\[4\] instead of uint64\[4\]"),
        (1, np.ones(4, np.uint64), "client 1 contributes a second time"),
    ],
)
def test_mistakes_are_errors_and_no_outcomes(number, vector, message):
    session = PairwiseMasks().open(plan_of(2), range(2), round=0, seed=0)
    session.begin()
    session.submit(1, np.ones(4, np.uint64))
    with pytest.raises(ProtocolError, match=message):
        session.submit(number, vector)
    assert session.outcome is None


def test_a_round_has_an_order():
    session = PairwiseMasks().open(plan_of(2), range(2), round=0, seed=0)
    with pytest.raises(ProtocolError, match="input phase has not begun; call begin first"):
        session.submit(0, np.ones(4, np.uint64))
    with pytest.raises(ProtocolError, match="has not begun"):
        session.finish()
    session.begin()
    with pytest.raises(ProtocolError, match="has begun already"):
        session.begin()


def test_nobody_comes_back():
    class Flapping(Attrition):
        name: ClassVar[str] = "flapping"

        def alive(self, phase, parties, round, seed):
            return [p for p in parties if p != client(0)] if phase.name == "masked" else [client(0), *parties]

    with pytest.raises(ParameterError, match="'flapping' says that client 0 is there in phase 'unmask'"):
        run(Flapping())


def test_a_class_whose_phases_cannot_run_is_refused_when_it_is_made():
    for phases, chosen, message in (
        (("a", "b"), "c", "input_phase='c' is none of its phases"),
        (("a", "a"), "a", "names must differ"),
        (("input", "b"), "b", "none may be 'input'"),
    ):
        with pytest.raises(ProtocolError, match=message):
            type("Bad", (PairwiseMasks,), {"phases": phases, "input_phase": chosen, "__module__": __name__})
    with pytest.raises(TypeError, match="abstract"):
        Protocol()


def test_what_is_not_watched_is_not_made_up():
    session = run(NoAttrition())[0]
    with pytest.raises(ProtocolError, match="server was not watched"):
        session.seen_by([SERVER])
    with pytest.raises(ProtocolError, match="not tapped"):
        session.seen_by([], wire=True)
    with pytest.raises(ParameterError, match="no client 8"):
        session.seen_by([client(8)])


def test_place_on_the_line():
    protocol = PairwiseMasks()
    assert protocol.stations == [Station.MESSAGE]
    assert protocol.parties() == (SERVER,)
    assert protocol.replay() is None
    assert protocol.claims(plan_of(2), Real()) == []


def test_a_message_that_was_changed_ends_the_round_with_nothing_revealed():
    def flip(delivery):
        return delivery.payload[:-1] + bytes([delivery.payload[-1] ^ 1]) if delivery.sender == client(1) else None

    def garbled(delivery):
        return flip(delivery) or delivery.payload

    session = PairwiseMasks().open(
        plan_of(3), range(3), round=0, seed=0, interference=Interference(in_transit=garbled), watched=None
    )
    assert session.begin() == ()
    outcome = session.finish()
    assert isinstance(outcome, Aborted)
    assert outcome.phase == "advertise"
    assert "client 1 to server" in outcome.reason
    assert session.seen_by([SERVER]) == ()


def test_the_time_of_each_phase_is_kept():
    session = PairwiseMasks().open(plan_of(3), range(3), round=0, seed=0)
    assert list(session.seconds) == ["advertise", "masked", "unmask"]
    session.begin()
    assert session.seconds["advertise"] > 0 == session.seconds["unmask"]
    for c in range(3):
        session.submit(c, np.arange(4, dtype=np.uint64))
    session.finish()
    assert min(session.seconds.values()) > 0


def test_a_protocol_deals_no_masks_unless_it_says_so():
    session = PairwiseMasks().open(plan_of(2), range(2), round=0, seed=0)
    session.begin()
    assert session.deal(0) is None
    assert session.submit(0, VECTORS[0])
    with pytest.raises(ProtocolError, match="Deals overrides 'masks', but not 'take_masked'"):

        class Deals(MaskSession):
            def masks(self, number):
                return None
