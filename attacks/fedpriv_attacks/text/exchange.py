"""Exchange: tokens known by place, sorted into sequences by replaying the update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, generator
from fedpriv.base.types import Tensor
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View

#: Targets tried one by one at most.
_CLASSES = 64


def exchange(
    view: View,
    found: list[np.ndarray],
    options: list[np.ndarray],
    n: int,
    padding: int | None,
    enough: float,
    deadline: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Sorts each place's tokens into sequences such that the replayed update is the one observed.

    The span of a batch's inputs tells which tokens stand at a place, but where errors blur it not always which of them
    belong together. The replayed update does: a token's row of the table moves as its sequence wants. From the
    sequences found, and what is left over at each place for the others, two sequences exchange the tokens at one place,
    or all from a place on, one takes another of the place's tokens, or another target, as long as the replay comes
    nearer. When nothing helps, the sorting starts again.

    Args:
      view: able to replay one local step.
      found: sequences without padding, likely ones first.
      options: for each place the tokens there, at most as many as sequences where they could be told.
      n: how many sequences there are.
      padding: the token that fills up short ones.
      enough: relative squared distance of the replay that ends the search.
      deadline: of `time.monotonic`.
      seed: of the order of exchanges.

    Returns:
      Sequences `[n, length]`, targets `[n]`, and the relative squared distance; None where places lack tokens or there
      are too many classes.
    """
    classes = view.model.num_classes
    if not 2 <= classes <= _CLASSES or not len(options[0]):
        return None
    rng = generator(seed, Purpose.ATTACK)
    misfit = _misfit(view)
    best: tuple[np.ndarray, np.ndarray, float] | None = None
    first = True
    while time.monotonic() < deadline and (best is None or best[2] > enough):
        x = _sorted(found if first else [], options, n, padding, rng)
        first = False
        y = rng.integers(0, classes, n)
        values = misfit(x, y)
        stuck, by = 0, 0
        # Where one distance is at a trap's bottom the other one often is not.
        while stuck < 2 and values[0] > enough and time.monotonic() < deadline:
            moved = False
            for a, b in _moves(x, y, options, classes, padding, rng):
                tried = misfit(a, b)
                if tried[by] < values[by] * (1 - 1e-6):
                    x[:], y[:], values, moved = a, b, tried, True
                if values[0] <= enough or time.monotonic() > deadline:
                    break
            if best is None or values[0] < best[2]:
                best = x.copy(), y.astype(np.int32), values[0]
            stuck = 0 if moved else stuck + 1
            by = by if moved else 1 - by
    return best


def _misfit(view: View) -> Callable[[np.ndarray, np.ndarray], tuple[float, float]]:
    """The replayed update's squared distance from the one observed, relative to the latter's square, and the sum of
    such of each tensor.

    How sequences are made up shows in tensors whose gradients are small, as those of an attention's queries.
    """
    spec = view.model.spec
    observed = np.asarray(view.observed, np.float64)
    weights = np.zeros(len(observed))
    for name in spec.names:
        power = float(np.sum(np.square(observed[spec.slice_of(name)])))
        if power:
            weights[spec.slice_of(name)] = 1 / power
    power = float(observed @ observed) or 1.0
    seen, by_tensor = tf.constant(observed, spec.dtype), tf.constant(weights, tf.float64)

    @tf.function(autograph=False)
    def distances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        squares = tf.square(tf.cast(view.simulate(x, y) - seen, tf.float64))
        return tf.reduce_sum(squares * by_tensor), tf.reduce_sum(squares)

    def misfit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        with unmeasured():
            relative, whole = distances(tf.constant(x, spec.dtype), tf.constant(y, tf.int32))
        return float(whole) / power, float(relative)

    return misfit


def _sorted(
    found: list[np.ndarray], options: list[np.ndarray], n: int, padding: int | None, rng: np.random.Generator
) -> np.ndarray:
    """`[n, length]`: sequences found that share no place's token, and others of what they leave over."""
    length = len(options)
    x = np.full((n, length), -1, np.int64)
    rows = 0
    for sequence in found:
        if rows == n:
            break
        if all(t not in x[:rows, p] for p, t in enumerate(sequence)):
            x[rows, : len(sequence)] = sequence
            rows += 1
    left = [rng.permutation([t for t in tokens if t not in x[:rows, p]]) for p, tokens in enumerate(options)]
    if padding is None:
        alive = np.full(length, n - rows)
    else:
        alive = np.maximum.accumulate(np.array([len(tokens) for tokens in left])[::-1])[::-1]
        alive = np.minimum(alive, n - rows)
        alive[0] = n - rows
    for p, tokens in enumerate(left):
        for row in range(rows, rows + int(alive[p])):
            k = row - rows
            x[row, p] = tokens[k] if k < len(tokens) else rng.choice(options[p]) if len(options[p]) else -1
    x[x < 0] = padding or 0
    return x


def _moves(
    x: np.ndarray,
    y: np.ndarray,
    options: list[np.ndarray],
    classes: int,
    padding: int | None,
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Changes of `x` `[n, length]` and `y` `[n]`, each of them as these stand when it is made."""
    n, length = x.shape
    for i in range(n):
        for target in range(classes):
            if target != y[i]:
                b = y.copy()
                b[i] = target
                yield x, b
    for place in rng.permutation(length):
        for i in range(n):
            for j in range(i):
                for tail in (False, True):
                    where = slice(place, length) if tail else slice(place, place + 1)
                    a = x.copy()
                    a[[i, j], where] = a[[j, i], where]
                    if _proper(a, padding) and not np.array_equal(a, x):
                        yield a, y
        for i in range(n):
            for token in [*options[place], *([padding] if padding is not None and place else [])]:
                a = x.copy()
                a[i, place] = token
                if token != x[i, place] and _proper(a, padding):
                    yield a, y


def _proper(x: np.ndarray, padding: int | None) -> bool:
    """Whether padding stands at the ends alone."""
    if padding is None:
        return True
    real = x != padding
    return bool(real[:, 0].all() and np.all(real[:, :-1] | ~real[:, 1:]))
