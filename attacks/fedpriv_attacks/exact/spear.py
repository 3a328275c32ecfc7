"""SPEAR: whole batches, exactly, through the zeros that ReLU leaves in a gradient."""

from __future__ import annotations

import time
import warnings
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
from fedpriv_attacks.exact.exact_labels import Labels, count_labels
from fedpriv_attacks.exact.low_rank import LowRank, low_rank
from fedpriv_attacks.exact.single_step import require_single_step
from fedpriv_attacks.exact.sparse_directions import SparseDirections, expected_draws

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


#: Root-mean-square error of a value in [0, 1] up to which an example counts as exact: 60 dB.
EXACT = 1e-3
#: Share of units that agree from which an example is given where noise rules out full agreement.
BLURRED = 0.9
#: Largest part of a certified example's gradient in the logits that its labels leave unexplained, and how many times
#: the error that noise makes in a value may come on top: a mixture of examples is off by its weights.
MISFIT, NOISE_ROOM = 1e-5, 30.0
#: Sampling is tried in each round if it is expected to take fewer draws than this.
MANY = 3e6
#: Reweighted least squares are tried in each round up to this rank.
FEW = 12
#: Rounds after which a search may be given up, and how many times the seconds allowed it must be expected to take.
PROBES, HOPELESS = 4, 10.0
#: Seconds that a search must be expected to take for it to be said as it begins.
WORTH_SAYING = 20.0
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
    Bakarsky, Dimitrov, Baader, Vechev 2025 (SPEAR++, arXiv 2510.24200) see it as dictionary learning, and come to
    larger batches. The default, `search="descent"`, does so in a way of our own (see `sparse_directions.py`); the
    score, and thus what counts as found, is the same.

    How long the search may take is estimated after its first steps. If that is more than 20 s, or than `seconds`, a
    warning says so at once, and the finding again if it is more than `seconds`; if it is far more, the search ends
    there. In the end each example is claimed on its own grounds: its pre-activations must be positive exactly where its
    direction is not zero, its values must be in the data's range, and its labels must explain its gradient. One that is
    not all of that is not-a-number.

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
          A Finding whose objective is 1 minus the score, with `x` `[n, *input_shape]`, not-a-number where no example
          was found and -1 for its label; if the adversary does not know n, as many as were found. `extra` has `exact`
          (whether all examples are reconstructed, with an expected error of at most 1e-3 a value), `reason` (why not,
          else ""), `certified` (which rows of `x` are exact, each on its own grounds), `recovered` (how many are),
          `score`, `error` (that expected error, for the worst example, if the directions are right), `rank`,
          `directions` (found), `samples` (draws), `expected_samples` (of plain sampling), `turns`, `expected_turns`
          and `expected_seconds` (of the search, as estimated after its first steps; a lower bound if those found
          nothing), `descents`, `planes`, `multiplicities` (of the distinct examples), `warnings`, and `update_error`,
          the relative distance of the replayed update to the observed one where the view can replay. Where noise or
          a missing bias rules out exact examples, those that are consistent but for that are given, not certified.

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
        found, search, forecast = self._search(layer, factors, seed, began)
        extra: dict[str, Any] = {
            "exact": False,
            "reason": "",
            "score": found.score,
            "rank": factors.rank,
            "directions": len(search.directions),
            "samples": search.draws,
            "expected_samples": expected_draws(factors.rank, search.live),
            "turns": search.turns,
            "expected_turns": forecast.turns,
            "expected_seconds": forecast.seconds,
            "descents": search.descents,
            "planes": search.planes,
            "warnings": forecast.warnings(self.seconds),
        }
        errors = _errors(found, factors, layer)
        noisy = errors > EXACT
        given = np.flatnonzero(found.agreement >= np.where(noisy, BLURRED, 1.0))
        x = found.x[given].reshape(-1, *model.input_shape)
        labels = count_labels(view, layer, x, found.d[given], known) if len(given) else _NOTHING
        settled = view.data_kind.settle(x)
        moved = np.abs(settled - x).max(axis=tuple(range(1, x.ndim)), initial=0.0)
        room = NOISE_ROOM * errors[given]
        proven = (moved < EXACT + room) & (labels.misfits < MISFIT + room) & ~noisy[given] & found.scaled
        which = np.repeat(np.arange(len(x)), labels.multiplicities)[:known]
        extra["multiplicities"] = labels.multiplicities
        reasons = []
        if len(search.directions) < factors.rank:
            if forecast.hopeless(self.seconds):
                reasons.append(forecast.says)
            reasons.append(f"only {len(search.directions)} of {factors.rank} directions were found")
        elif found.score < 1:
            reasons.append(f"the score is {found.score:.4f}, so at least one direction is wrong")
        if not found.scaled:
            reasons.append(f"'{layer.kernel_name}' has no bias, so the examples' scales are guesses")
        error = float(errors.max())
        extra["error"] = error
        if error > EXACT:
            reasons.append(f"noise in the update leaves an error of about {error:.1e} a value, above {EXACT:.0e}")
        if not reasons and known is not None and len(which) != known:
            reasons.append(f"{known} examples, but only {len(which)} left a trace above the rounding")
        if not reasons and not proven.all():
            reasons.append(
                f"{np.count_nonzero(~proven)} of {len(x)} examples are not explained by their labels or range"
            )
        n = known if known is not None and found.score < 1 else len(which)
        claimed = np.full((n, *model.input_shape), np.nan, np.float32)
        claimed[: len(which)] = settled[which]
        y = np.full(n, -1, np.int32)
        y[: len(which)] = labels.y[:n]
        extra["certified"] = [*proven[which].tolist(), *[False] * (n - len(which))]
        extra["recovered"] = sum(extra["certified"])
        if reasons:
            reasons.append(f"{extra['recovered']} of {n} examples are certified as exact")
        extra["reason"] = "; ".join(reasons)
        extra["exact"] = not reasons
        extra["update_error"] = update_error(view, claimed, y)
        seconds = time.perf_counter() - began
        return Finding(claimed, y, 1 - found.score, search.draws, seconds, extra=extra)

    def _search(
        self, layer: DenseInput, factors: LowRank, seed: int, began: float
    ) -> tuple[Reconstruction, SparseDirections, Forecast]:
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
        forecast: Forecast | None = None
        tried, rounds, started = 0, 0, time.perf_counter()
        while True:
            new = False
            if self.search == "sampling" or rounds == 0 or expected < MANY:
                new |= search.draw(chunk)
            if self.search == "descent" and not (new and search.complete):
                new |= search.turn(int(np.clip(4 * rank, 32, 128)))
                if forecast is None or rounds % 3 == 1:
                    new |= search.climb()
                if rank <= FEW or rounds % 3 == 2:
                    new |= search.descend(16 if rank <= FEW else 8)
            rounds += 1
            if search.complete:
                if new or best is None:
                    now = solver.reconstruct(search.directions)
                    best = now if best is None or now.rank() > best.rank() else best
                elif search.seen > tried and best.score < 1:  # no progress: what was passed over may be right
                    best = _exchanged(best, solver, search.passed_over[-(search.seen - tried) :])
                    tried = search.seen
                if best.score == 1:
                    break
            spent = time.perf_counter() - started
            if forecast is None or (search.hits == 0 and rounds <= PROBES):
                first, forecast = forecast is None, self._forecast(search, expected, spent)
                if first and forecast.seconds > min(WORTH_SAYING, self.seconds):
                    warnings.warn(f"spear: {forecast.says}. It ends after {self.seconds:g} s", stacklevel=2)
            if rounds >= PROBES and forecast.hopeless(self.seconds):
                break
            if search.draws >= self.max_samples or time.perf_counter() - began > self.seconds:
                break
        if forecast is None:
            forecast = self._forecast(search, expected, time.perf_counter() - started)
        if best is None:
            missing = np.linalg.svd(search.directions)[2][len(search.directions) :] if len(search.directions) else None
            best = solver.reconstruct(np.eye(rank) if missing is None else np.vstack([search.directions, missing]))
        return best, search, forecast

    def _forecast(self, search: SparseDirections, draws: float, spent: float) -> Forecast:
        """The cheaper of the two ways, at the speed so far."""
        by_draws = draws * spent / max(search.draws, 1)
        if self.search == "sampling" or not search.turns:
            return Forecast(search.rank, search.live, float("nan"), by_draws, False)
        turns = search.expected_turns()
        by_turns = turns * spent / search.turns
        return Forecast(
            search.rank, search.live, turns, min(by_turns, by_draws), search.hits == 0 and by_turns < by_draws
        )


