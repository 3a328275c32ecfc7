"""The Cocktail Party Attack: batches as a blind separation of sources."""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import DivergenceError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseInput, dense_input
from fedpriv_attacks.exact.exact_labels import count_labels
from fedpriv_attacks.exact.low_rank import LowRank, low_rank
from fedpriv_attacks.exact.single_step import require_single_step
from fedpriv_attacks.exact.unmixing import Contrast, Mixture, unmix
from fedpriv_attacks.parts.component import read, saved
from fedpriv_attacks.parts.optimizers.first_order import Adam
from fedpriv_attacks.parts.optimizers.minimum import Optimizer, Status

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class CocktailParty(Attack):
    """Batches from the first dense layer's gradient by independent component analysis, whatever the activation.

    Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee 2023, "Cocktail Party Attack: Breaking Aggregation-Based Privacy in
    Federated Learning Using Independent Component Analysis", ICML, arXiv 2209.05578. Each column of the kernel's
    gradient X^T D is a mixture of the examples. The mixtures are whitened, and an unmixing matrix is optimized by Adam
    so that the sources are far from normally distributed, independent of each other, and smooth. Defaults are the
    paper's for fully connected networks on Tiny ImageNet.

    ICA leaves each source's sign and scale open. The bias's gradient, the sum of D's rows, fixes both (the paper takes
    each image's range); a layer without a bias leaves them to the range: a positive sum and a largest value of 1.

    Approximate by nature. With more than a few examples the separation is not perfect, and it gets worse with the size
    of the batch and with the examples' likeness. Examples that occur twice are one source, and shown once unless the
    separation is good enough to count them. A sum of clients that made one step each is one batch.
    """

    name: ClassVar[str] = "cocktail_party"
    paper: ClassVar[str] = "Kariyappa et al. 2023, arXiv 2209.05578"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.PROCEDURE, Capability.SOFTMAX}
    )

    examples: Count | None = Field(
        default=None,
        description="the number of examples; None takes it from the view, or from the gradient's rank if unknown "
        "there.",
    )
    optimizer: Annotated[Optimizer, read("optimizer"), saved] = Field(
        default=Adam(steps=25_000, learning_rate=1e-3),
        description="minimizes the contrast over the unmixing matrix.",
    )
    restarts: Count = Field(
        default=1,
        description="starts, the first from the principal components and others from random rotations of them; the "
        "lowest contrast is kept.",
    )
    negentropy: Weight = Field(default=1.0, description="weight of (E log cosh(a s) / a)^2, which is raised.")
    sharpness: Positive = Field(default=1.0, description="a, the factor inside that log cosh.")
    from_normal: bool = Field(
        default=False,
        description="take the squared distance of E log cosh from that of a normal variable instead.",
    )
    independence: Weight = Field(
        default=1.47,
        description="weight of exp(T |cosine|) - 1 over pairs of rows of the unmixing matrix.",
    )
    temperature: Positive = Field(default=12.4, description="T, the factor inside that exponential.")
    total_variation: Weight = Field(
        default=3.1,
        description="weight of the mean difference of neighbouring pixels; examples that are no images have none.",
    )
    box: Weight = Field(
        default=0.0,
        description="weight of the mean distance from [0, 1] of the examples as scaled in the end. Ours; 0 is the "
        "paper.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Unmixes, scales, and reads the labels off.

        Returns:
          A Finding with one row an example found, clipped to [0, 1]; `objective` is the contrast, which only compares
          starts on one view. `extra` has `exact` (False), `rank`, `scaled_by` (`bias` or `range`), `objectives` and
          `statuses` by start, and `label_residual`, the share of the examples' gradients that no labels explain. `y`
          is None for models whose examples depend on each other.

        Raises:
          CapabilityError: more than one local step, no dense layer at the input, or too many examples for it.
          DivergenceError: the layer's update, or the contrast at every start, is not finite.
        """
        require_single_step(self.name, view)
        began = time.perf_counter()
        model, dtype = view.model, view.model.spec.dtype
        layer = dense_input(view)
        known = self.examples or (view.total_examples if view.num_examples is not None else None)
        factors = low_rank(layer, known, float(np.finfo(dtype).eps))
        mixture = Mixture.of(factors.inputs.T * factors.values[:, None])
        # Sources M G with G = diag(values) inputs^T have D = M^-T units^T, whose rows sum up to the bias's gradient
        # when source i is divided by (M units^T bias)_i.
        share = None if layer.bias is None else factors.units.T @ layer.bias
        scale = None if share is None else mixture.whitening @ share
        contrast = Contrast(
            self.negentropy,
            self.sharpness,
            self.from_normal,
            self.independence,
            self.temperature,
            self.total_variation,
            self.box,
        )
        rng = generator(seed, Purpose.ATTACK)
        runs, compile_seconds = [], 0.0
        for number in range(self.restarts):
            start = np.eye(factors.rank)
            if number:
                start = np.linalg.qr(rng.normal(size=start.shape))[0]
            rows, minimum, spent = unmix(mixture, scale, model.input_shape, contrast, self.optimizer, start, dtype)
            compile_seconds += spent
            runs.append((rows, minimum))
        objectives = [float(m.objective) for _, m in runs]
        if not np.any(np.isfinite(objectives)):
            raise DivergenceError(
                f"the contrast of attack '{self.name}' is not finite at any of {self.restarts} starts; lower the "
                "optimizer's learning rate, or the temperature"
            )
        best = int(np.nanargmin(np.where(np.isfinite(objectives), objectives, np.nan)))
        rows, minimum = runs[best]
        x, d = scaled_sources(rows @ mixture.whitening, factors, layer)
        x = x.reshape(-1, *model.input_shape)
        extra: dict[str, Any] = {
            "exact": False,
            "rank": factors.rank,
            "scaled_by": "range" if layer.bias is None else "bias",
            "objectives": objectives,
            "statuses": [Status(int(m.status)).name.lower() for _, m in runs],
        }
        y = None
        clipped = view.data_kind.settle(x)
        if not model.couples_examples:
            labels = count_labels(view, layer, clipped, d, None)
            if known is not None and known > len(x) and labels.residual < 0.05:
                labels = count_labels(view, layer, clipped, d, known)
            clipped, y = np.repeat(clipped, labels.multiplicities, axis=0), labels.y
            extra["label_residual"] = labels.residual
        history = minimum.history
        return Finding(
            x=clipped.astype(np.float32),
            y=y,
            objective=objectives[best],
            evaluations=sum(int(m.evaluations) for _, m in runs),
            seconds=time.perf_counter() - began - compile_seconds,
            compile_seconds=compile_seconds,
            restarts=len(runs),
            history=history[~np.isnan(history[:, 0])],
            extra=extra,
        )


class CocktailPartyBox(CocktailParty):
    """The Cocktail Party Attack, told that examples lie in [0, 1] once the bias's gradient has scaled them.

    Our own settings of the attack of Kariyappa et al. 2023, arXiv 2209.05578. The bias's gradient fixes the scale of
    every source as a linear function of its unmixing row, so the box can be part of the contrast: a wrong mixture
    leaves [0, 1] at many pixels, above all where images have black or white areas. It takes the place of most of the
    independence, which images have only roughly.
    """

    name: ClassVar[str] = "cocktail_party_box"

    optimizer: Annotated[Optimizer, read("optimizer"), saved] = Adam(steps=2500, learning_rate=1e-2)
    restarts: Count = 2
    independence: Weight = 0.1
    temperature: Positive = 5.0
    total_variation: Weight = 1.0
    box: Weight = 100.0


def scaled_sources(unmixing: np.ndarray, factors: LowRank, layer: DenseInput) -> tuple[np.ndarray, np.ndarray]:
    """Sources with their sign and scale.

    Args:
      unmixing: `[rank, rank]`, rows that mix `diag(values) inputs^T` to sources.
      factors: the gradient's factors.
      layer: whose gradient it is.

    Returns:
      (examples `[rank, inputs]`, not clipped; their shares of the gradient in the pre-activations `[rank, units]`).
    """
    x = unmixing @ (factors.inputs * factors.values).T
    d = np.linalg.lstsq(unmixing.T, factors.units.T, rcond=None)[0]
    if layer.bias is None:
        scale = np.where(x.sum(axis=1) < 0, -1.0, 1.0) * np.abs(x).max(axis=1)
    else:
        scale = unmixing @ (factors.units.T @ layer.bias)
    floor = 1e-9 * max(float(np.max(np.abs(scale))), 1e-300)
    scale = np.where(np.abs(scale) > floor, scale, floor)
    return x / scale[:, None], d * scale[:, None]
