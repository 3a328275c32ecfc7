import sys

import numpy as np
import pydantic
import pytest
from fedpriv_defenses.encryption.ckks import Ckks
from fedpriv_defenses.encryption.ckks_parameters import MODULI, CkksParameters, choose
from fedpriv_defenses.encryption.ckks_scheme import CkksScheme
from fedpriv_defenses.encryption.ckks_sum import CkksSum
from fedpriv_defenses.encryption.paillier import Paillier
from fedpriv_defenses.encryption.paillier_sum import PaillierSum
from fedpriv_defenses.encryption.scheme import Block, Room
from fedpriv_defenses.fixed_point import FixedPoint
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.protocol import Revealed
from fedpriv.defense.stations import Station
from tests.defenses.encrypted import plan_of, random_vectors, ring, run


@settings(deadline=None, max_examples=12)
@given(st.integers(8, 36), st.integers(1, 5), st.data())
def test_sums_are_exact(bits, clients, data):
    protocol = CkksSum(bits=bits)
    top = ((1 << (bits - 1)) - 1) // clients
    element = st.integers(-top, top)
    rows = [[data.draw(element) for _ in range(4)] for _ in range(clients)]
    _, outcome = run(protocol, np.array(rows))
    assert isinstance(outcome, Revealed)
    assert [int(t) for t in outcome.total] == [sum(column) % 2**bits for column in zip(*rows)]


@pytest.mark.parametrize(
    ("bits", "clients", "degree", "moduli"),
    [
        (16, 10, 4096, (54, 55)),
        (32, 10, 4096, (36, 36, 37)),
        (32, 100, 4096, (36, 36, 37)),
        (36, 100_000, 8192, (60, 60, 60)),
    ],
)
def test_the_error_stays_below_its_bound(bits, clients, degree, moduli):
    parameters = choose(Room(bits, clients))
    assert (parameters.degree, parameters.moduli) == (degree, moduli)
    assert parameters.error <= 0.25
    key = CkksScheme(parameters).generate()
    signs = np.random.default_rng(0).choice([-1, 1], key.public.elements)
    total = None
    # As many ciphertexts as are quick; each one's largest value is what the whole cohort's would be together.
    some = min(clients, 10)
    for i in range(some):
        value = parameters.room.largest // some
        part = key.public.read(key.public.encrypt(Block(value * signs, i, i)))
        total = part if total is None else key.public.add(total, part)
    from fedpriv_defenses.encryption.ckks_scheme import read

    slots = np.array(read(key._context, key.public.write(total), parameters).decrypt())
    values = slots[: key.public.elements]
    error = np.abs(values - some * (parameters.room.largest // some) * signs).max()
    assert 0 < error < parameters.error
    block = key.decrypt(key.public.write(total), key.public.elements, some)
    assert (block.tag, block.check) == (sum(range(some)), sum(range(some)))


def test_settings_without_exact_sums_are_refused():
    with pytest.raises(ParameterError, match=r"with bits=32, scale_bits=20 a sum over 10 clients would not be exact"):
        CkksSum(scale_bits=20).check(plan_of(10))
    with pytest.raises(ParameterError, match=r"bits=36, ring_degree=4096.*use bits <= \d+, or ring_degree=none"):
        CkksSum(bits=36, ring_degree=4096).check(plan_of(5000))
    with pytest.raises(ParameterError, match="ckks: with bits=32, scale_bits=90"):
        Ckks(scale_bits=90).check(plan_of(10))
    assert choose(Room(32, 10), scale_bits=35).error > choose(Room(32, 10)).error
    made = registry.defenses.create("ckks_sum(ring_degree=8192,scale_bits=40)")
    assert (made.ring_degree, made.scale_bits) == (8192, 40)
    with pytest.raises(pydantic.ValidationError, match="one of 4096, 8192, 16384"):
        CkksSum(ring_degree=2048)
    for bits in (7, 37):
        with pytest.raises(pydantic.ValidationError, match="bits"):
            CkksSum(bits=bits)


def test_moduli_are_those_of_128_bits_of_security():
    import tenseal

    allowed = {4096: 109, 8192: 218, 16384: 438}  # Albrecht et al. 2018, table 1, ternary keys, classical
    for degree, choices in MODULI.items():
        assert all(sum(moduli) <= allowed[degree] for moduli in choices)
    tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[54, 55])
    with pytest.raises(ValueError, match="not set correctly"):
        tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[55, 55])