@dataclass(frozen=True)
class Forecast:
    """How long a search may take.

    Attributes:
      rank: vectors to be found.
      live: rows that are not zero throughout.
      turns: starts it may take; not-a-number if the search draws.
      seconds: wall-clock it may take at the speed of the first steps.
      bound: whether that is only a lower bound.
    """

    rank: int
    live: int
    turns: float
    seconds: float
    bound: bool

    @property
    def says(self) -> str:
        """The estimate in words."""
        more = "at least " if self.bound else ""
        return (
            f"the search for {self.rank} examples in {self.live} active units may take {more}about "
            f"{self.seconds:.0f} s; a wider layer or a smaller batch makes it shorter"
        )

    def warnings(self, allowed: float) -> list[str]:
        """What a user must know beforehand."""
        if self.seconds <= allowed:
            return []
        rounded = f"{float(f'{self.seconds:.0e}'):.0f}"
        more = "at least " if self.bound else ""
        return [
            f"spear's search may take {more}about {rounded} s for {self.rank} examples, and ends after {allowed:g} s; "
            "raise 'seconds', or expect a part of the batch"
        ]

    def hopeless(self, allowed: float) -> bool:
        """Whether the search is not worth going on with."""
        return self.seconds > HOPELESS * allowed


_NOTHING = Labels(np.zeros(0, np.int64), np.zeros(0, np.int32), 0.0, np.zeros(0))


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
      agreement: `[rank]`, the same share for each example.
    """

    x: np.ndarray
    d: np.ndarray
    score: float
    scaled: bool
    directions: np.ndarray
    agreement: np.ndarray

    def rank(self) -> tuple[int, float]:
        """Higher is better: the examples in full agreement, then the score."""
        return int(np.sum(self.agreement == 1)), self.score


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
        finite = np.isfinite(x).all(axis=1)
        x, d = np.nan_to_num(x), np.nan_to_num(d)
        agreement, score = self._agreement(x, d)
        agreement = np.where(finite, agreement, 0.0)
        score = score if finite.all() else 0.0
        return Reconstruction(x, d, score, layer.bias is not None, directions, agreement)

    def _agreement(self, x: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, float]:
        """The share of units that agree, for each example `[rank]` and on the whole."""
        z = self._layer.preactivations(x)
        on = np.abs(d) > self._blur * np.sqrt(np.mean(np.square(d), axis=1, keepdims=True))
        # So near to zero that rounding decides about the sign.
        unclear = np.abs(z) < 10 * self._blur * np.sqrt(np.mean(np.square(z), axis=1, keepdims=True))
        silent = np.count_nonzero((z > 0) & ~on & ~unclear, axis=1)
        loud = np.count_nonzero((z <= 0) & on & ~unclear, axis=1)
        # A few entries are as small as the noise by chance: those of normal variables, with the density 0.8 at zero.
        chance = 2 * 0.8 * self._blur
        wrong = loud.sum() + max(silent.sum() - int(chance * z.size), 0)
        # Of one example there may be as many more as a Poisson variable has now and then.
        few = int(chance * z.shape[1] + 3 * np.sqrt(chance * z.shape[1]))
        return 1 - (loud + np.maximum(silent - few, 0)) / z.shape[1], 1 - float(wrong) / z.size


def _errors(found: Reconstruction, factors: LowRank, layer: DenseInput) -> np.ndarray:
    """What the noise left out of the factors does to each example `[rank]`, root-mean-square over its values."""
    entry = factors.tail / (np.sqrt(layer.inputs) + np.sqrt(layer.units))  # if it is the same for all entries
    with np.errstate(all="ignore"):
        spread = np.linalg.norm(np.linalg.pinv(np.nan_to_num(found.d)), axis=0)
    # Directions and scales carry the same noise as the mixtures they unmix.
    return np.asarray(2 * entry * spread)


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
    if not np.isfinite(x).all():
        return float("nan")
    observed = np.asarray(view.observed, np.float64)
    with unmeasured():  # it judges a finding, and made none
        replayed = view.simulate(tf.constant(x, view.model.spec.dtype), tf.constant(y, tf.int32)).numpy()
    return float(np.linalg.norm(replayed - observed) / np.linalg.norm(observed))
