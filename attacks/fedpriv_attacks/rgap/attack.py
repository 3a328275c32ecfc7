"""R-GAP: the attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.single_gradient import relative_misfit, single_gradient
from fedpriv_attacks.rgap.logits import Start, with_bias, without_bias
from fedpriv_attacks.rgap.recursion import Recursion, recur
from fedpriv_attacks.rgap.refine import Refined, refine
from fedpriv_attacks.rgap.unrolled import Unrolled, unroll_model


class RGAP(Attack):
    """Recovers one example from its gradient in closed form, layer by layer from the last to the first.

    Zhu, Blaschko 2021, "R-GAP: Recursive Gradient Attack on Privacy", ICLR, arXiv 2010.07733. The paper has a
    logistic loss, networks without biases and rows of equal weight. Here it is softmax cross-entropy with any number
    of classes: the gradient in the logits is read off the last bias, or, without one, found from the condition that
    it be the softmax of the logits minus the label. Biases are allowed, strides, padding and average pooling too, and
    every equation is weighed by its error, which is what makes float32 updates enough.

    Needs a plain chain of layers with invertible activations (sigmoid, tanh, leaky ReLU, ELU, softplus; a ReLU
    passes on what its active units show), one example and one local step of SGD. `rank_analysis` tells in advance
    whether a network's equations suffice. Where they do not, the solution nearest to the middle of the range is
    taken, `extra["invertible"]` is False and the reconstruction is not to be trusted.

    Reconstructions are clipped to [0, 1] at the end.
    """

    name: ClassVar[str] = "rgap"
    paper: ClassVar[str] = "Zhu, Blaschko 2021, arXiv 2010.07733"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.REAL_UPDATE,
            Capability.NUM_EXAMPLES,
            Capability.PROCEDURE,
            Capability.SINGLE_STEP,
            Capability.SOFTMAX,
        }
    )

    refine: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Gauss-Newton steps on all equations jointly, after the recursion; 0 is the closed form alone. "
        "One gains some dB on float32 updates; twenty or so can save a network whose layers are short of "
        "equations but constrained by those before them (an index of at most 0 in the rank analysis).",
    )
    iterations: Annotated[int, Field(ge=1)] = Field(
        default=60, description="conjugate-gradient iterations in each of those."
    )
    weighted: bool = Field(
        default=True, description="weigh equations by their errors; False is the paper's stacking of rows."
    )
    max_unknowns: Annotated[int, Field(ge=1)] = Field(
        default=6000,
        description="largest number of values of a layer's input; the memory needed grows with its square, 8 bytes "
        "for each entry of a few matrices.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Recurs from the last layer to the example.

        Returns:
          A finding whose `objective` is the squared distance between the update replayed at the reconstruction and
          the one observed, relative to the latter's square. `extra` has `invertible`, `layers` (one dictionary a layer,
          from the last to the first: unknowns, equations, rank, condition, expected_error), `expected_error` of the
          example's values (standard deviation from the errors of the first layer's equations, infinite if not
          invertible; it takes k as exact, and may be too small by ten times), `label_misfit` (how far the gradient in
          the logits is from the softmax of the logits minus the label), `starts` (how many ways there were to scale
          the last layer's input) and, when refined, `unrefined` (the recursion's own `[1, *input_shape]`) and
          `misfits` (mean squared weighted residual before and after each step).

        Raises:
          CapabilityError: more than one example, another optimizer than SGD, a model that is no such chain, or a
            layer's input of more than `max_unknowns` values.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        gradient = single_gradient(view, self.name)
        model = view.model
        epsilon = float(np.finfo(model.spec.dtype).eps)
        weights = dict(zip(model.spec.names, model.spec.unflatten_numpy(np.asarray(view.weights, np.float64))))
        layers = unroll_model(model, view.weights)
        widest = max(layers[:-1], key=lambda u: u.unknowns, default=layers[-1])
        if len(layers) > 1 and widest.unknowns > self.max_unknowns:
            raise CapabilityError(
                f"the input of layer '{widest.layer.name}' of model '{model.name}' has {widest.unknowns} values, more "
                f"than max_unknowns={self.max_unknowns}; its equations would take about "
                f"{4 * 8 * widest.unknowns**2 / 1e9:.1f} GB. Use smaller images, or raise max_unknowns"
            )
        kernels = [None if u.layer.kernel is None else gradient.by_name[u.layer.kernel] for u in layers]
        last = layers[-1].layer
        kernel = weights[last.kernel or ""]
        assert kernels[-1] is not None
        if last.bias is not None:
            starts = [with_bias(kernels[-1], gradient.by_name[last.bias], kernel, weights[last.bias])]
        else:
            starts = without_bias(kernels[-1], kernel)
        noise = [gradient.rounding.get(u.layer.kernel or "", 0.0) for u in layers]
        # Noise beyond rounding (a fixed-point sum, differential privacy) shows in the last layer, which has rank one.
        louder = max(1.0, starts[0].residual / max(noise[-1], 1e-300))
        noise = [louder * s for s in noise]

        tried: list[tuple[float, Recursion, Start]] = []
        for start in starts[:4]:
            found = recur(layers, kernels, noise, start.x, start.k, louder * epsilon, self.weighted)
            misfit = relative_misfit(view, self._image(view, found.x), [start.label])
            tried.append((misfit, found, start))
        objective, found, start = min(tried, key=lambda t: t[0] if np.isfinite(t[0]) else np.inf)
        extra: dict[str, Any] = {
            "invertible": found.invertible,
            "layers": [asdict(step) for step in found.steps],
            "expected_error": found.steps[-1].expected_error if found.invertible else float("inf"),
            "label_misfit": start.misfit,
            "starts": len(starts),
        }
        x, evaluations = self._image(view, found.x), len(tried)
        if self.refine and found.solution is not None:
            refined = self._refine(layers, gradient.by_name, weights, gradient.rounding, louder, start, found)
            better = self._image(view, refined.x)
            extra |= {"unrefined": x, "misfits": list(refined.misfits)}
            evaluations += refined.evaluations + 1
            x, objective = better, relative_misfit(view, better, [start.label])
        return Finding(
            x=x,
            y=np.array([start.label], np.int32),
            objective=objective,
            evaluations=evaluations,
            seconds=time.perf_counter() - began,
            extra=extra,
        )

    def _image(self, view: View, x: np.ndarray) -> np.ndarray:
        return view.data_kind.settle(x.reshape(1, *view.model.input_shape)).astype(np.float32)

    def _refine(
        self,
        layers: Sequence[Unrolled],
        gradients: dict[str, np.ndarray],
        weights: dict[str, np.ndarray],
        rounding: dict[str, float],
        louder: float,
        start: Start,
        found: Recursion,
    ) -> Refined:
        names = [n for u in layers for n in (u.layer.kernel, u.layer.bias) if n is not None]
        inner = [n for u in layers[:-1] for n in (u.layer.kernel, u.layer.bias) if n is not None]
        target = np.concatenate([found.features, *(gradients[n].reshape(-1) for n in inner)])
        deviations = [np.sqrt(found.feature_variance)]
        deviations += [np.full(gradients[n].size, louder * rounding[n]) for n in inner]
        assert found.solution is not None
        return refine(
            tuple(u.layer for u in layers),
            [weights[n] for n in names],
            start.k,
            target,
            1.0 / np.concatenate(deviations),
            found.x,
            found.solution.precondition,
            self.refine,
            self.iterations,
        )
