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
#: Random companies in which options are tested, and how often a sequence is arrived at before the search ends.
_COMPANIES, _AGAIN = 8, 3
#: By what factor a place's wrong tokens are farther than its right ones, if the two can be told apart.
_GAP = 3.0
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
        self._reading, self.padding = reading, padding
        self.tested = 0

        @tf.function(autograph=False, reduce_retracing=True)
        def inputs(x):  # type: ignore[no-untyped-def]
            return reader.inputs(weights, x)

        self._inputs = inputs

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For `[n, length]`: mean distances over the places read, and the largest ratio; see `Span`."""
        near, ratio, real = self.by_place(x)
        # A mean, not its square: a place whose part of the span is lost in errors outweighs no others.
        return (near * real).sum(1) / np.maximum(real.sum(1), 1), (ratio * real).max(1)

    def by_place(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances, ratios and which places are read, each `[n, places]`, with one place unless all are read."""
        parts = []
        size = chunk_size(x.shape[1], len(self._span.directions))
        self.tested += len(x)
        for i in range(0, len(x), size):
            part = x[i : i + size]
            found = self._inputs(tf.constant(part))
            if self._reading == "first":
                picked = found[:, 0].numpy()[:, None]
            elif self._reading == "last":
                places = self.real(part).cumsum(1).argmax(1)
                picked = tf.gather(found, places, batch_dims=1).numpy()[:, None]
            else:
                picked = found.numpy()
            d, r = self._span.distances(picked.reshape(-1, picked.shape[-1]))
            parts.append((d.reshape(len(part), -1), r.reshape(len(part), -1)))
        near, ratio = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
        return near, ratio, self.real(x) if self._reading == "all" else np.ones(near.shape, bool)

    def real(self, x: np.ndarray) -> np.ndarray:
        return x != self.padding if self.padding is not None else np.ones(x.shape, bool)


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
    nearest to the span, until none does; ends move likewise where there is padding. A place's choice moves the tested
    vector by little and in a direction of its own, so there are few traps. Starts use tokens at places that no sequence
    found has used, as far as there are any. The search ends when `most` sequences pass, or the nearest have been
    arrived at from several starts.

    Args:
      reader: of the layer tested against.
      weights: tensors in the spec's shapes.
      span: of its inputs.
      reading: which places of a sequence the span holds.
      candidates: for each place the tokens to try.
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
        candidates = [*candidates[:cut], *([np.zeros(0, np.int32)] * (length - cut))]
        near = [*near[:cut], *([np.zeros(0)] * (length - cut))]
    options = [np.asarray(c, np.int32) for c in candidates]
    test = _Test(reader, weights, span, reading, padding)
    rng = generator(seed, Purpose.ATTACK)
    if reading == "all":
        options, near = _narrowed(test, options, most, rng, deadline)
        found.options = options
    best: dict[tuple[int, ...], tuple[float, float]] = {}
    seen: dict[tuple[int, ...], int] = {}
    rounds = 0
    while rounds * _SIDE < starts and time.monotonic() < deadline:
        passed = [s for s, (_, r) in best.items() if r <= _SURE]
        if len(passed) >= most or _settled(best, seen, most):
            break
        x = _starts(rng, options, near, passed, rounds * _SIDE, padding)
        x, d, r, late = _descend(test, x, options, rng, padding, deadline)
        found.late |= late
        for sequence, distance, ratio in zip(x, d, r, strict=True):
            key = tuple(int(t) for t in sequence)
            best[key] = (float(distance), float(ratio))
            seen[key] = seen.get(key, 0) + 1
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


def _settled(best: dict[tuple[int, ...], tuple[float, float]], seen: dict[tuple[int, ...], int], most: int) -> bool:
    """Whether the nearest sequences have each been arrived at from several starts, as the ends of wide valleys are."""
    if len(best) < most:
        return False
    nearest = sorted(best, key=lambda s: best[s][0])[:most]
    return all(seen[s] >= _AGAIN for s in nearest)


