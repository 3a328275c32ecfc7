"""Language model: how likely a sequence of tokens is, by what was counted in other text of the same kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor

#: Longest sequences of tokens counted.
ORDER = 3


class NGrams(NamedTuple):
    """Counts of sequences of one to three tokens; arrays, or tensors in a graph.

    The probability of a token after others mixes what was counted after both, after the last and anywhere, each with a
    weight of its own by how many different tokens followed (Witten, Bell 1991, "The zero-frequency problem", IEEE
    Trans. Information Theory 37(4)), down to one over the vocabulary. Before a sequence and after it stand tokens of
    their own, so that how sequences begin and end counts.

    Attributes:
      keys: of each order, int64 `[m]` ascending, the sequences counted, as numbers `a S^2 + b S + c` with S symbols.
      counts: of each order, float `[m]`.
      contexts: of each order, int64 `[c]` ascending, the sequences that something followed.
      totals: of each order, float `[c]`, how often something did.
      kinds: of each order, float `[c]`, how many different tokens did.
    """

    keys: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]
    contexts: tuple[Tensor, ...]
    totals: tuple[Tensor, ...]
    kinds: tuple[Tensor, ...]


def count(x: np.ndarray, vocabulary: int, padding: int | None) -> NGrams:
    """Counts text.

    Args:
      x: token numbers `[m, length]`, any type.
      vocabulary: how many tokens there are.
      padding: the token that fills up, which is not counted; None where there is none.

    Raises:
      ParameterError: no text, tokens beyond the vocabulary, or a vocabulary of more than two million tokens.
    """
    x = np.asarray(x).astype(np.int64)
    if not x.size or x.min() < 0 or x.max() >= vocabulary:
        raise ParameterError(
            f"a language model needs sequences of tokens below {vocabulary}, got {x.shape} with tokens "
            f"{'' if not x.size else f'{x.min()} to {x.max()}'}"
        )
    symbols = vocabulary + 2
    if symbols**ORDER >= 2**63:
        raise ParameterError(f"a vocabulary of {vocabulary} tokens is too large for a language model of {ORDER} tokens")
    lengths = np.full(len(x), x.shape[1]) if padding is None else (x != padding).sum(1)
    text = framed(x, lengths, vocabulary)
    used = np.arange(text.shape[1])[None] < (lengths + ORDER)[:, None]
    keys, counts, contexts, totals, kinds = [], [], [], [], []
    for order in range(1, ORDER + 1):
        first = ORDER - order
        number = np.zeros((len(text), text.shape[1] - ORDER + 1), np.int64)
        for k in range(order):
            number = number * symbols + text[:, first + k : text.shape[1] - order + 1 + k]
        found, many = np.unique(number[used[:, ORDER - 1 :]], return_counts=True)
        before = found // symbols
        place, at = np.unique(before, return_inverse=True)
        keys.append(found)
        counts.append(many.astype(np.float64))
        contexts.append(place)
        totals.append(np.bincount(at, many).astype(np.float64))
        kinds.append(np.bincount(at).astype(np.float64))
    return NGrams(tuple(keys), tuple(counts), tuple(contexts), tuple(totals), tuple(kinds))


def framed(x: np.ndarray, lengths: np.ndarray, vocabulary: int) -> np.ndarray:
    """`[m, length + 3]`: sequences after two tokens `vocabulary` and before one `vocabulary + 1`, zeros after that."""
    text = np.zeros((len(x), x.shape[1] + ORDER), np.int64)
    text[:, : ORDER - 1] = vocabulary
    text[:, ORDER - 1 : -1] = x
    after = np.arange(text.shape[1])[None] - (lengths + ORDER - 1)[:, None]
    text[after > 0] = 0
    text[after == 0] = vocabulary + 1
    return text


def nats(ngrams: NGrams, tokens: Tensor, present: Tensor, vocabulary: int) -> Tensor:
    """Mean negative log-likelihood of a token, the end being one, `[m]` float64; traceable.

    Args:
      ngrams: tensors.
      tokens: int `[m, length]`.
      present: `[m, length]` of 1 where a sequence has a token and 0 after its end.
      vocabulary: how many tokens there are.
    """
    symbols, length = tf.constant(vocabulary + 2, tf.int64), tokens.shape[1]
    tokens, there = tf.cast(tokens, tf.int64), tf.cast(present, tf.int64)
    lengths = tf.reduce_sum(there, 1, keepdims=True)
    start = tf.fill([tf.shape(tokens)[0], ORDER - 1], tf.constant(vocabulary, tf.int64))
    body = tf.concat([tokens * there, tf.zeros_like(tokens[:, :1])], 1)
    places = tf.range(length + 1, dtype=tf.int64)[None]
    body = tf.where(places == lengths, tf.constant(vocabulary + 1, tf.int64), body)
    text = tf.concat([start, body], 1)
    likely = tf.fill(tf.shape(body), tf.constant(1 / (vocabulary + 1), tf.float64))
    for order in range(1, ORDER + 1):
        context = tf.zeros_like(body)
        for k in range(order - 1):
            first = ORDER - order + k
            context = context * symbols + text[:, first : first + length + 1]
        i = order - 1
        seen = _looked_up(ngrams.keys[i], ngrams.counts[i], context * symbols + body)
        total = _looked_up(ngrams.contexts[i], ngrams.totals[i], context)
        kinds = _looked_up(ngrams.contexts[i], ngrams.kinds[i], context)
        likely = tf.where(total > 0, (seen + kinds * likely) / tf.maximum(total + kinds, 1), likely)
    counted = tf.cast(places <= lengths, tf.float64)
    return -tf.reduce_sum(tf.math.log(likely) * counted, 1) / tf.reduce_sum(counted, 1)


def _looked_up(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """The value of each key wanted, 0 for those that are not there."""
    flat = tf.reshape(wanted, [-1])
    place = tf.minimum(tf.searchsorted(keys, flat), tf.size(keys) - 1)
    found = tf.where(tf.gather(keys, place) == flat, tf.gather(values, place), tf.zeros([], tf.float64))
    return tf.reshape(found, tf.shape(wanted))


def perplexity(ngrams: NGrams, x: np.ndarray, vocabulary: int, padding: int | None) -> float:
    """Exponential of the mean nats of sequences `[m, length]`, each sequence counting the same."""
    x = np.asarray(x)
    present = np.ones(x.shape) if padding is None else x != padding
    tensors = NGrams(*(tuple(tf.constant(a) for a in part) for part in ngrams))
    return math.exp(float(np.mean(nats(tensors, tf.constant(x), tf.constant(present, tf.float64), vocabulary).numpy())))


def flat(ngrams: NGrams) -> tuple[Tensor, ...]:
    """All arrays in a row."""
    return tuple(a for part in ngrams for a in part)


def unflat(arrays: Sequence[Tensor]) -> NGrams:
    """The inverse of `flat`."""
    parts = [tuple(arrays[i : i + ORDER]) for i in range(0, len(arrays), ORDER)]
    return NGrams(*parts)
