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
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, ArrayLike, Examples
from fedpriv.threat.attack import Finding
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View

if TYPE_CHECKING:
    from fedpriv_attacks.inversion.matching import Recipe

#: How many times smaller an error must be to count for more than a heavier prior.
LEEWAY = 2.0


def mismatch(view: View, finding: Finding) -> float:
    """Squared error of the update replayed from a finding, relative to the observed update's squared norm.

    Infinite if the finding is incomplete (no labels, or fewer examples than the update was made from) or not finite.
    """
    n = view.total_examples
    if finding.x is None or finding.y is None or len(finding.x) != n or len(finding.y) != n:
        return float("inf")
    if not np.isfinite(finding.x).all():  # missing examples, whose labels are no classes
        return float("inf")
    x = np.asarray(finding.x, view.model.spec.dtype)
    targets = np.asarray(finding.y, view.model.task.target_dtype)
    return replayed_error(view, x, targets, finding.extra.get("draws", ()))


def unsettled_mismatch(view: View, finding: Finding, recipe: Recipe) -> float:
    """As `mismatch`, of the examples and targets as they were minimized, before they were made valid.

    An image in [0, 1] is never farther from the true one than before it was clipped, but the update that it gives may
    be: with black backgrounds, clipping raised the error of stages a thousandfold, and to about the same for all, so
    that the heaviest prior was kept where lighter ones had come nearer. Where several copies are optimized, the
    finding itself is measured.
    """
    x = unsettled(view, finding, recipe)
    if x is None:
        return mismatch(view, finding)
    return replayed_error(view, x, finding.extra["label_probabilities"], finding.extra.get("draws", ()))


def unsettled(view: View, finding: Finding, recipe: Recipe) -> np.ndarray | None:
    """The examples `[n, ...]` as they entered the model at the end.

    None where several copies were minimized, and of points of an embedding: they leave out its table, so what explains
    an update is the tokens.
    """
    if recipe.coordinates.space == "points":
        return None
    shape = (view.total_examples, *recipe.coordinates.shape(view.model))
    size = recipe.coordinates.size(shape)
    variables = finding.extra["variables"]
    if len(variables) != 1 or recipe.replay.copies(view.static) != 1:
        return None
    dtype = view.model.spec.dtype
    decoded = recipe.coordinates.decode(tf.constant(variables[0][:size], dtype), shape)
    own = tuple(tf.constant(a, dtype) for a in recipe.coordinates.tensors(view))
    x: np.ndarray = recipe.coordinates.entering(decoded, own, view.data_kind).numpy()
    return x


def replayed_error(view: View, x: Examples | Array, targets: ArrayLike, draws: Sequence[Array] = ()) -> float:
    """Squared error of the update replayed from examples, relative to the observed update's squared norm.

    Args:
      view: what was observed.
      x: the examples `[n, *input_shape]`, in the model's precision.
      targets: as `View.simulate` takes them.
      draws: what the model is taken to have drawn, as `Static.simulate` takes it; () for the means.

    Returns:
      The error; infinite where it is not finite.
    """
    observed = np.asarray(view.observed, np.float64)
    with unmeasured():  # it judges a finding, and made none
        values = tuple(tf.constant(a) for a in draws)
        replayed = view.simulate(tf.constant(x), tf.constant(targets), values).numpy().astype(np.float64)
    error = float(np.sum((replayed - observed) ** 2) / np.sum(observed**2))
    return error if np.isfinite(error) else float("inf")


def heaviest(errors: Sequence[float]) -> int:
    """The first of the stages whose error is within `LEEWAY` of the smallest."""
    return next(i for i, error in enumerate(errors) if error <= LEEWAY * min(errors))


def joined(first: Finding, second: Finding) -> Finding:
    """Two steps as one finding: the second's result at the cost of both."""

    def both(a: Array | None, b: Array | None) -> Array | None:
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
