"""Clients' own states: what clients keep for themselves between the rounds they take part in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Leaves = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class ClientStates:
    """The own states of all clients that ever took part, for defenses that keep any; empty where none does.

    Attributes:
      initial: leaves of a client's state before its first round.
      leaves: by client, the leaves of its state.
      last: by client, the round it last took part in.
    """

    initial: Leaves = ()
    leaves: Mapping[int, Leaves] = field(default_factory=dict)
    last: Mapping[int, int] = field(default_factory=dict)

    def of(self, clients: Iterable[int]) -> list[np.ndarray]:
        """Leaves of these clients' states, stacked, `[c, ...]` each."""
        held = [self.leaves.get(int(c), self.initial) for c in clients]
        return [np.stack([one[j] for one in held]) for j in range(len(self.initial))] if held else []

    def away(self, clients: Iterable[int], round_number: int) -> np.ndarray:
        """Rounds since each last took part, int32 `[c]`; -1 for those that never did."""
        last = [self.last.get(int(c)) for c in clients]
        return np.asarray([-1 if r is None else round_number - r for r in last], np.int32)

    def after(self, states: Mapping[int, Leaves], round_number: int) -> ClientStates:
        """These states with those of one round in place."""
        if not states:
            return self
        last = {**self.last, **dict.fromkeys(states, round_number)}
        return ClientStates(self.initial, {**self.leaves, **states}, last)

    def report(self, clients: Sequence[int], round_number: int) -> dict[str, float]:
        """How fresh the states of a cohort are: the share that never took part, and how long the others were away."""
        if not self.initial or not len(clients):
            return {}
        away = self.away(clients, round_number)
        found = {"client_states/first_time": float(np.mean(away < 0))}
        if (away >= 0).any():
            found["client_states/rounds_away"] = float(away[away >= 0].mean())
        return found
