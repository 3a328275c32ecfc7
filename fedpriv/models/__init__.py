"""Models: the contract (`Model`), the zoo, and Keras models of one's own."""

from __future__ import annotations

from fedpriv.models.loading import load
from fedpriv.models.model import Model, cross_entropy

__all__ = ["Model", "cross_entropy", "load"]
