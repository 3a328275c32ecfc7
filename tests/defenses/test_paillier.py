import numpy as np
import pydantic
import pytest
from fedpriv_defenses.encryption.paillier_scheme import Fields, PaillierScheme
from fedpriv_defenses.encryption.paillier_sum import PaillierSum
from fedpriv_defenses.encryption.scheme import CHECK_BITS, TAG_BITS, Block, Room
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import MessageError
from tests.defenses.encrypted import random_vectors, ring, run


@settings(deadline=None, max_examples=100)
@given(st.integers(8, 60), st.integers(1, 1000), st.sampled_from([2048, 3072]), st.data())
def test_fields_of_a_sum_do_not_touch(bits, clients, key_bits, data):
    room = Room(bits, clients)
    fields = Fields(key_bits, room)
    n = data.draw(st.integers(1, fields.elements))
    some = data.draw(st.integers(1, min(clients, 5)))
    end = st.sampled_from([-room.limit, room.limit, 0, -1])
    blocks = [
        Block(
            np.array([data.draw(end)] * n),
            data.draw(st.sampled_from([0, 2**TAG_BITS - 1])),
            data.draw(st.sampled_from([0, 2**CHECK_BITS - 2])),
        )
        for _ in range(some)
    ]
    packed = [fields.pack(b) for b in blocks]
    assert clients * max(packed) < 2 ** (key_bits - 1)
    found = fields.unpack(sum(packed), n, some)
    np.testing.assert_array_equal(found.elements, sum(b.elements for b in blocks))
    assert (found.tag, found.check) == (sum(b.tag for b in blocks), sum(b.check for b in blocks))


def test_ciphertexts_add_and_are_checked():
    key = PaillierScheme(2048, Room(32, 3)).generate()
    public = key.public
    assert key.public._key.n.bit_length() == 2048
    a, b = (public.encrypt(Block(np.array(v), t, t)) for v, t in (([5, -7], 3), ([-6, 2], 9)))
    assert len(a) == 512
    total = key.decrypt(public.write(public.add(public.read(a), public.read(b))), 2, 2)
    np.testing.assert_array_equal(total.elements, [-1, -5])
    assert (total.tag, total.check) == (12, 12)
    for bad in (bytes(512), int(public._key.n).to_bytes(512, "little"), b"\xff" * 512):
        with pytest.raises(MessageError, match="is no Paillier ciphertext"):
            public.read(bad)
    with pytest.raises(MessageError, match="holds 511 bytes where a Paillier ciphertext has 512"):
        public.read(a[:-1])
    for bad in (b"", bytes(256), b"\x02" * 255 + b"\x01"):
        with pytest.raises(MessageError, match="no Paillier modulus of 2048 bits"):
            PaillierScheme(2048, Room(32, 3)).public(bad)


def test_larger_keys_and_several_ciphertexts():
    protocol = PaillierSum(key_bits=3072, bits=40)
    signed = random_vectors(protocol, 2, 100)
    session, outcome = run(protocol, signed)
    np.testing.assert_array_equal(outcome.total, ring(protocol, signed.sum(0)))
    assert session._layout.elements == [70, 30]
    assert session.wire.bytes(sender="client", receiver="server") == 2 * (32 + 2 * (4 + 768))
    for bad in ({"bits": 61}, {"key_bits": 1024}, {"bits": 7}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(bad))):
            PaillierSum(**bad)
