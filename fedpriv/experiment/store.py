"""Store: the folder of an experiment's results: one pair of files a cell, each with a checksum, written atomically.

The JSON file of a cell is written last; a cell without it, or whose checksums do not fit, does not count.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedpriv.base.atomic import jsonable, write_bytes, write_text
from fedpriv.base.errors import ExperimentError
from fedpriv.base.provenance import config_hash
from fedpriv.experiment.assembly import fingerprint
from fedpriv.experiment.experiment import Cell, Experiment
from fedpriv.experiment.work import Outcome

FORMAT = 1
FILE = "experiment.yaml"
#: Folders of what each job left; they stay out of the repository.
ATTACKS, TRAININGS = "cells", "trainings"

Kind = Literal["train", "attack"]


@dataclass(frozen=True)
class Job:
    """A piece of work: a cell's attack, or a training that cells share.

    Attributes:
      kind: `train` or `attack`.
      cell: whose setting and seed it takes (for a training, the first cell's that needs it).
      identity: what its result depends on, besides code.
    """

    kind: Kind
    cell: Cell
    identity: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Names its files."""
        return config_hash(dict(self.identity))[:16]


def training_job(cell: Cell) -> Job | None:
    """The training a cell needs, or None if it attacks fresh models."""
    if not cell.setting.training.rounds:
        return None
    return _job("train", cell, fingerprint(cell.setting))


def attack_job(cell: Cell) -> Job | None:
    """A cell's attack, or None if it only trains."""
    if cell.setting.attack is None:
        return None
    return _job("attack", cell, fingerprint(cell.setting))


def _job(kind: Kind, cell: Cell, data: str) -> Job:
    """The job on data of that fingerprint."""
    own = cell.setting.training_identity() if kind == "train" else cell.setting.identity()
    return Job(kind, cell, {"kind": kind, "seed": cell.seed, "data": data} | own)


@dataclass(frozen=True)
class Saved:
    """What a job left.

    Attributes:
      outcome: if it is done.
      error: what went wrong, in one line, if it failed.
      code: the code version it ran with.
      details: the traceback of a failure.
    """

    outcome: Outcome | None
    error: str
    code: str
    details: str = ""


class Store:
    """Results under one folder.

    Args:
      folder: of the experiment.

    Attributes:
      damaged: files whose checksum did not fit, as they were met.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.damaged: list[Path] = []

    def claim(self, experiment: Experiment) -> None:
        """Takes the folder for this experiment; refuses that of another, or of something else.

        Raises:
          ExperimentError: it belongs to something else.
          FedprivError: it cannot be written.
        """
        file = self.folder / FILE
        if file.exists():
            owner = owner_of(self.folder)
            if owner != experiment.name:
                raise ExperimentError(
                    f"'{self.folder}' holds the results of experiment '{owner}', not '{experiment.name}'; choose "
                    "another --out"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ExperimentError(
                f"'{self.folder}' is there already and is no experiment's folder; choose another --out, or empty it"
            )
        write_text(file, experiment.text())

    @property
    def empty(self) -> bool:
        """Whether it holds no job's outcome, as the folders of a checkout do."""
        return not any(any((self.folder / part).glob("*.json")) for part in (ATTACKS, TRAININGS))

    def require(self) -> None:
        """Refuses a folder that keeps tables and figures but no cells, such as those of a checkout.

        Raises:
          ExperimentError: there is not one.
        """
        if self.empty:
            out = "" if self.folder == Path("results") / self.folder.name else f" --out {shlex.quote(str(self.folder))}"
            raise ExperimentError(
                f"'{self.folder}' holds tables and figures, but not the cells they were made from; make these with "
                f"`uv run fedpriv run {shlex.quote(str(self.folder / FILE))}{out}`"
            )

    def _folder(self, kind: Kind) -> Path:
        return self.folder / (TRAININGS if kind == "train" else ATTACKS)

    def _paths(self, job: Job) -> tuple[Path, Path]:
        folder = self._folder(job.kind)
        return folder / f"{job.key}.json", folder / f"{job.key}.npz"

    def find(self, kind: Kind, cell: Cell) -> Job | None:
        """The job done for a cell, whatever the data were; None where there is none, or several that differ in them."""
        wanted = jsonable({k: v for k, v in _job(kind, cell, "").identity.items() if k != "data"})
        found: dict[str, Job] = {}
        for header in sorted(self._folder(kind).glob("*.json")):
            try:
                identity = dict(json.loads(header.read_bytes())["body"]["identity"])
                data = str(identity.pop("data"))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if identity == wanted:
                found[data] = _job(kind, cell, data)
        return next(iter(found.values())) if len(found) == 1 else None

    def read(self, job: Job) -> Saved | None:
        """What a job left; None if nothing, or if it is damaged (then it is listed in `damaged`)."""
        header, arrays = self._paths(job)
        try:
            text = header.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise ExperimentError(f"'{header}' cannot be read: {e.strerror}") from e
        try:
            whole = json.loads(text)
            body = whole["body"]
            if whole["checksum"] != config_hash(body) or body["format"] != FORMAT:
                raise ValueError("checksum")
            if body["identity"] != jsonable(dict(job.identity)):
                raise ValueError("identity")
            if body["error"]:
                return Saved(None, body["error"], body["code"], body["details"])
            loaded: dict[str, np.ndarray] = {}
            if body["arrays"]:
                data = arrays.read_bytes()
                if hashlib.sha256(data).hexdigest() != body["arrays"]:
                    raise ValueError("checksum of the arrays")
                with np.load(io.BytesIO(data), allow_pickle=False) as z:
                    loaded = {name: z[name] for name in z.files}
            outcome = Outcome(body["facts"], body["scores"], body["rounds"], loaded, body["seconds"])
            return Saved(outcome, "", body["code"])
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            self.damaged.append(header)
            return None

    def write(self, job: Job, outcome: Outcome | None, code: str, error: str = "", details: str = "") -> None:
        """Keeps an outcome, or a failure, and the version of the code that made it, whole or not at all."""
        header, arrays = self._paths(job)
        digest = None
        if outcome is not None and outcome.arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **{name: _kept(name, a) for name, a in outcome.arrays.items()})
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            write_bytes(arrays, buffer.getvalue())
        done = outcome or Outcome()
        body = jsonable(
            {
                "format": FORMAT,
                "identity": dict(job.identity),
                "code": code,
                "error": error,
                "details": details,
                "facts": done.facts,
                "scores": done.scores,
                "rounds": done.rounds,
                "seconds": done.seconds,
                "arrays": digest,
            }
        )
        write_text(header, json.dumps({"checksum": config_hash(body), "body": body}, ensure_ascii=False))


def _kept(name: str, array: np.ndarray) -> np.ndarray:
    """Images for figures in half precision, good for 70 dB: their scores are made already. All else as it is."""
    if name not in ("originals", "found", "from_noise", "strip_x", "strip_originals"):
        return array
    with np.errstate(over="ignore"):  # of a reconstruction that ran away
        return array.astype(np.float16)


def owner_of(folder: Path) -> str:
    """The name of the experiment whose folder it is.

    Raises:
      ExperimentError: it is nobody's.
    """
    from fedpriv.experiment.document import read

    if not (folder / FILE).exists():
        raise ExperimentError(f"'{folder}' holds no {FILE}, so it is no experiment's folder; give one of `fedpriv run`")
    return str(read(folder / FILE).content.get("name"))
