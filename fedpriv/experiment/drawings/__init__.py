"""Drawings: which figures an experiment's results allow, and those figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fedpriv.experiment.arm import Arm, by_goal
from fedpriv.experiment.drawings.drawn import Drawn
from fedpriv.experiment.drawings.leakage import costs, heat_maps, leakage_curves
from fedpriv.experiment.drawings.reconstructions import mosaics, reconstruction_grids, text_grids
from fedpriv.experiment.drawings.rows import row_tables
from fedpriv.experiment.drawings.separation import roc
from fedpriv.experiment.drawings.tradeoff import (
    accuracy_against_epsilon,
    against_bounds,
    front,
    noise_panels,
    success_against_epsilon,
)
from fedpriv.experiment.drawings.training import trained_curves, training_curves
from fedpriv.experiment.drawings.ways import ways

if TYPE_CHECKING:
    from fedpriv.experiment.experiment import Experiment

__all__ = ["Drawn", "drawings"]


def drawings(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """All figures that there is something to draw for, in the report's order."""
    complete = [a for a in arms if a.results]
    made: list[Drawn] = []
    if not complete:
        return made
    asked = by_goal(complete)
    for make in (heat_maps, roc, reconstruction_grids, mosaics, row_tables, text_grids, leakage_curves, ways):
        made += _of_each(make, experiment, asked)
    made += trained_curves(experiment, complete)
    made += accuracy_against_epsilon(experiment, complete)
    for make in (noise_panels, front, success_against_epsilon, against_bounds):
        made += _of_each(make, experiment, asked)
    for make in (training_curves, costs):
        made += make(experiment, complete)
    return made


def _of_each(
    make: Callable[[Experiment, Sequence[Arm]], list[Drawn]], experiment: Experiment, asked: Sequence[Sequence[Arm]]
) -> list[Drawn]:
    """One goal's figures after the other's, named by it where there are several."""
    made = []
    goals = [next((a.goal for a in arms if a.goal is not None), None) for arms in asked]
    names = ["" if goal is None else goal.name for goal in goals]
    for arms, goal, name in zip(asked, goals, names, strict=True):
        alike = goal is not None and names.count(name) > 1
        words = f"{name} of {goal.unit}s" if alike and goal is not None else name
        for drawn in make(experiment, arms):
            several, stem = len(asked) > 1, words.replace(" ", "_")
            made.append(
                replace(drawn, stem=f"{drawn.stem}_{stem}", heading=f"{drawn.heading} ({words})") if several else drawn
            )
    return made
