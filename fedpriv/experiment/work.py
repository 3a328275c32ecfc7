"""Work: what a cell does: trains a federation, then attacks updates made from its weights. Runs in any process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import LedgerError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.defense.protocol import Protocol
from fedpriv.experiment.setting import Setting

if TYPE_CHECKING:
    from fedpriv.data.dataset import Dataset
    from fedpriv.models.model import Model
    from fedpriv.rounds.record import History


@dataclass
class Outcome:
    """What one piece of work brought.

    Attributes:
      facts: single values, such as `accuracy` and `epsilon`; they become columns.
      scores: of the attack, one dict a trial, as `score_dict` makes them.
      rounds: of the training, one row each.
      arrays: `weights` of a training; `originals` and `found` of an attack.
      seconds: wall-clock.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0


@lru_cache(maxsize=4)
def datasets(data: str, data_dir: str | None) -> tuple[Dataset, Dataset | None]:
    """Training and test set; kept, since cells share them."""
    from fedpriv.data import load

    return load(data, data_dir=data_dir)


@lru_cache(maxsize=4)
def _model(text: str, shape: tuple[int, ...], classes: int) -> Model:
    """Kept, so that attacks compiled for it serve the next cell as well."""
    from fedpriv.models import load

    return load(text, input_shape=shape, num_classes=classes)


def fingerprint(setting: Setting) -> str:
    """Of the data, training and test set."""
    train, test = datasets(setting.data, setting.data_dir)
    return train.fingerprint + (test.fingerprint if test is not None else "")


def train(setting: Setting, seed: int) -> Outcome:
    """Trains `setting.training`; the outcome's `weights` are what is attacked."""
    from fedpriv.data import make_partition
    from fedpriv.federation.federation import Federation

    began = time.perf_counter()
    how = setting.training
    training, test = datasets(setting.data, setting.data_dir)
    clients = how.clients
    if clients is None and not how.partition.startswith("natural"):
        clients = 100
    parts = make_partition(how.partition, training, clients, seed)
    federation = Federation(
        _model(setting.model, training.input_shape, training.num_classes),
        training,
        parts,
        how.procedure(len(parts)),
        setting.made_defenses() if how.defended else (),
        test,
        seed=seed,
        engine=setting.engine,
        engine_options=setting.engine_options(),
        on_nonfinite=setting.on_nonfinite,
        rounds=how.rounds,
        accountant=setting.accountant,
    )
    goal = how.target_accuracy
    try:
        history = federation.run(
            how.rounds,
            evaluate_every=how.evaluate_every,
            delta=setting.delta,
            stop_when=None if goal is None else lambda r: r.accuracy is not None and r.accuracy >= goal,
        )
        if history.interrupted:
            raise KeyboardInterrupt
        facts = _utility(federation, history, setting)
    finally:
        federation.close()
    rounds = [{k: v for k, v in r.row().items() if k not in ("metrics", "dropped")} for r in history.records]
    return Outcome(facts, [], rounds, {"weights": history.weights}, time.perf_counter() - began)


def _utility(federation: Any, history: History, setting: Setting) -> dict[str, Any]:
    records = history.records
    goal = setting.training.target_accuracy
    tested = [r.test_loss for r in records if r.test_loss is not None]
    facts = {
        "rounds_done": len(records),
        "accuracy": history.accuracy,
        "test_loss": tested[-1] if tested else None,
        "bytes_up": sum(r.bytes_up for r in records),
        "bytes_down": sum(r.bytes_down for r in records),
        "seconds_a_round": float(np.median([r.seconds for r in records])),
    }
    if goal is not None:
        facts["rounds_to_target"] = history.rounds_to(goal)
    ledger = federation.ledger()
    if ledger is not None:
        ledger.spend(len(records))
        for against in ("server", "released"):
            try:
                facts[f"epsilon_{against}"] = float(ledger.epsilon(setting.delta, against=against).value)
            except LedgerError:
                facts[f"epsilon_{against}"] = None
    return facts


