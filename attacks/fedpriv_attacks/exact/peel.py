"""Peeling: examples taken off the gradient of a first dense ReLU layer one after the other, each with its proof."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor, Tensors
from fedpriv.defense.stations import Station
from fedpriv.models.model import Model
from fedpriv.models.tasks.binary import Binary
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseInput, DenseNames, dense_input, find_dense_input, rank_above_rounding
from fedpriv_attacks.exact.first_layer import weights_of_one
from fedpriv_attacks.exact.single_gradient import relative_misfit
from fedpriv_attacks.inversion.matching import checked_update

#: Equations that the row space must leave over for each certificate.
LEAST_EQUATIONS = 30
#: Weights along the way of several local steps at which an example's share is averaged.
NODES = 5
#: Part outside of the row space up to which a candidate is looked at closely.
SCREEN = 0.25
#: Lengths that are tried first of an example of which only the direction is known.
LENGTHS = 32
#: How far an example's weight may be from one example's, relative to it: what may be mixed in from another.
MIXED = 2.5e-3
#: The same where a gradient has one direction for all labels, so that the weight alone tells examples from mixtures.
MIXED_ALIKE = 1e-4
#: Part of a share that no example found before it has.
OWN = 0.05


class Peel(Attack):
    """Batches of a first dense ReLU layer, example by example, each recovery certified.

    Shariati, Meybodi 2026, "Cascading Gradient Inversion via LT-Code Inspired Peeling". With the bias's gradient as
    one more row, the layer's gradient is K = X^T D: a column for each unit, a mixture of the examples that fire it. A
    unit that one example alone fires gives that example, as the ratio of the kernel's gradient to the bias's. From the
    example and its label follows its share of all columns, which is subtracted. That leaves new lone units, as in the
    decoding of LT codes, until none is left or all examples are found.

    The certificate goes beyond the paper's fit of the label. A true example's gradient d in the pre-activations lies
    in the row space of K, whose dimension is that of the batch: of a layer with u units, u - n equations that hold for
    no mixture. How far d lies outside tells the example's error; nothing beyond `tolerance` is believed, and nothing
    is subtracted unproven. The share's weight needs no knowledge of rates or cohorts either: subtracting it lowers the
    rank of K exactly if the weight is 1 / (d K^+ x) (Wedderburn 1934).

    A sum over clients of one local step each is the same object as one client's batch, so secure sums fall likewise.
    Over several local steps a share is averaged along the straight way from the weights before to those after; what
    this misses grows with the clients' rate, and ends the peeling sooner. Without a bias a lone unit gives its example
    up to the length, which is searched for under the same certificate.

    What decides how far it carries: how many units fire for one example alone. Wide layers, large weights, small
    batches and varied examples help; a bias far from zero, noise, and examples that all fire the same units do not.
    """

    name: ClassVar[str] = "peel"
    paper: ClassVar[str] = "Shariati, Meybodi 2026"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.WHOLE_UPDATE, Capability.PROCEDURE}
    )

    tolerance: Annotated[float, Field(gt=0, le=0.1)] = Field(
        default=1e-3,
        description="largest part of an example's gradient, relative to its length, outside of the row space.",
    )
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=60.0, description="wall-clock after which the peeling ends with what it has."
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Peels until no lone unit is left.

        Returns:
          A finding with `x` `[n, *input_shape]`, not-a-number where no example was found; if the adversary does not
          know n, as many as were. Labels are given for classes and binary tasks, -1 for missing examples. `extra` has
          `recovered`, `certificates` (the part outside of the row space, by example), `waves` (rounds of peeling, and
          how many each found), `weights` (of each example in the update), `rank` of the gradient, `unsure` (how many
          were left out since they do not weigh as one example does), and `reason` why it ended.

        Raises:
          CapabilityError: no first dense layer with a ReLU, logits that depend on the batch, a task of several
            outputs that is no softmax, or a batch too large for a certificate.
          DivergenceError: the layer's update is not finite.
        """
        began = time.perf_counter()
        checked_update(view)
        peeling = _Peeling(view, self.tolerance, began + self.seconds, seed)
        found = peeling.run()
        model, known = view.model, view.num_examples is not None
        found, unsure = _weighed(found, view, peeling)
        n = view.total_examples if known else len(found)
        whole = len(found) >= peeling.space.rank
        kept = _repeated(found, n) if whole else found[:n]
        x = np.full((n, *model.input_shape), np.nan, np.float32)
        for i, one in enumerate(kept):
            x[i] = view.data_kind.settle(one.x.reshape(1, *model.input_shape))[0]
        y, objective = None, float("nan")
        if model.task.discrete and (kept or n == 0):
            y = np.full(n, -1, np.int32)
            y[: len(kept)] = [one.label for one in kept]
        if y is not None and known and len(kept) == n and n:
            objective = relative_misfit(view, x, [int(label) for label in y])
        return Finding(
            x=x,
            y=y,
            objective=objective,
            seconds=time.perf_counter() - began,
            extra={
                "recovered": len(kept),
                "certificates": [one.outside for one in kept],
                "weights": [one.weight for one in kept],
                "waves": peeling.waves,
                "rank": peeling.space.rank,
                "unsure": unsure,
                "reason": _reason(peeling.reason, unsure),
            },
        )