def _narrowed(
    test: _Test, options: list[np.ndarray], most: int, rng: np.random.Generator, deadline: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each place's options that are the nearest in random company, and their distances.

    A place's input depends on its own token much, and on the company little, so wrong tokens stand out before any
    sequence is right. There are at most `most` right ones at a place; twice as many stay.
    """
    longest = next((p for p, o in enumerate(options) if not len(o)), len(options))
    near = [np.full(len(o), np.inf) for o in options]
    for _ in range(2):
        size = max(len(o) for o in options)
        if size <= 1 or time.monotonic() > deadline:
            break
        near = [np.full(len(o), np.inf) for o in options]
        for _ in range(_COMPANIES):
            # Every option stands at its place in some row; the rows are shuffled place by place.
            picks = np.stack([rng.permutation(np.arange(size)) % len(o) for o in options[:longest]], axis=1)
            x = np.zeros((size, len(options)), np.int32)
            for place in range(longest):
                x[:, place] = options[place][picks[:, place]]
            if longest < len(options):
                x[:, longest:] = test.padding or 0
            d, _, _ = test.by_place(x)
            for place in range(longest):
                np.minimum.at(near[place], picks[:, place], d[:, place])
        kept = [_nearest(d, most) for d in near]
        options = [o[k] for o, k in zip(options, kept, strict=True)]
        near = [d[k] for d, k in zip(near, kept, strict=True)]
    return options, [np.where(np.isfinite(d), d, 1.0) for d in near]


def _nearest(distances: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` where a gap follows them, else of twice as many."""
    order = np.argsort(distances, kind="stable")
    falling = distances[order[: most + 1]]
    if len(falling) > 1:
        gaps = falling[1:] / np.maximum(falling[:-1], 1e-9)
        cut = int(np.argmax(gaps))
        if gaps[cut] > _GAP:
            return order[: cut + 1]
    return order[: 2 * most]


def _starts(
    rng: np.random.Generator,
    options: list[np.ndarray],
    near: list[np.ndarray],
    passed: list[tuple[int, ...]],
    before: int,
    padding: int | None,
) -> np.ndarray:
    """`[_SIDE, length]`: near candidates, of those that no sequence found uses at the place where there are any; the
    first place goes through all of its own in turn, and lengths are drawn where there is padding."""
    x = np.full((_SIDE, len(options)), padding or 0, np.int32)
    for place, (tokens, distances) in enumerate(zip(options, near, strict=True)):
        if not len(tokens):
            break
        free = np.array([t not in {s[place] for s in passed} for t in tokens])
        usable = np.flatnonzero(free) if free.any() else np.arange(len(tokens))
        if place == 0:
            x[:, 0] = tokens[usable[(before + np.arange(_SIDE)) % len(usable)]]
            continue
        weight = 1.0 / np.maximum(distances[usable], 1e-3 + distances[usable].min())
        x[:, place] = tokens[rng.choice(usable, _SIDE, p=weight / weight.sum())]
    if padding is not None:
        longest = int((x != padding).sum(1).max())
        cuts = rng.integers(1, longest + 1, _SIDE)
        x = np.where(np.arange(x.shape[1])[None] < cuts[:, None], x, padding).astype(np.int32)
    return x


def _descend(
    test: _Test,
    x: np.ndarray,
    options: list[np.ndarray],
    rng: np.random.Generator,
    padding: int | None,
    deadline: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Exchanges one token after the other, the first place last; ends are moved too where there is padding."""
    d, r = test(x)
    rows = np.arange(len(x))

    def improve(tried: np.ndarray, usable: np.ndarray) -> bool:
        """Takes the nearest of `[n, m, length]` where it is nearer; rows that are not usable stay."""
        nonlocal d, r
        near, ratio = np.full(tried.shape[:2], np.inf), np.full(tried.shape[:2], np.inf)
        if not usable.any():
            return False
        near[usable], ratio[usable] = test(tried[usable])
        pick = near.argmin(1)
        better = near[rows, pick] < d * (1 - 1e-9)
        x[better] = tried[rows, pick][better]
        d, r = np.where(better, near[rows, pick], d), np.where(better, ratio[rows, pick], r)
        return bool(better.any())

    for sweep in range(20):
        moved = False
        order = [*(1 + rng.permutation(len(options) - 1)), *([0] if sweep % 2 else [])]
        for place in order:
            tokens = options[place]
            if time.monotonic() > deadline:
                return x, d, r, True
            if not len(tokens):
                continue
            ends = test.real(x).sum(1)
            tried = np.repeat(x[:, None], len(tokens), 1)
            tried[:, :, place] = tokens
            # A token is exchanged, or one is added at the end.
            usable = (place <= ends)[:, None] & (tried != x[:, None]).any(2)
            moved |= improve(tried, usable)
        if padding is not None:
            cuts = np.arange(1, x.shape[1])
            tried = np.where(np.arange(x.shape[1])[None] < cuts[:, None], x[:, None], padding).astype(np.int32)
            moved |= improve(tried, cuts[None] < test.real(x).sum(1)[:, None])
        if not moved and sweep % 2:
            break
    return x, d, r, False
