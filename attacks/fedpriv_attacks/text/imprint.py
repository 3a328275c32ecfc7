"""Imprint: a transformer's weights changed so that dense parts show single tokens, and how to read such weights back.

Planting and reading share what is said here, so that an attack needs nothing but the weights that were broadcast.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.models.transformer import sinusoids

#: What layer normalizations add to a variance.
_TINY = 1e-5
#: By how much the attention's score of the place that a head is to look at exceeds any other's.
_LEAD = 30.0
#: How far from 0 the derivative of GELU is 0 or 1, to single precision.
_TURN = 5.0
#: Examples of representations drawn for each bin, and at least in all.
_EACH, _LEAST = 64, 32768
#: The first places that attention passes on.
_PLACES = 4
#: Second-layer signs of four units that follow each other: straight lines cancel, so that activations add up to little.
_SIGNS = (1.0, -1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Parts:
    """A transformer by its tensors' names.

    Attributes:
      model: as it was made.
      blocks: how many.
      width: of the embedding.
      causal: a decoder with its normalization before each part, or an encoder with it after.
      each: whether there is an output at each place.
    """

    model: Model
    blocks: int
    width: int
    causal: bool
    each: bool

    @property
    def imprinted(self) -> range:
        """Blocks whose dense part all tokens' gradients reach: all, or all but the last where one place is read."""
        return range(self.blocks if self.each else self.blocks - 1)

    def heads(self) -> int:
        """Of the first attention."""
        return self.model.attention[0].heads or 1


def parts_of(model: Model, who: str) -> Parts:
    """What is told apart in `gpt` and `bert`.

    Args:
      model: any.
      who: who asks, such as "act 'decepticons'", for errors.

    Raises:
      CapabilityError: another model, one that is too narrow, or too few blocks for its task.
    """
    spec = model.spec
    blocks = len({m[1] for n in spec.names if (m := re.match(r"(block\d+)/wide/kernel$", n))})
    names = {f"block{i}/{part}/kernel" for i in range(blocks) for part in ("query", "attended", "wide", "narrow")}
    if model.embedding is None or not model.attention or not blocks or not names <= set(spec.names):
        what = "takes no tokens" if model.embedding is None else "has no such blocks" if model.attention else "has none"
        raise CapabilityError(
            f"{who} works on blocks of self-attention and two dense layers, as in 'gpt' and 'bert', but model "
            f"'{model.name}' {what}; use one of these"
        )
    width = spec.shapes[model.embedding.table][1]
    each = isinstance(model.task, NextToken)
    if width < 16:
        raise CapabilityError(f"{who} needs a width of at least 16, but model '{model.name}' has {width}")
    if blocks == 1 and not each:
        raise CapabilityError(
            f"{who} needs a second attention where one place of a sequence is read, since it brings gradients to the "
            f"other places, but model '{model.name}' has one block; use layers=2, or a next-token task"
        )
    return Parts(model, blocks, width, model.attention[0].causal, each)


@dataclass(frozen=True, eq=False)
class Imprint:
    """What planted weights show.

    Attributes:
      parts: the transformer.
      bins: k, how many bins all blocks have.
      signs: of each unit's gradient, `[units]`.
      gain: of the normalization before a wide layer, in which the steepness of the measurement lies.
      constant: the dimension in which a wide layer sees `gain` whatever the token, and has its thresholds.
      passed: by head, the dimensions that it passes the first places' values on in, `[m]`.
      strength: what these values are multiplied with.
      pushed: dimensions that the second dense layers write to.
    """

    parts: Parts
    bins: int
    signs: np.ndarray
    gain: float
    constant: int
    passed: tuple[np.ndarray, ...]
    strength: float
    pushed: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """Dimensions that hold nothing but a token and its place."""
        taken = np.concatenate([*self.passed, self.pushed, [self.constant]])
        return np.setdiff1d(np.arange(self.parts.width), taken)


