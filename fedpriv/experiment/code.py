"""Code: a version of the sources that a job's result depends on."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydantic

from fedpriv.base import registry
from fedpriv.experiment.setting import Setting

_OWN = ("fedpriv", "fedpriv_attacks", "fedpriv_defenses")
#: Bases that plug-ins derive from; their versions are in a result's provenance.
_LIBRARIES = frozenset({"pydantic", "tensorflow", "keras", "numpy"})
#: Of the experiment package, what changes numbers.
_WORK = ("setting.py", "assembly.py", "work.py")


def code_version(setting: Setting, attacked: bool = True) -> str:
    """A hash over fedpriv, its attacks and defenses, and the packages of the plug-ins that the setting names.

    What only draws, prints or schedules is left out. Other people's plug-ins count with all of their top-level package,
    or with their module's file if it lies in no package.

    Args:
      setting: the job's.
      attacked: whether the job attacks; one that trains does not depend on the code of attacks.
    """
    digest = hashlib.sha256()
    for package in sorted(
        {*_OWN, *_plugin_packages(setting, attacked)} - ({"fedpriv_attacks"} if not attacked else set())
    ):
        digest.update(f"{package}:{_sources(package)}".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=64)
def _sources(package: str) -> str:
    digest = hashlib.sha256()
    for name, content in _files(package):
        parts = name.split("/")
        idle = parts[0] in ("cli", "figures", "report") or (parts[0] == "experiment" and parts[-1] not in _WORK)
        if not (package == "fedpriv" and idle):
            digest.update(name.encode() + content)
    return digest.hexdigest()


def _files(package: str) -> Iterator[tuple[str, bytes]]:
    """Paths within a top-level package, or its one file, with their content."""
    module = sys.modules.get(package)
    spec = getattr(module, "__spec__", None) or (importlib.util.find_spec(package) if package != "__main__" else None)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for file in sorted(Path(folder).rglob("*.py")):
            yield file.relative_to(folder).as_posix(), file.read_bytes()
    single = getattr(module, "__file__", None) or (spec.origin if spec else None)
    if not folders and single and Path(single).is_file():
        yield Path(single).name, Path(single).read_bytes()


def _plugin_packages(setting: Setting, attacked: bool) -> set[str]:
    """Top-level packages, other than our own, of the classes and functions that a setting names."""
    model = registry.models.load(registry.parse_call(setting.model, "model")[0])
    named: list[Any] = [model, registry.engines.load(setting.engine)]
    named += setting.made_defenses() if attacked or setting.training.defended else ()
    named += [setting.made_attack(), setting.made_goal()] if attacked else []
    packages = {module.partition(".")[0] for part in named for module in _modules(part)}
    return packages - set(_OWN) - _LIBRARIES - sys.stdlib_module_names - {"None"}


def _modules(part: Any) -> Iterator[str]:
    """The modules of an object, of its class's bases, and of the parts it is composed of."""
    if isinstance(part, list | tuple):
        for inner in part:
            yield from _modules(inner)
    elif isinstance(part, dict):
        yield from _modules(list(part.values()))
    elif part is not None and not isinstance(part, str | bytes | int | float):
        for base in (part if isinstance(part, type) else type(part)).__mro__:
            yield base.__module__
        yield str(getattr(part, "__module__", None))
        if isinstance(part, pydantic.BaseModel):
            for name in type(part).model_fields:
                yield from _modules(getattr(part, name))
