"""Separation: how well attacks that answer yes or no tell the two apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedpriv.experiment.arm import Arm, attack_name, attacked_arms, short_name, varying_axes
from fedpriv.experiment.drawings.drawn import Drawn, part_of, part_stem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment

#: Most curves in one figure.
CURVES = 6


def roc(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """ROC curves on logarithmic axes, arms together as far as they can be told apart."""
    shown = [a for a in attacked_arms(arms) if a.goal is not None and "roc" in a.goal.draws]
    varying = varying_axes(shown)
    parts = [shown[i : i + CURVES] for i in range(0, len(shown), CURVES)]

    def drawn(part: Sequence[Arm]) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.roc import roc_curves
            from fedpriv.metrics.goals.answers import ranking

            return roc_curves(
                {short_name(a, varying) if varying else attack_name(a): ranking(*a.scores()) for a in part}
            )

        return draw

    return [
        Drawn(
            part_stem("roc", i, len(parts)),
            f"True and false positives{part_of(i, len(parts))}",
            "ROC curves on logarithmic axes: true positives where false ones are few. Areas with 95% intervals.",
            f"ROC curves of {len(part)} settings.",
            drawn(part),
        )
        for i, part in enumerate(parts, 1)
    ]
