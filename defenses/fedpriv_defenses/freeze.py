"""Freeze: layers that clients neither train nor send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.types import Flat, Tensor
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.defense.walker import without
from fedpriv.models.spec import Spec
from fedpriv_defenses.per_layer_clip import layers as layers_of


class Freeze(Defense):
    """Clients leave some layers as they were sent: no local step moves them, and no update has anything of them.

    What a layer's gradient would give away is gone, such as which rows of an embedding a text touched; so is what the
    federation would have learnt in it. Fine-tuning does this to save memory and traffic (Houlsby et al. 2019, arXiv
    1902.00751, and what followed). Other layers saw the same examples and may give them away as well: DAGER (Petrov et
    al. 2024, arXiv 2405.15586) reads texts from attention alone.

    Formal guarantee: none for what remains. Of the frozen layers nothing is sent, whatever the data and whatever other
    defense stands before or after: noise and signs of clients leave them out. Noise on the sum (`central_dp`,
    `distributed_dp`) moves them like all others. Bytes are those of the other layers, but a compressor's message, which
    has all coordinates, stays as long as it is.

    Where a head is tied to the embedding, freezing the embedding freezes the head. Log: none.
    """

    name: ClassVar[str] = "freeze"
    paper: ClassVar[str] = "after Houlsby et al. 2019, arXiv 1902.00751"
    adaptive_attack: ClassVar[str] = "dager"

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="names of layers or of single tensors, such as `embedding` or `embedding/table`; a name stands for "
        "all below it."
    )

    def frozen(self, spec: Spec) -> list[str]:
        """The tensors that are left as they are.

        Raises:
          ParameterError: the model has none of such a name, or none is left to train.
        """
        return tensors_of(self.layers, spec, self.name, "leave one to train")

    def withheld(self, spec: Spec) -> np.ndarray:
        """The frozen ones."""
        return places_of(self.frozen(spec), spec)

    def check(self, plan: Plan) -> None:
        """Raises ParameterError for layers that the model does not have."""
        self.frozen(plan.spec)

    def keeps_noise(self) -> bool:
        """Where anything is sent."""
        return True

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Leaving coordinates out lengthens nothing."""
        return given if isinstance(given, Real) else Real()

    def gradient(self, gradient: Tensor, context: Context) -> Tensor:
        """`[d]` to `[d]`, so that the layer stays in all local steps."""
        return self._without(gradient, context.plan.spec)

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`, whatever moved the layers besides gradients."""
        spec = context.plan.spec
        sent = spec.size - sum(size for name, size in zip(spec.names, spec.sizes) if name in set(self.frozen(spec)))
        return Passed(self._without(update, spec), bits=8 * int(update.dtype.size) * sent)

    def _without(self, flat: Flat, spec: Spec) -> Flat:
        return without(flat, self.withheld(spec))


def tensors_of(chosen: Sequence[str], spec: Spec, who: str, advice: str) -> list[str]:
    """The tensors that are named, or below what is named.

    Raises:
      ParameterError: the model has none of such a name, or they are all there are.
    """
    for layer in chosen:
        if not any(_below(name, layer) for name in spec.names):
            raise ParameterError(f"{who}: the model has no layer '{layer}'.{did_you_mean(layer, layers_of(spec))}")
    found = [name for name in spec.names if any(_below(name, layer) for layer in chosen)]
    if len(found) == len(spec.names):
        raise ParameterError(f"{who}: layers={list(chosen)} are all there are; {advice}")
    return found


def places_of(names: Sequence[str], spec: Spec) -> np.ndarray:
    """Bool `[d]`, True in the tensors of these names."""
    chosen = set(names)
    return np.repeat([name in chosen for name in spec.names], spec.sizes)


def _below(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer.rstrip('/')}/")
