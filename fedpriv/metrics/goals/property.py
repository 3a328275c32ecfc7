"""Property: do the clients' data have a property that has nothing to do with the task?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.registry import load_dotted
from fedpriv.base.seeds import Purpose, generator
from fedpriv.base.types import Array
from fedpriv.data.dataset import Dataset
from fedpriv.metrics.goals.answers import YesNo
from fedpriv.threat.goal import Pool
from fedpriv.threat.observation import Observation
from fedpriv.threat.question import PropertyQuestion, Trait


class Property(YesNo):
    """Whether each client behind the view holds many or few examples with a property; half of the trials have many.

    Melis, Song, De Cristofaro, Shmatikov, 2019, arXiv 1805.04049; Ganju, Wang, Yang, Gunter, Borisov, 2018, "Property
    Inference Attacks on Fully Connected Neural Networks using Permutation Invariant Representations", CCS.
    """

    name: ClassVar[str] = "property"
    unit: ClassVar[str] = "trial"

    of: str = Field(
        default="label:0",
        description=(
            "`label:3`, examples of that class; or `package.module:function`, a function of (x, y) that gives bool "
            "`[n]`."
        ),
    )
    share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="share of a client's examples that have it, where the answer is yes."
    )
    otherwise: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="likewise, where the answer is no.")

    @pydantic.field_validator("of")
    @classmethod
    def _known(cls, value: str) -> str:
        kind, _, rest = value.partition(":")
        if not rest or (kind == "label" and not rest.strip().isdigit()):
            raise ValueError("write label:3, or package.module:function")
        return value

    def question(self) -> PropertyQuestion:
        """What is asked, of every view alike.

        Raises:
          FedprivError: the property's function cannot be loaded.
        """
        kind, _, rest = self.of.partition(":")
        if kind == "label":
            label = int(rest)
            trait: Trait = _HasLabel(label)
            words = f"label {label}"
        else:
            trait, words = load_dotted(self.of, "property"), self.of
            if not callable(trait):
                raise ParameterError(
                    f"property '{self.of}' is a {type(trait).__name__}; it must be a function of x and y"
                )
        return PropertyQuestion(goal=self.name, property=words, share=self.share, otherwise=self.otherwise, trait=trait)

    def arrange(self, data: Dataset, trials: int, cohort: int, batch: int, seed: int) -> np.ndarray:
        """Gives each trial's clients their share; the answers alternate at random, as many yes as no.

        Raises:
          DataError: too few examples with the property, or without.
          ParameterError: clients of that size cannot differ so.
        """
        rng, question = generator(seed, Purpose.QUESTION), self.question()
        answers = rng.permutation(np.arange(trials) % 2 == 0)
        held: list[np.ndarray] = []
        left = np.arange(len(data))
        for answer in answers:
            mine = question.clients(data.take(left), [batch] * cohort, bool(answer), rng)
            held += [left[m] for m in mine]
            left = np.setdiff1d(left, held[-1] if cohort == 1 else np.concatenate(held[-cohort:]))
        return np.concatenate(held)

    def pose(self, observation: Observation, pool: Pool, seed: int) -> Observation:
        """Asks whether the clients hold the larger share."""
        question, truth = self.question(), observation.truth
        has = question.holds(truth.x, truth.y)
        answer = np.asarray([has.mean() > (self.share + self.otherwise) / 2]) ^ (self.share < self.otherwise)
        return replace(
            observation,
            view=replace(observation.view, question=question),
            truth=replace(truth, answer=answer),
        )

    def asked(self, answers: int) -> str:
        """So many updates."""
        return f"{answers} updates"


class _HasLabel:
    """Examples of one class."""

    def __init__(self, label: int) -> None:
        self.label = label

    def __call__(self, x: Array, y: Array) -> Array:
        return np.asarray(y) == self.label
