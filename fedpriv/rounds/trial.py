"""Trial: one attack on one observation, scored. The only place where a view's truth and a finding meet."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpriv.threat.attack import Attack, Finding
from fedpriv.threat.tap import Observation
from fedpriv.threat.view import View

if TYPE_CHECKING:
    from fedpriv.metrics.extra import Metric
    from fedpriv.metrics.score import Score


@dataclass(frozen=True)
class Trial:
    """An attack's finding and its score against the truth."""

    finding: Finding
    score: Score


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

    finding = isolated(attack, observation.view, seed)
    return Trial(finding, score(finding, observation.truth, threshold_db, extra_metrics))


def isolated(attack: Attack, view: View, seed: int = 0) -> Finding:
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
