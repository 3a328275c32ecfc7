"""`fedpriv reference`: all that is registered, with its parameters, as the page docs/reference.md."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedpriv.base.errors import FedprivError
from fedpriv.cli.listing import first_line, parameters, registries

if TYPE_CHECKING:
    from fedpriv.base.registry import Registry

#: What has no parameters.
_LEFT_OUT = ("experiments",)

HEAD = """# Reference

All that ships, and its parameters. `fedpriv reference` prints this page, your own registered plug-ins included;
`fedpriv show NAME` prints one of them whole.
"""


def reference() -> None:
    """Print a Markdown page of all that is registered, with parameters and defaults."""
    typer.echo(page(), nl=False)


def page() -> str:
    """The page."""
    parts = [HEAD]
    for kind, registered in registries().items():
        if kind in _LEFT_OUT:
            continue
        parts.append(f"## {kind.capitalize()}\n")
        known = _loaded(registered)
        for name in registered.names():
            try:
                parts.append(_entry(name, registered.load(name), known))
            except FedprivError as e:
                parts.append(f"### {name}\n\nUnusable: {e}\n")
    return "\n".join(parts)


def _loaded(registered: Registry) -> dict[Any, str]:
    """Classes that can be loaded, with their names."""
    found: dict[Any, str] = {}
    for name in registered.names():
        try:
            target = registered.load(name)
        except FedprivError:
            continue
        if inspect.isclass(target):
            found.setdefault(target, name)
    return found


def _entry(name: str, target: Any, known: Mapping[Any, str]) -> str:
    """One of them; of one that is derived from another, only the parameters that differ."""
    lines = [f"### {name}", "", first_line(target)]
    if paper := getattr(target, "paper", ""):
        lines += ["", f"Paper: {paper}"]
    rows = [] if isinstance(target, Path) or not (inspect.isclass(target) or callable(target)) else parameters(target)
    base = next((b for b in inspect.getmro(target)[1:] if b in known), None) if inspect.isclass(target) else None
    if base is not None:
        rows = [row for row in rows if row not in parameters(base)]
        lines += ["", f"Parameters as of `{known[base]}`{', but for these' if rows else ''}."]
    if rows:
        lines += ["", "| parameter | default | |", "|---|---|---|"]
        lines += [f"| `{p}` | {'required' if d == 'required' else f'`{_cell(d)}`'} | {_cell(t)} |" for p, d, t in rows]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
