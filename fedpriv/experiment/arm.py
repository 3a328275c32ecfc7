"""Arm: all seeds of one point of a grid; what tells arms apart, and which guarantee holds against their adversary."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedpriv.base.types import Row
from fedpriv.data.kind import Measured
from fedpriv.experiment.experiment import Cell
from fedpriv.experiment.work import Outcome
from fedpriv.metrics.cells import Cells
from fedpriv.metrics.disclosed import Controlled, Disclosed, disclosed
from fedpriv.threat.control import is_generative

if TYPE_CHECKING:
    from fedpriv.threat.goal import Goal

#: Resamples of the interval over seeds.
RESAMPLES = 9999
#: Facts on what its epsilons are of, in words.
MEANT = ("unit_server", "relation_server", "unit_released", "relation_released", "noise_multiplier")
#: Facts on what no attack can exceed; see `attack_bounds`.
BOUNDS = ("exposed_epsilon", "bound_success_rate", "prior_success", "bound_tpr", "bound_advantage")


@dataclass(frozen=True)
class ViewResult:
    """What an attack left of one view.

    Attributes:
      trial: the attacked round.
      first: number of its first unit in the cell.
      units: how many images, or other units of the goal, it is about.
      score: of the goal's kind; None where the attack does not apply.
      inapplicable: why it does not, or "".
      measures: the attack's own numbers.
      way: `evaluations` `[k]` and `psnr` `[k, n]` along the attack's way, where that was kept.
      cells: which cells are right, where the examples are rows of a table.
      control: score of the same attack on noise in place of the update; None where there is none.
      uncontrolled: why there is none though one was asked for, or "".
    """

    trial: int
    first: int
    units: int
    score: Any
    inapplicable: str
    measures: Mapping[str, float]
    way: Mapping[str, Any] | None = None
    cells: Cells | None = None
    control: Any = None
    uncontrolled: str = ""


@dataclass
class CellResult:
    """A cell with what it left.

    Attributes:
      cell: the cell.
      trained, attacked: outcomes, where there are any.
      error: why it is not complete, or "".
      details: the failure's traceback.
      code: versions of the code that its jobs ran with.
    """

    cell: Cell
    trained: Outcome | None = None
    attacked: Outcome | None = None
    error: str = ""
    details: str = ""
    code: tuple[str, ...] = ()

    @property
    def facts(self) -> Row:
        """Of the training and the attack."""
        return {**(self.trained.facts if self.trained else {}), **(self.attacked.facts if self.attacked else {})}

    @cached_property
    def views(self) -> list[ViewResult]:
        """One a view, those included that the attack does not apply to."""
        goal = self.cell.setting.made_goal()
        found: list[ViewResult] = []
        first = 0
        for saved in self.attacked.scores if self.attacked and goal else ():
            assert goal is not None
            refused = saved.get("inapplicable", "")
            score = None if refused else goal.load(saved)
            units = saved["units"] if refused else len(goal.units(score))
            measures = {k: float("nan") if v is None else float(v) for k, v in saved.get("measures", {}).items()}
            own = Cells.load(saved["cells"]) if "cells" in saved else None
            beside = saved.get("control") or {}
            why = beside.get("inapplicable", "")
            control = goal.load(beside) if beside and not why else None
            way = saved.get("way")
            found.append(ViewResult(saved["trial"], first, units, score, refused, measures, way, own, control, why))
            first += units
        return found

    def batch(self, view: int) -> Hashable:
        """What a view's examples are called: alike in another seed's cell where they are the same."""
        return view if self.cell.setting.exposure.order == "file" else (self.cell.seed, view)

    @property
    def scores(self) -> list[Any]:
        """One a view that the attack applies to."""
        return [v.score for v in self.views if v.score is not None]


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

    @cached_property
    def goal(self) -> Goal | None:
        """What its attack was asked, in the words of what was attacked; None where nothing is."""
        if not self.results:
            return None
        return worded(self.results[0].cell.setting.made_goal(), self.results[0].attacked)

    @property
    def refused(self) -> list[ViewResult]:
        """Views that its attack does not apply to."""
        return [v for r in self.results for v in r.views if v.inapplicable]

    @property
    def one_batch(self) -> bool:
        """Whether several images, or other units, come from a single view, which does not show how batches vary."""
        scored = [v for r in self.results for v in r.views if v.score is not None]
        return len(scored) == 1 and scored[0].units > 1

    def scores(self) -> tuple[list[Any], list[int], list[Hashable]]:
        """The scores, with the seed and the number of each one's view."""
        return self._gathered("score")

    @cached_property
    def disclosed(self) -> Disclosed | None:
        """What the updates gave away beyond noise in their place; None where there is no control."""
        if self.goal is None:
            return None
        trials = [
            Controlled(
                score=view.score,
                control=view.control,
                reason=view.uncontrolled,
                batch=result.batch(k),
                run=result.cell.seed,
            )
            for result in self.results
            for k, view in enumerate(result.views)
            if view.score is not None
        ]
        made = self.results[0].cell.setting.made_attack()
        return disclosed(self.goal, trials, made is not None and is_generative(made))

    def cells(self) -> tuple[list[Cells], list[int], list[Hashable]]:
        """The cells of the views on rows of a table, with the seed and the number of each one's view."""
        return self._gathered("cells")

    def _gathered(self, what: Literal["score", "cells"]) -> tuple[list[Any], list[int], list[Hashable]]:
        """That of each view that has it, with the view's seed and number."""
        found: list[Any] = []
        runs: list[int] = []
        batches: list[Hashable] = []
        for result in self.results:
            for k, view in enumerate(result.views):
                if (value := getattr(view, what)) is not None:
                    found.append(value)
                    runs.append(result.cell.seed)
                    batches.append(result.batch(k))
        return found, runs, batches

    def row(self) -> Row:
        """One flat row; made once, since its intervals take resampling."""
        return dict(self._row)

    @cached_property
    def _row(self) -> Row:
        row: Row = {**self.labels, "seeds": len(self.results)}
        scores, runs, batches = self.scores()
        if scores and self.goal is not None:
            row |= self.goal.summarize(scores, runs, batches)
            row |= self._measures()
            row |= {} if self.disclosed is None else self.disclosed.row()
        if self.goal is not None:
            row["attack_knows_defense"] = self.results[0].facts.get("adaptive")
        if self.refused:
            row["inapplicable"] = len(self.refused)
        if any("alarmed" in r.facts for r in self.results):
            row["alarmed"] = self.mean("alarmed")
        facts = ("accuracy", "perplexity", "rounds_done", "rounds_to_target", "epsilon_server", "epsilon_released")
        for fact in facts:
            if any(fact in r.facts for r in self.results):
                row[fact] = self.mean(fact)
                if fact in ("accuracy", "rounds_to_target"):
                    row[f"{fact}_interval"] = self.interval(fact)
                if fact == "rounds_to_target":
                    row["reached"] = sum(r.facts.get(fact) is not None for r in self.results)
        for fact in MEANT:
            said = list(dict.fromkeys(str(r.facts[fact]) for r in self.results if fact in r.facts))
            if said:
                row[fact] = "; ".join(said)
        for fact in BOUNDS:
            if any(fact in r.facts for r in self.results):
                row[fact] = self.mean(fact)
        for fact in ("bytes_up", "bytes_down"):
            if any(fact in r.facts for r in self.results):
                row[fact] = self.mean(fact)
        for fact in ("average_model_accuracy", "consensus_distance"):
            if any("consensus_distance" in r.facts for r in self.results):
                row[fact] = self.mean(fact)
        return row

    def _measures(self) -> dict[str, float]:
        """Means of the attack's own numbers over the views that have them."""
        by: dict[str, list[float]] = {}
        for result in self.results:
            for view in result.views:
                for name, value in view.measures.items():
                    by.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in by.items()}


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
    """Those whose attack applies and has something to show for its goal."""
    return [a for a in arms if a.goal is not None and a.row().get(a.goal.headline) is not None]


