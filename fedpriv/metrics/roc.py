"""ROC: how well a confidence separates yes from no: curve, area, true positives at few false ones, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.interval import clustered_wilson, effective_wilson, resampled_weights

#: Resamples of the intervals.
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Ranking:
    """Answers to yes-or-no questions, pooled over trials and runs.

    Attributes:
      confidence: `[m]` float; higher is surer of yes. Not-a-number ranks below all others.
      truth: bool `[m]`.
      batches: `[m]`, which trial each belongs to.
      runs: `[m]`, which run (seed).
    """

    confidence: np.ndarray
    truth: np.ndarray
    batches: Sequence[Hashable]
    runs: Sequence[Hashable]

    def __post_init__(self) -> None:
        confidence, truth = np.asarray(self.confidence, np.float64), np.asarray(self.truth, bool)
        if confidence.ndim != 1 or confidence.shape != truth.shape:
            raise ParameterError(
                f"a ranking needs one confidence an answer, not shapes {list(confidence.shape)} and {list(truth.shape)}"
            )
        object.__setattr__(self, "confidence", np.where(np.isnan(confidence), -np.inf, confidence))
        object.__setattr__(self, "truth", truth)

    @property
    def both(self) -> bool:
        """Whether there are answers of both kinds; without, nothing can be separated."""
        return bool(self.truth.any() and not self.truth.all())

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rate `[k]` each, from (0, 0) to (1, 1), one point a distinct confidence.

        Raises:
          ParameterError: answers of one kind only.
        """
        self._check()
        false, true = _rates(self._groups(), self.truth, np.ones((1, len(self.truth))))
        return false[0], true[0]

    def auc(self) -> tuple[float, tuple[float, float]]:
        """Area under the curve, the chance that a yes outranks a no (ties count half), and its 95% interval.

        The interval is Wilson's with the effective number of answers, that which explains the variance under
        resampling of runs, trials and answers.

        Raises:
          ParameterError: answers of one kind only.
        """
        fewer = int(min(self.truth.sum(), (~self.truth).sum()))
        return self._measured(_areas, len(self.truth), fewer)

    def tpr_at(self, fpr: float) -> tuple[float, tuple[float, float]]:
        """The largest true positive rate at a false positive rate of at most `fpr`, and its 95% interval.

        Carlini, Chien, Nasr, Song, Terzis, Tramèr, 2022, arXiv 2112.03570. With fewer than 1/`fpr` answers that are
        no, it is the rate without any false positive. The threshold is chosen on the same answers, and chosen anew in
        each resample.

        Raises:
          ParameterError: answers of one kind only, or `fpr` outside [0, 1].
        """
        if not 0 <= fpr <= 1:
            raise ParameterError(f"fpr={fpr} is no rate; give a number in [0, 1], such as 0.01")

        def rates(false: np.ndarray, true: np.ndarray) -> np.ndarray:
            return np.where(false <= fpr + 1e-12, true, 0.0).max(1)

        return self._measured(rates, int(self.truth.sum()), int(self.truth.sum()))

    def _check(self) -> None:
        if not self.both:
            kind = "yes" if self.truth.all() else "no"
            raise ParameterError(f"all {len(self.truth)} answers are '{kind}'; a ROC curve needs both kinds")

    def _groups(self) -> np.ndarray:
        """For each answer the number of its distinct confidence, the surest first."""
        _, which = np.unique(-self.confidence, return_inverse=True)
        return which

    def _measured(
        self, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], most: int, fewer: int
    ) -> tuple[float, tuple[float, float]]:
        self._check()
        groups = self._groups()
        value = float(statistic(*_rates(groups, self.truth, np.ones((1, len(self.truth)))))[0])
        drawn = []
        for weights in resampled_weights(self.truth, self.batches, self.runs, RESAMPLES):
            usable = (weights[:, self.truth].sum(1) > 0) & (weights[:, ~self.truth].sum(1) > 0)
            drawn.append(statistic(*_rates(groups, self.truth, weights[usable])))
        trials = {*zip(self.runs, self.batches, strict=True)}
        whole = min(fewer, len(trials)) if len(trials) > 1 else fewer
        return value, effective_wilson(value, float(np.concatenate(drawn).var()), most, whole)


def share(
    right: np.ndarray, batches: Sequence[Hashable], runs: Sequence[Hashable]
) -> tuple[float, tuple[float, float]]:
    """The share of answers that are right, and its 95% interval, widened for trials and runs.

    Args:
      right: bool `[m]`.
      batches, runs: `[m]`, which trial and run each belongs to.
    """
    return float(np.mean(right)), clustered_wilson(np.asarray(right), batches, runs)


def _rates(groups: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates `[r, k + 1]` under weights `[r, m]` of the answers."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    rates = []
    for kind in (False, True):
        mine = np.where(truth[order] == kind, weights[:, order], 0.0)
        passed = np.add.reduceat(mine, starts, axis=1).cumsum(1)
        rates.append(np.concatenate([np.zeros((len(weights), 1)), passed / passed[:, -1:]], 1))
    return rates[0], rates[1]


def _areas(false: np.ndarray, true: np.ndarray) -> np.ndarray:
    return (np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1]) / 2).sum(1)
