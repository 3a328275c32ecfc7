"""Latent coordinates: a generator's latents, and what may be freed after them, in place of pixels.

They are not one-to-one: only what the generator makes can be found, which is the prior. The initializer's examples
have no meaning here and are ignored; a start is drawn from the latents' own distribution.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Scalar, Seed, Tensor
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Generator as KnownGenerator
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.parts.component import HELD
from fedpriv_attacks.parts.coordinates import Coordinates, Shape
from fedpriv_attacks.parts.generator import Generator, load_generator
from fedpriv_attacks.parts.priors import Prior, Scene

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Latent(Coordinates):
    """Latents of a generator trained on public images of the same kind.

    Li, Zhang, Liu, Liu 2022, "Auditing Privacy Defenses in Federated Learning via Generative Gradient Leakage", CVPR,
    arXiv 2203.15696; the first of the two steps of Jeon, Kim, Lee, Oh, Ok 2021, "Gradient Inversion with Generative
    Image Prior", NeurIPS, arXiv 2110.14962. The initializer is ignored.
    """

    kind: ClassVar[str] = "latent"
    paper: ClassVar[str] = "Li et al. 2022, arXiv 2203.15696; Jeon et al. 2021, arXiv 2110.14962"

    generator: str = Field(
        default="fashion",
        description="the name of one inside the package (`fashion`), or the path of an `.npz` file made by "
        "`experiments/fedpriv_experiments/train_generator.py`; or `held`, for the one that the adversary knows.",
    )
    spread: NonNegative = Field(
        default=1.0,
        description="standard deviation of the first latents; a trained generator expects 1, and 0 starts at its "
        "middle.",
    )

    def requirements(self) -> frozenset[Capability]:
        """A generator, if it is to be the adversary's."""
        return self.needs | ({Capability.GENERATOR} if self.generator == HELD else frozenset())

    def brings(self) -> tuple[Knowledge, ...]:
        """The generator, unless it is the adversary's."""
        return () if self.generator == HELD else (KnownGenerator(source=self.generator),)

    def equipped(self, view: View) -> Latent:
        """With the adversary's generator, if it is to be that.

        Raises:
          CapabilityError: the adversary knows several.
        """
        if self.generator != HELD:
            return self
        held = view.adversary.held(KnownGenerator)
        if len(held) != 1:
            raise CapabilityError(
                f"coordinates '{self.kind}' take the one generator that the adversary knows, but '{view.adversary}' "
                f"knows {len(held)}; write which, as generator=..."
            )
        return self.with_(generator=held[0].source)

    def decoder(self) -> Generator:
        """The generator itself.

        Raises:
          CapabilityError: it is the adversary's, and nobody has said which that is.
        """
        if self.generator == HELD:
            raise CapabilityError(
                f"coordinates '{self.kind}' take the adversary's generator, which is known once a view is attacked; "
                "write which, as generator=..."
            )
        return load_generator(self.generator)

    def check(self, view: View) -> None:
        """Raises a ParameterError unless the generator makes the model's inputs, and a CapabilityError for text."""
        super().check(view)
        self.decoder().require(view.model.input_shape, f"model '{view.model.name}'")

    def latents(self, shape: Shape) -> int:
        """How many of the variables, the first ones, are latents."""
        return int(shape[0]) * self.decoder().latent

    def size(self, shape: Shape) -> int:
        """One latent an example."""
        return self.latents(shape)

    def start(self, x: Examples, seed: Seed) -> Flat:
        """Normal latents, and zeros for whatever else there is."""
        z = tf.random.stateless_normal([self.latents(x.shape)], seed, 0.0, self.spread, x.dtype)
        return tf.concat([z, tf.zeros([self.size(x.shape) - self.latents(x.shape)], x.dtype)], 0)

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """What the generator makes of the latents."""
        return self.decoder().decode(self._rows(v, shape))

    def _rows(self, v: Flat, shape: Shape) -> Tensor:
        return tf.reshape(v[: self.latents(shape)], [shape[0], self.decoder().latent])


class LatentAndResidual(Latent):
    """A generator's latents, and pixels added to what it makes.

    The latents give the natural image, the residual what is outside the generator's range. Weigh the residual with
    the prior `freed_norm`: without one these are plain pixels again.
    """

    kind: ClassVar[str] = "latent_and_residual"

    scale: Positive = Field(
        default=0.05,
        description="how far one unit of a variable moves a pixel; about the error that the generator leaves.",
    )

    def size(self, shape: Shape) -> int:
        """One latent an example, then one value a pixel."""
        return self.latents(shape) + int(np.prod(shape))

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """What the generator makes, plus the residual."""
        residual = tf.reshape(v[self.latents(shape) : self.size(shape)], shape)
        return super().decode(v, shape) + self.scale * residual


class LatentAndWeights(Latent):
    """A generator's latents, and its weights: the generator is fitted to this one batch.

    The second step of Jeon, Kim, Lee, Oh, Ok 2021 (arXiv 2110.14962), who optimize the parameters once the latents
    are found, which reaches images outside the generator's range along directions it knows.
    """

    kind: ClassVar[str] = "latent_and_weights"
    paper: ClassVar[str] = "Jeon et al. 2021, arXiv 2110.14962"

    scale: Positive = Field(default=0.01, description="how far one unit of a variable moves a weight.")

    def size(self, shape: Shape) -> int:
        """One latent an example, then all weights of the generator."""
        return self.latents(shape) + self.decoder().spec.size

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """What the generator makes with the weights moved."""
        generator, first = self.decoder(), self.latents(shape)
        moved = generator.spec.unflatten(self.scale * v[first : self.size(shape)])
        weights = [tf.constant(w, v.dtype) + m for w, m in zip(generator.weights, moved, strict=True)]
        return generator.decode(self._rows(v, shape), weights)


class LatentNorm(Prior):
    """Negative log-density of the latents, half their squared norm: how unlikely the generator thinks its own images.

    Li et al. 2022 (arXiv 2203.15696) regularize the latents' distance from the standard normal law that they were
    trained to have. With weight 1 and the objective `noise_likelihood` the sum is a posterior's. Needs coordinates
    `latent` or others built on them.
    """

    kind: ClassVar[str] = "latent_norm"
    paper: ClassVar[str] = "Li et al. 2022, arXiv 2203.15696"

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        if not isinstance(scene.coordinates, Latent) or scene.v is None:
            raise _misfit(self, scene, "latent")
        return self.weight * tf.nn.l2_loss(scene.v[: scene.coordinates.latents(x.shape)])


class FreedNorm(Prior):
    """Negative log-density of what is freed besides the latents: half the squared norm of a residual or of weights.

    With weight 1 they are taken for normal with the coordinates' `scale` as standard deviation. Needs coordinates
    `latent_and_residual` or `latent_and_weights`.
    """

    kind: ClassVar[str] = "freed_norm"

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        if not isinstance(scene.coordinates, LatentAndResidual | LatentAndWeights) or scene.v is None:
            raise _misfit(self, scene, "latent_and_residual")
        first, last = scene.coordinates.latents(x.shape), scene.coordinates.size(x.shape)
        return self.weight * tf.nn.l2_loss(scene.v[first:last])


def _misfit(prior: Prior, scene: Scene, wanted: str) -> ParameterError:
    given = getattr(scene.coordinates, "kind", "none")
    return ParameterError(f"prior '{prior.kind}' needs coordinates '{wanted}', not '{given}'; change either")
