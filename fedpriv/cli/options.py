"""Options shared by commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.types import Config
from fedpriv.cli.mapped import Mapped

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

Data = Annotated[
    str, typer.Option(help="A dataset's name, or a path: IDX or CIFAR folder, image folder, .npz, CSV or .txt file.")
]
DataDir = Annotated[str | None, typer.Option(help="Folder with a named dataset's files, if not downloaded.")]
Model = Annotated[str, typer.Option(help="A model's name, name(key=value,...), or package.module:function.")]
Defenses = Annotated[
    list[str] | None,
    typer.Option("--defense", "-d", help="A defense as name(key=value,...); repeat in the order they act."),
]
Seed = Annotated[int, typer.Option(help="Fixes every random draw.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Engine = Annotated[str, typer.Option(help="What carries the cohort: graph or tff.")]
Workers = Annotated[
    str | None,
    typer.Option(help="Workers of the tff engine, host:port,host:port; without, one on this machine."),
]
WorkerTimeout = Annotated[
    float, typer.Option(min=1, help="Seconds after which a worker that does not answer is given up.")
]


def make_schedule(text: str) -> Config:
    """`constant`, or `step(decay=0.5,every=20)`, `exponential(decay=0.99)`, `cosine(over=100)`, `warmup(over=10)`."""
    kind, parameters = registry.parse_call(text, "schedule")
    known = ("constant", "step", "exponential", "cosine", "warmup")
    if kind not in known:
        raise ParameterError(f"schedule '{kind}' is unknown.{did_you_mean(kind, known)}")
    return {"kind": kind, **parameters}


def make_simulated(text: str) -> Config:
    """`cohort=10000, population=1000000`."""
    return dict(registry.parse_call(f"simulate({text})", "option")[1])


def cohort_carriers() -> tuple[Mapped, ...]:
    """The options that say what carries the cohorts."""
    return (
        Mapped("engine", Engine, "graph", ("engine",)),
        Mapped("workers", Workers, None, ("workers",), _split),
        Mapped("worker_timeout", WorkerTimeout, 600.0, ("worker_timeout",)),
    )


def _split(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def say_notes(federation: Federation, json_lines: bool) -> None:
    """Prints what a user should know of data, a model and defenses, beside JSON on the error stream."""
    model = federation.model
    data = [federation.train, *([] if federation.test is None else [federation.test])]
    for note in [
        *(f"data '{d.name}': {note}" for d in data for note in d.notes),
        *(f"model '{model.name}': {note}" for note in model.notes),
        *federation.line.notes(),
        *federation.notes(),
    ]:
        typer.echo(f"Note on {note}.", err=json_lines)
