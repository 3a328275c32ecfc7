"""Labels: which classes the examples behind the view have."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fedpriv.base.column import Column
from fedpriv.base.errors import ParameterError
from fedpriv.base.types import Row
from fedpriv.data.kind import Kind
from fedpriv.metrics.goals.reconstruction import COSTS, LABELS, ROW_ENDS, load_score
from fedpriv.metrics.labels import label_existence_accuracy
from fedpriv.metrics.score import Score, score, summarize
from fedpriv.threat.attack import Finding
from fedpriv.threat.goal import Goal, Unit
from fedpriv.threat.truth import Truth


class Labels(Goal):
    """The labels of the examples, as a multiset: matched one-to-one. Reconstructions, if claimed, do not count."""

    name: ClassVar[str] = "labels"
    unit: ClassVar[str] = "image"
    headline: ClassVar[str] = "label_accuracy"
    shade: ClassVar[str] = "label_accuracy"
    noted: ClassVar[str] = "how many there were"
    curves: ClassVar[tuple[str, ...]] = ("label_accuracy",)
    pairs: ClassVar[tuple[str, ...]] = ("label_right",)
    rules: ClassVar[tuple[str, ...]] = (
        "Of labels, 'finds' gives the share found, matched one-to-one; guessing finds some as well, more of them in "
        "larger batches.",
    )

    def columns(self) -> tuple[Column, ...]:
        """Images, labels and cost."""
        count = Column(name="images", label="Images", better=None, format=".0f")
        whole = Column(
            name="batches_right", label="Batches all right", format=".0%", description="Share of batches found whole."
        )
        there = Column(
            name="label_existence",
            label="Classes right",
            format=".3f",
            description="Share of all classes rightly said to be in the batch or not (Ma et al. 2023).",
        )
        return (count, LABELS, whole, there, *COSTS)

    def row_columns(self, kind: Kind | None = None) -> tuple[Column, ...]:
        """The label, whether it was found, and cost."""
        return (Column(name="label", label="class", better=None, format="d"), *ROW_ENDS)

    def score(self, finding: Finding, truth: Truth) -> Score:
        """Compares the labels alone.

        Raises:
          ParameterError: the finding claims none, or a target is itself a sequence.
        """
        if finding.y is None:
            raise ParameterError("this finding claims no labels; choose goal 'reconstruction', or an attack on labels")
        scored = score(replace(finding, x=None), truth)
        if not truth.num_classes or np.ndim(truth.y) != 1:
            return scored
        return replace(scored, label_existence=label_existence_accuracy(finding.y, truth.y, truth.num_classes))

    def summarize(
        self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
    ) -> Row:
        """Labels found, with Wilson's interval widened for batches and seeds."""
        s = summarize(scores, runs=runs, batches=batches)
        known = [one.label_existence for one in scores if one.label_existence is not None]
        there: Row = {"label_existence": float(np.mean(known))} if known else {}
        return {
            "images": s.images,
            "label_accuracy": s.label_accuracy,
            "label_accuracy_interval": s.label_interval,
            "batches_right": sum(one.label_accuracy == 1 for one in scores) / len(scores),
            **there,
            "evaluations_median": s.evaluations_median,
            "seconds_median": s.seconds_median,
        }

    def details(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> Row:
        """Of the whole Summary."""
        return summarize(scores, runs=runs).as_dict()

    def describe(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> str:
        """How many of how many, at what cost."""
        return summarize(scores, runs=runs).describe()

    def units(self, score: Any) -> list[Unit | None]:
        """Whether each image's label was found."""
        return [Unit(key=i.label, values={"label_right": float(bool(i.label_right))}) for i in score.images]

    def verdict(self, row: Mapping[str, Any]) -> str:
        """The share found."""
        low, high = row["label_accuracy_interval"]
        return f"finds {row['label_accuracy']:.0%} of {row['images']} labels (95% interval {low:.0%} to {high:.0%})"

    def note(self, row: Mapping[str, Any]) -> str:
        """Of how many."""
        return f"of {row['images']}"

    def load(self, saved: Mapping[str, Any]) -> Score:
        """The score that `dump` made."""
        return load_score(saved)
