"""Encoder: whole sequences searched for, where each place sees all others and none can be tested before the rest."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, generator
from fedpriv.base.types import Tensors
from fedpriv_attacks.text.prefixes import Grown, chunk_size
from fedpriv_attacks.text.span import ROOM, Reader, Span

#: Starts that go on side by side.
_SIDE = 8
#: Ratio up to which a sequence ends the search: those that differ in order alone are near to each other, so that wrong
#: ones can be within the room for errors. True ones have been at a half.
_SURE = 1.0


class _Test:
    """Distances of whole sequences from a span."""

    def __init__(
        self,
        reader: Reader,
        weights: Tensors,
        span: Span,
        reading: Literal["all", "first", "last"],
        padding: int | None,
    ) -> None:
        self._weights, self._span = weights, span
        self._reading, self._padding = reading, padding
        self.tested = 0

        @tf.function(autograph=False, reduce_retracing=True)
        def inputs(x):  # type: ignore[no-untyped-def]
            return reader.inputs(weights, x)

        self._inputs = inputs

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For `[n, length]`: root-mean-square distances over the places read, and the largest ratio; see `Span`."""
        near, ratio = np.zeros(len(x)), np.zeros(len(x))
        size = chunk_size(x.shape[1], len(self._span.directions))
        self.tested += len(x)
        for i in range(0, len(x), size):
            part = x[i : i + size]
            found = self._inputs(tf.constant(part))
            if self._reading == "first":
                picked = found[:, 0].numpy()[:, None]
            elif self._reading == "last":
                places = self._real(part).cumsum(1).argmax(1)
                picked = tf.gather(found, places, batch_dims=1).numpy()[:, None]
            else:
                picked = found.numpy()
            d, r = self._span.distances(picked.reshape(-1, picked.shape[-1]))
            d, r = d.reshape(len(part), -1), r.reshape(len(part), -1)
            if self._reading == "all":
                real = self._real(part)
                many = np.maximum(real.sum(1), 1)
                near[i : i + size] = np.sqrt((np.square(d) * real).sum(1) / many)
                ratio[i : i + size] = (r * real).max(1)
            else:
                near[i : i + size], ratio[i : i + size] = d[:, 0], r[:, 0]
        return near, ratio

    def _real(self, x: np.ndarray) -> np.ndarray:
        return x != self._padding if self._padding is not None else np.ones(x.shape, bool)


def search_whole(
    reader: Reader,
    weights: Tensors,
    span: Span,
    reading: Literal["all", "first", "last"],
    candidates: list[np.ndarray],
    near: list[np.ndarray],
    most: int,
    padding: int | None,
    starts: int,
    deadline: float,
    seed: int,
) -> Grown:
    """Searches the sequences that can be made of each place's candidates.

    The number of such sequences grows with the power of the length, so they are not all tried where that is too many:
    from sequences of near candidates, one token after the other is exchanged for the candidate that brings the whole
    nearest to the span, until none does. A place's choice moves the tested vector by little and in a direction of its
    own, so there are few traps. Starts use tokens at places that no sequence found has used, as far as there are any.
    The search ends when `most` sequences pass.

    Args:
      reader: of the layer tested against.
      weights: tensors in the spec's shapes.
      span: of its inputs.
      reading: which places of a sequence the span holds.
      candidates: for each place the tokens to try; padding is tried besides, if there is any.
      near: the candidates' distances at the first layer.
      most: how many sequences there are.
      padding: the token that fills up short sequences.
      starts: how often to start at most.
      deadline: of `time.monotonic`.
      seed: of the starts.
    """
    found = Grown()
    if any(not len(c) for c in candidates):
        if padding is None:
            return found
        cut = next(i for i, c in enumerate(candidates) if not len(c))
        if not cut:
            return found
        length = len(candidates)
        candidates = [*candidates[:cut], *([np.array([padding], np.int32)] * (length - cut))]
        near = [*near[:cut], *([np.ones(1)] * (length - cut))]
    options, weighed = [], []
    for place, (tokens, distances) in enumerate(zip(candidates, near, strict=True)):
        if padding is not None and place and padding not in tokens:
            tokens, distances = np.append(tokens, padding), np.append(distances, distances.max())
        options.append(tokens.astype(np.int32))
        weighed.append(distances)
    test = _Test(reader, weights, span, reading, padding)
    rng = generator(seed, Purpose.ATTACK)
    best: dict[tuple[int, ...], tuple[float, float]] = {}
    rounds = 0
    while rounds * _SIDE < starts and time.monotonic() < deadline:
        passed = [s for s, (_, r) in best.items() if r <= _SURE]
        if len(passed) >= most:
            break
        x = _starts(rng, options, weighed, passed, rounds * _SIDE)
        x, d, r, late = _descend(test, x, options, rng, deadline)
        found.late |= late
        for sequence, distance, ratio in zip(x, d, r, strict=True):
            best[tuple(int(t) for t in sequence)] = (float(distance), float(ratio))
        rounds += 1
    found.late |= time.monotonic() >= deadline
    order = sorted(best, key=lambda s: (best[s][1] > ROOM, best[s][0]))
    for sequence in _apart(order, best, most):
        row = np.array(sequence, np.int32)
        if padding is not None:
            real = np.flatnonzero(row != padding)
            row = row[: real[-1] + 1] if len(real) else row[:0]
        found.tokens.append(row)
        found.distances.append(best[sequence][0])
    found.tested = test.tested
    return found


