"""Peeling: examples taken off the gradient of a first dense ReLU layer one after the other, each with its proof."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, NamedTuple

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
#: How far a probability may be below zero, relative to the residual at the label, for the residual's error.
SIGNS = 0.02
#: Largest deviation of a value's error, relative to the values' range or to 1, of what is claimed. The worst of many
#: values, and a length that the row space tells, are off by up to eight times as much.
PRECISE = 1e-3
#: By how much more than its deviation the worst value may be off.
WORST = 5
#: Units left out of a certificate up to which several are made at once.
FEW = 32
#: Certificates made at once.
AT_ONCE = 128
#: Part outside of the row space beyond which a length is looked for no further.
FAR = 0.3
#: Part by which a length is moved to see whether the row space tells it.
LONGER = 0.02
#: The same over several local steps, where what one example weighs is known roughly, and how far its own share may lie
#: outside of the row space there.
MIXED_STEPS, COMPUTED_STEPS = 0.2, 0.1
#: From how many finds on their weights' scatter counts there, and how far one may be off that two columns give.
TELLING, AGAIN = 5, 0.01
#: Part outside of the row space up to which examples are taken off there; what is claimed is judged at the end.
SEARCH_STEPS = 1e-2
#: By how much more than its noise tells a value may be off over several local steps, as shares then are not exact.
STEPS_ERROR = 20
#: How often examples and their shares are made from each other at most, and how little then moves.
SETTLING, SETTLED = 30, 1e-6
#: Part of the way of several local steps by which a pre-activation may leave the straight line.
BEND = 0.5
#: Part of a share that no example found before it has.
OWN = 0.05
#: Random directions across the row space by which candidates are first looked at, and what part of them, besides what
#: units that are unclear can do, may lie along these.
GLANCES, GLANCE = 12, 0.2


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
    Over several local steps, where one dense layer follows, a unit that fires all the way has shares that are mixtures
    of the layer's kernel and of what it moved by; units that change are left out, and if all examples of a client are
    found, its steps are replayed with them until nothing moves. With more layers a share is averaged along the
    straight way from the weights before to those after. Without a bias a lone unit gives its example up to the length,
    which is searched for under the same certificate.

    What decides how far it carries: how many units fire for one example alone. Wide layers, large weights, small
    batches and varied examples help; a bias far from zero, noise, and examples that all fire the same units do not.
    """

    name: ClassVar[str] = "peel"
    paper: ClassVar[str] = "Shariati, Meybodi 2026"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.WHOLE_UPDATE, Capability.PROCEDURE}
    )

    tolerance: Annotated[float, Field(gt=0, le=0.01)] = Field(
        default=1e-3,
        description="largest part of an example's gradient, relative to its length, outside of the row space. A larger "
        "one proves less.",
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
          were left out since they do not weigh as one example does, are not told precisely, or are out of range), and
          `reason` why it ended.

        Raises:
          CapabilityError: no first dense layer with a ReLU, logits that depend on the batch, a task of several
            outputs that is no softmax, or a batch too large for a certificate.
          DivergenceError: the layer's update is not finite.
        """
        began = time.perf_counter()
        checked_update(view)
        peeling = _Peeling(view, self.tolerance, began + self.seconds, seed)
        peeling.run()
        model, known = view.model, view.num_examples is not None
        found = _weighed(peeling.sure(), peeling)
        unsure = len(peeling.found) - len(found)
        n = view.total_examples if known else len(found)
        kept = found[:n]
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
                "reason": _reason(peeling.reason, unsure, model.draws),
            },
        )


def _weighed(found: list[_Found], peeling: _Peeling) -> list[_Found]:
    """Those that weigh in the update what one example does.

    What is mixed into an example from another leaves no trace across the row space where the network is sure of both,
    but moves its weight by as much as was mixed in. One example's weight follows from numbers and rate, or else, as
    behind clipping, it is one that more than half of the examples have in common.

    Two examples that are nearly alike and fire the same units look like twice their mean: x_1 d_1^T + x_2 d_2^T is
    2 x d^T for the means x and d, plus half the product of the differences. This rest is of second order, and often
    below the rounding of the weights. So an example that really is there twice is not believed either.
    """
    strays = peeling.strays(found, found, final=True)
    return [] if strays is None else [f for f, stray in zip(found, strays, strict=True) if not stray > 0]


def _units(view: View, layer: DenseInput) -> tuple[float, ...]:
    """What one example may weigh, a number for each size of client; none where that is not known.

    Over several local steps as well, where each epoch takes every example once, in batches of one size.
    """
    units, procedure, counts = weights_of_one(view, layer), view.procedure, view.num_examples
    if units or procedure is None or counts is None or not layer.rate_known:
        return units
    batches = {n: min(n, procedure.batch_size or n) for n in counts if n}
    once = procedure.batch_selection != "poisson" and procedure.max_local_steps is None
    plain = procedure.client.kind == "sgd" and not procedure.proximal
    if not (once and plain) or any(n % batch for n, batch in batches.items()):
        return ()
    by_examples, total = view.plan.weighting == "examples", sum(counts)
    parts = {n: n / total if by_examples else 1 / len(counts) for n in batches}
    return tuple(sorted({parts[n] * procedure.local_epochs / batch for n, batch in batches.items()}))


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


def _reason(ended: str, unsure: int, draws: Sequence[object] = ()) -> str:
    why = (
        "they weigh otherwise than one example, so that others may be mixed into them, or the digits do not tell them, "
        "or their values are outside of the range of their kind"
    )
    left = f"{unsure} were left out, as {why}" if unsure else ""
    hidden = (
        "the model draws masks or noise that are not known, so shares cannot be computed" if ended and draws else ""
    )
    return "; ".join(filter(None, (ended, left, hidden)))


@dataclass(eq=False)
class _Found:
    """An example, its label, its share `[units]`, that share's weight in the update, and its certificate.

    `error` is that of a value of `x`, `computed` what part of the share that `x` itself gives lies outside of the row
    space. It is `thin` if it fires so few units that several examples may fire the same and look like one.
    """

    x: np.ndarray
    label: int
    share: np.ndarray
    weight: float
    outside: float
    direction: int
    error: float
    computed: float
    thin: bool = False

    @property
    def row(self) -> np.ndarray:
        """The example with the bias's 1."""
        return np.append(self.x, 1.0)


