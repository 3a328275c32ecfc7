"""ChaCha20 in TensorFlow is RFC 8439's, and masks made with it are those that NumPy makes."""

from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.chacha import keystream
from fedpriv.base.errors import ProtocolError
from fedpriv.base.lazy import tf, tff
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.ring import RingFormat
from fedpriv.engine import masking
from fedpriv.engine.masking import Masking
from fedpriv.engine.tff.pool import default_runtime

#: RFC 8439, A.1: (key, nonce, counter) of keystream blocks; 2.3.2: the block function's example.
ZERO = bytes(32)
COUNTED = bytes(range(32))
VECTORS = [
    (
        ZERO, bytes(12), 0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        ZERO, bytes(12), 1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    (
        bytes(31) + b"\x01", bytes(12), 1,
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    (
        b"\x00\xff" + bytes(30), bytes(12), 2,
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
    (
        ZERO, bytes(11) + b"\x02", 0,
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
    (
        COUNTED, bytes.fromhex("000000090000004a00000000"), 1,
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
]  # fmt: skip


def octets(data):
    return tf.constant(np.frombuffer(data, np.uint8))


def reference(key, nonce, counter, size):
    cipher = Cipher(algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce), mode=None)
    return cipher.encryptor().update(bytes(size))


@pytest.mark.parametrize(("key", "nonce", "counter", "block"), VECTORS, ids=range(len(VECTORS)))
def test_the_vectors_of_the_rfc(key, nonce, counter, block):
    assert keystream(octets(key), counter, 1, octets(nonce)).numpy().tobytes().hex() == block


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=12, max_size=12),
    st.integers(0, 2**32 - 60),
    st.integers(1, 50),
)
def test_it_is_the_cipher_of_the_cryptography_package(key, nonce, first, count):
    found = keystream(octets(key), first, count, octets(nonce)).numpy()
    assert found.dtype == np.uint32
    assert found.tobytes() == reference(key, nonce, first, 64 * count)


def dealt_of(keys, signs, bits):
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
    return Dealt(keys=rows, signs=np.array(signs, np.int8), bits=bits)


def in_graph(dealt, values, padding=0):
    """Masked as a client's graph does it, with as many keys of sign 0 among the others."""
    keys = np.concatenate([np.full((padding, 32), 7, np.uint8), dealt.keys, np.full((padding, 32), 9, np.uint8)])
    signs = np.concatenate([np.zeros(padding, np.int8), dealt.signs, np.zeros(padding, np.int8)])
    put_on = tf.function(lambda k, s, v: Masking(k, s, dealt.bits).mask(v), autograph=False)
    return put_on(tf.constant(keys), tf.constant(signs), tf.constant(values.view(np.int64))).numpy()


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(st.integers(8, 64), st.integers(0, 300), st.lists(st.sampled_from([1, -1]), max_size=3), st.data())
def test_masks_are_the_rings_keystreams(bits, n, signs, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    keys = [rng.bytes(32) for _ in signs]
    mask = (1 << bits) - 1
    values = rng.integers(0, mask, n, np.uint64, endpoint=True)
    form = RingFormat(bits, n)
    # Python's integers never wrap.
    streams = [form.expand(key).tolist() for key in keys]
    expected = [
        (int(v) + sum(s * stream[i] for s, stream in zip(signs, streams))) % (mask + 1) for i, v in enumerate(values)
    ]
    dealt = dealt_of(keys, signs, bits)
    masked = dealt.mask(values)
    assert masked.tolist() == expected
    assert dealt.unmask(masked).tolist() == values.tolist()
    if n:
        assert in_graph(dealt, values, padding=data.draw(st.integers(0, 2))).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16, 20, 32, 40, 64])
@pytest.mark.parametrize("n", [64, 1000])
def test_stretches_change_nothing(monkeypatch, bits, n):
    monkeypatch.setattr(masking, "STRETCH_BLOCKS", 8)  # some lengths then take many stretches, some one
    rng = np.random.default_rng(0)
    values = rng.integers(0, (1 << bits) - 1, n, np.uint64, endpoint=True)
    dealt = dealt_of([rng.bytes(32), rng.bytes(32)], [1, -1], bits)
    np.testing.assert_array_equal(in_graph(dealt, values), dealt.mask(values))


def test_a_million_elements_take_the_memory_of_a_few_stretches():
    n = 1_000_000
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, n, np.uint64)
    dealt = dealt_of([rng.bytes(32), rng.bytes(32)], [1, -1], 32)
    np.testing.assert_array_equal(in_graph(dealt, values), dealt.mask(values))
    # No tensor of the graph holds a whole keystream; the result alone is as long.
    put_on = tf.function(lambda k, s, v: Masking(k, s, 32).mask(v), autograph=False)
    traced = put_on.get_concrete_function(
        tf.TensorSpec([2, 32], tf.uint8), tf.TensorSpec([2], tf.int8), tf.TensorSpec([n], tf.int64)
    )
    words = [
        t.shape.num_elements()
        for graph in (traced.graph, *(f.graph for f in traced.graph._functions.values() if hasattr(f, "graph")))
        for op in graph.get_operations()
        for t in op.outputs
        if t.dtype == tf.uint32 and t.shape.num_elements() and t.shape != [n]
    ]
    assert words
    assert max(words) <= 16 * masking.STRETCH_BLOCKS


def put(bits, masks):
    keys, signs, values = masks
    return Masking(keys, signs, bits).mask(values)


@pytest.mark.slow
def test_tffs_own_tensorflow_makes_the_same_masks():
    rng = np.random.default_rng(1)
    with default_runtime():
        for bits, n in ((8, 70), (20, 333), (32, 100_000), (64, 9)):
            values = rng.integers(0, (1 << bits) - 1, n, np.uint64, endpoint=True)
            dealt = dealt_of([rng.bytes(32) for _ in range(3)], [-1, 1, -1], bits)
            types = tff.TensorType(np.uint8, [None, 32]), tff.TensorType(np.int8, [None]), tff.TensorType(np.int64, [n])
            put_on = tff.tensorflow.computation(tf.function(partial(put, bits), autograph=False), types)
            found = np.asarray(put_on(dealt.keys, dealt.signs, values.view(np.int64)))
            np.testing.assert_array_equal(found, dealt.mask(values))
            assert found.dtype == RingFormat(bits, n).dtype


def test_what_is_no_set_of_masks_is_refused():
    keys, signs = np.zeros((2, 32), np.uint8), np.ones(2, np.int8)
    assert "0" * 8 not in repr(Dealt(keys=keys, signs=signs, bits=32))
    for wrong in (
        {"keys": keys[:1]},
        {"keys": keys[:, :16]},
        {"keys": keys.astype(np.int32)},
        {"signs": np.array([1, 0], np.int8)},
        {"signs": np.ones(2)},
        {"bits": 7},
        {"bits": 65},
    ):
        with pytest.raises(ProtocolError):
            Dealt(**{"keys": keys, "signs": signs, "bits": 32, **wrong})
