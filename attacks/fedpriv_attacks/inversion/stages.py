"""Stages: an update matched several times over, each from where the last ended, under a prior that weighs ever less.

A heavy prior smooths the objective, so that the first stage finds the right basin; light ones then let the update
decide what it can (graduated non-convexity: Blake, Zisserman 1987, "Visual Reconstruction"). What is kept follows
Morozov's discrepancy principle (1966, Soviet Math. Doklady 7, 414), with the noise not known but measured: the heaviest
prior under which the update is explained as well as under any lighter one, but for a factor of two. A lighter prior
that does not explain twice as much has fitted noise or wandered off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.threat.attack import Finding
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View

#: How many times smaller an error must be to count for more than a heavier prior.
LEEWAY = 2.0


def mismatch(view: View, finding: Finding) -> float:
    """Squared error of the update replayed from a finding, relative to the observed update's squared norm.

    Infinite if the finding is incomplete (no labels, or fewer examples than the update was made from) or not finite.
    """
    n = view.total_examples
    if finding.x is None or finding.y is None or len(finding.x) != n or len(finding.y) != n:
        return float("inf")
    observed = np.asarray(view.observed, np.float64)
    x = tf.constant(finding.x, view.model.spec.dtype)
    y = tf.constant(np.asarray(finding.y, view.model.task.target_dtype))
    with unmeasured():  # it judges a finding, and made none
        replayed = view.simulate(x, y).numpy().astype(np.float64)
    error = float(np.sum((replayed - observed) ** 2) / np.sum(observed**2))
    return error if np.isfinite(error) else float("inf")


def heaviest(errors: Sequence[float]) -> int:
    """The first of the stages whose error is within `LEEWAY` of the smallest."""
    return next(i for i, error in enumerate(errors) if error <= LEEWAY * min(errors))


def joined(first: Finding, second: Finding) -> Finding:
    """Two steps as one finding: the second's result at the cost of both."""

    def both(a: Any, b: Any) -> Any:
        return None if a is None or b is None else np.concatenate([a, b])

    history = second.history
    if first.history is not None and history is not None:
        history = history + np.array([first.history[-1, 0], 0.0])
    return replace(
        second,
        evaluations=first.evaluations + second.evaluations,
        seconds=first.seconds + second.seconds,
        compile_seconds=first.compile_seconds + second.compile_seconds,
        restarts=first.restarts,
        history=both(first.history, history),
        path=both(first.path, second.path),
    )
