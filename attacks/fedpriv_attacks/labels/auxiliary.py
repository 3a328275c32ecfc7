"""Auxiliary data of an inference: the adversary's own, or brought in through a parameter."""

from __future__ import annotations

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Auxiliary, Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.parts.component import HELD


def needed(written: str | None) -> frozenset[Capability]:
    """What a view must offer for `auxiliary=written`."""
    return frozenset({Capability.AUXILIARY}) if written == HELD else frozenset()


def brought(written: str | None) -> tuple[Knowledge, ...]:
    """What `auxiliary=written` brings in."""
    return () if written in (None, HELD) else (Auxiliary(data=str(written)),)


def chosen(written: str | None, view: View) -> Auxiliary:
    """The auxiliary data that `auxiliary=written` means.

    Raises:
      CapabilityError: they are to be the adversary's, which knows none, or several.
    """
    if written is not None and written != HELD:
        return Auxiliary(data=written)
    held = view.adversary.held(Auxiliary)
    if len(held) != 1:
        raise CapabilityError(
            f"auxiliary={HELD} takes the data that the adversary knows, but '{view.adversary}' knows {len(held)}; let "
            "it know auxiliary(data=...), or write which, as auxiliary=..."
        )
    return held[0]
