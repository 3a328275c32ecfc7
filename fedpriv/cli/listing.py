"""`fedpriv list` and `fedpriv show`: what there is, and what it does."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from fedpriv import registry
from fedpriv.errors import FedprivError, ParameterError, UnknownNameError, did_you_mean

REGISTRIES = {
    "attacks": registry.attacks,
    "defenses": registry.defenses,
    "models": registry.models,
    "datasets": registry.datasets,
    "engines": registry.engines,
}


def _metrics() -> dict[str, Any]:
    from fedpriv.metrics import METRICS

    return METRICS


def _everything(kind: str) -> dict[str, Any]:
    if kind == "metrics":
        return _metrics()
    found: dict[str, Any] = {}
    for name in REGISTRIES[kind].names():
        try:
            found[name] = REGISTRIES[kind].load(name)
        except FedprivError as e:  # one broken package must not hide the others
            found[name] = e
    return found


def _first_line(target: Any) -> str:
    if isinstance(target, FedprivError):
        return f"(unusable: {target})"
    return (inspect.getdoc(target) or "").split("\n", 1)[0]


def list_names(
    kind: Annotated[str, typer.Argument(help="attacks, defenses, models, datasets, metrics or engines.")],
) -> None:
    """List what is registered, with a line on each."""
    kinds = [*REGISTRIES, "metrics"]
    if kind not in kinds:
        raise ParameterError(f"nothing called '{kind}' can be listed.{did_you_mean(kind, kinds)}")
    entries = _everything(kind)
    width = max((len(n) for n in entries), default=0)
    for name, target in entries.items():
        typer.echo(f"{name:<{width}}  {_first_line(target)}")


def show(name: Annotated[str, typer.Argument(help="An attack, defense, model, dataset or metric.")]) -> None:
    """Show what something does, its parameters and its paper."""
    found = [(kind, reg.load(name)) for kind, reg in REGISTRIES.items() if name in reg.names()]
    if name in _metrics():
        found.append(("metrics", _metrics()[name]))
    if not found and ":" not in name:
        known = [n for reg in REGISTRIES.values() for n in reg.names()] + list(_metrics())
        raise UnknownNameError(f"nothing is named '{name}'.{did_you_mean(name, known)}")
    if not found:
        found = [("plug-in", registry.attacks.load(name))]
    for kind, target in found:
        typer.echo(f"{name} ({kind.removesuffix('s')})\n")
        typer.echo(inspect.getdoc(target) or "")
        if kind != "metrics":
            _parameters(target)
        if getattr(target, "paper", ""):
            typer.echo(f"\nPaper: {target.paper}")
        if getattr(target, "needs", None):
            typer.echo("\nNeeds: " + "; ".join(sorted(c.value for c in target.needs)))
        if getattr(target, "adaptive_attack", None) is not None and kind == "defenses":
            typer.echo(f"\nAdaptive attack: {target.adaptive_attack or 'none ships yet'}")


def _parameters(target: Any) -> None:
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    rows = []
    if isinstance(target, type) and issubclass(target, BaseModel):
        for name, field in target.model_fields.items():
            default = "required" if field.default is PydanticUndefined else repr(field.default)
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
