"""Answers: yes or no, with a confidence: the score that membership and property share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.errors import ParameterError
from fedpriv.base.types import Row
from fedpriv.data.kind import Kind
from fedpriv.metrics.goals.reconstruction import COSTS, ROW_ENDS
from fedpriv.metrics.roc import Ranking, share
from fedpriv.threat.attack import Finding
from fedpriv.threat.goal import Goal, Unit
from fedpriv.threat.truth import Truth


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerScore:
    """One finding's answers beside the right ones.

    Attributes:
      confidence: `[m]` float, higher is surer of yes.
      truth: bool `[m]`.
      guess: bool `[m]`, or None if the attack only ranks.
      seconds, compile_seconds, evaluations, restarts, objective: what the attack cost, and its own objective.
    """

    confidence: np.ndarray
    truth: np.ndarray
    guess: np.ndarray | None
    seconds: float
    compile_seconds: float
    evaluations: int
    restarts: int
    objective: float

    def rows(self, **columns: Any) -> list[Row]:
        """One flat dict an answer; `columns` come first. Costs are those of the whole trial."""
        shared = {
            "batch": len(self.truth),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "evaluations": self.evaluations,
            "restarts": self.restarts,
        }
        guesses: list[bool | None] = [None] * len(self.truth) if self.guess is None else self.guess.tolist()
        return [
            {
                **columns,
                "answer": i,
                "truth": bool(truth),
                "confidence": float(confidence),
                "guess": guess,
                "right": None if guess is None else guess == bool(truth),
                **shared,
            }
            for i, (truth, confidence, guess) in enumerate(zip(self.truth, self.confidence, guesses, strict=True))
        ]


class YesNo(Goal):
    """Base of goals whose answers are yes or no."""

    draws: ClassVar[frozenset[str]] = frozenset({"roc"})
    headline: ClassVar[str] = "auc"
    shade: ClassVar[str] = "auc"
    noted: ClassVar[str] = "its 95% interval"
    curves: ClassVar[tuple[str, ...]] = ("auc", "tpr")
    pairs: ClassVar[tuple[str, ...]] = ("right",)
    table_note: ClassVar[str] = (
        "Answers of all trials and seeds are ranked together; intervals of AUC, TPR and advantage are Wilson's with "
        "the effective number of answers under resampling of seeds, trials and answers."
    )
    rules: ClassVar[tuple[str, ...]] = (
        "An attack that answers yes or no 'tells them apart' where the 95% interval of its AUC lies above one half, "
        "which is guessing; otherwise it 'does no better than guessing' as far as so many answers can show.",
    )

    fpr: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="false positive rate at which true positives are counted."
    )

    def columns(self) -> tuple[Column, ...]:
        """Numbers of answers, how well they are ranked, how many are right, and cost."""
        low = f"{self.fpr:.2g}" if self.fpr < 0.001 else f"{100 * self.fpr:.3g}%"
        return (
            Column(name="answers", label="Answers", better=None, format=".0f"),
            Column(name="yes", label="Of them yes", better=None, format=".0f"),
            Column(
                name="auc", label="AUC", format=".3f", description="Chance that a yes outranks a no; 0.5 is guessing."
            ),
            Column(
                name="tpr", label=f"TPR at {low} FPR", format=".3f", description="True positives at few false ones."
            ),
            Column(
                name="advantage",
                label="Advantage",
                format=".3f",
                description="True minus false positive rate of the attack's own answers.",
            ),
            Column(name="accuracy_of_answers", label="Answers right", format=".0%"),
            *COSTS,
        )

    def mean_of(self, quantity: str) -> Column:
        """The share of answers that are right."""
        return self.column("accuracy_of_answers")

    def row_columns(self, kind: Kind | None = None) -> tuple[Column, ...]:
        """The right answer, the confidence, whether the guess is right, and cost."""
        return (
            Column(name="truth", label="truth", better=None),
            Column(name="confidence", label="confidence", format=".3g"),
            Column(name="right", label="guess"),
            *ROW_ENDS[1:],
        )

    def score(self, finding: Finding, truth: Truth) -> AnswerScore:
        """Sets confidences beside the right answers.

        Raises:
          ParameterError: the finding has no confidences, or another number, or the truth has no answer.
        """
        if truth.answer is None:
            raise ParameterError(
                f"this truth has no answer to a question of goal '{self.name}'; pose it with Goal.pose"
            )
        if finding.confidence is None:
            raise ParameterError(f"this finding has no confidences, which goal '{self.name}' scores")
        answer = np.asarray(truth.answer, bool)
        confidence = np.asarray(finding.confidence, np.float64)
        guess = None if finding.guess is None else np.asarray(finding.guess)
        for what, given in (("confidences", confidence), ("guesses", guess)):
            if given is not None and given.shape != answer.shape:
                raise ParameterError(
                    f"the finding's {what} are {list(given.shape)}, but {len(answer)} answers were asked for"
                )
        if guess is not None and guess.dtype != bool:
            raise ParameterError(f"the finding's guesses are {guess.dtype}; they must be bool")
        return AnswerScore(
            confidence=confidence,
            truth=answer,
            guess=guess,
            seconds=float(finding.seconds),
            compile_seconds=float(finding.compile_seconds),
            evaluations=int(finding.evaluations),
            restarts=int(finding.restarts),
            objective=float(finding.objective),
        )

    def summarize(
        self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
    ) -> Row:
        """Over the answers of all trials and runs, pooled.

        Raises:
          ParameterError: no scores.
        """
        ranked = ranking(scores, runs, batches)
        row: Row = {"answers": len(ranked.truth), "yes": int(ranked.truth.sum())}
        row |= dict.fromkeys(("auc", "auc_interval", "tpr", "tpr_interval", "advantage", "advantage_interval"))
        row |= dict.fromkeys(("accuracy_of_answers", "accuracy_of_answers_interval"))
        if ranked.both:
            row["auc"], row["auc_interval"] = ranked.auc()
            row["tpr"], row["tpr_interval"] = ranked.tpr_at(self.fpr)
        if all(s.guess is not None for s in scores):
            guess = np.concatenate([s.guess for s in scores])
            row["accuracy_of_answers"], row["accuracy_of_answers_interval"] = share(
                guess == ranked.truth, ranked.batches, ranked.runs
            )
            if ranked.both:
                # Of a yes-or-no ranking the area is (1 + TPR - FPR) / 2.
                area, (low, high) = Ranking(guess.astype(float), ranked.truth, ranked.batches, ranked.runs).auc()
                row["advantage"], row["advantage_interval"] = 2 * area - 1, (2 * low - 1, 2 * high - 1)
        row["evaluations_median"] = float(np.median([s.evaluations for s in scores]))
        row["seconds_median"] = float(np.median([s.seconds for s in scores]))
        return row

    @abstractmethod
    def asked(self, answers: int) -> str:
        """What was asked, in words, such as "40 candidates"."""

    def units(self, score: Any) -> list[Unit | None]:
        """Whether each answer is right; none if the attack only ranks."""
        if score.guess is None:
            return [None] * len(score.truth)
        return [
            Unit(key=bool(t), values={"right": float(g == t)}) for t, g in zip(score.truth, score.guess, strict=True)
        ]

    def verdict(self, row: Mapping[str, Any]) -> str:
        """By `rules`."""
        if row["auc"] is None:
            return f"was asked about {self.asked(row['answers'])} with one answer, so that nothing can be told apart"
        low, high = row["auc_interval"]
        said = "tells them apart" if low > 0.5 else "does no better than guessing"
        tpr = self.column("tpr")
        return (
            f"{said} ({self.asked(row['answers'])}; AUC {row['auc']:.2f}, 95% interval {low:.2f} to {high:.2f}; "
            f"{tpr.label} {row['tpr']:.2f})"
        )

    def note(self, row: Mapping[str, Any]) -> str:
        """The interval of the AUC."""
        if row["auc_interval"] is None:
            return ""
        low, high = row["auc_interval"]
        return f"{low:.2f} to {high:.2f}"

    def shades(self) -> tuple[float, float]:
        """Guessing to certainty."""
        return 0.5, 1.0

    def reference(self, column: str) -> tuple[str, float] | None:
        """Guessing."""
        return {"auc": ("guessing", 0.5), "tpr": ("guessing", self.fpr)}.get(column)

    def load(self, saved: Mapping[str, Any]) -> AnswerScore:
        """The score that `dump` made."""
        guess, objective = saved["guess"], saved["objective"]
        return AnswerScore(
            confidence=np.asarray([float(v) for v in saved["confidence"]], np.float64),
            truth=np.asarray(saved["truth"], bool),
            guess=None if guess is None else np.asarray(guess, bool),
            objective=float("nan") if objective is None else float(objective),
            **{k: saved[k] for k in ("seconds", "compile_seconds", "evaluations", "restarts")},
        )


def ranking(
    scores: Sequence[AnswerScore], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
) -> Ranking:
    """All answers of some scores.

    Args:
      scores: at least one.
      runs: which run each comes from; None if all come from one.
      batches: which trial each is about; None takes the k-th of every run to be about the same.

    Raises:
      ParameterError: no scores, or another number of runs or batches.
    """
    if not scores:
        raise ParameterError("there are no scores to summarize; run at least one attack")
    run_of: list[Hashable] = list(runs) if runs is not None else [0] * len(scores)
    batch_of = list(batches) if batches is not None else [run_of[:k].count(r) for k, r in enumerate(run_of)]
    if not len(scores) == len(run_of) == len(batch_of):
        raise ParameterError(
            f"{len(run_of)} runs and {len(batch_of)} batches given for {len(scores)} scores; give one each"
        )
    return Ranking(
        np.concatenate([s.confidence for s in scores]),
        np.concatenate([s.truth for s in scores]),
        [b for b, s in zip(batch_of, scores, strict=True) for _ in s.truth],
        [r for r, s in zip(run_of, scores, strict=True) for _ in s.truth],
    )
