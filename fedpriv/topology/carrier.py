"""Carrier: what carries rounds, by a topology as written: the class of its rounds, and its settings."""

from __future__ import annotations

from typing import Any

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.base.plugin import Plugin


def settings_of(topology: str | Plugin) -> tuple[str, Plugin | None]:
    """The registered name of a topology, or its dotted path, and its settings; None where it has none.

    Args:
      topology: `name`, `name(key=value,...)`, or the settings themselves.

    Raises:
      UnknownNameError: there is none of that name.
      ParameterError: an unknown setting or an impossible value.
    """
    if isinstance(topology, Plugin):
        return topology.name, topology
    name, written = registry.parse_call(topology, registry.rounds.kind)
    if name == "server" and not written:
        return name, None  # spares the import of what carries them
    settings = getattr(registry.rounds.load(name), "settings", None)
    if settings is None:
        if written:
            raise ParameterError(f"topology '{name}' has no parameter '{next(iter(written))}'; write {name}")
        return name, None
    made: Plugin = registry.build(settings, written, f"topology '{name}'")
    return name, made


def carrier(topology: str | Plugin) -> tuple[Any, Plugin | None]:
    """The class of a topology's rounds, and its settings; raises as `settings_of`."""
    name, settings = settings_of(topology)
    return registry.rounds.load(name), settings
