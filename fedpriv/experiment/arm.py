"""Arm: all seeds of one point of a grid; what tells arms apart, and which guarantee holds against their adversary."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fedpriv.experiment.experiment import Cell
from fedpriv.experiment.work import Outcome, score_of
from fedpriv.metrics.score import Score, summarize

#: Resamples of the interval over seeds.
RESAMPLES = 9999


@dataclass
class CellResult:
    """A cell with what it left.

    Attributes:
      cell: the cell.
      trained, attacked: outcomes, where there are any.
      error: why it is not complete, or "".
      details: the failure's traceback.
    """

    cell: Cell
    trained: Outcome | None = None
    attacked: Outcome | None = None
    error: str = ""
    details: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Of the training and the attack."""
        return {**(self.trained.facts if self.trained else {}), **(self.attacked.facts if self.attacked else {})}

    @property
    def scores(self) -> list[Score]:
        """One a trial."""
        return [score_of(s) for s in self.attacked.scores] if self.attacked else []


@dataclass
class Arm:
    """All seeds of one point of the grid.

    Attributes:
      labels: by axis.
      results: one a seed that is complete.
      seeds: how many the experiment has.
    """

    labels: Mapping[str, str | int | float]
    results: list[CellResult] = field(default_factory=list)
    seeds: int = 0

    @property
    def name(self) -> str:
        """Its labels together."""
        return ", ".join(str(v) for v in self.labels.values()) or "the only arm"

    def mean(self, fact: str) -> float | None:
        """Of a fact over seeds; None where a seed lacks it."""
        values = self.values(fact)
        return float(np.mean(values)) if values else None

    def values(self, fact: str) -> list[float]:
        """A fact's value by seed; empty where a seed lacks it."""
        found = [float(v) for v in (r.facts.get(fact) for r in self.results) if v is not None]
        return found if len(found) == len(self.results) else []

    def interval(self, fact: str) -> tuple[float, float] | None:
        """Bootstrap 95% interval of a fact's mean over seeds; None for fewer than three."""
        values = np.asarray(self.values(fact))
        if len(values) < 3:
            return None
        draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        return float(low), float(high)

    def scores(self) -> tuple[list[Score], list[int], list[int]]:
        """All trials' scores, with the seed and the trial of each."""
        scores: list[Score] = []
        runs: list[int] = []
        batches: list[int] = []
        for result in self.results:
            for k, score in enumerate(result.scores):
                scores.append(score)
                runs.append(result.cell.seed)
                batches.append(k)
        return scores, runs, batches

    def row(self) -> dict[str, Any]:
        """One flat row; made once, since its intervals take resampling."""
        return dict(self._row)

    @cached_property
    def _row(self) -> dict[str, Any]:
        row: dict[str, Any] = {**self.labels, "seeds": len(self.results)}
        scores, runs, batches = self.scores()
        if scores:
            s = summarize(scores, runs=runs, batches=batches)
            row |= {
                "images": s.images,
                "reconstructed": s.successes,
                "success_rate": s.success_rate,
                "success_interval": s.success_interval,
                "psnr_mean": s.psnr_mean,
                "psnr_interval": s.psnr_interval,
                "psnr_median": s.psnr_median,
                "ssim_mean": s.ssim_mean,
                "label_accuracy": s.label_accuracy,
                "evaluations_median": s.evaluations_median,
                "seconds_median": s.seconds_median,
                "attack_knows_defense": self.results[0].facts.get("adaptive"),
            }
        facts = ("accuracy", "rounds_done", "rounds_to_target", "epsilon_server", "epsilon_released")
        for fact in facts:
            if any(fact in r.facts for r in self.results):
                row[fact] = self.mean(fact)
                if fact in ("accuracy", "rounds_to_target"):
                    row[f"{fact}_interval"] = self.interval(fact)
                if fact == "rounds_to_target":
                    row["reached"] = sum(r.facts.get(fact) is not None for r in self.results)
        if any("bytes_up" in r.facts for r in self.results):
            row["bytes_up"] = self.mean("bytes_up")
        return row


