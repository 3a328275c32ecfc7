"""Beyond inferring class representatives: the single-update part of the user-level attack."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import CoordinatesPart, Inversion, LabelsPart, OptimizerPart, PriorParts
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.coordinates import Pixels
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS
from fedpriv_attacks.parts.priors import TotalVariation


class ClassRepresentatives(Inversion):
    """Squared error of the updates plus squared total variation, by L-BFGS: a client's representatives.

    Wang, Song, Zhang, Song, Wang, Qi 2019, "Beyond Inferring Class Representatives: User-Level Privacy Leakage From
    Federated Learning", INFOCOM, arXiv 1812.00535. This is the part of the paper's mGAN-AI that computes a client's
    data representatives from one update. The generative network that the paper's server then trains on them over
    many rounds is not part of it; what comes out here is what that network would be fed.
    """

    name: ClassVar[str] = "class_representatives"
    paper: ClassVar[str] = "Wang et al. 2019, arXiv 1812.00535"

    priors: PriorParts = (TotalVariation(weight=1e-4, power=2),)
    coordinates: CoordinatesPart = Pixels()
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = LBFGS(memory=100, max_evaluations=800, stagnation_window=200, stagnation_decrease=0.05)
