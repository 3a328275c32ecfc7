"""`fedpriv check-claim`: what somebody else's stated configuration really gives."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from fedpriv.account.stated import Stated, check_stated, make_stated
from fedpriv.base.errors import ExperimentError, did_you_mean
from fedpriv.cli import options


def _option(name: str) -> inspect.Parameter:
    """The command's option for a field of a Stated, with the description of the field."""
    field = Stated.model_fields[name]
    kind: Any = field.annotation
    while get_origin(kind) in (Union, types.UnionType, Annotated):
        kind = next(k for k in get_args(kind) if k is not type(None))
    choice = kind not in (int, float)
    listed = f" One of {', '.join(get_args(kind))}." if choice else ""
    default = "" if field.is_required() or field.default is None else f" {field.default} if not given."
    told = (field.description or "").replace("`", "")
    option = typer.Option(help=f"{told[:1].upper()}{told[1:]}{listed}{default}")
    made: Any = Annotated[{int: int | None, float: float | None}.get(kind, str | None), option]  # type: ignore[misc]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=made)


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    def command(**given: Any) -> None:
        file, json_lines = given.pop("file"), given.pop("json_lines")
        function(file, {name: value for name, value in given.items() if value is not None}, json_lines)

    file = Annotated[Path | None, typer.Argument(help="A YAML file of the same fields; options come before it.")]
    parameters = [
        inspect.Parameter("file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=file),
        *map(_option, Stated.model_fields),
        inspect.Parameter("json_lines", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.Json),
    ]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__module__ = function.__module__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@_with_options
def check_claim(file: Path | None, given: dict[str, Any], json_lines: bool) -> None:
    """Check a privacy claim: what epsilon a stated configuration really gives, why, and what noise would earn it."""
    from fedpriv.base.atomic import to_json

    facts: dict[str, Any] = {}
    if file is not None:
        from fedpriv.experiment.document import read

        document = read(file)
        for name in document.content:
            if name not in Stated.model_fields:
                place = document.place((name,))
                raise ExperimentError(f"{place}: there is no '{name}'.{did_you_mean(name, Stated.model_fields)}")
        facts = document.content
    verdict = check_stated(make_stated(**{**facts, **given}))
    typer.echo(to_json(verdict.row()) if json_lines else verdict.describe())
