"""Truth: what actually went in. Only the scorer sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Truth:
    """The withheld inputs behind one view.

    Attributes:
      x: examples `[n, *input_shape]`, float32 in [0, 1], clients of a sum one after the other.
      y: labels `[n]`, int.
      clients: ids of the clients behind the view.
      answer: bool `[m]`, to the question of a goal that asks yes or no; None where the examples are the answer.
    """

    x: np.ndarray
    y: np.ndarray
    clients: tuple[int, ...]
    answer: np.ndarray | None = None
