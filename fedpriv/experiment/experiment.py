"""Experiment: a validated experiment file: settings, a grid over any of their fields, seeds; and its cells."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from fedpriv.errors import ExperimentError, did_you_mean
from fedpriv.experiment import document
from fedpriv.experiment.document import Document, Path_
from fedpriv.experiment.setting import Setting

#: Fields whose values may be shortcuts.
KINDS = ("attack", "defense", "model", "data")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_INTEGER = re.compile(r"[-+]?\d+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")  # also 1e-5, which YAML takes for text


class Published(pydantic.BaseModel):
    """A number that someone published, for the report to set beside the best that was measured here.

    Attributes:
      where: axes' labels it is for, as {axis: label}; of the arms that have them the best one is compared.
      fact: what was measured; fewest is best of rounds, most of anything else.
      value: the number, in the fact's unit: a share in [0, 1], rounds, dB.
      source: who, where, and in which table.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    where: dict[str, Any] = {}
    fact: Literal[
        "accuracy", "rounds_to_target", "success_rate", "psnr_mean", "psnr_median", "ssim_mean", "label_accuracy"
    ]
    value: float
    source: Annotated[str, Field(min_length=1)]


class Contents(pydantic.BaseModel):
    """An experiment file.

    Attributes:
      name: of the experiment and its folder: small letters, digits, _ . -
      title: of the report.
      question: what it is to answer, in a sentence or two.
      extends: another file this one is laid over.
      define: shortcuts by kind (attack, defense, model, data), by name.
      setting: what all cells share.
      grid: axes. A field's path with a list of values, or with a mapping of labels to values; or a name of your own
        with a mapping of labels to {path: value} overrides.
      exclude: combinations to leave out, as {axis: label or list of labels}.
      seeds: a list, or how many.
      quick: what `--quick` lays over all this.
      keep_images: reconstructions kept a cell, for figures.
      published: numbers from the literature to set beside those measured here.
      limits: sentences for the report's limitations.
    """

    model_config = pydantic.ConfigDict(extra="forbid", title="fedpriv experiment")

    name: str
    title: str = ""
    question: str = ""
    extends: str | None = None
    define: dict[str, dict[str, Any]] = {}
    setting: Setting | dict[str, Any] = {}
    grid: dict[str, list[Any] | dict[str, Any]] = {}
    exclude: list[dict[str, Any]] = []
    seeds: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]] = [0]
    quick: dict[str, Any] = {}
    keep_images: Annotated[int, Field(ge=0)] = 8
    published: list[Published] = []
    limits: list[str] = []


@dataclass(frozen=True)
class Option:
    """One value of an axis.

    Attributes:
      label: in tables and figures: a number where the value is one.
      overrides: path to value.
      place: where it was written.
    """

    label: str | int | float
    overrides: Mapping[Path_, Any]
    place: str


