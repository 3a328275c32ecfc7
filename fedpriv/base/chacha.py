"""ChaCha20 (RFC 8439) in TensorFlow operations, all blocks of a stretch of keystream at once.

The state of n blocks is four tensors `[4, n]`, one a row of the cipher's 4 x 4 words; a quarter round then runs on all
columns of all blocks. Only additions, exclusive ors, multiplications by powers of two and shifts of uint32 are used,
which every TensorFlow runtime has, so that a computation that is serialized for another one gives the same bits.
"""

from __future__ import annotations

from fedpriv.base.lazy import tf
from fedpriv.base.types import Scalar, Tensor

KEY_BYTES, NONCE_BYTES, BLOCK_BYTES = 32, 12, 64
#: "expand 32-byte k", as little-endian words.
_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
_DOUBLE_ROUNDS = 10


def keystream(key: Tensor, first: Scalar | int, count: int, nonce: Tensor | None = None) -> Tensor:
    """Blocks `first` to `first + count - 1` of the keystream, as little-endian words, uint32 `[16 * count]`.

    Takes about 1 kB of memory a block, so long streams are made stretch by stretch.

    Args:
      key: uint8 `[32]`.
      first: the first block's counter, an int64 scalar; taken modulo 2^32, as the cipher does.
      count: number of blocks.
      nonce: uint8 `[12]`; None is zeros.
    """
    words = tf.bitcast(tf.reshape(key, [8, 4]), tf.uint32)
    counters = tf.cast(tf.range(count, dtype=tf.int64) + tf.cast(first, tf.int64), tf.uint32)
    last = tf.zeros([3], tf.uint32) if nonce is None else tf.bitcast(tf.reshape(nonce, [3, 4]), tf.uint32)

    def row(four: Tensor) -> Tensor:
        return tf.tile(four[:, None], [1, count])

    start = [
        row(tf.constant(_CONSTANTS, tf.uint32)),
        row(words[:4]),
        row(words[4:]),
        tf.concat([counters[None], tf.tile(last[:, None], [1, count])], 0),
    ]
    # As rows, not as scalars: TensorFlow's kernel shifts by a row several times faster.
    shifts = {n: tf.fill([1, count], tf.constant(32 - n, tf.uint32)) for n in (16, 12, 8, 7)}

    def rotated(x: Tensor, n: int) -> Tensor:
        # The two parts share no bit, so their sum is their union; a product is faster than a shift.
        return x * tf.constant(1 << n, tf.uint32) + tf.bitwise.right_shift(x, shifts[n])

    def quarter_rounds(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        a = a + b
        d = rotated(tf.bitwise.bitwise_xor(d, a), 16)
        c = c + d
        b = rotated(tf.bitwise.bitwise_xor(b, c), 12)
        a = a + b
        d = rotated(tf.bitwise.bitwise_xor(d, a), 8)
        c = c + d
        b = rotated(tf.bitwise.bitwise_xor(b, c), 7)
        return a, b, c, d

    def turned(x: Tensor, by: int) -> Tensor:
        return tf.concat([x[by:], x[:by]], 0)

    def double_round(i: Scalar, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        a, b, c, d = quarter_rounds(a, b, c, d)
        a, b, c, d = quarter_rounds(a, turned(b, 1), turned(c, 2), turned(d, 3))
        return i + 1, a, turned(b, 3), turned(c, 2), turned(d, 1)

    _, *end = tf.while_loop(
        lambda i, *_: i < _DOUBLE_ROUNDS, double_round, (tf.constant(0), *start), parallel_iterations=1
    )
    mixed = tf.concat([after + before for after, before in zip(end, start, strict=True)], 0)
    return tf.reshape(tf.transpose(mixed), [-1])
