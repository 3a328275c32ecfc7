"""Decepticons: a malicious server's transformer, whose dense parts sort tokens into bins, and what it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.codec import Codec
from fedpriv.defense.protocol import Protocol
from fedpriv.models.tasks.classes import Classes
from fedpriv.threat.acts import Act, Occasion
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.labels.last_layer import check_linear
from fedpriv_attacks.text.imprint import Imprint, parts_of, plant, read_imprint, sources, tokens_and_places

#: Ids of clients, or numbers of rounds.
Numbers = tuple[Annotated[int, Field(ge=0)], ...] | None
Share = Annotated[float, Field(gt=0, lt=1)]

_PAPER = "Fowl, Geiping, Reich, Wen, Czaja, Goldblum, Goldstein 2023, arXiv 2201.12675"

#: What a reading may be off a token by, relative to its length, and to the distance of the next best.
_OFF, _NEXT = 0.03, 0.2
#: How far apart two readings of one sequence's first places may be, relative to how much these differ by token.
_APART = 0.05
#: How much of a reading's error, in the dimensions that are known, may be in those that heads write to.
_SLACK = 4.0
#: Up to what misfit, relative to their sizes, readings tell a sequence's class.
_FIT = 1.0
#: Differences below so many units in the last place of what they are differences of are empty bins.
_ROUNDING = 30.0


class DecepticonsAct(Act):
    """Sends a transformer that sorts tokens into bins in place of the model.

    Fowl, Geiping, Reich, Wen, Czaja, Goldblum, Goldstein 2023, "Decepticons: Corrupted Transformers Breach Privacy in
    Federated Learning for Language Models", ICLR, arXiv 2201.12675. The units of each block's first dense layer all
    take the same random measurement of what they see, less thresholds at quantiles of its distribution; a token's
    gradient thus reaches the units whose threshold it exceeds, and the difference of two neighbours holds the tokens
    between. The first attention passes on what stands at the first places, one head for each, in a quarter of the
    dimensions; the others pass on nothing. Second layers are scaled so that gradients arrive, and a token changes
    little. Quantiles are of random tokens at random places, from the table and
    positions that the server broadcasts: no user's text enters.

    What differs from the paper: up to four first places are passed on rather than one, so that sequences may begin
    with the same token, and heads look at a place by a linear discriminant. The second layer's signs alternate as
    + - - +, so that the large activations that make GELU turn sharply cancel, and the representation changes by
    `change` alone. What makes them large lies in the normalization's gain, and thresholds in a row of the kernel, since
    a client sends the difference of rounded weights. A decoder's embedding is enlarged, which normalizations undo, so
    that no part of the update outweighs the bins. Blocks share their border thresholds. Where one place of a sequence
    is read (classes), gradients have to be brought to the others: the last attention then averages all places, and the
    last dense part has no bins.

    How it shows: a client that looks at the weights sees it at once. The columns of a wide kernel differ in one row
    only (rank 2; an honest one has full rank), the normalization before it has gains in the thousands, a decoder's
    embedding is larger by as much, and the attention of later blocks is zero or the mean. A client that evaluates what
    it gets finds next tokens that the last model knew badly predicted, since nothing but a token itself and the first
    places reach them; a classifier that goes by single words may keep its accuracy, so that its loss warns nobody. The
    update is many times as long as an honest one. A client that only checks shapes and finite values sees nothing, and
    clipping alone does not help.

    Attributes:
      clients: ids of those who get it; None is everybody.
      rounds: rounds in which; None is every round.
      seed: of the measurement; the same for all clients of a round, or their sum could not be read.
      blur: which share of the median bin a unit's derivative takes to turn; tokens there are in two bins.
      change: how much a dense part changes the usual token's representation, relative to it. Gradients grow with it.
    """

    name: ClassVar[str] = "decepticons"
    paper: ClassVar[str] = _PAPER

    clients: Numbers = None
    rounds: Numbers = None
    seed: Annotated[int, Field(ge=0)] = 0
    blur: Share = 0.1
    change: Share = 0.1

    def describe(self) -> str:
        """In words."""
        who = "every client" if self.clients is None else f"clients {list(self.clients)}"
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        return (
            f"the weights it sends to {who}{when} (dense parts that sort tokens into bins by a measurement, attention "
            "that passes on a sequence's first places; the rest of the model is broken by it)"
        )

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The planted weights `[d]`, for whom they are meant.

        Raises:
          CapabilityError: the model is neither like `gpt` nor like `bert`, too narrow, or has too few blocks.
          ParameterError: the occasion does not say of which model the weights are.
        """
        if self.clients is not None and occasion.client not in self.clients:
            return weights
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        model = occasion.model
        if model is None:
            raise ParameterError(f"act '{self.name}': the occasion names no model; give Occasion(..., model=model)")
        given = np.ascontiguousarray(weights, model.spec.dtype).tobytes()
        planted = plant(model, given, self.seed, self.blur, self.change, f"act '{self.name}'")
        return planted.astype(weights.dtype)