def attack(setting: Setting, seed: int, weights: np.ndarray | None, keep_images: int) -> Outcome:
    """Attacks `setting.exposure`.

    Args:
      setting: the cell's.
      seed: the cell's.
      weights: `[d]` of the model that is attacked; None draws fresh ones for every trial.
      keep_images: how many originals and reconstructions to keep.

    Returns:
      the outcome; its fact `held_out` says whether the images are the test set's, or, where that is missing or too
      small, the training set's.
    """
    from fedpriv.metrics.score import aligned
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.rounds.trial import run_trial

    began = time.perf_counter()
    made, how = setting.made_attack(), setting.exposure
    assert made is not None
    training, test = datasets(setting.data, setting.data_dir)
    held_out = test is not None and len(test) >= how.images
    data = test if test is not None and held_out else training
    exposure = Exposure(
        _model(setting.model, data.input_shape, data.num_classes),
        data,
        how.trials,
        how.batch,
        how.cohort,
        how.procedure(),
        setting.made_defenses(),
        how.position(),
        seed=seed,
        weights=weights,
        engine=setting.engine,
        engine_options=setting.engine_options(),
    )
    scores: list[dict[str, Any]] = []
    originals: list[np.ndarray] = []
    found: list[np.ndarray] = []
    try:
        for trial in range(how.trials):
            for observation in exposure.observe(trial):
                attack_seed = integer_seed(seed, Purpose.ATTACK, len(scores))
                result = run_trial(made, observation, attack_seed, threshold_db=setting.threshold_db)
                scores.append({"trial": trial, **score_dict(result.score)})
                if sum(len(x) for x in originals) < keep_images:
                    matched = aligned(result.finding, result.score)
                    originals.append(observation.truth.x)
                    found.append(np.full_like(observation.truth.x, np.nan) if matched is None else matched)
    finally:
        exposure.federation.close()
    arrays = {}
    if originals:
        arrays = {"originals": np.concatenate(originals)[:keep_images], "found": np.concatenate(found)[:keep_images]}
    facts = {"adaptive": adaptive(setting), "threat": how.position().describe(), "held_out": held_out}
    return Outcome(facts, scores, [], arrays, time.perf_counter() - began)


def adaptive(setting: Setting) -> bool | None:
    """Whether the attack knows the defenses and takes them into account: it is named by each, or replays it.

    None without any defense.
    """
    made, defenses = setting.made_attack(), setting.made_defenses()
    if made is None or not defenses:
        return None
    adversary = setting.exposure.position()

    def considered(defense: Any) -> bool:
        # Of a protocol, the view holds what it leaves, and `simulate` replays that.
        exact = defense.replayable or (defense.noise_at_server and adversary.position != "observer")
        replayed = isinstance(defense, Protocol) or (exact and defense.replay() is not None)
        return defense.adaptive_attack == made.name or (made.adapts and replayed)

    return "defense" in adversary.knows and all(map(considered, defenses))


def score_dict(score: Any) -> dict[str, Any]:
    """A Score as JSON can hold it."""
    from fedpriv.base.atomic import jsonable

    made: dict[str, Any] = jsonable(score)
    return made


def score_of(saved: Mapping[str, Any]) -> Any:
    """The Score that `score_dict` made."""
    from fedpriv.metrics.score import ImageScore, Score

    def number(value: Any) -> float | None:
        return None if value is None else float(value)

    images = tuple(
        ImageScore(
            **{
                **i,
                **{k: number(i[k]) for k in ("psnr", "ssim", "mse")},
                "extra": {k: float(v) for k, v in i["extra"].items()},
            }
        )
        for i in saved["images"]
    )
    matched = saved["matched"]
    rest = {
        k: saved[k] for k in ("threshold_db", "label_accuracy", "seconds", "compile_seconds", "evaluations", "restarts")
    }
    objective = saved["objective"]
    return Score(
        images=images,
        matched=None if matched is None else np.asarray(matched, np.int64),
        objective=float("nan") if objective is None else float(objective),
        surplus=saved["surplus"],
        metrics=saved["metrics"],
        **rest,
    )
