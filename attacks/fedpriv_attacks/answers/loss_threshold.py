"""Loss threshold: what a model fits better than it should, it was trained on."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.lab import Lab, example_losses
from fedpriv.threat.question import MembershipQuestion
from fedpriv.threat.view import View


class LossThreshold(Attack):
    """Says 'member' where the loss of a candidate lies below a threshold that is calibrated on data of its own.

    Yeom, Giacomelli, Fredrikson, Jha, 2018, arXiv 1709.01604, adversary 1. Their threshold is the average training
    loss, which they take as published; here the adversary measures it on a shadow model that it trains itself
    (`average`), or bounds its false positives by the losses of data it knows to be no members (`quantile`). Asked about
    an update, it looks at the model that the update leads to. It fails where a model fits what it was trained on no
    better than other examples.
    """

    name: ClassVar[str] = "loss_threshold"
    paper: ClassVar[str] = "Yeom, Giacomelli, Fredrikson, Jha, 2018, arXiv 1709.01604"
    goals: ClassVar[tuple[str, ...]] = ("membership",)
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LAB})

    threshold: Literal["average", "quantile"] = Field(default="quantile", description="how it is calibrated.")
    fpr: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of its own examples that may be called members, for `quantile`."
    )

    def requirements(self) -> frozenset[Capability]:
        """Data of its own; and, to train a shadow, the procedure and how much a client holds."""
        shadow = {Capability.PROCEDURE, Capability.NUM_EXAMPLES} if self.threshold == "average" else set()
        return self.needs | shadow

    def attack(self, view: View, seed: int) -> Finding:
        """Confidences are the threshold minus the loss, in nats.

        Raises:
          CapabilityError: nothing is asked about membership, the update asked about cannot be seen, or the lab has too
            little data for a shadow.
        """
        began = time.perf_counter()
        question, lab = view.asked(MembershipQuestion), view.lab
        assert lab is not None
        weights = view.weights
        if question.of == "update":
            if view.observed is None:
                raise CapabilityError(f"attack '{self.name}' needs a real-valued update: {view.describe()}")
            if view.visible is not None:
                raise CapabilityError(f"attack '{self.name}' needs {Capability.WHOLE_UPDATE.value}: {view.describe()}")
            weights = view.weights + view.observed
        losses = example_losses(view.model, weights, question.x, question.y)
        if self.threshold == "quantile":
            level = float(np.quantile(lab.losses(weights, lab.data.floats(), lab.data.y), self.fpr))
        else:
            level = self._average(view, lab, question, seed)
        return Finding(
            confidence=level - losses,
            guess=losses < level,
            seconds=time.perf_counter() - began,
            measures={"threshold_loss": level},
        )

    def _average(self, view: View, lab: Lab, question: MembershipQuestion, seed: int) -> float:
        """Mean loss of a shadow's members, in nats."""
        sizes = view.num_examples or ()
        needed = sum(sizes)
        if question.of == "model":
            raise CapabilityError(
                f"attack '{self.name}' with threshold=average trains a shadow of one round, but is asked about the "
                "whole training; use threshold=quantile, or ask of=update"
            )
        if needed > len(lab.data):
            raise CapabilityError(
                f"attack '{self.name}' needs {needed} examples of its own for a shadow, but holds {len(lab.data)}; "
                "give it more, or use threshold=quantile"
            )
        drawn = lab.generator().permutation(len(lab.data))[:needed]
        clients = np.split(drawn, np.cumsum(sizes)[:-1])
        shadow = view.weights + lab.observe([clients], view.weights, rate=view.client_rate, states=view.states)[0]
        return float(lab.losses(shadow, lab.data.floats(drawn), lab.data.y[drawn]).mean())
