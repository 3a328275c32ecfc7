"""Experiment: a validated experiment file: settings, a grid over any of their fields, seeds; and its cells."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydantic

from fedpriv.base.errors import ExperimentError, did_you_mean, one_line
from fedpriv.base.types import Config
from fedpriv.experiment import document
from fedpriv.experiment.contents import Contents
from fedpriv.experiment.document import Document, Path_
from fedpriv.experiment.fields import explained
from fedpriv.experiment.grid import Axis, Option, chosen_labels, make_axis, matches
from fedpriv.experiment.setting import Setting
from fedpriv.experiment.shortcuts import misspelt, replaced, shortcuts_of

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class Cell:
    """One point of the grid with one seed.

    Attributes:
      labels: by axis.
      setting: resolved.
      seed: of everything random.
    """

    labels: Mapping[str, str | int | float]
    setting: Setting
    seed: int

    def describe(self) -> str:
        """Its labels and its seed on a line."""
        return "  ".join([*(f"{k}={v}" for k, v in self.labels.items()), f"seed={self.seed}"])


@dataclass(frozen=True)
class Experiment:
    """A validated experiment.

    Attributes:
      contents: the file's, resolved.
      axes: of the grid.
      cells: all of them, in order: seeds vary fastest.
      source: the file as resolved, to be read again.
      folder: of the file; data by a relative path that is not in the current folder are looked for there.
    """

    contents: Contents
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    source: Config = field(repr=False)
    folder: Path = Path()

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.contents.name

    def text(self) -> str:
        """The resolved file as YAML, without folders of this machine."""
        import yaml

        source = copy.deepcopy(self.source)
        folder = (source.get("setting") or {}).get("data_dir")
        if folder is not None and (Path(folder).is_absolute() or ".." in Path(folder).parts):
            del source["setting"]["data_dir"]
        return yaml.safe_dump(source, sort_keys=False, allow_unicode=True, width=120)


def load(path: str | Path, overrides: Sequence[str] = (), quick: bool = False) -> Experiment:
    """Reads an experiment file.

    Args:
      path: of a YAML file.
      overrides: `a.b=value`, from the file's root or, failing that, within its setting; values are YAML.
      quick: whether to lay the file's `quick` over it.

    Raises:
      ExperimentError: anything that is wrong with it, with the line.
    """
    read = document.read(path)
    if quick:
        _lay_quick(read)
    read.content.pop("quick", None)
    for text in overrides:
        _override(read, text)
    source = copy.deepcopy(read.content)
    _place_data(read, Path(path).parent)
    return replace(resolve(read, source), folder=Path(path).parent)


def resolve(read: Document, source: Config | None = None) -> Experiment:
    """Checks a document as a whole and makes its cells; `source` is its content as written, if that differs."""
    source = copy.deepcopy(read.content) if source is None else source
    contents = _root(read)
    shortcuts = shortcuts_of(read, contents)
    axes = tuple(make_axis(read, key, value) for key, value in contents.grid.items())
    names = [a.name for a in axes]
    for name in names:
        if names.count(name) > 1:
            both = [a.written for a in axes if a.name == name]
            raise ExperimentError(f"grid: {' and '.join(both)} would both make a column '{name}'; write one axis")
    contents.exclude = [chosen_labels(read, ("exclude", i), rule, axes) for i, rule in enumerate(contents.exclude)]
    for i, number in enumerate(contents.published):
        number.where = chosen_labels(read, ("published", i, "where"), number.where, axes)
    cells = tuple(_cells(read, contents, axes, shortcuts))
    if not cells:
        raise ExperimentError(f"{read.place(('exclude',))}: 'exclude' leaves no cell of the grid; exclude less")
    goals = {str(goal.config()): goal for goal in (c.setting.made_goal() for c in cells) if goal is not None}
    facts = {"accuracy", "rounds_to_target", *(c.name for goal in goals.values() for c in goal.columns())}
    for i, number in enumerate(contents.published):
        if number.fact not in facts:
            raise ExperimentError(
                f"{read.place(('published', i, 'fact'))}: fact='{number.fact}' is nothing that is measured here."
                f"{did_you_mean(number.fact, facts)}"
            )
    return Experiment(contents, axes, cells, source)


def _place_data(read: Document, folder: Path) -> None:
    """Data that lie beside the file, by a relative path, are found from anywhere."""

    def placed(value: str) -> str:
        if Path(value).is_absolute() or Path(value).exists():
            return value
        return str(folder / value) if (folder / value).exists() else value

    for path in [p for p in read.where if p and p[-1] in ("data", "data_dir")]:
        inner: object = read.content
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(path[-1]), str):
            inner[path[-1]] = placed(inner[path[-1]])


def _lay_quick(read: Document) -> None:
    above = read.content.get("quick") or {}
    if not isinstance(above, dict):
        raise ExperimentError(f"{read.place(('quick',))}: 'quick' must be a mapping like the file itself")
    where = {p[1:]: place for p, place in read.where.items() if p[:1] == ("quick",)}
    document.lay_over(read, Document(copy.deepcopy(above), where))


def _problem(error: Exception) -> str:
    """What YAML says, without the name of a file that there is not."""
    return str(getattr(error, "problem", None) or one_line(error))


def _override(read: Document, text: str) -> None:
    import yaml

    key, equals, written = text.partition("=")
    path: Path_ = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ExperimentError(f"--set '{text}' is no path=value, such as setting.training.rounds=5")
    try:
        value = yaml.safe_load(written)
    except (yaml.YAMLError, ValueError) as e:  # such as a date that does not exist
        raise ExperimentError(f"--set '{text}': '{written}' is not YAML: {_problem(e)}") from e
    if path[0] not in Contents.model_fields:
        if path[0] not in Setting.model_fields:
            known = [*Contents.model_fields, *Setting.model_fields]
            raise ExperimentError(f"--set '{text}': there is no '{path[0]}'.{did_you_mean(str(path[0]), known)}")
        path = ("setting", *path)
    if path[0] == "grid":  # an axis's name holds dots
        path = ("grid", ".".join(map(str, path[1:])))
    read.set(path, value, f"--set {text}")


def _root(read: Document) -> Contents:
    fields = dict(read.content)
    for key in fields:
        if key not in Contents.model_fields:
            raise ExperimentError(
                f"{read.place((key,))}: an experiment has no '{key}'.{did_you_mean(key, Contents.model_fields)}"
            )
    setting = fields.pop("setting", None) or {}
    if not isinstance(setting, dict):
        raise ExperimentError(f"{read.place(('setting',))}: 'setting' must be a mapping of fields")
    try:
        contents = Contents(**fields)
    except pydantic.ValidationError as e:
        raise ExperimentError(explained(e, lambda loc: read.place(loc))) from e
    contents.setting = setting
    if not _NAME.fullmatch(contents.name):
        raise ExperimentError(
            f"{read.place(('name',))}: name '{contents.name}' names a folder; use small letters, digits, _ . -"
        )
    return contents


def _cells(read: Document, contents: Contents, axes: Sequence[Axis], shortcuts: dict[str, Config]) -> Iterator[Cell]:
    seeds = list(range(contents.seeds)) if isinstance(contents.seeds, int) else list(contents.seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ExperimentError(f"{read.place(('seeds',))}: seeds={seeds} must be at least one, each once")
    for chosen in itertools.product(*(a.options for a in axes)):
        labels = {a.name: o.label for a, o in zip(axes, chosen)}
        if any(matches(labels, rule) for rule in contents.exclude):
            continue
        setting = _setting(read, chosen, shortcuts)
        for seed in seeds:
            yield Cell(labels, setting, seed)


def _setting(read: Document, chosen: Sequence[Option], shortcuts: dict[str, Config]) -> Setting:
    raw = Document(copy.deepcopy(read.content.get("setting") or {}))
    places: dict[Path_, str] = {}
    for option in chosen:
        for path, value in option.overrides.items():
            raw.set(path, copy.deepcopy(value), option.place)
            places[path] = option.place
    for kind, known in shortcuts.items():
        if kind in raw.content:
            raw.content[kind] = replaced(raw.content[kind], known)

    def place(loc: Path_) -> str:
        of_axis = [at for path, at in places.items() if loc[: len(path)] == path or path[: len(loc)] == loc]
        return of_axis[-1] if of_axis and loc else read.place(("setting", *loc))

    for kind, known in shortcuts.items():
        if (name := misspelt(kind, raw.content.get(kind), known)) is not None:
            raise ExperimentError(f"{place((kind,))}: no {kind} and no shortcut '{name}'.{did_you_mean(name, known)}")
    try:
        return Setting.model_validate(raw.content)
    except pydantic.ValidationError as e:
        raise ExperimentError(explained(e, place)) from e


def schema() -> Config:
    """The JSON schema of an experiment file, for editors."""
    made = Contents.model_json_schema()
    made["properties"]["setting"] = {"$ref": "#/$defs/Setting", "description": "what all cells share"}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return made
