"""What holds for every scheme: exact sums, who sees what, and that no message makes a wrong sum."""

import hashlib

import numpy as np
import pytest
from fedpriv_defenses.encryption.ckks_scheme import CkksScheme
from fedpriv_defenses.encryption.ckks_sum import CkksSum
from fedpriv_defenses.encryption.paillier_scheme import PaillierScheme
from fedpriv_defenses.encryption.paillier_sum import PaillierSum
from fedpriv_defenses.encryption.scheme import Block, Room
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError, ProtocolError, StackError
from fedpriv.defense.attrition import FixedAttrition, PartiesAttrition
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.parties import SERVER, client
from fedpriv.defense.protocol import Aborted, Revealed
from fedpriv.defense.stations import Station
from fedpriv.defense.wire import Interference
from tests.defenses.encrypted import KEY_HOLDER, limit, plan_of, random_vectors, ring, run

CKKS, PAILLIER = CkksSum(), PaillierSum()
BOTH = pytest.mark.parametrize("protocol", [CKKS, PAILLIER], ids=["ckks", "paillier"])


@pytest.fixture(scope="module")
def signed():
    return random_vectors(CKKS, 3, 5)


@pytest.fixture
def one_key(monkeypatch):
    """Keys made once, since many rounds are run that are about other things."""
    for scheme in (CkksScheme, PaillierScheme):
        made, generate = {}, scheme.generate

        def again(self, made=made, generate=generate):
            settings = getattr(self, "parameters", None) or self._fields.room
            if settings not in made:
                made[settings] = generate(self)
            return made[settings]

        monkeypatch.setattr(scheme, "generate", again)


@BOTH
def test_the_sum_is_the_sum_and_bytes_are_those_of_the_messages(protocol):
    signed = random_vectors(protocol, 3, 200)
    session, outcome = run(protocol, signed, watched=None)
    assert isinstance(outcome, Revealed)
    assert outcome.clients == (0, 1, 2)
    np.testing.assert_array_equal(outcome.total, ring(protocol, signed.sum(0)))
    sizes = {}
    for party in (SERVER, KEY_HOLDER, *map(client, range(3))):
        for d in session.wire.received(party):
            at = (d.phase, d.sender.role, party.role)
            sizes[at] = sizes.get(at, 0) + len(d.payload)
    assert session.wire.traffic() == sizes
    assert sizes["encrypt", "client", "key_holder"] == 3 * 32


@BOTH
def test_who_sees_what(protocol, signed):
    session, outcome = run(protocol, signed, watched=None, wire=True)
    for alone in ([SERVER], [KEY_HOLDER]):
        (seen,) = session.seen_by(alone)
        assert (seen.kind, seen.clients, seen.visible) == ("sum", (0, 1, 2), None)
        np.testing.assert_array_equal(seen.value, outcome.total)
    together = session.seen_by([SERVER, KEY_HOLDER])
    assert [(s.kind, s.clients, s.visible) for s in together] == [("client", (c,), None) for c in range(3)]
    np.testing.assert_array_equal([s.value for s in together], ring(protocol, signed))
    for some in ([SERVER, client(1)], [KEY_HOLDER, client(1)]):
        whole, rest = session.seen_by(some)
        np.testing.assert_array_equal(whole.value, outcome.total)
        assert rest.clients == (0, 2)
        np.testing.assert_array_equal(rest.value, ring(protocol, signed[[0, 2]].sum(0)))
    (heard,) = session.seen_by([], wire=True)
    assert (heard.kind, heard.clients, heard.value) == ("payloads", (0, 1, 2), None)
    assert all(d.payload is None for d in heard.payloads)
    assert session.seen_by([client(0), client(2)]) == ()
    with pytest.raises(ParameterError, match="there is no key_holder 1"):
        session.seen_by([type(KEY_HOLDER)("key_holder", 1)])


