"""Seeds: every random draw is a pure function of (run seed, purpose, round, client, step).

Two kinds of streams, that never mix:

- What repeats an experiment (initial weights, cohorts, the order of batches) comes from numpy's SeedSequence, and in
  graphs from a stateless int32 `[2]` seed that is folded (`fold`). Folding keeps 32 bits, which is enough to tell
  streams apart and far too little to hide behind.
- What protects somebody (noise, masks, shares, drop-outs) comes from `secret`: 128 bits, by a keyed hash (BLAKE2b) of
  the run's seed over the coordinates, handed into graphs as int64 `[2]` and derived further by `child`, a block cipher
  call whose 128-bit output is a bijection of its input. Nothing on the way is narrower than that. The run's own seed
  carries 128 bits from the operating system unless somebody chose it (`fresh`).

TensorFlow's generator, Philox, is no cryptographic one; every claim that rests on its noise says so. Where a run draws
securely (`Federation.secure_rng`), what protects starts from a *key* instead: 256 bits of the operating system's
entropy, int64 `[4]`, drawn anew for every round and client (`fresh_keys`). `child`, `uniform`, `words` and `gaussian`
take a key as they take a seed, and then use ChaCha20 (RFC 8439) alone.
"""

from __future__ import annotations

import enum
import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpriv.base.chacha import BLOCK_BYTES, keystream
from fedpriv.base.lazy import tf
from fedpriv.base.types import Scalar, Seed, Shape, Tensor

#: The child of a seed that normal values are drawn from.
NORMAL_CHILD = -1
#: The child of a seed that uniform values are drawn from.
UNIFORM_CHILD = -2
#: The child of a seed that random words are drawn from.
WORDS_CHILD = -3
#: int64 words of a key.
KEY_WORDS = 4
#: Most blocks of a key's stream that are made at once: 4 MB of memory.
_STRETCH_BLOCKS = 4096


class Purpose(enum.IntEnum):
    """What a random draw is for; keeps the streams apart."""

    WEIGHTS = 0
    COHORT = 1
    CLIENT = 2
    SERVER = 3
    PARTITION = 4
    ATTACK = 5
    ATTRITION = 6
    QUESTION = 7
    LAB = 8
    IMAGES = 9
    GOSSIP = 16
    CONTROL = 17


def fresh() -> int:
    """A seed of 128 bits from the operating system."""
    return secrets.randbits(128)


def fresh_keys(count: int) -> np.ndarray:
    """Keys from the operating system, int64 `[count, 4]`."""
    return np.frombuffer(secrets.token_bytes(8 * KEY_WORDS * count), np.int64).reshape(count, KEY_WORDS).copy()


def generator(seed: int, purpose: Purpose, *coordinates: int) -> np.random.Generator:
    """A numpy generator for one purpose and coordinates (such as the round)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(purpose), *coordinates])))


def graph_seed(seed: int, purpose: Purpose, *coordinates: int) -> np.ndarray:
    """An int32 `[2]` seed for `tf.random.stateless_*`; for what repeats, not for what protects."""
    state = np.random.SeedSequence([seed, int(purpose), *coordinates]).generate_state(2, np.uint32)
    return state.view(np.int32)


def integer_seed(seed: int, purpose: Purpose, *coordinates: int) -> int:
    """A non-negative 31-bit seed, for whatever takes one integer (initializers, attacks)."""
    return int(graph_seed(seed, purpose, *coordinates)[0]) & 0x7FFFFFFF


def fold(seed: Seed, value: Scalar | int) -> Seed:
    """A new int32 `[2]` seed from a seed and an integer tensor (traceable); for what repeats, not for what protects."""
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(value, tf.int32))


def secret(seed: int, purpose: Purpose, *coordinates: int) -> np.ndarray:
    """128 bits, int64 `[2]`, for what protects somebody: BLAKE2b keyed by the run's seed over the coordinates."""
    return secrets_of(seed, purpose, coordinates, [()])[0]


