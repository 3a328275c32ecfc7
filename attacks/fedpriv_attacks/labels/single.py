"""Label inference: reading labels off an update, without optimization.

For cross-entropy at logits, the gradient in the last layer's bias is p - y: negative at the true label, positive
elsewhere. The last layer's kernel gradient is the features times the same factors. An update is minus a positive
multiple of the gradient after one step; after several local steps on one example it is a sum of such, with the
same signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.models.model import Model


@dataclass(frozen=True)
class InferredLabel:
    """A label read off an update.

    Attributes:
      label: the class.
      margin: how clearly it stands out, in [0, 1]: 1 minus the runner-up's evidence over its own.
      source: `bias` or `kernel`.
    """

    label: int
    margin: float
    source: str


def single_label(update: np.ndarray, model: Model) -> InferredLabel:
    """The label of the one example behind `update`, by the sign rule of iDLG.

    Zhao, Mopuri, Bilen 2020, "iDLG: Improved Deep Leakage from Gradients", arXiv 2001.02610. Uses the last layer's
    bias where there is one: its update is positive at the label alone. Else its kernel: the label's column
    points against all others, and is the longest. Exact after one step, and after several local SGD steps on one
    example as long as the features keep their sign.

    Args:
      update: `[d]` model delta (not the gradient).
      model: the model behind it.

    Raises:
      CapabilityError: the model has neither bias nor kernel in its last layer, or they did not move.
      DivergenceError: the last layer's update is not finite.
    """
    bias, kernel = model.classifier_bias(), model.classifier_kernel()
    if bias is not None:
        evidence, source = _finite(update[bias], model), "bias"
    elif kernel is not None:
        evidence, source = _kernel_evidence(_finite(update[kernel], model).reshape(-1, model.num_classes)), "kernel"
    else:
        raise CapabilityError(
            f"reading a label off the update needs a dense last layer, which model '{model.name}' lacks; "
            "use 'dlg', which optimizes the labels"
        )
    if not np.any(evidence):
        raise CapabilityError(
            f"the last layer's {source} did not move in this update, so it shows no label; use 'dlg', or an update "
            "from a client that trains the last layer"
        )
    order = np.argsort(-evidence, kind="stable")
    best, second = float(evidence[order[0]]), float(evidence[order[1]])
    margin = float(np.clip((best - second) / max(abs(best), abs(second), 1e-300), 0.0, 1.0))
    return InferredLabel(int(order[0]), margin, source)


def _finite(values: np.ndarray, model: Model) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not np.all(np.isfinite(values)):
        raise DivergenceError(
            f"the last layer of this update of model '{model.name}' is not finite, so it shows no label; lower the "
            "client's learning rate"
        )
    return values


def _kernel_evidence(columns: np.ndarray) -> np.ndarray:
    """Per class, the signed length of its column along the label's side.

    Columns are multiples lambda_i of one feature vector, with lambda positive at the label only and sum zero.
    The label is the one class whose sign differs from all others; if exactly one column of each sign is left
    (all other probabilities underflow), features are taken to be mostly non-negative, as after a sigmoid or ReLU.
    """
    longest = int(np.argmax(np.einsum("fc,fc->c", columns, columns)))
    along = columns.T @ columns[:, longest]
    positive, negative = int(np.sum(along > 0)), int(np.sum(along < 0))
    if positive == 1 and negative == 1:
        return columns.sum(0)
    return -along if negative == 1 else along
