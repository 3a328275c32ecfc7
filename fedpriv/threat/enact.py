"""Enact: a malicious adversary's acts carried into a federation and its rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Model
from fedpriv.threat.acts import Act, Occasion
from fedpriv.threat.tap import Tap


def planted(
    taps: Iterable[Tap], weights: np.ndarray, clients: Sequence[int], round_number: int, federation: Federation
) -> dict[int, np.ndarray]:
    """The weights `[d]` that single clients are sent in place of `weights [d]`, by id, by the acts of `taps`."""
    acts = [(act, tap.adversary.knowledge) for tap in taps for act in tap.adversary.acts if act.changes != "procedure"]
    model, procedure, cohort = federation.model, federation.procedure, tuple(clients)
    found: dict[int, np.ndarray] = {}
    for client in clients if acts else ():
        sent = weights
        for act, knowledge in acts:
            occasion = Occasion(round_number, client, model.spec, model, procedure, cohort, knowledge)
            sent = act.broadcast(sent, occasion)
        if sent is not weights:
            found[client] = sent
    return found


def enacted(federation: Federation, acts: Sequence[Act]) -> Federation:
    """The federation as the acts that change its model or procedure leave it; itself, if none does.

    Raises:
      FedprivError: it cannot work so changed; see Federation.
    """
    model, procedure = federation.model, federation.procedure
    for act in acts:
        if act.changes == "model":
            model = act.model(model)
        elif act.changes == "procedure":
            procedure = act.procedure(procedure)
    if model is federation.model and procedure is federation.procedure:
        return federation
    changed = replace(federation, model=model, procedure=procedure)
    _ENACTED[changed] = tuple(acts)
    return changed


def carried(model: Model, acts: Sequence[Act], weights: np.ndarray) -> np.ndarray:
    """What weights `[d]` of a model are in the model as the acts leave it.

    Raises:
      ParameterError: an act does not say so.
    """
    for act in acts:
        if act.changes == "model":
            changed = act.model(model)
            weights, model = act.carried(weights, model, changed), changed
    return weights


#: Which federations `enacted` has made, and by which acts.
_ENACTED: WeakKeyDictionary[Federation, tuple[Act, ...]] = WeakKeyDictionary()


def check_enacted(federation: Federation, acts: Sequence[Act]) -> None:
    """Raises CapabilityError for an act on the model or the procedure that this federation was made without."""
    missing = [a for a in acts if a.changes != "broadcast" and a not in _ENACTED.get(federation, ())]
    if missing:
        raise CapabilityError(
            f"'{missing[0]}' changes the {missing[0].changes}, which is fixed when a federation is made; run "
            "fedpriv.threat.enact.enacted(federation, adversary.acts) in its place"
        )