def normalized(h: np.ndarray) -> np.ndarray:
    """A layer normalization without gain and offset, over the last axis."""
    centred = h - h.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + _TINY))


def tokens_and_places(parts: Parts, flat: np.ndarray) -> np.ndarray:
    """What a token at a place is before the first attention, `[places, vocabulary, width]` float64."""
    model, spec = parts.model, parts.model.spec
    embedding, (length,) = model.embedding, model.input_shape
    assert embedding is not None
    w = dict(zip(spec.names, spec.unflatten_numpy(np.asarray(flat, np.float64)), strict=True))
    table = w[spec.names[embedding.table]]
    places = sinusoids(length, parts.width) if embedding.positions is None else w[spec.names[embedding.positions]]
    h = places[:, None, :] + table[None]
    if parts.causal:
        return np.asarray(h)
    return normalized(h) * w["embedding_norm/gamma"] + w["embedding_norm/beta"]


def sources(parts: Parts, h: np.ndarray) -> np.ndarray:
    """What the first attention sees of these, in planted weights."""
    return normalized(h) if parts.causal else h


@functools.lru_cache(maxsize=8)
def plant(model: Model, weights: bytes, seed: int, blur: float, change: float, who: str) -> np.ndarray:
    """Planted weights `[d]`.

    Args:
      model: whose.
      weights: the bytes of those to change, in the model's precision.
      seed: of the measurement and of what is drawn.
      blur: which share of the median bin the turn of a unit's derivative takes.
      change: how much the dense parts change a token's representation, relative to it.
      who: for errors.
    """
    parts = parts_of(model, who)
    spec, width = model.spec, parts.width
    dtype = np.dtype(spec.dtype)
    flat = np.frombuffer(weights, dtype).astype(np.float64)
    w = dict(zip(spec.names, (a.copy() for a in spec.unflatten_numpy(flat)), strict=True))
    draws = np.random.default_rng(seed)
    units = spec.shapes[spec.names.index("block0/wide/kernel")][1]
    bins = len(parts.imprinted) * (units - 1) + 1
    _enlarge(parts, w, 100.0 * bins)  # about the largest activation
    h = tokens_and_places(parts, spec.flatten_numpy([w[n] for n in spec.names]))
    spread = float(np.sqrt(np.mean((h - h.mean(-1, keepdims=True)) ** 2)))
    heads = parts.heads()
    each = width // heads
    many = min(heads, _PLACES, len(h), width // 8)  # two dimensions each at least
    mixed = draws.permutation(width)
    share = min(each, width // 4 // many)
    passed = tuple(np.sort(mixed[j * share : (j + 1) * share]) for j in range(many))
    pushed = np.sort(mixed[many * share : many * share + max(2, width // 8)])
    constant = int(mixed[-1])

    for block in range(parts.blocks):
        for norm in ("norm1", "norm2"):
            w[f"block{block}/{norm}/gamma"][:], w[f"block{block}/{norm}/beta"][:] = 1, 0
        for part in ("query", "key", "value", "attended"):
            w[f"block{block}/{part}/kernel"][:], w[f"block{block}/{part}/bias"][:] = 0, 0
    looks = _looks(sources(parts, h), many)
    for j, look in enumerate(looks):
        w["block0/key/kernel"][:, j * each] = look
        w["block0/query/bias"][j * each] = np.sqrt(each)
        slots = j * each + np.arange(share)
        w["block0/value/kernel"][passed[j], slots] = 1
        w["block0/attended/kernel"][slots, passed[j]] = spread
    drawn = _drawn(parts, h, passed, spread, max(_LEAST, _EACH * bins), draws)
    measurement = draws.normal(size=width)
    measurement[pushed], measurement[constant] = 0, 0
    used = measurement != 0
    measurement[used] -= measurement[used].mean()
    measurement /= (drawn @ measurement).std()
    values = np.sort(drawn @ measurement)
    edges = np.quantile(values, np.arange(bins) / bins)
    edges[0] = values[0] - values.std()
    steepness = 2 * _TURN / (blur * float(np.median(np.diff(edges[1:]))))
    signs = np.resize(_SIGNS, units)
    push = np.zeros(width)
    push[pushed] = np.resize((1.0, -1.0), len(pushed)) / np.sqrt(len(pushed))
    # Fixed positions cannot be enlarged; where no later block has bins, a large constant does the same.
    constants = parts.causal and model.embedding is not None and model.embedding.positions is None
    constants = constants and len(parts.imprinted) == 1
    size = steepness if not parts.causal or constants else spread
    for block in parts.imprinted:
        own = edges[block * (units - 1) : block * (units - 1) + units]
        some = values[:: max(1, len(values) // 4096)]
        added = np.maximum(steepness * (some[:, None] - own), 0) @ signs
        middle = float(np.median(added))
        scale = change * size * np.sqrt(width) / max(float(np.quantile(np.abs(added - middle), 0.9)), steepness * 1e-6)
        # Small weights and large inputs: a client's update is the difference of rounded weights.
        norm = f"block{block}/{'norm2' if parts.causal else 'norm1'}"
        w[f"{norm}/gamma"][:], w[f"{norm}/gamma"][constant], w[f"{norm}/beta"][constant] = steepness, 0, steepness
        w[f"block{block}/wide/kernel"][:] = measurement[:, None]
        w[f"block{block}/wide/kernel"][constant], w[f"block{block}/wide/bias"][:] = -own, 0
        w[f"block{block}/narrow/kernel"][:] = scale * signs[:, None] * push
        w[f"block{block}/narrow/bias"][:] = -scale * middle * push
        if constants:
            w[f"block{block}/narrow/bias"][used] += steepness * np.resize((1.0, -1.0), used.sum())
    if not parts.each:  # the mean of all places, to the place that is read
        last = f"block{parts.blocks - 1}"
        w[f"{last}/value/kernel"][:] = np.eye(width)
        w[f"{last}/attended/kernel"][:] = np.eye(width) * (size if parts.causal else 1)
        w[f"{last}/narrow/kernel"][:], w[f"{last}/narrow/bias"][:] = 0, 0
    _louder(parts, w)
    return spec.flatten_numpy([w[n].astype(dtype) for n in spec.names])


def _looks(seen: np.ndarray, many: int) -> np.ndarray:
    """Directions `[many, width]` whose product with what stands at place j leads that of other places by `_LEAD`.

    Linear discriminants of one place against the others, whatever the tokens; `seen` is `[places, vocabulary, width]`.
    """
    flat = seen.reshape(-1, seen.shape[-1])
    mean = flat.mean(0)
    scatter = (flat - mean).T @ (flat - mean) / len(flat)
    scatter += np.eye(len(mean)) * np.trace(scatter) / len(mean) * 1e-4
    found: list[np.ndarray] = []
    for j in range(many):
        look = np.linalg.solve(scatter, seen[j].mean(0) - mean)
        scores = seen @ look
        others = np.delete(scores, j, axis=0)
        if not others.size:
            found.append(look * 0)
            continue
        lead = float(np.quantile(scores[j], 1e-3) - np.quantile(others, 1 - 1e-3))
        typical = float(np.median(scores[j]) - np.median(others))
        found.append(look * _LEAD / max(lead, 0.1 * typical))
    return np.array(found)


def _drawn(
    parts: Parts, h: np.ndarray, passed: tuple[np.ndarray, ...], strength: float, count: int, draws: np.random.Generator
) -> np.ndarray:
    """What enters the first wide layer for tokens, places and first tokens at random, `[count, width]`."""
    places, tokens = h.shape[:2]
    where, what = draws.integers(places, size=count), draws.integers(tokens, size=count)
    found = h[where, what].copy()
    for j, dimensions in enumerate(passed):
        other = draws.integers(tokens, size=count)
        at = np.full(count, j)
        if parts.causal:  # what comes later is not seen, so some place before is passed on
            at = np.where(where >= j, j, draws.integers(places, size=count) % (where + 1))
        own = at == where
        other[own] = what[own]
        found[:, dimensions] += strength * sources(parts, h[at, other])[:, dimensions]
    return normalized(found)


def _enlarge(parts: Parts, w: dict[str, np.ndarray], size: float) -> None:
    """Makes a decoder's tokens and places as large as what its dense parts make of them.

    Normalizations undo it, but the gradients of second layers shrink to the size of the others': an update in which
    they stand out would be clipped to them. Where positions are fixed, tokens are made as large as these.
    """
    embedding = parts.model.embedding
    assert embedding is not None
    table = w[parts.model.spec.names[embedding.table]]
    if not parts.causal:
        return
    if embedding.positions is None:
        table *= sinusoids(parts.model.input_shape[0], parts.width).std() / max(float(table.std()), 1e-12)
        return
    places = w[parts.model.spec.names[embedding.positions]]
    if embedding.tied:  # the last normalization's gain gets the table's size as its gradient
        size = np.sqrt(size)
    factor = size / max(float(np.hypot(table.std(), places.std())), 1e-12)
    table *= factor
    places *= factor


def _louder(parts: Parts, w: dict[str, np.ndarray]) -> None:
    """The head's kernel scaled so that logits vary by about 1: small ones would leave small gradients."""
    spec = parts.model.spec
    embedding = parts.model.embedding
    assert embedding is not None
    if parts.causal:
        head = w.get("head/kernel", w[spec.names[embedding.table]].T)
        w["norm/gamma"][:], w["norm/beta"][:] = 1 / max(float(head.std()) * np.sqrt(parts.width), 1e-12), 0
        return
    for name in ("pooled/kernel", "head/kernel"):
        w[name] /= max(float(w[name].std()) * np.sqrt(parts.width), 1e-12)


def read_imprint(model: Model, flat: np.ndarray, who: str) -> Imprint | None:
    """The imprint that weights `[d]` carry; None for weights that nobody planted.

    Raises:
      CapabilityError: see `parts_of`.
    """
    parts = parts_of(model, who)
    spec = model.spec
    w = _float_weights(spec, flat)
    norm = "norm2" if parts.causal else "norm1"
    (constant,) = found if len(found := np.flatnonzero(w[f"block0/{norm}/beta"])) == 1 else (-1,)
    gain = float(w[f"block0/{norm}/beta"][constant])
    for block in parts.imprinted:
        kernel = w[f"block{block}/wide/kernel"]
        others = np.delete(kernel, constant, 0)
        if constant < 0 or np.any(others != others[:, :1]) or np.any(np.diff(kernel[constant]) > 0):
            return None
    narrow = w["block0/narrow/kernel"]
    pushed = np.flatnonzero(np.any(narrow, axis=0))
    attended = w["block0/attended/kernel"]
    each = parts.width // parts.heads()
    groups: dict[int, list[int]] = {}
    for slot in np.flatnonzero(np.any(attended, axis=1)):
        groups.setdefault(int(slot) // each, []).append(int(np.argmax(np.abs(attended[slot]))))
    if not len(pushed) or not groups:
        return None
    return Imprint(
        parts=parts,
        bins=len(parts.imprinted) * (len(narrow) - 1) + 1,
        signs=np.sign(narrow[:, pushed[0]] * narrow[0, pushed[0]]),
        gain=gain,
        constant=int(constant),
        passed=tuple(np.array(groups[j]) for j in sorted(groups)),
        strength=float(np.abs(attended).max()),
        pushed=pushed,
    )


def _float_weights(spec: Spec, flat: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(spec.names, spec.unflatten_numpy(np.asarray(flat, np.float64)), strict=True))
