"""Arm: one attack in one setting. Running it leaves a file; an arm whose file is there is not run again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base import registry
from fedpriv.base.atomic import jsonable, write_bytes, write_json
from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.provenance import config_hash, versions
from fedpriv.data import load as load_data
from fedpriv.data import make_partition
from fedpriv.federation.federation import Federation
from fedpriv.figures.film_strip import log_spaced
from fedpriv.metrics.progress import progress
from fedpriv.metrics.score import ImageScore, Score, aligned, summarize
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.goal import goal_of

#: PSNR in dB from which an image counts as reconstructed.
THRESHOLD_DB = 30.0


@dataclass(frozen=True)
class Arm:
    """One attack in one setting.

    Attributes:
      name: what its row is called.
      attack: as on a command line.
      data: a dataset's name or path; the test part is attacked where there is one.
      model: as on a command line.
      images: images in all; a multiple of cohort x batch.
      batch: images a client.
      cohort: clients whose sum is seen; 1 is a single client's update.
      steps: full-batch local steps, or epochs over mini-batches if `local_batch` is given.
      local_batch: mini-batch size, or None for full batches.
      rate: client learning rate, for more than one step.
      rounds: rounds of FedAvg before the attack, on the data's training part.
      defenses: as on a command line.
      seed: fixes weights, training and attack starts.
    """

    name: str
    attack: str
    data: str = "fashion_small"
    model: str = "lenet(init=uniform)"
    images: int = 8
    batch: int = 1
    cohort: int = 1
    steps: int = 1
    local_batch: int | None = None
    rate: float = 0.1
    rounds: int = 0
    defenses: tuple[str, ...] = ()
    seed: int = 0

    def procedure(self) -> Procedure:
        """FedSGD for one full-batch step, FedAvg otherwise."""
        weighting = "uniform" if self.cohort > 1 else "examples"
        if self.steps == 1 and self.local_batch is None:
            return Procedure.fedsgd(weighting=weighting)
        return make_procedure(
            local_epochs=self.steps,
            batch_size=self.local_batch,
            client={"learning_rate": self.rate},
            weighting=weighting,
        )

    def identity(self) -> str:
        """Hash of everything that determines the outcome, but for the code."""
        content = {k: v for k, v in asdict(self).items() if k != "name"}
        content["data"] = Path(self.data).name
        content["attack"] = registry.attacks.create(self.attack).config()
        return config_hash(content)

    def file(self, folder: Path) -> Path:
        """Where its outcome lies."""
        return folder / "arms" / f"{self.identity()[:16]}.json"


@dataclass(frozen=True)
class Outcome:
    """What an arm gave.

    Attributes:
      arm: the arm.
      summary: `Summary.as_dict()`, or None if every attack was refused.
      rows: one an image.
      originals, found: `[n, *input_shape]`; not-a-number where there is no reconstruction.
      ways: one an observation, where the attack kept its path: `evaluations` `[k]` and `psnr` `[k, n]` along it.
      strip: the first observation's examples at a few points of the way, and which points; empty without a path.
      refused: why the attack would not run, or "".
      extra: other things findings said, by name, one entry an observation.
      accuracy: test accuracy of the model attacked; None if untrained.
    """

    arm: Arm
    summary: dict[str, Any] | None
    rows: list[dict[str, Any]]
    originals: np.ndarray
    found: np.ndarray
    ways: list[dict[str, Any]] = field(default_factory=list)
    strip: dict[str, np.ndarray] = field(default_factory=dict)
    refused: str = ""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    accuracy: float | None = None

    def scores(self) -> list[Score]:
        """One score an observation, from the rows."""
        found: dict[int, list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(row["trial"], []).append(row)
        return [_score(rows) for rows in found.values()]


def _score(rows: list[dict[str, Any]]) -> Score:
    images = tuple(
        ImageScore(
            **{f.name: row[f.name] for f in fields(ImageScore) if f.name != "extra"} | {"psnr": float(row["psnr"])}
        )
        for row in rows
    )
    labels = [i.label_right for i in images if i.label_right is not None]
    one = rows[0]
    return Score(
        images=images,
        matched=None,
        threshold_db=THRESHOLD_DB,
        label_accuracy=float(np.mean(labels)) if labels else None,
        seconds=one["seconds"],
        compile_seconds=one["compile_seconds"],
        evaluations=one["evaluations"],
        restarts=one["restarts"],
        objective=float(one["objective"]),
    )


@lru_cache(maxsize=4)
def _data(name: str) -> tuple[Any, Any]:
    train, test = load_data(name)
    return train, test if test is not None else train


@lru_cache(maxsize=4)
def _model(name: str, data: str) -> Any:
    dataset = _data(data)[1]
    return load_model(name, input_shape=dataset.input_shape, num_classes=dataset.num_classes)


@lru_cache(maxsize=16)
def trained_weights(model: str, data: str, rounds: int, seed: int) -> tuple[np.ndarray, float | None]:
    """Weights `[d]` after that many rounds of FedAvg (100 IID clients, 10 a round, B=10, E=1), and test accuracy."""
    train, test = _data(data)
    federation = Federation(
        _model(model, data),
        train,
        make_partition("iid", train, clients=100),
        make_procedure(
            local_epochs=1, batch_size=10, client={"learning_rate": 0.1}, sampling={"kind": "fixed", "size": 10}
        ),
        test=test,
        seed=seed,
    )
    history = federation.run(rounds)
    return history.weights, history.accuracy


def run(arm: Arm, folder: Path, say: Callable[[str], None] = print) -> Outcome:
    """The arm's outcome, from its file if it has been run."""
    path = arm.file(folder)
    if path.exists():
        return load(arm, folder)
    test = _data(arm.data)[1]
    model = _model(arm.model, arm.data)
    weights, accuracy = trained_weights(arm.model, arm.data, arm.rounds, arm.seed) if arm.rounds else (None, None)
    exposure = Exposure(
        model,
        test,
        trials=arm.images // (arm.batch * arm.cohort),
        batch=arm.batch,
        cohort=arm.cohort,
        procedure=arm.procedure(),
        defenses=tuple(registry.defenses.create(d) for d in arm.defenses),
        seed=arm.seed,
        weights=weights,
    )
    attack = registry.attacks.create(arm.attack)
    scores: list[Score] = []
    originals, found, ways, rows = [], [], [], []
    strip: dict[str, np.ndarray] = {}
    extra: dict[str, list[Any]] = {}
    refused, began = "", time.perf_counter()
    each = attempts(attack, exposure, goal_of(attack, threshold_db=THRESHOLD_DB), arm.seed)
    while True:
        try:
            if (attempt := next(each, None)) is None:
                break
            trial, truth = attempt.applied(), attempt.truth.x
        except (CapabilityError, DivergenceError) as e:
            refused = str(e)
            break
        matched = aligned(trial.finding, trial.score)
        originals.append(truth)
        found.append(np.full_like(truth, np.nan) if matched is None else matched)
        scores.append(trial.score)
        rows += trial.score.rows(arm=arm.name, trial=attempt.number, objective=trial.finding.objective)
        if trial.finding.path is not None:
            way = progress(trial.finding, truth)
            ways.append({"evaluations": way.evaluations.tolist(), "psnr": np.round(way.psnr, 3).tolist()})
            if not strip:
                points = log_spaced(way.evaluations, 9)
                strip = {"evaluations": way.evaluations[points], "x": way.x[points]}
        for key in ("statuses", "label_source", "exact", "refined", "rank_analysis", "separated"):
            if key in trial.finding.extra:
                extra.setdefault(key, []).append(trial.finding.extra[key])
    summary = summarize(scores).as_dict() if scores and not refused else None
    say(f"{arm.name}: {summarize(scores).describe() if summary else 'refused: ' + refused}")
    outcome = Outcome(
        arm,
        summary,
        rows,
        np.concatenate(originals) if originals else np.zeros((0, *test.input_shape), np.float32),
        np.concatenate(found) if found else np.zeros((0, *test.input_shape), np.float32),
        ways,
        strip,
        refused,
        extra,
        accuracy,
    )
    _save(outcome, path, attack.config(), time.perf_counter() - began)
    return outcome


