"""Observe: turns what passed the stations into each adversary's views, and never more than it may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Nested
from fedpriv.defense.attrition import NoAttrition
from fedpriv.defense.parties import SERVER, Party
from fedpriv.defense.parties import client as client_party
from fedpriv.defense.plan import Plan
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Moments
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.dossier import dossiers
from fedpriv.threat.enact import check_enacted
from fedpriv.threat.exchange import Exchange
from fedpriv.threat.knowledge import Facts
from fedpriv.threat.observation import Episode, Observation
from fedpriv.threat.position import Kind, Passage, Seen
from fedpriv.threat.tap import Tap
from fedpriv.threat.truth import Truth
from fedpriv.threat.view import Own, View

_KINDS: dict[str, Kind] = {"client": "update", "sum": "sum", "payloads": "shares"}


def check_taps(federation: Federation, taps: Sequence[Tap]) -> None:
    """Refuses taps at what does not exist in `federation`, before a round is spent on them.

    Raises:
      CapabilityError: a position, or something to know, that is not there.
      ParameterError: a client beyond the population.
    """
    population = len(federation.partition)
    for tap in taps:
        for known in sorted(tap.adversary.knowledge, key=str):
            known.check(federation, tap.adversary.at)
        strangers = [c for c in tap.clients or () if not 0 <= c < population]
        if strangers:
            raise ParameterError(
                f"a tap listens to client {strangers[0]}, but there are {population} clients, numbered from 0"
            )
        if federation.line.aggregator is not None and not tap.adversary.at.sees_only_released:
            raise CapabilityError(
                f"{federation.line.aggregator.name} is an aggregator of TFF's, which does not show what a client "
                "sends; only the released result can be tapped: let the adversary be an 'observer'"
            )
        _check_topology(federation, tap)
        tap.adversary.at.check(federation)
        check_enacted(federation, tap.adversary.acts)


def _check_topology(federation: Federation, tap: Tap) -> None:
    at, position = tap.adversary.at, tap.adversary.position
    if federation.serverless and not at.among_peers:
        raise CapabilityError(
            f"the adversary is '{position}', but in gossip peers exchange models without a server; let it be a "
            "'neighbour(0)', or an 'eavesdropper' on all links"
        )
    if not federation.serverless and not at.beside_server:
        raise CapabilityError(
            f"the adversary is '{position}', but with a server clients send each other nothing; give a topology such "
            "as gossip(graph=ring), or let it be 'client(0)' or 'server'"
        )


def watching(protocol: Protocol, cohort: Sequence[int], taps: Sequence[Tap]) -> tuple[list[Party], bool]:
    """Whose messages the taps need a protocol's session to remember, and whether somebody listens to the wire."""
    watched = {p for t in taps for p in t.adversary.at.parties()}
    there = {*protocol.parties(), *map(client_party, cohort)}
    return sorted(watched & there), any(t.adversary.at.on_the_wire for t in taps)


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
    dtype, survivors = federation.model.spec.dtype, tuple(result.survivors)

    def seen_by(parties: Sequence[Party], wire: bool = False) -> list[Seen]:
        return _seen_by(federation, task, parties, wire, decode)

    for tap in taps:
        chosen = tuple(c for c in survivors if tap.clients is None or c in tap.clients)
        messages = None
        if task.session is None:
            messages = {c: result.updates[c].astype(dtype) for c in chosen if c in result.updates}
        passage = Passage(task.round, survivors, chosen, messages, released.astype(dtype), seen_by)
        for seen in tap.adversary.at.sees(passage):
            observations.append(_observation(federation, tap, task, seen))
    return observations


def observe_exchange(
    federation: Federation,
    taps: Sequence[Tap],
    exchange: Exchange,
    plan: Plan,
    number: int,
    rate: float,
    known: tuple[tuple[Defense, ...], tuple[Nested, ...]],
) -> list[Observation]:
    """The observations of `taps` in one round among peers.

    Args:
      federation: whose round.
      taps: those that listen in this round.
      exchange: what passed.
      plan: public facts of the rounds.
      number: the round's.
      rate: client learning rate of the round.
      known: the defenses on a message's way, and the state of each of their links.
    """
    observations: list[Observation] = []
    for tap in taps:
        wanted = None if tap.clients is None else set(tap.clients)
        for seen in tap.adversary.at.overhears(exchange):
            if wanted is not None and not wanted & set(seen.clients):
                continue
            assert seen.weights is not None
            task = CohortTask(weights=seen.weights, clients=(), round=number, rate=rate, states=known[1])
            observations.append(_observation(federation, tap, task, seen, plan, known[0]))
    return observations


def episodes(
    federation: Federation, observations: Sequence[Observation], clients: Sequence[int] | None = None
) -> list[Episode]:
    """What each adversary holds after several rounds, with the truth behind it, in the order they first appear.

    Args:
      federation: whose rounds.
      observations: of any number of rounds and adversaries.
      clients: ids of those who are looked for; None is whoever is behind some view. An adversary's own examples are
        never looked for.
    """
    found = []
    for dossier in dossiers(o.view for o in observations):
        own = dossier.adversary.at.own_clients()
        ours = [o for o in observations if o.view.adversary == dossier.adversary]
        wanted = {c for o in ours for c in o.truth.clients} if clients is None else set(clients)
        warnings = tuple(dict.fromkeys(w for o in ours for w in o.warnings))
        found.append(Episode(dossier, _truth(federation, sorted(wanted - own)), warnings))
    return found


