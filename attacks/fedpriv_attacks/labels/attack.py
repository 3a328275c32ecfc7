"""The labels alone, as an attack of its own: what classes a client holds is already private."""

from __future__ import annotations

import time
from typing import ClassVar

from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.inversion import LabelsPart
from fedpriv_attacks.labels.auto import Auto


class LabelsOnly(Attack):
    """Reads the examples' labels off the update and claims nothing else."""

    name: ClassVar[str] = "labels"
    goals: ClassVar[tuple[str, ...]] = ("labels", "reconstruction")
    reads_parts: ClassVar[bool] = True

    inference: LabelsPart = Field(
        default=Auto(),
        description="how, such as `auto`, `ilrg`, `llg_star(inputs=zeros)` or `bias(auxiliary=fashion_small)`.",
    )

    def requirements(self) -> frozenset[Capability]:
        """What the inference needs."""
        return self.inference.requirements()

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inference brings in."""
        return self.inference.brings()

    def attack(self, view: View, seed: int) -> Finding:
        """The labels, ascending; `extra` has `label_source`, `label_margin`, `label_evidence` and `label_notes`.

        Raises:
          CapabilityError: the view does not allow the inference, or it leaves the labels to joint optimization.
        """
        began = time.perf_counter()
        found = self.inference(view, seed)
        if found is None:
            raise CapabilityError(
                f"label inference '{self.inference.kind}' leaves the labels of this update of model "
                f"'{view.model.name}' to joint optimization with the examples; use an attack such as 'dlg'"
            )
        extra = {
            "label_source": found.source,
            "label_margin": found.margin,
            "label_evidence": found.evidence,
            "label_notes": found.notes,
        }
        return Finding(None, found.y, seconds=time.perf_counter() - began, extra=extra)
