"""Utility of a model: accuracy and loss of its predictions."""

from __future__ import annotations

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of examples whose highest logit is the true label's.

    Args:
      logits: `[n, classes]`, logits or probabilities.
      labels: int `[n]`.

    Raises:
      ParameterError: the shapes do not fit, or there are no examples.
    """
    logits, labels = _checked(logits, labels)
    return float((logits.argmax(axis=1) == labels).mean())


def loss(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean cross-entropy in nats between the softmax of the logits and the true labels.

    Args:
      logits: `[n, classes]`, before the softmax.
      labels: int `[n]`.

    Raises:
      ParameterError: the shapes do not fit, there are no examples, or a label has no logit.
    """
    logits, labels = _checked(logits, labels)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ParameterError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {logits.shape[1]} logits"
        )
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_normalizer = np.log(np.exp(shifted).sum(axis=1))
    return float((log_normalizer - shifted[np.arange(len(labels)), labels]).mean())


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ParameterError(
            f"logits must be [n, classes] and labels [n] with n > 0, not {list(logits.shape)} and {list(labels.shape)}"
        )
    return logits, labels
