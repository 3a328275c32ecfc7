"""Shortcuts: names that an experiment file gives to attacks, defenses, models and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedpriv.base import registry
from fedpriv.base.errors import ExperimentError, did_you_mean, nearest
from fedpriv.base.types import Config
from fedpriv.experiment.contents import Contents
from fedpriv.experiment.document import Document

#: Fields whose values may be shortcuts.
KINDS = ("attack", "goal", "defense", "model", "data")


def shortcuts_of(read: Document, contents: Contents) -> dict[str, Config]:
    """By kind, by name: what it stands for, with shortcuts in it replaced."""
    for kind in contents.define:
        if kind not in KINDS:
            raise ExperimentError(
                f"{read.place(('define', kind))}: shortcuts are for {', '.join(KINDS)}, not '{kind}'."
                f"{did_you_mean(kind, KINDS)}"
            )
    made: dict[str, Config] = {}
    for kind, written in contents.define.items():

        def expand(value: Any, above: tuple[str, ...], written: dict[str, Any] = written, kind: str = kind) -> Any:
            if isinstance(value, list):
                parts = [expand(v, above) for v in value]
                return [p for part in parts for p in (part if isinstance(part, list) else [part])]
            own = above[-1:] == (value,)  # a name that stands for itself is what is registered under it
            if not isinstance(value, str) or value not in written or own:
                return value
            if value in above:
                chain = " -> ".join((*above, value))
                raise ExperimentError(f"{read.place(('define', kind, value))}: shortcuts in a circle: {chain}")
            return expand(written[value], (*above, value))

        made[kind] = {name: expand(value, (name,)) for name, value in written.items()}
    return made


def misspelt(kind: str, value: Any, known: Mapping[str, Any]) -> str | None:
    """The name in a value that is neither registered nor a shortcut, but is like one; None if there is none."""
    registries = (registry.attacks, registry.goals, registry.defenses, registry.models)
    registered = next((r.names() for r in registries if r.kind == kind), None)
    for name in value if isinstance(value, list) else [value]:
        if registered is None or not isinstance(name, str) or name.lower() == "none" or set(name) & set("(:./"):
            continue
        if name not in registered and nearest(name, known) is not None:
            return name
    return None


def replaced(value: Any, known: Mapping[str, Any]) -> Any:
    """A value, or a list of them, with shortcuts replaced by what they stand for."""
    if isinstance(value, list):
        parts = [replaced(v, known) for v in value]
        return [p for part in parts for p in (part if isinstance(part, list) else [part])]
    return known[value] if isinstance(value, str) and value in known else value
