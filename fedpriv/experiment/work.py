"""Work: what a cell does: trains a federation, then attacks updates made from its weights. Runs in any process."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.atomic import jsonable
from fedpriv.base.errors import LedgerError
from fedpriv.base.types import Row
from fedpriv.data.kind import Kind
from fedpriv.defense.codec import Codec
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Station, labels
from fedpriv.experiment.assembly import describe_images, make_federation, make_stage, threat_line
from fedpriv.experiment.attack_bounds import attack_bounds
from fedpriv.experiment.setting import Setting
from fedpriv.models.model import Model
from fedpriv.rounds.attempts import Attempt, attempts
from fedpriv.rounds.record import in_words
from fedpriv.rounds.trial import Inapplicable, Trial
from fedpriv.threat.replays import CELLS, DRAWS, NOISE

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation
    from fedpriv.rounds.record import History
    from fedpriv.threat.attack import Finding
    from fedpriv.threat.goal import Goal
    from fedpriv.threat.truth import Truth

#: What is kept of an attack's way: points of its curve, frames and images of its film strip.
POINTS, FRAMES, ROWS = 60, 7, 3
#: What is kept of rounds without a server, whose peers have models of their own.
PEERS = ("consensus_distance", "average_model_accuracy")


@dataclass
class Outcome:
    """What one piece of work brought.

    Attributes:
      facts: single values, such as `accuracy` and `epsilon`; they become columns.
      scores: of the attack, one dict a view: its `trial`, and what `Goal.dump` made of the score with the attack's own
        `measures`, of rows of a table the `cells`, and of its `control`, where it has one, the same or the reason why
        there is none as `inapplicable`; or, where the attack does not apply, the reason as `inapplicable`, and how many
        `units` it is about.
      rounds: of the training, one row each.
      arrays: `weights` of a training; `originals` and `found` of an attack, `from_noise` of its control, and the
        `strip_...` of its film strip. Of texts `words` and `found_words` `[n, length]`, "" for places without a token,
        and `found_known` `[n]`, whether there is one.
      seconds: wall-clock.
    """

    facts: Row = field(default_factory=dict)
    scores: list[Row] = field(default_factory=list)
    rounds: list[Row] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0


def train(setting: Setting, seed: int) -> Outcome:
    """Trains `setting.training`; the outcome's `weights` are what is attacked."""
    began = time.perf_counter()
    how = setting.training
    federation = make_federation(setting, seed)
    goal = how.target_accuracy
    try:
        history = federation.run(
            how.rounds,
            evaluate_every=how.evaluate_every,
            delta=setting.stated_delta,
            stop_when=None if goal is None else lambda r: r.accuracy is not None and r.accuracy >= goal,
        )
        if history.interrupted:
            raise KeyboardInterrupt
        warned = in_words((r.warnings for r in history.records), f"{len(history.records)} rounds")
        facts = _utility(history, setting) | {**_notes(federation), "warnings": warned}
        noise = [(label, getattr(d, "noise_multiplier", None)) for label, d in _labelled(federation)]
        if said := ", ".join(f"{label} {z:g}" for label, z in noise if z is not None):
            facts["noise_multiplier"] = said
        if federation.calibrated:
            facts["calibrated"] = dict(federation.calibrated)
    finally:
        federation.close()
    rounds = [
        {k: v for k, v in r.row().items() if k not in ("metrics", "dropped")}
        | {k: r.metrics[k] for k in PEERS if k in r.metrics}
        for r in history.records
    ]
    return Outcome(facts, [], rounds, {"weights": history.weights}, time.perf_counter() - began)


def _labelled(federation: Federation) -> Iterable[tuple[str, Defense]]:
    return zip(labels(federation.defenses), federation.defenses, strict=True)


def _notes(federation: Federation) -> Row:
    simulated = federation.plan.simulation()
    data = [federation.train, *([] if federation.test is None else [federation.test])]
    notes = {
        "data_notes": [note for d in data for note in d.notes],
        "model_notes": list(federation.model.notes),
        "defense_notes": federation.line.notes(),
    }
    return notes | ({"simulated": simulated} if simulated else {})


def _measured(goal: Goal, kind: Kind) -> Row:
    """What reports must know of the examples, where the goal has other columns for them than for images."""
    examples = kind.measured
    return {} if goal.about(examples) is goal else {"examples": examples.dump()}


