import numpy as np
import pydantic
import pytest
from fedpriv_defenses.secret_sharing import SecretSharing
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError, ProtocolError, StackError
from fedpriv.base.lazy import tf
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.stations import Plan, Station
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling


def setup_of(d, clients, weighting="uniform", max_examples=600):
    spec = Spec(("w",), ((d,),))
    return Plan(spec, clients, clients, float(clients), Sampling.full(), weighting, max_examples)


def run(protocol, plan, contributions, watched=()):
    session = protocol.open(plan, range(len(contributions)), watched)
    encoded = []
    for client, contribution in enumerate(contributions):
        element, ok = protocol.encode(tf.constant(contribution, tf.float32), plan, None)
        assert bool(ok)
        encoded.append(element.numpy().view(np.uint64))
        session.send(client, encoded[-1])
    transcript = session.close()
    decoded = protocol.decode(tf.constant(transcript.total.view(np.int64)), transcript.count, plan).numpy()
    return transcript, encoded, decoded


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_sum_is_the_plain_quantized_sum_to_the_bit(data):
    clients, d = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 6))
    bits, limit = data.draw(st.integers(8, 64)), data.draw(st.sampled_from([0.1, 1.0, 3.0, 1e4]))
    protocol = SecretSharing(
        aggregators=data.draw(st.integers(2, 5)), bits=bits, range=limit, compressed=data.draw(st.booleans())
    )
    plan = setup_of(d, clients)
    top = float(np.float32(limit))
    value = st.one_of(st.floats(-top, top, width=32), st.sampled_from([top, -top, 0.0]))
    vectors = np.array([[data.draw(value) for _ in range(d)] for _ in range(clients)], np.float32)
    contributions = np.concatenate([vectors, np.ones((clients, 1), np.float32)], 1)
    transcript, _, decoded = run(protocol, plan, contributions)
    step = protocol.codec(plan).step
    # Python's own integers never wrap: if the protocol's sum did, it would differ.
    plain = [sum(round(float(v) / step) for v in column) for column in vectors.T]
    assert all(-(2 ** (bits - 1)) <= p < 2 ** (bits - 1) for p in plain)
    assert [int(t) for t in transcript.total[:-1]] == [p % 2**bits for p in plain]
    np.testing.assert_array_equal(decoded[:-1], [float(p) * step for p in plain])
    assert decoded[-1] == clients == transcript.count
    error = np.abs(decoded[:-1] - vectors.astype(np.float64).sum(0))
    assert (error <= clients * step / 2 + 1e-12 * top * clients).all()


@pytest.mark.parametrize("clients", [1, 3, 1000])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_worst_case_of_the_largest_cohort_does_not_wrap(clients, bits):
    protocol, plan = SecretSharing(bits=bits, range=2.0), setup_of(2, clients)
    codec = protocol.codec(plan)
    element = int(protocol.encode(tf.constant([2.0, -2.0, 1.0]), plan, None)[0][0])
    assert element * clients < 2 ** (bits - 1)
    assert element * 2 * clients >= 2 ** (bits - 3)  # and no more than two bits of room go unused
    assert codec.step == 2.0 / element


def test_example_counts_as_weights_decode_exactly():
    plan = setup_of(1, 3, "examples", 600)
    counts = np.array([600, 1, 37])
    contributions = np.stack([np.zeros(3), counts / 600], 1)
    decoded = run(SecretSharing(), plan, contributions)[2]
    assert decoded[-1] * 600 == pytest.approx(counts.sum(), rel=1e-15)
    coarse = run(SecretSharing(bits=8), plan, contributions)[2]  # 600 does not fit 8 bits: weights are rounded
    assert abs(coarse[-1] - counts.sum() / 600) <= 3 / 32 / 2


