"""Costs: what an attack spends, and what the federated loop measures on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import ParameterError, did_you_mean

if TYPE_CHECKING:
    from fedpriv.threat.attack import Finding


def gradient_evaluations(findings: Iterable[Finding]) -> int:
    """Gradient evaluations the attacks spent, over all restarts.

    The fair unit to compare attacks by: an L-BFGS iteration may take many evaluations, an Adam iteration one.
    """
    return sum(int(f.evaluations) for f in findings)


def seconds(findings: Iterable[Finding]) -> float:
    """Wall-clock seconds the attacks took, without one-off compilation where the attack tells it apart."""
    return math.fsum(f.seconds for f in findings)


class Measured:
    """A quantity the federated loop measures each round; calling it reads it off round records.

    Attributes:
      name: its key in a round's record.
    """

    def __init__(self, name: str, description: str) -> None:
        self.name = self.__name__ = name
        self.__doc__ = description

    def __call__(self, rounds: Iterable[Any]) -> np.ndarray:
        """The value of each round, float64 `[rounds]`; not-a-number where a round's value is None.

        Args:
          rounds: records with this quantity as a key or an attribute, or within their `metrics`.

        Raises:
          ParameterError: a record lacks it.
        """
        return np.array([np.nan if (v := self._of(r)) is None else float(v) for r in rounds], np.float64)

    def _of(self, record: Any) -> Any:
        known: list[str] = []
        for holder in (record, _get(record, "metrics")):
            if isinstance(holder, Mapping) and self.name in holder:
                return holder[self.name]
            if holder is not None and not isinstance(holder, Mapping) and hasattr(holder, self.name):
                return getattr(holder, self.name)
            known += list(holder) if isinstance(holder, Mapping) else []
        raise ParameterError(f"a round's record has no '{self.name}'.{did_you_mean(self.name, map(str, known))}")

    def __repr__(self) -> str:
        return f"Measured({self.name!r})"


def _get(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, Mapping) else getattr(record, key, None)


bytes_up = Measured(
    "bytes_up",
    """Bytes all of a round's clients sent to the server or the aggregators, in the encoding the defenses chose.

    Measured on the messages themselves: secret shares for k aggregators count k times.
    """,
)
bytes_down = Measured("bytes_down", "Bytes sent to a round's clients: the model, and what a protocol sends them.")
epsilon = Measured(
    "epsilon",
    """Privacy spent so far: epsilon at the ledger's delta, composed over rounds under the sampling actually used.

    None where no guarantee can be justified; the ledger says why. Lower is more private.
    """,
)
