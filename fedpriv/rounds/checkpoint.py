"""Checkpoint: everything a run needs to go on to the same bits, in one file that is replaced atomically."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.account.phase import Phase
from fedpriv.base.atomic import write_bytes
from fedpriv.base.errors import CheckpointError, reason
from fedpriv.base.types import Config
from fedpriv.federation.clients import ClientStates
from fedpriv.rounds.record import Record

FORMAT = 2

_MAYBE = (int, float, type(None))
_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("cohort", "survivors", "bytes_up", "bytes_down"), int),
    **dict.fromkeys(("dropped", "lost", "warnings"), list),
    **dict.fromkeys(("loss", "test_loss", "accuracy", "epsilon"), _MAYBE),
    **dict.fromkeys(("drawn", "size_used"), bool),
    "seconds": (int, float),
    "metrics": dict,
    "aborted": str,
}


@dataclass(kw_only=True)
class Checkpoint:
    """A run after some rounds.

    Attributes:
      config: the run's identity (`Federation.config()` and its initial weights); resuming another one is refused.
      seed: the run's; as secret as the run.
      round: number of rounds done.
      weights: `[d]`.
      server: leaves of the server optimizer's state.
      defenses: leaves of all defenses' states.
      clients: what clients keep for themselves.
      records: rounds so far, as rows.
      spent: the privacy that it and whatever it went on from have spent, by phase.
      dealt: whose data it was (`Federation.clients()`).
    """

    config: Config
    seed: int
    round: int
    weights: np.ndarray
    server: list[np.ndarray]
    defenses: list[np.ndarray]
    clients: ClientStates
    records: list[Record]
    spent: tuple[Phase, ...] = field(default=())
    dealt: Config = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes the file atomically: a crash leaves the previous one whole."""
        header = {
            "format": FORMAT,
            "config": self.config,
            "seed": str(self.seed),
            "round": self.round,
            "server": len(self.server),
            "defenses": len(self.defenses),
            "clients": len(self.clients.initial),
            "last": [[int(c), int(r)] for c, r in self.clients.last.items()],
            "records": [r.row() for r in self.records],
            "dealt": self.dealt,
            **({"spent": [phase.state() for phase in self.spent]} if self.spent else {}),
        }
        arrays = {f"server_{i}": a for i, a in enumerate(self.server)}
        arrays |= {f"defense_{i}": a for i, a in enumerate(self.defenses)}
        held = [self.clients.leaves[int(c)] for c in self.clients.last]
        arrays |= {f"client_{j}": np.stack([one[j] for one in held]) for j in range(len(self.clients.initial)) if held}
        buffer = io.BytesIO()
        np.savez(buffer, weights=self.weights, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
        write_bytes(Path(path), buffer.getvalue(), private=True)

    @staticmethod
    def load(path: str | Path) -> Checkpoint:
        """Reads a file written by `save`.

        Raises:
          CheckpointError: missing, damaged, or of another format.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as z:
                if not {"header", "weights"} <= set(z.files):
                    raise CheckpointError(f"{path} is no checkpoint of fedpriv; give another file")
                header = json.loads(z["header"].tobytes().decode())
                if header["format"] != FORMAT:
                    raise CheckpointError(f"checkpoint {path.name} has format {header['format']}, not {FORMAT}")
                last = {int(c): int(r) for c, r in header["last"]}
                stacked = [z[f"client_{j}"] for j in range(header["clients"])] if last else []
                leaves = {c: tuple(a[k] for a in stacked) for k, c in enumerate(last)}
                made = Checkpoint(
                    config=header["config"],
                    seed=int(header["seed"]),
                    round=header["round"],
                    weights=z["weights"],
                    server=[z[f"server_{i}"] for i in range(header["server"])],
                    defenses=[z[f"defense_{i}"] for i in range(header["defenses"])],
                    clients=ClientStates((), leaves, last),
                    records=[Record(**r) for r in header["records"]],
                    spent=tuple(Phase.restored(phase) for phase in header.get("spent", [])),
                    dealt=header.get("dealt") or _dealt(header["config"]),
                )
                made.spent = made.spent or Phase.undefended(made.round)
                made._check()
                return made
        except CheckpointError:
            raise
        except FileNotFoundError:
            raise CheckpointError(f"no checkpoint at {path}; give the file a run was saved to") from None
        except OSError as e:
            if e.errno is not None:
                raise CheckpointError(f"checkpoint {path} cannot be read ({e.strerror}); give a file of yours") from e
            raise CheckpointError(_damaged(path, e)) from e  # what zlib and zipfile raise of a damaged one
        except Exception as e:  # a damaged file can fail anywhere in zipfile, NumPy and JSON
            raise CheckpointError(_damaged(path, e)) from e

    def _check(self) -> None:
        """Raises ValueError where a value is none that `save` writes."""
        whole = isinstance(self.round, int) and not isinstance(self.round, bool)
        if not isinstance(self.config, dict) or not whole or len(self.records) != self.round:
            raise ValueError("its rounds are not those that its records are of")
        if [r.round for r in self.records] != list(range(self.round)):
            raise ValueError("its records are not one a round")
        if self.weights.ndim != 1 or self.weights.dtype.kind != "f" or not np.isfinite(self.weights).all():
            raise ValueError("its weights are no vector of finite numbers")
        if not {"data", "train", "partition", "layout"} <= self.dealt.keys():
            raise ValueError("it does not say whose data it was")
        if not isinstance(self.dealt["seed"], int | None):
            raise ValueError(f"its examples were dealt by {self.dealt['seed']!r:.40}")
        for record in self.records:
            for name, kinds in _FIELDS.items():
                if not isinstance(getattr(record, name), kinds):
                    raise ValueError(f"{name} of round {record.round} is {getattr(record, name)!r:.40}")

    @property
    def partition_seed(self) -> int:
        """That dealt the examples to clients; 0 where the run's partition was made in another way."""
        return self.dealt["seed"] or 0

    def require_clients(self, clients: Config, path: str | Path) -> None:
        """Raises CheckpointError where these (`Federation.clients()`) are not the clients whose data it was."""
        theirs, why = self.dealt, ""
        if theirs["train"] != clients["train"]:
            why = f"other data ('{theirs['data']}' of fingerprint {theirs['train']}, not '{clients['data']}' of "
            why += f"{clients['train']})"
        elif theirs["layout"] != clients["layout"]:
            why = f"other clients ({_in_words(theirs)}, not {_in_words(clients)})"
        if why:
            raise CheckpointError(
                f"checkpoint {path} was trained on {why}, so that its privacy and this run's are not of the same "
                "clients and cannot be added up; give the same --data, --clients and --partition, or, if nobody's "
                "data is in both, begin with its weights in Python: Federation.run(weights=...)"
            )

    def require(self, config: Config, path: str | Path) -> None:
        """Raises CheckpointError naming the first settings that differ from `config`."""
        theirs, ours = _flat(self.config), _flat(config)
        differing = [k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
        if differing:
            what = "; ".join(f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in differing[:3])
            raise CheckpointError(
                f"checkpoint {path} belongs to another federation: {what}. Run with the same settings, give another "
                "checkpoint file, or go on from this one under new settings with --after, which counts what it spent"
            )


def _dealt(config: Config) -> Config:
    """What the config says of the clients, where a checkpoint has no more."""
    seed = config["seed"] or 0
    return {**{name: config[name] for name in ("train", "partition", "layout")}, "data": "its data", "seed": seed}


def _in_words(clients: Config) -> str:
    by = "" if clients["seed"] is None else f" dealt by seed {clients['seed']}"
    return f"{clients['partition']}{by}"


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"checkpoint {path} is damaged or something else ({type(error).__name__}: {reason(error)}); give another file, "
        "or delete it to start anew"
    )


def _flat(value: Any, prefix: str = "") -> Config:
    if isinstance(value, dict):
        return {k: v for name in value for k, v in _flat(value[name], f"{prefix}{name}.").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): value}
