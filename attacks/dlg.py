"""DLG: deep leakage from gradients."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from attacks.coordinates import Coordinates, Pixels, Smooth
from attacks.initializers import Constant, Initializer, Normal, Uniform
from attacks.lbfgs import LBFGS
from attacks.matching import Recipe, Restarts, reconstruct
from fedpriv.attack import Attack, Capability, Finding
from fedpriv.errors import CapabilityError
from fedpriv.view import View

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class DLG(Attack):
    """Dummy examples and dummy labels, matched to the update by L-BFGS.

    Zhu, Liu, Han 2019, "Deep Leakage from Gradients", NeurIPS, arXiv 1906.08935. Minimizes the squared error
    between the simulated and the observed update over the examples and a softmax of label logits, jointly, from
    several random starts; the start with the lowest objective is kept. The objective is the paper's. Two defaults
    differ from it and are parameters: the dummy starts near grey instead of at unit normal noise, and L-BFGS works
    on scaled cosine-transform coefficients instead of pixels (`start="normal", coordinates="pixels"` is the
    paper's choice).

    Needs a model that is twice differentiable with useful second derivatives: sigmoid or tanh, not ReLU.
    Reconstructions are clipped to [0, 1] at the end.

    Attributes:
      restarts: largest number of starts.
      max_evaluations: gradient evaluations a start may spend.
      target: relative objective at which a start stops; float32 gives out at about 1e-8 on the paper's LeNet.
      tolerance: relative objective at which no further start is made.
      start: `grey` (0.5 plus normal noise of `spread`), `uniform` in [0, 1), `normal` (unit), `constant` grey.
      spread: standard deviation of the grey start's noise; what the update hardly determines keeps it.
      label_spread: standard deviation of the dummy label logits at the start; None is 0.1 for one example and 1
        for more, which must start apart.
      coordinates: `smooth` or `pixels`.
      memory: L-BFGS pairs.
      stagnation_window: evaluations after which a start must have lowered its objective; 0 never looks.
      stagnation_decrease: by at least this fraction, or it ends.
      side_by_side: starts run at once, one thread each.
      use_labels: hold the labels at their true values, if the adversary knows them.
    """

    name: ClassVar[str] = "dlg"
    paper: ClassVar[str] = "Zhu, Liu, Han 2019, arXiv 1906.08935"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.NUM_EXAMPLES, Capability.PROCEDURE}
    )

    restarts: Count = 8
    max_evaluations: Count = 4000
    target: Positive = 2e-8
    tolerance: Positive = 5e-8
    start: Literal["grey", "uniform", "normal", "constant"] = "grey"
    spread: Positive = 0.02
    label_spread: Positive | None = None
    coordinates: Literal["smooth", "pixels"] = "smooth"
    memory: Count = 100
    stagnation_window: Annotated[int, Field(ge=0)] = 200
    stagnation_decrease: Annotated[float, Field(ge=0, lt=1)] = 0.05
    side_by_side: Count = 1
    use_labels: bool = False

    def attack(self, view: View, seed: int) -> Finding:
        """Matches the update; see `reconstruct` for the finding's fields and errors."""
        return reconstruct(view, self.recipe(view.total_examples), self.starts(), self.known_labels(view), seed)

    def known_labels(self, view: View) -> np.ndarray | None:
        """The labels to hold fixed, or None to optimize them."""
        if not self.use_labels:
            return None
        if view.labels is None:
            raise CapabilityError(
                f"attack '{self.name}' was told to use the labels, but this adversary does not know them; set "
                "use_labels=False, or give the adversary the labels"
            )
        return view.labels

    def recipe(self, examples: int) -> Recipe:
        """The composition these parameters stand for, for that many examples."""
        alone = examples == 1
        starts: dict[str, Initializer] = {
            "grey": Normal(0.5, self.spread),
            "uniform": Uniform(),
            "normal": Normal(0.0, 1.0),
            "constant": Constant(0.5),
        }
        coordinates: Coordinates = Smooth() if self.coordinates == "smooth" else Pixels()
        optimizer = LBFGS(
            memory=self.memory,
            max_evaluations=self.max_evaluations,
            stagnation_window=self.stagnation_window,
            stagnation_decrease=self.stagnation_decrease,
        )
        return Recipe(
            initializer=starts[self.start],
            coordinates=coordinates,
            optimizer=optimizer,
            label_spread=self.label_spread or (0.1 if alone else 1.0),
        )

    def starts(self) -> Restarts:
        """How often to start."""
        return Restarts(self.restarts, self.target, self.tolerance, self.side_by_side)
