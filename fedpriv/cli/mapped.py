"""Mapped options: a table says which option of a command gives which field of a Setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import ParameterError

if TYPE_CHECKING:
    from fedpriv.experiment.setting import Setting


@dataclass(frozen=True)
class Mapped:
    """An option, and the field that it gives.

    Attributes:
      name: of the command's parameter; the option is called so too.
      annotation: its type, with Typer's Option.
      default: None leaves the field at the setting's own default.
      paths: of the fields.
      convert: from the option's value to the field's.
    """

    name: str
    annotation: Any
    default: Any
    paths: tuple[str, ...]
    convert: Callable[[Any], Any] = lambda value: value

    @property
    def option(self) -> str:
        """As it is written on a command line."""
        return "--" + self.name.replace("_", "-")

    def parameter(self) -> inspect.Parameter:
        """As Typer reads it."""
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=self.default, annotation=self.annotation
        )


@dataclass(frozen=True)
class Written:
    """The mapped options of one call.

    Attributes:
      table: of the command.
      values: by parameter's name.
    """

    table: tuple[Mapped, ...]
    values: Mapping[str, Any]

    def exclusive(self, *names: str) -> None:
        """Raises ParameterError if more than one of these is given."""
        given = [row.option for row in self.table if row.name in names and self.values[row.name] is not None]
        if len(given) > 1:
            raise ParameterError(f"{' and '.join(given)} exclude each other; give one")

    def setting(self, over: Mapping[str, Any]) -> Setting:
        """The setting, with fields laid over by their paths; nothing of TensorFlow is imported.

        Raises:
          ParameterError: a value is not allowed; names the option.
        """
        import pydantic

        from fedpriv.experiment.document import Document
        from fedpriv.experiment.fields import explained
        from fedpriv.experiment.setting import Setting

        document = Document({})
        for row in self.table:
            if self.values[row.name] is not None:
                value = row.convert(self.values[row.name])
                for path in row.paths:
                    document.set(tuple(path.split(".")), value, "")
        for path, value in over.items():
            document.set(tuple(path.split(".")), value, "")
        try:
            return Setting.model_validate(document.content)
        except pydantic.ValidationError as e:
            raise ParameterError(explained(e, self._option)) from e

    def _option(self, loc: tuple[Any, ...]) -> str:
        """The options that gave the field at a path of a setting."""
        at = ".".join(map(str, loc))
        return " or ".join(
            row.option
            for row in self.table
            if self.values[row.name] is not None and any(f"{at}.".startswith(f"{path}.") for path in row.paths)
        )


def mapped(table: Sequence[Mapped]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a table; what they were given is its first argument, a Written."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            values = {row.name: given.pop(row.name, row.default) for row in table}
            function(Written(tuple(table), values), **given)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        arguments = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        options = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        parameters = [*arguments, *(row.parameter() for row in table), *options]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__, command.__qualname__ = function.__module__, function.__qualname__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate
