"""MixUp: training on convex combinations of a batch's images and of their classes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.types import Scalar, Seed, Tensor
from fedpriv.defense.mixture import Mixture
from fedpriv_defenses.mixing.mixing import Mixing, dirichlet


class MixUp(Mixing):
    """Each row of a batch is a random convex combination of images in it, and so is its target.

    Zhang, Cisse, Dauphin, Lopez-Paz 2018, "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412: of pairs with
    coefficients lambda and 1 - lambda, lambda drawn from Beta(alpha, alpha); of more images the coefficients are
    Dirichlet(alpha), as the paper suggests in section 3. As a defense: Huang, Gupta, Song, Li, Arora 2021, "Evaluating
    Gradient Inversion Attacks and Defenses in Federated Learning", arXiv 2112.00059. Two differences to the paper:
    lambda is drawn for each row (its code: for each batch), and a row is never mixed with itself. The mixtures are
    drawn anew in every local step.

    Formal guarantee: none. Who reconstructs the mixtures has their classes' shares as well, and those are the
    coefficients: attack `unmix`. A replay trains on what it is given, which are then the mixtures. Log: `largest`, the
    mean of a row's largest coefficient.
    """

    name: ClassVar[str] = "mixup"
    paper: ClassVar[str] = "Zhang, Cisse, Dauphin, Lopez-Paz 2018, arXiv 1710.09412"

    alpha: Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)] = Field(
        default=1.0,
        description="of the Beta or Dirichlet distribution of coefficients: 1 is uniform, less leaves images nearly "
        "alone, more mixes them evenly.",
    )

    def mixture(self) -> Mixture:
        """Images added up, their signs as they are."""
        return Mixture(images=self.images)

    def coefficients(self, seed: Seed, rows: Scalar) -> Tensor:
        """Dirichlet(alpha), float64 `[rows, images]`."""
        return dirichlet(seed, rows, self.images, self.alpha)
