"""Document: a YAML file that remembers on which line each value stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpriv.base.errors import ExperimentError, one_line
from fedpriv.base.types import Config

Path_ = tuple[str | int, ...]

#: Tags of mappings and sequences as YAML has them.
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

#: Values of a file; aliases of aliases could make any number.
MOST_NODES = 100_000


@dataclass
class Document:
    """A mapping read from YAML files.

    Attributes:
      content: the mapping.
      where: for each path in it, the file and the line it was written on.
    """

    content: Config
    where: dict[Path_, str] = field(default_factory=dict)

    def place(self, path: Path_) -> str:
        """`file, line n` of the innermost part of `path` that was written, or ""."""
        inside = [p for p in self.where if p[: len(path)] == path]
        if inside and path not in self.where:
            return self.where[inside[0]]
        return next((self.where[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.where), "")

    def set(self, path: Path_, value: Any, place: str) -> None:
        """Puts a value at a path of keys, making mappings on the way."""
        inner: Any = self.content
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[path[-1]] = value
        for old in [p for p in self.where if p[: len(path)] == path]:
            del self.where[old]
        self.where[path] = place


def read(path: str | Path, _above: tuple[Path, ...] = ()) -> Document:
    """Reads a file, laid over the one its `extends` names.

    Raises:
      ExperimentError: missing, no YAML, no mapping, a key given twice, or files that extend each other in a circle.
    """
    path = Path(path)
    if path.resolve() in _above:
        chain = " -> ".join(p.name for p in (*_above, path))
        raise ExperimentError(f"experiment files extend each other in a circle: {chain}; take one 'extends' out")
    document = parse(_text(path), path.name)
    base = document.content.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise ExperimentError(f"{document.place(('extends',))}: extends={base!r} is no path of a file")
    below = read(path.parent / base, (*_above, path.resolve()))
    lay_over(below, document)
    return below


def parse(text: str, name: str) -> Document:
    """A mapping from YAML text; `name` is said in errors."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = f"{name}, line {mark.line + 1}" if mark else name
        raise ExperimentError(f"{place}: this is not YAML: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise ExperimentError(f"{name} is not YAML: {one_line(e)}") from e
    if not isinstance(root, yaml.MappingNode):
        raise ExperimentError(f"{name} holds no mapping; an experiment needs at least a name and a setting or a grid")
    walk = _Walk(name)
    return Document(walk.mapping(root, ()), walk.where)


class _Walk:
    """Turns YAML nodes into values, and notes where each was written."""

    def __init__(self, name: str) -> None:
        import yaml

        self.name = name
        self.where: dict[Path_, str] = {(): name}
        self.constructor = yaml.SafeLoader("")
        self.inside: list[Any] = []  # nodes under way: an alias may name one of them
        self.nodes = 0

    def value(self, node: Any, path: Path_) -> Any:
        """Of a node, whatever it is."""
        import yaml

        self.where[path] = self.line(node)
        if node in self.inside:
            raise ExperimentError(f"{self.line(node)}: this holds itself, by an alias; take the alias out")
        self.count()
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            raise ExperimentError(f"{self.line(node)}: the tag '{node.tag}' means nothing here; leave it out")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.inside.append(node)
            made = [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            self.inside.pop()
            return made
        return self.plain(node)

    def mapping(self, node: Any, path: Path_) -> dict[str, Any]:
        """Of a mapping: its own keys over those that `<<` merges in, the first of several before the others."""
        self.where.setdefault(path, self.line(node))
        self.count()
        self.inside.append(node)
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                for name, value in self.merged(value_node, path).items():
                    merged.setdefault(name, value)
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.plain(key_node)
            key = key if isinstance(key, str) else str(key_node.value)
            if key in own:
                raise ExperimentError(f"{self.line(key_node)}: '{key}' is given twice; keep one of them")
            for old in [p for p in self.where if p[: len(path) + 1] == (*path, key)]:
                del self.where[old]  # what was merged in
            own[key] = self.value(value_node, (*path, key))
            self.where[(*path, key)] = self.line(key_node)
        self.inside.pop()
        return {**merged, **own}

    def count(self) -> None:
        """One value more, of as many as are allowed."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise ExperimentError(f"{self.name}: more than {MOST_NODES:,} values, aliases counted anew; write fewer")

    def merged(self, node: Any, path: Path_) -> dict[str, Any]:
        """What `<<` brings in."""
        import yaml

        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise ExperimentError(
                    f"{self.line(node)}: '<<' merges mappings; write <<: *anchor, or a list of such aliases"
                )
            if part in self.inside:
                raise ExperimentError(f"{self.line(node)}: '<<' merges a mapping into itself; take it out")
            for name, value in self.mapping(part, path).items():
                found.setdefault(name, value)
        return found

    def plain(self, node: Any) -> Any:
        """Of a single value, or a key."""
        import yaml

        try:
            return self.constructor.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, OverflowError) as e:
            said = e.problem if isinstance(e, yaml.MarkedYAMLError) and e.problem else str(e)
            raise ExperimentError(f"{self.line(node)}: this value cannot be read: {said}") from e

    def line(self, node: Any) -> str:
        """Where it stands."""
        return f"{self.name}, line {node.start_mark.line + 1}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise ExperimentError(f"experiment file '{path}' cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ExperimentError(f"experiment file '{path}' is not UTF-8 text: {e}") from e


def lay_over(below: Document, above: Document, path: Path_ = ()) -> None:
    """Puts what `above` says over `below`: settings field by field, a grid axis by axis."""
    inner: Any = above.content
    for key in path:
        inner = inner[key]
    for key, value in inner.items():
        here = (*path, key)
        under: Any = below.content
        for part in here:
            under = under.get(part) if isinstance(under, dict) else None
        if isinstance(value, dict) and isinstance(under, dict) and (here[0] != "grid" or len(here) == 1):
            lay_over(below, above, here)
        else:
            below.set(here, value, above.place(here))
            below.where.update({p: place for p, place in above.where.items() if p[: len(here)] == here})
