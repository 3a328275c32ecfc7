"""`fedpriv list` and `fedpriv show`: what there is, and what it does."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError, UnknownNameError, did_you_mean
from fedpriv.base.types import Config

REGISTRIES = {
    "attacks": registry.attacks,
    "defenses": registry.defenses,
    "attrition": registry.attrition,
    "goals": registry.goals,
    "models": registry.models,
    "datasets": registry.datasets,
    "engines": registry.engines,
    "kinds": registry.kinds,
    "tasks": registry.tasks,
    "experiments": registry.experiments,
    "positions": registry.positions,
    "knowledge": registry.knowledge,
    "acts": registry.acts,
    "selections": registry.selection,
    "topologies": registry.rounds,
    "graphs": registry.graphs,
    "protocols": registry.gossip,
}


#: What is written on a command line or in an experiment's file, but made from no file of its own.
_NO_FILE = ("kinds", "tasks", "positions", "knowledge", "acts", "selections", "topologies", "graphs", "protocols")


def registries() -> dict[str, registry.Registry]:
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
    names = registries()[kind]
    for name in names.names():
        try:
            found[name] = names.load(name)
        except FedprivError as e:  # one broken package must not hide the others
            found[name] = e
    return found


def first_line(target: Any) -> str:
    """What it is, in a line."""
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
            help="attacks, defenses, goals, models, datasets, kinds, tasks, attrition, metrics, engines, or parts "
            "of attacks, such as objectives."
        ),
    ],
) -> None:
    """List what is registered, with a line on each."""
    kinds = [*registries(), "metrics"]
    if kind not in kinds:
        raise ParameterError(f"nothing called '{kind}' can be listed.{did_you_mean(kind, kinds)}")
    entries = _everything(kind)
    width = max((len(n) for n in entries), default=0)
    for name, target in entries.items():
        typer.echo(f"{name:<{width}}  {first_line(target)}")


def show(
    name: Annotated[
        str, typer.Argument(help="An attack, defense, model, dataset, metric, experiment or part of an attack.")
    ],
    yaml: Annotated[
        bool,
        typer.Option("--yaml", help="Print an attack, defense or part as YAML to edit and use, and nothing else."),
    ] = False,
) -> None:
    """Show what something does, its parameters and its paper."""
    from fedpriv.base.plugin import prose

    if yaml:
        _print_yaml(name)
        return
    for kind, target in _found(name):
        typer.echo(f"{name} ({_singular(kind)})\n")
        if isinstance(target, Path):
            _experiment(name, target)
            continue
        typer.echo(prose(target) if kind != "metrics" else inspect.getdoc(target) or "")
        if kind != "metrics":
            _parameters(target)
        if getattr(target, "paper", ""):
            typer.echo(f"\nPaper: {target.paper}")
        needs = _needs(target)
        if needs:
            typer.echo("\nNeeds: " + "; ".join(sorted(c.value for c in needs)))
        if getattr(target, "adaptive_attack", None) is not None and kind == "defenses":
            typer.echo(f"\nAdaptive attack: {target.adaptive_attack or 'none ships yet'}")


def _singular(kind: str) -> str:
    if kind in ("labels", "coordinates"):
        return kind
    return kind.removesuffix("ies") + "y" if kind.endswith("ies") else kind.removesuffix("s")


def _experiment(name: str, file: Path) -> None:
    """What a shipped experiment asks, over which axes, and how it is run."""
    from fedpriv.experiment.experiment import load

    experiment = load(file)
    contents = experiment.contents
    typer.echo(f"{contents.title or name}\n\n{textwrap.fill(contents.question.strip(), 110)}\n")
    for axis in experiment.axes:
        typer.echo(f"  {axis.name}: {', '.join(str(option.label) for option in axis.options)}")
    seeds = len({cell.seed for cell in experiment.cells})
    typer.echo(
        f"\n{len(experiment.cells)} cells over {seeds} {'seed' if seeds == 1 else 'seeds'}; `fedpriv run {name}`"
    )


def _found(name: str) -> list[tuple[str, Any]]:
    """(kind, object) of all that is called `name`, attacks first.

    Raises:
      UnknownNameError: nothing is, with the nearest name.
    """
    known = registries()
    found = [(kind, reg.load(name)) for kind, reg in known.items() if name in reg.names()]
    if name in _metrics():
        found.append(("metrics", _metrics()[name]))
    if not found and ":" not in name:
        every = [n for reg in known.values() for n in reg.names()] + list(_metrics())
        raise UnknownNameError(f"nothing is named '{name}'.{did_you_mean(name, every)}")
    return found or [("plug-in", registry.attacks.load(name))]


def _needs(target: Any) -> frozenset[Any]:
    """What it needs of an adversary: with its default parameters, if it has defaults for all."""
    try:
        return target().requirements()
    except Exception:  # what has no defaults, or is no component
        return frozenset(getattr(target, "needs", None) or ())


def _print_yaml(name: str) -> None:
    """A plug-in, made with the parameters written and its defaults, as a file that makes it again."""
    import yaml

    bare = registry.parse_call(name, "plug-in")[0]
    listed = {kind: reg for kind, reg in registries().items() if bare in reg.names()}
    if not listed and bare not in _metrics() and ":" not in bare:
        known = [n for reg in registries().values() for n in reg.names()] + list(_metrics())
        raise UnknownNameError(f"nothing is named '{bare}'.{did_you_mean(bare, known)}")
    fitting = [reg for kind, reg in listed.items() if kind not in _NO_FILE and _configurable(reg.load(bare))]
    made = [reg.create(name) for reg in fitting[:1]]  # attacks come before their parts
    if not listed and ":" in bare:
        target = registry.load_dotted(bare, "plug-in")
        if _configurable(target):
            made = [registry.Registry("plug-in", "").create(name)]
    if not made:
        raise ParameterError(
            f"'{name}' has no configuration to print: --yaml takes attacks, defenses, goals, attrition and parts of "
            f"attacks; read what it is with `fedpriv show {bare}`"
        )
    config = made[0].config()
    if ":" in bare:  # its own name may not be registered
        config = {key: bare if key in ("name", "kind") else value for key, value in config.items()}
    typer.echo(yaml.safe_dump(config, sort_keys=False).rstrip())


def plug_in_schema(name: str) -> Config:
    """The JSON schema of the file that `show NAME --yaml` prints.

    Raises:
      UnknownNameError: there is no such plug-in.
      ParameterError: it is none that a file makes.
    """
    found = [target for _, target in _found(name) if _configurable(target)]
    if not found:
        raise ParameterError(f"'{name}' is not made from a file; a schema is there for attacks, defenses and parts")
    from fedpriv.base.plugin import file_schema

    return file_schema(found[0], name)


def _configurable(target: Any) -> bool:
    """Whether what it makes has a `config()`."""
    return isinstance(target, type) and hasattr(target, "config") and hasattr(target, "model_fields")


def _written(value: Any) -> str:
    """A default as a user would write it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_written(v) for v in value)}]"
    return value.describe() if hasattr(value, "describe") else repr(value)


def parameters(target: Any) -> list[tuple[str, str, str]]:
    """Of each parameter of a plug-in or a function: name, default as written, and what it is (or "")."""
    from pydantic import BaseModel

    from fedpriv.base.plugin import described

    target = getattr(target, "settings", target)  # a topology's are those of its rounds
    texts, rows = described(target), []
    if isinstance(target, type) and issubclass(target, BaseModel):
        for name, field in target.model_fields.items():
            default = field.get_default(call_default_factory=True)
            rows.append((name, "required" if field.is_required() else _written(default)))
    else:
        for name, parameter in registry.parameters_of(target).items():
            if name not in ("input_shape", "num_classes", "data_dir", "federation"):
                rows.append((name, "required" if parameter.default is parameter.empty else repr(parameter.default)))
    return [(name, default, texts.get(name, "")) for name, default in rows]


def _parameters(target: Any) -> None:
    rows = parameters(target)
    if rows:
        typer.echo("\nParameters:")
    for name, default, text in rows:
        typer.echo(f"  {name} = {default}")
        if text:
            typer.echo(textwrap.fill(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6))
