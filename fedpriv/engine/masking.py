"""Masking: the masks that a protocol dealt to a client, put on inside the client's graph.

It does what `Dealt.mask` does with NumPy, to the bit, so that an engine that trains elsewhere sends back the masked
vector alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.base.chacha import BLOCK_BYTES, keystream
from fedpriv.base.lazy import tf
from fedpriv.base.types import Scalar, Tensor

#: Most blocks of keystream that are made at once: 4 MB of memory, while each tensor fits a core's cache.
STRETCH_BLOCKS = 4096


@dataclass(frozen=True)
class Masking:
    """One client's masks, as tensors.

    Attributes:
      keys: uint8 `[k, 32]`.
      signs: int8 `[k]`: +1 adds a key's keystream, -1 subtracts it, 0 leaves it out, as where keys were filled up.
      bits: b of the ring of integers mod 2^b.
    """

    keys: Tensor
    signs: Tensor
    bits: int

    @property
    def dtype(self) -> tf.DType:
        """What masked elements travel as: the narrowest machine integers that hold one."""
        return next(t for t in (tf.uint8, tf.uint16, tf.uint32, tf.uint64) if 8 * t.size >= self.bits)

    def mask(self, values: Tensor) -> Tensor:
        """`values`, int64 `[n]` (the bit patterns of uint64, n known while tracing), with all masks on it, mod 2^b."""
        n = int(values.shape[0])
        width = -(-self.bits // 8)
        # Stretches end between blocks and between elements: at multiples of 64 elements.
        units = max(1, -(-n // BLOCK_BYTES))
        stretches = -(-units * width // STRETCH_BLOCKS)
        size = -(-units // stretches) * BLOCK_BYTES
        blocks = size * width // BLOCK_BYTES
        used = tf.where(tf.not_equal(self.signs, 0))[:, 0]
        keys, signs = tf.gather(self.keys, used), tf.cast(tf.gather(self.signs, used), tf.int64)
        count = tf.size(signs)
        padded = tf.reshape(tf.pad(values, [[0, stretches * size - n]]), [stretches, size])

        def stretch(i: Scalar, found: tf.TensorArray) -> tuple[Scalar, tf.TensorArray]:
            def add(j: Scalar, sum_: Tensor) -> tuple[Scalar, Tensor]:
                words = keystream(keys[j], tf.cast(i, tf.int64) * blocks, blocks)
                return j + 1, sum_ + signs[j] * elements(words, width)

            begun = (tf.constant(0), padded[i])
            _, masked = tf.while_loop(lambda j, _: j < count, add, begun, parallel_iterations=1)
            return i + 1, found.write(i, masked)

        found = tf.TensorArray(tf.int64, stretches, element_shape=[size])
        _, found = tf.while_loop(lambda i, _: i < stretches, stretch, (tf.constant(0), found), parallel_iterations=2)
        total = tf.reshape(found.stack(), [-1])[:n]
        if self.bits < 64:  # what it carries beyond b bits would depend on the values
            total = tf.bitwise.bitwise_and(total, tf.constant((1 << self.bits) - 1, tf.int64))
        return tf.cast(total, self.dtype)


def elements(words: Tensor, width: int) -> Tensor:
    """A keystream's words, uint32 `[m]`, as little-endian integers of `width` bytes, 1 to 8: int64 `[4 m / width]`."""
    if width == 4:
        return tf.cast(words, tf.int64)
    if width == 8:
        return tf.bitcast(tf.reshape(words, [-1, 2]), tf.int64)
    if width in (1, 2):
        return tf.cast(tf.reshape(tf.bitcast(words, tf.uint8 if width == 1 else tf.uint16), [-1]), tf.int64)
    narrow = tf.reshape(tf.bitcast(words, tf.uint8), [-1, width])
    return tf.bitcast(tf.pad(narrow, [[0, 0], [0, 8 - width]]), tf.int64)