@dataclass(frozen=True)
class Axis:
    """One axis of the grid.

    Attributes:
      name: the column it makes.
      written: its key in the file.
      options: in order.
    """

    name: str
    written: str
    options: tuple[Option, ...]


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
    """

    contents: Contents
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    source: dict[str, Any] = field(repr=False)

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
    return resolve(read)


def resolve(read: Document) -> Experiment:
    """Checks a document as a whole and makes its cells."""
    contents = _root(read)
    shortcuts = _shortcuts(read, contents)
    axes = tuple(_axis(read, key, value, shortcuts) for key, value in contents.grid.items())
    names = [a.name for a in axes]
    for name in names:
        if names.count(name) > 1:
            both = [a.written for a in axes if a.name == name]
            raise ExperimentError(f"grid: {' and '.join(both)} would both make a column '{name}'; write one axis")
    for i, rule in enumerate(contents.exclude):
        _check_labels(read, ("exclude", i), rule, axes)
    for i, number in enumerate(contents.published):
        _check_labels(read, ("published", i, "where"), number.where, axes)
        number.where = {name: _label(label) for name, label in number.where.items()}
    cells = tuple(_cells(read, contents, axes, shortcuts))
    if not cells:
        raise ExperimentError(f"{read.place(('exclude',))}: 'exclude' leaves no cell of the grid; exclude less")
    return Experiment(contents, axes, cells, copy.deepcopy(read.content))


def _lay_quick(read: Document) -> None:
    above = read.content.get("quick") or {}
    if not isinstance(above, dict):
        raise ExperimentError(f"{read.place(('quick',))}: 'quick' must be a mapping like the file itself")
    where = {p[1:]: place for p, place in read.where.items() if p[:1] == ("quick",)}
    document.lay_over(read, Document(copy.deepcopy(above), where))


def _override(read: Document, text: str) -> None:
    import yaml

    key, equals, written = text.partition("=")
    path: Path_ = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ExperimentError(f"--set '{text}' is no path=value, such as setting.training.rounds=5")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as e:
        raise ExperimentError(f"--set '{text}': '{written}' is not YAML: {' '.join(str(e).split())}") from e
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
        raise ExperimentError(_explained(e, lambda loc: read.place(loc))) from e
    contents.setting = setting
    if not _NAME.fullmatch(contents.name):
        raise ExperimentError(
            f"{read.place(('name',))}: name '{contents.name}' names a folder; use small letters, digits, _ . -"
        )
    return contents


def _explained(error: pydantic.ValidationError, place: Any) -> str:
    """One line a problem: where, what, the value, and the way out."""
    lines = []
    for problem in error.errors(include_url=False):
        loc = tuple(p for p in problem["loc"] if not (isinstance(p, str) and ("[" in p or p in ("int", "list"))))
        name, at = ".".join(map(str, loc)), place(loc)
        if problem["type"] == "extra_forbidden":
            said = f"there is no '{name}'.{did_you_mean(str(loc[-1]), _fields(loc[:-1]))}"
        elif problem["type"] == "missing":
            said = f"'{name}' is missing"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            own = message.startswith(("no ", "defense", "attack", "model")) or not name
            said = message if own else f"{name}={problem['input']!r}: {message}"
        if (line := f"{at}: {said}" if at else said) not in lines:
            lines.append(line)
    return "\n".join(lines)


def _fields(loc: Path_) -> list[str]:
    """Names of the fields at a path in a setting."""
    model: Any = Setting
    for part in loc:
        found = model.model_fields.get(part)
        kinds = [found.annotation, *getattr(found.annotation, "__args__", ())] if found else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, pydantic.BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _shortcuts(read: Document, contents: Contents) -> dict[str, dict[str, Any]]:
    """By kind, by name: what it stands for, with shortcuts in it replaced."""
    for kind in contents.define:
        if kind not in KINDS:
            raise ExperimentError(
                f"{read.place(('define', kind))}: shortcuts are for {', '.join(KINDS)}, not '{kind}'."
                f"{did_you_mean(kind, KINDS)}"
            )
    made: dict[str, dict[str, Any]] = {}
    for kind, written in contents.define.items():

        def expand(value: Any, above: tuple[str, ...], written: dict[str, Any] = written, kind: str = kind) -> Any:
            if isinstance(value, list):
                parts = [expand(v, above) for v in value]
                return [p for part in parts for p in (part if isinstance(part, list) else [part])]
            own = above[-1:] == (value,)  # a name that stands for itself is what is registered under it
            if not isinstance(value, str) or value not in written or own:
                return value
            if value in above:
                chain = " -> ".join((*above, value))
                raise ExperimentError(f"{read.place(('define', kind, value))}: shortcuts in a circle: {chain}")
            return expand(written[value], (*above, value))

        made[kind] = {name: expand(value, (name,)) for name, value in written.items()}
    return made


def _axis(read: Document, key: str, value: Any, shortcuts: dict[str, dict[str, Any]]) -> Axis:
    path: Path_ = tuple(key.split("."))
    place = read.place(("grid", key))
    is_field = path[-1] in _fields(path[:-1])
    if not value:
        raise ExperimentError(f"{place}: axis '{key}' is empty; give it at least one value, or take it out")
    if not is_field and (not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values())):
        near = did_you_mean(str(path[-1]), _fields(path[:-1]) or _fields(()))
        raise ExperimentError(
            f"{place}: a setting has no field '{key}'.{near} An axis of your own maps labels to overrides such as "
            "{training.rounds: 5}"
        )
    options = []
    if isinstance(value, dict):
        for label, content in value.items():
            at, shown = read.place(("grid", key, label)), _label(label)
            if is_field:
                options.append(Option(shown, {path: content}, at))
                continue
            overrides: dict[Path_, Any] = {}
            for written, inner in content.items():
                target: Path_ = tuple(written.split("."))
                if target[-1] not in _fields(target[:-1]):
                    at = read.place(("grid", key, label, written))
                    near = did_you_mean(str(target[-1]), _fields(target[:-1]) or _fields(()))
                    raise ExperimentError(f"{at}: a setting has no field '{written}'.{near}")
                overrides[target] = inner
            options.append(Option(shown, overrides, at))
    else:
        for i, content in enumerate(value):
            options.append(Option(_label(content), {path: content}, read.place(("grid", key, i))))
    labels = [o.label for o in options]
    for label in labels:
        if labels.count(label) > 1:
            raise ExperimentError(f"{place}: axis '{key}' has '{label}' twice; keep one, or map labels of your own")
    return Axis(str(path[-1]), key, tuple(options))


def _label(value: Any) -> str | int | float:
    """A value in words, or as the number that it is."""
    if value is None or value == []:
        return "none"
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value) if _INTEGER.fullmatch(value) else float(value)
    if isinstance(value, list):
        return " + ".join(str(_label(v)) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_label(v)}" for k, v in value.items())
    return value if isinstance(value, int | float) else str(value)


def _check_labels(read: Document, path: Path_, wanted: Mapping[str, Any], axes: Sequence[Axis]) -> None:
    """Refuses {axis: label or list of labels} that the grid does not have; `path` says where it is written."""
    known = {a.name: [o.label for o in a.options] for a in axes}
    for name, written in wanted.items():
        place = read.place((*path, name))
        if name not in known:
            raise ExperimentError(f"{place}: {path[0]} names no axis '{name}'.{did_you_mean(name, known)}")
        for label in written if isinstance(written, list) else [written]:
            if _label(label) not in known[name]:
                near = did_you_mean(str(label), map(str, known[name]))
                raise ExperimentError(f"{place}: axis '{name}' has no '{label}'.{near}")


def _cells(
    read: Document, contents: Contents, axes: Sequence[Axis], shortcuts: dict[str, dict[str, Any]]
) -> Iterator[Cell]:
    seeds = list(range(contents.seeds)) if isinstance(contents.seeds, int) else list(contents.seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ExperimentError(f"{read.place(('seeds',))}: seeds={seeds} must be at least one, each once")
    for chosen in itertools.product(*(a.options for a in axes)):
        labels = {a.name: o.label for a, o in zip(axes, chosen)}
        if any(_excluded(labels, rule) for rule in contents.exclude):
            continue
        setting = _setting(read, chosen, shortcuts)
        for seed in seeds:
            yield Cell(labels, setting, seed)


def _excluded(labels: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    return all(labels[n] in [_label(v) for v in (w if isinstance(w, list) else [w])] for n, w in rule.items())


def _setting(read: Document, chosen: Sequence[Option], shortcuts: dict[str, dict[str, Any]]) -> Setting:
    raw = Document(copy.deepcopy(read.content.get("setting") or {}))
    places: dict[Path_, str] = {}
    for option in chosen:
        for path, value in option.overrides.items():
            raw.set(path, copy.deepcopy(value), option.place)
            places[path] = option.place
    for kind, known in shortcuts.items():
        if kind in raw.content:
            raw.content[kind] = _replaced(raw.content[kind], known)

    def place(loc: Path_) -> str:
        of_axis = [at for path, at in places.items() if loc[: len(path)] == path or path[: len(loc)] == loc]
        return of_axis[-1] if of_axis and loc else read.place(("setting", *loc))

    try:
        return Setting.model_validate(raw.content)
    except pydantic.ValidationError as e:
        raise ExperimentError(_explained(e, place)) from e


def _replaced(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        parts = [_replaced(v, known) for v in value]
        return [p for part in parts for p in (part if isinstance(part, list) else [part])]
    return known[value] if isinstance(value, str) and value in known else value


def schema() -> dict[str, Any]:
    """The JSON schema of an experiment file, for editors."""
    made = Contents.model_json_schema()
    made["properties"]["setting"] = {"$ref": "#/$defs/Setting", "description": "what all cells share"}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return made
