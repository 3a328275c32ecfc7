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
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.initializers import Uniform
from fedpriv_attacks.parts.objectives import Cosine
from fedpriv_attacks.parts.optimizers.first_order import SignedAdam
from fedpriv_attacks.parts.relaxed_columns import RelaxedColumns


class TabLeak(Inversion):
    """x"""

    name: ClassVar[str] = "tableak"
    paper: ClassVar[str] = "Vero et al. 2023, arXiv 2210.01785"

    objective: ObjectivePart = Cosine()
    initializer: InitializerPart = Uniform(low=0.1, high=0.9)
    coordinates: CoordinatesPart = RelaxedColumns()
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = SignedAdam(steps=1500, learning_rate=0.06, decay="none")
    ensemble: Count = 30