def _weighed(found: list[_Found], view: View, peeling: _Peeling) -> tuple[list[_Found], int]:
    """Those that weigh in the update what one example does, or several alike; and how many do not.

    What is mixed into an example from another leaves no trace across the row space where the network is sure of both,
    but moves its weight by as much as was mixed in. One example's weight follows from numbers and rate. Where it may
    not, as behind clipping, one that most found ones have in common does; where there is none, nothing is told.

    Two examples that are nearly alike and fire the same units look like twice their mean: x_1 d_1^T + x_2 d_2^T is
    2 x d^T for the means x and d, plus half the product of the differences. Of an example that really is there twice
    nothing is left. So a multiple is believed only where all that is in the gradient was found.
    """
    if not found:
        return found, 0
    weights = np.array([f.weight for f in found]) / _factors(found, view)
    rounding, space = peeling.layer.rounding, peeling.space
    mixed = MIXED if view.model.num_classes > 2 else MIXED_ALIKE
    allowed = mixed + 4 * np.array([rounding * space.spread(f.row[: len(space.left)], f.share) for f in found])
    whole = len(found) >= space.rank

    def off(units: Sequence[float]) -> np.ndarray:
        ratio = weights[:, None] / np.asarray(units)
        times = np.maximum(np.round(ratio), 1) if whole else 1.0
        return np.asarray(np.min(np.abs(ratio / times - 1), axis=1))

    known = weights_of_one(view, peeling.layer)
    for units in (known, (float(np.median(weights)),) if len(found) > 2 else ()):
        if units and (np.mean(fits := off(units) < allowed) > 0.5 or (units is known and _sends_plainly(view))):
            kept = [f for f, fit in zip(found, fits, strict=True) if fit]
            return kept, len(found) - len(kept)
    return found, 0


def _factors(found: list[_Found], view: View) -> np.ndarray:
    """What the loss's slope is in an only logit, which a share in the direction of that logit leaves open; else 1."""
    model = view.model
    if not isinstance(model.task, Binary):
        return np.ones(len(found))
    weights = [tf.constant(w) for w in model.spec.unflatten_numpy(np.asarray(view.weights, model.spec.dtype))]
    x = np.stack([f.x for f in found]).reshape(-1, *model.input_shape).astype(model.spec.dtype)
    logits = np.asarray(model.apply(weights, tf.constant(x), True), np.float64).reshape(-1)
    return 0.5 * (1 + np.tanh(logits / 2)) - np.array([f.label for f in found])


def _sends_plainly(view: View) -> bool:
    """Whether no known defense can change what an example weighs in the update."""
    parts = [part for defense in view.defenses for part in defense.parts()]
    acts = (Station.BATCH, Station.DATA, Station.GRADIENT, Station.UPDATE)
    return "defense" in view.adversary.knows and not any(part.acts_at(at) for part in parts for at in acts)


def _reason(ended: str, unsure: int) -> str:
    left = f"{unsure} were left out, as they weigh otherwise than one example: others may be mixed into them"
    return "; ".join(filter(None, (ended, left if unsure else "")))


def _repeated(found: list[_Found], n: int) -> list[_Found]:
    """An example that is in the batch several times weighs as much; told only if the numbers add up to `n`."""
    total = sum(f.weight for f in found)
    counts = [round(n * f.weight / total) for f in found]
    if len(found) < n and sum(counts) == n and all(abs(n * f.weight / total - c) < 0.05 for f, c in zip(found, counts)):
        return [f for f, count in zip(found, counts) for _ in range(count)]
    return found[:n]