def test_a_scale_that_was_changed_is_refused():
    room = Room(16, 4)
    ours, other = choose(room), CkksParameters(4096, (54, 55), 20, room)
    key = CkksScheme(ours).generate()
    forged = CkksScheme(other).public(key.public.message).encrypt(Block(np.arange(3), 1, 1))
    from fedpriv.base.errors import MessageError

    with pytest.raises(MessageError, match="of other parameters or of another scale"):
        key.public.read(forged)
    with pytest.raises(MessageError, match="is for other parameters than ring degree 8192"):
        CkksScheme(choose(room, 8192)).public(key.public.message)
    with pytest.raises(MessageError, match="holds no public key of CKKS"):
        CkksScheme(ours).public(b"nothing")
    secret = key._context.serialize(save_public_key=True, save_secret_key=True)
    with pytest.raises(MessageError, match="came with its secret key"):
        CkksScheme(ours).public(secret)


def test_large_updates_take_several_ciphertexts():
    protocol = CkksSum()
    signed = random_vectors(protocol, 2, 5000)
    session, outcome = run(protocol, signed)
    np.testing.assert_array_equal(outcome.total, ring(protocol, signed.sum(0)))
    assert session._layout.elements == [2043, 2043, 914]
    assert session.wire.bytes(sender="client", receiver="server") / (2 * 5000 * 4) < 14  # expansion over float32


@pytest.mark.parametrize(("word", "package"), [("ckks", "tenseal"), ("paillier", "phe.paillier")])
def test_without_the_library_the_extra_is_named(word, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        FedprivError, match=rf"{word} needs the package '{package}'.*pip install 'fedpriv\[encryption\]'"
    ):
        registry.defenses.create(word).check(plan_of(3))


@pytest.mark.parametrize(("word", "protocol"), [(Ckks, CkksSum), (Paillier, PaillierSum)])
def test_the_word_stands_for_two_links(word, protocol):
    made = word(bits=24, range=2.0, min_clients=2)
    codec, second = made.parts()
    assert codec == FixedPoint(bits=24, range=2.0)
    assert second == protocol(bits=24, min_clients=2)
    assert registry.defenses.create(f"{word.name}(bits=24,range=2,min_clients=2)") == made
    assert (made.takes, codec.maps(Real(), plan_of(2)), second.takes) == (Real(), Ring(24), Ring(24))
    assert made.stations == [Station.ENCODE, Station.MESSAGE]
    assert not made.replayable
    assert made.replay() is None
    assert made.claims(plan_of(2), Real()) == []
    parts = {**FixedPoint.model_fields, **protocol.model_fields}  # the protocol's limits of bits are the tighter ones
    assert set(word.model_fields) == set(parts)
    for name, field in word.model_fields.items():
        assert (field.default, field.metadata) == (parts[name].default, parts[name].metadata)


@pytest.mark.parametrize("word", [Ckks(bits=30, range=1.0), Paillier(bits=30, range=1.0)], ids=["ckks", "paillier"])
def test_what_fixed_point_encodes_has_room_and_decodes_to_the_sum(word):
    plan = plan_of(3, 6)
    codec, protocol = word.parts()
    contributions = np.array([[1.0, -1.0, 0.3, -0.001, 0.5, 1.0]] * 3, np.float32)
    encoded = [codec.quantize(tf.constant(c), plan, None)[0].numpy().view(np.uint64) for c in contributions]
    session = protocol.open(plan, range(3), round=0, seed=0)
    session.begin()
    for client, element in enumerate(encoded):
        session.submit(client, element)
    outcome = session.finish()
    np.testing.assert_array_equal(outcome.total, sum(encoded) & np.uint64(2**30 - 1))
    decoded = codec.decode(tf.constant(outcome.total.view(np.int64)), 3, plan).numpy()
    np.testing.assert_allclose(decoded, contributions.astype(np.float64).sum(0), atol=3 * codec.steps(plan).step / 2)
