"""Question: the public part of a goal: what the adversary is asked, without the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.types import ArrayLike
from fedpriv.data.dataset import Dataset

#: `(x [n, *input_shape], y [n]) -> bool [n]`: which examples have a property.
Trait = Callable[[np.ndarray, np.ndarray], ArrayLike]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What an adversary is asked about one view. Nothing here depends on the answer.

    Attributes:
      goal: name of the goal that asks.
    """

    goal: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MembershipQuestion(Question):
    """Which of these candidates were trained on?

    Attributes:
      x: candidates `[m, *input_shape]`, float32 in [0, 1], in an order that says nothing.
      y: their labels `[m]`, int.
      of: `update`: in the data behind the observed update; `model`: in what the broadcast model was trained on.
    """

    x: np.ndarray
    y: np.ndarray
    of: Literal["update", "model"] = "update"


@dataclass(frozen=True, kw_only=True, eq=False)
class PropertyQuestion(Question):
    """Do the clients behind the view hold more or fewer examples with a property?

    Attributes:
      property: in words, such as "label 3".
      share: share of each client's examples that have it, where the answer is yes.
      otherwise: likewise, where the answer is no.
      trait: which examples have it.
    """

    property: str
    share: float
    otherwise: float
    trait: Trait

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which examples have the property: bool `[n]`.

        Raises:
          ParameterError: the property's function does not give one truth value an example.
        """
        found = np.asarray(self.trait(x, y))
        if found.shape != (len(y),) or found.dtype != bool:
            raise ParameterError(
                f"property '{self.property}' gave {found.dtype} {list(found.shape)} for {len(y)} examples; it must "
                "give one bool each"
            )
        return found

    def clients(self, data: Dataset, sizes: list[int], answer: bool, rng: np.random.Generator) -> list[np.ndarray]:
        """Draws what clients of these sizes hold where that is the answer: indices into `data`, none twice.

        Raises:
          DataError: there are too few examples with the property, or without.
        """
        has = self.holds(data.floats(), data.y)
        pools = {value: list(rng.permutation(np.flatnonzero(has == value))) for value in (True, False)}
        drawn = []
        for n in sizes:
            wanted = {True: self.count(n, answer)}
            wanted[False] = n - wanted[True]
            for value, number in wanted.items():
                if number > len(pools[value]):
                    raise DataError(
                        f"property '{self.property}': '{data.name}' has {int((has == value).sum())} examples "
                        f"{'with' if value else 'without'} it, too few for {len(sizes)} clients of {max(sizes)}; use "
                        "fewer or smaller clients, or more data"
                    )
            mine = [pools[value].pop() for value, number in wanted.items() for _ in range(number)]
            drawn.append(rng.permutation(np.asarray(mine, np.int64)))
        return drawn

    def count(self, examples: int, answer: bool) -> int:
        """How many of a client's examples have the property where that is the answer.

        Raises:
          ParameterError: clients of that size cannot tell the two answers apart.
        """
        yes, no = round(self.share * examples), round(self.otherwise * examples)
        if yes == no:
            raise ParameterError(
                f"property '{self.property}': of {examples} examples, share={self.share:g} and "
                f"otherwise={self.otherwise:g} are both {yes}; use larger clients (batch), or shares further apart"
            )
        return yes if answer else no