def secrets_of(
    seed: int, purpose: Purpose, coordinates: Sequence[int], each: Sequence[Sequence[int]] | Sequence[int]
) -> np.ndarray:
    """`secret` for many last coordinates at once, int64 `[n, 2]`; such as one a client."""
    width = max(32, (int(seed).bit_length() + 8) // 8)
    key = hashlib.blake2b(int(seed).to_bytes(width, "little", signed=True), person=b"fedpriv seed").digest()
    head = hashlib.blake2b(key=key, digest_size=16)
    head.update(np.asarray([int(purpose), *coordinates], np.int64).tobytes())
    found = []
    for last in each:
        digest = head.copy()
        digest.update(np.asarray(last, np.int64).tobytes())
        found.append(digest.digest())
    return np.frombuffer(b"".join(found), np.int64).reshape(-1, 2).copy()


def child(seed: Seed, index: Scalar | int) -> Seed:
    """Another int64 seed `[2]`, or key `[4]`, from one and an integer (traceable).

    Of a seed: one Philox block keyed by half of it; the counter is its other half beside the index, so that children of
    one seed never collide. Of a key: half a block of ChaCha20 whose nonce holds the index. Indices are 0 or more;
    negative ones are kept for this module.
    """
    seed = tf.cast(seed, tf.int64)
    if _is_key(seed):
        nonce = tf.concat([tf.ones([1], tf.int32), tf.bitcast(tf.cast(index, tf.int64), tf.int32)], 0)
        block = keystream(tf.reshape(tf.bitcast(seed, tf.uint8), [-1]), 0, 1, tf.bitcast(nonce, tf.uint8))
        return tf.bitcast(tf.reshape(block[: 2 * KEY_WORDS], [KEY_WORDS, 2]), tf.int64)
    words = tf.bitcast(tf.stack([tf.cast(index, tf.int64), seed[1]]), tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=tf.bitcast(seed[:1], tf.uint64), counter=words, alg=1, dtype=tf.int64
    )


def uniform(seed: Seed, shape: Shape | Tensor) -> Tensor:
    """Float64 values of `shape`, uniform on [0, 1): a pure function of an int64 seed `[2]` or key `[4]` (traceable)."""
    count = tf.reduce_prod(tf.cast(shape, tf.int64))
    bits = tf.bitcast(_bits(child(seed, UNIFORM_CHILD), count), tf.uint64)
    values = tf.cast(tf.bitwise.right_shift(bits, tf.constant(11, tf.uint64)), tf.float64) * 2.0**-53
    return tf.reshape(values, shape)


def words(seed: Seed, count: Scalar | int) -> Tensor:
    """Int64 `[count]`, all 64 bits of each uniformly random: a function of a seed `[2]` or key `[4]` (traceable)."""
    return _bits(child(seed, WORDS_CHILD), tf.cast(count, tf.int64))


def gaussian(seed: Seed, shape: Shape | Tensor, dtype: Any = "float32") -> Tensor:
    """Standard normal values of `shape`, a pure function of an int64 seed `[2]` or key `[4]` (traceable).

    Box and Muller (1958) with a radius from 63-bit uniforms in float64. TensorFlow's own normal draws use 32-bit
    uniforms (in float64 53-bit ones through the same transform) and stop at 5.7 standard deviations, where a large
    model shows it; these reach 9.4, beyond which a normal value lies with probability below 1e-20. The angle is as fine
    as the values that are asked for, which takes a third of the time in float32.
    """
    count = tf.reduce_prod(tf.cast(shape, tf.int64))
    pairs = (count + 1) // 2
    # A child, so that no child of `seed` shares a block with these values.
    bits = tf.reshape(_bits(child(seed, NORMAL_CHILD), 2 * pairs), tf.stack([tf.constant(2, tf.int64), pairs]))
    positive = tf.bitwise.bitwise_and(bits[0], tf.constant(np.iinfo(np.int64).max, tf.int64))
    uniform = (tf.cast(positive, tf.float64) + 0.5) * 2.0**-63
    kind = tf.as_dtype(dtype) if tf.as_dtype(dtype) == tf.float64 else tf.float32
    radius = tf.cast(tf.sqrt(-2.0 * tf.math.log(uniform)), kind)
    angle = tf.cast(bits[1], kind) * tf.constant(2.0**-63 * math.pi, kind)
    values = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 0)[:count]
    return tf.cast(tf.reshape(values, shape), dtype)


def _is_key(seed: Seed) -> bool:
    return tuple(seed.shape) == (KEY_WORDS,)


def _bits(seed: Seed, count: Scalar) -> Tensor:
    """Int64 `[count]`: the seed's or key's own stream, of which nothing else may be drawn."""
    if _is_key(seed):
        return _key_stream(seed, count)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.reshape(count, [1]),
        key=tf.bitcast(seed[:1], tf.uint64),
        counter=tf.bitcast(tf.stack([tf.zeros([], tf.int64), seed[1]]), tf.uint64),
        alg=1,
        dtype=tf.int64,
    )


def _key_stream(key: Seed, count: Scalar) -> Tensor:
    """Int64 `[count]` of ChaCha20's stream, made stretch by stretch, of one block where only few are needed."""
    each = BLOCK_BYTES // 8
    octets, known = tf.reshape(tf.bitcast(key, tf.uint8), [-1]), tf.get_static_value(count)
    blocks = _STRETCH_BLOCKS if known is None else min(_STRETCH_BLOCKS, max(1, -(-int(known) // each)))

    def stretch(i: Scalar) -> Tensor:
        made = keystream(octets, tf.cast(i, tf.int64) * blocks, blocks)
        return tf.bitcast(tf.reshape(made, [-1, 2]), tf.int64)

    if known is not None and blocks < _STRETCH_BLOCKS:
        return stretch(tf.constant(0))[: int(known)]
    stretches = tf.cast(-(-count // (blocks * each)), tf.int32)
    found = tf.TensorArray(tf.int64, stretches, element_shape=[blocks * each])
    _, found = tf.while_loop(
        lambda i, _: i < stretches,
        lambda i, found: (i + 1, found.write(i, stretch(i))),
        (tf.constant(0), found),
        parallel_iterations=2,
    )
    return tf.reshape(found.stack(), [-1])[:count]