def _save(outcome: Outcome, path: Path, attack: dict[str, Any], seconds: float) -> None:
    import io

    buffer = io.BytesIO()
    pictures = {"originals": outcome.originals, "found": outcome.found}
    pictures |= {"strip_x": outcome.strip["x"]} if outcome.strip else {}
    arrays = {k: np.asarray(v, np.float16) for k, v in pictures.items()}
    if outcome.strip:
        arrays["strip_evaluations"] = outcome.strip["evaluations"]
    np.savez_compressed(buffer, **arrays)
    write_bytes(path.with_suffix(".npz"), buffer.getvalue())
    arm = asdict(outcome.arm) | {"data": Path(outcome.arm.data).name}
    write_json(
        path,
        jsonable(
            {
                "arm": arm,
                "attack": attack,
                "summary": outcome.summary,
                "rows": outcome.rows,
                "ways": outcome.ways,
                "refused": outcome.refused,
                "extra": outcome.extra,
                "model_accuracy": outcome.accuracy,
                "seconds_with_everything": seconds,
                "versions": versions(),
            }
        ),
    )


def load(arm: Arm, folder: Path) -> Outcome:
    """The outcome in an arm's file."""
    path = arm.file(folder)
    saved = json.loads(path.read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        originals, found = (arrays[name].astype(np.float32) for name in ("originals", "found"))
        strip = {}
        if "strip_x" in arrays:
            strip = {"evaluations": arrays["strip_evaluations"], "x": arrays["strip_x"].astype(np.float32)}
    summary, rows, ways = saved["summary"], saved["rows"], saved["ways"]
    refused, extra, accuracy = (saved[name] for name in ("refused", "extra", "model_accuracy"))
    return Outcome(arm, summary, rows, originals, found, ways, strip, refused, extra, accuracy)
