"""Generative inversion: GGL and GIAS, which look for a victim's images among those that a generator makes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples
from fedpriv.threat.attack import Finding
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    Count,
    Inversion,
    LabelsPart,
    ObjectivePart,
    OptimizerPart,
    PriorParts,
)
from fedpriv_attacks.inversion.matching import reconstruct
from fedpriv_attacks.inversion.stages import joined
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.latent import FreedNorm, Latent, LatentAndResidual, LatentAndWeights, LatentNorm
from fedpriv_attacks.parts.likelihood import NoiseLikelihood
from fedpriv_attacks.parts.optimizers.first_order import Adam

_EXPLAINED = 0.05  # share of the error at the generator's middle that counts as explained
_TELLING = 64  # entries of a tensor whose mean square is known to a fifth or so
_WHITE = 3.0  # ratio of mean squares that white noise does not reach


class GGL(Inversion):
    """A generator's latents in place of pixels, so that noise in the update cannot become noise in the image.

    Li, Zhang, Liu, Liu 2022, "Auditing Privacy Defenses in Federated Learning via Generative Gradient Leakage", CVPR,
    arXiv 2203.15696. For updates that a defense has noised, clipped or thinned out: there a generator trained on
    public images of the same kind finds the image, or one like it, where matching pixels finds noise. On an update
    that nothing hides it is weaker, for it can claim only what the generator makes.

    The generator inside the package, `fashion`, makes 28x28 grey images of clothes. For others train one with
    `experiments/fedpriv_experiments/train_generator.py` and write `ggl(coordinates=latent(generator=mine.npz))`.

    Differs from the paper: a small unconditional decoder in place of a large conditional GAN; the latents are found by
    gradients, with Adam (the paper prefers Bayesian optimization and CMA-ES, which need no gradients and for latents
    this short many more evaluations); and the balance between update and latents is not tuned, but that of a
    posterior under noise of unknown size (`noise_likelihood`).

    The finding's `extra` also has `unexplained`, the update's squared error at the finding over that at the
    generator's middle image; `learned_nats`, d/2 times the logarithm of its inverse, how much likelier than the
    middle the finding is under white noise; and `verdict`, which says whether the generator makes such images.
    """

    name: ClassVar[str] = "ggl"
    paper: ClassVar[str] = "Li et al. 2022, arXiv 2203.15696"

    objective: ObjectivePart = NoiseLikelihood(free_scale=True)
    priors: PriorParts = (LatentNorm(weight=1.0),)
    coordinates: CoordinatesPart = Latent(spread=0.3)
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = Adam(steps=400, learning_rate=0.1, decay="cosine")
    restarts: Count = 2

    def attack(self, view: View, seed: int) -> Finding:
        """Matches the update within the generator's range."""
        return self._judged(view, super().attack(view, seed))

    def _latent(self) -> Latent:
        if not isinstance(self.coordinates, Latent):
            raise ParameterError(
                f"attack '{self.name}' needs coordinates 'latent', not '{self.coordinates.kind}'; use the attack "
                "'inversion' for others"
            )
        return self.coordinates

    def _judged(self, view: View, finding: Finding) -> Finding:
        """The finding, with how much of the update it leaves unexplained."""
        generator = self._latent().decoder()
        assert finding.x is not None
        middle = generator.decode(tf.zeros([view.total_examples, generator.latent], view.model.spec.dtype))
        y = finding.extra["label_probabilities"]
        left, whole = _residual(view, finding.x, y), _residual(view, middle, y)
        unexplained = max(float(left @ left), 1e-300) / max(float(whole @ whole), 1e-300)
        nats = -0.5 * left.size * math.log(unexplained)
        if unexplained < _EXPLAINED:
            verdict = "the generator makes images that explain the update"
        elif _is_white(left, view):
            verdict = (
                "what is left of the update is like noise; of the images that the generator makes, these are "
                f"{nats:.0f} nats likelier than its middle"
            )
        else:
            verdict = (
                "what is left of the update is not like noise: its images are outside the generator's range, or "
                "something that is not replayed changed it"
            )
        more = {"unexplained": unexplained, "learned_nats": nats, "verdict": verdict}
        return replace(finding, extra={**finding.extra, **more})


