"""Inverting Gradients: direction of the gradient, total variation, signed Adam."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    InitializerPart,
    Inversion,
    LabelsPart,
    ObjectivePart,
    OptimizerPart,
    PriorParts,
)
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.coordinates import Pixels
from fedpriv_attacks.parts.initializers import Normal
from fedpriv_attacks.parts.objectives import Cosine
from fedpriv_attacks.parts.optimizers.first_order import SignedAdam
from fedpriv_attacks.parts.priors import TotalVariation


class InvertingGradients(Inversion):
    """Cosine distance of the updates plus total variation, minimized by signed Adam within the pixels' box.

    Geiping, Bauermeister, Dröge, Moeller 2020, "Inverting Gradients - How easy is it to break privacy in federated
    learning?", NeurIPS, arXiv 2003.14053. Works on ReLU networks, where DLG does not. Labels are read off the
    update beforehand. A FedAvg update is replayed through all its local steps, as the paper's multi-step variant
    does; `replay=one_gradient` treats it as one gradient.

    The paper starts from unit normal noise on pixels normalized by the data's mean and deviation; here pixels lie in
    [0, 1] and the start is normal noise of about an image's spread around grey. Its weight of total variation, 0.1,
    belongs to those normalized pixels as well; here it is 0.05, and of colour images the differences between channels
    count too, which on the DLG paper's LeNet gains 1 to 2 dB.
    """

    name: ClassVar[str] = "inverting_gradients"
    paper: ClassVar[str] = "Geiping et al. 2020, arXiv 2003.14053"

    objective: ObjectivePart = Cosine()
    priors: PriorParts = (TotalVariation(weight=0.05, opponents="auto"),)
    initializer: InitializerPart = Normal(mean=0.5, spread=0.25)
    coordinates: CoordinatesPart = Pixels()
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = SignedAdam(steps=24_000, learning_rate=0.1)
    constraint: Literal["box"] | None = "box"
