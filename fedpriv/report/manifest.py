"""Manifest: which files of a results folder are its results, each with its checksum, and what made them.

A checkout holds what a reader needs: tables, figures, the report and their manifest. What only resumes a run, or can be
made of it again (cells, trainings, arrays, Parquet, PDF), stays on the machine of whoever ran it: `is_local` says which
files these are, and `.gitignore` the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fedpriv.base.atomic import write_json
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.provenance import config_hash
from fedpriv.base.types import Config

FILE = "manifest.json"
FORMAT = 1
#: Folders and kinds of files that a run makes again.
LOCAL_FOLDERS = frozenset({"cells", "trainings", "arms", "tensorboard"})
LOCAL_SUFFIXES = frozenset({".npz", ".parquet", ".pdf", ".tmp"})
#: What the manifest keeps of a provenance, and what it keeps if it is there.
_KEPT, _NOTE = ("command", "commit", "modified", "seed", "versions"), "note"


def is_local(path: str) -> bool:
    """Whether a file is left out of the manifest and of the repository.

    Args:
      path: relative to the results folder, with slashes.
    """
    parts = PurePosixPath(path)
    if set(parts.parts[:-1]) & LOCAL_FOLDERS or parts.suffix in LOCAL_SUFFIXES or parts.name.startswith("."):
        return True
    return parts.parts[0] == "figures" and parts.suffix == ".json"  # provenance.json says as much


def write_manifest(
    folder: str | os.PathLike[str], made: Sequence[Mapping[str, Any]] | None = None, code: Sequence[str] = ()
) -> Path:
    """Writes `manifest.json`, atomically; to be called when all other files are there.

    Args:
      folder: of the results.
      made: provenances (`fedpriv.base.provenance.provenance`, with a `note` if need be) of what lies there; by default
        those that its JSON files hold, each with the names of these files.
      code: versions of the code that made the numbers, as the store keeps them.

    Returns:
      The manifest's path.

    Raises:
      ParameterError: nothing says what made the folder's files.
      DataError: a file cannot be read.
      FedprivError: the manifest cannot be written.
    """
    folder = Path(folder)
    origins = [_brief(m) for m in made] if made is not None else _origins(folder)
    if not origins:
        raise ParameterError(f"'{folder}' has no JSON file with a provenance; give `made`, what made its files")
    return _write(folder, origins, code)


def renew_manifest(folder: str | os.PathLike[str]) -> bool:
    """Writes a folder's manifest anew after some of its files were made again; leaves a folder without one alone.

    What made the files comes from the provenances in its JSON files; a maker with a `note`, which has none, stays.

    Returns:
      Whether there was a manifest.

    Raises:
      DataError: the manifest is damaged, or a file cannot be read.
      FedprivError: the manifest cannot be written.
    """
    folder = Path(folder)
    if not (folder / FILE).exists():
        return False
    former = read_manifest(folder)
    noted = [made for made in former["made"] if _NOTE in made]
    origins = _origins(folder)
    _write(folder, [*origins, *noted] or former["made"], former.get("code", []))
    return True


def _write(folder: Path, made: Sequence[Mapping[str, Any]], code: Sequence[str]) -> Path:
    return write_json(
        folder / FILE, {"format": FORMAT, "made": made, "code": sorted(set(code)), "files": _files(folder)}
    )


def read_manifest(folder: str | os.PathLike[str]) -> Config:
    """The manifest: `made` (`command`, `commit`, `modified`, ...), `code`, and `files` with `sha256` and `bytes` each.

    Raises:
      DataError: there is none, or it is damaged.
    """
    path = Path(folder) / FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise DataError(f"'{os.fspath(folder)}' has no {FILE}; `fedpriv run` writes it at its end") from e
    except (OSError, ValueError) as e:
        raise DataError(f"'{path}' cannot be read: {e}; restore it, or run the experiment again") from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not manifest.keys() >= {"made", "files"}:
        raise DataError(f"'{path}' is no manifest of format {FORMAT}; restore it, or run the experiment again")
    return manifest


def problems(folder: str | os.PathLike[str]) -> list[str]:
    """What of a results folder is not as its manifest says, in words; empty if all is whole.

    Raises:
      DataError: there is no manifest, or it is damaged.
    """
    said, here = read_manifest(folder)["files"], _files(Path(folder))
    wrong = [f"{name} is missing" for name in said.keys() - here.keys()]
    wrong += [f"{name} is not in the manifest" for name in here.keys() - said.keys()]
    wrong += [f"{name} was changed" for name in said.keys() & here.keys() if said[name] != here[name]]
    return sorted(wrong)


def _files(folder: Path) -> dict[str, Config]:
    found = {}
    for path in _paths(folder):
        try:
            data = path.read_bytes()
        except OSError as e:
            raise DataError(f"'{path}' cannot be read: {e.strerror}") from e
        found[path.relative_to(folder).as_posix()] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return found


def _paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != FILE and not is_local(name):
            yield path


def _origins(folder: Path) -> list[Config]:
    """The provenances in a folder's JSON files, equal ones once."""
    found: dict[str, Config] = {}
    for path in _paths(folder):
        if path.suffix != ".json":
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(f"'{path}' cannot be read: {e}") from e
        origin = content.get("provenance", content) if isinstance(content, dict) else {}
        if not isinstance(origin, dict) or "command" not in origin:
            continue
        brief = _brief(origin)
        found.setdefault(config_hash(brief), {**brief, "files": []})["files"].append(
            path.relative_to(folder).as_posix()
        )
    return list(found.values())


def _brief(origin: Mapping[str, Any]) -> Config:
    return {key: origin.get(key) for key in _KEPT} | ({_NOTE: origin[_NOTE]} if _NOTE in origin else {})
