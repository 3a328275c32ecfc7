"""Ensemble: reconstructions from several starts, matched one-to-one and pooled; how far they agree, cell by cell.

Vero, Balunovic, Dimitrov, Vechev 2023, "TabLeak: Tabular Data Leakage in Federated Learning", ICML, arXiv 2210.01785,
pool for a smaller variance: which category a start ends in is chance where the update hardly tells, and what most of
them agree on is more often right than the start with the lowest objective. Where they disagree the attacker knows not
to trust the result; the measure of that is an entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.types import Array
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.columns import Columns, Numeric

#: Least deviation of members, so that perfect agreement has an entropy that is finite.
LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Pooled:
    """An ensemble as one batch.

    Attributes:
      x: `[n, *shape]`: the median of each number, and of a category's probabilities the mean; not made valid.
      relaxed: `[n, ...]`, the mean of the members' dummy targets.
      entropy: `[n, columns]` of a table's cells, else None. Of a category's pooled probabilities in units of the
        greatest possible (1 for all alike; 0 for a column of one value); of a number the differential entropy of a
        normal distribution with the members' standard deviation, in nats, the unit being the column's own deviation.
      uncertainty: the same on one scale from 0, where all members agree, to 1, where they say nothing: of a category
        its entropy, of a number the members' standard deviation over the column's, at most 1.
    """

    x: Array
    relaxed: Array
    entropy: Array | None
    uncertainty: Array | None


def pool(members: Array, relaxed: Array, objectives: Array, kind: Kind, groups: Array | None) -> Pooled:
    """Pools the members of an ensemble.

    Args:
      members: `[m, n, *shape]`, reconstructions, each in an order of its own.
      relaxed: `[m, n, ...]`, their dummy targets, such as probabilities of classes.
      objectives: `[m]`; the members are matched to the one with the lowest. What is not finite is left out.
      kind: what examples are.
      groups: `[n]` labels that were held fixed, so that only examples of one label may change places; None where they
        were optimized, so that they are matched along with the examples.

    Returns:
      The pooled batch, in the order of the member with the lowest objective.
    """
    finite = np.isfinite(members).reshape(len(members), -1).all(1) & np.isfinite(objectives)
    members, relaxed, objectives = members[finite], relaxed[finite], np.asarray(objectives)[finite]
    best = int(np.argmin(objectives))
    aligned, targets = [], []
    for x, y in zip(members, relaxed):
        order = _order(x, y, members[best], relaxed[best], kind, groups)
        aligned.append(x[order])
        targets.append(y[order])
    stacked, mean = np.stack(aligned), np.mean(targets, 0)
    median = np.median(stacked, 0)
    if not isinstance(kind, Columns):
        return Pooled(median, mean, None, None)
    made, entropy, uncertainty, at = [], [], [], 0
    for f in kind.fields:
        part = slice(at, at + f.width)
        at += f.width
        if isinstance(f, Numeric):
            made.append(median[:, part])
            spread = np.maximum(stacked[:, :, part.start].std(0), LEAST_SPREAD)
            entropy.append(0.5 * np.log(2 * np.pi * np.e * spread**2))
            uncertainty.append(np.minimum(spread, 1.0))
        else:
            shares = _shares(stacked[:, :, part])
            made.append(shares)
            bits = -np.sum(shares * np.log(np.maximum(shares, 1e-30)), -1)
            entropy.append(bits / np.log(f.width) if f.width > 1 else np.zeros(len(shares)))
            uncertainty.append(np.clip(entropy[-1], 0.0, 1.0))
    return Pooled(np.concatenate(made, 1), mean, np.stack(entropy, 1), np.stack(uncertainty, 1))


def _shares(found: Array) -> Array:
    """Mean `[n, k]` of the members' probabilities `[m, n, k]`; of values that are none, as pixels are not, the votes.

    So a category that the optimizer left at 3.7 counts no more than one at 1.
    """
    sums = found.sum(-1)
    probable = (found >= 0).all() and np.allclose(sums, 1, atol=1e-3)
    votes: Array = found if probable else np.eye(found.shape[-1])[np.argmax(found, -1)]
    return votes.mean(0)


def _order(x: Array, y: Array, to: Array, labels: Array, kind: Kind, groups: Array | None) -> Array:
    """The order of `x [n, ...]` in which it is nearest to `to`."""
    from scipy.optimize import linear_sum_assignment

    costs = kind.costs(x, to)
    if groups is not None and groups.ndim == 1:
        costs = costs + 1e6 * (groups[:, None] != groups[None])
    elif groups is None:
        flat, wanted = y.reshape(len(y), -1), labels.reshape(len(labels), -1)
        costs = costs + np.minimum(np.square(flat[None] - wanted[:, None]).sum(-1), 1.0) * _weight(kind)
    chosen: Array = linear_sum_assignment(costs)[1]
    return chosen


def _weight(kind: Kind) -> float:
    """What a target counts beside an example: as one of a row's columns."""
    return 1 / len(kind.fields) if isinstance(kind, Columns) else 1.0
