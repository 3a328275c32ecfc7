"""AdditiveNoise: noise on each update, without a bound and without a ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child, uniform
from fedpriv.base.types import Flat
from fedpriv.defense.noise import Noise
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan


class AdditiveNoise(Defense):
    """A client adds noise to its update as it is: the defense of most papers on gradient inversion.

    Zhu, Liu, Han 2019, "Deep Leakage from Gradients", arXiv 1906.08935, section 5.1: Gaussian and Laplacian noise of
    the same variance act alike; DLG still reads images at a variance of 1e-4, and does not at 1e-2. `stddev` is that of
    one coordinate of what is sent: of the gradient for FedSGD at rate 1.

    Formal guarantee: none: nothing bounds the update, so that no noise covers it, and no epsilon follows. `local_dp`
    clips first and gives one. Log: `noise_norm`, and `signal_to_noise`, the update's norm over that.
    """

    name: ClassVar[str] = "additive_noise"
    paper: ClassVar[str] = "Zhu, Liu, Han 2019, arXiv 1906.08935"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    stddev: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        description="standard deviation of the noise on each coordinate, in update units."
    )
    distribution: Literal["gaussian", "laplace"] = Field(default="gaussian", description="`gaussian` or `laplace`.")

    def noise(self, plan: Plan) -> Noise:
        """On each update."""
        return Noise(self.distribution, self.stddev, "update")

    def keeps_noise(self) -> bool:
        """It adds to it."""
        return True

    def notes(self, plan: Plan) -> Sequence[str]:
        """That it is no differential privacy."""
        return [
            "additive_noise bounds no update, so that no epsilon follows from its noise; local_dp clips first and "
            "claims one"
        ]

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` plus noise drawn from `context.seed`."""
        if self.distribution == "gaussian":
            drawn = context.normal(tf.shape(update), update.dtype)
        else:  # by the inverse of its distribution function, from uniforms on (-1/2, 1/2)
            centred = uniform(child(context.seed, 0), tf.shape(update)) + 2.0**-54 - 0.5
            drawn = -tf.sign(centred) * tf.math.log1p(-2 * tf.abs(centred)) / math.sqrt(2)
            drawn = tf.cast(drawn, update.dtype)
        noise = self.stddev * drawn
        size = tf.norm(noise)
        return Passed(
            update + noise,
            log={"noise_norm": size, "signal_to_noise": tf.math.divide_no_nan(tf.norm(update), size)},
        )