@BOTH
def test_the_server_cannot_decrypt_and_no_message_holds_the_secret_key(protocol, signed):
    session, _ = run(protocol, signed, watched=None)
    secret = session.key_holder._secret
    if protocol is CKKS:
        import tenseal

        assert not session.public.context.has_secret_key()
        assert secret._context.has_secret_key()
        message = next(d.payload for d in session.wire.received(SERVER) if d.phase == "encrypt")
        _, (ciphertext,) = session._layout.read(message, "client 0", session.key_holder.fingerprint)
        with pytest.raises(ValueError, match="doesn't hold a secret_key"):
            session.public.read(ciphertext).decrypt()
        for party in (SERVER, client(0)):
            key = next(d.payload for d in session.wire.received(party) if len(d.payload) > 10_000)
            assert not tenseal.context_from(key[8:]).has_secret_key()
    else:
        assert not hasattr(session.public._key, "p")
        primes = [int(p).to_bytes(128, "little") for p in (secret._key.p, secret._key.q)]
        assert secret._key.p * secret._key.q == session.public._key.n
        for party in (SERVER, KEY_HOLDER, *map(client, range(3))):
            for d in session.wire.received(party):
                assert not any(p in d.payload for p in primes)


@BOTH
def test_keys_and_ciphertexts_are_new_each_time(protocol, signed):
    first, _ = run(protocol, signed[:1], watched=[SERVER])
    second, _ = run(protocol, signed[:1], watched=[SERVER])
    assert first.key_holder.fingerprint != second.key_holder.fingerprint
    key = first.public
    made = {key.encrypt(_block(signed[0])) for _ in range(3)}
    assert len(made) == 3


def _block(values):
    return Block(values, 5, 7)


@BOTH
def test_drop_outs(protocol, signed, one_key):
    _, outcome = run(protocol, signed, attrition=PartiesAttrition(gone=["client 1"]))
    assert outcome.clients == (0, 2)
    np.testing.assert_array_equal(outcome.total, ring(protocol, signed[[0, 2]].sum(0)))
    _, outcome = run(protocol, signed, attrition=PartiesAttrition(gone=["client 1"], phase="decrypt"))
    assert outcome.clients == (0, 1, 2)
    _, outcome = run(protocol, signed, sends=[0])
    np.testing.assert_array_equal(outcome.total, ring(protocol, signed[0]))
    for phase in ("keys", "encrypt", "decrypt"):
        gone = PartiesAttrition(gone=["key_holder 0"], phase=phase)
        session, outcome = run(protocol, signed, attrition=gone, watched=None)
        assert isinstance(outcome, Aborted)
        assert outcome.phase == phase
        assert outcome.reason.startswith("the key holder is gone, and nobody else can take its place")
        assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"] * (phase == "decrypt")
        assert session.wire.bytes(phase="decrypt") == 0
    _, outcome = run(protocol, signed, attrition=PartiesAttrition(gone=["server"], phase="decrypt"))
    assert outcome.reason.startswith("the server is gone")


@BOTH
def test_a_sum_over_too_few_stays_closed(protocol, signed, one_key):
    strict = protocol.model_copy(update={"min_clients": 2})
    session, outcome = run(strict, signed, attrition=FixedAttrition(count=2), watched=None)
    assert isinstance(outcome, Aborted)
    assert outcome.reason.startswith("1 of 3 clients finished, below min_clients=2; the sum stays closed")
    assert session.wire.bytes(phase="decrypt") == 0
    assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"]
    assert session.seen_by([KEY_HOLDER]) == ()
    # Nothing undoes that the two who pool ciphertext and key hold what was encrypted.
    (seen,) = session.seen_by([SERVER, KEY_HOLDER])
    np.testing.assert_array_equal(seen.value, ring(protocol, signed[seen.clients[0]]))
    assert run(protocol, signed, attrition=FixedAttrition(count=3))[1].reason.startswith("0 of 3 clients")
    with pytest.raises(StackError, match=f"{protocol.name} wants min_clients=9"):
        protocol.model_copy(update={"min_clients": 9}).check(plan_of(3))


@BOTH
def test_contributions_keep_the_room_for_the_cohort(protocol, one_key):
    top = limit(protocol, 2)
    ends = np.array([[top, -top, 0], [top, -top, 1]])
    np.testing.assert_array_equal(run(protocol, ends)[1].total, ring(protocol, ends.sum(0)))
    session = protocol.open(plan_of(2), range(2), round=0, seed=0)
    session.begin()
    with pytest.raises(ProtocolError, match=f"client 0 contributes {top + 1}, beyond {top}.*encode with room"):
        session.submit(0, ring(protocol, [0, -top - 1, 0]))
    with pytest.raises(ProtocolError, match=r"is no integer mod 2\^32"):
        session.submit(0, np.array([2**32, 0, 0], np.uint64))


