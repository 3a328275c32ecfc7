"""TabLeak: relaxed categories and an ensemble, for rows of tables."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    Count,
    InitializerPart,
    Inversion,
    LabelsPart,
    ObjectivePart,
    OptimizerPart,
)
from fedpriv_attacks.labels.inference import KnownElseJoint
from fedpriv_attacks.parts.initializers import Uniform
from fedpriv_attacks.parts.objectives import Cosine
from fedpriv_attacks.parts.optimizers.first_order import SignedAdam
from fedpriv_attacks.parts.relaxed_columns import RelaxedColumns


class TabLeak(Inversion):
    """Rows of a table: categories relaxed by a softmax, and an ensemble of starts pooled cell by cell.

    Vero, Balunovic, Dimitrov, Vechev 2023, "TabLeak: Tabular Data Leakage in Federated Learning", ICML, arXiv
    2210.01785. Minimizes the cosine distance of the updates by signed Adam, 1,500 steps at rate 0.06, from 30 starts.
    Each start's rows are matched one-to-one to those of the start with the lowest objective; a number is then the
    median, a category the one with the largest mean probability. `extra["entropy"]` of the finding, `[n, columns]`,
    says how far the starts disagree on each cell, so which cells to trust; `extra["uncertainty"]` is the same from 0 to
    1 (see the module `ensemble`). A FedAvg update is replayed through all its local steps.

    Labels are the adversary's, or optimized along: the paper's main results are with known ones. What differs: numbers
    are stretched about their mean (see `relaxed_columns`), categories pooled by the mean of the softmax where the
    authors' code takes the median, and rows with known labels matched only to rows with the same one.
    `coordinates=pixels` and `ensemble=1` leave out either part; both, and the authors' baselines, are then
    `inversion(objective=cosine, coordinates=pixels, optimizer=signed_adam(steps=1500,learning_rate=0.06,decay=none))`,
    and the same with `squared_error`.

    Works on ReLU networks. Needs a table (kind `columns`). Fails on noise and on wrong labels; the more rows a batch
    has, the less is right.
    """

    name: ClassVar[str] = "tableak"
    paper: ClassVar[str] = "Vero et al. 2023, arXiv 2210.01785"

    objective: ObjectivePart = Cosine()
    initializer: InitializerPart = Uniform(low=0.1, high=0.9)
    coordinates: CoordinatesPart = RelaxedColumns()
    labels: LabelsPart = KnownElseJoint()
    optimizer: OptimizerPart = SignedAdam(steps=1500, learning_rate=0.06, decay="none")
    ensemble: Count = 30
