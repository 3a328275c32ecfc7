"""Finding: what an attack claims to have found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Finding:
    """An attack's claim. Arrays are in the attack's own order; scoring matches them one-to-one.

    Attributes:
      x: reconstructions `[n, *input_shape]`, float32, or None.
      y: labels `[n]` int, or None if it claims none.
      objective: the attack's own final objective (lower is better), its only way to choose among restarts.
      evaluations: gradient evaluations spent, over all restarts.
      seconds: wall-clock of the attack, without compilation when `compile_seconds` tells it apart.
      compile_seconds: one-off tracing and compilation.
      restarts: how many starts were made.
      history: `[k, 2]` of (evaluations so far, objective) for the chosen restart, or None.
      path: `[k, n, *input_shape]` float32, the examples at the rows of `history`, if the attack was asked to keep them.
      confidence: `[m]` float, for goals that ask yes or no: higher is surer of yes; one for each that was asked about.
      guess: bool `[m]`, the answers, where the attack sets a threshold of its own; None if it only ranks.
      measures: numbers that the attack wants in tables, by name, such as its own rank or residual.
      extra: anything else, by name.
      replayed: labels of the known defenses that the attack's replay took into account; measured by `Attack.run`.
    """

    x: np.ndarray | None = None
    y: np.ndarray | None = None
    objective: float = float("nan")
    evaluations: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    restarts: int = 1
    history: np.ndarray | None = None
    path: np.ndarray | None = None
    confidence: np.ndarray | None = None
    guess: np.ndarray | None = None
    measures: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    replayed: tuple[str, ...] = ()