@dataclass(eq=False)
class _Found:
    """An example, its label, its share `[units]`, that share's weight in the update, and its certificate."""

    x: np.ndarray
    label: int
    share: np.ndarray
    weight: float
    outside: float
    direction: int = 0

    @property
    def row(self) -> np.ndarray:
        """The example with the bias's 1."""
        return np.append(self.x, 1.0)


@dataclass(frozen=True, eq=False)
class _Sure:
    """Examples `[m, inputs]`, their rows and shares in coordinates, shares `[m, units]`, and which units are unclear.

    A unit is unclear if the example's error decides whether it fires.
    """

    x: np.ndarray
    rows: np.ndarray
    shares: np.ndarray
    inside: np.ndarray
    unclear: np.ndarray


def _basis(rows: list[np.ndarray], size: int) -> np.ndarray:
    """An orthonormal basis of what `rows`, each `[size]`, span, as columns."""
    return np.linalg.qr(np.stack(rows).T)[0] if rows else np.zeros((size, 0))


@dataclass(frozen=True, eq=False)
class _Space:
    """K = left diag(sizes) right^T, cut off at its rank."""

    left: np.ndarray
    sizes: np.ndarray
    right: np.ndarray

    @property
    def rank(self) -> int:
        return len(self.sizes)

    def outside(self, d: np.ndarray) -> np.ndarray:
        """What part of each of `d [..., units]` is outside of the row space, relative to its length."""
        right = self.right.astype(d.dtype)
        length = np.linalg.norm(d, axis=-1)
        rest = np.linalg.norm(d - (d @ right) @ right.T, axis=-1)
        return np.where(length > 0, rest / np.maximum(length, np.finfo(d.dtype).tiny), 1.0)

    def near(self, d: np.ndarray) -> np.ndarray:
        """Of which of `d [m, directions, units]` at most `SCREEN` is outside, by Pythagoras: `[m, directions]`."""
        inside = d.reshape(-1, d.shape[-1]) @ self.right.astype(d.dtype)
        squares = np.einsum("ij,ij->i", inside, inside).reshape(d.shape[:-1])
        return _near(np.einsum("mdu,mdu->md", d, d), squares)

    def spread(self, row: np.ndarray, d: np.ndarray) -> float:
        """By what part `weight` moves, to first order, for independent noise of deviation 1 in each entry of K."""
        row, d = self.left.T @ row, d @ self.right
        both = np.linalg.norm(d / self.sizes) * np.linalg.norm(row / self.sizes)
        return float(both) * abs(self.weight(row, d))

    def weight(self, row: np.ndarray, d: np.ndarray) -> float:
        """The weight at which taking `row d^T`, both in coordinates `[rank]`, off K lowers its rank."""
        both = float((d / self.sizes) @ row)
        return 1 / both if both else float("inf")


def _space(k: np.ndarray, most: int, rounding: float, seed: int) -> _Space:
    """K's row space by a randomized range finder (Halko, Martinsson, Tropp 2011, arXiv 0909.4061)."""
    draws = np.random.default_rng(seed)
    size = min(most + 10, *k.shape)
    q = k.T @ draws.normal(size=(k.shape[0], size))
    for _ in range(2):
        q = np.linalg.qr(q)[0]
        q = k.T @ (k @ q)
    q = np.linalg.qr(q)[0]
    left, sizes, right = np.linalg.svd(k @ q, full_matrices=False)
    rank = min(most, rank_above_rounding(sizes, k.shape, rounding))
    return _Space(left[:, :rank], sizes[:rank], q @ right[:rank].T)


