"""Work: what a cell does: trains a federation, then attacks updates made from its weights. Runs in any process."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.atomic import jsonable
from fedpriv.base.errors import CapabilityError, LedgerError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.defense.codec import Codec
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Station, labels
from fedpriv.experiment.setting import Setting
from fedpriv.rounds.trial import Inapplicable, Trial, try_trial

if TYPE_CHECKING:
    from fedpriv.data.dataset import Dataset
    from fedpriv.models.model import Model
    from fedpriv.rounds.record import History
    from fedpriv.threat.goal import Goal
    from fedpriv.threat.observation import Observation


@dataclass
class Outcome:
    """What one piece of work brought.

    Attributes:
      facts: single values, such as `accuracy` and `epsilon`; they become columns.
      scores: of the attack, one dict a view: its `trial`, and what `Goal.dump` made of the score with the attack's own
        `measures`; or, where the attack does not apply, the reason as `inapplicable`, and how many `units` it is about.
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
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.rounds.stage import stage

    began = time.perf_counter()
    made, goal, how = setting.made_attack(), setting.made_goal(), setting.exposure
    assert made is not None
    assert goal is not None
    training, test = datasets(setting.data, setting.data_dir)
    held_out = test is not None and len(test) >= how.images + how.auxiliary
    data = test if test is not None and held_out else training
    goal.check(data.input_shape)
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
    trained = weights is not None
    staged = stage(
        exposure,
        goal,
        seed=seed,
        auxiliary=how.auxiliary,
        members=training if trained and held_out else None,
        outsiders=held_out or not trained,
    )
    gathered = _Gathered(goal, keep_images)
    try:
        for trial in range(how.trials):
            try:
                seen = staged.observe(trial)
            except CapabilityError as e:  # such an adversary does not exist here
                gathered.refuse(trial, Inapplicable(str(e)), how.batch * how.cohort)
                continue
            for observation in seen:
                attack_seed = integer_seed(seed, Purpose.ATTACK, len(gathered.scores))
                gathered.take(trial, try_trial(made, observation, attack_seed, goal), observation)
    finally:
        staged.exposure.federation.close()
    always = set.intersection(*gathered.replayed) if gathered.replayed else set()
    facts = {
        "adaptive": adaptive(setting, always),
        "replayed": sorted(always),
        "threat": how.with_own_data(" ".join(gathered.threats) or how.position().describe(made.brings())),
        "held_out": held_out,
    }
    return Outcome(facts, gathered.scores, [], gathered.arrays(), time.perf_counter() - began)


@dataclass
class _Gathered:
    """What the trials of a cell gave."""

    goal: Goal
    keep_images: int
    scores: list[dict[str, Any]] = field(default_factory=list)
    originals: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)
    replayed: list[set[str]] = field(default_factory=list)
    threats: dict[str, None] = field(default_factory=dict)

    def refuse(self, trial: int, result: Inapplicable, units: int) -> None:
        self.scores.append({"trial": trial, "inapplicable": result.reason, "units": units})

    def take(self, trial: int, result: Trial | Inapplicable, observation: Observation) -> None:
        from fedpriv.metrics.score import aligned

        truth, matched = observation.truth, None
        if isinstance(result, Inapplicable):
            self.refuse(trial, result, len(truth.y if truth.answer is None else truth.answer))
        else:
            self.replayed.append(set(result.replayed))
            self.threats[result.threat] = None
            measures = {name: float(value) for name, value in result.finding.measures.items()}
            self.scores.append({"trial": trial, **self.goal.dump(result.score), "measures": jsonable(measures)})
        if "reconstructions" not in self.goal.draws or sum(map(len, self.originals)) >= self.keep_images:
            return
        if isinstance(result, Trial):
            matched = aligned(result.finding, result.score)
        self.originals.append(truth.x)
        self.found.append(np.full_like(truth.x, np.nan) if matched is None else matched)

    def arrays(self) -> dict[str, np.ndarray]:
        if not self.originals:
            return {}
        kept = {"originals": self.originals, "found": self.found}
        return {name: np.concatenate(parts)[: self.keep_images] for name, parts in kept.items()}


def adaptive(setting: Setting, replayed: Collection[str]) -> bool | None:
    """Whether the attack knows the defenses and took each into account: it is named by it, or replayed it.

    A replay leaves out noise, so it counts where there is none, or where what is seen is from before it.

    Args:
      setting: attack, defenses and adversary.
      replayed: labels of the defenses that its replay was seen to run; see `Trial.replayed`.

    Returns:
      None without any defense.
    """
    made, defenses = setting.made_attack(), setting.made_defenses()
    if made is None or not defenses:
        return None
    adversary = setting.exposure.position()

    def considered(label: str, defense: Defense) -> bool:
        return defense.adaptive_attack == made.name or all(part_replayed(label, part) for part in defense.parts())

    def part_replayed(label: str, part: Defense) -> bool:
        if isinstance(part, Protocol | Codec):  # the view holds what it leaves
            return True
        at_server = part.acts_at(Station.AGGREGATE) and not adversary.at.sees_only_released
        return (part.replayable or at_server) and part.replay() is not None and label in replayed

    return "defense" in adversary.knows and all(map(considered, labels(defenses), defenses))
