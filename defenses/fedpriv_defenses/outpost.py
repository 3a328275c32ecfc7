"""Outpost: noise where a step's gradient is large, the more the wider a layer's weights spread, ever more rarely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child, uniform
from fedpriv.base.select import kth_largest
from fedpriv.base.types import Array, Flat, Nested, Tensor
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.noise import Noise
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.spec import Spec

#: Stream of a context's seed that the choice of steps is drawn from, beside that of the noise.
_CHOICE = 1


class Outpost(Defense):
    """In a local step, by chance: small gradients are left out, and those of much Fisher information get noise.

    Wang, Hugh, Li 2023, "More than Enough is Too Much: Adaptive Defenses against Gradient Leakage in Production
    Federated Learning", INFOCOM. Local step i of a round, from 0, is perturbed with probability 1 / (1 + decay i). Then

    - of each tensor's gradient the share `prune` of smallest size is set to zero,
    - normal noise is added at those coordinates of the whole gradient with the largest diagonal of the empirical
      Fisher matrix, which is the squared gradient, a share `fisher` of all, of standard deviation `scale` times the
      tensor's risk: the variance of its weights, at most 1.

    Defaults are those of the authors' configurations. What was at hand are the paper's abstract, a summary of it with
    the probability and the Fisher matrix, and the authors' implementation, not the paper's text. So it could not be
    looked up whether the paper prunes a tensor or the whole, and whether it averages the Fisher information over a
    tensor's outputs, as one version of the implementation does; here it is each coordinate's own. That i begins at 0 is
    our choice, so that an update of one step is always perturbed.

    Tensors whose weights are all alike have no risk: of biases that begin at zero the gradient is sent without noise,
    in the first round at least. Running statistics are left as they are.

    Formal guarantee: none: nothing bounds the gradient, so that no noise covers it, and no epsilon follows. Attack:
    `maximum_posterior`, whose objective `known_noise` reckons with each tensor's noise, which follows from weights that
    the server sent, and leaves out what is zero. A replay leaves it out. Log: `perturbed`, the share of steps, and
    `pruned`, the share of coordinates left without anything.
    """

    name: ClassVar[str] = "outpost"
    paper: ClassVar[str] = "Wang, Hugh, Li 2023, INFOCOM"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.8,
        description="standard deviation of the noise in a tensor of risk 1, in units of the gradient.",
    )
    fisher: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.4, description="share of all coordinates that get noise, those of most Fisher information."
    )
    prune: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.8, description="share of each tensor's gradient, of the smallest size, that is left out before."
    )
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.125, description="how fast perturbation gets rare over a round's local steps; 0 perturbs every one."
    )

    def noise(self, plan: Plan) -> Noise:
        """In each local step that is perturbed; its size follows from the weights."""
        return Noise("gaussian", None, "gradient")

    def noise_by_tensor(self, weights: Sequence[Array], steps: int) -> tuple[float, ...]:
        """Of the expected variance over the steps, with the risks at the first of them."""
        chances = sum(1 / (1 + self.decay * i) for i in range(steps))
        return tuple(self.scale * min(float(np.var(w)), 1.0) * float(np.sqrt(chances)) for w in weights)

    def noise_by_coordinate(self, sent: Flat, deviations: Flat, spec: Spec) -> Flat:
        """Told by sizes: of each tensor the largest were kept, of all kept ones the largest have noise.

        A coordinate that was left out and got noise is that noise, which tells nothing. With noise as large as what is
        kept some are taken for the other kind.
        """
        size = tf.abs(sent)
        parts = tf.split(size, list(spec.sizes))
        kept = tf.concat([part >= _smallest_of_largest(part, 1 - self.prune) for part in parts], 0) & (size > 0)
        alone = tf.reduce_sum(tf.cast(~kept & (size > 0), tf.int32))
        noisy = tf.maximum(round(self.fisher * spec.size) - alone, 0)
        # With share 1 all have it, and the smallest that was kept is above nothing.
        among = tf.where(kept, size, tf.zeros_like(size))
        least = kth_largest(among, tf.minimum(noisy + 1, spec.size))
        every = noisy >= tf.reduce_sum(tf.cast(kept, tf.int32))
        found = tf.where((size > least) | every, deviations, tf.zeros_like(deviations))
        return tf.where(kept, found, tf.fill(tf.shape(sent), tf.cast(np.inf, sent.dtype)))

    def notes(self, plan: Plan) -> Sequence[str]:
        """That it is no differential privacy."""
        return [
            "outpost bounds no gradient, so that no epsilon follows from its noise; dp_sgd clips first and claims one"
        ]

    def initial_client_state(self, plan: Plan) -> Nested:
        """The number of the local step within a round."""
        return (np.zeros([], np.int32),)

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Noise keeps no bound."""
        return type(given)() if isinstance(given, Real) else given

    def gradient(self, gradient: Tensor, context: Context) -> Passed:
        """`[d]` to `[d]`."""
        (step,) = context.own
        chance = 1 / (1 + self.decay * tf.cast(step, tf.float64))
        taken = uniform(child(context.seed, _CHOICE), tf.constant([1]))[0] < chance
        # Not a number must still stop the client, and not be pruned.
        taken &= tf.reduce_all(tf.math.is_finite(gradient))
        value = tf.cond(taken, lambda: self._perturbed(gradient, context), lambda: tf.identity(gradient))
        left = tf.reduce_mean(tf.cast(tf.equal(value, 0), gradient.dtype))
        return Passed(value, log={"perturbed": tf.cast(taken, gradient.dtype), "pruned": left}, state=(step + 1,))

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` as it is; the next round's steps are counted from 0."""
        return Passed(update, state=(tf.zeros_like(context.own[0]),))

    def _perturbed(self, gradient: Tensor, context: Context) -> Tensor:
        spec, buffers = context.plan.spec, context.model.buffers
        size = tf.abs(gradient)
        parts, weights = tf.split(size, list(spec.sizes)), tf.split(context.weights, list(spec.sizes))
        kept = [part >= _smallest_of_largest(part, 1 - self.prune) for part in parts]
        noisy = size >= _smallest_of_largest(size, self.fisher)  # squares are in the order of sizes
        risks = [
            tf.zeros([], w.dtype) if i < buffers else tf.minimum(tf.math.reduce_variance(w), 1)
            for i, w in enumerate(weights)
        ]
        deviation = self.scale * tf.repeat(tf.stack(risks), list(spec.sizes))
        pruned = tf.where(tf.concat(kept, 0), gradient, tf.zeros_like(gradient))
        noise = context.normal(tf.shape(gradient), gradient.dtype)
        return pruned + tf.where(noisy, deviation * noise, tf.zeros_like(noise))


def _smallest_of_largest(sizes: Tensor, share: float) -> Tensor:
    """The smallest of the largest `share` of values `[n]`, of at least one."""
    n = int(sizes.shape[0])
    count = min(n, max(1, round(share * n)))
    return tf.zeros([], sizes.dtype) if count == n else kth_largest(sizes, count)
