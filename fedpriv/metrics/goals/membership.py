"""Membership: was this example trained on?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import DataError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.metrics.goals.answers import YesNo
from fedpriv.threat.goal import Pool
from fedpriv.threat.observation import Observation
from fedpriv.threat.question import MembershipQuestion


class Membership(YesNo):
    """Which candidates were trained on: as many members as others, in an order that says nothing.

    Scored by the area under the ROC curve, by true positives at few false ones (Carlini, Chien, Nasr, Song, Terzis,
    Tramèr, 2022, arXiv 2112.03570) and by the advantage (Yeom, Giacomelli, Fredrikson, Jha, 2018, arXiv 1709.01604).
    """

    name: ClassVar[str] = "membership"
    unit: ClassVar[str] = "candidate"

    of: Literal["update", "model"] = Field(
        default="update",
        description=(
            "`update`: of the data behind the observed update; `model`: of the data that the attacked model was "
            "trained on."
        ),
    )
    candidates: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="members, and as many others, asked about in each trial; None is all behind the update, or 100.",
    )

    def pose(self, observation: Observation, pool: Pool, seed: int) -> Observation:
        """Draws candidates and shuffles them.

        Raises:
          DataError: there are no outsiders, or no members, or too few of either.
        """
        rng = generator(seed, Purpose.QUESTION)
        truth = observation.truth
        if self.of == "model":
            if pool.members is None:
                raise DataError(
                    "membership(of=model) asks about the data a model was trained on, but this one was never trained; "
                    "train it first, or ask of=update"
                )
            wanted = self.candidates or 100
            inside, labels = pool.members.floats(), pool.members.y
        else:
            wanted = self.candidates or len(truth.y)
            inside, labels = truth.x, truth.y
        outside = pool.outsiders
        for what, there in (("members", len(labels)), ("others", 0 if outside is None else len(outside))):
            if there < wanted:
                raise DataError(
                    f"membership asks about {wanted} members and as many others, but there are {there} {what}; ask for "
                    "fewer candidates, attack fewer images, or give more data"
                )
        assert outside is not None
        mine = rng.choice(len(labels), wanted, replace=False)
        others = rng.choice(len(outside), wanted, replace=False)
        order = rng.permutation(2 * wanted)
        x = np.concatenate([inside[mine], outside.floats(others)])[order].astype(np.float32)
        y = np.concatenate([labels[mine], outside.y[others]])[order].astype(np.int64)
        answer = np.arange(2 * wanted)[order] < wanted
        question = MembershipQuestion(goal=self.name, x=x, y=y, of=self.of)
        return replace(
            observation,
            view=replace(observation.view, question=question),
            truth=replace(truth, answer=answer),
        )

    def asked(self, answers: int) -> str:
        """So many candidates."""
        return f"{answers} candidates"
