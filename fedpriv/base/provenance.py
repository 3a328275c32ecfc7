"""Provenance: what made a result, so that it can be made again: command, config, seed, versions, platform.

Nothing in it names a person's machine: no host name, no user name, and absolute paths are shortened.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpriv.base.atomic import jsonable
from fedpriv.base.types import Config

_PACKAGES = (
    "fedpriv",
    "tensorflow",
    "tensorflow-federated",
    "tensorflow-privacy",
    "dp-accounting",
    "numpy",
    "scipy",
    "scikit-image",
    "matplotlib",
)
#: An absolute path inside a command's word: not the slash of 120/3383, of a/relative/path or of https://.
_ABSOLUTE = re.compile(r"(?<![\w.\-~/])/(?!/)[^=,()\[\]'\"]*")


def provenance(command: str | Sequence[str], config: Any = None, seed: int | None = None) -> Config:
    """A JSON-able record of what made a result.

    Args:
      command: the command line, as text or as `sys.argv`.
      config: anything `jsonable`: the settings in force.
      seed: the run's seed.

    Returns:
      `command` (one line, absolute paths shortened: relative inside the current folder, else the last part only),
      `config` (shortened likewise), `config_hash` (SHA-256 of that config, None without one), `seed`, `versions`
      by package (missing ones left out) with `python`, `platform`, and `commit` with `modified` (whether the
      source differed from it), both None outside a checkout.
    """
    shortened = _shorten(jsonable(config))
    commit, modified = _commit()
    return {
        "command": shorten_command(command),
        "config": shortened,
        "config_hash": None if config is None else config_hash(shortened),
        "seed": seed,
        "versions": versions(),
        "platform": {"system": platform.system(), "machine": platform.machine(), "cpu": _cpu(), "cores": _cores()},
        "commit": commit,
        "modified": modified,
    }


def config_hash(config: Any) -> str:
    """SHA-256 (hex) of `config` as canonical JSON: keys sorted, no spaces, UTF-8. Equal settings, equal hash."""
    text = json.dumps(jsonable(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Installed versions of the packages a result depends on, and of Python; imports none of them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def shorten_command(command: str | Sequence[str]) -> str:
    """`command` as one line to paste into a shell, without this machine's absolute paths."""
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    if words:
        words[0] = words[0] if not os.path.isabs(words[0]) else Path(words[0]).name
    return shlex.join(shorten_paths(word) for word in words)


def shorten_paths(text: str) -> str:
    """`text` with absolute paths made relative to the current folder, or cut to their last part if outside it."""
    return _ABSOLUTE.sub(lambda match: _short(match.group()), text)


def _short(path: str) -> str:
    here, normal = os.getcwd(), os.path.normpath(path)
    if os.path.commonpath([here, normal]) == here and here != os.sep:
        return os.path.relpath(normal, here)
    return os.path.basename(normal) or path


def _shorten(value: Any) -> Any:
    if isinstance(value, str):
        return shorten_paths(value)
    if isinstance(value, Mapping):
        return {k: _shorten(v) for k, v in value.items()}
    return [_shorten(v) for v in value] if isinstance(value, list) else value


def _commit() -> tuple[str | None, bool | None]:
    source = Path(__file__).resolve().parent
    # Installed into an environment that lies inside somebody else's checkout, the commit would be theirs.
    if _git(source, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    commit = _git(source, "rev-parse", "HEAD")
    changes = _git(source.parent, "status", "--porcelain", "--", "fedpriv", "attacks", "defenses", "experiments")
    return commit, None if commit is None or changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
