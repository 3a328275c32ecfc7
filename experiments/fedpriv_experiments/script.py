"""Script: an experiment's `main` as a program: a mistake is one message and exit code 2, and manifests stay true."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer

#: Options that say where a script writes.
_WRITES = ("out", "json")


def run(main: Callable[..., None]) -> None:
    """Runs `main` with the command line's arguments; a results folder that it wrote to has its manifest renewed."""
    from fedpriv.base.errors import FedprivError
    from fedpriv.report.manifest import renew_manifest

    @wraps(main)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            main(*arguments, **options)
            for path in (options.get(name) for name in _WRITES):
                if isinstance(path, Path):
                    renew_manifest(path if path.is_dir() else path.parent)
        except FedprivError as e:
            typer.echo(f"Error: {e}", err=True)
            raise typer.Exit(2) from None

    typer.run(guarded)
