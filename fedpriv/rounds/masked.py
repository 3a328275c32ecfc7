"""Masked mixing: weighted sums of neighbours' models under pairwise masks, so that a receiver learns the sum alone.

The idea is that of Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS,
with each peer as the server of those who send to it. Every two senders of a receiver share a key for that receiver and
round; one adds the keystream, the other subtracts it. Models are multiplied with the receiver's weights and rounded
before, so that the masks cancel exactly, modulo 2^64. Peers are honest but curious, and all of a round's senders
arrive: who is missing is known before. How two senders agree on a key is not part of it: they are dealt keys of the
  operating system.
"""

from __future__ import annotations

import os
from itertools import combinations

import numpy as np
import scipy.sparse as sp

from fedpriv.base.errors import OverflowDetected
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.ring import KEY_BYTES

#: Bits of the ring, and of them behind the binary point.
BITS, FRACTION_BITS = 64, 32
#: Largest absolute value of a weighted sum.
RANGE = 2.0 ** (BITS - FRACTION_BITS - 2)


def masked_messages(weights: np.ndarray, models: np.ndarray) -> np.ndarray:
    """What the senders of one receiver send: uint64 `[k, d]`, masked unless there is one sender alone.

    Args:
      weights: the receiver's, `[k]`.
      models: `[k, d]`.

    Raises:
      OverflowDetected: a model has no room in the ring.
    """
    scaled = weights[:, None] * models.astype(np.float64)
    largest = float(np.abs(scaled).max(initial=0.0))
    if not largest * len(weights) < RANGE:
        raise OverflowDetected(
            f"a weighted model has the value {largest:.3g}, but masks are made for sums within {RANGE:.3g}; lower the "
            "learning rate"
        )
    encoded = np.rint(scaled * 2.0**FRACTION_BITS).astype(np.int64).view(np.uint64)
    pairs = list(combinations(range(len(weights)), 2))
    keys = np.frombuffer(os.urandom(len(pairs) * KEY_BYTES), np.uint8).reshape(len(pairs), KEY_BYTES)
    for sender in range(len(weights)):
        mine = [p for p, pair in enumerate(pairs) if sender in pair]
        signs = np.array([1 if pairs[p][0] == sender else -1 for p in mine], np.int8)
        if mine:
            encoded[sender] = Dealt(keys=keys[mine], signs=signs, bits=BITS).mask(encoded[sender])
    return encoded


def unmasked_sum(messages: np.ndarray) -> np.ndarray:
    """The weighted sum that messages `[k, d]` make, float64 `[d]`."""
    return messages.sum(0, dtype=np.uint64).view(np.int64) * 2.0**-FRACTION_BITS


def mix_masked(matrix: sp.csr_matrix, models: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`matrix [n, n] @ models [n, d]` into `out`, every receiver by masked messages."""
    matrix = matrix.tocsr()
    models = models.copy() if out is models else models
    for receiver in range(len(models)):
        row = slice(matrix.indptr[receiver], matrix.indptr[receiver + 1])
        senders, weights = matrix.indices[row], matrix.data[row]
        others = (senders != receiver) & (weights != 0)
        total = matrix[receiver, receiver] * models[receiver].astype(np.float64)
        if others.any():
            total += unmasked_sum(masked_messages(weights[others], models[senders[others]]))
        out[receiver] = total
    return out
