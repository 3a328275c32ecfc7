"""Truth: what actually went in. Only the scorer sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of


@dataclass(frozen=True, eq=False)
class Truth:
    """The withheld inputs behind one view.

    Attributes:
      x: examples `[n, *kind.shape]`, float32 in the kind's range, clients of a sum one after the other.
      y: targets `[n]`, int64, or float32 where they are quantities.
      clients: ids of the clients behind the view.
      kind: what the examples are; None is images for `[n, height, width, channels]`, else features in [0, 1].
      num_classes: of the data; 0 where targets are quantities, or where it is not said.
      answer: bool `[m]`, to the question of a goal that asks yes or no; None where the examples are the answer.
    """

    x: np.ndarray
    y: np.ndarray
    clients: tuple[int, ...]
    answer: np.ndarray | None = None
    kind: Kind = None  # type: ignore[assignment]  # filled in below
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", kind_of(tuple(np.shape(self.x)[1:])))
