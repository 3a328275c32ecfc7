"""Shadow property: a classifier of updates, trained on those of shadow clients with and without a property."""

from __future__ import annotations

import time
import warnings
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, DataError
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.question import PropertyQuestion
from fedpriv.threat.view import View


class ShadowProperty(Attack):
    """Trains shadow clients with and without the property at the attacked weights, and a logistic regression on them.

    Melis, Song, De Cristofaro, Shmatikov, 2019, arXiv 1805.04049 (batch property classifier on updates); Ganju, Wang,
    Yang, Gunter, Borisov, 2018, CCS (shadow training for properties). The shadows are made as the adversary knows the
    clients to train, defenses included, and seen from its position. All updates are divided by the shadows' mean norm;
    to standardize each coordinate instead would drown the few that tell in many that don't. It fails where the shares
    differ by less than clients do anyway, or where its own data are unlike theirs.
    """

    name: ClassVar[str] = "shadow_property"
    paper: ClassVar[str] = "Melis, Song, De Cristofaro, Shmatikov, 2019, arXiv 1805.04049"
    goals: ClassVar[tuple[str, ...]] = ("property",)
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.PROCEDURE, Capability.NUM_EXAMPLES, Capability.LAB}
    )

    shadows: Annotated[int, Field(ge=4)] = Field(
        default=40, description="shadow views, half of them with the property."
    )
    penalty: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="strength of the L2 penalty on the classifier's weights, on updates of norm 1."
    )

    def attack(self, view: View, seed: int) -> Finding:
        """One confidence, the log-odds of the property.

        Raises:
          CapabilityError: nothing is asked about a property, or the lab's data are too few for one shadow.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        began = time.perf_counter()
        question, lab = view.asked(PropertyQuestion), view.lab
        assert lab is not None
        assert view.observed is not None
        sizes = list(view.num_examples or ())
        if sum(sizes) > len(lab.data):
            raise CapabilityError(
                f"attack '{self.name}' needs {sum(sizes)} examples of its own for each shadow, but holds "
                f"{len(lab.data)}; give it more"
            )
        rng = lab.generator(1)
        answers = np.arange(self.shadows) % 2 == 0
        try:
            cohorts = [question.clients(lab.data, sizes, bool(answer), rng) for answer in answers]
        except DataError as e:
            raise CapabilityError(f"attack '{self.name}' has too little data of its own: {e}") from e
        updates = lab.observe(cohorts, view.weights, rate=view.client_rate, states=view.states)
        size = float(np.linalg.norm(updates, axis=1).mean()) or 1.0
        classifier = LogisticRegression(C=1 / self.penalty, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(updates / size, answers)
        odds = float(classifier.decision_function(view.observed[None] / size)[0])
        return Finding(
            confidence=np.asarray([odds]),
            guess=np.asarray([odds > 0]),
            seconds=time.perf_counter() - began,
            evaluations=0,
            measures={"fit_to_shadows": float(classifier.score(updates / size, answers))},
        )
