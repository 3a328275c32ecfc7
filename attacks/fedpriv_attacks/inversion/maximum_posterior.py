"""Maximum posterior: the most probable examples, by an adversary who knows the clip and the noise."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import (
    Count,
    InitializerPart,
    Inversion,
    LabelsPart,
    ObjectivePart,
    OptimizerPart,
    PriorParts,
)
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.edge_density import EdgeDensity
from fedpriv_attacks.parts.initializers import Normal
from fedpriv_attacks.parts.known_noise import KnownNoise
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS


class MaximumPosterior(Inversion):
    """The examples that are most probable given an update with known noise: likelihood times prior.

    The adaptive attack on additive noise. It replays the clip, weighs the update's error by the variance that the
    defense declares (`known_noise`), and the examples by a density of images (`edge_density`), so that nothing is left
    to tune: with little noise the update decides, with much the prior. Balunovic, Dimitrov, Staab, Vechev 2022,
    "Bayesian Framework for Gradient Leakage", arXiv 2111.04706, show that such an attack is the optimal one, in the
    sense of their definition 1, and that known attacks are approximations of it.

    It fails where no noise is known: the view's defenses must declare some. On several rounds of the same clients use
    it inside `round_average`.
    """

    name: ClassVar[str] = "maximum_posterior"
    paper: ClassVar[str] = "Balunovic, Dimitrov, Staab, Vechev 2022, arXiv 2111.04706"

    objective: ObjectivePart = KnownNoise()
    priors: PriorParts = (EdgeDensity(),)
    initializer: InitializerPart = Normal(mean=0.5, spread=0.1)
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = LBFGS(memory=50, max_evaluations=800)
    restarts: Count = 1
