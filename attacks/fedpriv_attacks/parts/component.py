"""Component: one part of an attack, such as an objective or a prior; validated, printable, hashable.

Users write a component as `name`, `name(key=value,...)`, a mapping `{kind: name, key: value}` in YAML, an object, or
a dotted `package.module:Name`. Names come from the entry-point groups `fedpriv.components.<role>`, so that other
packages add parts as they add attacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pydantic
from pydantic import BeforeValidator, PlainSerializer

from fedpriv.base.errors import FedprivError, did_you_mean
from fedpriv.base.plugin import inherit_descriptions
from fedpriv.base.registry import Registry, explain
from fedpriv.base.types import Config
from fedpriv.threat.attack import Capability

if TYPE_CHECKING:
    from fedpriv.threat.knowledge import Knowledge
    from fedpriv.threat.view import View

#: What a parameter says that takes data or a generator from the adversary, who must hold it.
HELD = "held"

#: What an attack is composed of, and the registry of each.
ROLES = ("objective", "prior", "initializer", "coordinates", "labels", "replay", "optimizer", "moves")
REGISTRIES = {
    role: Registry(role, f"fedpriv.components.{role}", "fedpriv_attacks.parts.component:Component") for role in ROLES
}


class Component(pydantic.BaseModel):
    """Base of all parts: its fields are the parameters a user may set, fixed once it is made.

    Two components with equal parameters are equal and hash alike, so they may be static in a compiled graph.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=()
    )

    #: Registered name, as users write it.
    kind: ClassVar[str] = ""
    #: Authors, year, arXiv id of the source paper.
    paper: ClassVar[str] = ""
    #: What it needs the view to offer.
    needs: ClassVar[frozenset[Capability]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        inherit_descriptions(cls)

    def requirements(self) -> frozenset[Capability]:
        """What it needs with these parameters."""
        return self.needs

    def brings(self) -> tuple[Knowledge, ...]:
        """What it knows through its parameters, and not from the adversary; see `Attack.brings`."""
        return ()

    def equipped(self, view: View) -> Self:
        """This part with what the adversary holds where its parameters say HELD."""
        return self

    def with_(self, **changes: Any) -> Self:
        """A copy with these parameters changed, validated anew."""
        try:
            return type(self)(**{**dict(self), **changes})
        except pydantic.ValidationError as e:
            raise ValueError(explain(e, f"'{self.kind or type(self).__name__}'")) from e

    def config(self) -> Config:
        """JSON-able {"kind": ..., parameters...}."""
        kind = self.kind or f"{type(self).__module__}:{type(self).__qualname__}"
        return {"kind": kind, **self.model_dump(mode="json")}

    def describe(self) -> str:
        """As a user would write it, with the parameters that differ from their defaults."""
        changed = [
            f"{name}={_written(getattr(self, name))}"
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.get_default(call_default_factory=True)
        ]
        kind = self.config()["kind"]
        return f"{kind}({','.join(changed)})" if changed else kind

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def _written(value: Any) -> str:
    if isinstance(value, Component):
        return value.describe()
    if isinstance(value, tuple | list):
        return f"[{','.join(_written(v) for v in value)}]"
    return "none" if value is None else str(value)


#: How users may write a component in a file.
WRITTEN = str | dict[str, Any]


def read(role: str) -> BeforeValidator:
    """For pydantic fields: turns what a user may write into a component of that role."""
    return BeforeValidator(lambda value: create(role, value), json_schema_input_type=WRITTEN)


def create(role: str, value: Any) -> Any:
    """A component from its name, `name(key=value)`, a mapping with `kind`, or itself.

    Raises:
      ValueError: no such name or parameter; it says which is nearest.
    """
    try:
        if isinstance(value, str):
            return REGISTRIES[role].create(value)
        if isinstance(value, Mapping):
            if "kind" not in value:
                raise ValueError(f"a {role} needs its 'kind'; known are {', '.join(REGISTRIES[role].names())}")
            return REGISTRIES[role].create(str(value["kind"]), **{k: v for k, v in value.items() if k != "kind"})
    except FedprivError as e:
        raise ValueError(str(e)) from e
    return value


#: For pydantic fields: a component is saved as its `config()`.
saved = PlainSerializer(lambda part: part.config() if isinstance(part, Component) else part)


def changed(part: Any, path: str, value: Any) -> Any:
    """`part` with the parameter at dotted `path` changed; lists are indexed by number or by kind.

    `changed(attack.optimizer, "memory", 50)`, `changed(priors, "total_variation.weight", 1e-4)`.

    Raises:
      ValueError: there is nothing at that path.
    """
    head, _, rest = path.partition(".")
    if isinstance(part, tuple | list):
        names = [p.kind if isinstance(p, Component) else str(i) for i, p in enumerate(part)]
        if not (head.isdigit() and int(head) < len(part)) and head not in names:
            raise ValueError(f"'{head}' is none of {names or 'no parts'}.{did_you_mean(head, names)}")
        which = int(head) if head.isdigit() else names.index(head)
        new = changed(part[which], rest, value) if rest else value
        return (*part[:which], new, *part[which + 1 :])
    if not isinstance(part, Component):
        raise ValueError(f"'{head}' cannot be set: {part!r} has no parameters")
    fields = type(part).model_fields
    if head not in fields:
        raise ValueError(f"'{part.kind}' has no parameter '{head}'.{did_you_mean(head, fields)}")
    return part.with_(**{head: changed(getattr(part, head), rest, value) if rest else value})
