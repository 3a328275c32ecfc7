"""Drawings: which figures an experiment's results allow, and those figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedpriv.experiment.arm import Arm
from fedpriv.experiment.drawings.drawn import Drawn
from fedpriv.experiment.drawings.leakage import costs, heat_maps, leakage_curves
from fedpriv.experiment.drawings.reconstructions import reconstruction_grids
from fedpriv.experiment.drawings.tradeoff import front, noise_panels, success_against_epsilon
from fedpriv.experiment.drawings.training import trained_curves, training_curves

if TYPE_CHECKING:
    from fedpriv.experiment.experiment import Experiment

__all__ = ["Drawn", "drawings"]


def drawings(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """All figures that there is something to draw for, in the report's order."""
    complete = [a for a in arms if a.results]
    made = []
    if complete:
        for make in (
            heat_maps,
            reconstruction_grids,
            leakage_curves,
            trained_curves,
            noise_panels,
            front,
            success_against_epsilon,
            training_curves,
            costs,
        ):
            made += make(experiment, complete)
    return made
