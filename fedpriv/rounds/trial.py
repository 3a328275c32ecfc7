"""Trial: one attack on one observation, scored. The only place where a view's truth and a finding meet."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.defense.stations import labels
from fedpriv.threat.attack import Attack, Finding
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.tap import Observation
from fedpriv.threat.view import View

if TYPE_CHECKING:
    from fedpriv.metrics.extra import Metric
    from fedpriv.metrics.score import Score


@dataclass(frozen=True)
class Trial:
    """An attack's finding and its score against the truth.

    Attributes:
      finding: the finding.
      score: its score.
      threat: who attacked, knowing what, what the attack brought in included.
      replayed: labels of the known defenses that the attack's replay took into account.
      ignored: those of the known defenses that it did not.
    """

    finding: Finding
    score: Score
    threat: str = ""
    replayed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def run_trial(
    attack: Attack,
    observation: Observation,
    seed: int = 0,
    threshold_db: float = 30.0,
    extra_metrics: Mapping[str, Metric] | None = None,
) -> Trial:
    """Runs `attack` on the view alone, then scores it.

    Args:
      attack: the attack.
      observation: view and truth.
      seed: the attack's own seed.
      threshold_db: PSNR from which a reconstruction counts as a success.
      extra_metrics: more columns of the score by name, such as LPIPS.

    Raises:
      CapabilityError: the view lacks something the attack needs.
    """
    from fedpriv.metrics.score import score

    view = observation.view
    finding = isolated(attack, view, seed)
    known = labels(view.defenses)
    return Trial(
        finding,
        score(finding, observation.truth, threshold_db, extra_metrics),
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