def arms(results: Sequence[CellResult]) -> list[Arm]:
    """The points of the grid, in order, with their complete cells."""
    made: dict[tuple[Any, ...], Arm] = {}
    for result in results:
        labels = result.cell.labels
        arm = made.setdefault(tuple(labels.values()), Arm(labels))
        arm.seeds += 1
        if not result.error:
            arm.results.append(result)
    return list(made.values())


def attacked_arms(arms: Sequence[Arm]) -> list[Arm]:
    """Those whose attack claims reconstructions."""
    return [a for a in arms if a.results[0].attacked is not None and a.row().get("psnr_mean") is not None]


def axis_values(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """By axis: its labels among the arms, in order."""
    return {name: list(dict.fromkeys(a.labels[name] for a in arms)) for name in arms[0].labels} if arms else {}


def number_axes(arms: Sequence[Arm]) -> dict[str, list[int | float]]:
    """Axes with several labels that are all numbers, with those."""
    several = {name: values for name, values in axis_values(arms).items() if len(values) > 1}
    return {name: values for name, values in several.items() if all(isinstance(v, int | float) for v in values)}


def words_without(arm: Arm, *axes: str) -> str:
    """Its labels together, but for some axes'."""
    return ", ".join(str(v) for k, v in arm.labels.items() if k not in axes)


def varying_axes(arms: Sequence[Arm]) -> list[str]:
    """Axes in which the arms differ."""
    return [name for name, values in axis_values(arms).items() if len(values) > 1]


def words(arm: Arm, axes: Collection[str]) -> list[str]:
    """Its labels on some axes; a bare number gets its axis's name."""
    return [
        f"{k.replace('_', ' ')} {v}" if isinstance(v, int | float) else str(v)
        for k, v in arm.labels.items()
        if k in axes
    ]


def short_name(arm: Arm, varying: Collection[str]) -> str:
    """Only what tells it from others."""
    return ", ".join(words(arm, varying)) or arm.name


def attack_name(arm: Arm) -> str:
    """Its label, or the attack's own name where the grid has no axis of attacks."""
    return str(arm.labels.get("attack") or str(arm.results[0].cell.setting.attack).partition("(")[0])


def mechanism(arm: Arm) -> str:
    """Its defenses' own names, in order; "" without any."""
    return " + ".join(d.name for d in arm.results[0].cell.setting.made_defenses())


def guarantee(arm: Arm) -> float | None:
    """The guarantee that holds against the adversary who attacked it; None if there is none."""
    observes = arm.results[0].cell.setting.exposure.adversary == "observer"
    found = arm.mean("epsilon_released" if observes else "epsilon_server")
    return found if found is not None and math.isfinite(found) else None


def guaranteed_against(arms: Sequence[Arm]) -> str:
    """Who the guarantees are against, in words."""
    observes = {a.results[0].cell.setting.exposure.adversary == "observer" for a in arms}
    if len(observes) > 1:
        return "the adversary of each setting"
    return "whoever sees the released models" if observes == {True} else "the server, which sees what clients send"


def by_strongest(arms: Sequence[Arm]) -> list[Arm]:
    """Of the arms that differ in the attack alone, the one whose attack reconstructed most."""
    strongest: dict[tuple[Any, ...], Arm] = {}
    for arm in arms:
        place = tuple(v for k, v in arm.labels.items() if k != "attack")
        if place not in strongest or _strength(arm) > _strength(strongest[place]):
            strongest[place] = arm
    return list(strongest.values())


def _strength(arm: Arm) -> tuple[float, float]:
    row = arm.row()
    return tuple(-1.0 if row.get(k) is None else row[k] for k in ("success_rate", "psnr_mean"))  # type: ignore[return-value]
