"""Attempts: one attack on every observation of rounds that are run to be attacked. The only such loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.stage import Stage
from fedpriv.rounds.trial import Inapplicable, Trial, try_trial
from fedpriv.threat.attack import Attack
from fedpriv.threat.goal import Goal
from fedpriv.threat.tap import Observation


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One attack on one observation.

    Attributes:
      trial: the round attacked, from 0.
      number: from 0 over all attempts; the attack's seed is `integer_seed(seed, Purpose.ATTACK, number)`.
      observation: view and truth; None where the adversary does not exist in this round.
      result: finding and score, or why the attack does not apply.
    """

    trial: int
    number: int
    observation: Observation | None
    result: Trial | Inapplicable

    @property
    def units(self) -> int | None:
        """How many examples, or other units of the goal, it is about; None where nothing was observed."""
        if self.observation is None:
            return None
        truth = self.observation.truth
        return len(truth.y if truth.answer is None else truth.answer)


def attempts(attack: Attack, rounds: Stage | Exposure, goal: Goal, seed: int) -> Iterator[Attempt]:
    """Attacks one observation after the other; ends the engine's processes when it is through.

    Args:
      attack: the attack.
      rounds: what is attacked; a Stage where the goal has questions.
      goal: what is asked.
      seed: of the attack's draws, together with an attempt's number.
    """
    exposure = rounds.exposure if isinstance(rounds, Stage) else rounds
    number = 0
    try:
        for trial in range(exposure.trials):
            try:
                seen = rounds.observe(trial)
            except CapabilityError as e:  # such an adversary does not exist here
                yield Attempt(trial=trial, number=number, observation=None, result=Inapplicable(str(e)))
                number += 1
                continue
            for observation in seen:
                result = try_trial(attack, observation, integer_seed(seed, Purpose.ATTACK, number), goal)
                yield Attempt(trial=trial, number=number, observation=observation, result=result)
                number += 1
    finally:
        exposure.federation.close()
