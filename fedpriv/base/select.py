"""Select: the largest of many values, exactly, in a few passes over them.

A sample of the values says between which two the k-th largest almost surely lies, and only those between are sorted
(Floyd, Rivest 1975, "Expected Time Bounds for Selection"). Where a count shows that it does not lie there, or too many
values do, the bits of all are counted, which are in the order of the values where none is negative: by their upper half
and then, in the one class that holds the k-th largest, by their lower half.
"""

from __future__ import annotations

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor

#: Below so many values TensorFlow's own way is as fast.
_FEW = 40_000
_HALF = 16
#: One value of so many is in the sample; prime, so that it falls on all columns of a layer alike.
_STRIDE = 61
#: How many standard deviations of a sample's rank, and ranks besides, the two bounds are away.
_DEVIATIONS, _RANKS = 3.0, 3


def kth_largest(values: Flat, k: Scalar | int) -> Scalar:
    """The k-th largest of values `[n]`, k from 1 to n; traceable, without a derivative.

    Args:
      values: float, none negative and none not-a-number; n static.
      k: which, may be traced.
    """
    values = tf.stop_gradient(values)
    if values.dtype != tf.float32 or int(values.shape[0]) < _FEW:
        return tf.math.top_k(values, k).values[-1]
    n, k = int(values.shape[0]), tf.convert_to_tensor(k, tf.int32)
    low, high = _bounds(values, k)
    above = tf.reduce_sum(tf.cast(values > high, tf.int32))
    between = tf.boolean_mask(values, (values >= low) & (values <= high))
    few = tf.size(between)
    within = (k > above) & (k <= above + few) & (few <= n // 8)
    return tf.cond(within, lambda: tf.sort(between, direction="DESCENDING")[k - above - 1], lambda: _by_bits(values, k))


def _bounds(values: Flat, k: Scalar) -> tuple[Scalar, Scalar]:
    """(Two values between which the k-th largest almost surely lies): a sample's, around the same place in it."""
    sample = tf.sort(values[::_STRIDE], direction="DESCENDING")
    size = int(sample.shape[0])
    part = tf.cast(k, tf.float32) / float(values.shape[0])
    middle = part * size
    away = _DEVIATIONS * tf.sqrt(middle * tf.maximum(1.0 - part, 0.0)) + _RANKS
    first, last = tf.cast(middle - away, tf.int32), tf.cast(middle + away, tf.int32)
    high = tf.where(first < 0, values.dtype.max, sample[tf.maximum(first, 0)])
    low = tf.where(last >= size, tf.zeros([], values.dtype), sample[tf.minimum(last, size - 1)])
    return low, high


def _by_bits(values: Flat, k: Scalar) -> Scalar:
    """The k-th largest by counting bits."""
    # Without its sign a negative zero has the bits of a zero; adding 0 would be optimized away.
    bits = tf.bitwise.bitwise_and(tf.bitcast(values, tf.int32), 0x7FFFFFFF)
    upper = tf.bitwise.right_shift(bits, _HALF)
    first, above = _class_of(upper, 1 << (31 - _HALF), k)
    inside = tf.boolean_mask(bits, tf.equal(upper, first))
    second, _ = _class_of(tf.bitwise.bitwise_and(inside, (1 << _HALF) - 1), 1 << _HALF, k - above)
    found = tf.bitwise.bitwise_or(tf.bitwise.left_shift(first, _HALF), second)
    return tf.bitcast(found, tf.float32)


def mask_of_largest(values: Flat, k: Scalar | int) -> Tensor:
    """Where the k largest of values `[n]` are, bool `[n]`; of equal ones the first.

    Args:
      values: as for `kth_largest`.
      k: from 1 to n, may be traced.
    """
    values, n = tf.stop_gradient(values), int(values.shape[0])
    if isinstance(k, int) and k == n:
        return tf.fill([n], True)
    if values.dtype != tf.float32 or n < _FEW:
        places = tf.math.top_k(values, k, sorted=False).indices
        return tf.scatter_nd(places[:, None], tf.ones_like(places), [n]) > 0
    least = kth_largest(values, k)
    reached = values >= least
    several = tf.reduce_sum(tf.cast(reached, tf.int32)) > k

    def first() -> Tensor:
        over, equal = values > least, tf.equal(values, least)
        still = k - tf.reduce_sum(tf.cast(over, tf.int32))
        return over | (equal & (tf.cumsum(tf.cast(equal, tf.int32)) <= still))

    return tf.cond(several, first, lambda: tf.identity(reached))


def _class_of(numbers: Tensor, size: int, k: Scalar) -> tuple[Scalar, Scalar]:
    """(The k-th largest of int32 numbers in [0, size), how many are above it)."""
    counts = tf.raw_ops.DenseBincount(input=numbers, size=size, weights=tf.zeros([0], tf.int32), binary_output=False)
    down = tf.cumsum(counts, reverse=True)
    found = tf.reduce_sum(tf.cast(down >= k, tf.int32)) - 1
    return found, down[found] - counts[found]
