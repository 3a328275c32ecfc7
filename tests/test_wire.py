import numpy as np
import pytest

from fedpriv.base.errors import MessageError, ParameterError, ProtocolError
from fedpriv.defense.parties import SERVER, Party, aggregator, client
from fedpriv.defense.wire import Interference, Wire

EVERYBODY = (client(0), client(1), SERVER, aggregator(0))


def opened(watched=(), alive=EVERYBODY, **options):
    wire = Wire(EVERYBODY, watched, **options)
    wire.enter("share", alive)
    return wire


def test_bytes_are_counted_by_roles_and_phase():
    wire = opened()
    wire.send(client(0), SERVER, bytes(10))
    wire.send(client(1), SERVER, bytes(20))
    wire.send(SERVER, client(1), bytes(3))
    wire.enter("publish", EVERYBODY)
    wire.send(client(0), aggregator(0), bytes(400))
    assert wire.traffic() == {
        ("share", "client", "server"): 30,
        ("share", "server", "client"): 3,
        ("publish", "client", "aggregator"): 400,
    }
    assert wire.bytes() == 433
    assert wire.bytes(sender="client") == 430
    assert wire.bytes(sender="client", phase="share") == 30
    assert wire.bytes(receiver="client") == 3
    assert wire.bytes(sender="key_holder") == 0


@pytest.mark.parametrize(
    ("n", "bits", "size"), [(9, 1, 2), (8, 1, 1), (10, 20, 25), (5, 32, 20), (3, 12, 5), (0, 8, 0)]
)
def test_arrays_take_their_stated_width(n, bits, size):
    wire = opened([SERVER])
    wire.send(client(0), SERVER, np.zeros(n, np.uint64), bits=bits)
    assert wire.bytes() == wire.received(SERVER)[0].size == size


def test_only_what_watched_parties_saw_is_remembered():
    wire = opened([SERVER])
    sent = np.arange(3.0)
    wire.send(client(0), SERVER, sent, bits=64)
    wire.send(client(0), aggregator(0), b"secret")
    sent[:] = 0  # what arrived does not change afterwards
    (arrived,) = wire.received(SERVER)
    assert (arrived.phase, arrived.sender, arrived.receiver) == ("share", client(0), SERVER)
    np.testing.assert_array_equal(arrived.payload, [0, 1, 2])
    with pytest.raises(ValueError, match="read-only"):
        arrived.payload[0] = 7
    with pytest.raises(ProtocolError, match="aggregator 0 was not watched"):
        wire.received(aggregator(0))
    everyone = opened(None)
    everyone.send(client(0), aggregator(0), b"secret")
    assert [len(everyone.received(p)) for p in EVERYBODY] == [0, 0, 0, 1]


def test_an_eavesdropper_reads_open_channels_and_sees_that_private_ones_are_used():
    wire = opened(tapped=True)
    wire.send(client(0), SERVER, b"open", private=False)
    wire.send(client(1), SERVER, b"secret")
    assert [(d.sender, d.size, d.payload) for d in wire.overheard()] == [(client(0), 4, b"open"), (client(1), 6, None)]
    with pytest.raises(ProtocolError, match="not tapped"):
        opened().overheard()
    # Watching the receiver does not tell the eavesdropper more.
    both = opened([SERVER], tapped=True)
    both.send(client(1), SERVER, b"secret")
    assert both.received(SERVER)[0].payload == b"secret"
    assert both.overheard()[0].payload is None


@pytest.mark.parametrize("outsider", [client(7), aggregator(1), Party("key_holder")])
def test_strangers_neither_send_nor_receive_nor_are_watched(outsider):
    wire = opened()
    with pytest.raises(ProtocolError, match=f"{outsider} cannot send or receive in phase 'share': it is not in this"):
        wire.send(outsider, SERVER, b"")
    with pytest.raises(ProtocolError, match=f"{outsider} cannot"):
        wire.send(client(0), outsider, b"")
    with pytest.raises(ParameterError, match=f"there is no {outsider} in this round"):
        opened([outsider])
    with pytest.raises(ParameterError, match="Did you mean 'aggregator 0'"):
        opened([aggregator(1)])
    assert wire.bytes() == 0


def test_who_is_gone_neither_sends_nor_comes_back():
    wire = opened(alive=EVERYBODY[1:])
    with pytest.raises(ProtocolError, match="client 0 cannot send or receive in phase 'share': it is gone"):
        wire.send(client(0), SERVER, b"")
    with pytest.raises(ProtocolError, match="client 0 cannot"):
        wire.send(SERVER, client(0), b"")
    with pytest.raises(ProtocolError, match="client 0 cannot be alive in phase 'publish': it was gone before"):
        wire.enter("publish", EVERYBODY)
    with pytest.raises(ProtocolError, match="client 9 cannot be alive in phase 'x': it is not in this round"):
        Wire(EVERYBODY).enter("x", [client(9)])


def test_misuse_is_named():
    with pytest.raises(ProtocolError, match="before a phase has begun"):
        Wire(EVERYBODY).send(client(0), SERVER, b"")
    with pytest.raises(ProtocolError, match="bits=None"):
        opened().send(client(0), SERVER, np.zeros(3))
    with pytest.raises(ProtocolError, match="not a list"):
        opened().send(client(0), SERVER, [1, 2])


def interfered(**kinds):
    return opened([SERVER], interference=Interference(**kinds))


def test_what_a_channel_carries_arrives_unless_somebody_meddles():
    wire = interfered(in_transit=lambda d: d.payload)
    assert wire.send(client(0), SERVER, b"one") == b"one"
    np.testing.assert_array_equal(wire.send(client(0), SERVER, np.arange(4, dtype=np.uint64), bits=64), np.arange(4))
    seen = []
    wire = interfered(in_transit=lambda d: seen.append(d.payload) or d.payload)
    wire.send(client(0), SERVER, b"a secret of some length")
    assert b"secret" not in seen[0]


@pytest.mark.parametrize("place", [0, 5, 12, 14, -1])
def test_a_bit_changed_on_the_way_ends_the_round(place):
    def flip(delivery):
        frame = bytearray(delivery.payload)
        frame[place] ^= 1
        return bytes(frame)

    wire = interfered(in_transit=flip)
    with pytest.raises(MessageError, match=r"message of client 1 to server in phase 'share' was changed"):
        wire.send(client(1), SERVER, b"payload")
    assert wire.received(SERVER) == ()


def test_messages_sent_twice_of_another_channel_or_lost_end_the_round():
    frames = []

    def replay(delivery):
        frames.append(delivery.payload)
        return frames[0]

    wire = interfered(in_transit=replay)
    assert wire.send(client(0), SERVER, b"first") == b"first"
    with pytest.raises(MessageError, match="sent a second time"):
        wire.send(client(0), SERVER, b"second")
    with pytest.raises(MessageError, match="its tag does not fit"):
        wire.send(client(1), SERVER, b"first")
    with pytest.raises(MessageError, match="was lost on the way"):
        interfered(in_transit=lambda d: None).send(client(0), SERVER, b"x")


def test_a_party_that_lies_is_believed_by_its_channel():
    wire = interfered(by_sender=lambda d: b"a lie" if d.sender == client(0) else d.payload)
    assert wire.send(client(0), SERVER, b"truth") == b"a lie"
    assert wire.send(client(1), SERVER, b"truth") == b"truth"
    assert [d.payload for d in wire.received(SERVER)] == [b"a lie", b"truth"]
    assert wire.bytes() == 10
    with pytest.raises(MessageError, match=r"client 0 .* never came"):
        interfered(by_sender=lambda d: None).send(client(0), SERVER, b"truth")