def _utility(history: History, setting: Setting) -> Row:
    records = history.records
    goal = setting.training.target_accuracy
    tested = [r.test_loss for r in records if r.test_loss is not None]
    facts: Row = {
        "rounds_done": len(records),
        "accuracy": history.accuracy,
        "test_loss": tested[-1] if tested else None,
        "bytes_up": sum(r.bytes_up for r in records),
        "bytes_down": sum(r.bytes_down for r in records),
        "seconds_a_round": float(np.median([r.seconds for r in records])),
    }
    facts |= {k: records[-1].metrics[k] for k in PEERS if records and k in records[-1].metrics}
    perplexities = [r.metrics["test_perplexity"] for r in records if "test_perplexity" in r.metrics]
    if perplexities:
        facts["perplexity"] = perplexities[-1]
    if goal is not None:
        facts["rounds_to_target"] = history.rounds_to(goal)
    ledger = history.ledger
    if ledger is not None:
        for against in ("server", "released"):
            try:
                found = ledger.epsilon(setting.stated_delta, against=against)
                facts |= {f"epsilon_{against}": float(found.value), f"unit_{against}": found.unit}
                facts[f"relation_{against}"] = found.relation
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
      the outcome; its facts say which images were attacked (see `describe_images`).
    """
    began = time.perf_counter()
    made, goal = setting.made_attack(), setting.made_goal()
    assert made is not None
    assert goal is not None
    gathered = _Gathered(goal, keep_images, setting.film)
    staged = make_stage(setting, seed, weights)
    images, threat = describe_images(setting, staged, seed), threat_line(setting, staged)
    try:
        for attempt in attempts(made, staged, goal, seed, setting.control):
            gathered.take(attempt, setting.exposure.batch * setting.exposure.population)
    finally:
        staged.exposure.federation.close()
    always = set.intersection(*gathered.replayed) if gathered.replayed else set()
    facts = {
        "adaptive": adaptive(setting, always, staged.exposure.federation.model),
        "replayed": sorted(label for label in always if not label.startswith(NOISE)),
        "threat": threat,
        **_notes(staged.exposure.federation),
        **_measured(goal, staged.exposure.data.kind),
        **images,
        **attack_bounds(setting, staged, seed),
    }
    checks = [alarms for trial in range(setting.exposure.trials) if (alarms := staged.exposure.alarms(trial))]
    if checks:
        facts["alarmed"] = float(np.mean([max(alarms.values()) for alarms in checks]))
    if warned := in_words(gathered.warned.values(), f"{setting.exposure.trials} trials"):
        facts["attack_warnings"] = warned
    return Outcome(facts, gathered.scores, [], gathered.arrays(), time.perf_counter() - began)


@dataclass
class _Gathered:
    """What the trials of a cell gave."""

    goal: Goal
    keep_images: int
    film: bool
    scores: list[Row] = field(default_factory=list)
    originals: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)
    from_noise: list[np.ndarray] = field(default_factory=list)
    drawn_from_noise: bool = False
    words: list[tuple[list[str], list[str] | None]] = field(default_factory=list)
    replayed: list[set[str]] = field(default_factory=list)
    strip: dict[str, np.ndarray] = field(default_factory=dict)
    warned: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def take(self, attempt: Attempt, units: int) -> None:
        """Takes one attempt in; `units` is how many it is about where nothing was observed."""
        from fedpriv.metrics.cells import cells
        from fedpriv.metrics.score import aligned

        result, matched = attempt.result, None
        if isinstance(result, Inapplicable):
            asked = units if attempt.units is None else attempt.units
            self.scores.append({"trial": attempt.trial, "inapplicable": result.reason, "units": asked})
        else:
            self.replayed.append(set(result.finding.replayed))
            measures = {name: float(value) for name, value in result.finding.measures.items()}
            self.scores.append({"trial": attempt.trial, **self.goal.dump(result.score), "measures": jsonable(measures)})
            if isinstance(attempt.control, Trial):
                self.scores[-1]["control"] = self.goal.dump(attempt.control.score)
            elif attempt.control is not None:
                self.scores[-1]["control"] = {"inapplicable": attempt.control.reason}
        if attempt.observation is None:
            return
        self.warned[attempt.trial] = attempt.observation.warnings
        truth = attempt.observation.truth
        if self.film and isinstance(result, Trial):
            self._keep_way(result.finding, truth)
        if "reconstructions" not in self.goal.draws:
            return
        left = max(0, self.keep_images - sum(map(len, self.originals)))
        if isinstance(result, Trial):
            by_cell = cells(result.finding, result.score, truth, left)
            if by_cell is not None:
                self.scores[-1]["cells"] = by_cell.dump()
        if not left:
            return
        if isinstance(result, Trial):
            matched = aligned(result.finding, result.score, truth.kind)
        self.originals.append(truth.x)
        self.found.append(np.full_like(truth.x, np.nan) if matched is None else matched)
        beside = attempt.control
        drawn = aligned(beside.finding, beside.score, truth.kind) if isinstance(beside, Trial) else None
        self.from_noise.append(np.full_like(truth.x, np.nan) if drawn is None else drawn)
        self.drawn_from_noise |= drawn is not None
        pairs = zip(self.originals[-1], self.found[-1], strict=True)
        self.words += [
            (original, truth.kind.words(b)) for a, b in pairs if (original := truth.kind.words(a)) is not None
        ]

    def _keep_way(self, finding: Finding, truth: Truth) -> None:
        """Quality along the attack's way; of the first one the examples as well."""
        from fedpriv.metrics.progress import progress

        if finding.path is None or finding.history is None or not len(finding.path) or truth.x.ndim != 4:
            return
        way = progress(finding, truth.x, truth.kind).thinned(POINTS)
        kept = {"evaluations": way.evaluations.tolist(), "psnr": jsonable(np.round(way.psnr, 2))}
        self.scores[-1]["way"] = kept
        if not self.strip:
            few = way.thinned(FRAMES)
            self.strip = {"strip_evaluations": few.evaluations, "strip_psnr": few.psnr[:, :ROWS]}
            self.strip |= {"strip_x": few.x[:, :ROWS], "strip_originals": truth.x[:ROWS]}

    def arrays(self) -> dict[str, np.ndarray]:
        if not self.originals:
            return self.strip
        if self.words:
            originals, found = zip(*self.words[: self.keep_images], strict=True)
            known = [words is not None for words in found]
            blank = [words or [""] * len(original) for original, words in zip(originals, found, strict=True)]
            made = {"words": np.array(originals), "found_words": np.array(blank), "found_known": np.array(known)}
            return made | self.strip
        kept = {"originals": self.originals, "found": self.found}
        if self.drawn_from_noise:
            kept["from_noise"] = self.from_noise
        return {name: np.concatenate(parts)[: self.keep_images] for name, parts in kept.items()} | self.strip


