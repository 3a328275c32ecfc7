"""SPEAR: whole batches, exactly, through the zeros that ReLU leaves in a gradient."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, generator
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseInput, dense_input, find_dense_input
from fedpriv_attacks.exact.exact_labels import count_labels
from fedpriv_attacks.exact.low_rank import LowRank, low_rank
from fedpriv_attacks.exact.single_step import require_single_step
from fedpriv_attacks.exact.sparse_directions import SparseDirections, expected_draws

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


#: Root-mean-square error of a value in [0, 1] up to which an example counts as exact: 60 dB.
EXACT = 1e-3
#: How many times the noise that is left out of the factors a zero may differ from zero, relative to its vector.
BLUR = 4.0


class SPEAR(Attack):
    """Exact batches from the first dense layer's gradient, if a ReLU follows it.

    Dimitrov, Baader, Müller, Vechev 2024, "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", NeurIPS,
    arXiv 2403.03945. The kernel's gradient X^T D has the rank of the batch. The columns of D lie in the space its
    singular vectors span, and are zero wherever the ReLU was off, for about half of the units. Such sparse vectors
    of that space are searched for; once as many are found as the rank says, the bias's gradient, the sum of D's rows,
    fixes their scales, and X follows by a linear solve. Whether it is right shows in the sparsity-matching score: the
    share of entries where the pre-activations of the X found are positive exactly where D is not zero. At a score of
    1 the search ends.

    The paper searches by drawing rows (`search="sampling"`), which takes about 2^(n - 1) H_n draws for n examples.
    The default, `search="descent"`, adds shortcuts of our own (see `sparse_directions.py`); the score, and thus
    what counts as found, is the same.

    Repeated examples are one direction; how often each occurs, and all labels, are read off the update once the
    examples are known. A layer without a bias hides each example's scale: they are then scaled to a largest value of
    1, and not called exact. Nothing is exact if an example leaves no trace above the rounding.
    """

    name: ClassVar[str] = "spear"
    paper: ClassVar[str] = "Dimitrov, Baader, Müller, Vechev 2024, arXiv 2403.03945"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.PROCEDURE, Capability.SOFTMAX}
    )

    examples: Count | None = Field(
        default=None,
        description="the number of examples; None takes it from the view, or from the gradient's rank if unknown "
        "there.",
    )
    search: Literal["descent", "sampling"] = Field(default="descent", description="`descent` or `sampling`.")
    max_samples: Count = Field(
        default=100_000_000,
        description="draws of rows after which the search ends. Sampling is refused if it is expected to take more.",
    )
    seconds: Positive = Field(
        default=300.0,
        description="wall-clock after which the search ends. The same seed gives the same finding unless that happens.",
    )
    sparsity: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05,
        description="share of units, of those on for any example, where an example's gradient must be zero to be seen.",
    )
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = Field(
        default=1e-2,
        description="how small against its vector's root mean square an entry must be to be looked at as a zero.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Searches, reconstructs, and says whether it succeeded.

        Returns:
          A Finding whose objective is 1 minus the score. `extra` has `exact` (whether all examples are reconstructed,
          with an expected error of at most 1e-3 a value), `reason` (why not, else ""), `score`, `error` (that expected
          error, for the worst example, if the directions are right), `rank`, `directions` (found), `samples` (draws),
          `expected_samples` (of plain sampling), `descents`, `planes`, `multiplicities` (of the distinct examples)
          and `update_error`, the relative distance of the replayed update to the observed one where the view can
          replay. Directions that were not found are filled up with any that complete the space, so that there is
          always a claim to score.

        Raises:
          CapabilityError: more than one local step; no dense layer with ReLU at the input; too many examples for the
            layer, or for the draws allowed.
          DivergenceError: the layer's update is not finite.
        """
        require_single_step(self.name, view)
        model = view.model
        names = find_dense_input(model)
        if not names.rectified or model.couples_examples:
            why = "depend on the other examples in the batch" if names.rectified else "are on at negative inputs too"
            raise CapabilityError(
                f"attack 'spear' reads the zeros of ReLU units, but those behind '{names.kernel}' of model "
                f"'{model.name}' {why}; use 'cocktail_party', which needs none"
            )
        began = time.perf_counter()
        layer = dense_input(view)
        known = self.examples or (view.total_examples if view.num_examples is not None else None)
        epsilon = float(np.finfo(model.spec.dtype).eps)
        factors = low_rank(layer, known, epsilon)
        found, search = self._search(layer, factors, seed, began)
        extra: dict[str, Any] = {
            "exact": False,
            "reason": "",
            "score": found.score,
            "rank": factors.rank,
            "directions": len(search.directions),
            "samples": search.draws,
            "expected_samples": expected_draws(factors.rank, search.live),
            "descents": search.descents,
            "planes": search.planes,
        }
        x = found.x.reshape(-1, *model.input_shape)
        labels = count_labels(view, layer, x, found.d, known)
        which = np.repeat(np.arange(len(x)), labels.multiplicities)
        extra["multiplicities"] = labels.multiplicities
        reasons = []
        if len(search.directions) < factors.rank:
            reasons.append(f"only {len(search.directions)} of {factors.rank} directions were found")
        elif found.score < 1:
            reasons.append(f"the score is {found.score:.4f}, so at least one direction is wrong")
        if not found.scaled:
            reasons.append(f"'{layer.kernel_name}' has no bias, so the examples' scales are guesses")
        error = _error(found, factors, layer)
        extra["error"] = error
        if error > EXACT:
            reasons.append(f"noise in the update leaves an error of about {error:.1e} a value, above {EXACT:.0e}")
        if known is not None and len(which) != known:
            reasons.append(f"{known} examples, but only {len(which)} left a trace above the rounding")
        extra["reason"] = "; ".join(reasons)
        extra["exact"] = not reasons
        x = view.data_kind.settle(x[which].reshape(-1, *view.model.input_shape)).astype(np.float32)
        extra["update_error"] = update_error(view, x, labels.y)
        seconds = time.perf_counter() - began
        return Finding(x, labels.y, 1 - found.score, search.draws, seconds, extra=extra)

    def _search(
        self, layer: DenseInput, factors: LowRank, seed: int, began: float
    ) -> tuple[Reconstruction, SparseDirections]:
        solver = Solver(layer, factors)
        search = SparseDirections(
            factors.units,
            generator(seed, Purpose.ATTACK),
            self.tolerance,
            float(np.clip(BLUR * factors.noise, 1e-9, self.tolerance)),
            self.sparsity,
        )
        search.off = lambda duals: solver.off(duals)[:, search.live_rows]
        rank, live = search.rank, search.live
        expected = expected_draws(rank, live)
        if rank - 1 > live // 2 or (self.search == "sampling" and expected > self.max_samples):
            raise CapabilityError(
                f"the update shows {rank} examples in {live} active units; finding them by sampling takes about "
                f"2^{max(rank - 1, 0)} x {sum(1 / k for k in range(1, rank + 1)):.1f} draws, here {expected:.1e}, and "
                f"max_samples is {self.max_samples}; "
                + (
                    "half of the units do not determine an example, so this batch is out of reach: use "
                    "'cocktail_party', a smaller batch or a wider layer"
                    if rank - 1 > live // 2
                    else "raise it, or use search=descent"
                )
            )
        most = 16_384 if self.search == "sampling" else 2048
        chunk = int(np.clip(expected / 4, 8 * rank, most))
        best: Reconstruction | None = None
        tried = 0
        while True:
            new = search.draw(chunk)
            if self.search == "descent" and not (new and search.complete):
                new |= search.descend(16)
                new |= search.climb()
            if search.complete:
                if new or best is None:
                    now = solver.reconstruct(search.directions)
                    best = now if best is None or now.score > best.score else best
                elif search.seen > tried and best.score < 1:  # no progress: what was passed over may be right
                    best = _exchanged(best, solver, search.passed_over[-(search.seen - tried) :])
                    tried = search.seen
                if best.score == 1:
                    break
            if search.draws >= self.max_samples or time.perf_counter() - began > self.seconds:
                break
        if best is None:
            missing = np.linalg.svd(search.directions)[2][len(search.directions) :] if len(search.directions) else None
            best = solver.reconstruct(np.eye(rank) if missing is None else np.vstack([search.directions, missing]))
        return best, search


