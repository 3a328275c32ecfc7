"""Observe: turns what passed the stations into each adversary's views, and never more than it may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.engine.base import CohortResult
from fedpriv.models.model import Moments
from fedpriv.threat.knowledge import Facts
from fedpriv.threat.position import Passage, Seen
from fedpriv.threat.tap import Observation, Tap
from fedpriv.threat.truth import Truth
from fedpriv.threat.view import Own, View

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation


def check_taps(federation: Federation, taps: Sequence[Tap]) -> None:
    """Refuses taps at what does not exist in `federation`, before a round is spent on them.

    Raises:
      CapabilityError: a position, or something to know, that is not there.
      ParameterError: a client beyond the population.
    """
    population = len(federation.partition)
    for tap in taps:
        for known in sorted(tap.adversary.knowledge, key=str):
            known.check(federation, tap.adversary)
        strangers = [c for c in tap.clients or () if not 0 <= c < population]
        if strangers:
            raise ParameterError(
                f"a tap listens to client {strangers[0]}, but there are {population} clients, numbered from 0"
            )
        if federation.stack.aggregator is not None and not tap.adversary.at.sees_only_released:
            raise CapabilityError(
                f"{federation.stack.aggregator.name} is an aggregator of TFF's, which does not show what a client "
                "sends; only the released result can be tapped: let the adversary be an 'observer'"
            )
        tap.adversary.at.check(federation)


def observe(
    federation: Federation,
    taps: Sequence[Tap],
    round_number: int,
    sent: np.ndarray,
    rate: float,
    states: Sequence[Any],
    result: CohortResult,
    released: np.ndarray,
    sent_to: Mapping[int, np.ndarray] | None = None,
) -> list[Observation]:
    """The observations of `taps` in one round.

    Args:
      federation: whose round.
      taps: those that listen in this round.
      round_number: from 0.
      sent: broadcast weights `[d]`.
      rate: client learning rate.
      states: the defenses' states, as broadcast.
      result: what the engine brought back.
      released: the mean update `[d]` after the aggregate station.
      sent_to: the weights `[d]` that single clients got instead of `sent`, by id; seen by those who see messages.
    """
    observations: list[Observation] = []
    everyone, dtype = tuple(result.survivors), federation.model.spec.dtype
    mean = (result.total / result.weight).astype(dtype) if result.survivors and result.weight else None

    def coalition(members: Sequence[int]) -> list[Seen]:
        return _seen_by(federation, members, result, mean)

    for tap in taps:
        chosen = tuple(c for c in everyone if tap.clients is None or c in tap.clients)
        messages = None
        if federation.stack.protocol is None:
            messages = {c: result.updates[c].astype(dtype) for c in chosen if c in result.updates}
        passage = Passage(round_number, everyone, chosen, messages, mean, released.astype(dtype), coalition)
        for seen in tap.adversary.at.sees(passage):
            got = sent
            if sent_to and len(seen.clients) == 1 and tap.adversary.at.sees_messages:
                got = sent_to.get(seen.clients[0], sent)
            observations.append(_observation(federation, tap, round_number, seen, got, rate, states))
    return observations


def _seen_by(federation: Federation, members: Sequence[int], result: CohortResult, mean: Any) -> list[Seen]:
    """What some of the protocol's parties see together."""
    protocol, everyone = federation.stack.protocol, tuple(result.survivors)
    assert protocol is not None  # see check_taps
    assert result.transcript is not None
    held = {p: result.transcript.held.get(p, {}) for p in members}
    if len(set(held)) == protocol.parties():  # nothing is hidden from a coalition of all of them
        return [Seen((c,), "update", _recombined(federation, held, c), pseudonym=f"client {c}") for c in everyone]
    # The aggregators publish the decoded sum, so each of them holds it as well.
    return [Seen(everyone, "sum", mean, held)]


def _recombined(federation: Federation, held: dict[int, dict[int, np.ndarray]], client: int) -> np.ndarray:
    """One client's update `[d]`, decoded from all aggregators' shares of it."""
    protocol = federation.stack.protocol
    assert protocol is not None
    whole = protocol.combine([shares[client] for shares in held.values()])
    decoded = protocol.decode(tf.constant(whole.view(np.int64)), tf.constant(1), federation.plan).numpy()
    return (decoded[:-1] / decoded[-1]).astype(federation.model.spec.dtype)


def _truth(federation: Federation, clients: Sequence[int]) -> Truth:
    indices = np.concatenate([federation.partition.indices[c] for c in clients])
    return Truth(federation.train.floats(indices), federation.train.y[indices].astype(np.int64), tuple(clients))


def _observation(
    federation: Federation,
    tap: Tap,
    round_number: int,
    seen: Seen,
    sent: np.ndarray,
    rate: float,
    states: Sequence[Any],
) -> Observation:
    """The view of what was seen, and the truth behind it."""
    adversary = tap.adversary
    truth = _truth(federation, [c for c in seen.clients if c != seen.own])
    facts = Facts(
        kind=seen.kind,
        labels=truth.y,
        num_examples=tuple(len(federation.partition.indices[c]) for c in seen.clients),
        procedure=federation.procedure,
        client_rate=rate,
        defenses=federation.defenses,
        states=tuple(states),
        moments=lambda: _moments(federation, sent, truth.x),
    )
    filled: dict[str, Any] = {}
    for known in sorted(adversary.knowledge, key=str):
        filled |= known.fill(facts)
    ours = {f.name for f in fields(View)} - {"told"}
    view = View(
        adversary=adversary,
        kind=seen.kind,
        round=round_number,
        model=federation.model,
        weights=sent.copy(),
        observed=None if seen.observed is None else seen.observed.copy(),
        plan=federation.plan,
        clients=len(seen.clients),
        shares=seen.shares,
        pseudonym=seen.pseudonym,
        own=_own(federation, tap, seen),
        told={k: v for k, v in filled.items() if k not in ours},
        **{k: v for k, v in filled.items() if k in ours},
    )
    return Observation(view, truth)


def _own(federation: Federation, tap: Tap, seen: Seen) -> Own | None:
    holder = tap.adversary.at.holds_data_of()
    if holder is None:
        return None
    own = _truth(federation, [holder])
    slot = None if seen.own is None else seen.clients.index(seen.own)
    return Own(own.x.copy(), own.y.copy(), slot)


def _moments(federation: Federation, sent: np.ndarray, x: np.ndarray) -> Moments:
    model = federation.model
    if model.moments is None:
        raise CapabilityError(f"model '{model.name}' has no batch-norm statistics to know")
    found = model.moments(model.spec.unflatten_numpy(sent), tf.constant(x, model.spec.dtype))
    return tuple((mean.numpy(), variance.numpy()) for mean, variance in found)
