"""Decay: what weight decay adds to one local step is known, so an update can be read as if there were none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from fedpriv.defense.codec import Codec
from fedpriv.defense.protocol import Protocol
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.view import View


def without_decay(
    model: Model,
    procedure: Procedure,
    counts: tuple[int, ...],
    weights: np.ndarray,
    update: np.ndarray,
    rate: float,
    frozen: Collection[str] = (),
) -> tuple[Procedure, np.ndarray]:
    """(a procedure without weight decay, the update that it would have made) of one step of SGD; else both as given.

    Args:
      model: whose weights these are.
      procedure: how clients trained.
      counts: examples of each.
      weights: `[d]`, those that all of them were sent.
      update: `[d]`, one client's, or a weighted mean of several.
      rate: the clients' learning rate.
      frozen: names of weights that were not trained.
    """
    client = procedure.client
    if not client.weight_decay or client.kind not in ("sgd", "momentum"):
        return procedure, update
    if any(procedure.local_steps(n) > 1 for n in counts):
        return procedure, update
    out = update.copy()
    for name in model.spec.names[model.buffers :]:
        if name not in frozen:
            part = model.spec.slice_of(name)
            out[part] += rate * client.weight_decay * weights[part]
    return procedure.model_copy(update={"client": client.model_copy(update={"weight_decay": 0.0})}), out


def undecayed(view: View) -> View:
    """The view that one step without weight decay would have given, where that follows from what the adversary holds.

    It does for an update or a sum of one step each, of which the adversary knows procedure, rate and numbers of
    examples, which no known defense has changed, and whose clients were all sent the same weights.
    """
    procedure, counts = view.procedure, view.num_examples
    if procedure is None or not procedure.client.weight_decay or counts is None or view.observed is None:
        return view
    several = view.kind == "sum" and view.adversary.acts  # acts may send each client weights of its own
    parts = (part for defense in view.defenses for part in defense.parts())
    changed = any(not isinstance(part, Protocol | Codec) for part in parts)
    if view.kind not in ("update", "sum") or several or changed or not view.client_rate:
        return view
    plain, update = without_decay(view.model, procedure, counts, view.weights, view.observed, view.client_rate)
    if plain is procedure:
        return view
    if view.visible is not None:
        update = np.where(view.visible, update, update.dtype.type(0))
    return replace(view, procedure=plain, observed=update)
