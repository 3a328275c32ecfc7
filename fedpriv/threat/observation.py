"""Observation: what one tap got, and, apart, the truth behind it."""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.threat.truth import Truth
from fedpriv.threat.view import View


@dataclass(frozen=True, eq=False)
class Observation:
    """A view and the truth behind it. Hand attacks the view; keep the truth for the scorer.

    Attributes:
      view: the adversary's holdings; holds no reference to the truth.
      truth: what went in.
      warnings: what defenses have to say of the round (`Defense.warn`).
    """

    view: View
    truth: Truth
    warnings: tuple[str, ...] = ()
