"""Script: an experiment's `main` as a program that answers a user's mistake with one message and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer


def run(main: Callable[..., None]) -> None:
    """Runs `main` with the command line's arguments."""
    from fedpriv.base.errors import FedprivError

    @wraps(main)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            main(*arguments, **options)
        except FedprivError as e:
            typer.echo(f"Error: {e}", err=True)
            raise typer.Exit(2) from None

    typer.run(guarded)
