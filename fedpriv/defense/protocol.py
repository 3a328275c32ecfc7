"""Protocol: a defense at the message station that replaces "each client sends its update" by something else.

The client encodes inside the graph; the protocol's messages are then made, sent, combined and decoded on the
host, for real. What each adversary can see of that is the protocol's own statement (`Transcript`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fedpriv.defense.domain import Domain, Ring
from fedpriv.defense.stations import Defense, Plan


@dataclass
class Transcript:
    """What one round of a protocol leaves behind.

    Attributes:
      total: the decoded-to-ring sum, `[d + 1]` uint64 (last element: the sum of the clients' weights).
      count: number of clients in the sum.
      bytes_up: bytes sent by all clients together.
      held: what each corruptible party saw, by party index: `{party: {client: uint64 [d + 1]}}`; filled only
        for parties that were named as watched when the session was opened.
    """

    total: np.ndarray
    count: int
    bytes_up: int
    held: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)


class Session(ABC):
    """One round of a protocol, on the host."""

    @abstractmethod
    def send(self, client: int, encoded: np.ndarray) -> None:
        """Takes client `client`'s encoded contribution, uint64 `[d + 1]`, through the protocol's messages."""

    @abstractmethod
    def close(self) -> Transcript:
        """Ends the round and returns what it left. Raises ProtocolError if it cannot be finished."""


class Protocol(Defense):
    """A defense whose messages reveal only a combination of the updates.

    The engine appends each client's aggregation weight to its (already weighted) update, so everything here
    has length d + 1, and only sums of both ever reach the server.
    """

    gives: ClassVar[Domain] = Ring()

    def encode(self, contribution: Any, plan: Plan, seed: Any) -> tuple[Any, Any]:
        """Float32 `[d + 1]` to ring elements int64 `[d + 1]` (bit pattern of uint64); pure TensorFlow.

        Returns:
          (encoded, ok): `ok` is a scalar bool, False where a value does not fit; the engine then names the
          client and stops with OverflowDetected.
        """
        raise NotImplementedError

    def decode(self, total: Any, count: Any, plan: Plan) -> Any:
        """The ring sum, int64 `[d + 1]`, back to float64 `[d + 1]`; pure TensorFlow."""
        raise NotImplementedError

    def open(self, plan: Plan, clients: Sequence[int], watched: Sequence[int] = ()) -> Session:
        """Starts a round for `clients`; `watched` parties' view is kept in the transcript."""
        raise NotImplementedError

    def l2_error(self, plan: Plan) -> float:
        """Largest L2 distance between a client's contribution and what the ring holds of it, in update units.

        Encoding may lengthen a clipped update by this much; the ledger adds it to the sensitivity.
        """
        return 0.0

    def combine(self, shares: Sequence[np.ndarray]) -> np.ndarray:
        """The ring element, uint64 `[d + 1]`, that all parties' shares of one message make together."""
        raise NotImplementedError

    def parties(self) -> int:
        """Number of parties (such as aggregators) that could be corrupted."""
        return 0

    def message(self) -> None:  # marks the station as acted at
        """The message station is `encode`, `open` and `decode` together."""
