"""Options shared by commands, and what they build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, did_you_mean

if TYPE_CHECKING:
    from fedpriv.defense.stations import Defense
    from fedpriv.procedure.procedure import Procedure

Data = Annotated[
    str, typer.Option(help="A dataset's name, or a path: IDX or CIFAR folder, image folder, .npz or CSV file.")
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


def make_defenses(texts: list[str] | None) -> tuple[Defense, ...]:
    """The defenses written as `name(key=value,...)`, in order."""
    return tuple(registry.defenses.create(t) for t in texts or [])


def engine_options(engine: str, workers: str | None, timeout: float) -> dict[str, Any]:
    """What the engine takes besides the federation."""
    check_name(registry.engines, engine)
    if engine != "tff":
        if workers is not None:
            raise ParameterError(f"--workers is for --engine tff, not --engine {engine}")
        return {}
    return {"workers": [w.strip() for w in (workers or "").split(",") if w.strip()], "timeout": timeout}


def check_name(reg: registry.Registry, text: str) -> None:
    """Raises UnknownNameError for an unknown registered name, without importing TensorFlow."""
    name, _ = registry.parse_call(text, reg.kind)
    if ":" not in name and name not in reg.names():
        reg.load(name)


def choice(value: str, allowed: tuple[str, ...], option: str) -> str:
    """`value` if allowed, else ParameterError with the nearest."""
    if value not in allowed:
        raise ParameterError(f"{option} '{value}' is unknown.{did_you_mean(value, allowed)}")
    return value


def make_schedule(text: str) -> dict[str, Any]:
    """`constant`, or `step(decay=0.5,every=20)`, `exponential(decay=0.99)`, `cosine(over=100)`, `warmup(over=10)`."""
    kind, parameters = registry.parse_call(text, "schedule")
    choice(kind, ("constant", "step", "exponential", "cosine", "warmup"), "schedule")
    return {"kind": kind, **parameters}


def make_procedure(
    *,
    algorithm: str,
    sampling: dict[str, Any],
    client: dict[str, Any],
    server: dict[str, Any],
    **rest: Any,
) -> Procedure:
    """A Procedure from option values; FedSGD fixes what it must."""
    from fedpriv.procedure import procedure

    choice(algorithm, ("fedavg", "fedsgd"), "algorithm")
    if algorithm == "fedsgd":
        client = {"kind": "sgd", "learning_rate": 1.0}
        rest = {**rest, "local_epochs": 1, "batch_size": None, "max_local_steps": None, "proximal": 0.0}
    return procedure.make_procedure(sampling=sampling, client=client, server=server, **rest)


def make_sampling(cohort: int | None, fraction: float | None, poisson: float | None, population: int) -> dict[str, Any]:
    """Sampling from at most one of a cohort size, McMahan's C, and a Poisson rate; none is full participation."""
    given = [n for n, v in (("--cohort", cohort), ("--fraction", fraction), ("--poisson", poisson)) if v is not None]
    if len(given) > 1:
        raise ParameterError(f"{' and '.join(given)} exclude each other; give one")
    if fraction is not None:
        if not 0 <= fraction <= 1:
            raise ParameterError(f"--fraction {fraction} is no fraction; give a value in [0, 1]")
        cohort = max(1, round(fraction * population))
    if cohort is not None:
        return {"kind": "full"} if cohort == population else {"kind": "fixed", "size": cohort}
    return {"kind": "full"} if poisson is None else {"kind": "poisson", "rate": poisson}
