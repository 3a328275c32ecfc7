"""Rows: a table's rows, and what each attack made of them, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedpriv.experiment.arm import Arm, attacked_arms, short_name, varying_axes
from fedpriv.experiment.drawings.drawn import Drawn, part_of, part_stem
from fedpriv.metrics.cells import by_column, joined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment

#: Most rows of one figure, and most figures.
ROWS, FIGURES = 8, 8


def row_tables(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Original rows above reconstructions, a figure an arm; of many arms the first ones."""
    all_shown = [a for a in attacked_arms(arms) if a.cells()[0]]
    shown = all_shown[:FIGURES]
    varying = varying_axes(arms)

    def drawn(arm: Arm) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.row_table import row_table

            several, runs, batches = arm.cells()
            first = joined([c for c, run in zip(several, runs) if run == runs[0]])
            n = min(ROWS, len(first.original))
            unsure = None if first.uncertainty is None else first.uncertainty[:n]
            right = [f"{row['accuracy']:.0%}" for row in by_column(several, runs, batches)[:-1]]
            return row_table(first.columns, first.original[:n], first.found[:n], first.right[:n], unsure, right)

        return draw

    made = []
    for i, arm in enumerate(shown):
        name = short_name(arm, varying) if varying else ""
        shaded = arm.cells()[0][0].uncertainty is not None
        shades = " The darker a cell, the less the attack's own starts agreed on it." if shaded else ""
        more = f" Of {len(all_shown)} settings the first {FIGURES} are drawn." if len(all_shown) > FIGURES else ""
        made.append(
            Drawn(
                part_stem("rows", i + 1, len(shown)),
                f"Rows{': ' + name if name else part_of(i + 1, len(shown))}",
                "Each original row above what the attack made of it: a tick where a cell is right, a cross and a frame "
                f"where it is wrong.{shades} Below, how many are right of all rows attacked. First rows of seed "
                f"{arm.results[0].cell.seed}.{more}",
                "A table of original and reconstructed rows, right and wrong cells marked.",
                drawn(arm),
            )
        )
    return made