def test_the_transcript_holds_what_watched_parties_saw_and_no_more():
    protocol, plan = SecretSharing(aggregators=3), setup_of(4, 2)
    contributions = np.array([[1, -2, 3, 0, 1], [0.5, 0.5, -7, 0, 1]], np.float32)
    quiet, _, _ = run(protocol, plan, contributions)
    assert quiet.held == {}
    one, encoded, _ = run(protocol, plan, contributions, watched=(1,))
    assert set(one.held) == {1}
    assert set(one.held[1]) == {0, 1}
    everyone, encoded, _ = run(protocol, plan, contributions, watched=(0, 1, 2))
    for client in (0, 1):
        shares = [everyone.held[party][client] for party in range(3)]
        assert all(s.dtype == np.uint64 and s.shape == (5,) for s in shares)
        np.testing.assert_array_equal(sum(shares) & np.uint64(2**32 - 1), encoded[client])
        for left_out in range(3):
            partial = sum(s for i, s in enumerate(shares) if i != left_out) & np.uint64(2**32 - 1)
            assert not np.array_equal(partial, encoded[client])
    with pytest.raises(ParameterError, match="no aggregator 3"):
        protocol.open(plan, [0], watched=(3,))


@pytest.mark.parametrize(("bits", "width"), [(8, 1), (20, 3), (32, 4), (33, 5), (64, 8)])
def test_bytes_are_those_of_the_messages(bits, width):
    plan, contributions = setup_of(9, 2), np.ones((2, 10), np.float32)
    full = run(SecretSharing(aggregators=3, bits=bits, compressed=False), plan, contributions)[0]
    assert full.bytes_up == 2 * 3 * 10 * width
    short = run(SecretSharing(aggregators=3, bits=bits), plan, contributions)[0]
    assert short.bytes_up == 2 * (2 * 32 + 10 * width)


def test_parameters_that_could_overflow_are_refused_with_what_would_fit():
    plan = setup_of(2, 100)
    with pytest.raises(ParameterError, match=r"bits >= 32, range <= 0\.0003118\d+, or step >= 0\.0625") as caught:
        SecretSharing(bits=16, range=16.0, step=2**-20).check(plan)
    assert "100 clients" in str(caught.value)
    SecretSharing(bits=32, range=16.0, step=2**-20).check(plan)
    with pytest.raises(ParameterError, match="bits=8 cannot hold a sum over 200 clients; use bits >= 9"):
        SecretSharing(bits=8).check(setup_of(2, 200))
    with pytest.raises(ParameterError, match="every value would round away"):
        SecretSharing(range=1.0, step=2.0).check(plan)
    with pytest.raises(ParameterError, match="finer than float64"):
        SecretSharing(bits=64, range=1.0, step=1e-18).check(setup_of(2, 1))
    with pytest.raises(StackError, match="min_clients=3"):
        SecretSharing(min_clients=3).check(setup_of(2, 2))
    for bad in ({"bits": 7}, {"bits": 65}, {"aggregators": 1}, {"range": 0}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(bad))):
            SecretSharing(**bad)


def test_the_advice_given_for_an_overflow_is_right():
    plan = setup_of(2, 100)
    SecretSharing(bits=16, range=16.0, step=16 / 256).check(plan)
    for bits, limit, step in ((32, 16.0, 2**-24), (20, 3.0, 1e-4)):
        with pytest.raises(ParameterError) as caught:
            SecretSharing(bits=bits, range=limit, step=step).check(plan)
        text = str(caught.value)
        wider = int(text.split("bits >= ")[1].split(",")[0])
        SecretSharing(bits=wider, range=limit, step=step).check(plan)
        with pytest.raises(ParameterError):
            SecretSharing(bits=wider - 1, range=limit, step=step).check(plan)
        coarser = float(text.split("step >= ")[1])
        SecretSharing(bits=bits, range=limit, step=coarser * 1.00001).check(plan)


def test_a_value_beyond_the_range_is_reported_not_wrapped():
    protocol, plan = SecretSharing(range=1.0), setup_of(2, 2)
    assert not bool(protocol.encode(tf.constant([0.0, 1.5, 1.0]), plan, None)[1])
    assert not bool(tf.function(lambda x: protocol.encode(x, plan, None)[1])(tf.constant([0.0, np.nan, 1.0])))


def opened(protocol=None, clients=(0, 1)):
    plan = setup_of(2, len(clients))
    return (protocol or SecretSharing(aggregators=3)).open(plan, clients)


