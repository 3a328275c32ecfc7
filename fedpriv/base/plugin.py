"""Plug-ins: attacks and defenses as validated, printable, frozen parameter sets."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar, Self

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

from fedpriv.base.types import Config


def inherit_descriptions(cls: type[pydantic.BaseModel]) -> None:
    """Gives parameters that a class under way declares anew, such as for another default, their base's description.

    For `__init_subclass__`, which Python calls before pydantic reads the fields.
    """
    for name in inspect.get_annotations(cls):
        told = next((f.description for b in cls.__mro__[1:] if (f := _field(b, name)) and f.description), None)
        own = cls.__dict__.get(name, ...)
        if told is None or (isinstance(own, FieldInfo) and own.description):
            continue
        if isinstance(own, FieldInfo):
            own.description = told
        else:
            setattr(cls, name, Field(own, description=told))


def _field(base: type, name: str) -> FieldInfo | None:
    return base.model_fields.get(name) if issubclass(base, pydantic.BaseModel) else None


def described(target: Any) -> dict[str, str]:
    """What each parameter of a plug-in or a function is, by name; the one source for `show`, schemas and docs.

    Taken from `pydantic.Field(description=...)`, or else from the docstring's section `Parameters:`, `Attributes:` or
    `Args:`. A parameter that nothing describes is left out.
    """
    found = _sections(inspect.getdoc(target) or "")[1]
    if isinstance(target, type) and issubclass(target, pydantic.BaseModel):
        for base in reversed(target.__mro__[:-1]):
            found = {**_sections((base.__doc__ and inspect.cleandoc(base.__doc__)) or "")[1], **found}
        fields = target.model_fields
        return {n: text for n, f in fields.items() if (text := f.description or found.get(n))}
    return found


def file_schema(target: type[pydantic.BaseModel], name: str) -> Config:
    """The JSON schema of a YAML file that makes `target`, as `fedpriv show NAME --yaml` prints one, for editors.

    Args:
      target: a plug-in or a part of one.
      name: how the file calls it: its registered name, or `package.module:Name`.
    """
    made = target.model_json_schema()
    key = "kind" if hasattr(target, "kind") else "name"
    made["properties"] = {key: {"const": name}, **made.get("properties", {})}
    made["required"] = [key, *made.get("required", [])]
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return made


def prose(target: Any) -> str:
    """The docstring without its section on parameters."""
    return _sections(inspect.getdoc(target) or "")[0]


def _sections(doc: str) -> tuple[str, dict[str, str]]:
    """A docstring's text without its section on parameters, and that section by parameter."""
    kept: list[str] = []
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in doc.split("\n"):
        if line in ("Parameters:", "Attributes:", "Args:"):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        if not inside:
            kept.append(line)
        elif match := re.match(r"  (\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.startswith("    "):
            found[name] += f" {line.strip()}"
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip(), found


class Plugin(pydantic.BaseModel):
    """Base of attacks and defenses: its pydantic fields are the parameters a user may set.

    Values are checked and converted when the object is made (so "0.1" from a command line becomes 0.1) and
    cannot be changed afterwards; `with_(name=value)` gives a changed copy. `Field(default, description="...")` says
    what a parameter is; a subclass that gives it another default keeps the description.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=()
    )

    #: Registered name, as users write it.
    name: ClassVar[str] = ""
    #: Authors, year, arXiv id of the source paper.
    paper: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        inherit_descriptions(cls)

    def with_(self, **changes: Any) -> Self:
        """A copy with these parameters changed, validated anew."""
        return type(self)(**{**dict(self), **changes})

    def config(self) -> Config:
        """JSON-able {"name": ..., parameters...}; enters config hashes."""
        return {"name": self.name, **self.model_dump(mode="json")}

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]
