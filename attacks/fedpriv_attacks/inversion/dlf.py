"""DLF: data leakage in federated averaging."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import PriorParts, ReplayPart
from fedpriv_attacks.inversion.inverting_gradients import InvertingGradients
from fedpriv_attacks.parts.epoch_consistency import EpochConsistency
from fedpriv_attacks.parts.priors import TotalVariation
from fedpriv_attacks.parts.replay import Epochs


class DLF(InvertingGradients):
    """FedAvg with shuffled batches: dummy examples for every local epoch, tied together whatever their order.

    Dimitrov, Balunovic, Konstantinov, Vechev 2022, "Data Leakage in Federated Averaging", TMLR, arXiv 2206.12395. The
    client's local steps are simulated with examples of their own for each epoch, an order-invariant prior makes
    the epochs' examples agree, and the copies are matched one-to-one and averaged at the end.
    """

    name: ClassVar[str] = "dlf"
    paper: ClassVar[str] = "Dimitrov et al. 2022, arXiv 2206.12395"

    replay: ReplayPart = Epochs()
    priors: PriorParts = (TotalVariation(weight=0.05, opponents="auto"), EpochConsistency(weight=0.01))
