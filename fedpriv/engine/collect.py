"""Collect: what the server's side gathers from a cohort's chunks, whichever engine trained them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedpriv.base.errors import DivergenceError, OverflowDetected, ProtocolError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Nested
from fedpriv.defense.dealt import Dealt
from fedpriv.defense.protocol import Aborted
from fedpriv.defense.stations import Station
from fedpriv.engine.base import Engine
from fedpriv.engine.result import CohortResult, CohortTask


class Collector:
    """Checks every client's outcome, runs the protocol if there is one, and makes the cohort's result.

    Args:
      engine: whose cohort.
      task: the round's work. Its session, where there is one, has not begun.

    Attributes:
      clients: those that are there to send an update, in order.
      mask_bits: b of the ring, mod 2^b, in which clients put masks on where they train; None where they do not.
    """

    def __init__(self, engine: Engine, task: CohortTask) -> None:
        self.engine, self.task, self.federation = engine, task, engine.federation
        self.plan, self.line = engine.plan, engine.line
        self.session = task.session
        present = [int(c) for c in task.clients]
        if self.session is not None:
            there = set(self.session.begin())
            present = [c for c in present if c in there]
        self.clients = present
        self._first: Dealt | None = None
        if self.session is not None and engine.masks_in_graph and present:
            self._first = self.session.deal(present[0])
            if self.session.outcome is not None:  # the round ended over it, so nobody sends
                self.clients = []
        self.mask_bits = None if self._first is None else self._first.bits
        # Summed at the end and exactly, so that the sums do not depend on the chunks.
        self.losses: list[float] = []
        self.log: dict[str, list[float]] = {}
        self.tally: dict[str, list[float]] = {}
        self.survivors: list[int] = []
        self.dropped: list[int] = []
        self.updates: dict[int, np.ndarray] = {}
        self.own: dict[int, tuple[np.ndarray, ...]] = {}
        self.bits = 0
        self.norms: list[float] = []
        self._ring = np.zeros(engine.contribution_length, np.uint64)

    def sent_alike(self) -> Iterator[tuple[np.ndarray, list[int]]]:
        """The clients that are there, in order, in runs that were sent the same weights."""
        run: list[int] = []
        weights = self.task.weights
        for client in self.clients:
            own = self.task.sent.get(client, self.task.weights)
            if run and own is not weights:
                yield weights, run
                run = []
            weights = own
            run.append(client)
        if run:
            yield weights, run

    def deal(self, client: int) -> Dealt:
        """The masks that one of the clients puts on where it trains; each is asked for once.

        Raises:
          ProtocolError: the session deals them to some clients alone, or in another ring.
        """
        assert self.session is not None
        assert self.mask_bits is not None
        dealt: Dealt | None
        if self._first is not None and client == self.clients[0]:
            dealt, self._first = self._first, None
        else:
            dealt = self.session.deal(client)
        if isinstance(self.session.outcome, Aborted):  # what comes back is not taken, and nobody can read it
            return Dealt.drawn([1], self.mask_bits)
        if dealt is None or dealt.bits != self.mask_bits:
            raise ProtocolError(
                f"client {client} is dealt {dealt}, but client {self.clients[0]} masks mod 2^{self.mask_bits}; a "
                "protocol's `masks` must give them to all clients, in one ring"
            )
        return dealt

    def weight(self, client: int) -> float:
        """The client's weight in the sum: 1, or its examples as a share of the largest client's."""
        if self.plan.weighting == "uniform":
            return 1.0
        size = np.asarray(self.federation.partition.sizes[client], self.plan.spec.dtype)
        return float(size / np.asarray(self.plan.max_examples, self.plan.spec.dtype))

    def take(self, ids: Sequence[int] | np.ndarray, out: Mapping[str, Nested]) -> None:
        """Takes one chunk: notes who survived, keeps updates that are asked for, runs the protocol.

        Args:
          ids: the chunk's clients.
          out: as `Engine.signature`, stacked by client; `update` may be missing where nobody asks for any. Sums in
            place of single losses, logs and tallies come through `report`.

        Raises:
          DivergenceError: an update is not finite and the policy is to stop.
          OverflowDetected: a contribution does not fit the encoding's range.
          StackError: an update is longer than a defense states.
        """
        finite = np.asarray(out["finite"], bool)
        number, rate = self.task.round, self.task.rate
        lost = [int(i) for i, fine in zip(ids, finite, strict=True) if not fine]
        if lost and self.federation.on_nonfinite != "drop":
            what = (
                f"the update of client {lost[0]} is not finite"
                f"{f' (and of {len(lost) - 1} more)' if len(lost) > 1 else ''}; lower the client learning "
                f"rate (now {rate:g}), or drop such clients with on_nonfinite='drop'"
            )
            if self.federation.on_nonfinite == "stop":
                raise DivergenceError(f"round {number}: {what}")
            self._call_off(what)
        self.dropped += lost
        own = tf.nest.flatten(out["own"]) if "own" in out else []
        for row in np.flatnonzero(finite):
            client = int(ids[row])
            if not self._fits(client, out, row):
                continue
            self.survivors.append(client)
            if "norm" in out:
                self.norms.append(float(np.asarray(out["norm"])[row]))
            if own:
                self.own[client] = tuple(np.array(a[row]) for a in own)
            given = next((out[name][row] for name in ("encoded", "masked") if name in out), None)
            encoded = None if given is None else np.asarray(given).astype(np.uint64)
            if client in self.task.wanted:
                self.updates[client] = self._as_received(encoded, out, row)
            if self.session is not None:
                assert encoded is not None
                submit = self.session.submit_masked if "masked" in out else self.session.submit
                submit(client, encoded)
            elif encoded is not None:
                np.add(self._ring, encoded, out=self._ring)
            self.bits += self._wire_bits(int(np.asarray(out["bits"])[row]), encoded is not None)
        if "loss" in out:
            columns = {"log": out["log"], "tally": out["tally"]}
            self.report(
                np.asarray(out["loss"])[finite],
                **{k: {name: np.asarray(v)[finite] for name, v in part.items()} for k, part in columns.items()},
            )

    def _call_off(self, why: str) -> None:
        """Ends the round over one client's contribution; none that comes after it is sent."""
        assert self.session is not None  # a federation without a protocol refuses the policy
        self.session.call_off(why)

    def _fits(self, client: int, out: Mapping[str, Nested], row: int) -> bool:
        """Whether a contribution can be sent; raises as `take`."""
        if not np.asarray(out["bounded"])[row]:
            last = self.line.at(Station.UPDATE)[-1]
            raise StackError(
                f"round {self.task.round}: {self.line.labels[last]} states that an update is no longer than "
                f"{self.line.bound:g}, but that of client {client} is; mend its maps(given, plan) or its update station"
            )
        if not np.asarray(out["ok"])[row]:
            coding = self.line.at(Station.ENCODE) or self.line.at(Station.UPDATE)
            names = " or ".join(self.line.labels[i] for i in coding)
            what = (
                f"the contribution of client {client} exceeds the fixed-point range of {names}; clip the update "
                "first, or raise its range"
            )
            if self.federation.on_overflow == "stop":
                raise OverflowDetected(f"round {self.task.round}: {what}")
            self._call_off(what)
            return False
        return True

    def _as_received(self, encoded: np.ndarray | None, out: Mapping[str, Nested], row: int) -> np.ndarray:
        """The update as the server decodes it from this one message."""
        if encoded is None or self.session is not None:
            return np.asarray(out["update"][row])
        decoded = self.engine.decode(encoded, 1)
        d = self.plan.spec.size
        return (decoded[:d] / decoded[d]).astype(self.plan.spec.dtype)

    def _wire_bits(self, bits: int, encoded: bool) -> int:
        if self.session is not None:
            return 0  # the wire counts
        if encoded:
            ring = next((d for d in reversed(self.line.made) if d is not None), None)
            bits = int(getattr(ring, "modulus_bits", None) or 64) * self.engine.contribution_length
            return 8 * -(-bits // 8)
        return bits + 32 * ((self.plan.weighting == "examples") + len(self.line.tallies))

    def report(
        self,
        losses: Sequence[float] | np.ndarray,
        log: Mapping[str, Sequence[float] | np.ndarray],
        tally: Mapping[str, Sequence[float] | np.ndarray],
    ) -> None:
        """Adds survivors' losses, logs and tallies, one a client or summed over some."""
        self.losses += [float(v) for v in losses]
        for kept, given in ((self.log, log), (self.tally, tally)):
            for name, values in given.items():
                kept.setdefault(name, []).extend(float(v) for v in values)

    def result(self, total: np.ndarray) -> CohortResult:
        """The cohort's result, given the weighted sum `[d]` of the updates where they were not encoded."""
        d, plan, survivors = self.plan.spec.size, self.plan, self.survivors
        tally = {name: _sum(values) for name, values in self.tally.items()}
        weight, aborted = math.fsum(self.weight(c) for c in survivors), ""
        ring: np.ndarray | None = self._ring if self.line.encodes and survivors else None
        if self.session is not None:
            outcome = self.session.finish()
            ring = None
            if isinstance(outcome, Aborted):
                aborted = f"{outcome.reason} (phase '{outcome.phase}')" if len(self.task.clients) else ""
                survivors, weight, total = [], 0.0, np.zeros(d)
                tally = dict.fromkeys(tally, 0.0)
            else:
                summed = set(outcome.clients)
                survivors = [c for c in survivors if c in summed]
                ring = outcome.total if survivors else None
                weight = math.fsum(self.weight(c) for c in survivors)
        if ring is not None:
            decoded = self.engine.decode(ring, len(survivors))
            total = decoded[:d]
            weight = float(len(survivors)) if plan.weighting == "uniform" else float(decoded[d])
            tally = dict(zip(self.line.tallies, decoded[d + 1 :].tolist(), strict=True))
        elif self.line.encodes:
            total = np.zeros(d)
        # Logs are for people, of the clients that trained; what the sum holds is `survivors`.
        count = len(self.survivors)
        gone = [int(c) for c in self.task.clients if int(c) not in {*survivors, *self.dropped}]
        sent = self.session.wire.bytes(sender="client") if self.session is not None else -(-self.bits // 8)
        return CohortResult(
            total=total,
            weight=weight,
            survivors=survivors,
            dropped=self.dropped,
            lost=gone,
            aborted=aborted,
            loss=_mean(self.losses, count),
            log={**_quantiles(self.norms), **{k: _mean(values, count) for k, values in self.log.items() if count}},
            tally=tally,
            bytes_up=sent,
            bytes_down=0 if self.session is None else self.session.wire.bytes(receiver="client"),
            updates=self.updates,
            own={c: self.own[c] for c in survivors if c in self.own},
        )


def _quantiles(norms: Sequence[float]) -> dict[str, float]:
    """How long the updates of an undefended round are, for people who look for a clip."""
    if not norms:
        return {}
    tenth, median, most = (float(q) for q in np.quantile(norms, [0.1, 0.5, 0.9]))
    return {"update_norm/10%": tenth, "update_norm/median": median, "update_norm/90%": most}


def _sum(values: Sequence[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def _mean(values: Sequence[float], count: int) -> float:
    """The sum over `count`, correctly rounded; NaN of nothing, or where a value is not finite."""
    return _sum(values) / count if count else math.nan