@dataclass(frozen=True, eq=False)
class _Tail:
    """A network whose ReLU goes into the outputs by one dense layer: what is near the row space, without gradients.

    There the gradient of output o in the pre-activations is column o of that layer's kernel, where units are on. So
    lengths, and parts within the row space, are sums over the units that are on, for many examples by one product.
    """

    incoming: np.ndarray
    shift: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    softmax: bool
    inside: np.ndarray
    lengths: np.ndarray

    def shares(self, x: np.ndarray, which: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """`[pairs, units]`: of those of `x` that `which` says, the shares by direction, in the model's precision."""
        z = self._preactivations(x)
        on, kernel = (z > 0).astype(z.dtype), self.kernel.astype(z.dtype)
        if not self.softmax:
            return on[which] * kernel[:, 0]
        mean = on * (self._likely(z).astype(z.dtype) @ kernel.T)
        return mean[which] - on[which] * kernel.T[direction]

    def _preactivations(self, x: np.ndarray) -> np.ndarray:
        return x.astype(self.incoming.dtype) @ self.incoming + self.shift

    def _likely(self, z: np.ndarray) -> np.ndarray:
        logits = np.maximum(z, 0).astype(np.float64) @ self.kernel + self.bias
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def _mixed(self, z: np.ndarray) -> np.ndarray:
        """What part each output has in each direction, `[m, directions, outputs]`."""
        if not self.softmax:
            return np.ones((len(z), 1, 1))
        p, count = self._likely(z), self.kernel.shape[1]
        others = p @ (1 - np.eye(count))  # 1 - p would lose the digits of a sure label
        return np.asarray(np.where(np.eye(count, dtype=bool), -others[:, None], p[:, None]))

    def near(self, x: np.ndarray) -> np.ndarray:
        """As `_Space.near`, from examples `[m, inputs]`."""
        z = self._preactivations(x)
        on, mixed = (z > 0).astype(np.float32), self._mixed(z)
        count = self.kernel.shape[1]
        inside = mixed @ (on @ self.inside).reshape(len(z), count, -1)
        length = np.einsum("mdo,mdo->md", mixed @ (on @ self.lengths).reshape(len(z), count, count), mixed)
        return np.asarray(_near(length, np.einsum("mdr,mdr->md", inside, inside)))


def _near(length: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Where at most `SCREEN` is outside, from squares of lengths and of parts inside.

    With a margin for the digits that the difference loses.
    """
    return np.asarray((length - inside <= (SCREEN**2 + 1e-3) * length) & (length > 0))


def _tail(view: View, names: DenseNames, layer: DenseInput, space: _Space) -> _Tail | None:
    """The network's tail, if it is one dense layer and the share is of one step."""
    model, spec = view.model, view.model.spec
    if _steps(view) > 1 or not _is_dense(model, names):
        return None
    weights = np.asarray(view.weights, np.float64)
    kernel, bias = (weights[spec.slice_of(spec.names[i])].reshape(spec.shapes[i]) for i in _behind(model, names))
    return _made_tail(layer.kernel_weights, layer.bias_weights, kernel, bias, model, space.right)


def _behind(model: Model, names: DenseNames) -> list[int]:
    """Which weights are not those of the first dense layer."""
    return [i for i, name in enumerate(model.spec.names) if name not in (names.kernel, names.bias)]


def _made_tail(
    incoming: np.ndarray, shift: np.ndarray, kernel: np.ndarray, bias: np.ndarray, model: Model, right: np.ndarray
) -> _Tail:
    units, dtype = len(kernel), model.spec.dtype
    return _Tail(
        incoming=incoming.astype(dtype),
        shift=shift.astype(dtype),
        kernel=kernel,
        bias=bias,
        softmax=model.task.softmax,
        inside=(kernel[:, :, None] * right[:, None]).reshape(units, -1).astype(np.float32),
        lengths=(kernel[:, :, None] * kernel[:, None]).reshape(units, -1).astype(np.float32),
    )


@functools.lru_cache(maxsize=8)
def _is_dense(model: Model, names: DenseNames) -> bool:
    """Whether the ReLU goes into the outputs by one dense layer, by shapes and then by gradients at random weights."""
    spec, rest = model.spec, _behind(model, names)
    units = spec.shapes[spec.names.index(names.kernel)][1]
    shapes = [spec.shapes[i] for i in rest]
    if [len(shape) for shape in shapes] != [2, 1] or shapes[0] != (units, *shapes[1]):
        return False
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) / np.sqrt(max(1, int(np.prod(s[:-1])))) for s in spec.shapes]
    x = rng.uniform(size=(4, int(np.prod(model.input_shape))))
    given = tf.constant(x.reshape(-1, *model.input_shape), spec.dtype)
    wanted = _compiled(model, names)([tf.constant(w, spec.dtype) for w in weights], given).numpy()
    first = weights[spec.names.index(names.kernel)] * names.input_scale
    shift = np.zeros(units) if names.bias is None else weights[spec.names.index(names.bias)]
    kernel, bias = (weights[i] for i in rest)
    made = _made_tail(first, shift, kernel, bias, model, np.eye(units, 1))
    pairs = np.indices(wanted.shape[:2]).reshape(2, -1)
    shares = made.shares(x, *pairs).reshape(wanted.shape)
    return bool(np.linalg.norm(wanted - shares) < 1e-3 * np.linalg.norm(wanted))


