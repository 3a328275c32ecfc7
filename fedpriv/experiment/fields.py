"""Fields: those of a setting by their paths, and what is wrong with them in words."""

from __future__ import annotations

import re
from typing import Any

import pydantic

from fedpriv.base.errors import FedprivError, did_you_mean, shown, together
from fedpriv.experiment.document import Path_
from fedpriv.experiment.setting import Setting


def fields(loc: Path_) -> list[str]:
    """Names of the fields at a path in a setting."""
    model: Any = Setting
    for part in loc:
        found = model.model_fields.get(part)
        kinds = [found.annotation, *getattr(found.annotation, "__args__", ())] if found else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, pydantic.BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def explained(error: pydantic.ValidationError, place: Any) -> str:
    """In one line, of each problem: where, what, the value, and the way out."""
    lines = []
    for problem in error.errors(include_url=False):
        loc = tuple(p for p in problem["loc"] if not (isinstance(p, str) and ("[" in p or p in ("int", "list"))))
        name, at = ".".join(map(str, loc)), place(loc)
        if problem["type"] == "extra_forbidden":
            said = f"there is no '{name}'.{did_you_mean(str(loc[-1]), fields(loc[:-1]))}"
        elif problem["type"] == "missing":
            said = f"'{name}' is missing"
        elif problem["type"] == "literal_error" and isinstance(problem["input"], str):
            allowed = re.findall("'([^']+)'", problem["ctx"]["expected"])
            said = f"{name}='{problem['input']}' is unknown.{did_you_mean(problem['input'], allowed)}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            own = not name or _says_itself(problem)
            said = message if own else f"{name}={shown(problem['input'])}: {message}"
        if (line := f"{at}: {said}" if at else said) not in lines:
            lines.append(line)
    return together(lines)


def _says_itself(problem: Any) -> bool:
    """Whether the message names what is wrong: it is of the whole, or one of fedpriv's own."""
    raised = problem.get("ctx", {}).get("error")
    ours = isinstance(raised, FedprivError) or isinstance(getattr(raised, "__cause__", None), FedprivError)
    return ours or (raised is not None and not isinstance(problem["input"], str | int | float))
