"""What a parameter is stands in one place, and `show`, the JSON schema and the docs read it there."""

from __future__ import annotations

import inspect
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from fedpriv.base import registry
from fedpriv.base.plugin import Plugin, described, prose

ATTACKS = [("attack", name) for name in registry.attacks.names()]
PARTS = [(role, name) for role, parts in registry.components().items() for name in parts.names()]


def load(role, name):
    return registry.attacks.load(name) if role == "attack" else registry.components()[role].load(name)


@pytest.mark.parametrize(("role", "name"), ATTACKS + PARTS)
def test_every_parameter_of_an_attack_and_its_parts_is_described_once(role, name):
    kind = load(role, name)
    for parameter, field in kind.model_fields.items():
        assert field.description, f"{role} '{name}': give '{parameter}' a Field(description=...)"
        assert len(field.description) > 9
        assert field.description.endswith(".")
    assert described(kind) == {n: f.description for n, f in kind.model_fields.items()}
    properties = kind.model_json_schema().get("properties", {})
    assert {n: p["description"] for n, p in properties.items()} == described(kind)
    assert prose(kind) == inspect.getdoc(kind), "what is said at the fields is not repeated in the docstring"


@pytest.mark.parametrize("name", registry.defenses.names())
def test_every_parameter_of_a_defense_is_described(name):
    kind = registry.defenses.load(name)
    assert set(described(kind)) == set(kind.model_fields)


class Base(Plugin):
    """A base.

    Parameters:
      old: said in
        the docstring.

    More of it.
    """

    name: ClassVar[str] = "base"
    old: int = 1
    new: Annotated[int, Field(ge=0)] = Field(2, description="said at the field.")
    silent: int = 3


class Child(Base):
    """A child."""

    old: int = 4
    new: int = 5


class Grandchild(Child):
    """A grandchild."""

    new: int = Field(6, description="something else.")


def test_the_field_comes_first_then_the_docstring():
    assert described(Base) == {"old": "said in the docstring.", "new": "said at the field."}
    assert prose(Base) == "A base.\n\nMore of it."


def test_another_default_keeps_the_description():
    assert (Child().old, Child().new) == (4, 5)
    assert described(Child) == described(Base)
    assert Child.model_fields["new"].description == "said at the field."
    assert described(Grandchild)["new"] == "something else."
    assert Base().new == 2
    assert "Parameters:" not in prose(Child)


def test_functions_are_described_by_their_docstrings():
    def model(width: int, depth: int = 2):
        """A model.

        Args:
          width: units.
          depth: layers,
            all alike.

        Returns:
          Nothing.
        """

    assert described(model) == {"width": "units.", "depth": "layers, all alike."}
    assert prose(model) == "A model.\n\nReturns:\n  Nothing."
    assert described(len) == {}