# What goes wrong with messages.


def meddled(protocol, signed, change, how="by_sender", **options):
    session, outcome = run(protocol, signed, interference=Interference(**{how: change}), watched=None, **options)
    return session, outcome


def replaced(matches, make):
    """Changes the messages that match."""
    return lambda d: make(d.payload) if matches(d) else d.payload


def from_client(number, to=SERVER):
    return lambda d: d.phase == "encrypt" and d.sender == client(number) and d.receiver == to


@BOTH
def test_a_ciphertext_under_another_key_is_named(protocol, signed):
    other = _scheme(protocol, 3).generate().public
    mine = other.encrypt(_block(signed[1]))
    print_of_other = hashlib.sha256((0).to_bytes(8, "little") + other.message).digest()

    def under_other(message):
        return print_of_other + len(mine).to_bytes(4, "little") + mine

    session, outcome = meddled(protocol, signed, replaced(from_client(1), under_other))
    assert outcome.reason.startswith("the message of client 1 is encrypted under another key than the round's")
    assert session.seen_by([KEY_HOLDER]) == ()

    # One who claims the round's key: the sum shows it.
    def claimed(message):
        return message[:32] + len(mine).to_bytes(4, "little") + mine

    session, outcome = meddled(protocol, signed, replaced(from_client(1), claimed))
    assert isinstance(outcome, Aborted)
    # A Paillier ciphertext of the other key may also be larger than this key's modulus.
    assert "under another key" in outcome.reason or "under the round's key" in outcome.reason
    assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"]


def _scheme(protocol, clients):
    return protocol.scheme(Room(protocol.bits, clients))


@BOTH
def test_a_key_of_the_servers_own_or_of_another_round_is_named(protocol, signed, one_key):
    own = (0).to_bytes(8, "little") + _scheme(protocol, 3).generate().public.message[::-1]
    to_clients = lambda d: d.phase == "keys" and d.sender == SERVER and len(d.payload) > 100  # noqa: E731
    _, outcome = meddled(protocol, signed, replaced(to_clients, lambda m: own))
    assert outcome.phase == "keys"
    assert "is not the key holder's: their fingerprints differ" in outcome.reason
    # A key of round 6 used again in round 7.
    old = lambda d: d.phase == "keys" and d.sender == KEY_HOLDER and d.receiver == SERVER  # noqa: E731
    again = replaced(old, lambda m: (6).to_bytes(8, "little") + m[8:])
    _, outcome = meddled(protocol, signed, again, round=7)
    assert "is of round 6, and this is round 7; a key is used in one round" in outcome.reason


@BOTH
def test_a_key_decrypts_one_sum(protocol, signed, one_key):
    session, _ = run(protocol, signed, watched=[KEY_HOLDER])
    (asked,) = (d for d in session.wire.received(KEY_HOLDER) if d.phase == "decrypt")
    clients, ciphertexts = session._asked(asked.payload)
    with pytest.raises(ProtocolError, match="is asked for a second sum; a key decrypts one"):
        session.key_holder.decrypt_sum(ciphertexts, session._layout.elements, clients, 1)


@BOTH
def test_a_sum_over_others_than_the_server_says_stays_closed(protocol, signed, one_key):
    # The server leaves a client out, takes one twice, or asks for one alone, and says otherwise.
    received = {}

    def instead(choose):
        def change(d):
            if d.phase == "encrypt" and d.receiver == SERVER:
                received[d.sender.index] = d.payload[32:]
            if d.phase == "decrypt" and d.sender == SERVER:
                return d.payload[: 1 + 32] + choose(received)
            return d.payload

        return change

    public = _scheme(protocol, 3).generate().public  # the round's, which is made once
    for wanted in ([0], [0, 1], [0, 0, 1]):

        def chosen(received, wanted=wanted):
            first, *others = (public.read(received[c][4:]) for c in wanted)
            for other in others:
                first = public.add(first, other)
            body = public.write(first)
            return len(body).to_bytes(4, "little") + body

        session = protocol.open(
            plan_of(3, 5),
            range(3),
            round=0,
            seed=0,
            interference=Interference(by_sender=instead(chosen)),
            watched=None,
        )
        session.begin()
        for c in range(3):
            session.submit(c, ring(protocol, signed[c]))
        outcome = session.finish()
        assert isinstance(outcome, Aborted)
        assert outcome.reason.startswith("the encrypted sum ")
        assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"]


