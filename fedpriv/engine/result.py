"""What goes to an engine for one round, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedpriv.base.types import Nested
from fedpriv.defense.aggregator import Aggregate
from fedpriv.defense.protocol import Session
from fedpriv.federation.clients import ClientStates, Leaves


@dataclass(frozen=True, kw_only=True)
class CohortTask:
    """One round's work for an engine.

    Attributes:
      weights: broadcast weights `[d]`.
      clients: ids, in order; a client's slot is its place here.
      round: from 0.
      rate: client learning rate.
      states: what clients are told of the server's states, one a link.
      own: the clients' own states.
      wanted: clients whose own update is asked for (by a tap).
      session: the protocol's, opened for these clients, where one runs.
      sent: weights `[d]` for clients that are sent others than the rest (by a malicious server).
    """

    weights: np.ndarray
    clients: Sequence[int]
    round: int
    rate: float
    states: Sequence[Nested]
    own: ClientStates = field(default_factory=ClientStates)
    wanted: frozenset[int] = frozenset()
    session: Session | None = None
    sent: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(kw_only=True)
class CohortResult:
    """What the server's side gets from one cohort.

    Attributes:
      total: weighted sum of the updates, float64 `[d]`, as decoded (before the aggregate station); zeros where an
        aggregator took its place, or the round was aborted.
      weight: sum of the clients' weights.
      survivors: ids of the clients in the sum, in order.
      dropped: ids left out because their update was not finite.
      lost: ids of clients that dropped out before their update arrived.
      aborted: why the protocol could not finish, or empty.
      loss: mean training loss over the survivors; not-a-number where there are none.
      log: cohort means of what the defenses reported; quantiles of the updates' norms where there are none.
      tally: sums over the survivors of the defenses' tallies.
      bytes_up: bytes all clients sent.
      bytes_down: bytes that all clients were sent by a protocol, besides the model.
      updates: `[d]` float array for each client whose message was asked for (after the client's defenses).
      own: next own states of the survivors, where defenses keep any.
      aggregate: what the aggregator made, if one ran.
    """

    total: np.ndarray
    weight: float
    survivors: list[int]
    dropped: list[int]
    loss: float
    lost: list[int] = field(default_factory=list)
    aborted: str = ""
    log: dict[str, float] = field(default_factory=dict)
    tally: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    updates: dict[int, np.ndarray] = field(default_factory=dict)
    own: dict[int, Leaves] = field(default_factory=dict)
    aggregate: Aggregate | None = None
