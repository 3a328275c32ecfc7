"""Informed: the objective that the known defenses call for."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator, Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.types import Flat, Scalar
from fedpriv.models.spec import Spec
from fedpriv.threat.view import View
from fedpriv_attacks.parts.component import read, saved
from fedpriv_attacks.parts.consistent import Consistent
from fedpriv_attacks.parts.known_noise import KnownNoise, known_noise
from fedpriv_attacks.parts.objectives import Objective, Signed, SquaredError

#: Absolute values of a tensor's entries count as one where they differ by less, relatively.
_ONE_SIZE = 1e-4


def _other(value: Objective) -> Objective:
    if isinstance(value, Informed):
        raise ValueError("otherwise=informed never ends; give another objective, such as cosine")
    return value


class Informed(Objective):
    """What the known defenses call for: the likelihood of their noise, what their messages leave open, or signs.

    One attack for a comparison of many defenses. In this order: `known_noise` where the defenses declare noise that is
    in the view; `consistent` where the last of them sends less of an update than it was and says what that leaves
    open; `signed` where all of a tensor's entries that are not zero have one absolute value and some known defense is
    not replayed; else, and for an adversary that knows no defense, `otherwise`. Signs that are replayed, as those of
    `sign_sgd`, are matched better by that, as every wrong one then counts alike. `layers` is handed on.

    It fails where the objective that it takes does: noise above the update, too few values sent.
    """

    kind: ClassVar[str] = "informed"
    paper: ClassVar[str] = "a choice; see the objectives that it takes"

    otherwise: Annotated[Objective, read("objective"), saved, AfterValidator(_other)] = Field(
        default_factory=SquaredError,
        description="the objective where no known defense calls for one.",
    )

    def prepared(self, view: View) -> tuple[Objective, View]:
        """The objective for this view's known defenses, and the view as it is matched."""
        if view.defenses:
            if _tells_noise(view):
                return KnownNoise(layers=self.layers).prepared(view)
            with suppress(CapabilityError):
                return Consistent(layers=self.layers).prepared(view)
            if not all(part.replayable for d in view.defenses for part in d.parts()) and _signs(view):
                return Signed(layers=self.layers).prepared(view)
        other = self.otherwise if self.layers is None else self.otherwise.with_(layers=self.layers)
        return other.prepared(view)

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """Only what `prepared` gives knows the defenses."""
        raise CapabilityError(f"objective '{self.kind}' needs a view to learn its defenses from")


def _tells_noise(view: View) -> bool:
    """Whether the noise in what is observed is declared, and known."""
    objective, _ = KnownNoise().prepared(view)
    if type(objective) is not KnownNoise:
        return True
    try:
        return known_noise(view) > 0
    except CapabilityError:
        return False


def _signs(view: View) -> bool:
    """Whether each tensor's entries have one absolute value, or are zero, and some tensor has several."""
    several = False
    assert view.observed is not None
    for part in view.model.spec.unflatten_numpy(view.observed):
        sizes = np.abs(part[part != 0])
        if sizes.size and np.ptp(sizes) > _ONE_SIZE * sizes.max():
            return False
        several |= sizes.size > 1
    return several
