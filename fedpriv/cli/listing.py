"""`fedpriv list` and `fedpriv show`: what there is, and what it does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError, UnknownNameError, did_you_mean

REGISTRIES = {
    "attacks": registry.attacks,
    "defenses": registry.defenses,
    "goals": registry.goals,
    "models": registry.models,
    "datasets": registry.datasets,
    "engines": registry.engines,
    "experiments": registry.experiments,
}


def _registries() -> dict[str, registry.Registry]:
    """All that can be listed, the parts of attacks included."""
    plural = {"coordinates": "coordinates", "labels": "labels"}
    return REGISTRIES | {plural.get(role, f"{role}s"): parts for role, parts in registry.components().items()}


def _metrics() -> dict[str, Any]:
    from fedpriv.metrics import METRICS

    return METRICS


def _everything(kind: str) -> dict[str, Any]:
    if kind == "metrics":
        return _metrics()
    found: dict[str, Any] = {}
    names = _registries()[kind]
    for name in names.names():
        try:
            found[name] = names.load(name)
        except FedprivError as e:  # one broken package must not hide the others
            found[name] = e
    return found


def _first_line(target: Any) -> str:
    if isinstance(target, FedprivError):
        return f"(unusable: {target})"
    if isinstance(target, Path):  # an experiment's file
        from fedpriv.experiment.document import read

        return str(read(target).content.get("title", ""))
    return (inspect.getdoc(target) or "").split("\n", 1)[0]


def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="attacks, defenses, goals, models, datasets, metrics, engines, or parts of attacks such as objectives."
        ),
    ],
) -> None:
    """List what is registered, with a line on each."""
    kinds = [*_registries(), "metrics"]
    if kind not in kinds:
        raise ParameterError(f"nothing called '{kind}' can be listed.{did_you_mean(kind, kinds)}")
    entries = _everything(kind)
    width = max((len(n) for n in entries), default=0)
    for name, target in entries.items():
        typer.echo(f"{name:<{width}}  {_first_line(target)}")


def show(
    name: Annotated[str, typer.Argument(help="An attack, defense, model, dataset, metric or part of an attack.")],
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print an attack or defense as a file to edit and run, and nothing else.")
    ] = False,
) -> None:
    """Show what something does, its parameters and its paper."""
    registries = _registries()
    if yaml:
        _print_yaml(name)
        return
    found = [(kind, reg.load(name)) for kind, reg in registries.items() if name in reg.names()]
    if name in _metrics():
        found.append(("metrics", _metrics()[name]))
    if not found and ":" not in name:
        known = [n for reg in registries.values() for n in reg.names()] + list(_metrics())
        raise UnknownNameError(f"nothing is named '{name}'.{did_you_mean(name, known)}")
    if not found:
        found = [("plug-in", registry.attacks.load(name))]
    for kind, target in found:
        typer.echo(f"{name} ({kind.removesuffix('s') if kind not in ('labels', 'coordinates') else kind})\n")
        typer.echo(inspect.getdoc(target) or "")
        if kind != "metrics":
            _parameters(target)
        if getattr(target, "paper", ""):
            typer.echo(f"\nPaper: {target.paper}")
        needs = _needs(target)
        if needs:
            typer.echo("\nNeeds: " + "; ".join(sorted(c.value for c in needs)))
        if getattr(target, "adaptive_attack", None) is not None and kind == "defenses":
            typer.echo(f"\nAdaptive attack: {target.adaptive_attack or 'none ships yet'}")


def _needs(target: Any) -> frozenset[Any]:
    """What it needs of an adversary: with its default parameters, if it has defaults for all."""
    try:
        return target().requirements()
    except Exception:  # what has no defaults, or is no component
        return frozenset(getattr(target, "needs", None) or ())


def _print_yaml(name: str) -> None:
    import yaml

    known = {n: reg for reg in (registry.attacks, registry.defenses) for n in reg.names()}
    if registry.parse_call(name, "plug-in")[0] not in known and ":" not in name:
        raise UnknownNameError(f"no attack or defense is named '{name}'.{did_you_mean(name, known)}")
    made = known.get(registry.parse_call(name, "plug-in")[0], registry.attacks).create(name)
    typer.echo(yaml.safe_dump(made.config(), sort_keys=False).rstrip())


def _written(value: Any) -> str:
    """A default as a user would write it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_written(v) for v in value)}]"
    return value.describe() if hasattr(value, "describe") else repr(value)


def _parameters(target: Any) -> None:
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    rows = []
    if isinstance(target, type) and issubclass(target, BaseModel):
        for name, field in target.model_fields.items():
            default = "required" if field.default is PydanticUndefined else _written(field.default)
            rows.append((name, default, field.description or ""))
    else:
        for name, parameter in registry.parameters_of(target).items():
            if name not in ("input_shape", "num_classes", "data_dir", "federation"):
                default = "required" if parameter.default is parameter.empty else repr(parameter.default)
                rows.append((name, default, ""))
    if rows:
        typer.echo("\nDefaults:")
        for name, default, text in rows:
            typer.echo(f"  {name} = {default}" + (f"  {text}" if text else ""))