def _seen_by(
    federation: Federation,
    task: CohortTask,
    parties: Sequence[Party],
    wire: bool,
    decode: Callable[[Array, int], Array],
) -> list[Seen]:
    """What some of the protocol's parties make of their messages, decoded."""
    found: list[Seen] = []
    if task.session is None:
        return found
    spec, uniform = federation.plan.spec, federation.plan.weighting == "uniform"
    there = [p for p in parties if task.session.wire.has(p)]
    if parties and not there:
        return found
    for sighting in task.session.seen_by(there, wire=wire):
        if not sighting.clients:
            continue
        observed = None
        if sighting.value is not None:
            decoded = decode(sighting.value, len(sighting.clients))
            weight = float(len(sighting.clients)) if uniform else decoded[spec.size]
            observed = (decoded[: spec.size] / weight).astype(spec.dtype)
        # The server keeps no more than the sum.
        held = None if tuple(parties) == (SERVER,) else sighting.payloads or None
        name = f"client {sighting.clients[0]}" if sighting.kind == "client" else None
        visible = None if sighting.visible is None else sighting.visible[: spec.size]
        if visible is not None and observed is not None:
            observed = np.where(visible, observed, observed.dtype.type(0))  # what is hidden decodes to some constant
        found.append(Seen(sighting.clients, _KINDS[sighting.kind], observed, held, pseudonym=name, visible=visible))
    return found


def _truth(federation: Federation, clients: Sequence[int]) -> Truth:
    indices = np.concatenate([federation.partition.indices[c] for c in clients])
    train = federation.train
    return Truth(
        train.floats(indices), train.targets(indices), tuple(clients), kind=train.kind, num_classes=train.num_classes
    )


def _observation(
    federation: Federation,
    tap: Tap,
    task: CohortTask,
    seen: Seen,
    plan: Plan | None = None,
    defenses: tuple[Defense, ...] | None = None,
) -> Observation:
    """The view of what was seen, and the truth behind it."""
    adversary = tap.adversary
    truth = _truth(federation, [c for c in seen.clients if c != seen.own])
    sent = _sent(task, seen, adversary)
    facts = Facts(
        kind=seen.kind,
        labels=truth.y,
        num_examples=tuple(len(federation.partition.indices[c]) for c in seen.clients),
        procedure=federation.procedure,
        client_rate=task.rate,
        defenses=federation.defenses if defenses is None else defenses,
        states=tuple(task.states),
        moments=lambda: _moments(federation, sent, truth.x),
        lengths=lambda: _lengths(federation, truth.x),
    )
    filled: dict[str, Any] = {}
    for known in sorted(adversary.knowledge, key=str):
        filled |= known.fill(facts)
    sized = not adversary.at.sees_only_released or _sizes_are_public(federation) or "num_examples" in filled
    ours = {f.name for f in fields(View)} - {"told"}
    view = View(
        adversary=adversary,
        kind=seen.kind,
        round=task.round,
        model=federation.model,
        weights=sent.copy(),
        observed=None if seen.observed is None else seen.observed.copy(),
        visible=None if seen.visible is None else seen.visible.copy(),
        plan=federation.plan if plan is None else plan,
        letter=seen.letter,
        clients=len(seen.clients) if sized else None,
        payloads=seen.payloads,
        pseudonym=seen.pseudonym,
        members=seen.members,
        own=_own(federation, tap, seen, sized),
        told={k: v for k, v in filled.items() if k not in ours},
        **{k: v for k, v in filled.items() if k in ours},
        data_kind=federation.train.kind,
    )
    return Observation(view, truth)


def _sent(task: CohortTask, seen: Seen, adversary: Adversary) -> np.ndarray:
    """The weights `[d]` that the clients behind a view got, where the adversary sees messages and all got the same;
    else those that were broadcast."""
    if not adversary.at.sees_messages or not seen.clients:
        return task.weights
    first, *rest = (task.sent.get(c, task.weights) for c in seen.clients)
    return first if all(w is first or np.array_equal(w, first) for w in rest) else task.weights


def _sizes_are_public(federation: Federation) -> bool:
    """Whether everybody knows how many clients are behind a released model: cohorts of one size that nobody leaves."""
    stays = isinstance(federation.attrition, NoAttrition) and federation.on_nonfinite != "drop"
    return federation.plan.sampling.equal_cohorts and stays


def _own(federation: Federation, tap: Tap, seen: Seen, sized: bool) -> Own | None:
    holders = seen.held or tap.adversary.at.holds_data_of()
    if not holders:
        return None
    own = _truth(federation, holders)
    slot = None if seen.own is None else seen.clients.index(seen.own)
    if slot is not None and not sized:
        slot = 0  # its true place tells how many others came
    return Own(own.x.copy(), own.y.copy(), slot)


def _lengths(federation: Federation, x: np.ndarray) -> np.ndarray:
    padding = getattr(federation.train.kind, "padding", None)
    return np.full(len(x), x.shape[1]) if padding is None else np.sum(x != padding, axis=1)


def _moments(federation: Federation, sent: np.ndarray, x: np.ndarray) -> Moments:
    model = federation.model
    if model.moments is None:
        raise CapabilityError(f"model '{model.name}' has no batch-norm statistics to know")
    found = model.moments(model.spec.unflatten_numpy(sent), tf.constant(x, model.spec.dtype))
    return tuple((mean.numpy(), variance.numpy()) for mean, variance in found)