def adaptive(setting: Setting, replayed: Collection[str], model: Model | None = None) -> bool | None:
    """Whether the attack knows the defenses and took each into account: it is named by it, or replayed it.

    A replay leaves out noise, so it counts where there is none, where what is seen is from before it, or where the
    attack reckoned with its declared size.

    Args:
      setting: attack, defenses and adversary.
      replayed: labels of the defenses that its replay was seen to run, and whose noise it knew; see `Finding.replayed`.
      model: what is trained, whose draws are a defense as well.

    Returns:
      None without any defense.
    """
    made, defenses = setting.made_attack(), setting.made_defenses()
    draws = model is not None and bool(model.draws)
    if made is None or not (defenses or draws):
        return None
    if draws and model is not None and DRAWS + model.name not in replayed:
        return False
    adversary = setting.exposure.position()

    def considered(label: str, defense: Defense) -> bool:
        return defense.adaptive_attack == made.name or all(part_replayed(label, part) for part in defense.parts())

    def part_replayed(label: str, part: Defense) -> bool:
        if isinstance(part, Protocol | Codec):  # the view holds what it leaves
            return True
        at_server = part.acts_at(Station.AGGREGATE) and not adversary.at.sees_only_released
        if CELLS + label in replayed:
            return True
        if NOISE + label in replayed and part.replay() is None:  # noise is all there is to reckon with
            return True
        known = part.replayable or at_server or NOISE + label in replayed
        return known and part.replay() is not None and label in replayed

    return "defense" in adversary.knows and all(map(considered, labels(defenses), defenses))
