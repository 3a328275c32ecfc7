"""CPL: gradient matching with a patterned start and a label term."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    InitializerPart,
    Inversion,
    LabelsPart,
    OptimizerPart,
    PriorParts,
)
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.coordinates import Pixels
from fedpriv_attacks.parts.initializers import Tiled
from fedpriv_attacks.parts.label_fit import LabelFit
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS


class CPL(Inversion):
    """Squared error of the updates plus a label term, from a tiled random patch, by L-BFGS in 300 iterations.

    Wei et al. 2020, "A Framework for Evaluating Gradient Leakage Attacks in Federated Learning", arXiv 2004.10397:
    client privacy leakage (CPL). The paper's findings are that a geometrically tiled start needs fewer iterations
    than random noise and that the label term stabilizes the search; labels come from the sign of the last layer's
    update, as in iDLG. The gradients are compared relative to the observed one's size, so the label term's weight
    is too.
    """

    name: ClassVar[str] = "cpl"
    paper: ClassVar[str] = "Wei et al. 2020, arXiv 2004.10397"

    priors: PriorParts = (LabelFit(weight=1e-4),)
    initializer: InitializerPart = Tiled()
    coordinates: CoordinatesPart = Pixels()
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = LBFGS(memory=100, max_evaluations=600, stagnation_window=200, stagnation_decrease=0.05)
