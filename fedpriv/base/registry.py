"""Registries: names to plug-ins, through Python entry points, without importing anything until asked.

Third parties add to the groups `fedpriv.attacks`, `fedpriv.defenses` and so on (the registries below name them) from
their own packages; wherever a name is accepted, so is a dotted `package.module:Name`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
import typing
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import (
    DataError,
    FedprivError,
    ParameterError,
    UnknownNameError,
    did_you_mean,
    one_line,
    reason,
    shown,
    together,
)
from fedpriv.base.lazy import quiet_tensorflow
from fedpriv.base.types import Config

if TYPE_CHECKING:
    import pydantic


@cache
def _installed(path: tuple[str, ...]) -> dict[str, tuple[importlib.metadata.EntryPoint, ...]]:
    """Entry points of the packages on a path, by group. One look at all takes as long as one at a single group."""
    found = importlib.metadata.entry_points()
    return {group: tuple(found.select(group=group)) for group in found.groups}


@dataclass(frozen=True)
class Registry:
    """The plug-ins of one kind.

    Attributes:
      kind: what they are, for messages, such as "attack".
      group: entry-point group.
      base: `package.module:Class` that what `create` builds must be an instance of, or empty.
    """

    kind: str
    group: str
    base: str = ""

    @cached_property
    def _entries(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {e.name: e for e in _installed(tuple(sys.path)).get(self.group, ())}

    def names(self) -> list[str]:
        """Registered names, sorted; imports nothing."""
        return sorted(self._entries)

    def load(self, name: str) -> Any:
        """The object registered under `name`, or at a dotted `package.module:Name`.

        Raises:
          UnknownNameError: nothing of that name, with the nearest known one.
          FedprivError: its module exists but fails to import.
        """
        if name in self._entries:
            entry = self._entries[name]
            try:
                return entry.load()
            except Exception as e:
                raise FedprivError(f"{self.kind} '{name}' ({entry.value}) failed to load: {e}") from e
        if ":" in name:
            return load_dotted(name, self.kind)
        raise UnknownNameError(f"no {self.kind} is named '{name}'.{did_you_mean(name, self._entries)}")

    def create(self, text: str, /, **parameters: Any) -> Any:
        """Builds from `name`, `name(key=value,...)` as on a command line, or a YAML file; `parameters` override.

        A file is a mapping with `name` and parameters, as `fedpriv show NAME --yaml` prints it.

        Raises:
          DataError: the file is missing, or holds something else.
          UnknownNameError: unknown name.
          ParameterError: unknown parameter or impossible value, or something of another kind; names it and what is
            allowed.
        """
        name, written = read_file(text, self.kind) if is_file(text) else parse_call(text, self.kind)
        made = build(self.load(name), {**written, **parameters}, f"{self.kind} '{name}'")
        if self.base and not isinstance(made, load_dotted(self.base, self.kind)):
            wanted = self.base.replace(":", ".")
            raise ParameterError(f"{self.kind} '{name}' is a {type(made).__name__}; it must be, or return, a {wanted}")
        return made


def components() -> dict[str, Registry]:
    """The parts that attacks are composed of, by role; from the groups `fedpriv.components.<role>`."""
    prefix = "fedpriv.components."
    groups = sorted(g for g in _installed(tuple(sys.path)) if g.startswith(prefix))
    return {g.removeprefix(prefix): Registry(g.removeprefix(prefix), g) for g in groups}


def is_file(text: str) -> bool:
    """Whether what was written is a path to a YAML or JSON file rather than a name."""
    return Path(text).suffix in (".yaml", ".yml", ".json")


def read_file(path: str, kind: str) -> tuple[str, Config]:
    """The name and the parameters in a YAML (or JSON) file.

    Raises:
      DataError: it cannot be read, or is no mapping with a `name`.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{kind} file '{path}' cannot be read: {e}") from e
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{kind} file '{path}'{line}: this is not YAML: {e.problem or e.context}") from e
    except (yaml.YAMLError, ValueError) as e:  # such as a date that does not exist
        raise DataError(f"{kind} file '{path}' is not YAML: {one_line(e)}") from e
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise DataError(f"{kind} file '{path}' needs a mapping with a 'name', as `fedpriv show NAME --yaml` prints")
    return content["name"], {str(k): v for k, v in content.items() if k != "name"}