@dataclass(frozen=True, eq=False)
class _Given:
    """Rows of a share each, `[m, rows, units]`, as they are."""

    whole: np.ndarray

    def clear(self, these: np.ndarray, unclear: np.ndarray) -> _Given:
        """Of `these`, zero where units are `unclear` `[b, units]`."""
        return _Given(np.where(unclear[:, None], 0.0, self.whole[these]))

    def inside(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates in the orthonormal columns of `right`, `[b, rows, rank]`, and products `[b, rows, rows]`."""
        return self.whole @ right, self.whole @ self.whole.transpose(0, 2, 1)

    def fired(self) -> np.ndarray:
        """How many units the first row has."""
        return np.count_nonzero(self.whole[:, 0], axis=1)

    def mixed(self, by: np.ndarray) -> np.ndarray:
        """The sum of rows weighted `by` `[b, rows]`, `[b, units]`."""
        return np.einsum("bi,biu->bu", by, self.whole)


@dataclass(frozen=True, eq=False)
class _Fired:
    """The same where one dense layer follows the ReLU: row r of an example is `on` `[m, units]` times `kernel @ r`.

    `residuals` `[m, rows, outputs]`.
    """

    on: np.ndarray
    residuals: np.ndarray
    kernel: np.ndarray

    def clear(self, these: np.ndarray, unclear: np.ndarray) -> _Fired:
        return _Fired(np.where(unclear, 0.0, self.on[these]), self.residuals[these], self.kernel)

    def inside(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rank, both = right.shape[1], np.concatenate([right, self.kernel], axis=1)
        sums = np.stack([(self.on * column) @ both for column in self.kernel.T], axis=1)
        inside, products = self.residuals @ sums[:, :, :rank], self.residuals @ sums[:, :, rank:]
        return inside, products @ self.residuals.transpose(0, 2, 1)

    def fired(self) -> np.ndarray:
        return np.count_nonzero(self.on, axis=1)

    def mixed(self, by: np.ndarray) -> np.ndarray:
        return self.on * (np.einsum("bi,bio->bo", by, self.residuals) @ self.kernel.T)


@dataclass(frozen=True, eq=False)
class _Sure:
    """Examples `[m, inputs]`, their rows in coordinates, rows of shares, and which units are unclear.

    The first share is the one that the example gives; the others span those of all residuals that add up to zero, and
    are none where there is one direction. A unit is unclear if the example's `error` decides whether it fires.
    """

    x: np.ndarray
    rows: np.ndarray
    shares: _Given | _Fired
    unclear: np.ndarray
    error: np.ndarray


def _nearest(outside: Callable[[np.ndarray], np.ndarray], top: float) -> float:
    """The scale up to `top` at which least is outside, on finer and finer grids, while it gets near at all."""
    scales, width = top * np.arange(1, LENGTHS + 1) / LENGTHS, top / LENGTHS
    for turn in range(8):
        values = outside(scales)
        scale = float(scales[np.argmin(values)])
        if turn and values.min() > FAR:
            break
        scales = scale + width * np.linspace(-1, 1, 17)
        width /= 8
    return scale


def _groups(counts: np.ndarray, enough: np.ndarray) -> list[np.ndarray]:
    """Those with `enough` equations, together where `counts` says that few units are left out."""
    several = np.flatnonzero(enough & (counts <= FEW))
    parts = [several[i : i + AT_ONCE] for i in range(0, len(several), AT_ONCE)]
    return parts + [np.array([i]) for i in np.flatnonzero(enough & (counts > FEW))]


def _least(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least of v a v / v b v, and v, of each of the symmetric matrices `[m, k, k]`."""
    size = b.shape[-1]
    trace = np.maximum(np.trace(b, axis1=1, axis2=2), 1e-280)[:, None, None]
    lower = np.linalg.cholesky(b + 1e-12 * trace * np.eye(size))
    half = np.linalg.solve(lower, a)
    values, vectors = np.linalg.eigh(np.linalg.solve(lower, half.transpose(0, 2, 1)))
    return values[:, 0], np.linalg.solve(lower.transpose(0, 2, 1), vectors[:, :, :1])[:, :, 0]


def _labels_of(residuals: np.ndarray) -> np.ndarray:
    """The labels of residuals p - y `[m, outputs - 1]`, without their first entry; -1 where signs are no label's."""
    whole = np.concatenate([-residuals.sum(axis=1, keepdims=True), residuals], axis=1)
    label, least = np.argmin(whole, axis=1), np.partition(whole, 1, axis=1)
    return np.where(least[:, 1] > SIGNS * least[:, 0], label, -1)


class _Clear(NamedTuple):
    """Least squares over the units that are clear.

    Shares with zeros elsewhere, the fits' coordinates `[b, rows, rank]`, products of rows, and of what is left of them,
    `[b, rows, rows]`; and of the other units the row space `[b, width, rank]`, the places, and which of these are no
    padding, `[b, width]`.
    """

    certain: _Given | _Fired
    coordinates: np.ndarray
    products: np.ndarray
    rest: np.ndarray
    few: np.ndarray
    places: np.ndarray
    real: np.ndarray


def _precise(f: _Found) -> float:
    """The largest deviation of a value's error with which an example is claimed."""
    return PRECISE * max(1.0, float(np.ptp(f.x)))


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
        """Of which of `d [m, directions, units]` at most `SCREEN` is outside, by Pythagoras: `[m, directions]`.

        With a margin for the digits that the difference loses.
        """
        inside = d.reshape(-1, d.shape[-1]) @ self.right.astype(d.dtype)
        squares = np.einsum("ij,ij->i", inside, inside).reshape(d.shape[:-1])
        length = np.einsum("mdu,mdu->md", d, d)
        return np.asarray((length - squares <= (SCREEN**2 + 1e-3) * length) & (length > 0))

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
    `across` takes an example's coordinates `[rank]` to its pre-activations, without the bias `shift`.
    """

    across: np.ndarray
    shift: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    softmax: bool
    right: np.ndarray

    @functools.cached_property
    def _glances(self) -> np.ndarray:
        """What `glance` sums over units that are on: the kernel along random directions across, and its products."""
        draws = np.random.default_rng(0).normal(size=(len(self.right), GLANCES)) / np.sqrt(GLANCES)
        draws -= self.right @ (self.right.T @ draws)
        along = (self.kernel[:, :, None] * draws[:, None]).reshape(len(draws), -1)
        one, other = np.triu_indices(self.kernel.shape[1])
        return np.concatenate([along, self.kernel[:, one] * self.kernel[:, other]], axis=1).astype(np.float32)

    def shares(self, z: np.ndarray, which: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """`[pairs, units]`: of those of `z` that `which` says, the shares by direction."""
        return self._on(z)[which] * (self._residuals(z)[which, direction] @ self._columns.T)

    def proof(self, z: np.ndarray, direction: np.ndarray | None = None) -> _Fired:
        """Of each of `z` the share in that direction, if any, and what spans the differences of two labels' shares."""
        outputs = self.kernel.shape[1]
        between = np.eye(outputs)[1:] - np.eye(outputs)[:1]
        spans = np.kron(np.eye(self._columns.shape[1] // outputs), between)
        residuals = np.broadcast_to(spans, (len(z), *spans.shape))
        if direction is not None:
            own = self._residuals(z)[np.arange(len(z)), direction]
            residuals = np.concatenate([own[:, None], residuals], axis=1)
        return _Fired(self._on(z), residuals, self._columns)

    @property
    def _columns(self) -> np.ndarray:
        """`[units, columns]`: what shares are mixtures of, where units are on."""
        return self.kernel

    def _on(self, z: np.ndarray) -> np.ndarray:
        """Which units are on, `[m, units]`."""
        return (z > 0).astype(np.float64)

    def preactivations(self, rows: np.ndarray) -> np.ndarray:
        """`[m, units]` of examples by their coordinates `[m, rank]`; what the others take as `z`."""
        return rows @ self.across + self.shift

    def unclear(self, z: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Which units may fire or not, if pre-activations are off by `near`, `[m, units]` or for all `[units]`."""
        return np.asarray(np.abs(z) < near)

    def likely(self, z: np.ndarray) -> np.ndarray:
        """Probabilities `[m, outputs]`."""
        logits = np.maximum(z, 0) @ self.kernel + self.bias
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def _residuals(self, z: np.ndarray) -> np.ndarray:
        """What part each output has in each direction, `[m, directions, outputs]`."""
        if not self.softmax:
            return np.ones((len(z), 1, 1))
        p, count = self.likely(z), self.kernel.shape[1]
        others = p @ (1 - np.eye(count))  # 1 - p would lose the digits of a sure label
        return np.asarray(np.where(np.eye(count, dtype=bool), -others[:, None], p[:, None]))

    def glance(self, rows: np.ndarray, units: np.ndarray, slack: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Which examples, by coordinates `[m, rank]`, fire their unit and may be near the row space in some direction.

        By a few directions across it, in single precision. Pre-activations may be off by `slack` `[m]`, of their own
        unit, and by `near` `[m, units]`.
        """
        z = rows.astype(np.float32) @ self.across.astype(np.float32) + self.shift.astype(np.float32)
        kept = np.flatnonzero(z[np.arange(len(z)), units] > -slack)
        z, count = z[kept], self.kernel.shape[1]
        on = (z > 0).astype(np.float32)
        residuals = self._residuals(z)
        residuals = (residuals / np.maximum(np.abs(residuals).max(axis=2, keepdims=True), 1e-300)).astype(np.float32)
        sums = on @ self._glances
        along = residuals @ sums[:, : count * GLANCES].reshape(len(z), count, GLANCES)
        products = np.empty((len(z), count, count), np.float32)
        one, other = np.triu_indices(count)
        products[:, one, other] = products[:, other, one] = sums[:, count * GLANCES :]
        lengths = np.einsum("mdo,mdo->md", residuals @ products, residuals)
        unclear = np.count_nonzero(np.abs(z) < near[kept], axis=1) / np.maximum(on.sum(axis=1), 1)
        some = np.einsum("mdg,mdg->md", along, along) < (GLANCE**2 + unclear)[:, None] * lengths
        return np.asarray(kept[some.any(axis=1)])

    def outside(self, z: np.ndarray) -> np.ndarray:
        """What part of each share is outside of the row space, `[m, directions]`."""
        inside, products = _Fired(self._on(z), self._residuals(z), self._columns).inside(self.right)
        lengths = np.einsum("mdd->md", products)
        rest = 1 - np.einsum("mdr,mdr->md", inside, inside) / np.maximum(lengths, 1e-300)
        return np.where(lengths > 0, np.sqrt(np.maximum(rest, 0)), 1.0)


@dataclass(frozen=True, eq=False)
class _Way(_Tail):
    """The same over several local steps, along the straight way from the weights before to those after.

    A unit that fires all the way has, of each example, a share that is a sum over steps of the last kernel at that
    step times a residual. As the kernel moves from `kernel` by `moved`, the sum is a mixture of the columns of both,
    whatever the residuals were. Units that begin or cease to fire are left out of the proof. `z` is `[m, 2, units]`.
    """

    across_after: np.ndarray
    shift_after: np.ndarray
    moved: np.ndarray
    bias_moved: np.ndarray
    times: tuple[float, ...]

    @property
    def _columns(self) -> np.ndarray:
        return np.concatenate([self.kernel, self.moved], axis=1)

    def preactivations(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([super().preactivations(rows), rows @ self.across_after + self.shift_after], axis=1)

    def unclear(self, z: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Also those that change sign, or would if the way bent by half of its length."""
        least = np.abs(z).min(axis=1)
        return np.asarray((z[:, 0] * z[:, 1] <= 0) | (least < near + BEND * np.abs(z[:, 1] - z[:, 0])))

    def _on(self, z: np.ndarray) -> np.ndarray:
        """The part of the way on which units fire, `[m, units]`."""
        fires = np.maximum(z, 0).sum(axis=1) / np.maximum(np.abs(z).sum(axis=1), 1e-300)
        return np.asarray(np.where(z[:, 0] * z[:, 1] > 0, z[:, 0] > 0, fires))

    def _residuals(self, z: np.ndarray) -> np.ndarray:
        """Of each direction the mean residual, and the mean of it times the part of the way gone."""
        means = []
        for t in self.times:
            at = replace(self, kernel=self.kernel + t * self.moved, bias=self.bias + t * self.bias_moved)
            residual = _Tail._residuals(at, (1 - t) * z[:, 0] + t * z[:, 1])
            means.append(np.concatenate([residual, t * residual], axis=2))
        return np.asarray(np.mean(means, axis=0))

    def glance(self, rows: np.ndarray, units: np.ndarray, slack: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Which fire their unit somewhere along the way."""
        z = self.preactivations(rows)[np.arange(len(rows)), :, units]
        return np.flatnonzero(z.max(axis=1) > -slack)

    def replayed(self, layer: DenseInput, x: np.ndarray, labels: np.ndarray, rate: float, steps: int) -> np.ndarray:
        """The shares `[n, units]` of examples that make all of a client's batch, by its own steps of plain SGD."""
        incoming, shift = layer.kernel_weights.copy(), layer.bias_weights.copy()
        kernel, bias = self.kernel.copy(), self.bias.copy()
        targets = np.eye(kernel.shape[1])[labels]
        total = np.zeros((len(x), len(kernel)))
        inner = rate * layer.input_scale**2
        for _ in range(steps):
            z = x @ incoming + shift
            hidden = np.maximum(z, 0)
            residuals = (replace(self, kernel=kernel, bias=bias).likely(z) - targets) / len(x)
            d = (z > 0) * (residuals @ kernel.T)
            total += d
            incoming, shift = incoming - inner * (x.T @ d), shift - rate * d.sum(axis=0)
            kernel, bias = kernel - rate * (hidden.T @ residuals), bias - rate * residuals.sum(axis=0)
        return total


def _tail(view: View, names: DenseNames, layer: DenseInput, space: _Space) -> _Tail | None:
    """The network's tail, if it is one dense layer and the share is of one step."""
    model, spec = view.model, view.model.spec
    if not _is_dense(model, names):
        return None
    several = _steps(view) > 1
    if several and (names.bias is None or not model.task.softmax or model.num_classes < 3):
        return None  # of two classes the weight alone tells mixtures, and over steps it is not known well enough
    weights = np.asarray(view.weights, np.float64)
    kernel, bias = (weights[spec.slice_of(spec.names[i])].reshape(spec.shapes[i]) for i in _behind(model, names))
    across = space.left[: layer.inputs].T @ layer.kernel_weights
    tail = across, layer.bias_weights, kernel, bias, model.task.softmax, space.right
    if not several:
        return _Tail(*tail)
    update = np.asarray(view.observed, np.float64)
    moved, bias_moved = (update[spec.slice_of(spec.names[i])].reshape(spec.shapes[i]) for i in _behind(model, names))
    across_after = space.left[: layer.inputs].T @ layer.kernel_after
    return _Way(*tail, across_after, layer.bias_after, moved, bias_moved, _times(view))


def _behind(model: Model, names: DenseNames) -> list[int]:
    """Which weights are not those of the first dense layer."""
    return [i for i, name in enumerate(model.spec.names) if name not in (names.kernel, names.bias)]


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
    made = _Tail(first, shift, kernel, bias, model.task.softmax, np.eye(units, 1))
    pairs = np.indices(wanted.shape[:2]).reshape(2, -1)
    shares = made.shares(made.preactivations(x), *pairs).reshape(wanted.shape)
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
            smaller = ", smaller batches" if widest > 0 else ""
            raise CapabilityError(
                f"attack 'peel' proves an example by the equations that {self.most} examples leave over in "
                f"{layer.units} units and {layer.inputs} inputs; at least {LEAST_EQUATIONS} are needed, so at most "
                f"{max(widest, 0)} examples. Use a wider layer{smaller} or 'cocktail_party'"
            )
        self.space = _space(self.k, self.most, layer.rounding, seed)
        self.tail = _tail(view, names, layer, self.space)
        if bias is None and self.tail is not None and (view.model.num_classes < 3 or not view.model.task.softmax):
            raise CapabilityError(
                f"attack 'peel' cannot prove an example where the first layer has no bias and labels are two, as in "
                f"model '{view.model.name}': its weight alone would tell both its length and what is mixed into it. "
                "Use 'first_layer' or 'dlg'"
            )
        self.way = self.tail if isinstance(self.tail, _Way) else None
        self.search = tolerance if self.way is None else max(tolerance, SEARCH_STEPS)
        # K's column space has few dimensions: what is left of K is kept as coordinates in it.
        self.whole = self.space.left.T @ self.k
        self.across = np.sum((self.k - self.space.left @ self.whole) ** 2, axis=0)
        self.left = self.whole
        self.scale = self._size(self.whole)
        # Rounding of the weights, and of the gradient in the model's precision.
        self.noise = np.hypot(layer.rounding, float(np.finfo(view.model.spec.dtype).eps) * self.scale)
        self.explained = np.zeros(layer.units, bool)
        self.loudness = np.linalg.norm(layer.kernel_weights, axis=0)
        self.incoming = np.ascontiguousarray(layer.kernel_weights.T)
        self.found: list[_Found] = []
        self.waves: list[int] = []
        self.reason = ""
        self.sharp: list[float] = []
        self.settled = False
        self.units = _units(view, layer)
        # Errors of found examples `[n, n]` by independent errors of 1; and of noise the part in K's column space.
        self.errors = np.zeros((0, 0))
        self.inside = float(np.sqrt(self.space.rank / len(self.k)))

    def run(self) -> list[_Found]:
        """All that can be peeled, without the adversary's own examples."""
        while len(self.found) < self.space.rank:
            # Next to nothing is left in columns that are explained, but it may be a sure example's.
            new = self._wave(~self.explained) or self._wave(self.explained)
            if not new:
                self.reason = self._unproven()
                break
            self.waves.append(len(new))
            self.found += new
            if time.perf_counter() > self.deadline:
                self.reason = "the time was over"
                break
            self._polish(1)
            self._subtract()
        if self.found:
            self._polish(2)
            self._settle()
        own = self.view.own
        if own is not None and own.slot is not None:
            theirs = own.x.reshape(len(own.x), -1)
            self.found = [f for f in self.found if np.abs(theirs - f.x).max(axis=1).min() > 1e-3]
        return self.found

    def _unproven(self) -> str:
        """Why nothing more was found, as far as can be told."""
        return (
            "no unit is left whose example could be proven: one that a single one of the other examples fires, which "
            f"has to fire at least {self._equations()} units in all. Rounding, a defense, and a rate or "
            "procedure that is not the client's hide it as well"
        )

    def _equations(self) -> int:
        """How many equations, and units that fire, a proof takes; without a bias one of a direction alone."""
        residuals = 0 if self.layer.bias is not None or self.tail is None else len(self.tail.bias) - 1
        return LEAST_EQUATIONS + residuals

    def sure(self) -> list[_Found]:
        """Those of `found` whose own share, by the network, is within the row space, and whose values are precise.

        All, where the client's steps with them give the whole update. Values that the kind of data cannot have are not
        claimed, as they would be moved into its range.
        """
        if not self.found:
            return []
        precise = np.array([_precise(f) for f in self.found])
        computed, error, outside = np.array([(f.computed, f.error, f.outside) for f in self.found]).T
        kept = (computed < self.tolerance) & (error < precise)
        if _steps(self.view) > 1:
            off = self._off()
            # Weights are not exact then: a mixture's gives it away only where those of the others scatter by far less.
            # Else two columns must agree besides.
            telling = len(off) >= TELLING and bool(np.median(off) < MIXED / 4)
            fits = kept & (off < MIXED) & telling
            if self.way is not None:
                kept = (outside < self.tolerance) & (computed < COMPUTED_STEPS) & (STEPS_ERROR * error < precise)
            again = kept & (off < AGAIN) & (self._twice() < WORST * precise)
            known = self.view.num_examples is not None  # else pairs much alike pass as half as many examples
            kept = ((fits | again) & known) | self.settled
        kept &= np.array([self._moved(f) for f in self.found]) < WORST * precise
        return [f for f, good in zip(self.found, kept, strict=True) if good]

    def _off(self) -> np.ndarray:
        """How far each weight is from one example's, relative to it, `[n]`; infinite where that is not known."""
        weights = np.array([f.weight for f in self.found])
        return np.min([np.abs(weights / unit - 1) for unit in self.units] or [np.full(len(weights), np.inf)], axis=0)

    def _twice(self) -> np.ndarray:
        """How far the two loudest columns that no other found example has a share in are from each example `[n]`.

        In the worst value; infinite where there are no two. Mixtures of an example with others differ from column to
        column.
        """
        shares = np.abs(self._taken())
        apart = np.full(len(shares), np.inf)
        for i, f in enumerate(self.found):
            alone = np.flatnonzero(shares.sum(axis=0) - shares[i] < 1e-3 * shares[i])
            loudest = alone[np.argsort(-shares[i, alone], kind="stable")[:2]]
            if len(loudest) == 2:
                columns = self.space.left @ self.whole[:, loudest]
                if self.layer.bias is None:  # a column gives its example up to the length
                    lengths = (f.x @ columns) / np.sum(columns**2, axis=0)
                    apart[i] = np.abs((columns * lengths).T - f.x).max()
                else:
                    with np.errstate(divide="ignore", invalid="ignore"):  # a column may be empty after all
                        apart[i] = np.abs((columns[:-1] / columns[-1]).T - f.x).max()
        return apart

    def _moved(self, f: _Found) -> float:
        """How far the kind of data moves a value of an example."""
        given = f.x.reshape(1, *self.view.model.input_shape)
        return float(np.abs(np.asarray(self.view.data_kind.settle(given)) - given).max())

    def _size(self, coordinates: np.ndarray) -> np.ndarray:
        """Root mean square of each column with these coordinates `[rank, units]` and K's part across them."""
        return np.asarray(np.sqrt((np.sum(coordinates**2, axis=0) + self.across) / len(self.k)))

    def _taken(self) -> np.ndarray:
        """The shares `[n, units]` of what was found, by weight."""
        return np.stack([f.weight * f.share for f in self.found])

    def _subtract(self) -> tuple[np.ndarray, np.ndarray]:
        """Takes what was found off K; the shares `[n, units]` by weight, and the size of each column left."""
        rows = np.stack([f.row[: len(self.k)] for f in self.found]) @ self.space.left
        d = self._taken()
        self.left = self.whole - rows.T @ d
        size = self._size(self.left)
        self.explained = size < np.maximum(3 * self.noise, 1e-2 * self.scale)
        return d, size

    def _wave(self, units: np.ndarray) -> list[_Found]:
        """What can be proven now from the columns of `units`, the surest first."""
        x, error = self._candidates(units)
        if not len(x):
            return []
        rows = self._rows(x)
        z = None if self.tail is None else self.tail.preactivations(rows)
        outside = self._outside(x, z)
        best = outside.min(axis=1, keepdims=True)
        # Of two classes both labels have one direction; which it is, the weight's sign tells.
        close, which = np.nonzero((outside <= SCREEN) & (outside <= 1.01 * best + 1e-6))
        order = np.argsort(best[close, 0], kind="stable")
        close, which = close[order], which[order]
        if not len(close):
            return []
        sure = self._sure(x[close], rows[close], None if z is None else z[close], error[close], which)
        return self._new([one for one in self._proven(sure, which) if one is not None])

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """Examples `[m, inputs]`, with the bias's 1 if there is one, in coordinates `[m, rank]`."""
        rows = x @ self.space.left[: x.shape[1]]
        return rows if self.layer.bias is None else rows + self.space.left[-1]

    def _new(self, proven: list[_Found]) -> list[_Found]:
        """Those that are no mixture of examples found before: each takes a rank of its own.

        Examples that something of another is mixed into wait for a unit of their own, as long as others do not: what
        is taken off for them hides the other one.
        """
        strays = self.strays(proven, self.found + proven)
        if strays is not None:
            order = np.argsort(np.maximum(strays, 0), kind="stable")
            proven, strays = [proven[i] for i in order], strays[order]
        basis = _basis([f.share @ self.space.right for f in self.found], self.space.rank)
        new: list[_Found] = []
        least = 0.0
        for i, one in enumerate(proven):
            inside = one.share @ self.space.right
            rest = inside - basis @ (basis.T @ inside)
            if np.linalg.norm(rest) <= OWN * np.linalg.norm(inside):
                continue
            if strays is not None and strays[i] > least:
                if new:
                    break
                least = 2 * max(float(strays[i]), MIXED)
            new.append(one)
            rest -= basis @ (basis.T @ rest)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        return new

    def strays(self, found: list[_Found], among: list[_Found], final: bool = False) -> np.ndarray | None:
        """How much farther each weight is from one example's, or that of several alike, than allowed; `[found]`.

        One example's is that which the numbers and the rate give, or else, as behind clipping, one that most of `among`
        have in common; None where there is none. If this is `final`, several alike are not allowed, and a common weight
        is one of more than half of all examples, as pairs that are alike would be too many with it.
        """
        if not found:
            return None
        mixed = MIXED if self.view.model.num_classes > 2 else MIXED_ALIKE
        mixed = mixed if self.way is None else MIXED_STEPS

        def beyond(these: list[_Found], units: Sequence[float]) -> np.ndarray:
            spreads = [self.space.spread(f.row[: len(self.k)], f.share) for f in these]
            ratio = self._weights(these)[:, None] / np.asarray(units)
            single = [[f.thin or final] for f in these]
            off = np.min(np.abs(ratio / np.where(single, 1, np.maximum(np.round(ratio), 1)) - 1), axis=1)
            return np.asarray(off - mixed - 4 * self.layer.rounding * np.array(spreads))

        known = self.view.num_examples is not None
        least = self.view.total_examples // 2 if final and known else 2
        common = (float(np.median(self._weights(among))),) if len(among) > least else ()
        for units in (self.units, common):
            plainly = units is self.units and _sends_plainly(self.view)
            if not units:
                continue
            fitting = np.sum(beyond(among, units) < 0)
            if plainly or fitting > max(len(among) / 2, least if final and units is common else 0):
                return beyond(found, units)
        return None

    def _weights(self, found: list[_Found]) -> np.ndarray:
        return np.array([f.weight for f in found]) / _factors(found, self.view)

    def _outside(self, x: np.ndarray, z: np.ndarray | None) -> np.ndarray:
        """What part of the share of each of `x` is outside of the row space, `[m, directions]`."""
        if self.tail is not None and z is not None:
            return self.tail.outside(z)
        whole = self.shares(x)  # [m, directions, units]
        if not len(whole):
            return np.ones(whole.shape[:2])
        whole = whole.astype(np.float32, copy=False)
        outside = np.ones(whole.shape[:2])
        near = self.space.near(whole)
        outside[near] = self.space.outside(whole[near])
        return outside

    def _sure(
        self, x: np.ndarray, rows: np.ndarray, z: np.ndarray | None, error: np.ndarray, directions: np.ndarray
    ) -> _Sure:
        """What proofs of examples `[m, inputs]` with shares in those directions begin with."""
        near = 4 * error[:, None] * self.loudness
        if self.tail is not None and z is not None:
            unclear = self.tail.unclear(z, near)
            return _Sure(x, rows, self.tail.proof(z, directions), unclear, error)
        unclear = np.abs(self.layer.preactivations(x)) < near
        whole = self.shares(x).astype(np.float64)
        shares, slopes = whole[np.arange(len(x)), directions], whole[:, :1] - whole[:, 1:]
        return _Sure(x, rows, _Given(np.concatenate([shares[:, None], slopes], axis=1)), unclear, error)

    def _proven(self, sure: _Sure, directions: np.ndarray) -> list[_Found | None]:
        """Each example with its certificate for that direction, or None without one.

        Units so near to zero that the example's error decides whether they fire are left out of the certificate, and
        get the share that the row space gives them. An example's error moves its residual, p - y, by more than which
        units fire; so the residual is the one whose share lies nearest to the row space, if its signs are a label's.
        """
        counts = sure.unclear.sum(axis=1)
        equations = self.layer.units - counts - self.space.rank
        found: list[_Found | None] = [None] * len(counts)
        for these in _groups(counts, equations >= LEAST_EQUATIONS):
            for i, one in zip(these, self._fitted(sure, these, directions[these], equations[these]), strict=True):
                found[i] = one
        return found

    def _fitted(
        self, sure: _Sure, these: np.ndarray, directions: np.ndarray, equations: np.ndarray
    ) -> list[_Found | None]:
        """`_proven` of `these`, all at once."""
        space, task = self.space, self.view.model.task
        clear = self._clear(sure.shares, these, sure.unclear[these])
        products, rest = clear.products, clear.rest
        lengths = np.maximum(products[:, 0, 0], 1e-300)
        computed = np.sqrt(np.maximum(rest[:, 0, 0], 0) / lengths)
        outside, mixed = computed.copy(), np.zeros(products.shape[:2])
        mixed[:, 0] = 1
        label_fits = np.ones(len(these), bool)
        count, fired = products.shape[1] - 1, clear.certain.fired()
        enough = (equations >= LEAST_EQUATIONS + count) & (fired >= LEAST_EQUATIONS + count)
        free = np.flatnonzero(enough) if count else np.zeros(0, int)
        if len(free):
            squares, residuals = _least(rest[free, 1:, 1:], products[free, 1:, 1:])
            # Over several steps a share is no mixture of averages, so that the example's own may be nearer.
            nearer = np.sqrt(np.maximum(squares, 0)) < computed[free]
            free, residuals = free[nearer], residuals[nearer]
            outside[free] = np.sqrt(np.maximum(squares[nearer], 0))
            size = np.einsum("bi,bij,bj->b", residuals, products[free, 1:, 1:], residuals)
            along = np.einsum("bi,bi->b", residuals, products[free, 1:, 0])
            residuals *= (along / np.maximum(size, 1e-300))[:, None]
            mixed[free, 0], mixed[free, 1:] = 0, residuals
            label_fits[free] = _labels_of(residuals[:, : self.view.model.num_classes - 1]) == directions[free]
        inside = np.einsum("bi,bir->br", mixed, clear.coordinates)
        share = clear.certain.mixed(mixed)
        filled = np.einsum("bwr,br->bw", clear.few, inside)
        filled = np.where(clear.real, filled, np.take_along_axis(share, clear.places, axis=1))
        np.put_along_axis(share, clear.places, filled, axis=1)
        found: list[_Found | None] = []
        for b, i in enumerate(these):
            weight = space.weight(sure.rows[i], inside[b])
            label = int(directions[b])
            if isinstance(task, Binary):  # the one direction's factor is p - y times the example's weight
                label = int(weight < 0)
            signed = isinstance(task, Binary) or weight > 0
            if not (label_fits[b] and outside[b] < self.search and signed and np.isfinite(weight)):
                found.append(None)
                continue
            numbers = float(outside[b]), int(directions[b]), float(sure.error[i]), float(computed[b])
            one = _Found(sure.x[i], label, share[b], weight, *numbers, thin=bool(fired[b] < LEAST_EQUATIONS))
            found.append(one)
        return found

    def _clear(self, shares: _Given | _Fired, these: np.ndarray, unclear: np.ndarray) -> _Clear:
        """The rows of `these` fitted by the row space where no unit is `unclear` `[b, units]`."""
        right = self.space.right
        width = int(unclear.sum(axis=1).max())
        places = np.argsort(~unclear, axis=1, kind="stable")[:, :width]
        real = np.take_along_axis(unclear, places, axis=1)
        few = right[places] * real[:, :, None]
        certain = shares.clear(these, unclear)
        inside, products = certain.inside(right)
        gram = (1 + 1e-12) * np.eye(width) - few @ few.transpose(0, 2, 1)
        turned = np.linalg.solve(gram, few @ inside.transpose(0, 2, 1))  # Woodbury
        coordinates = inside + turned.transpose(0, 2, 1) @ few
        rest = products - coordinates @ inside.transpose(0, 2, 1)
        return _Clear(certain, coordinates, products, rest, few, places, real)

    def _candidates(self, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What units `among` these give if they are lone, `[m, inputs]`, each once, and its errors."""
        layer = self.layer
        if layer.bias is None:
            return self._directions(among)
        # Noise has as many directions as the column has entries, the column itself only the rank's.
        noise = self._noise()
        shift = self.space.left[-1] @ self.left
        size = np.abs(shift)
        units = np.flatnonzero((size > 20 * noise) & among)
        units = units[np.argsort(-size[units], kind="stable")]
        rows = (self.left[:, units] / shift[units]).T
        kept = np.isfinite(rows).all(axis=1)
        rows, units = rows[kept], units[kept]
        error = noise[units] / size[units]
        if self.tail is not None:
            margins = self._slack(error) * self.loudness[units], np.multiply.outer(4 * error, self.loudness)
            kept = self.tail.glance(rows, units, *margins)
            rows, units, error = rows[kept], units[kept], error[kept]
        return self._valid(rows @ self.space.left[:-1].T, error, units)

    def _slack(self, error: np.ndarray) -> np.ndarray:
        """How far values of a candidate may be out of range."""
        return 6 * error + 1e-3

    def _noise(self) -> np.ndarray:
        """The error of an entry of each column left: of K's, and of the examples that were taken off."""
        noise = self.noise * self.inside
        if len(self.errors):
            known = self._taken()[: len(self.errors)]
            noise = np.hypot(noise, self.inside * np.linalg.norm(self.errors.T @ known, axis=0))
        return noise

    def _valid(self, x: np.ndarray, error: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those in the kind's range that fire their unit; those that agree within their errors as their mean."""
        if not len(x):
            return x, error
        kind, shape = self.view.data_kind, self.view.model.input_shape
        slack = self._slack(error)
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

    def _directions(self, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Without a bias: the column is the example up to its length, which the certificate chooses."""
        left = self.space.left @ self.left
        noise = self._noise() * np.sqrt(len(left))
        size = np.linalg.norm(left, axis=0)
        units = np.flatnonzero((size > 20 * noise) & among)
        units = units[np.argsort(-size[units], kind="stable")]
        u = (left[:, units] / size[units]).T
        u *= np.where(np.einsum("mi,mi->m", u, self.incoming[units]) < 0, -1.0, 1.0)[:, None]
        error = noise[units] / size[units] / np.sqrt(len(left))
        kept = u.min(axis=1) >= -(1e-3 * u.max(axis=1) + 6 * error)
        u, error = u[kept], error[kept]
        _, first = np.unique(np.round(u @ np.random.default_rng(0).normal(size=u.shape[1]), 5), return_index=True)
        u, error = u[np.sort(first)], error[np.sort(first)]
        if self.tail is not None and self.tail.softmax and not np.any(self.layer.bias_weights):
            lengths = self._lengths(self.tail, u, error)
        else:
            if self.tail is not None and len(u):
                top, rows = 1 / u.max(axis=1, keepdims=True), self._rows(u)
                z = (self.tail.preactivations(top * i / LENGTHS * rows) for i in range(1, LENGTHS + 1))
                near = np.min([self.tail.outside(one).min(axis=1) for one in z], axis=0) <= SCREEN
                u, error = u[near], error[near]
            lengths = np.zeros(len(u))
            for i, one in enumerate(u):
                if time.perf_counter() > self.deadline:
                    break
                lengths[i] = self._length(one)
        kept = lengths > 0
        return lengths[kept, None] * u[kept], lengths[kept] * error[kept]

    def _lengths(self, tail: _Tail, u: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Lengths of directions `[m, inputs]` where units fire at any length alike; 0 for what is none.

        Which units fire, and with them what shares there are, is then known without the length. So only directions
        with a share in the row space are left to be measured. Where the network is as sure at one length as at the
        next, the row space does not tell it. The weight does, if it is the one that others have.
        """
        rows, directions = self._rows(u), np.full(len(u), -1)
        z = tail.preactivations(rows)
        unclear = np.abs(z) < 4 * error[:, None] * self.loudness
        proof, counts = tail.proof(z), unclear.sum(axis=1)
        fired = np.sum((z > 0) & ~unclear, axis=1)
        least = self._equations()
        enough = (self.layer.units - counts - self.space.rank >= least) & (fired >= least)
        for these in _groups(counts, enough):
            clear = self._clear(proof, these, unclear[these])
            squares, residuals = _least(clear.rest, clear.products)
            inside = np.einsum("bi,bir->br", residuals, clear.coordinates)
            signs = np.sign(np.einsum("br,br->b", inside / self.space.sizes, rows[these]))
            labels = _labels_of(signs[:, None] * residuals)
            directions[these] = np.where(np.sqrt(np.maximum(squares, 0)) < self.tolerance, labels, -1)
        lengths, blunt = np.zeros(len(u)), []
        for i in np.flatnonzero(directions >= 0):

            def shares(scales: np.ndarray, z: np.ndarray = z[i], direction: int = directions[i]) -> np.ndarray:
                pairs = np.arange(len(scales)), np.full(len(scales), direction)
                return tail.shares(scales[:, None] * z, *pairs)

            lengths[i], sharp = self._measured(shares, 1 / u[i].max())
            if sharp:
                share = shares(lengths[i : i + 1])[0]
                self.sharp.append(self.space.weight(lengths[i] * rows[i], share @ self.space.right))
            else:
                blunt.append((i, shares))
        common = self._common()
        for i, given in blunt:
            lengths[i] = 0.0 if common is None else self._weighing(given, 1 / u[i].max(), rows[i], common)
        return lengths

    def _common(self) -> float | None:
        """The weight of those whose length the row space tells: the one that is expected, or what most have."""
        if not self.sharp:
            return None
        middle = float(np.median(self.sharp))
        known = [unit for unit in self.units if abs(middle / unit - 1) < 4 * MIXED]
        return known[0] if known else middle if len(self.sharp) > 2 else None

    def _measured(self, shares: Callable[[np.ndarray], np.ndarray], top: float) -> tuple[float, bool]:
        """The length up to `top` whose share lies nearest to the row space, and whether those beside it are far."""
        scale = _nearest(lambda scales: self.space.outside(shares(scales)), top)
        beside = self.space.outside(shares(scale * np.array([1 - LONGER, 1 + LONGER])))
        return scale, bool(beside.min() > self.tolerance)

    def _weighing(
        self, shares: Callable[[np.ndarray], np.ndarray], top: float, row: np.ndarray, common: float
    ) -> float:
        """The length up to `top` at which the example weighs `common`; 0 for none."""
        scales = 1.01 * top * np.arange(1, LENGTHS + 1) / LENGTHS
        for _ in range(5):
            inside = shares(scales) @ self.space.right
            over = 1 - common * scales * ((inside / self.space.sizes) @ row)
            crossed = np.flatnonzero(np.sign(over[:-1]) != np.sign(over[1:]))
            if not len(crossed):
                return 0.0
            scales = np.linspace(scales[crossed[-1]], scales[crossed[-1] + 1], 17)
        return float(scales[8])

    def _length(self, u: np.ndarray) -> float:
        """The length of `u`, with values up to 1, whose gradient lies nearest to the row space."""
        return _nearest(lambda scales: self.space.outside(self.shares(scales[:, None] * u)).min(axis=1), 1 / u.max())

    def _settle(self) -> None:
        """Where all examples of a client were found over several steps: moved to where its steps give the update.

        From the examples follow their exact shares, and from those the examples, in turn until nothing moves. Only
        units that are clear for all examples are looked at: one that begins to fire a step too soon would throw all
        others off. Their columns tell whether this led to the truth.
        """
        view, way, n, procedure = self.view, self.way, len(self.found), self.view.procedure
        if way is None or view.num_examples != (n,) or procedure is None or not view.client_rate:
            return
        if procedure.steps_per_epoch(n) > 1:
            return
        labels = np.array([f.label for f in self.found])
        x, moved = np.stack([f.x for f in self.found]), np.inf
        for _ in range(SETTLING):
            d = way.replayed(self.layer, x, labels, view.client_rate, _steps(view))
            stable = ~way.unclear(way.preactivations(self._rows(x)), 1e-3 * self.loudness).any(axis=0)
            if stable.sum() - n < LEAST_EQUATIONS or np.linalg.matrix_rank(d[:, stable]) < n:
                return
            inverse = np.linalg.pinv(d[:, stable])
            rows = (self.whole[:, stable] @ inverse).T  # [n, rank]
            new = rows @ self.space.left[: self.layer.inputs].T
            moved, x = float(np.abs(new - x).max()), new
            if moved < SETTLED:
                break
        seen, unit = self.whole[:, stable], _steps(view) / n
        left = np.linalg.norm(seen - self._rows(x).T @ d[:, stable])
        errors = np.linalg.norm(inverse, axis=0) * left / np.sqrt(stable.sum())
        if moved > SETTLED or left > self.tolerance * np.linalg.norm(seen):
            return
        self.found = [
            replace(f, x=x[i], share=d[i] / unit, weight=unit, error=float(errors[i]), computed=0.0)
            for i, f in enumerate(self.found)
            if errors[i] < WORST * PRECISE
        ]
        self.settled = True

    def _polish(self, times: int) -> None:
        """All examples found at once, from the columns that they explain: linear in them once shares are known."""
        for _ in range(times):
            d, size = self._subtract()
            trust = self.explained / np.hypot(size, self.noise)
            q, r = np.linalg.qr((d * trust).T)
            sizes = np.linalg.svd(r, compute_uv=False)
            if sizes[-1] <= sizes[0] * max(d.shape) * np.finfo(d.dtype).eps:
                return
            inverse = np.linalg.inv(r)
            rows = inverse @ ((q.T * trust) @ self.whole.T)  # [n, rank]
            if self.layer.bias is not None:
                rows /= rows @ self.space.left[-1:].T
            x = rows @ self.space.left[: self.layer.inputs].T
            spread = np.linalg.norm(inverse, axis=1)
            direction = np.array([f.direction for f in self.found])
            z = None if self.tail is None else self.tail.preactivations(rows)
            sure = self._sure(x, rows, z, spread * self.inside, direction)
            for i, (f, made) in enumerate(zip(self.found, self._proven(sure, direction), strict=True)):
                if made is not None and made.computed < 3 * f.computed:
                    self.found[i] = made
            self.errors = inverse


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


def _times(view: View) -> tuple[float, ...]:
    """Where along the way local steps begin; some of them, if there are many."""
    steps = _steps(view)
    return tuple(float(i) / steps for i in np.linspace(0, steps - 1, min(steps, NODES)))


def _shares(view: View, names: DenseNames) -> Callable[[np.ndarray], np.ndarray]:
    """Examples `[m, inputs]` to their gradients in the layer's pre-activations, `[m, directions, units]`.

    One direction for each label, or one for a single output. Averaged along the way where there were several steps.
    """
    model, dtype = view.model, view.model.spec.dtype
    steps = _steps(view)
    before = np.asarray(view.weights, np.float64)
    moved = np.zeros_like(before) if steps == 1 else np.asarray(view.observed, np.float64)
    places = [[tf.constant(w, dtype) for w in model.spec.unflatten_numpy(before + t * moved)] for t in _times(view)]
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
