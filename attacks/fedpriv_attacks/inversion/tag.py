"""TAG: squared and absolute distance of the gradients, for text."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    InitializerPart,
    Inversion,
    LabelsPart,
    ObjectivePart,
    OptimizerPart,
)
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.embedding import Embedding
from fedpriv_attacks.parts.initializers import Points
from fedpriv_attacks.parts.objectives import SquaredAndAbsolute
from fedpriv_attacks.parts.optimizers.first_order import Adam


class TAG(Inversion):
    """Points of the embedding, matched by squared plus absolute distance, by Adam.

    Deng, Wang, Li, Wang, Shang, Liu, Rajasekaran, Ding 2021, "TAG: Gradient Attack on Transformer-based Language
    Models", EMNLP Findings, arXiv 2103.06819. Labels are the adversary's, or read off the update where that is
    possible, or optimized along; next-token targets follow from the points.
    """

    name: ClassVar[str] = "tag"
    paper: ClassVar[str] = "Deng et al. 2021, arXiv 2103.06819"

    objective: ObjectivePart = SquaredAndAbsolute()
    initializer: InitializerPart = Points()
    coordinates: CoordinatesPart = Embedding()
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = Adam(steps=2000, learning_rate=0.1, decay="linear", warmup=50)