@dataclass(eq=False)
class _Reading:
    """A bin that holds one token.

    Attributes:
      block, bin: which.
      place, token: what stands there.
      firsts: what the heads passed on, by head `[m]`; fewer where the place sees fewer of the first ones.
      size: what the token left in the dimension that is the same for all.
      slack: what the firsts may be off by, for each unit of how far the reading is from its token.
    """

    block: int
    bin: int
    place: int
    token: int
    firsts: list[np.ndarray]
    size: float
    slack: float


@dataclass(eq=False)
class _Group:
    """Readings of one sequence, or of several that begin alike: tokens by place, and what was passed on."""

    firsts: list[np.ndarray]
    tokens: dict[int, list[int]] = field(default_factory=dict)
    readings: list[_Reading] = field(default_factory=list)


class Decepticons(Attack):
    """Reads tokens off the bins of a transformer that act `decepticons` planted.

    Fowl, Geiping, Reich, Wen, Czaja, Goldblum, Goldstein 2023, arXiv 2201.12675; see the act `decepticons` for the
    weights, without which this attack is refused: `server(acts=[decepticons])`. Update, sum of clients' updates and
    batch are the same to it, and the width sets no bound, as it does for `dager`.

    The gradients of two neighbouring units differ by the tokens in the bin between. Where that is one, the kernel's
    difference over the bias's is what the dense layer saw: a combination of a token, its place and the first places of
    its sequence, each in dimensions of its own. The token and place are the nearest of all; what the first places
    left says which readings belong together, and which tokens these are.

    With k bins and T tokens whose measurements are independent, a token is alone in its bin with probability
    (1 - 1/k)^(T-1): `extra["condition"]` says it in advance. Bins of several tokens match none, and their places stay
    open (not-a-number), but for places that others pass on. The same tokens at the same place behind the same first
    ones fall into one bin, and are read as one. Sequences that share all first places are told apart only by chance:
    the first gets what is read, and others tokens that contradict it.

    Noise that exceeds a bin's gradient and optimizers that scale each weight leave nothing that matches, and nothing is
    claimed; several local steps are read as far as the bins stay where they were. Classes follow from the size of a
    sequence's gradients where n and the learning rate are known; next tokens are those of `x`, shifted.
    """

    name: ClassVar[str] = "decepticons"
    paper: ClassVar[str] = _PAPER
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    off: Share = Field(default=_OFF, description="what a reading may be off a token by, relative to its length.")

    def attack(self, view: View, seed: int) -> Finding:
        """Reads the bins.

        Returns:
          A Finding with `x` `[n, length]` float32, not-a-number at places that stay open (as many rows as sequences
          were told apart, if n is unknown), and `y`, classes, unless several steps or a known defense that
          scales updates make sizes say nothing (0 where a row has no reading).
          `extra` has `condition` (`bins`, `tokens_at_most`, `alone`: the share of tokens expected alone), `filled`
          (bins that are not empty), `read` (those that matched a token), `mixed` (those that did not), `sequences`
          (how many were told apart) and `reason` (why nothing is claimed, else "").

        Raises:
          CapabilityError: the weights carry no imprint, the model is none that can, the dense parts did not move, or
            the client's optimizer scales every weight on its own.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        who = f"attack '{self.name}'"
        parts_of(view.model, who)
        check_linear(view.procedure)
        checked_update(view)
        imprint = read_imprint(view.model, view.weights, who)
        if imprint is None:
            raise CapabilityError(
                f"{who} reads what an imprint leaves, but the weights of round {view.round} carry none: all clients "
                "behind the update must get it; let the adversary be server(acts=[decepticons]), or use 'dager'"
            )
        (length,) = view.model.input_shape
        n = None if view.num_examples is None else view.total_examples
        h = tokens_and_places(imprint.parts, view.weights)
        padding = getattr(view.data_kind, "padding", None)
        readings, filled = _read(view, imprint, h, padding, self.off)
        groups = _grouped(imprint, readings, h)
        rows = _rows(imprint, groups, h, n, padding)
        x = np.full((len(rows) if n is None else n, length), np.nan, np.float32)
        for i, (tokens, _) in enumerate(rows[: len(x)]):
            for place, token in tokens.items():
                x[i, place] = token
        most = None if n is None else n * length
        alone = None if most is None else (1 - 1 / imprint.bins) ** (most - 1)
        reason = ""
        if not readings:
            reason = f"none of {filled} filled bins matches a token: noise, rounding, or too many tokens for the bins"
        return Finding(
            x=x,
            y=_classes(view, imprint, x, [r for _, r in rows]),
            seconds=time.perf_counter() - began,
            measures={"read": float(len(readings))},
            extra={
                "condition": {"bins": imprint.bins, "tokens_at_most": most, "alone": alone},
                "filled": filled,
                "read": len(readings),
                "mixed": filled - len(readings),
                "sequences": len(groups),
                "reason": reason,
            },
        )


def _bins(view: View, imprint: Imprint, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a block's bins leave in the kernel `[bins, width]`, how much each, `[bins]`, and which are not empty."""
    spec, name = view.model.spec, f"block{block}/wide/kernel"
    where, shape = spec.slice_of(name), spec.shapes[spec.names.index(name)]
    update, weights = (np.asarray(a, np.float64)[where].reshape(shape) for a in (view.observed, view.weights))
    left = (update * imprint.signs).T / imprint.gain
    if block == imprint.parts.imprinted[-1]:  # its last unit's bin has no end
        left = np.append(left, np.zeros((1, shape[0])), 0)
    found = left[:-1] - left[1:]
    sizes = np.linalg.norm(left, axis=1)
    rounded = float(np.linalg.norm(weights, axis=0).max()) / imprint.gain
    floor = _ROUNDING * float(np.finfo(spec.dtype).eps) * np.maximum(rounded, np.maximum(sizes[:-1], sizes[1:]))
    return (
        found,
        found[:, imprint.constant],
        (np.linalg.norm(found, axis=1) > floor) & (found[:, imprint.constant] != 0),
    )


