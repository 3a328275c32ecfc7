"""Given: values from a language with types of its own, such as R, as the types that a Python function declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedpriv.base.errors import ParameterError

_SIMPLE = {"bool": "TRUE or FALSE", "int": "a whole number", "float": "a number", "str": "a text"}
_MAPPINGS = ("Mapping", "dict")
#: Declared types that are left to whoever is called.
_OPEN = ("Any", "Sequence", "tuple", "list", "np.")


def as_declared(made: Callable[..., object], given: Mapping[str, object]) -> dict[str, object]:
    """Arguments for `made`, whole numbers that came as 2.0 as 2.

    Objects are left alone, and texts where an object is declared, which may be written as one.

    Raises:
      ParameterError: a number, text or truth value where something else is declared, or several values for one; it
        names the argument, the value and what is wanted.
    """
    declared = inspect.getfullargspec(made).annotations
    return {name: _as_declared(name, value, str(declared.get(name, "Any"))) for name, value in given.items()}


def _as_declared(name: str, value: Any, declared: str) -> object:
    wanted = [part.strip() for part in declared.split("|")]
    several = isinstance(value, list)
    if not isinstance(value, bool | int | float | str | list) or any(w.startswith(_OPEN) for w in wanted):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if "int" in wanted and isinstance(value, int | float) and number and float(value).is_integer():
        return int(value)
    if ("bool" in wanted and isinstance(value, bool)) or ("float" in wanted and number):
        return value
    objects = [w for w in wanted if w not in (*_SIMPLE, "None") and not w.startswith(_MAPPINGS)]
    if isinstance(value, str) and ("str" in wanted or objects):
        return value
    words = [_SIMPLE.get(w, "a named list" if w.startswith(_MAPPINGS) else w) for w in wanted if w != "None"]
    what = (
        "several values" if several else "a text" if isinstance(value, str) else "a number" if number else "a logical"
    )
    raise ParameterError(f"{name} = {value!r} is {what}; give {' or '.join(words)}")
