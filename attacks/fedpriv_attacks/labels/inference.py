"""Label inference: what labels an attack takes the examples to have, before it looks for them.

The inferences of single examples and the choice among all are here, those of batches in `fedpriv_attacks.labels.batch`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Capability
from fedpriv.threat.view import View
from fedpriv_attacks.labels.last_layer import dense_parts, require_last_layer
from fedpriv_attacks.labels.single import single_label
from fedpriv_attacks.parts.component import Component


@dataclass(frozen=True, eq=False)
class InferredLabels:
    """Labels read off an update: how many of each, not which example has which.

    Attributes:
      y: int32 `[n]`, ascending; known labels stay in their order.
      source: what they were read off, in a word or two.
      counts: int64 `[num_classes]`, examples of each class, summing to n; None if not given.
      evidence: float `[num_classes]`, what the counts were rounded or chosen from, or None.
      margin: how clearly the claim stands out, in [0, 1], or None where the method has no measure of it. For rounded
        counts it is 1 if all were whole numbers, 0 if one was half an example or more away.
      notes: what about it is approximate, in words.
    """

    y: np.ndarray
    source: str
    counts: np.ndarray | None = None
    evidence: np.ndarray | None = None
    margin: float | None = None
    notes: tuple[str, ...] = ()


def from_counts(
    counts: np.ndarray,
    source: str,
    evidence: np.ndarray | None = None,
    margin: float | None = None,
    notes: tuple[str, ...] = (),
) -> InferredLabels:
    """InferredLabels of `counts [num_classes]`."""
    y = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return InferredLabels(y, source, np.asarray(counts, np.int64), evidence, margin, notes)


class LabelInference(Component):
    """Base: finds the labels of the examples behind an update."""

    def __call__(self, view: View, seed: int = 0) -> InferredLabels | None:
        """The labels, or None to have them optimized along with the examples.

        Args:
          view: what the adversary holds.
          seed: fixes simulated examples, where there are any.

        Raises:
          CapabilityError: the view lacks something this inference needs, or its update shows no labels.
          DivergenceError: the update or the model is not finite where labels are read.
        """
        missing = [c for c in self.requirements() if c not in view.capabilities]
        if missing:
            raise CapabilityError(
                f"label inference '{self.kind}' needs {'; and '.join(sorted(c.value for c in missing))}, which this "
                f"view does not give: {view.describe()} Choose another, such as labels=joint, or an adversary that "
                "has it"
            )
        return self.infer(view, seed)

    @abstractmethod
    def infer(self, view: View, seed: int) -> InferredLabels | None:
        """The inference itself; called with the needs met."""


class Joint(LabelInference):
    """Labels are optimized along with the examples, as a softmax of logits (DLG)."""

    kind: ClassVar[str] = "joint"
    paper: ClassVar[str] = "Zhu, Liu, Han 2019, arXiv 1906.08935"

    def infer(self, view: View, seed: int) -> InferredLabels | None:
        """None."""
        return None


class KnownElseJoint(LabelInference):
    """Known labels if the adversary has them; else they are optimized along with the examples."""

    kind: ClassVar[str] = "known_else_joint"

    def infer(self, view: View, seed: int) -> InferredLabels | None:
        """The view's labels, or None."""
        return None if view.labels is None else Known()(view, seed)


class Known(LabelInference):
    """The adversary knows the labels."""

    kind: ClassVar[str] = "known"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})

    def infer(self, view: View, seed: int) -> InferredLabels | None:
        """The view's labels, in the order they are known in, which in a sum tells whose they are.

        Raises:
          CapabilityError: labels outside the model's classes.
        """
        y, task = np.asarray(view.labels), view.model.task
        if not task.discrete:
            return InferredLabels(y.astype(task.target_dtype), "known")
        if y.size and (y.min() < 0 or y.max() >= view.model.num_classes):
            raise CapabilityError(
                f"the known labels range from {y.min()} to {y.max()}, but model '{view.model.name}' has classes 0 to "
                f"{view.model.num_classes - 1}; give labels of those classes"
            )
        if y.ndim > 1:  # next tokens: how many there are of each says nothing of the examples' classes
            return InferredLabels(y.astype(np.int32), "known")
        return InferredLabels(y.astype(np.int32), "known", np.bincount(y, minlength=view.model.num_classes))


class SignRule(LabelInference):
    """The one label whose logit the update raises (iDLG).

    Zhao, Mopuri, Bilen 2020, "iDLG: Improved Deep Leakage from Gradients", arXiv 2001.02610. Exact for one example
    in one step. Several examples are refused, even where a single class rises: that does not prove that all are of
    it, since a class with fewer examples than the model expects falls although it is there.
    """

    kind: ClassVar[str] = "idlg"
    paper: ClassVar[str] = "Zhao, Mopuri, Bilen 2020, arXiv 2001.02610"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.NUM_EXAMPLES, Capability.SOFTMAX}
    )

    def infer(self, view: View, seed: int) -> InferredLabels | None:
        """The label of a single example.

        Raises:
          CapabilityError: several examples, or a model without a dense last layer.
        """
        kernel, bias = dense_parts(view.model)
        if kernel is None and bias is None:
            raise CapabilityError(
                f"label inference 'idlg' reads a dense last layer, which model '{view.model.name}' lacks; use "
                "labels=joint"
            )
        if view.total_examples != 1:
            raise CapabilityError(
                f"label inference 'idlg' reads the label of a single example off the update, but "
                f"{view.total_examples} examples are behind this one; use labels=auto, or labels=joint"
            )
        require_last_layer(view)
        found = single_label(np.asarray(view.observed), view.model)
        counts = np.zeros(view.model.num_classes, np.int64)
        counts[found.label] = 1
        return from_counts(counts, f"idlg, {found.source}", None, found.margin)
