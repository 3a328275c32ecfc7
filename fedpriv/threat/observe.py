"""Observe: turns what passed the stations into each adversary's views, and never more than it may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.stations import Station
from fedpriv.engine.base import CohortResult
from fedpriv.models.model import Moments
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Observation, Tap
from fedpriv.threat.truth import Truth
from fedpriv.threat.view import View

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation


def check_taps(federation: Federation, taps: Sequence[Tap]) -> None:
    """Refuses taps at what does not exist in `federation`, before a round is spent on them.

    Raises:
      CapabilityError: aggregators without a protocol that has any, or beyond its number; an adversary that knows
        batch statistics where there are none to know.
      ParameterError: a client beyond the population.
    """
    protocol, population = federation.stack.protocol, len(federation.partition)
    for tap in taps:
        if "batch_statistics" in tap.adversary.knows:
            _check_batch_statistics(federation, tap.adversary)
        strangers = [c for c in tap.clients or () if not 0 <= c < population]
        if strangers:
            raise ParameterError(
                f"a tap listens to client {strangers[0]}, but there are {population} clients, numbered from 0"
            )
        if federation.stack.aggregator is not None and tap.adversary.position != "observer":
            raise CapabilityError(
                f"{federation.stack.aggregator.name} is an aggregator of TFF's, which does not show what a client "
                "sends; only the released result can be tapped: let the adversary be an 'observer'"
            )
        if tap.adversary.position != "aggregators":
            continue
        if protocol is None:
            raise CapabilityError(
                "the adversary is a coalition of aggregators, but no defense in this federation has any; "
                "add secret_sharing, or tap as 'server'"
            )
        missing = [p for p in tap.adversary.corrupted if not 0 <= p < protocol.parties()]
        if missing:
            raise CapabilityError(
                f"aggregator {missing[0]} does not exist: {protocol.name} has {protocol.parties()}, numbered from 0"
            )


def _check_batch_statistics(federation: Federation, adversary: Adversary) -> None:
    """Refuses the knowledge of one batch's statistics where there is no one batch, or no statistics of it."""
    model, procedure = federation.model, federation.procedure
    several = [n for n in map(len, federation.partition.indices) if procedure.local_steps(n) > 1]
    changing = [d.name for d in federation.defenses if d.acts_at(Station.BATCH)]
    if model.moments is None:
        why = f"model '{model.name}' has no batch normalization (or does not say what enters it); use one that has"
    elif federation.stack.protocol is not None or adversary.position not in ("server", "eavesdropper"):
        why = "it sees a sum over clients, each with a batch of its own; let it be a server without a secure sum"
    elif several:
        why = (
            f"a client of {several[0]} examples makes {procedure.local_steps(several[0])} local steps, each with "
            "statistics of its own; use one step on the full batch"
        )
    elif changing:
        why = f"defense '{changing[0]}' changes the batch, so its statistics are not those of the data; leave it out"
    else:
        return
    raise CapabilityError(f"this adversary cannot know the client's 'batch_statistics': {why}")


def observe(
    federation: Federation,
    taps: Sequence[Tap],
    round_number: int,
    sent: np.ndarray,
    rate: float,
    states: Sequence[Any],
    result: CohortResult,
    released: np.ndarray,
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
    """
    observations: list[Observation] = []
    for tap in taps:
        for clients, kind, observed, shares in _visible(federation, tap, result, released):
            truth = _truth(federation, clients)
            view = _view(federation, tap.adversary, kind, round_number, sent, observed, rate, states, truth, shares)
            observations.append(Observation(view, truth))
    return observations


def _visible(federation: Federation, tap: Tap, result: CohortResult, released: np.ndarray) -> list[Any]:
    """(clients behind it, kind, what is observed `[d]` or None, shares or None) of each thing the tap sees."""
    protocol, position = federation.stack.protocol, tap.adversary.position
    if not result.survivors:
        return []
    everyone, dtype = tuple(result.survivors), federation.model.spec.dtype
    mean = (result.total / result.weight).astype(dtype) if result.weight else None
    if position == "observer":
        return [(everyone, "released", released.astype(dtype), None)]
    if position == "aggregators":
        assert protocol is not None  # see check_taps
        assert result.transcript is not None
        held = {p: result.transcript.held.get(p, {}) for p in tap.adversary.corrupted}
        if len(set(held)) == protocol.parties():  # nothing is hidden from a coalition of all of them
            return [((c,), "update", _recombined(federation, held, c), None) for c in everyone]
        # The aggregators publish the decoded sum, so each of them holds it as well.
        return [(everyone, "sum", mean, held)]
    if protocol is not None:
        # On the wire there are only shares, whose sum no eavesdropper holds; the server gets the sum alone.
        return [(everyone, "sum", mean, None)] if position == "server" else [(everyone, "shares", None, None)]
    chosen = [c for c in everyone if tap.clients is None or c in tap.clients]
    return [((c,), "update", result.updates[c].astype(dtype), None) for c in chosen]


def _recombined(federation: Federation, held: dict[int, dict[int, np.ndarray]], client: int) -> np.ndarray:
    """One client's update `[d]`, decoded from all aggregators' shares of it."""
    protocol = federation.stack.protocol
    assert protocol is not None
    whole = protocol.combine([shares[client] for shares in held.values()])
    decoded = protocol.decode(tf.constant(whole.view(np.int64)), tf.constant(1), federation.plan).numpy()
    return (decoded[:-1] / decoded[-1]).astype(federation.model.spec.dtype)


def _truth(federation: Federation, clients: Sequence[int]) -> Truth:
    indices = np.concatenate([federation.partition.indices[c] for c in clients])
    train = federation.train
    return Truth(train.floats(indices), train.targets(indices), tuple(clients), kind=train.kind)


def _view(
    federation: Federation,
    adversary: Adversary,
    kind: Any,
    round_number: int,
    sent: np.ndarray,
    observed: np.ndarray | None,
    rate: float,
    states: Sequence[Any],
    truth: Truth,
    shares: Any,
) -> View:
    knows = adversary.knows
    counts = tuple(len(federation.partition.indices[c]) for c in truth.clients)
    statistics = None
    if "batch_statistics" in knows and kind == "update":
        statistics = _moments(federation, sent, truth.x)
    return View(
        adversary=adversary,
        kind=kind,
        round=round_number,
        model=federation.model,
        weights=sent.copy(),
        observed=None if observed is None else observed.copy(),
        plan=federation.plan,
        clients=len(truth.clients),
        procedure=federation.procedure if "procedure" in knows else None,
        num_examples=counts if "num_examples" in knows else None,
        labels=truth.y.copy() if "labels" in knows else None,
        defenses=federation.defenses if "defense" in knows else (),
        states=tuple(states) if "defense" in knows else (),
        client_rate=rate if "procedure" in knows else None,
        shares=shares,
        batch_statistics=statistics,
        data_kind=federation.train.kind,
    )


def _moments(federation: Federation, sent: np.ndarray, x: np.ndarray) -> Moments:
    model = federation.model
    assert model.moments is not None  # see check_taps
    found = model.moments(model.spec.unflatten_numpy(sent), tf.constant(x, model.spec.dtype))
    return tuple((mean.numpy(), variance.numpy()) for mean, variance in found)