def worded(goal: Goal | None, outcome: Outcome | None) -> Goal | None:
    """A goal in the words and columns of the examples that were attacked."""
    saved = None if outcome is None else outcome.facts.get("examples")
    return goal if goal is None or saved is None else goal.about(Measured.load(saved))


def by_goal(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms of each goal that is asked, of each kind of examples it has columns for; those without an attack with
    every one."""
    goals = list(dict.fromkeys((a.goal.name, a.goal.curves) for a in arms if a.goal is not None))
    return [[a for a in arms if a.goal is None or (a.goal.name, a.goal.curves) == asked] for asked in goals] or [
        list(arms)
    ]


def arm_units(arm: Arm) -> int:
    """How many images, or other units of its goal, an arm was attacked on."""
    assert arm.goal is not None
    return int(arm.row()[arm.goal.columns()[0].name])


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


def fact(arm: Arm, name: str) -> float | None:
    """A fact that is the same for all seeds, as a number; None where there is none, or it is infinite."""
    found = arm.mean(name) if arm.results else None
    return found if found is not None and math.isfinite(found) else None


def guaranteed_against(arms: Sequence[Arm]) -> str:
    """Who the guarantees are against, in words."""
    observes = {a.results[0].cell.setting.exposure.adversary == "observer" for a in arms}
    if len(observes) > 1:
        return "the adversary of each setting"
    return "whoever sees the released models" if observes == {True} else "the server, which sees what clients send"


def by_strongest(arms: Sequence[Arm]) -> list[Arm]:
    """Of the arms that differ in the attack alone, the one whose attack got furthest."""
    strongest: dict[tuple[Any, ...], Arm] = {}
    for arm in arms:
        place = tuple(v for k, v in arm.labels.items() if k != "attack")
        if place not in strongest or strength(arm) > strength(strongest[place]):
            strongest[place] = arm
    return list(strongest.values())


def strength(arm: Arm) -> tuple[float, ...]:
    """How far its attack got, by the goal's own columns; lower than all else without one."""
    row = arm.row()
    return tuple(-1.0 if row.get(k) is None else row[k] for k in arm.goal.curves) if arm.goal is not None else (-1.0,)