class _Peeling:
    """One update's peeling."""

    def __init__(self, view: View, tolerance: float, deadline: float, seed: int) -> None:
        names = find_dense_input(view.model)
        _check(view, names)
        self.view, self.layer, self.deadline = view, dense_input(view), deadline
        layer = self.layer
        self.tolerance = tolerance
        self.shares = _shares(view, names)
        bias = layer.bias
        self.k = layer.kernel if bias is None else np.vstack([layer.kernel, bias])
        own = 0 if view.own is None or view.own.slot is None else len(view.own.y)
        widest = min(layer.units - LEAST_EQUATIONS, layer.inputs)
        self.most = widest if view.num_examples is None else view.total_examples + own
        if self.most > widest:
            raise CapabilityError(
                f"attack 'peel' proves an example by the equations that {self.most} examples leave over in "
                f"{layer.units} units and {layer.inputs} inputs; at least {LEAST_EQUATIONS} are needed, so at most "
                f"{max(widest, 0)} examples. Use a wider layer, smaller batches or 'cocktail_party'"
            )
        self.space = _space(self.k, self.most, layer.rounding, seed)
        self.tail = _tail(view, names, layer, self.space)
        # K's column space has few dimensions: what is left of K is kept as coordinates in it.
        self.whole = self.space.left.T @ self.k
        self.across = np.sum((self.k - self.space.left @ self.whole) ** 2, axis=0)
        self.left = self.whole
        self.scale = self._size(self.whole)
        self.explained = np.zeros(layer.units, bool)
        self.loudness = np.linalg.norm(layer.kernel_weights, axis=0)
        self.incoming = np.ascontiguousarray(layer.kernel_weights.T)
        self.found: list[_Found] = []
        self.waves: list[int] = []
        self.reason = ""

    def run(self) -> list[_Found]:
        """All that can be peeled, without the adversary's own examples."""
        while len(self.found) < self.space.rank:
            new = self._wave()
            if not new:
                self.reason = "no unit is left that one of the other examples fires alone"
                break
            self.waves.append(len(new))
            self.found += new
            if time.perf_counter() > self.deadline:
                self.reason = "the time was over"
                break
            self._polish()
            self._subtract()
        own = self.view.own
        if own is not None and own.slot is not None:
            theirs = own.x.reshape(len(own.x), -1)
            self.found = [f for f in self.found if np.abs(theirs - f.x).max(axis=1).min() > 1e-3]
        return self.found

    def _size(self, coordinates: np.ndarray) -> np.ndarray:
        """Root mean square of each column with these coordinates `[rank, units]` and K's part across them."""
        return np.asarray(np.sqrt((np.sum(coordinates**2, axis=0) + self.across) / len(self.k)))

    def _subtract(self) -> tuple[np.ndarray, np.ndarray]:
        """Takes what was found off K; the shares `[n, units]` by weight, and the size of each column left."""
        rows = np.stack([f.row[: len(self.k)] for f in self.found]) @ self.space.left
        d = np.stack([f.weight * f.share for f in self.found])
        self.left = self.whole - rows.T @ d
        size = self._size(self.left)
        self.explained = size < np.maximum(3 * self.layer.rounding, 1e-2 * self.scale)
        return d, size

    def _wave(self) -> list[_Found]:
        """What can be proven now, the surest first."""
        x, error = self._candidates()
        if not len(x):
            return []
        kept, x_of, direction, shares = self._near(x)
        if not len(kept):
            return []
        x, error = x[kept], error[kept]
        outside = np.ones((len(x), int(direction.max()) + 1))
        outside[x_of, direction] = self.space.outside(shares)
        which = np.argmin(outside, axis=1)
        best = outside[np.arange(len(x)), which]
        place = np.zeros(outside.shape, int)
        place[x_of, direction] = np.arange(len(x_of))
        chosen = shares[place[np.arange(len(x)), which]].astype(np.float64)
        sure = self._sure(x, error, chosen)
        basis = _basis([f.share @ self.space.right for f in self.found], self.space.rank)
        new: list[_Found] = []
        for i in np.argsort(best, kind="stable"):
            if best[i] > SCREEN:
                break
            one = self._proven(sure, i, int(which[i]), float(best[i]))
            if one is None:
                continue
            # New is what is no mixture of those found: each takes a rank of its own.
            inside = one.share @ self.space.right
            rest = inside - basis @ (basis.T @ inside)
            if np.linalg.norm(rest) > OWN * np.linalg.norm(inside):
                new.append(one)
                rest -= basis @ (basis.T @ rest)
                basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        return new

    def _near(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Which of `x` are near the row space, and the pairs of one of them and a direction that are, with shares."""
        if self.tail is None:
            whole = self.shares(x)  # [m, directions, units]
            if whole.shape[0]:
                whole = whole.astype(np.float32, copy=False)
            near = self.space.near(whole)
            kept = np.flatnonzero(near.any(axis=1))
            x_of, direction = np.nonzero(near[kept])
            return kept, x_of, direction, whole[kept[x_of], direction]
        near = self.tail.near(x)
        kept = np.flatnonzero(near.any(axis=1))
        x_of, direction = np.nonzero(near[kept])
        shares = self.tail.shares(x[kept], x_of, direction)
        return kept, x_of, direction, shares.astype(np.float32, copy=False)

    def _sure(self, x: np.ndarray, error: np.ndarray, shares: np.ndarray) -> _Sure:
        """What proofs of examples `[m, inputs]` with those shares `[m, units]` begin with."""
        unclear = np.abs(self.layer.preactivations(x)) < 4 * error[:, None] * self.loudness
        rows = x @ self.space.left[: x.shape[1]]
        if self.layer.bias is not None:
            rows += self.space.left[-1]
        return _Sure(x, rows, shares, shares @ self.space.right, unclear)

    def _proven(self, sure: _Sure, i: int, direction: int, outside: float) -> _Found | None:
        """The i-th example with its certificate, or None without one.

        Units so near to zero that the example's error decides whether they fire are left out of the certificate, and
        get the share that the row space gives them.
        """
        space, right = self.space, self.space.right
        x, share, inside, unclear = sure.x[i], sure.shares[i], sure.inside[i], np.flatnonzero(sure.unclear[i])
        if self.layer.units - len(unclear) < space.rank + LEAST_EQUATIONS:
            return None
        if len(unclear):
            few = right[unclear]
            gram = (1 + 1e-12) * np.eye(space.rank) - few.T @ few
            inside = np.linalg.solve(gram, inside - few.T @ share[unclear])
            fitted = right @ inside
            rest, certain = share - fitted, share.copy()
            rest[unclear] = certain[unclear] = 0
            outside = float(np.linalg.norm(rest)) / max(float(np.linalg.norm(certain)), 1e-300)
            share = certain
            share[unclear] = fitted[unclear]
        if not outside < self.tolerance:
            return None
        weight = space.weight(sure.rows[i], inside)
        task, label = self.view.model.task, direction
        if isinstance(task, Binary):  # the one direction's factor is p - y times the example's weight
            label = int(weight < 0)
        elif not weight > 0:
            return None
        return _Found(x, label, share, weight, outside, direction) if np.isfinite(weight) else None

    def _candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Examples that units would give if they were lone, `[m, inputs]`, each once, and their errors."""
        layer = self.layer
        if layer.bias is None:
            return self._directions(self.space.left @ self.left)
        # Noise has as many directions as the column has entries, the column itself only the rank's.
        noise = layer.rounding * np.sqrt(self.space.rank / len(self.k))
        shift = self.space.left[-1] @ self.left
        size = np.abs(shift)
        units = np.flatnonzero((size > 20 * noise) & ~self.explained)
        units = units[np.argsort(-size[units], kind="stable")]
        x = (self.left[:, units] / shift[units]).T @ self.space.left[:-1].T
        kept = np.isfinite(x).all(axis=1)
        if not kept.all():
            x, units = x[kept], units[kept]
        return self._valid(x, noise / size[units], units)

    def _valid(self, x: np.ndarray, error: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those in the kind's range that fire their unit; those that agree within their errors as their mean."""
        if not len(x):
            return x, error
        kind, shape = self.view.data_kind, self.view.model.input_shape
        slack = 6 * error + 1e-3
        moved = np.abs(np.asarray(kind.settle(x.reshape(-1, *shape))).reshape(len(x), -1) - x).max(axis=1)
        drive = np.einsum("mi,mi->m", x, self.incoming[units]) + self.layer.bias_weights[units]
        margin = slack * self.loudness[units]
        kept = np.flatnonzero((moved <= slack * max(1.0, float(np.ptp(x)))) & (drive > -margin))
        x, error = x[kept], error[kept]
        # A few random projections tell examples apart as well as all their values do.
        seen = x @ np.random.default_rng(0).normal(size=(x.shape[1], 8)) / np.sqrt(8.0 * x.shape[1])
        near = np.abs(np.subtract.outer(seen[:, 0], seen[:, 0])) < 6 * np.add.outer(error, error)
        one, other = np.nonzero(near)
        near[one, other] = np.linalg.norm(seen[one] - seen[other], axis=1) < 6 * (error[one] + error[other])
        np.fill_diagonal(near, True)
        alone = near.sum(axis=1) == 1
        free = np.ones(len(x), bool)
        means, errors = [], []
        for first in range(len(x)):
            if not free[first]:
                continue
            if alone[first]:
                means.append(x[first])
                errors.append(error[first])
                continue
            group = np.flatnonzero(near[first] & free)
            free[group] = False
            trust = error[group] ** -2
            means.append(trust @ x[group] / trust.sum())
            errors.append(trust.sum() ** -0.5)
        return np.array(means).reshape(-1, x.shape[1]), np.array(errors)

    def _directions(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Without a bias: the column is the example up to its length, which the certificate chooses."""
        size = np.linalg.norm(left, axis=0)
        units = np.flatnonzero(size > 20 * self.layer.rounding * np.sqrt(len(left)))
        units = units[np.argsort(-size[units], kind="stable")]
        u = (left[:, units] / size[units]).T
        u *= np.where(np.einsum("mi,mi->m", u, self.incoming[units]) < 0, -1.0, 1.0)[:, None]
        kept = u.min(axis=1) >= -1e-3 * u.max(axis=1)
        u, units = u[kept], units[kept]
        _, first = np.unique(np.round(u @ np.random.default_rng(0).normal(size=u.shape[1]), 5), return_index=True)
        u, units = u[np.sort(first)], units[np.sort(first)]
        if self.tail is not None and len(u):
            top = 1 / u.max(axis=1, keepdims=True)
            near = np.any([self.tail.near(top * i / LENGTHS * u).any(axis=1) for i in range(1, LENGTHS + 1)], axis=0)
            u, units = u[near], units[near]
        lengths = []
        for one in u:
            if time.perf_counter() > self.deadline:
                break
            lengths.append(self._length(one))
        units = units[: len(lengths)]
        x = np.stack(lengths) if lengths else u[:0]
        return x, np.full(len(units), self.layer.rounding) / np.maximum(size[units], 1e-300)

    def _length(self, u: np.ndarray) -> np.ndarray:
        """The multiple of `u`, with values up to 1, whose gradient lies nearest to the row space."""
        top = 1 / u.max()

        def best(scales: np.ndarray) -> tuple[float, float]:
            outside = self.space.outside(self.shares(scales[:, None] * u)).min(axis=1)
            i = int(np.argmin(outside))
            return float(scales[i]), float(outside[i])

        scale, _ = best(top * np.arange(1, LENGTHS + 1) / LENGTHS)
        width = top / LENGTHS
        for _ in range(7):
            scale, found = best(scale + width * np.linspace(-1, 1, 17))
            width /= 8
            if found > 0.3:
                break
        return scale * u

    def _polish(self) -> None:
        """All examples found at once, from the columns that they explain: linear in them once shares are known."""
        for _ in range(2):
            d, size = self._subtract()
            trust = self.explained / np.hypot(size, self.layer.rounding)
            q, r = np.linalg.qr((d * trust).T)
            sizes = np.linalg.svd(r, compute_uv=False)
            if sizes[-1] <= sizes[0] * max(d.shape) * np.finfo(d.dtype).eps:
                return
            inverse = np.linalg.inv(r)
            rows = (inverse @ ((q.T * trust) @ self.whole.T)) @ self.space.left.T  # [n, inputs (+ 1)]
            spread = np.linalg.norm(inverse, axis=1)
            x = rows if self.layer.bias is None else rows[:, :-1] / rows[:, -1:]
            each, direction = np.arange(len(x)), np.array([f.direction for f in self.found])
            shares = self.shares(x)[each, direction] if self.tail is None else self.tail.shares(x, each, direction)
            shares = shares.astype(np.float64)
            outside, sure = self.space.outside(shares), self._sure(x, spread, shares)
            for i, f in enumerate(self.found):
                made = self._proven(sure, i, f.direction, float(outside[i]))
                if made is not None and made.outside < 3 * f.outside:
                    self.found[i] = made


def _check(view: View, names: DenseNames) -> None:
    model = view.model
    if not names.rectified or model.couples_examples:
        why = "depend on the other examples in the batch" if names.rectified else "are on at negative inputs too"
        raise CapabilityError(
            f"attack 'peel' needs units that one example fires alone, but those behind '{names.kernel}' of model "
            f"'{model.name}' {why}; use a ReLU after it and no batch normalization, or 'cocktail_party'"
        )
    if not model.task.softmax and not isinstance(model.task, Binary):
        raise CapabilityError(
            f"attack 'peel' proves an example by what one with its label weighs in the update; model '{model.name}' "
            f"has task '{model.task.name}', whose targets leave that open; use 'spear' or 'dlg'"
        )


def _steps(view: View) -> int:
    """The most local steps that a client makes."""
    procedure, counts = view.procedure, view.num_examples or (1,)
    return max(procedure.local_steps(n) for n in counts) if procedure is not None else 1


def _shares(view: View, names: DenseNames) -> Callable[[np.ndarray], np.ndarray]:
    """Examples `[m, inputs]` to their gradients in the layer's pre-activations, `[m, directions, units]`.

    One direction for each label, or one for a single output. Averaged along the way where there were several steps.
    """
    model, dtype = view.model, view.model.spec.dtype
    steps = _steps(view)
    before = np.asarray(view.weights, np.float64)
    moved = np.zeros_like(before) if steps == 1 else np.asarray(view.observed, np.float64)
    times = [0.0] if steps == 1 else [i / steps for i in np.linspace(0, steps - 1, min(steps, NODES))]
    places = [[tf.constant(w, dtype) for w in model.spec.unflatten_numpy(before + t * moved)] for t in times]
    function = _compiled(model, names)

    def shares(x: np.ndarray) -> np.ndarray:
        given = tf.constant(x.reshape(-1, *model.input_shape), dtype)
        if len(places) == 1:
            return np.asarray(function(places[0], given))
        return np.asarray(np.mean([function(weights, given).numpy().astype(np.float64) for weights in places], axis=0))

    return shares


@functools.lru_cache(maxsize=8)
def _compiled(model: Model, names: DenseNames) -> Callable[..., Tensor]:
    """The function behind `_shares` at one point of the way; graphs are kept for the models of late."""
    where = list(model.spec.names).index(names.bias or names.kernel)
    dtype = model.spec.dtype
    softmax = model.task.softmax

    def one(weights: Tensors, x: Examples) -> Tensor:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            flat = tf.reshape(x, [-1])
            if names.bias is not None:
                shift = tf.identity(weights[where])
                tape.watch(shift)
                moved = shift
            else:  # a step of the pre-activations, by a change of the kernel along the example
                shift = tf.zeros([model.spec.shapes[where][1]], dtype)
                tape.watch(shift)
                along = flat / tf.maximum(tf.reduce_sum(flat * flat), 1e-30)
                moved = weights[where] + along[:, None] * shift[None]
            given = [moved if i == where else w for i, w in enumerate(weights)]
            outputs = tf.reshape(model.apply(given, x[None], True), [-1])
        by_output = tape.jacobian(outputs, shift)  # [outputs, units]
        if not softmax:
            return by_output
        mean = tf.linalg.matvec(by_output, tf.nn.softmax(outputs), transpose_a=True)
        return mean[None] - by_output

    spec = [tf.TensorSpec(s, dtype) for s in model.spec.shapes]

    @tf.function(autograph=False, input_signature=[spec, tf.TensorSpec([None, *model.input_shape], dtype)])
    def together(weights: Tensors, x: Examples) -> Tensor:
        return tf.vectorized_map(lambda e: one(weights, e), x)

    return together  # type: ignore[no-any-return]


atexit.register(_compiled.cache_clear)  # compiled functions must go before TensorFlow does
