"""iDLG: the label read off the update, then the example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from attacks.dlg import DLG
from attacks.labels import single_label
from attacks.matching import checked_update, reconstruct
from fedpriv.attack import Finding
from fedpriv.errors import CapabilityError
from fedpriv.view import View


class IDLG(DLG):
    """The label from the sign of the last layer's update, then the example by L-BFGS with that label held fixed.

    Zhao, Mopuri, Bilen 2020, "iDLG: Improved Deep Leakage from Gradients", arXiv 2001.02610. The label is exact for
    an update made by one example in one step of cross-entropy training. With more examples the rule does not
    apply, and the labels must be known (`use_labels=True`). Parameters are those of DLG; the label logits' are
    unused.
    """

    name: ClassVar[str] = "idlg"
    paper: ClassVar[str] = "Zhao, Mopuri, Bilen 2020, arXiv 2001.02610"

    def attack(self, view: View, seed: int) -> Finding:
        """Infers the label (unless told to use known ones), then matches the update."""
        checked_update(view)
        if self.use_labels:
            labels = self.known_labels(view)
            how: dict[str, Any] = {"label_source": "known"}
            assert labels is not None
        else:
            if view.total_examples != 1:
                raise CapabilityError(
                    f"attack 'idlg' reads the label of a single example off the update, but {view.total_examples} "
                    "examples are behind this one; use 'dlg', or let the adversary know the labels and set "
                    "use_labels=True"
                )
            inferred = single_label(np.asarray(view.observed), view.model)
            labels = np.array([inferred.label], np.int32)
            how = {"label_source": inferred.source, "label_margin": inferred.margin}
        finding = reconstruct(view, self.recipe(view.total_examples), self.starts(), labels, seed)
        return replace(finding, extra={**finding.extra, **how})
