"""SME: a FedAvg update attacked through a surrogate model."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import ReplayPart
from fedpriv_attacks.inversion.inverting_gradients import InvertingGradients
from fedpriv_attacks.parts.replay import Surrogate


class SME(InvertingGradients):
    """The update as one gradient at weights between those before and after training, which are found along the way.

    Zhu, Yao, Blaschko 2023, "Surrogate Model Extension (SME): A Fast and Accurate Weight Update Attack on Federated
    Learning", ICML, arXiv 2306.00127. Everything else is as in Inverting Gradients. An evaluation costs one
    gradient, however many local steps the client made.
    """

    name: ClassVar[str] = "sme"
    paper: ClassVar[str] = "Zhu, Yao, Blaschko 2023, arXiv 2306.00127"

    replay: ReplayPart = Surrogate()
