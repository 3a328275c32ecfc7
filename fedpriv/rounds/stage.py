"""Stage: which examples are attacked, asked about, or held by the adversary; no example is two of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fedpriv.base.errors import DataError
from fedpriv.base.seeds import Purpose, generator, integer_seed
from fedpriv.data.dataset import Dataset
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.goal import Goal, Pool
from fedpriv.threat.lab import Lab
from fedpriv.threat.observation import Episode, Observation


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """An exposure with a goal's questions.

    Attributes:
      exposure: the attacked rounds, on the examples that the goal chose.
      goal: what is asked.
      pool: what its questions draw from.
      lab: the adversary's, if it holds data.
      seed: of the questions.
    """

    exposure: Exposure
    goal: Goal
    pool: Pool
    lab: Lab | None
    seed: int

    def observe(self, trial: int) -> list[Observation]:
        """What the adversary gets in one trial, question and lab included."""
        return self._posed(trial, self.exposure.observe(trial))

    def episodes(self, trial: int) -> list[Episode]:
        """What the adversary gets in all rounds of one trial, questions and lab included."""
        return self.exposure.together(self._posed(trial, self.exposure.observe(trial)), trial)

    def _posed(self, trial: int, observations: list[Observation]) -> list[Observation]:
        found = []
        for k, seen in enumerate(observations):
            view = seen.view
            if self.lab is not None:
                view = replace(view, lab=self.lab)
            posed = integer_seed(self.seed, Purpose.QUESTION, trial, k)
            found.append(self.goal.pose(replace(seen, view=view), self.pool, posed))
        return found

    def __iter__(self) -> Iterator[Observation]:
        return (o for trial in range(self.exposure.trials) for o in self.observe(trial))


def stage(
    exposure: Exposure,
    goal: Goal,
    *,
    seed: int = 0,
    auxiliary: int = 0,
    members: Dataset | None = None,
    outsiders: bool = True,
    images: int | None = None,
) -> Stage:
    """Divides the exposure's data among the attacked clients, the questions and the adversary.

    Args:
      exposure: on all the data there is to divide.
      goal: what is asked.
      seed: of the division and the questions.
      images: seed of which examples are attacked, where the goal draws them; None is `seed`.
      auxiliary: examples that the adversary holds, drawn from what is not attacked.
      members: what the attacked model was trained on, for goals that ask about it.
      outsiders: whether what is left is new to the attacked model; False where it was trained on this data.

    Raises:
      DataError: there are too few examples.
    """
    data = exposure.data
    attacked = goal.arrange(
        data, exposure.trials, exposure.population, exposure.batch, seed if images is None else images
    )
    rest = np.setdiff1d(np.arange(len(data)), attacked)
    rest = generator(seed, Purpose.QUESTION, 1).permutation(rest)
    if auxiliary > len(rest):
        raise DataError(
            f"auxiliary={auxiliary}: '{data.name}' has {len(rest)} examples left that are not attacked; ask for fewer, "
            "or attack fewer images"
        )
    lab = None
    if auxiliary:
        knows = exposure.adversary.knows
        lab = Lab(
            data.take(rest[:auxiliary]),
            exposure.model,
            exposure.procedure if "procedure" in knows else None,
            exposure.defenses if "defense" in knows else (),
            exposure.adversary,
            integer_seed(seed, Purpose.LAB),
        )
    others = data.take(rest[auxiliary:]) if outsiders and len(rest) > auxiliary else None
    exposure = replace(exposure, data=data.take(attacked))
    return Stage(exposure=exposure, goal=goal, pool=Pool(outsiders=others, members=members), lab=lab, seed=seed)
