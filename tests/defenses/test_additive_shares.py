import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedpriv.defense.ring import KEY_BYTES, RingFormat

#: Two-sided level of every uniformity test below; a right generator fails one in a million times.
LEVEL = 1e-6


def looks_uniform(elements: np.ndarray, bits: int) -> bool:
    """Whether chi-square on every byte, and serial correlation, see no difference from uniform on [0, 2^bits)."""
    for shift in range(0, bits, 8):
        width = min(8, bits - shift)
        byte = (elements >> np.uint64(shift)).astype(np.int64) & ((1 << width) - 1)
        if stats.chisquare(np.bincount(byte, minlength=1 << width)).pvalue < LEVEL:
            return False
    centred = elements.astype(np.float64) / 2.0**bits - 0.5
    serial = np.mean(centred[:-1] * centred[1:]) * 12 * np.sqrt(len(centred) - 1)  # standard normal if independent
    return 2 * stats.norm.sf(abs(serial)) >= LEVEL


def shares_of(values, bits, parties, send_keys=False):
    form = RingFormat(bits, len(values))
    messages = form.split(values, parties, send_keys)
    keyed = parties - 1 if send_keys else 0
    return [(form.expand(m) if i < keyed else form.unpack(m)).astype(np.uint64) for i, m in enumerate(messages)]


def recombined(shares, bits):
    total = np.zeros(len(shares[0]), np.uint64)
    for share in shares:
        total += share
    return total & np.uint64((1 << bits) - 1)


@given(st.integers(8, 64), st.integers(2, 6), st.booleans(), st.data())
def test_shares_add_up_to_the_value(bits, parties, send_keys, data):
    values = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=20)), np.uint64)
    shares = shares_of(values, bits, parties, send_keys)
    assert len(shares) == parties
    assert all(int(s.max()) < 2**bits for s in shares)
    np.testing.assert_array_equal(recombined(shares, bits), values)


@pytest.mark.parametrize("bits", [8, 12, 24, 32, 40, 64])
@pytest.mark.parametrize("value", [0, 1], ids=["zeros", "ramp"])
def test_any_two_of_three_shares_look_uniform_and_independent(bits, value):
    n = 40_000
    values = (np.arange(n, dtype=np.uint64) * np.uint64(value)) & np.uint64((1 << bits) - 1)
    shares = shares_of(values, bits, 3)
    mask = np.uint64((1 << bits) - 1)
    for i in range(3):
        assert looks_uniform(shares[i], bits)
        # Two shares pooled: their sum and difference are uniform too, so a pair tells nothing either.
        other = shares[(i + 1) % 3]
        assert looks_uniform((shares[i] + other) & mask, bits)
        assert looks_uniform((shares[i] - other) & mask, bits)
        if value:
            assert abs(np.corrcoef(shares[i].astype(float), values.astype(float))[0, 1]) < 0.03
    pooled = recombined(shares, bits)
    assert not looks_uniform(pooled, bits)  # all three together are the value, which is anything but random
    np.testing.assert_array_equal(pooled, values)


@pytest.mark.parametrize("bits", [8, 32, 64])
def test_the_uniformity_test_catches_bad_generators(bits):
    n, rng = 40_000, np.random.default_rng(0)
    good = rng.integers(0, 2**bits, n, np.uint64, endpoint=False)
    assert looks_uniform(good, bits)
    biased = np.where(rng.random(n) < 0.02, np.uint64(0), good)
    stuck_bit = good & ~np.uint64(1 << (bits - 1))
    small_noise = rng.integers(0, 2 ** (bits - 1), n, np.uint64)
    repeated = np.repeat(good[: n // 2], 2)  # uniform bytes, but each one twice
    for bad in (biased, stuck_bit, small_noise, repeated):
        assert not looks_uniform(bad, bits)


def test_fresh_randomness_every_time():
    values = np.zeros(64, np.uint64)
    first, second = shares_of(values, 32, 2), shares_of(values, 32, 2)
    assert not np.array_equal(first[0], second[0])
    keys = {RingFormat(32, 64).split(values, 2, True)[0] for _ in range(200)}
    assert len(keys) == 200
    assert all(len(k) == KEY_BYTES == 32 for k in keys)


def test_the_generator_is_chacha20():
    # First keystream block of the all-zero key and nonce (RFC 8439, appendix A.1, test vector 1).
    known = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    np.testing.assert_array_equal(RingFormat(32, 16).expand(bytes(32)), np.frombuffer(known, "<u4"))


def test_long_vectors_continue_the_stream_across_blocks():
    key, n = bytes(range(32)), 100_003
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(8 * n))
    np.testing.assert_array_equal(RingFormat(64, n).expand(key), np.frombuffer(stream, "<u8"))
    three = np.frombuffer(stream[: 3 * n], np.uint8).reshape(n, 3).astype(np.uint64) @ [1, 256, 65536]
    np.testing.assert_array_equal(RingFormat(24, n).expand(key), three)


@given(st.integers(8, 64), st.integers(1, 9))
def test_messages_have_the_stated_length_and_survive_packing(bits, n):
    form = RingFormat(bits, n)
    values = (np.arange(n) * 0x0123456789ABCDEF % 2**bits).astype(form.dtype)
    message = form.pack(values)
    assert len(message) == form.vector_bytes == -(-n * bits // 8)
    assert int.from_bytes(message, "little") == sum(int(v) << (bits * i) for i, v in enumerate(values))
    np.testing.assert_array_equal(form.unpack(message), values)
