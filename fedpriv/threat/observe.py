"""Observe: turns what passed the stations into each adversary's views, and never more than it may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.parties import SERVER, Party, aggregator
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Station
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Moments
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Observation, Tap
from fedpriv.threat.truth import Truth
from fedpriv.threat.view import View


def check_taps(federation: Federation, taps: Sequence[Tap]) -> None:
    """Refuses taps at what does not exist in `federation`, before a round is spent on them.

    Raises:
      CapabilityError: aggregators without a protocol that has any, or beyond its number; an adversary that knows
        batch statistics where there are none to know.
      ParameterError: a client beyond the population.
    """
    protocol, population = federation.line.protocol, len(federation.partition)
    for tap in taps:
        if "batch_statistics" in tap.adversary.knows:
            _check_batch_statistics(federation, tap.adversary)
        strangers = [c for c in tap.clients or () if not 0 <= c < population]
        if strangers:
            raise ParameterError(
                f"a tap listens to client {strangers[0]}, but there are {population} clients, numbered from 0"
            )
        if federation.line.aggregator is not None and tap.adversary.position != "observer":
            raise CapabilityError(
                f"{federation.line.aggregator.name} is an aggregator of TFF's, which does not show what a client "
                "sends; only the released result can be tapped: let the adversary be an 'observer'"
            )
        if tap.adversary.position != "aggregators":
            continue
        if protocol is None:
            raise CapabilityError(
                "the adversary is a coalition of aggregators, but no defense in this federation has any; "
                "add secret_sharing, or tap as 'server'"
            )
        parties = protocol.parties()
        missing = [p for p in tap.adversary.corrupted if aggregator(p) not in parties]
        if missing:
            count = sum(p.role == "aggregator" for p in parties)
            raise CapabilityError(
                f"aggregator {missing[0]} does not exist: {protocol.name} has {count}, numbered from 0"
            )


def _check_batch_statistics(federation: Federation, adversary: Adversary) -> None:
    """Refuses the knowledge of one batch's statistics where there is no one batch, or no statistics of it."""
    model, procedure = federation.model, federation.procedure
    several = [n for n in map(len, federation.partition.indices) if procedure.local_steps(n) > 1]
    changing = [d.name for d in federation.defenses if d.acts_at(Station.BATCH) or d.acts_at(Station.DATA)]
    if model.moments is None:
        why = f"model '{model.name}' has no batch normalization (or does not say what enters it); use one that has"
    elif federation.line.protocol is not None or adversary.position not in ("server", "eavesdropper"):
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


def watching(protocol: Protocol, taps: Sequence[Tap]) -> tuple[list[Party], bool]:
    """Whose messages the taps need a protocol's session to remember, and whether somebody listens to the wire."""
    watched = {p for t in taps for p in _coalition(t.adversary)}
    return sorted(watched & set(protocol.parties())), any(t.adversary.position == "eavesdropper" for t in taps)


def _coalition(adversary: Adversary) -> list[Party]:
    """The parties of a protocol that an adversary is."""
    if adversary.position == "aggregators":
        return [aggregator(i) for i in adversary.corrupted]
    return [SERVER] if adversary.position == "server" else []


def observe(
    federation: Federation,
    taps: Sequence[Tap],
    task: CohortTask,
    result: CohortResult,
    released: np.ndarray,
    decode: Callable[[np.ndarray, int], np.ndarray],
) -> list[Observation]:
    """The observations of `taps` in one round.

    Args:
      federation: whose round.
      taps: those that listen in this round.
      task: what the engine was given.
      result: what the engine brought back.
      released: the mean update `[d]` after the aggregate station.
      decode: a ring sum of that many clients' contributions, uint64 `[n]`, to float64 `[n]`.
    """
    observations: list[Observation] = []
    for tap in taps:
        for clients, kind, observed, payloads in _visible(federation, tap, task, result, released, decode):
            truth = _truth(federation, clients)
            view = _view(federation, tap.adversary, kind, task, observed, truth, payloads)
            observations.append(Observation(view, truth))
    return observations


def _visible(
    federation: Federation, tap: Tap, task: CohortTask, result: CohortResult, released: np.ndarray, decode: Any
) -> list[Any]:
    """(clients behind it, kind, what is observed `[d]` or None, payloads or None) of each thing the tap sees."""
    dtype, survivors = federation.model.spec.dtype, tuple(result.survivors)
    if tap.adversary.position == "observer":
        return [(survivors, "released", released.astype(dtype), None)] if survivors else []
    if task.session is None:
        chosen = [c for c in survivors if tap.clients is None or c in tap.clients]
        return [((c,), "update", result.updates[c].astype(dtype), None) for c in chosen]
    found: list[Any] = []
    wire = tap.adversary.position == "eavesdropper"
    coalition = _coalition(tap.adversary)
    for sighting in task.session.seen_by(coalition, wire=wire):
        if not sighting.clients:
            continue
        kind = {"client": "update", "sum": "sum", "payloads": "shares"}[sighting.kind]
        observed = None
        if sighting.value is not None:
            decoded, d = decode(sighting.value, len(sighting.clients)), federation.plan.spec.size
            uniform = federation.plan.weighting == "uniform"
            weight = float(len(sighting.clients)) if uniform else decoded[d]
            observed = (decoded[:d] / weight).astype(dtype)
        held = None if coalition == [SERVER] else sighting.payloads or None  # the server keeps no more than the sum
        found.append((sighting.clients, kind, observed, held))
    return found


def _truth(federation: Federation, clients: Sequence[int]) -> Truth:
    indices = np.concatenate([federation.partition.indices[c] for c in clients])
    return Truth(federation.train.floats(indices), federation.train.y[indices].astype(np.int64), tuple(clients))


def _view(
    federation: Federation,
    adversary: Adversary,
    kind: Any,
    task: CohortTask,
    observed: np.ndarray | None,
    truth: Truth,
    payloads: Any,
) -> View:
    knows, sent = adversary.knows, task.sent.get(truth.clients[0], task.weights)
    counts = tuple(len(federation.partition.indices[c]) for c in truth.clients)
    statistics = None
    if "batch_statistics" in knows and kind == "update":
        statistics = _moments(federation, sent, truth.x)
    return View(
        adversary=adversary,
        kind=kind,
        round=task.round,
        model=federation.model,
        weights=sent.copy(),
        observed=None if observed is None else observed.copy(),
        plan=federation.plan,
        clients=len(truth.clients),
        procedure=federation.procedure if "procedure" in knows else None,
        num_examples=counts if "num_examples" in knows else None,
        labels=truth.y.copy() if "labels" in knows else None,
        defenses=federation.defenses if "defense" in knows else (),
        states=tuple(task.states) if "defense" in knows else (),
        client_rate=task.rate if "procedure" in knows else None,
        payloads=payloads,
        batch_statistics=statistics,
    )


def _moments(federation: Federation, sent: np.ndarray, x: np.ndarray) -> Moments:
    model = federation.model
    assert model.moments is not None  # see check_taps
    found = model.moments(model.spec.unflatten_numpy(sent), tf.constant(x, model.spec.dtype))
    return tuple((mean.numpy(), variance.numpy()) for mean, variance in found)
