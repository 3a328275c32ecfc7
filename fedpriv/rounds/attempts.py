"""Attempts: one attack on every observation of rounds that are run to be attacked. The only such loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.stage import Stage
from fedpriv.rounds.trial import Inapplicable, Trial, try_control, try_trial
from fedpriv.threat.attack import Attack
from fedpriv.threat.control import Control, is_controlled
from fedpriv.threat.goal import Goal, goal_of
from fedpriv.threat.observation import Episode, Observation
from fedpriv.threat.truth import Truth


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One attack on one observation, or on all that its adversary holds after the trial's rounds.

    Attributes:
      trial: which of the exposure's, from 0.
      number: from 0 over all attempts; the attack's seed is `integer_seed(seed, Purpose.ATTACK, number)`.
      observation: view and truth, or an episode; None where the adversary does not exist, or no sum came out.
      result: finding and score, or why the attack does not apply.
      control: the same of the attack, with the same seed, on noise in place of the update; None where it has no
        control, or does not apply to the update. The noise's seed is `integer_seed(seed, Purpose.CONTROL, number)`.
    """

    trial: int
    number: int
    observation: Observation | Episode | None
    result: Trial | Inapplicable
    control: Trial | Inapplicable | None = None

    @property
    def truth(self) -> Truth:
        """Of what was observed.

        Raises:
          CapabilityError: nothing was.
        """
        if self.observation is None:
            self.applied()
            raise CapabilityError(f"nothing was observed in trial {self.trial}")
        return self.observation.truth

    def applied(self) -> Trial:
        """The result, of an attack that must apply.

        Raises:
          CapabilityError: it does not; says why.
        """
        if isinstance(self.result, Inapplicable):
            raise CapabilityError(self.result.reason)
        return self.result

    @property
    def units(self) -> int | None:
        """How many examples, or other units of the goal, it is about; None where nothing was observed."""
        if self.observation is None:
            return None
        return len(self.truth.y if self.truth.answer is None else self.truth.answer)


def attempts(
    attack: Attack, rounds: Stage | Exposure, goal: Goal | None = None, seed: int = 0, control: Control = "auto"
) -> Iterator[Attempt]:
    """Attacks one observation after the other; an attack that remembers gets each trial's rounds as one episode.

    Args:
      attack: the attack.
      rounds: what is attacked; a Stage where the goal has questions.
      goal: what is asked; None for what the attack answers.
      seed: of the attack's draws, together with an attempt's number.
      control: `noise` also runs the attack on noise in place of each update, `none` does not, `auto` does for an attack
        that uses a generator.

    Raises:
      ParameterError: the adversary listens in several rounds a trial, and the attack looks at one.
    """
    exposure = rounds.exposure if isinstance(rounds, Stage) else rounds
    asked, controlled = goal_of(attack) if goal is None else goal, is_controlled(attack, control)
    if exposure.rounds > 1 and not attack.remembers():
        raise ParameterError(
            f"attack '{attack.name}' looks at one view, but the adversary listens in rounds={exposure.rounds} a trial; "
            "leave rounds out, or choose an attack on several, such as 'sum_difference'"
        )
    number = 0
    for trial in range(exposure.trials):
        try:
            seen = _seen(attack, rounds, trial)
        except CapabilityError as e:  # such an adversary does not exist here
            yield Attempt(trial=trial, number=number, observation=None, result=Inapplicable(str(e)))
            number += 1
            continue
        if not seen:
            why = exposure.silence(trial)
            yield Attempt(trial=trial, number=number, observation=None, result=Inapplicable(why))
            number += 1
        for observation in seen:
            own = integer_seed(seed, Purpose.ATTACK, number)
            result, beside = try_trial(attack, observation, own, asked), None
            if controlled and isinstance(result, Trial):
                noise = integer_seed(seed, Purpose.CONTROL, number)
                beside = try_control(attack, observation, own, asked, noise)
            yield Attempt(trial=trial, number=number, observation=observation, result=result, control=beside)
            number += 1


def _seen(attack: Attack, rounds: Stage | Exposure, trial: int) -> Sequence[Observation | Episode]:
    return rounds.episodes(trial) if attack.remembers() else rounds.observe(trial)
