"""Likelihood: the observed update as the simulated one plus normal noise of unknown size."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar
from fedpriv.models.spec import Spec
from fedpriv_attacks.parts.objectives import TINY, Objective


class NoiseLikelihood(Objective):
    """Negative log-likelihood under white normal noise, its size at its best: d/2 log(1 + e / floor), in nats.

    `e` is the squared error relative to the observed update's squared norm, d the number of weights. With noise of
    standard deviation s the negative log-likelihood is d log s + e / (2 s^2) but for constants; the best s^2 is e / d,
    which leaves d/2 log e (the profile likelihood; in a decoder, the sigma-VAE of Rybkin, Daniilidis, Levine 2021,
    arXiv 2006.13202). A prior that is a negative log-density, such as `latent_norm(weight=1)`, then needs no tuning:
    it weighs little while the error can still fall by orders of magnitude, and just enough where noise keeps it up.
    """

    kind: ClassVar[str] = "noise_likelihood"

    floor_error: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1e-10,
        description="relative squared error below which nothing is gained; the rounding of float32 updates. It keeps "
        "the value above zero.",
    )
    free_scale: bool = Field(
        default=False,
        description="allow the simulated update any positive factor, for clients that clip their updates, or whose "
        "rate is not the one replayed; costs the information in the update's norm.",
    )

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        if self.free_scale:
            square = tf.maximum(2 * tf.nn.l2_loss(simulated), TINY**2)
            simulated *= tf.maximum(tf.tensordot(simulated, observed, 1), 0.0) / square
        error = 2 * tf.nn.l2_loss(simulated - observed) / tf.maximum(2 * tf.nn.l2_loss(observed), TINY)
        return 0.5 * spec.size * tf.math.log1p(error / self.floor_error)
