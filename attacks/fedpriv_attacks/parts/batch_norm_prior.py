"""Batch-norm prior: examples whose statistics inside the network are those it is known to have seen."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Scalar
from fedpriv.threat.attack import Capability
from fedpriv.threat.view import View
from fedpriv_attacks.parts.priors import Prior, Scene


class BatchNormStatistics(Prior):
    """Distance of the examples' mean and variance at every batch normalization from known ones, summed over layers.

    Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov 2021, "See through Gradients: Image Batch Recovery via
    GradInversion", arXiv 2104.07586, after DeepInversion (Yin et al. 2020, arXiv 1912.08795). What is known matters
    more than how it is used: the private batch's own statistics (`batch`) nearly determine a small batch, and an
    adversary that has them is a strong one, as Huang, Gupta, Song, Li, Arora 2021, "Evaluating Gradient Inversion
    Attacks and Defenses in Federated Learning", arXiv 2112.00059, show; a server learns them from clients that send
    their updated buffers, as those of a model with `batch_norm=running` do: after one local step the update tells. A
    trained network's running statistics (`running`) are those of other people's data.
    """

    kind: ClassVar[str] = "batch_norm_statistics"
    paper: ClassVar[str] = "Yin et al. 2021, arXiv 2104.07586"

    source: Literal["batch", "running"] = Field(
        default="batch",
        description="`batch` for the client's batch, if the adversary knows 'batch_statistics' or the update carries "
        "them, or `running` for those that the model is evaluated with, frozen or among its weights; the initial ones "
        "say nothing and are refused.",
    )
    power: Literal[1, 2] = Field(
        default=2,
        description="2 for squared distances, smooth at the truth; 1 for plain ones, as in the paper.",
    )
    first: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=10.0,
        description="factor of the first layer, which sees the images themselves; DeepInversion's published code has "
        "10.",
    )

    def requirements(self) -> frozenset[Capability]:
        """The statistics it goes by."""
        return frozenset({Capability.BATCH_STATISTICS if self.source == "batch" else Capability.RUNNING_STATISTICS})

    def tensors(self, view: View) -> tuple[np.ndarray, ...]:
        """Mean and variance of each layer in turn.

        Raises:
          CapabilityError: the view or its model has no such statistics.
        """
        known = view.moments_of_batch if self.source == "batch" else view.running_statistics
        if view.model.moments is None:
            why = f"model '{view.model.name}' has no batch normalization; leave the prior out"
        elif known is None and self.source == "batch":
            why = f"they are unknown to {view.describe()} Use an adversary that knows 'batch_statistics'"
        elif known is None and view.model.running is None and view.model.estimates is None:
            why = f"model '{view.model.name}' normalizes with the batch's own statistics; take source=batch"
        elif known is None:
            why = (
                f"model '{view.model.name}' has the initial mean 0 and variance 1, which say nothing about the data; "
                "give a model with trained statistics"
            )
        else:
            return tuple(np.asarray(a) for pair in known for a in pair)
        raise CapabilityError(f"prior '{self.kind}(source={self.source})' needs batch-norm statistics, but {why}")

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        model = scene.static.model
        assert model.moments is not None  # see tensors
        found = [a for pair in model.moments(model.spec.unflatten(scene.weights), x) for a in pair]
        total = tf.zeros([], x.dtype)
        for i, (own, known) in enumerate(zip(found, scene.tensors, strict=True)):
            distance = tf.reduce_sum(tf.math.squared_difference(own, known))
            if self.power == 1:  # the root's slope is infinite at zero
                distance = tf.sqrt(distance + 1e-12) - 1e-6
            total += (self.first if i < 2 else 1.0) * distance
        return self.weight * total