@dataclass(frozen=True)
class Reconstruction:
    """What a full set of directions amounts to.

    Attributes:
      x: `[rank, inputs]`, the examples.
      d: `[rank, units]`, their shares of the gradient in the pre-activations.
      score: share of entries where x's pre-activations are positive exactly where d is not zero, as far as the noise
        lets tell.
      scaled: whether the bias's gradient fixed the scales.
      directions: `[rank, rank]` they come from.
    """

    x: np.ndarray
    d: np.ndarray
    score: float
    scaled: bool
    directions: np.ndarray


class Solver:
    """From directions to examples, for one layer and its factors."""

    def __init__(self, layer: DenseInput, factors: LowRank) -> None:
        self._layer, self._factors = layer, factors
        self._examples = factors.inputs * factors.values  # [inputs, rank]: dual vectors to examples
        self._gain = self._examples.T @ layer.kernel_weights
        self._blur = float(np.clip(BLUR * factors.noise, 1e-9, 1e-2))

    def off(self, duals: np.ndarray) -> np.ndarray:
        """For vectors `[n, rank]` orthogonal to the directions of all other examples: which units are off.

        An example is known up to its scale then; it is taken to have a positive sum and a largest value of 1.
        """
        x = duals @ self._examples.T
        scale = np.sign(x.sum(axis=1)) / np.maximum(np.abs(x).max(axis=1), 1e-30)
        return (duals @ self._gain) * scale[:, None] + self._layer.bias_weights <= 0

    def reconstruct(self, directions: np.ndarray) -> Reconstruction:
        """The examples for `[rank, rank]` directions, and their score."""
        layer = self._layer
        d = directions @ self._factors.units.T  # up to the scale of each row
        x = np.linalg.solve(directions.T, self._examples.T)  # X^T D = examples units^T
        if layer.bias is not None:
            scale = np.linalg.lstsq(d.T, layer.bias, rcond=None)[0]
        else:
            scale = np.sign(x.sum(axis=1)) * np.abs(x).max(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            x, d = x / scale[:, None], d * scale[:, None]
        if not np.isfinite(x).all():
            return Reconstruction(np.nan_to_num(x), d, 0.0, layer.bias is not None, directions)
        return Reconstruction(x, d, self._score(x, d), layer.bias is not None, directions)

    def _score(self, x: np.ndarray, d: np.ndarray) -> float:
        z = self._layer.preactivations(x)
        on = np.abs(d) > self._blur * np.sqrt(np.mean(np.square(d), axis=1, keepdims=True))
        # So near to zero that rounding decides about the sign.
        unclear = np.abs(z) < 10 * self._blur * np.sqrt(np.mean(np.square(z), axis=1, keepdims=True))
        silent = (z > 0) & ~on & ~unclear
        loud = (z <= 0) & on & ~unclear
        # A few entries are as small as the noise by chance: those of normal variables, with the density 0.8 at zero.
        chance = int(2 * 0.8 * self._blur * z.size)
        wrong = np.count_nonzero(loud) + max(np.count_nonzero(silent) - chance, 0)
        return 1 - wrong / z.size


def _error(found: Reconstruction, factors: LowRank, layer: DenseInput) -> float:
    """What the noise left out of the factors does to the worst example, root-mean-square over its values."""
    entry = factors.tail / (np.sqrt(layer.inputs) + np.sqrt(layer.units))  # if it is the same for all entries
    with np.errstate(all="ignore"):
        spread = np.linalg.norm(np.linalg.pinv(np.nan_to_num(found.d)), axis=0)
    # Directions and scales carry the same noise as the mixtures they unmix.
    return float(2 * entry * spread.max())


def _exchanged(best: Reconstruction, solver: Solver, others: np.ndarray) -> Reconstruction:
    """The paper's second stage: single directions exchanged for others seen, if that raises the score."""
    for other in others:
        # How much of each direction is in the other: without any, the exchange would leave the space incomplete.
        base = best.directions
        parts = np.abs(np.linalg.solve(base.T, other))
        for i in np.flatnonzero(parts > 1e-3):
            changed = base.copy()
            changed[i] = other
            now = solver.reconstruct(changed)
            best = now if now.score > best.score else best
            if best.score == 1:
                return best
    return best


def update_error(view: View, x: np.ndarray, y: np.ndarray) -> float:
    """Relative distance of the update replayed from `x` and `y` to the observed one; not-a-number if unknown."""
    if view.procedure is None or view.num_examples is None or view.client_rate is None or len(x) != view.total_examples:
        return float("nan")
    observed = np.asarray(view.observed, np.float64)
    with unmeasured():  # it judges a finding, and made none
        replayed = view.simulate(tf.constant(x, view.model.spec.dtype), tf.constant(y, tf.int32)).numpy()
    return float(np.linalg.norm(replayed - observed) / np.linalg.norm(observed))
