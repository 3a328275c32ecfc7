"""Auto: the best label inference that a view allows."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Capability
from fedpriv.threat.view import View
from fedpriv_attacks.labels.batch import ILRG, LLG, Bias, ColumnMinimum, LLGStar
from fedpriv_attacks.labels.inference import InferredLabels, Known, LabelInference, SignRule
from fedpriv_attacks.labels.last_layer import LastLayer, dense_parts, hidden_in_last_layer, kept_back, read_last_layer


class Auto(LabelInference):
    """The best inference that this view allows; joint optimization where none is possible.

    Known labels if the adversary has them; the sign rule for one example; for more, `ilrg` or `bias`. They differ in
    what they take for the batch's mean prediction: `ilrg` the predictions at each class's mean features, which is right
    while features say little about the prediction; `bias(inputs=calibrated)` equal shares of all classes, which is
    right for a model that has learned, on a varied batch. `ilrg` is taken if its predictions hardly differ among
    classes, or its counts come out whole of their own. In place of the calibrated bias, a batch so small that less
    than one pair of equal labels is to be expected goes to `gradinversion`, which then does better. Without a kernel
    it is `bias`; with a kernel alone `llg_star`, or `llg` if the scale of the update is unknown. `source` says which.
    Labels are optimized jointly if the last layer is not dense, is partly encrypted or kept back, or shows too little.
    """

    kind: ClassVar[str] = "auto"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})

    spread: float = Field(
        default=0.28,
        description="mean total variation distance of `ilrg`'s predictions from their average, up to which they "
        "hardly differ. Measured on five untrained models: at most 0.2 (up to 0.4 after five local "
        "steps); on two trained to 70 to 80 % accuracy: at least 0.26.",
    )
    whole: float = Field(
        default=0.3,
        description="misfit of the unrounded counts, relative to chance, up to which they count as whole.",
    )
    pairs: float = Field(
        default=1.0,
        description="expected pairs of equal labels, n (n - 1) / 2C, below which labels are taken to be different.",
    )

    def infer(self, view: View, seed: int) -> InferredLabels | None:
        """The labels, or None.

        Raises:
          DivergenceError: the last layer's update is not finite.
          CapabilityError: nothing moved.
        """
        if view.labels is not None:
            return Known()(view, seed)
        kernel, bias = dense_parts(view.model)
        if (kernel is None and bias is None) or hidden_in_last_layer(view) or kept_back(view):
            return None
        read_last_layer(view, scaled=False)  # what is not finite, or did not move, is no matter of choice
        if view.total_examples == 1:
            return SignRule()(view, seed)
        try:
            layer: LastLayer | None = read_last_layer(view)
        except CapabilityError:
            layer = None
        if layer is not None and kernel is not None and bias is not None:
            solved = ILRG()
            # With less ridge than for counting, since that draws predictions together.
            if ILRG(ridge=0.3).spread(layer) <= self.spread or solved.misfit(layer, view.total_examples) <= self.whole:
                return solved(view, seed)
            n, classes = view.total_examples, view.model.num_classes
            if n <= classes and n * (n - 1) / (2 * classes) < self.pairs:
                return ColumnMinimum()(view, seed)
        if layer is not None and bias is not None:
            return Bias(inputs="calibrated" if kernel is not None else "random")(view, seed)
        for choice in (LLGStar(), LLG()):
            if kernel is not None and (layer is not None or isinstance(choice, LLG)):
                try:
                    return choice(view, seed)
                except CapabilityError:
                    continue
        return None
