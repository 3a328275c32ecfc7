"""GradInversion: See Through Gradients."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    Count,
    InitializerPart,
    Inversion,
    LabelsPart,
    OptimizerPart,
    PriorParts,
)
from fedpriv_attacks.labels.batch import ColumnMinimum
from fedpriv_attacks.parts.batch_norm_prior import BatchNormStatistics
from fedpriv_attacks.parts.coordinates import Pixels
from fedpriv_attacks.parts.initializers import Normal
from fedpriv_attacks.parts.optimizers.first_order import Adam
from fedpriv_attacks.parts.priors import L2, GroupConsistency, TotalVariation


class GradInversion(Inversion):
    """Squared error, image priors, batch-norm statistics and a group of starts held together, by Adam.

    Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov 2021, "See through Gradients: Image Batch Recovery via
    GradInversion", CVPR, arXiv 2104.07586. Labels come from the column minimum of the last kernel's gradient, which
    takes them to be distinct. The batch-norm term needs a model with batch normalization whose running statistics
    come from training; for others leave it out:
    `gradinversion(priors=[total_variation(weight=1e-4),l2(weight=1e-6),group_consistency(weight=0.01)])`.

    Differs from the paper: the group's mean is aligned by whole-pixel shifts instead of RANSAC-flow, which needs a
    network of its own, and no noise is added to the pixels at every step.
    """

    name: ClassVar[str] = "gradinversion"
    paper: ClassVar[str] = "Yin et al. 2021, arXiv 2104.07586"

    priors: PriorParts = (
        TotalVariation(weight=1e-4),
        L2(weight=1e-6),
        BatchNormStatistics(weight=0.1, source="running"),
        GroupConsistency(weight=0.01),
    )
    initializer: InitializerPart = Normal(mean=0.5, spread=0.25)
    coordinates: CoordinatesPart = Pixels()
    labels: LabelsPart = ColumnMinimum()
    optimizer: OptimizerPart = Adam(steps=20_000, learning_rate=0.1, decay="cosine")
    constraint: Literal["box"] | None = "box"
    group: Count = 4
