"""Observation, Episode: what one tap got in a round, or in several, and, apart, the truth behind it."""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.threat.dossier import Dossier
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

    @property
    def held(self) -> View:
        """What an attack gets."""
        return self.view


@dataclass(frozen=True, eq=False)
class Episode:
    """All that one adversary saw in several rounds, and the truth behind it. Hand attacks the dossier alone.

    Attributes:
      dossier: its views; holds no reference to the truth.
      truth: the examples of all clients that are looked for, each client once, by ascending id.
      warnings: what defenses and the selection have to say of the rounds.
    """

    dossier: Dossier
    truth: Truth
    warnings: tuple[str, ...] = ()

    @property
    def held(self) -> Dossier:
        """What an attack gets."""
        return self.dossier
