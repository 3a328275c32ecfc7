"""Search: the learning rate that needs the fewest rounds, on the paper's multiplicative grid."""

from __future__ import annotations

import math
from collections.abc import Callable

from experiments.mcmahan.run import Run

#: The grid's factors: first in thirds of a decade, then sixths around the best.
COARSE, FINE = 10 ** (1 / 3), 10 ** (1 / 6)
#: A rate is given up after this many times the rounds of the best one so far.
PATIENCE = 1.5
#: No more rates than the paper's grids had.
MOST = 13


def nice(rate: float) -> float:
    """`rate` rounded to four digits, so that the same grid point always has the same name."""
    return float(f"{rate:.4g}")


def better(a: Run, b: Run) -> bool:
    """Whether `a` needed fewer rounds than `b`; who never got there loses to who did."""
    return _cost(a) < _cost(b)


def _cost(run: Run) -> tuple[float, float]:
    if run.crossing is not None:
        return run.crossing, 0.0
    return math.inf, -max(run.accuracy, default=0.0) if run.status == "gave up" else 1.0


def patience(best: Run | None, cap: int) -> int:
    """Rounds to allow the next rate: all of `cap` until some rate has reached the target."""
    if best is None or best.crossing is None:
        return cap
    return min(cap, math.ceil(PATIENCE * best.crossing) + 5)


def search(train: Callable[[float, int], Run], cap: int, start: float = 0.1) -> list[Run]:
    """Runs at the rates visited, in order.

    From `start`, neighbours in thirds of a decade are tried outward until the best rate has a worse one on either
    side, so that the best is never at the grid's end; then its two neighbours in sixths. The paper's authors
    tried 11 to 13 values on grids of 10^(1/3) or 10^(1/6) and checked that the best lay in their middle.

    Args:
      train: `(rate, cap) -> Run`.
      cap: rounds after which a rate is given up.
      start: the middle of the grid.
    """
    runs: dict[float, Run] = {}
    best: Run | None = None

    def visit(rate: float) -> None:
        nonlocal best
        if rate in runs or len(runs) >= MOST:
            return
        runs[rate] = train(rate, patience(best, cap))
        if best is None or better(runs[rate], best):
            best = runs[rate]

    step = 0
    visit(nice(start))
    while len(runs) < MOST:
        around = [nice(start * COARSE ** (step + side)) for side in (1, -1)]
        for rate in around:
            visit(rate)
        assert best is not None
        if best.rate not in around:
            break
        step += 1 if best.rate == around[0] else -1
    for side in (1, -1):
        visit(nice(start * COARSE**step * FINE**side))
    return list(runs.values())