def _apart(
    order: list[tuple[int, ...]], best: dict[tuple[int, ...], tuple[float, float]], most: int
) -> list[tuple[int, ...]]:
    """The best sequences: all that pass, then those that differ in most places from what is taken."""
    taken: list[tuple[int, ...]] = []
    for sequence in order:
        if len(taken) >= most:
            break
        passes = best[sequence][1] <= _SURE
        alike = max((np.mean(np.array(sequence) == np.array(t)) for t in taken), default=0.0)
        if passes or alike < 0.7:
            taken.append(sequence)
    return taken


def _starts(
    rng: np.random.Generator,
    options: list[np.ndarray],
    near: list[np.ndarray],
    passed: list[tuple[int, ...]],
    before: int,
) -> np.ndarray:
    """`[_SIDE, length]`: near candidates, of those that no sequence found uses at the place where there are any; the
    first place goes through all of its own in turn."""
    x = np.zeros((_SIDE, len(options)), np.int32)
    for place, (tokens, distances) in enumerate(zip(options, near, strict=True)):
        free = np.array([t not in {s[place] for s in passed} for t in tokens])
        usable = np.flatnonzero(free) if free.any() else np.arange(len(tokens))
        if place == 0:
            x[:, 0] = tokens[usable[(before + np.arange(_SIDE)) % len(usable)]]
            continue
        weight = 1.0 / np.maximum(distances[usable], 1e-3 + distances[usable].min())
        x[:, place] = tokens[rng.choice(usable, _SIDE, p=weight / weight.sum())]
    return x


def _descend(
    test: _Test, x: np.ndarray, options: list[np.ndarray], rng: np.random.Generator, deadline: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Exchanges one token after the other; the first place last."""
    d, r = test(x)
    for sweep in range(20):
        moved = False
        order = [*(1 + rng.permutation(len(options) - 1)), *([0] if sweep % 2 else [])]
        for place in order:
            tokens = options[place]
            if len(tokens) < 2:
                continue
            if time.monotonic() > deadline:
                return x, d, r, True
            tried = np.repeat(x, len(tokens), 0)
            tried[:, place] = np.tile(tokens, len(x))
            near, ratio = test(tried)
            near, ratio = near.reshape(len(x), -1), ratio.reshape(len(x), -1)
            pick = near.argmin(1)
            rows = np.arange(len(x))
            better = near[rows, pick] < d * (1 - 1e-9)
            moved |= bool(better.any())
            x[better, place] = tokens[pick[better]]
            d, r = np.where(better, near[rows, pick], d), np.where(better, ratio[rows, pick], r)
        if not moved and sweep % 2:
            break
    return x, d, r, False
