"""Trial: one attack on one observation or episode, scored. The only place where a view's truth and a finding meet."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from fedpriv.base.errors import CapabilityError, FedprivError
from fedpriv.defense.stations import labels
from fedpriv.threat.attack import Attack, Finding
from fedpriv.threat.control import in_noise
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.goal import Goal, goal_of
from fedpriv.threat.observation import Episode, Observation
from fedpriv.threat.view import View


@dataclass(frozen=True)
class Trial:
    """An attack's finding and its score against the truth.

    Attributes:
      finding: what the attack claims.
      score: of the goal's kind, such as `fedpriv.metrics.score.Score`.
      threat: who attacked, knowing what, what the attack brought in included.
      replayed: labels of the known defenses that the attack's replay took into account.
      ignored: those of the known defenses that it did not.
    """

    finding: Finding
    score: Any
    threat: str = ""
    replayed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inapplicable:
    """An attack that does not apply to a view: an outcome, neither a failure of the attack nor of the program.

    Attributes:
      reason: why, in a sentence.
    """

    reason: str


def inapplicable(attack: str, reason: str) -> str:
    """That an attack of this name does not apply, and why, with its name said once."""
    return reason if reason.startswith(f"attack '{attack}' ") else f"attack '{attack}' does not apply: {reason}"


def run_trial(
    attack: Attack, observation: Observation | Episode, seed: int = 0, goal: Goal | None = None, **parameters: Any
) -> Trial:
    """Runs `attack` on the view, or the dossier, alone, then scores it.

    Args:
      attack: the attack.
      observation: view and truth, with the goal's question where it asks one (`Goal.pose`); an Episode for an attack
        that looks at several rounds.
      seed: the attack's own seed.
      goal: what is asked; None for what the attack answers.
      parameters: of that goal, instead, such as `threshold_db=20`.

    Raises:
      CapabilityError: the view lacks something the attack needs.
    """
    asked = goal_of(attack, **parameters) if goal is None else goal
    return _scored(attack, isolated(attack, observation.held, seed), observation, asked)


def try_trial(attack: Attack, observation: Observation | Episode, seed: int, goal: Goal) -> Trial | Inapplicable:
    """As `run_trial`; that the attack does not apply to the view is an outcome."""
    try:
        finding = isolated(attack, observation.held, seed)
    except CapabilityError as e:
        return Inapplicable(str(e))
    return _scored(attack, finding, observation, goal)


def try_control(
    attack: Attack, observation: Observation | Episode, seed: int, goal: Goal, noise: int
) -> Trial | Inapplicable:
    """As `try_trial`, on noise of the update's norm in place of the update; see `fedpriv.threat.control.in_noise`.

    An attack that fails on noise, by whatever error of ours, has no control.

    Args:
      attack: the attack.
      observation: as it is attacked.
      seed: the attack's own, that of the trial.
      goal: what is asked.
      noise: seed of the noise.
    """
    try:
        return _scored(attack, isolated(attack, in_noise(observation.held, noise), seed), observation, goal)
    except FedprivError as e:
        return Inapplicable(str(e))


def _scored(attack: Attack, finding: Finding, observation: Observation | Episode, goal: Goal) -> Trial:
    view = observation.dossier.pages[0] if isinstance(observation, Episode) else observation.view
    known = labels(view.defenses)
    return Trial(
        finding,
        goal.score(finding, observation.truth),
        view.adversary.describe(attack.brings()),
        tuple(d for d in known if d in finding.replayed),
        tuple(d for d in known if d not in finding.replayed),
    )


def isolated(attack: Attack, view: View | Dossier, seed: int = 0) -> Finding:
    """Runs `attack` on a thread of its own, whose call stack leads to the view and to no frame with the truth.

    This keeps an honest attack honest. Code that sets out to search this process's memory needs another process;
    a View can be pickled to one when its model can.
    """
    outcome: dict[str, Any] = {}

    def target() -> None:
        try:
            outcome["finding"] = attack.run(view, seed)
        except BaseException as e:
            outcome["error"] = e

    thread = threading.Thread(target=target, name=f"attack-{attack.name}", daemon=True)
    thread.start()
    while thread.is_alive():  # a join with a timeout lets Ctrl-C through
        thread.join(0.2)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["finding"]