@BOTH
def test_a_key_holder_that_tells_another_sum_is_found_out(protocol, signed, one_key):
    answer = lambda d: d.phase == "decrypt" and d.sender == KEY_HOLDER  # noqa: E731

    def another(message):
        told = np.frombuffer(message[-20:], "<u4").copy()
        told[2] += 1
        return message[:-20] + told.tobytes()

    session, outcome = meddled(protocol, signed, replaced(answer, another))
    assert outcome.reason.startswith("the sum that the key holder tells does not pass the server's check")

    def doubled(message):  # the check is affine: a multiple of sum and check does not pass
        check = int.from_bytes(message[32:48], "little")
        told = np.frombuffer(message[-20:], "<u4") * np.uint32(2)
        return message[:32] + (2 * check).to_bytes(16, "little") + told.tobytes()

    small = signed // 4
    _, outcome = meddled(protocol, small, replaced(answer, doubled))
    assert outcome.reason.startswith("the sum that the key holder tells does not pass the server's check")
    assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"]


def tampered_roll(change):
    """The server names other clients to the key holder than are in the sum."""
    asked = lambda d: d.phase == "decrypt" and d.receiver == KEY_HOLDER  # noqa: E731
    return replaced(asked, lambda m: bytes([m[0] ^ change]) + m[1:])


@BOTH
def test_a_roll_that_is_false_ends_the_round_and_hides_nothing_from_who_has_key_and_ciphertexts(
    protocol, signed, one_key
):
    cases = ((0x80, None, (0, 1, 2)), (0x20, [0, 1], (0, 1)))  # client 0 is left out; client 2, who sent none, is named
    for change, sends, there in cases:
        session, outcome = meddled(protocol, signed, tampered_roll(change), sends=sends)
        assert "known to the server or to the key holder, but not to both" in outcome.reason
        assert [s.kind for s in session.seen_by([SERVER])] == ["payloads"]
        (seen,) = session.seen_by([KEY_HOLDER])
        assert (seen.kind, seen.clients) == ("sum", there)
        np.testing.assert_array_equal(seen.value, ring(protocol, signed[list(there)].sum(0)))
        together = session.seen_by([SERVER, KEY_HOLDER])
        assert [(s.kind, s.clients) for s in together] == [("client", (c,)) for c in there]
        np.testing.assert_array_equal([s.value for s in together], ring(protocol, signed[list(there)]))
        whole, *rest = session.seen_by([KEY_HOLDER, client(2)])
        assert whole.clients == there
        assert [s.clients for s in rest] == ([(0, 1)] if 2 in there else [])


@BOTH
def test_a_seed_that_does_not_fit_ends_the_round_and_hides_nothing_from_the_key_holder(protocol, signed, one_key):
    false = replaced(from_client(1, to=KEY_HOLDER), lambda m: bytes(len(m)))
    session, outcome = meddled(protocol, signed, false)
    assert "does not carry the tags of its clients" in outcome.reason
    (seen,) = session.seen_by([KEY_HOLDER])
    assert (seen.kind, seen.clients) == ("sum", (0, 1, 2))
    np.testing.assert_array_equal(seen.value, ring(protocol, signed.sum(0)))
    together = session.seen_by([SERVER, KEY_HOLDER])
    np.testing.assert_array_equal([s.value for s in together], ring(protocol, signed))