class GIAS(GGL):
    """A generator's latents first, then the generator itself, fitted to the one batch at hand.

    Jeon, Kim, Lee, Oh, Ok 2021, "Gradient Inversion with Generative Image Prior", NeurIPS, arXiv 2110.14962. The
    second step reaches images that the generator does not make; on a noised update it fits the noise, unless a prior
    such as the default keeps what is freed small. On updates that nothing hides, `refine=residual` mostly gets further.

    Differs from the paper as `ggl` does, and in that the latents move along in the second step.
    """

    name: ClassVar[str] = "gias"
    paper: ClassVar[str] = "Jeon et al. 2021, arXiv 2110.14962"

    refine: Literal["weights", "residual", "none"] = Field(
        default="weights",
        description="what is freed once the latents are found: the generator's `weights`, as in the paper; a "
        "`residual` added to the image; or nothing (`none`).",
    )
    refine_priors: PriorParts = Field(
        default=(FreedNorm(weight=1.0),),
        description="penalties added in the second step; `freed_norm` takes what is freed for normal around zero.",
    )
    refine_optimizer: OptimizerPart = Field(
        default=Adam(steps=300, learning_rate=0.02, decay="cosine"),
        description="of the second step.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Finds the latents, then frees more."""
        first = super().attack(view, seed)
        if self.refine == "none":
            return first
        latent, (objective, seen) = self._latent(), self.objective.prepared(view)
        kind = LatentAndWeights if self.refine == "weights" else LatentAndResidual
        freed = kind(generator=latent.generator, spread=latent.spread)
        optimizer = self.refine_optimizer.with_(path=True) if self.path else self.refine_optimizer
        priors = self.priors + self.refine_priors
        recipe = replace(self.recipe(), objective=objective, coordinates=freed, priors=priors, optimizer=optimizer)
        shape = (recipe.replay.copies(seen.static) * view.total_examples, *view.model.input_shape)
        latents, found = freed.latents(shape), first.extra["variables"]
        zeros = np.zeros((len(found), freed.size(shape) - latents), found.dtype)
        variables = np.concatenate([found[:, :latents], zeros, found[:, latents:]], 1)
        labels = None if first.extra["label_source"] == "optimized" else first.y
        restarts = replace(self.starts(view.total_examples), most=1)
        second = reconstruct(seen, recipe, restarts, self.initializer, labels, seed, variables)
        more = {
            "label_source": first.extra["label_source"],
            "latent_step": {"x": first.x, "objective": first.objective, "evaluations": first.evaluations},
        }
        both = joined(first, second)
        return self._judged(view, replace(both, extra={**both.extra, **more}))


def _residual(view: View, x: Examples | Array, y: np.ndarray) -> np.ndarray:
    """`[d]` what `x` and `y` leave of the observed update, at the best scale, relative to its norm."""
    with unmeasured():  # it judges a finding, and made none
        simulated = np.asarray(view.simulate(tf.constant(x, view.model.spec.dtype), tf.constant(y)), np.float64)
    observed = np.asarray(view.observed, np.float64)
    scale = max(float(simulated @ observed), 0.0) / max(float(simulated @ simulated), 1e-300)
    return (observed - scale * simulated) / np.linalg.norm(observed)


def _is_white(residual: np.ndarray, view: View) -> bool:
    """Whether it has about the same mean square in every weight tensor that is large enough to tell."""
    spec = view.model.spec
    squares = [np.mean(p**2) for p in spec.unflatten_numpy(residual) if p.size >= _TELLING]
    return len(squares) > 1 and min(squares) > 0 and max(squares) / min(squares) < _WHITE
