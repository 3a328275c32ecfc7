"""Ways: how reconstructions came to be, as film strips, and their quality against gradient evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.experiment.arm import Arm, CellResult, attack_name, attacked_arms, short_name, varying_axes
from fedpriv.experiment.drawings.drawn import Drawn, part_of, part_stem
from fedpriv.metrics.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment

#: Most curves in one figure.
CURVES = 6


def ways(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """The quality along each attack's way, and a film strip of its first trial, of arms that kept them."""
    kept = [a for a in attacked_arms(arms) if any(_ways(r) for r in a.results)]
    varying = varying_axes(arms)
    names = [short_name(a, varying) if varying else attack_name(a) for a in kept]
    parts = [range(i, min(i + CURVES, len(kept))) for i in range(0, len(kept), CURVES)]

    def curves(part: Sequence[int]) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.psnr_curve import psnr_curve

            goal = kept[part[0]].goal
            reference = None if goal is None else goal.reference("psnr_mean")
            found = {names[i]: [way for r in kept[i].results for way in _ways(r)] for i in part}
            return psnr_curve(found, threshold_db=None if reference is None else reference[1])

        return draw

    def strip(arm: Arm) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.film_strip import film_strip

            way, originals = _strip(arm.results[0])
            return film_strip(way, originals, frames=len(way.evaluations))

        return draw

    made = [
        Drawn(
            part_stem("psnr_curve", k, len(parts)),
            f"PSNR against gradient evaluations{part_of(k, len(parts))}",
            "Median PSNR over images and seeds, and quartiles, as the attack goes on; of the start that was kept.",
            f"Curves of PSNR against gradient evaluations of {len(part)} settings.",
            curves(part),
        )
        for k, part in enumerate(parts, 1)
    ]
    filmed = [(arm, name) for arm, name in zip(kept, names, strict=True) if _has_strip(arm.results[0])]
    return made + [
        Drawn(
            part_stem("film_strip", k, len(filmed)),
            f"Film strip: {name}",
            "A reconstruction as it came to be, by gradient evaluations, with its PSNR; the original at the right. "
            f"First trial of seed {arm.results[0].cell.seed}.",
            "Images from the first guess to the last, and the original.",
            strip(arm),
        )
        for k, (arm, name) in enumerate(filmed, 1)
    ]


def _ways(result: CellResult) -> list[Progress]:
    found = [view.way for view in result.views if view.way is not None]
    none = np.zeros(0, np.float32)
    return [
        Progress(np.asarray(w["evaluations"], np.float64), none, _decibels(w["psnr"]), np.zeros(len(w["evaluations"])))
        for w in found
    ]


def _decibels(written: Sequence[Sequence[float | str]]) -> np.ndarray:
    """As it was before it was written as JSON, which has no infinity."""
    return np.array([[float(value) for value in row] for row in written], np.float64)


def _has_strip(result: CellResult) -> bool:
    kept = None if result.attacked is None else result.attacked.arrays.get("strip_originals")
    return kept is not None and kept.shape[-1] in (1, 3)


def _strip(result: CellResult) -> tuple[Progress, np.ndarray]:
    assert result.attacked is not None
    evaluations, x, psnr, originals = (
        np.asarray(result.attacked.arrays[f"strip_{name}"], np.float64)
        for name in ("evaluations", "x", "psnr", "originals")
    )
    return Progress(evaluations, x, psnr, np.zeros(len(evaluations))), originals
