"""Prefixes: sequences of a decoder, grown token by token, each step tested against the span of a later layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensors
from fedpriv_attacks.text.span import ROOM, Reader, Span

#: Numbers that one call of the model may hold at once.
_NUMBERS = 16_000_000


@dataclass(eq=False)
class Grown:
    """What the search found.

    Attributes:
      tokens: each sequence found, without padding.
      distances: each one's root-mean-square distance from the span, over its places.
      tested: sequences tested.
      late: whether the deadline ended the search.
      forced: places at which nothing passed, so that the nearest were kept.
      options: each place's tokens, where these were told by themselves.
    """

    tokens: list[np.ndarray] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    tested: int = 0
    late: bool = False
    forced: list[int] = field(default_factory=list)
    options: list[np.ndarray] = field(default_factory=list)


def chunk_size(length: int, width: int) -> int:
    """Sequences of that length to put through a block at once."""
    return max(16, _NUMBERS // (length * (8 * width + length)))


def grow(
    reader: Reader,
    weights: Tensors,
    span: Span,
    candidates: list[np.ndarray],
    most: int,
    beam: int,
    deadline: float,
) -> Grown:
    """Grows prefixes from the first place on.

    A prefix goes on with each candidate at the next place that leaves the last vector in the span up to the errors
    expected; it has ended where none does. At most `beam` prefixes, those that are nearest to the
    span over all their places, go on.

    Args:
      reader: of the layer tested against, causal.
      weights: tensors in the spec's shapes.
      span: of its inputs.
      candidates: for each place the tokens to try.
      most: how many sequences there are at most; so many are kept where none passes.
      beam: prefixes kept at a place.
      deadline: of `time.monotonic`.
    """
    found = Grown()
    width = len(span.directions)
    alive = np.zeros((1, 0), np.int32)
    squares = np.zeros(1)  # mean squared distance over a prefix's places
    for place, tokens in enumerate(candidates):
        if not len(tokens):
            break
        if time.monotonic() > deadline:
            found.late = True
            break
        longer = np.concatenate([np.repeat(alive, len(tokens), 0), np.tile(tokens, len(alive))[:, None]], axis=1)
        near, ratio = last_distances(reader, weights, span, longer.astype(np.int32), width, deadline)
        found.tested += len(near)
        passes = ratio <= ROOM
        if span.spare <= 0:
            passes[:] = False
        if not passes.any():
            # One may still be right: errors can be larger than expected.
            found.forced.append(place)
            passes[np.argsort(near, kind="stable")[:most]] = True
        parents = np.repeat(np.arange(len(alive)), len(tokens))
        whole = (squares[parents] * place + np.square(near)) / (place + 1)
        chosen = np.flatnonzero(passes)
        chosen = chosen[np.argsort(whole[chosen], kind="stable")[:beam]]
        ended = np.setdiff1d(np.arange(len(alive)), parents[chosen])
        if place:
            for i in ended:
                found.tokens.append(alive[i])
                found.distances.append(float(np.sqrt(squares[i])))
        squares = whole[chosen]
        alive = longer[chosen].astype(np.int32)
    for sequence, value in zip(alive, squares, strict=True):
        if len(sequence):
            found.tokens.append(sequence)
            found.distances.append(float(np.sqrt(value)))
    return found


def last_distances(
    reader: Reader, weights: Tensors, span: Span, x: np.ndarray, width: int, deadline: float
) -> tuple[np.ndarray, np.ndarray]:
    """`Span.distances` of what the kernels see at the last place of sequences `[n, places]`; infinite for those
    that the deadline left no time for."""
    near, ratio = np.full(len(x), np.inf), np.full(len(x), np.inf)
    size = chunk_size(x.shape[1], width)
    for i in range(0, len(x), size):
        if i and time.monotonic() > deadline:
            break
        part = reader.inputs(weights, tf.constant(x[i : i + size]))[:, -1].numpy()
        near[i : i + size], ratio[i : i + size] = span.distances(part)
    return near, ratio


#: Inputs `[n, width]` of one place for all tokens.
Table = Callable[[int], np.ndarray]


def token_table(reader: Reader, weights: Tensors, tokens: np.ndarray, length: int) -> np.ndarray:
    """What enters the first attention for each token at each place, `[length, tokens, width]` float32.

    A first attention's inputs at a place depend on nothing but the token there.
    """
    width = int(weights[reader.kernels[0]].shape[0])
    parts, size = [], max(16, _NUMBERS // (length * width))
    for i in range(0, len(tokens), size):
        x = np.repeat(tokens[i : i + size, None], length, axis=1).astype(np.int32)
        parts.append(reader.inputs(weights, tf.constant(x)).numpy())
    return np.concatenate(parts).transpose(1, 0, 2)
