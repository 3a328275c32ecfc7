"""Written: plug-ins of an adversary (positions, knowledge, acts), printed as a user writes them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from fedpriv.base.errors import ParameterError, UnknownNameError, did_you_mean
from fedpriv.base.plugin import Plugin
from fedpriv.base.registry import Registry, build, split_commas
from fedpriv.base.types import Config


class Written(Plugin):
    """Base of what an adversary is made of: its fields are what a user may set; `str` prints what `made` reads."""

    #: The parameter that values without a name fill, as in `aggregators(0,1)`; empty if there is none.
    bare: ClassVar[str] = ""

    def __str__(self) -> str:
        """`name(key=value,...)`, with the parameters that differ from their defaults."""
        return call(self.config()["name"], self.arguments())

    def config(self) -> Config:
        """JSON-able {"name": ..., parameters...}; the name is a dotted path where nothing is registered."""
        own = type(self)
        return {"name": own.name or f"{own.__module__}:{own.__qualname__}", **self.model_dump(mode="json")}

    def arguments(self) -> list[str]:
        """What stands in the brackets of `str`."""
        found = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if not field.is_required() and value == field.get_default(call_default_factory=True):
                continue
            if name == type(self).bare:
                found += [written(v) for v in (value if isinstance(value, tuple | list) else [value])]
            else:
                found.append(f"{name}={written(value)}")
        return found


def call(name: str, arguments: Sequence[str]) -> str:
    """`name(a,b)`, or `name` alone."""
    return f"{name}({','.join(arguments)})" if arguments else name


def written(value: Any) -> str:
    """One value as on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | frozenset):
        return f"[{','.join(written(v) for v in value)}]"
    if callable(value) and not isinstance(value, Plugin):
        named = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
        return f"{named.__module__}:{named.__qualname__}"
    return "none" if value is None else str(value)


def parse(text: str, kind: str) -> tuple[str, list[str], dict[str, str]]:
    """Splits `name(value,...,key=value,...)` into the name, the values without a name and those with one.

    Raises:
      ParameterError: brackets that do not match, a value after the last bracket, or a key given twice.
    """
    text = text.strip()
    _check_brackets(text, kind)
    name, opened, rest = text.partition("(")
    name = name.strip()
    if not name or (opened and not rest.endswith(")")):
        raise ParameterError(f"{kind} '{text}' is not written as name(...); write e.g. {name or 'server'}(key=value)")
    bare: list[str] = []
    named: dict[str, str] = {}
    for item in filter(None, (p.strip() for p in split_commas(rest[:-1]))) if opened else ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip().isidentifier():
            bare.append(item)
        elif key.strip() in named:
            raise ParameterError(f"{kind} '{name}' gives '{key.strip()}' twice; give it once")
        else:
            named[key.strip()] = value.strip()
    return name, bare, named


def items(text: str) -> list[str]:
    """The parts of `[a,b(c,d)]`; a single one may lack its brackets, and `none` has none."""
    text = text.strip()
    if text.lower() == "none":
        return []
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [p.strip() for p in split_commas(inside) if p.strip()]


def made(registry: Registry, value: Any, unknown: str) -> Any:
    """What `value` stands for: the object itself, or one built from its text.

    Args:
      registry: where names are looked up.
      value: text, or an instance of what the registry holds.
      unknown: the error for a name that nothing is registered under, with `{name}` in it.

    Raises:
      ParameterError: unknown, of another kind, or with impossible parameters.
    """
    if not isinstance(value, str):
        return checked(registry, value, str(value))
    name, bare, named = parse(value, registry.kind)
    return construct(registry, name, bare, named, unknown)


def construct(registry: Registry, name: str, bare: Sequence[str], named: Config, unknown: str) -> Any:
    """Builds what is registered under `name`; see `made`."""
    try:
        target = registry.load(name)
    except UnknownNameError as e:
        if ":" in name:
            raise
        raise ParameterError(f"{unknown.format(name=name)}{did_you_mean(name, registry.names())}") from e
    field = getattr(target, "bare", "")
    if bare:
        if not field:
            raise ParameterError(f"{registry.kind} '{name}': '{bare[0]}' is no key=value; write {name}(key=value,...)")
        if field in named:
            raise ParameterError(f"{registry.kind} '{name}' gives '{field}' twice; give it once")
        one = len(bare) == 1 and not _takes_many(target, field)
        named = {**named, field: bare[0] if one else f"[{','.join(bare)}]"}
    return checked(registry, build(target, named, f"{registry.kind} '{name}'"), name)


def checked(registry: Registry, found: Any, name: str) -> Any:
    """`found`, if it is what the registry holds.

    Raises:
      ParameterError: it is something else.
    """
    from fedpriv.base.registry import load_dotted

    wanted = load_dotted(registry.base, registry.kind)
    if not isinstance(found, wanted):
        raise ParameterError(
            f"{registry.kind} '{name}' is a {type(found).__name__}; it must be, or return, a "
            f"{registry.base.replace(':', '.')}"
        )
    return found


def _takes_many(target: Any, field: str) -> bool:
    known = getattr(target, "model_fields", {}).get(field)
    return known is not None and "tuple" in str(known.annotation)


def _check_brackets(text: str, kind: str) -> None:
    open_: list[str] = []
    for c in text:
        if c in "([":
            open_.append(")" if c == "(" else "]")
        elif c in ")]" and (not open_ or open_.pop() != c):
            raise ParameterError(f"{kind} '{text}' closes a bracket '{c}' that is not open; write name(a,b=[c,d])")
    if open_:
        raise ParameterError(f"{kind} '{text}' lacks its closing '{open_[-1]}'; write name(a,b=[c,d])")
