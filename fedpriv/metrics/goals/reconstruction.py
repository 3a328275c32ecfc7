"""Reconstruction: what the examples behind the view look like. The goal of the gradient-inversion literature."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pydantic
from pydantic import Field, PrivateAttr

from fedpriv.base.column import Column
from fedpriv.base.types import Config, Row
from fedpriv.data.kind import Kind, Measured
from fedpriv.metrics.decibels import PSNR_CAP, capped
from fedpriv.metrics.extra import Metric, higher_is_better, load_metric
from fedpriv.metrics.image_quality import COLUMNS as QUALITY
from fedpriv.metrics.score import ImageScore, Score, score, summarize
from fedpriv.threat.attack import Finding
from fedpriv.threat.goal import Goal, Unit
from fedpriv.threat.truth import Truth

#: From this mean SSIM on a reconstruction shows what the image shows.
VISIBLE_SSIM = 0.3


class Reconstruction(Goal):
    """The examples themselves, matched one-to-one and compared with the originals."""

    name: ClassVar[str] = "reconstruction"
    unit: ClassVar[str] = "image"
    draws: ClassVar[frozenset[str]] = frozenset({"reconstructions"})
    headline: ClassVar[str] = "success_rate"
    shade: ClassVar[str] = "psnr_median"
    noted: ClassVar[str] = "images reconstructed"
    curves: ClassVar[tuple[str, ...]] = ("success_rate", "psnr_mean")
    pairs: ClassVar[tuple[str, ...]] = ("psnr", "success")
    graded: ClassVar[bool] = True
    table_note: ClassVar[str] = "An image's PSNR counts as at most 100 dB in all of them."
    rules: ClassVar[tuple[str, ...]] = (
        "An attack 'gets through' where it reconstructed more than half of the images, and 'sometimes gets through' "
        "where it reconstructed any; otherwise nothing was reconstructed, and the upper end of the interval says how "
        "much that can hide. A mean SSIM of 0.3 or more is said to show what the images show, whatever their PSNR.",
    )

    threshold_db: float = Field(default=30.0, description="PSNR in dB from which a reconstruction counts as a success.")
    metrics: tuple[str, ...] = Field(
        default=(),
        description=(
            "more columns, each as `name=where`: `package.module:function`, a `fedpriv.metrics.extra.Metric`; or an "
            "`.npz` file of LPIPS weights."
        ),
    )

    @pydantic.field_validator("metrics")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not all(part.strip() for part in text.partition("=")):
                raise ValueError(f"'{text}' is no name=where, such as lpips=lpips_alex.npz or gap=my_metrics:gap")
        return value

    def made_metrics(self) -> dict[str, Metric]:
        """The metrics by name.

        Raises:
          FedprivError: one cannot be loaded.
        """
        parts = [text.partition("=") for text in self.metrics]
        return {name.strip(): load_metric(where.strip()) for name, _, where in parts}

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Tries the metrics on blank examples."""
        blank = np.zeros((1, *input_shape), np.float32)
        for metric in self.made_metrics().values():
            metric(blank, blank)

    def about(self, examples: Measured) -> Reconstruction:
        """Itself for what has a PSNR; else in the columns of the kind."""
        if "psnr" in {c.name for c in examples.columns}:
            return self
        made = OfKind(threshold_db=self.threshold_db, metrics=self.metrics)
        made._examples = examples
        return made

    def columns(self) -> tuple[Column, ...]:
        """Images and successes, quality, labels and cost."""
        more = [
            Column(name=f"{name}_mean", label=f"Mean {name}", better="higher" if higher_is_better(m) else "lower")
            for name, m in self.made_metrics().items()
        ]
        return (
            Column(name="images", label="Images", better=None, format=".0f"),
            Column(name="reconstructed", label="Reconstructed", format=".0f"),
            Column(
                name="success_rate",
                label="Success rate",
                format=".0%",
                description=f"Share of the images reconstructed at {self.threshold_db:g} dB or better.",
            ),
            Column(name="psnr_mean", label="Mean PSNR", unit="dB", format=".1f", cap=PSNR_CAP),
            Column(name="psnr_median", label="Median PSNR", unit="dB", format=".1f", cap=PSNR_CAP),
            Column(name="ssim_mean", label="Mean SSIM", format=".3f"),
            *more,
            Column(
                name="batches_whole",
                label="Batches whole",
                format=".0%",
                description="Share of the batches of which every image was reconstructed.",
            ),
            LABELS,
            *COSTS,
        )

    def row_columns(self, kind: Kind | None = None) -> tuple[Column, ...]:
        """Quality as the kind has it, whether the label is right, and cost."""
        own = QUALITY if kind is None or "psnr" in {c.name for c in kind.columns} else kind.columns[:3]
        more = [Column(name=name, label=name, format=".4g") for name in self.made_metrics()]
        return (*own, *more, *ROW_ENDS)

    def score(self, finding: Finding, truth: Truth) -> Score:
        """See `fedpriv.metrics.score.score`."""
        return score(finding, truth, self.threshold_db, self.made_metrics())

    def summarize(
        self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
    ) -> Row:
        """Of `fedpriv.metrics.score.summarize`, what stands in tables."""
        s = summarize(scores, runs=runs, batches=batches)
        several = any(len(one.images) > 1 for one in scores) and s.successes is not None
        all_right = [all(image.success for image in one.images) for one in scores]
        whole = {"batches_whole": float(np.mean(all_right))} if several else {}
        extra = {f"{name}_{key}": s.extra[name][key] for name in s.extra for key in ("mean", "interval", "median")}
        return {
            "images": s.images,
            "reconstructed": s.successes,
            "success_rate": s.success_rate,
            "success_interval": s.success_interval,
            "psnr_mean": s.psnr_mean,
            "psnr_interval": s.psnr_interval,
            "psnr_median": s.psnr_median,
            "ssim_mean": s.ssim_mean,
            **extra,
            **whole,
            "label_accuracy": s.label_accuracy,
            "evaluations_median": s.evaluations_median,
            "seconds_median": s.seconds_median,
        }

    def details(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> Row:
        """Of the whole Summary."""
        return summarize(scores, runs=runs).as_dict()

    def describe(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> str:
        """How many of how many, how good, at what cost."""
        return summarize(scores, runs=runs).describe()

    def units(self, score: Any) -> list[Unit | None]:
        """PSNR (at most PSNR_CAP) and success of each image."""
        return [
            None
            if i.psnr is None
            else Unit(key=i.label, values={"psnr": float(capped(i.psnr)), "success": float(bool(i.success))})
            for i in score.images
        ]

    def verdict(self, row: Mapping[str, Any]) -> str:
        """By `rules`."""
        rate, (low, high), similarity = row["success_rate"], row["success_interval"], row["ssim_mean"]
        said = "gets through" if rate > 0.5 else "sometimes gets through" if rate else "reconstructs nothing"
        visible = not rate and similarity is not None and similarity >= VISIBLE_SSIM
        mean = row["psnr_mean"]
        quality = "" if mean is None else f"; mean PSNR {self.column('psnr_mean').text(mean)} dB"
        shows = f", but mean SSIM {similarity:.2f}: what the images show can still be made out" if visible else ""
        return (
            f"{said} ({row['reconstructed']} of {row['images']} images, 95% interval {low:.0%} to {high:.0%}"
            f"{quality}{shows})"
        )

    def note(self, row: Mapping[str, Any]) -> str:
        """How many were reconstructed."""
        return f"{row['reconstructed']} of {row['images']}"

    def shades(self) -> tuple[float, float]:
        """5 dB, what a blind guess gets, to 50 dB, one grey level."""
        return 5.0, 50.0

    def reference(self, column: str) -> tuple[str, float] | None:
        """The threshold, for PSNR."""
        return (f"{self.threshold_db:g} dB", self.threshold_db) if column.startswith("psnr") else None

    def identity(self) -> Config:
        """Without metrics of the user's, the threshold alone, as before there were goals: those results stay valid."""
        return super().identity() if self.metrics else {"threshold_db": self.threshold_db}

    def load(self, saved: Mapping[str, Any]) -> Score:
        """The score that `dump` made."""
        return load_score(saved)


class OfKind(Reconstruction):
    """Reconstruction of examples that have no PSNR, such as texts or rows of a table: in their own columns.

    Made by `Reconstruction.about`, whose class variables follow from the kind here; it asks the same, scores the same
    and is kept under the same key. The first column of the kind is taken for a share in [0, 1].
    """

    _examples: Measured = PrivateAttr()

    @property
    def unit(self) -> str:  # type: ignore[override]
        """What one example is called."""
        return self._examples.noun

    @property
    def shade(self) -> str:  # type: ignore[override]
        """The mean of the kind's first column."""
        return f"{self._examples.columns[0].name}_mean"

    @property
    def shaded_too(self) -> tuple[str, ...]:
        """What is found of a batch as a whole, which may be all where no example is."""
        return tuple(f"{c.name}_mean" for c in self._examples.columns if c.together)

    @property
    def noted(self) -> str:  # type: ignore[override]
        """How many were reconstructed."""
        return f"{self.unit}s reconstructed"

    @property
    def curves(self) -> tuple[str, ...]:  # type: ignore[override]
        """Success, and the kind's first column."""
        return "success_rate", self.shade

    @property
    def pairs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The kind's first column, and success."""
        return self._examples.columns[0].name, "success"

    @property
    def rules(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the words of `verdict` mean."""
        return (
            f"An attack 'gets through' where it reconstructed more than half of the {self.unit}s, each of them whole, "
            "and 'sometimes gets through' where it reconstructed any; otherwise none was, and the upper end of the "
            "interval says how many that can hide.",
        )

    @property
    def table_note(self) -> str:  # type: ignore[override]
        """What the kind's columns are."""
        return " ".join(f"{c.label}: {c.description}" for c in self._examples.columns if c.description)

    def columns(self) -> tuple[Column, ...]:
        """Examples and successes, the means of the kind's columns, labels and cost."""
        kept = {c.name: c for c in super().columns()}
        count = dataclasses.replace(kept["images"], label=f"{self.unit.capitalize()}s")
        rate = dataclasses.replace(
            kept["success_rate"], description=f"Share of the {self.unit}s reconstructed, each of them whole."
        )
        own = [
            dataclasses.replace(c, name=f"{c.name}_mean", label=f"Mean {c.label}" if c.better == "lower" else c.label)
            for c in self._examples.columns
        ]
        whole = dataclasses.replace(
            kept["batches_whole"], description=f"Share of the batches of which every {self.unit} was reconstructed."
        )
        extra = [kept[f"{name}_mean"] for name in self.made_metrics()]
        return (count, kept["reconstructed"], rate, *own, *extra, whole, LABELS, *COSTS)

    def summarize(
        self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
    ) -> Row:
        """Of `fedpriv.metrics.score.summarize`, the means with their intervals."""
        made = super().summarize(scores, runs, batches)
        medians = {f"{name}_median" for name in scores[0].metrics}
        absent = {"psnr_mean", "psnr_interval", "psnr_median", "ssim_mean"} | medians
        if made["label_accuracy"] is None:
            absent.add("label_accuracy")
        return {k: v for k, v in made.items() if k not in absent}

    def details(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> Row:
        """Of the whole Summary, without what images have."""
        made = super().details(scores, runs)
        return {k: v for k, v in made.items() if not k.startswith(("psnr_", "ssim_", "threshold_"))}

    def describe(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> str:
        """How many of how many, how good in the kind's columns, at what cost."""
        s = summarize(scores, runs=runs)
        said = []
        for c in self._examples.columns if s.success_rate is not None else ():
            interval = s.extra[c.name]["interval"]
            within = "" if interval is None else f" ({' to '.join(map(c.text, interval))})"
            said.append(f"{c.label} {c.text(s.extra[c.name]['mean'])}{within}{f' {c.unit}' if c.unit else ''}")
        shown = {name: v for name, v in s.extra.items() if name in self.made_metrics()}
        counted, *rest = dataclasses.replace(s, extra=shown).describe().split(". ")
        means = [f"Means (95% intervals): {', '.join(said)}"] if said else []
        return ". ".join([counted, *means, *rest])

    def units(self, score: Any) -> list[Unit | None]:
        """The kind's first column and success of each example."""
        lead = self.pairs[0]
        return [
            None
            if i.success is None
            else Unit(key=i.label, values={lead: i.extra[lead], "success": float(bool(i.success))})
            for i in score.images
        ]

    def verdict(self, row: Mapping[str, Any]) -> str:
        """By `rules`."""
        rate, (low, high), lead = row["success_rate"], row["success_interval"], self.column(self.shade)
        said = "gets through" if rate > 0.5 else "sometimes gets through" if rate else "reconstructs nothing whole"
        label = lead.label if lead.label.startswith("Mean") else f"mean {lead.label}"
        return (
            f"{said} ({row['reconstructed']} of {row['images']} {self.unit}s, 95% interval {low:.0%} to {high:.0%}; "
            f"{label} {lead.text(row[lead.name])})"
        )

    def shades(self) -> tuple[float, float]:
        """0 to 1."""
        return 0.0, 1.0

    def reference(self, column: str) -> tuple[str, float] | None:
        """Nothing to mark: what is right in full is no threshold."""
        return None


LABELS = Column(
    name="label_accuracy",
    label="Labels found",
    format=".0%",
    description="Share of the labels found, matched one-to-one whatever image they came with.",
)
COSTS = (
    Column(name="evaluations_median", label="Gradient evaluations", better=None, format=".0f"),
    Column(name="seconds_median", label="Seconds", unit="s", better=None, format=".2f"),
)


#: The last columns of a row.
ROW_ENDS = (
    Column(name="label_right", label="label"),
    Column(name="seconds", label="seconds", better=None, format=".2f"),
    Column(name="evaluations", label="evaluations", better=None, format="d"),
)


def load_score(saved: Mapping[str, Any]) -> Score:
    """The Score that was saved as JSON."""

    def number(value: Any) -> float | None:
        return None if value is None else float(value)

    images = tuple(
        ImageScore(
            **{
                **i,
                **{k: number(i[k]) for k in ("psnr", "ssim", "mse")},
                "extra": {k: float(v) for k, v in i["extra"].items()},
            }
        )
        for i in saved["images"]
    )
    matched, objective = saved["matched"], saved["objective"]
    kept = ("threshold_db", "label_accuracy", "seconds", "compile_seconds", "evaluations", "restarts", "surplus")
    return Score(
        images=images,
        matched=None if matched is None else np.asarray(matched, np.int64),
        objective=float("nan") if objective is None else float(objective),
        metrics=saved["metrics"],
        label_existence=saved.get("label_existence"),
        noun=saved.get("noun", "image"),
        **{k: saved[k] for k in kept},
    )
