"""Run: one federation to the target accuracy, stored as JSON, so that it is never made twice."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.mcmahan.crossing import crossing
from experiments.mcmahan.setting import Scale, Setting
from fedpriv.atomic import write_json
from fedpriv.checkpoint import Checkpoint
from fedpriv.errors import DataError, DivergenceError
from fedpriv.provenance import config_hash, versions

#: Rounds between checkpoints of an unfinished run.
CHECKPOINT_EVERY = 50


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
      setting: `iid` or `shards`.
      rate: client learning rate.
      seed: of everything random.
      target: test accuracy asked for.
      status: `reached`, `gave up` (at the cap) or `diverged`.
      crossing: rounds to the target by `crossing`, or None.
      accuracy, test_loss, loss: one value a round: test accuracy, test loss (nats), training loss (nats).
      seconds: wall-clock of the rounds, evaluation included.
      config: the federation's identity.
      versions: of the packages that made it.
    """

    setting: str
    rate: float
    seed: int
    target: float
    status: str
    crossing: float | None
    accuracy: list[float]
    test_loss: list[float]
    loss: list[float]
    seconds: float
    config: dict[str, Any]
    versions: dict[str, str]

    @property
    def rounds(self) -> int:
        """Rounds made."""
        return len(self.accuracy)


class Store:
    """A folder of runs, one file each, named by setting, rate, seed and a hash of everything that shapes the run."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder, self.scale = folder, scale

    def get(
        self, setting: Setting, rate: float, seed: int, cap: int, on_round: Callable[[Any], None] | None = None
    ) -> Run:
        """The run, from its file if it is there and went far enough, else made now and stored.

        Args:
          setting: how the data is dealt.
          rate: client learning rate.
          seed: of everything random.
          cap: rounds after which to give up; a stored run that gave up earlier is made anew.
          on_round: called with each new record.

        Raises:
          KeyboardInterrupt: on Ctrl-C, after a checkpoint; the next call goes on from there.
          DataError: the run's file is damaged.
          CheckpointError: its checkpoint is.
        """
        federation = self.scale.federation(setting, rate, seed)
        config = federation.config()
        key = config_hash({"federation": config, "target": self.scale.target})[:12]
        stem = self.folder / f"{setting.name}_rate{rate:.4g}_seed{seed}_{key}"
        file, checkpoint = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".ckpt")
        if file.exists():
            run = read(file)
            if run.status != "gave up" or run.rounds >= cap:
                return run
        records: list[Any] = Checkpoint.load(checkpoint).records if checkpoint.exists() else []

        def note(record: Any) -> None:
            records.append(record)
            if on_round is not None:
                on_round(record)

        status = ""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            history = federation.run(
                cap,
                checkpoint=checkpoint,
                checkpoint_every=CHECKPOINT_EVERY,
                on_round=note,
                stop_when=lambda r: (r.accuracy or 0.0) >= self.scale.target,
            )
            if history.interrupted:
                raise KeyboardInterrupt
            records = history.records
        except DivergenceError:
            status = "diverged"
        finally:
            del federation
            gc.collect()  # the compiled graph and its copy of the data
        accuracy = [float(r.accuracy) for r in records]
        crossed = crossing(accuracy, self.scale.target) if accuracy else None
        run = Run(
            setting.name,
            rate,
            seed,
            self.scale.target,
            status or ("gave up" if crossed is None else "reached"),
            crossed,
            accuracy,
            [float(r.test_loss) for r in records],
            [float(r.loss) for r in records],
            sum(r.seconds for r in records),
            config,
            versions(),
        )
        write_json(file, asdict(run))
        checkpoint.unlink(missing_ok=True)
        return run


def read(file: Path) -> Run:
    """A stored run.

    Raises:
      DataError: the file is not one.
    """
    try:
        return Run(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as e:
        raise DataError(f"{file}: not a stored run ({type(e).__name__}: {e}); delete it to make the run anew") from e
