"""Compare: two experiments' results, image by image where they share images, with paired differences."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from fedpriv.base.errors import ExperimentError
from fedpriv.base.types import Row
from fedpriv.experiment.arm import Arm
from fedpriv.metrics.paired import Paired, paired


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number, so that one of them below 0.05 by chance alone is rarer than 5%.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 65.

    Args:
      p_values: of tests that belong together; None where none could be made, which does not count.

    Returns:
      As many, in the same order.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for k, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - k) * p))
        adjusted[i] = largest
    return adjusted


def compare_arms(first: Arm, second: Arm) -> list[Paired]:
    """What the goal compares unit by unit (PSNR by image, say), and accuracy by seed, on what both arms have."""
    same = first.goal is not None and second.goal is not None and first.goal.name == second.goal.name
    ours, theirs = (_units(first), _units(second)) if same else ({}, {})
    shared = [k for k in ours if k in theirs]
    found = []
    if shared:
        runs = [k[0] for k in shared]
        # Images that shared a trial in either arm share its luck: the arm with fewer trials says which do.
        coarser = min(ours, theirs, key=lambda arm: len({(k[0], arm[k][0]) for k in shared}))
        batches = [coarser[k][0] for k in shared]
        assert first.goal is not None
        for quantity in first.goal.pairs:
            a, b = [ours[k][1][quantity] for k in shared], [theirs[k][1][quantity] for k in shared]
            # The same images under several seeds are one trial for the test: it is about images.
            found.append(paired(quantity, a, b, batches, runs, flipped=batches))
    a_by, b_by = _accuracies(first), _accuracies(second)
    seeds = [s for s in a_by if s in b_by]
    if len(seeds) > 1:
        found.append(paired("accuracy", [a_by[s] for s in seeds], [b_by[s] for s in seeds], [0] * len(seeds), seeds))
    return found


def _accuracies(arm: Arm) -> dict[int, float]:
    found = ((r.cell.seed, r.facts.get("accuracy")) for r in arm.results)
    return {seed: float(accuracy) for seed, accuracy in found if accuracy is not None}


def _units(arm: Arm) -> dict[tuple[int, Hashable, int, Any], tuple[Hashable, Mapping[str, float]]]:
    """(seed, where its images come from, number of the image or other unit, its key) to its view and values.

    Cells of one seed draw their images in one order, however many of them make a trial, so the number tells which it
    is, among cells that attack the same part of the same data.
    """
    found = {}
    assert arm.goal is not None
    for result in arm.results:
        source = result.facts.get("images_of")
        for k, view in enumerate(result.views):
            if view.score is None:
                continue
            for number, unit in enumerate(arm.goal.units(view.score), view.first):
                if unit is not None:
                    found[(result.cell.seed, source, number, unit.key)] = (result.batch(k), unit.values)
    return found


def compare(first: Sequence[Arm], second: Sequence[Arm]) -> list[Row]:
    """Rows for all arms that both experiments have, by the labels of the axes they share.

    An arm of one may meet several of the other, which then differ in an axis that only the other has.

    Raises:
      ExperimentError: they share no arm, or several arms of each would meet several of the other.
    """
    axes = [n for n in (first[0].labels if first else {}) if second and n in second[0].labels]

    def places(arms: Sequence[Arm]) -> dict[tuple[Any, ...], list[Arm]]:
        found: dict[tuple[Any, ...], list[Arm]] = {}
        for arm in arms:
            found.setdefault(tuple(arm.labels[n] for n in axes), []).append(arm)
        return found

    rows = []
    of_second = places(second)
    for place, ours in places(first).items():
        theirs = of_second.get(place, [])
        if len(ours) > 1 and len(theirs) > 1:
            where = ", ".join(f"{n} {v}" for n, v in zip(axes, place)) or "no axis shared"
            own = [", ".join(n for n in arms[0].labels if n not in axes) for arms in (ours, theirs)]
            raise ExperimentError(
                f"with {where}, the first has {len(ours)} arms (by {own[0]}), the second {len(theirs)} (by {own[1]}); "
                "compare experiments that share all but one side's axes, so that it is clear which belong together"
            )
        for a in ours:
            for b in theirs:
                rows += [p.row(**{**a.labels, **b.labels}) for p in compare_arms(a, b)]
    if not rows:
        raise ExperimentError(
            "these results share no arm with images or accuracies in both; compare experiments whose axes have the "
            "same labels, on the same images"
        )
    return with_holm(rows)


def with_holm(rows: Sequence[Row]) -> list[Row]:
    """Rows of `Paired` with `p_holm`, over all the rows of a quantity."""
    adjusted: dict[int, float | None] = {}
    for quantity in {row["quantity"] for row in rows}:
        mine = [i for i, row in enumerate(rows) if row["quantity"] == quantity]
        adjusted |= dict(zip(mine, holm([rows[i]["p_value"] for i in mine])))
    return [{**row, "p_holm": adjusted[i]} for i, row in enumerate(rows)]
