"""Grid: axes over any field of a setting, and the labels of their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedpriv.base.errors import ExperimentError, did_you_mean
from fedpriv.experiment.document import Document, Path_
from fedpriv.experiment.fields import fields

_INTEGER = re.compile(r"[-+]?\d+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")  # also 1e-5, which YAML takes for text


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


def make_axis(read: Document, key: str, value: Any) -> Axis:
    """The axis that the file's `grid` has under `key`.

    Raises:
      ExperimentError: it is empty, names no field, or has a label twice.
    """
    path: Path_ = tuple(key.split("."))
    place = read.place(("grid", key))
    is_field, sections = path[-1] in fields(path[:-1]), fields(path)
    if not value:
        raise ExperimentError(f"{place}: axis '{key}' is empty; give it at least one value, or take it out")
    if not is_field and (not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values())):
        near = did_you_mean(str(path[-1]), fields(path[:-1]) or fields(()))
        raise ExperimentError(
            f"{place}: a setting has no field '{key}'.{near} An axis of your own maps labels to overrides such as "
            "{training.rounds: 5}"
        )
    options = []
    if isinstance(value, dict):
        for label, content in value.items():
            at, shown = read.place(("grid", key, label)), label_of(label)
            if is_field and (sections or not isinstance(content, dict)):
                options.append(Option(shown, {path: content}, at))
                continue
            overrides: dict[Path_, Any] = {}
            for written, inner in content.items():
                target: Path_ = tuple(written.split("."))
                if target[-1] not in fields(target[:-1]):
                    at = read.place(("grid", key, label, written))
                    near = did_you_mean(str(target[-1]), fields(target[:-1]) or fields(()))
                    raise ExperimentError(f"{at}: a setting has no field '{written}'.{near}")
                overrides[target] = inner
            options.append(Option(shown, overrides, at))
    else:
        for i, content in enumerate(value):
            options.append(Option(label_of(content), {path: content}, read.place(("grid", key, i))))
    labels = [o.label for o in options]
    for label in labels:
        if labels.count(label) > 1:
            raise ExperimentError(f"{place}: axis '{key}' has '{label}' twice; keep one, or map labels of your own")
    return Axis(str(path[-1]), key, tuple(options))


def label_of(value: Any) -> str | int | float:
    """A value in words, or as the number that it is."""
    if value is None or value == []:
        return "none"
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value) if _INTEGER.fullmatch(value) else float(value)
    if isinstance(value, list):
        return " + ".join(str(label_of(v)) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}={label_of(v)}" for k, v in value.items())
    return value if isinstance(value, int | float) else str(value)


def chosen_labels(
    read: Document, path: Path_, written: Mapping[str, Any], axes: Sequence[Axis]
) -> dict[str, list[str | int | float]]:
    """{axis: label or list of labels} as a file has it, as lists of the axes' own labels.

    Args:
      read: the file.
      path: where it is written there.
      written: what is written.
      axes: of the grid.

    Raises:
      ExperimentError: an axis or a label that the grid does not have.
    """
    known = {a.name: [o.label for o in a.options] for a in axes}
    chosen: dict[str, list[str | int | float]] = {}
    for name, wanted in written.items():
        place = read.place((*path, name))
        if name not in known:
            raise ExperimentError(f"{place}: {path[0]} names no axis '{name}'.{did_you_mean(name, known)}")
        chosen[name] = [label_of(label) for label in (wanted if isinstance(wanted, list) else [wanted])]
        for label in chosen[name]:
            if label not in known[name]:
                near = did_you_mean(str(label), map(str, known[name]))
                raise ExperimentError(f"{place}: axis '{name}' has no '{label}'.{near}")
    return chosen


def matches(labels: Mapping[str, Any], chosen: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a point of the grid has one of the chosen labels on each axis that is named."""
    return all(labels[axis] in wanted for axis, wanted in chosen.items())
