"""Collect: what the server's side gathers from a cohort's chunks, whichever engine trained them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import DivergenceError, OverflowDetected
from fedpriv.base.lazy import tf
from fedpriv.engine.base import CohortResult

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation


class Collector:
    """Checks every client's outcome, runs the protocol if there is one, and makes the cohort's result.

    Args:
      federation: the federation.
      clients: the cohort's ids.
      round_number: for messages.
      rate: the clients' learning rate, for messages.
      watched: protocol parties whose received messages are asked for.
    """

    def __init__(
        self,
        federation: Federation,
        clients: Sequence[int],
        round_number: int,
        rate: float,
        watched: Sequence[int] = (),
    ) -> None:
        self.federation, self.plan, self.protocol = federation, federation.plan, federation.stack.protocol
        self.round_number, self.rate = round_number, rate
        self.session = None
        if self.protocol is not None and len(clients):
            self.session = self.protocol.open(self.plan, [int(c) for c in clients], watched)
        # Summed at the end and exactly, so that the sums do not depend on the chunks.
        self.losses: list[float] = []
        self.metrics: dict[str, list[float]] = {}
        self.survivors: list[int] = []
        self.dropped: list[int] = []
        self.updates: dict[int, np.ndarray] = {}

    def weight(self, client: int) -> float:
        """The client's weight in the sum: 1, or its examples as a share of the largest client's."""
        if self.plan.weighting == "uniform":
            return 1.0
        size = np.asarray(self.federation.partition.sizes[client], self.plan.spec.dtype)
        return float(size / np.asarray(self.plan.max_examples, self.plan.spec.dtype))

    def take(
        self,
        ids: Sequence[int] | np.ndarray,
        finite: np.ndarray,
        updates: Any = None,
        wanted: frozenset[int] = frozenset(),
        encoded: Any = None,
        fits: Any = None,
    ) -> None:
        """Takes one chunk: notes who survived, keeps updates that are asked for, runs the protocol.

        Args:
          ids: the chunk's clients.
          finite: bool `[c]`, whose update is.
          updates: `[d]` each, where there are any.
          wanted: whose update to keep.
          encoded: ring elements, int64 `[d + 1]` each, where a protocol runs.
          fits: whether they fit its range.

        Raises:
          DivergenceError: an update is not finite and the policy is to stop.
          OverflowDetected: a contribution does not fit the protocol's range.
        """
        lost = [int(i) for i, fine in zip(ids, finite, strict=True) if not fine]
        if lost and self.federation.on_nonfinite == "stop":
            raise DivergenceError(
                f"round {self.round_number}: the update of client {lost[0]} is not finite"
                f"{f' (and of {len(lost) - 1} more)' if len(lost) > 1 else ''}; lower the client learning "
                f"rate (now {self.rate:g}), or drop such clients with on_nonfinite='drop'"
            )
        self.dropped += lost
        for row in np.flatnonzero(finite):
            client = int(ids[row])
            self.survivors.append(client)
            if client in wanted:
                self.updates[client] = np.asarray(updates[row])
            if self.session is not None:
                self._send(client, np.asarray(encoded[row]), bool(fits[row]))

    def _send(self, client: int, encoded: np.ndarray, fits: bool) -> None:
        assert self.session is not None
        assert self.protocol is not None
        if not fits:
            raise OverflowDetected(
                f"round {self.round_number}: the contribution of client {client} exceeds the fixed-point range of "
                f"{self.protocol.name}; clip the update first, or raise its range"
            )
        self.session.send(client, encoded.view(np.uint64))

    def report(self, losses: Sequence[float], metrics: Mapping[str, Sequence[float]]) -> None:
        """Adds survivors' losses and metrics, one a client or summed over some."""
        self.losses += [float(v) for v in losses]
        for name, values in metrics.items():
            self.metrics.setdefault(name, []).extend(float(v) for v in values)

    def result(self, total: np.ndarray) -> CohortResult:
        """The cohort's result, given the weighted sum `[d]` of the updates where no protocol ran."""
        d, plan, count = self.plan.spec.size, self.plan, len(self.survivors)
        transcript, weight = None, math.fsum(self.weight(c) for c in self.survivors)
        bytes_up = count * (d * tf.as_dtype(plan.spec.dtype).size + 4 * (plan.weighting == "examples"))
        if self.session is not None and self.survivors:
            assert self.protocol is not None
            transcript = self.session.close()
            decoded = self.protocol.decode(
                tf.constant(transcript.total.view(np.int64)), tf.constant(transcript.count), plan
            ).numpy()
            total, bytes_up = decoded[:d], transcript.bytes_up
            weight = float(count) if plan.weighting == "uniform" else float(decoded[d])
        return CohortResult(
            total,
            weight,
            self.survivors,
            self.dropped,
            _mean(self.losses, count),
            {name: _mean(values, count) for name, values in self.metrics.items() if count},
            bytes_up,
            self.updates,
            transcript,
        )


def _mean(values: Sequence[float], count: int) -> float:
    """The sum over `count`, correctly rounded; 0 of nothing, NaN where a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    return math.fsum(values) / max(count, 1)