def test_a_missing_share_stops_the_round():
    session = opened()
    session.send(0, np.arange(3, dtype=np.uint64))
    messages = session.make_messages(np.arange(3, dtype=np.uint64))
    session.deliver(session.aggregators[0], 1, messages[0])
    session.deliver(session.aggregators[2], 1, messages[2])
    with pytest.raises(ProtocolError, match="aggregator 1 has no share of client 1"):
        session.close()
    session.deliver(session.aggregators[1], 1, messages[1])
    np.testing.assert_array_equal(session.close().total, [0, 2, 4])


def test_all_aggregators_are_needed():
    session = opened()
    session.send(0, np.ones(3, np.uint64))
    del session.aggregators[1]
    with pytest.raises(ProtocolError, match="no sum from aggregator 1, and all 3"):
        session.close()


def test_a_client_may_drop_out_before_it_sends_unless_too_few_are_left():
    session = opened()
    session.send(1, np.ones(3, np.uint64))
    transcript = session.close()
    assert transcript.count == 1
    strict = opened(SecretSharing(min_clients=2))
    strict.send(1, np.ones(3, np.uint64))
    with pytest.raises(ProtocolError, match="1 of 2 clients finished, below min_clients=2"):
        strict.close()
    with pytest.raises(ProtocolError, match="0 of 2 clients"):
        opened().close()


@pytest.mark.parametrize(
    ("client", "vector", "message"),
    [
        (7, np.ones(3, np.uint64), "client 7 is not in this round"),
        (0, np.ones(4, np.uint64), r"uint64\[4\] instead of uint64\[3\]"),
        (0, np.ones(3, np.int64), r"int64\[3\] instead of uint64\[3\]"),
    ],
)
def test_what_does_not_belong_is_refused(client, vector, message):
    with pytest.raises(ProtocolError, match=message):
        opened().send(client, vector)


def test_each_client_sends_once_and_messages_have_their_length():
    session = opened()
    session.send(0, np.ones(3, np.uint64))
    with pytest.raises(ProtocolError, match="second share of client 0"):
        session.send(0, np.ones(3, np.uint64))
    with pytest.raises(ProtocolError, match="31 bytes from client 1 instead of 32"):
        session.deliver(session.aggregators[0], 1, bytes(31))
    with pytest.raises(ProtocolError, match="8 bytes from client 1 instead of 12"):
        session.deliver(session.aggregators[2], 1, bytes(8))


def test_place_on_the_line_and_rounding_error():
    protocol, plan = SecretSharing(aggregators=4, bits=24), setup_of(100, 10)
    assert (protocol.takes, protocol.gives, protocol.parties()) == (Real(), Ring(24), 4)
    assert protocol.stations == [Station.MESSAGE]
    assert protocol.replay() is None
    assert protocol.claims(plan) == []  # hiding who sent what is not differential privacy
    assert protocol.l2_error(plan) == pytest.approx(10 * protocol.codec(plan).step / 2)
    values = tf.concat([tf.random.stateless_uniform([100], [1, 2], -16, 16), [1.0]], 0)
    decoded = protocol.codec(plan).decode(protocol.encode(values, plan, None)[0])
    moved = np.linalg.norm(decoded[:-1] - values[:-1].numpy())
    assert 0.3 * protocol.l2_error(plan) < moved <= protocol.l2_error(plan)


@pytest.mark.parametrize("bits", [20, 32, 64])
@pytest.mark.parametrize("parties", [2, 3])
def test_all_shares_of_a_message_make_the_message_and_fewer_are_refused(bits, parties):
    protocol, plan = SecretSharing(aggregators=parties, bits=bits, range=2.0), setup_of(4, 2)
    contribution = np.array([-2.0, 0.5, 0.0, 1.999, 1.0], np.float32)
    transcript, encoded, _ = run(protocol, plan, [contribution, contribution / 2], range(parties))
    for client in (0, 1):
        shares = [transcript.held[p][client] for p in range(parties)]
        np.testing.assert_array_equal(protocol.combine(shares), encoded[client])
        with pytest.raises(ProtocolError, match="sum of all of them"):
            protocol.combine(shares[1:])
