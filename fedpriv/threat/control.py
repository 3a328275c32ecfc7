"""Control: the same attack on noise in place of the update, which tells the update's part in a finding from its prior.

An attack that brings a generator, or any other strong prior, makes images of the right kind whatever it is given. What
it makes of Gaussian noise of the update's norm is owed to that prior; what it gets beyond that is what the update gave
away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.models.model import Moments
from fedpriv.threat.capability import Capability
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.knowledge import Generator
from fedpriv.threat.view import View

if TYPE_CHECKING:
    from fedpriv.threat.attack import Attack

#: `noise` gives an attack a control, `none` does not, `auto` gives one to attacks that use a generator.
Control = Literal["auto", "noise", "none"]


def is_generative(attack: Attack) -> bool:
    """Whether the attack, or an attack or a part that it is made of, brings a generator or takes the adversary's."""
    return any(
        Capability.GENERATOR in part.requirements() or any(isinstance(k, Generator) for k in part.brings())
        for part in _parts(attack)
    )


def is_controlled(attack: Attack, control: Control) -> bool:
    """Whether the attack gets a control."""
    return control == "noise" or (control == "auto" and is_generative(attack))


def in_noise(held: View | Dossier, seed: int) -> Any:
    """What the adversary would hold, had noise passed in place of the update.

    `observed` is Gaussian noise of the same norm, drawn where `visible` says that the adversary holds something and 0
    elsewhere. Whatever else tells of the update goes the same way: means of batch statistics become noise of their
    norm, variances the absolute values of such noise; of a protocol's messages it stays known that they passed, not
    what they said. In a dossier all pages have the weights of the first, unless the adversary chose what was broadcast,
    since a model that moves tells of the updates that moved it. What the adversary knows of its own, labels
    included, stays; so do the states of defenses, as they were broadcast.

    Args:
      held: what an attack is given.
      seed: of the noise.

    Returns:
      A View or a Dossier, as given, which leads to nothing of the update.

    Raises:
      CapabilityError: no noise can stand in for what is held: ring elements or ciphertexts alone, an update whose norm
        is not finite, or models that peers sent over several rounds, each of which came of others.
    """
    if isinstance(held, View):
        return _noised(held, seed, 0)
    if any(page.letter is not None for page in held.pages):
        raise CapabilityError(
            "there is no control: peers' models of several rounds come of each other, which noise in their place "
            "contradicts"
        )
    pages = [_noised(page, seed, k) for k, page in enumerate(held.pages)]
    if not held.adversary.acts:
        pages = [replace(page, weights=pages[0].weights.copy()) for page in pages]
    return Dossier(tuple(pages))


def _noised(view: View, seed: int, page: int) -> View:
    if view.observed is None:
        raise CapabilityError(
            "there is no control: what is held are ring elements or ciphertexts alone, among which noise of the "
            "update's norm has no meaning"
        )
    rng = generator(seed, Purpose.CONTROL, page)
    payloads = None if view.payloads is None else tuple(replace(sent, payload=None) for sent in view.payloads)
    return replace(
        view,
        observed=_like(view.observed, view.visible, rng),
        weights=view.weights.copy(),
        batch_statistics=None if view.batch_statistics is None else _moments(view.batch_statistics, rng),
        payloads=payloads,
        letter=None,
    )


def _like(update: np.ndarray, visible: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise `[d]` of the update's norm on the visible coordinates, 0 on the others."""
    norm = float(np.linalg.norm(update.astype(np.float64)))
    if not np.isfinite(norm):
        raise CapabilityError(f"there is no control: the update's norm is {norm}, and no noise has that")
    noise = rng.normal(size=update.shape)
    if visible is not None:
        noise = np.where(visible, noise, 0.0)
    size = float(np.linalg.norm(noise))
    return (noise * (norm / size if size else 0.0)).astype(update.dtype)


def _moments(moments: Moments, rng: np.random.Generator) -> Moments:
    return tuple((_like(np.asarray(m), None, rng), abs(_like(np.asarray(v), None, rng))) for m, v in moments)


def _parts(thing: Any) -> Iterator[Any]:
    """The attack and all attacks and components among its parameters."""
    if isinstance(thing, pydantic.BaseModel):
        if hasattr(thing, "brings") and hasattr(thing, "requirements"):
            yield thing
        for name in type(thing).model_fields:
            yield from _parts(getattr(thing, name))
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from _parts(part)
