"""Plug-ins: attacks and defenses as validated, printable, frozen parameter sets."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import pydantic


class Plugin(pydantic.BaseModel):
    """Base of attacks and defenses: its pydantic fields are the parameters a user may set.

    Values are checked and converted when the object is made (so "0.1" from a command line becomes 0.1) and
    cannot be changed afterwards; `with_(name=value)` gives a changed copy.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=()
    )

    #: Registered name, as users write it.
    name: ClassVar[str] = ""
    #: Authors, year, arXiv id of the source paper.
    paper: ClassVar[str] = ""

    def with_(self, **changes: Any) -> Any:
        """A copy with these parameters changed, validated anew."""
        return type(self)(**{**dict(self), **changes})

    def config(self) -> dict[str, Any]:
        """JSON-able {"name": ..., parameters...}; enters config hashes."""
        return {"name": self.name, **self.model_dump(mode="json")}

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]
