"""Atomic writing: a file is either the old one or the whole new one, never half of it.

Everything goes to a temporary file in the target's folder, is flushed to the disk and then renamed over the
target. Stopping the program at any moment leaves the old file, or none.

JSON has no infinities: `jsonable` writes positive and negative infinity as the strings "inf" and "-inf" (Python's
`float` reads them back) and not-a-number as null. CSV writes "inf", "-inf" and an empty cell.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import enum
import errno
import io
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base.errors import FedprivError, ParameterError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "this is a folder; give a file name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_bytes(path: str | os.PathLike[str], data: bytes, private: bool = False) -> Path:
    """Writes `data` to `path` atomically, making its folders.

    A symbolic link is followed, so that the link stays and its target changes. A `private` file is its owner's alone.

    Returns:
      The path.

    Raises:
      FedprivError: the folder cannot be made or written (read-only, full, no permission), or `path` is a folder.
        The old file, if any, is untouched.
    """
    target = Path(path)
    final = Path(os.path.realpath(target))
    temporary = final.with_name(f".{final.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if final.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not tempfile: its files are private to the user, while results follow the umask like any other file.
            with os.fdopen(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb"
            ) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except BaseException:  # also on Ctrl-C
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as e:
        reason = _REASONS.get(e.errno or 0, e.strerror or str(e))
        raise FedprivError(f"cannot write '{target}': {reason}") from e
    return target


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Makes sure, before any work, that files can be written into a folder, which is made if it is not there.

    Raises:
      FedprivError: as `write_bytes`.
    """
    probe = write_bytes(Path(folder) / f".fedpriv.{os.getpid()}.{secrets.token_hex(4)}", b"")
    with contextlib.suppress(OSError):
        probe.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes `text` as UTF-8 atomically; see `write_bytes`."""
    return write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Writes `value` as indented JSON atomically, converted by `jsonable`; see `write_bytes`."""
    return write_text(path, to_json(value, indent=2) + "\n")


def write_csv(
    path: str | os.PathLike[str],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    digits: int | None = None,
) -> Path:
    """Writes `rows` as CSV with a header, atomically; see `write_bytes`.

    Args:
      path: the file.
      rows: one mapping a row; missing and None values become empty cells.
      columns: the columns and their order; by default all keys in the order they first appear.
      digits: of floats, this many significant ones at most; by default all.

    Raises:
      ParameterError: a row has a key that is not among `columns`.
      FedprivError: the file cannot be written.
    """
    table = [jsonable(dict(row)) for row in rows]
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in table for key in row))
    for row in table:
        if unknown := [key for key in row if key not in names]:
            raise ParameterError(f"cannot write '{path}': a row has the column '{unknown[0]}', not one of {names}")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v, digits) for k, v in row.items()} for row in table)
    return write_text(path, text.getvalue())


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as a JSON text (one line unless `indent` is given), converted by `jsonable`."""
    return json.dumps(jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def jsonable(value: Any) -> Any:
    """`value` made of dicts, lists, strings, finite numbers, booleans and None only.

    Infinities become "inf" and "-inf", not-a-number becomes None. NumPy scalars and arrays, paths, enumerations,
    dataclasses, pydantic models and sets (sorted) are converted.

    Raises:
      ParameterError: something has no JSON form; names its type.
    """
    if value is None or isinstance(value, bool | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return jsonable(value.value)
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(jsonable(k)): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, AbstractSet):
        return sorted((jsonable(v) for v in value), key=lambda v: (str(type(v)), v))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return jsonable(value.model_dump())
    raise ParameterError(f"a {type(value).__module__}.{type(value).__name__} has no JSON form; convert it first")


def _cell(value: Any, digits: int | None = None) -> Any:
    if digits is not None and isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