def _read(view: View, imprint: Imprint, h: np.ndarray, padding: int | None, off: float) -> tuple[list[_Reading], int]:
    """Bins with one token, and how many bins are not empty."""
    matched, places, vocabulary = imprint.matched, *h.shape[:2]
    candidates = h[:, :, matched].reshape(-1, len(matched))
    known = _unit(candidates).astype(np.float32)
    if padding is not None:
        known.reshape(places, vocabulary, -1)[:, padding] = 0
    found: list[_Reading] = []
    filled = 0
    for block in imprint.parts.imprinted:
        kernel, bias, there = _bins(view, imprint, block)
        which = np.flatnonzero(there)
        filled += len(which)
        seen = kernel[which] / bias[which, None]
        near = _unit(seen[:, matched]).astype(np.float32) @ known.T
        for row, bin_ in enumerate(which):
            best, second = np.argpartition(-near[row], 1)[:2] if near.shape[1] > 1 else (0, 0)
            if near[row, second] > near[row, best]:
                best, second = second, best
            # In double precision: cosines near 1 do not resolve small distances.
            target = _unit(seen[row, matched][None])[0]
            apart, other = (float(np.linalg.norm(target - _unit(candidates[i][None])[0])) for i in (best, second))
            if apart > off or apart > _NEXT * other:
                continue
            place, token = divmod(int(best), vocabulary)
            firsts = _firsts(imprint, seen[row], h[place, token], place)
            slack = _SLACK * apart * float(np.linalg.norm(h[place, token, matched])) / imprint.strength
            reading = _Reading(block, int(bin_), place, token, firsts, float(bias[bin_]), slack)
            found.append(reading)
    return found, filled


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows less their means, of length 1."""
    rows = rows - rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))


def _firsts(imprint: Imprint, seen: np.ndarray, h: np.ndarray, place: int) -> list[np.ndarray]:
    """What heads passed on to this token, from what the dense layer saw of it: gain and offset of the normalization
    are those that fit the dimensions that are known."""
    matched = imprint.matched
    gain, offset = np.polyfit(h[matched], seen[matched], 1)
    there = len(imprint.passed) if not imprint.parts.causal else place + 1
    return [((seen[d] - offset) / gain - h[d]) / imprint.strength for d in imprint.passed[:there]]


def _grouped(imprint: Imprint, readings: list[_Reading], h: np.ndarray) -> list[_Group]:
    """Readings by sequence: those whose first places agree."""
    seen = sources(imprint.parts, h)
    spread = [float(seen[j][:, d].std(0).mean()) * np.sqrt(len(d)) for j, d in enumerate(imprint.passed)]
    whole = len(imprint.passed)
    groups: list[_Group] = []
    # Places that see all of the first ones come before those that see only some; the clean ones before the others.
    for reading in sorted(readings, key=lambda r: (-len(r.firsts), r.slack)):
        away = [
            max(
                float(np.linalg.norm(a - b)) / (_APART * s + reading.slack)
                for a, b, s in zip(reading.firsts, g.firsts, spread, strict=False)
            )
            for g in groups
        ]
        same = [g for g, a in zip(groups, away, strict=True) if a <= 1]
        if len(same) > 1 and len(reading.firsts) == whole:
            same = [groups[int(np.argmin(away))]]
        if not same:
            same = [_Group(reading.firsts)]
            groups += same
        for group in same:
            tokens = group.tokens.setdefault(reading.place, [])
            if reading.token not in tokens:
                tokens.append(reading.token)
            if len(same) == 1:
                group.readings.append(reading)
    return groups


def _rows(
    imprint: Imprint, groups: list[_Group], h: np.ndarray, n: int | None, padding: int | None
) -> list[tuple[dict[int, int], list[_Reading]]]:
    """Sequences, the fullest first: tokens by place, and the readings behind them."""
    seen = sources(imprint.parts, h)
    found, spare = [], []
    for group in groups:
        tokens = {place: several[0] for place, several in group.tokens.items()}
        for j, first in enumerate(group.firsts):
            token = _nearest(seen[j][:, imprint.passed[j]], first, padding)
            if token is not None:
                tokens.setdefault(j, token)
        found.append((tokens, [r for r in group.readings if tokens[r.place] == r.token]))
        for i in range(1, max(map(len, group.tokens.values()))):
            others = {p: s[i] for p, s in group.tokens.items() if len(s) > i}
            spare.append((others, [r for r in group.readings if others.get(r.place) == r.token]))
    found.sort(key=lambda r: -len(r[0]))
    spare.sort(key=lambda r: -len(r[0]))
    return (found + spare)[:n]


def _nearest(table: np.ndarray, value: np.ndarray, padding: int | None) -> int | None:
    """The row that is nearest, if no other is about as near."""
    away = np.linalg.norm(table - value, axis=1)
    if padding is not None:
        away[padding] = np.inf
    first, second = np.argsort(away)[:2]
    scale = float(table.std(0).mean()) * np.sqrt(table.shape[1])
    return int(first) if away[first] <= min(_APART * scale, _NEXT * away[second]) else None


def _classes(view: View, imprint: Imprint, x: np.ndarray, readings: list[list[_Reading]]) -> np.ndarray | None:
    """Each sequence's class `[n]`: the one whose gradient is nearest to what was read; None where that says nothing."""
    model = view.model
    single = {Capability.SINGLE_STEP, Capability.NUM_EXAMPLES} <= view.capabilities
    if not isinstance(model.task, Classes) or not single or not view.client_rate:
        return None
    # What scales an update leaves sizes that say nothing.
    if any(not isinstance(part, Protocol | Codec) for defense in view.defenses for part in defense.parts()):
        return None
    spec, dtype = model.spec, model.spec.dtype
    padding = getattr(view.data_kind, "padding", None)
    known = np.isfinite(x)
    ends = x.shape[1] - np.argmax(known[:, ::-1], axis=1)
    inside = np.arange(x.shape[1]) < ends[:, None]
    filled = np.where(known, x, np.where(inside | (padding is None), 1, padding or 0))
    weights = [tf.constant(a) for a in spec.unflatten_numpy(np.asarray(view.weights, dtype))]
    names = [f"block{b}/wide/bias" for b in imprint.parts.imprinted]
    where = [spec.names.index(name) for name in names]

    @tf.function(autograph=False)
    def slopes(row: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            biases = [weights[i] for i in where]
            tape.watch(biases)
            given = list(weights)
            for i, bias in zip(where, biases, strict=True):
                given[i] = bias
            logits = model.apply(given, row[None], True)[0]
            each = tf.unstack(logits, num=model.num_classes)
        return tf.nn.softmax(logits), [tf.stack([tape.gradient(one, b) for one in each]) for b in biases]

    found, off = np.zeros(len(x), np.int32), np.zeros(len(x))
    told = [i for i in range(min(len(x), len(readings))) if readings[i]]
    for i in told:
        predictions, by_logit = slopes(tf.constant(filled[i], dtype))
        factors = predictions.numpy().astype(np.float64) - np.eye(model.num_classes)
        # A place that is read directly weighs much more, and a decoder's last may be missing.
        used = [r for r in readings[i] if not imprint.parts.causal or r.place < ends[i] - 1] or readings[i]
        expected = []
        for block, slope in zip(imprint.parts.imprinted, by_logit, strict=True):
            gradient = factors @ slope.numpy().astype(np.float64) * imprint.signs
            bins = gradient - np.append(gradient[:, 1:], np.zeros((len(gradient), 1)), 1)
            expected += [bins[:, r.bin] for r in used if r.block == block]
        ordered = [r.size for b in imprint.parts.imprinted for r in used if r.block == b]
        scale = -view.client_rate / view.total_examples
        misfits = np.linalg.norm(scale * np.array(expected).T - np.array(ordered), axis=1)
        found[i] = int(np.argmin(misfits))
        off[i] = float(misfits.min()) / float(np.linalg.norm(ordered))
    return found if not told or float(np.median(off[told])) <= _FIT else None