def load_dotted(name: str, kind: str) -> Any:
    """The object at a dotted `package.module:Name`; `kind` names it in errors."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise UnknownNameError(f"{kind} '{name}' is no path to an object; write package.module:Name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    quiet_tensorflow()  # somebody's module may import it at its top
    try:
        target = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        raise UnknownNameError(
            f"{kind} '{name}': no module '{e.name}' can be imported; write package.module:Name, "
            "with the package installed or in the current folder"
        ) from e
    except Exception as e:
        raise FedprivError(f"{kind} '{name}': {module_name} failed to import: {type(e).__name__}: {reason(e)}") from e
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [n for n in vars(target) if not n.startswith("_")]
            raise UnknownNameError(f"{kind} '{name}': {module_name} has no '{part}'.{did_you_mean(part, public)}")
        target = getattr(target, part)
    return target


def parse_call(text: str, kind: str) -> tuple[str, dict[str, str]]:
    """Splits `name(key=value,key=value)` into the name and its written parameters."""
    text = text.strip()
    if "(" not in text:
        return text, {}
    name, _, rest = text.partition("(")
    if not rest.endswith(")"):
        example = f"{name.strip() or 'name'}(key=value,...)"
        raise ParameterError(f"{kind} '{text}' lacks its closing parenthesis; write {example}")
    parameters: dict[str, str] = {}
    for item in filter(None, (p.strip() for p in split_commas(rest[:-1]))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ParameterError(f"{kind} '{name}': '{item}' is no key=value; write {name}(key=value,...)")
        if key.strip() in parameters:
            raise ParameterError(f"{kind} '{name}' gives '{key.strip()}' twice; give it once")
        parameters[key.strip()] = value.strip()
    return name.strip(), parameters


def split_commas(text: str) -> list[str]:
    """`text` split at the commas that stand in no brackets."""
    parts, depth, current = [], 0, ""
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += c
    return [*parts, current]


def parameters_of(target: Any) -> dict[str, inspect.Parameter]:
    """The parameters that `target` (class or function) accepts by keyword."""
    return {
        n: p
        for n, p in inspect.signature(target).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def build(target: Any, parameters: Config, what: str) -> Any:
    """Calls `target` with validated, converted parameters; `what` names it in errors."""
    import pydantic  # not needed to say what there is, and slow to import

    try:
        accepted = parameters_of(target)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        raise ParameterError(f"{what} is a {type(target).__name__} that cannot be called with named values") from None
    for key in parameters:
        if key.partition(".")[0] not in accepted and not takes_any:  # dots reach into a parameter's own
            raise ParameterError(f"{what} has no parameter '{key}'.{did_you_mean(key, accepted)}")
    missing = [n for n, p in accepted.items() if p.default is p.empty and n not in parameters]
    if missing:
        raise ParameterError(f"{what} needs a value for {', '.join(missing)}; write e.g. {missing[0]}=...")
    is_model = isinstance(target, type) and issubclass(target, pydantic.BaseModel)
    try:
        call = target if is_model else pydantic.validate_call(config={"arbitrary_types_allowed": True})(target)
    except pydantic.PydanticUserError as e:  # such as a built-in function
        raise ParameterError(
            f"{what} cannot be built from named values: it is a {type(target).__name__} whose parameters do not say "
            "what they are; give a class, or a function with annotated parameters"
        ) from e
    try:
        return call(**{k: v if _is_choice(target, k, v) else _unwritten(v) for k, v in parameters.items()})
    except pydantic.ValidationError as e:
        raise ParameterError(explain(e, what)) from e


def _is_choice(target: Any, parameter: str, value: Any) -> bool:
    """Whether `value` is one of the words that `parameter` may be, such as the `none` of a learning rate's decay."""
    if value != "none":
        return False
    import pydantic

    if isinstance(target, type) and issubclass(target, pydantic.BaseModel):
        field = target.model_fields.get(parameter)
        return field is not None and value in _words(field.annotation)
    try:
        return value in _words(typing.get_type_hints(target).get(parameter))
    except (NameError, TypeError):  # an annotation that only a type checker can read
        return False


def _words(annotation: Any) -> set[Any]:
    """All literal values in a type."""
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return set().union(*(_words(a) for a in typing.get_args(annotation)))


def _unwritten(value: Any) -> Any:
    """`none` on a command line means no value."""
    if isinstance(value, str):
        if value.lower() == "none":
            return None
        if value.startswith("[") and value.endswith("]"):
            return [_unwritten(v.strip()) for v in split_commas(value[1:-1]) if v.strip()]
    return value


def explain(error: pydantic.ValidationError, what: str) -> str:
    """In one line, of each problem: the parameter, the value given and what is allowed."""
    problems = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(p) for p in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("tuple_type", "list_type"):
            message = f"is no list; write [{problem['input']}]" if isinstance(problem["input"], str) else "is no list"
        problems.append(_placed(where, shown(problem["input"]), message))
    return f"{what}: {together(list(dict.fromkeys(problems)))}"


def _placed(where: str, given: str, message: str) -> str:
    """A problem with its parameter and value, unless the message names these itself."""
    if not where or message.startswith(f"{where} {given}"):
        return message
    named = message.startswith(given) or message.partition(" ")[2].startswith(given)
    return f"{where}: {message}" if named else f"{where}={given}: {message}"


attacks = Registry("attack", "fedpriv.attacks", "fedpriv.threat.attack:Attack")
defenses = Registry("defense", "fedpriv.defenses", "fedpriv.defense.stations:Defense")
goals = Registry("goal", "fedpriv.goals", "fedpriv.threat.goal:Goal")
datasets = Registry("dataset", "fedpriv.datasets")
models = Registry("model", "fedpriv.models")
engines = Registry("engine", "fedpriv.engines")
selection = Registry("selection", "fedpriv.selection", "fedpriv.procedure.selection:Selection")
rounds = Registry("topology", "fedpriv.rounds")
graphs = Registry("graph", "fedpriv.graphs", "fedpriv.topology.graph:Graph")
gossip = Registry("gossip protocol", "fedpriv.gossip", "fedpriv.topology.protocol:Protocol")
attrition = Registry("attrition", "fedpriv.attrition", "fedpriv.defense.attrition:Attrition")
kinds = Registry("kind", "fedpriv.kinds", "fedpriv.data.kind:Kind")
tasks = Registry("task", "fedpriv.tasks", "fedpriv.models.task:Task")
experiments = Registry("experiment", "fedpriv.experiments")
commands = Registry("command", "fedpriv.commands")
positions = Registry("position", "fedpriv.positions", "fedpriv.threat.position:Position")
knowledge = Registry("knowledge", "fedpriv.knowledge", "fedpriv.threat.knowledge:Knowledge")
acts = Registry("act", "fedpriv.acts", "fedpriv.threat.acts:Act")