@BOTH
def test_a_key_holder_sees_whose_sum_it_was_sent_in_place_of_the_one_named(protocol, signed, one_key):
    received = {}
    public = _scheme(protocol, 3).generate().public  # the round's, which is made once
    for wanted in ((1,), (0, 2)):

        def change(d, wanted=wanted):
            if d.phase == "encrypt" and d.receiver == SERVER:
                received[d.sender.index] = d.payload[32:]
            if d.phase != "decrypt" or d.sender != SERVER:
                return d.payload
            first, *others = (public.read(received[c][4:]) for c in wanted)
            for other in others:
                first = public.add(first, other)
            body = public.write(first)
            return d.payload[: 1 + 32] + len(body).to_bytes(4, "little") + body

        session, outcome = meddled(protocol, signed, change)
        assert isinstance(outcome, Aborted)
        (seen,) = session.seen_by([KEY_HOLDER])
        assert (seen.kind, seen.clients) == ("sum", wanted)
        np.testing.assert_array_equal(seen.value, ring(protocol, signed[list(wanted)].sum(0)))


@BOTH
def test_a_message_that_claims_another_key_is_opened_all_the_same_by_who_has_its_key(protocol, signed, one_key):
    claims = lambda m: bytes(32) + m[32:]  # noqa: E731
    session, outcome = meddled(protocol, signed, replaced(from_client(1), claims))
    assert "is encrypted under another key" in outcome.reason
    seen = session.seen_by([SERVER, KEY_HOLDER])
    assert [s.clients for s in seen] == [(0,), (1,)]
    np.testing.assert_array_equal([s.value for s in seen], ring(protocol, signed[:2]))


@BOTH
def test_too_few_bits_for_the_cohort_are_refused_when_the_federation_is_made(protocol):
    few = protocol.model_copy(update={"bits": 8})
    few.check(plan_of(127))
    with pytest.raises(ParameterError, match="word: bits=8 cannot hold a sum over 130 clients; use bits >= 9, or"):
        few.check_as(plan_of(130), "word")
    protocol.model_copy(update={"bits": 9}).check(plan_of(130))
    with pytest.raises(ParameterError, match=f"{protocol.name}: bits=8 cannot hold a sum over 130 clients"):
        few.open(plan_of(130), range(130), round=0, seed=0)


def _damage(data, payload, earlier):
    kind = data.draw(st.sampled_from(["flip", "cut", "longer", "random", "gone", "earlier"]))
    if kind == "gone":
        return None
    if kind == "cut":
        return payload[: data.draw(st.integers(0, 10**6)) % len(payload)]
    if kind == "longer":
        return payload + data.draw(st.binary(min_size=1, max_size=5))
    if kind == "random":
        return data.draw(st.binary(max_size=80))
    if kind == "earlier" and earlier:
        return data.draw(st.sampled_from(earlier))
    where = data.draw(st.integers(0, 10**7)) % (8 * len(payload))  # lengths differ from run to run
    changed = bytearray(payload)
    changed[where // 8] ^= 1 << where % 8
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by_sender", "in_transit"])
@BOTH
def test_whatever_becomes_of_a_message_the_sum_is_right_or_closed(protocol, how, signed, one_key):
    # Fewer than a round's 1 + 3 * 3 + 3 * 2 + 2 messages of one client each, of three clients.
    @settings(deadline=None, max_examples=60 if protocol is CKKS else 40)
    @given(st.data())
    def fuzzed(data):
        target, count, earlier = data.draw(st.integers(0, 17)), [0], []

        def change(d):
            number, count[0] = count[0], count[0] + 1
            payload = _damage(data, d.payload, earlier) if number == target else d.payload
            earlier.append(d.payload)
            return payload

        session, outcome = meddled(protocol, signed, change, how)
        if isinstance(outcome, Revealed):
            np.testing.assert_array_equal(outcome.total, ring(protocol, signed[list(outcome.clients)].sum(0)))
            assert outcome.clients == (0, 1, 2)
        else:
            assert len(outcome.reason) > 20
            assert all(s.value is None for s in session.seen_by([SERVER]))
        if how == "in_transit" and isinstance(outcome, Revealed):
            assert count[0] == 18

    fuzzed()


@BOTH
def test_place_on_the_line(protocol):
    assert (protocol.takes, protocol.maps(Ring(32), None)) == (Ring(32), Ring(32))
    assert protocol.parties() == (SERVER, KEY_HOLDER)
    assert protocol.phases == ("keys", "encrypt", "decrypt")
    assert protocol.stations == [Station.MESSAGE]
    assert protocol.replay() is None
    assert protocol.claims(plan_of(10), Real()) == []
