"""iDLG: the label read off the update, then the example."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.inversion import LabelsPart
from fedpriv_attacks.labels.inference import SignRule


class IDLG(DLG):
    """The label from the sign of the last layer's update, then the example by L-BFGS with that label held fixed.

    Zhao, Mopuri, Bilen 2020, "iDLG: Improved Deep Leakage from Gradients", arXiv 2001.02610. The label is exact for
    an update made by one example in one step of cross-entropy training. With more examples the rule does not
    apply: choose another `labels`, such as `auto`, or let the adversary know them (`labels=known`).
    """

    name: ClassVar[str] = "idlg"
    paper: ClassVar[str] = "Zhao, Mopuri, Bilen 2020, arXiv 2001.02610"

    labels: LabelsPart = SignRule()
