"""Cells: a finding on rows of a table cell by cell, which are right and how sure its attack was of each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.types import Array, Row
from fedpriv.data.kinds.columns import Columns
from fedpriv.metrics.interval import clustered_wilson
from fedpriv.metrics.score import aligned

if TYPE_CHECKING:
    from fedpriv.metrics.score import Score
    from fedpriv.threat.attack import Finding
    from fedpriv.threat.truth import Truth

#: Share of the cells, those whose uncertainty is least, that an attacker is said to trust.
TRUSTED = 0.25


@dataclass(frozen=True)
class Cells:
    """Rows of a table and what an attack made of them, `n` rows of `k` columns in the truth's order.

    Attributes:
      columns: the columns' names.
      right: bool `[n, k]`, whether the category is right, or the number near enough (`Columns.right`).
      uncertainty: `[n, k]` in [0, 1], where the attack says how sure it is of a cell, from 0 (sure) to 1; None if it
        does not.
      original: the first rows in words, as many as are kept.
      found: what was found for these; empty texts where nothing was, or nothing finite.
    """

    columns: tuple[str, ...]
    right: Array
    uncertainty: Array | None
    original: tuple[tuple[str, ...], ...] = ()
    found: tuple[tuple[str, ...], ...] = ()

    def dump(self) -> Row:
        """JSON-able."""
        return {
            "columns": list(self.columns),
            "right": self.right.astype(int).tolist(),
            "uncertainty": None if self.uncertainty is None else np.round(self.uncertainty, 4).tolist(),
            "original": [list(row) for row in self.original],
            "found": [list(row) for row in self.found],
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Cells:
        """What `dump` saved."""
        unsure = saved["uncertainty"]
        return cls(
            tuple(saved["columns"]),
            np.asarray(saved["right"], bool),
            None if unsure is None else np.asarray(unsure, np.float64),
            tuple(map(tuple, saved["original"])),
            tuple(map(tuple, saved["found"])),
        )


def cells(finding: Finding, score: Score, truth: Truth, keep: int) -> Cells | None:
    """A finding's cells, of which the first `keep` rows in words; None unless it claims rows of a table."""
    kind, found = truth.kind, None
    if isinstance(kind, Columns):
        found = aligned(finding, score, kind)
    if found is None:
        return None
    assert isinstance(kind, Columns)
    assert score.matched is not None
    unsure, measured = None, finding.extra.get("uncertainty")
    if measured is not None:
        unsure = np.ones((len(found), len(kind.fields)))
        has = (score.matched >= 0) & (score.matched < len(measured))
        unsure[has] = np.asarray(measured)[score.matched[has]]
    return Cells(
        tuple(f.name for f in kind.fields),
        kind.right(truth.x, found),
        unsure,
        tuple(map(tuple, kind.cell_texts(truth.x[:keep]))),
        tuple(map(tuple, kind.cell_texts(found[:keep]))),
    )


def joined(several: Sequence[Cells]) -> Cells:
    """All of several trials on one table as one; uncertainty only if each has it."""
    unsure = [c.uncertainty for c in several if c.uncertainty is not None]
    return Cells(
        several[0].columns,
        np.concatenate([c.right for c in several]),
        np.concatenate(unsure) if len(unsure) == len(several) else None,
        tuple(row for c in several for row in c.original),
        tuple(row for c in several for row in c.found),
    )


def by_column(
    several: Sequence[Cells], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
) -> list[Row]:
    """One row a column, and one of all: how many of its cells are right, and a 95% interval of the share.

    The interval takes batches, and runs where there are several, for what was drawn (`clustered_wilson`). Where the
    attack says how sure it is, the column's mean uncertainty follows, and how many are right of the quarter of its
    cells (`TRUSTED`) that it is surest of, and as uncertain cells as the last of these count too. Of all columns, these
    cells of each.

    Args:
      several: the cells of each trial.
      runs: the run of each; None if all are of one.
      batches: the batch of examples that each is about; None takes every trial of a run to be about one of its own.
    """
    whole = joined(several)
    run_of: list[Hashable] = list(runs) if runs is not None else [0] * len(several)
    counted = [run_of[:k].count(run) for k, run in enumerate(run_of)]
    batch_of: list[Hashable] = list(counted if batches is None else batches)
    sizes = [len(c.right) for c in several]
    if whole.uncertainty is not None:  # by column: a category's and a number's are not on quite the same scale
        last = max(0, int(np.ceil(TRUSTED * len(whole.right))) - 1)
        surest = whole.uncertainty <= np.sort(whole.uncertainty, 0)[last]
    parts = [(name, slice(k, k + 1)) for k, name in enumerate(whole.columns)]
    made: list[Row] = []
    for name, part in [*parts, ("all columns", slice(None))]:
        right = whole.right[:, part].ravel()
        each = [n * len(right) // len(whole.right) for n in sizes]
        of_batch, of_run = ([p for p, n in zip(places, each) for _ in range(n)] for places in (batch_of, run_of))
        row: Row = {"column": name, "right": int(right.sum()), "cells": right.size, "accuracy": float(right.mean())}
        row["accuracy_interval"] = clustered_wilson(right.tolist(), of_batch, of_run)
        if whole.uncertainty is not None:
            sure = surest[:, part].ravel()
            row |= {"uncertainty": float(whole.uncertainty[:, part].mean()), "surest": int(sure.sum())}
            row |= {"surest_right": int(right[sure].sum()), "surest_accuracy": float(right[sure].mean())}
        made.append(row)
    return made
