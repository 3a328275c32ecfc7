"""Sparse first layer: examples read off a first dense layer's gradient of which only some entries were sent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseInput, dense_input
from fedpriv_attacks.exact.first_layer import label_gradients
from fedpriv_attacks.inversion.matching import checked_update

#: How far two units' readings of one value may differ, besides what rounding gives.
_SAME = 1e-4


@dataclass(eq=False)
class _Client:
    """Units that tell of the same example.

    Attributes:
      total, power: `[inputs]`, readings weighted by the squares of the units' biases, and these weights' sums; a value
        is their ratio where power is not 0.
      units: the layer's.
      least: the smallest entry that was sent for these units: what was not sent is smaller.
    """

    total: np.ndarray
    power: np.ndarray
    units: list[int] = field(default_factory=list)
    least: float = np.inf

    @property
    def known(self) -> np.ndarray:
        return self.power > 0

    def readings(self) -> np.ndarray:
        return np.divide(self.total, self.power, out=np.zeros_like(self.total), where=self.known)


class SparseFirstLayer(Attack):
    """Single examples in a sum of sparse updates of a first dense layer, exactly where their values were sent.

    A unit's gradient in the kernel is x times that in the bias. Values lie in [0, 1], so the bias's entry is the
    largest of a unit, and who sends only the largest entries sends it with any of the others: their ratios are values
    of x, exactly. The stronger a unit, the more of x is sent for it; what is not sent is known to be small.

    In a sum, a unit for which one client alone sent entries tells of that client alone. The fewer entries are sent, the
    more such units there are: sparse updates undo a part of what a secure sum hides (Suimon, Koizumi, Takemasa,
    Hasegawa 2025, "Per-element Secure Aggregation against Data Reconstruction Attacks in Federated Learning", arXiv
    2508.04285). A unit for which several clients sent entries mixes them, in proportions of its own. Thus an example is
    claimed only where two units tell the same values, `overlap` of them or more; ratios outside [0, 1] are left out.

    Works behind `top_k`, and on whole updates of a ReLU layer as far as units fire for one example alone. Fails where
    the same coordinates are sent for all (`random_k`): the biases are then missing, or mixed. Needs one example a
    client.

    Labels: the one whose gradient in the units found is most like theirs. `extra` has, by example, `units`, `known`
    (share of its values that were read) and `bound` (what the others are below).
    """

    name: ClassVar[str] = "sparse_first_layer"
    paper: ClassVar[str] = "after Phong et al. 2018; Suimon et al. 2025, arXiv 2508.04285"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    overlap: Annotated[int, Field(ge=1)] = Field(
        default=8, description="how many values two units must both tell to be taken for one example's."
    )
    fill: Literal["zero", "middle"] = Field(
        default="middle",
        description="what is put for values that were not sent: `middle` of 0 and what they are below, or `zero`, as "
        "suits images on a black background.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Reads the examples off the first layer.

        Returns:
          A finding with `x` `[n, *input_shape]`, not-a-number where an example was not found; if the adversary does not
          know n, as many as were.

        Raises:
          CapabilityError: the first layer is not dense or has no bias, or the update is zero.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        checked_update(view)
        layer = dense_input(view)
        if layer.bias is None:
            raise CapabilityError(
                f"the first dense layer '{layer.kernel_name}' has no bias, whose gradient this divides by; use 'dlg'"
            )
        if view.num_examples is not None and max(view.num_examples) > 1:
            raise CapabilityError(
                f"attack '{self.name}' tells clients of one example apart, but a client here has "
                f"{max(view.num_examples)}; use 'first_layer' or 'modern'"
            )
        clients = self._clients(layer)
        n = None if view.num_examples is None else view.total_examples
        clients = sorted(clients, key=lambda c: -len(c.units))[:n]
        shape = view.model.input_shape
        x = np.full((n or len(clients), *shape), np.nan, np.float32)
        labels, bounds = [], []
        softmax = Capability.SOFTMAX in view.capabilities
        for i, client in enumerate(clients):
            bound = min(1.0, client.least / max(float(np.abs(layer.bias[u])) for u in client.units))
            values = client.readings()
            if self.fill == "middle":
                values = np.where(client.known, values, bound / 2)
            x[i] = view.data_kind.settle(values.reshape(1, *shape))[0]
            bounds.append(bound)
            if softmax:
                labels.append(_label(view, layer, values, client.units))
        extra: dict[str, Any] = {
            "units": [len(c.units) for c in clients],
            "known": [float(c.known.mean()) for c in clients],
            "bound": bounds,
        }
        return Finding(
            x=x,
            y=np.array(labels, np.int32) if softmax else None,
            seconds=time.perf_counter() - began,
            measures={"separated": float(len(clients))},
            extra=extra,
        )

    def _clients(self, layer: DenseInput) -> list[_Client]:
        """Groups of units that tell the same values."""
        assert layer.bias is not None
        found: list[_Client] = []
        strong = np.argsort(-np.abs(layer.bias), kind="stable")
        for unit in strong[np.abs(layer.bias[strong]) > 20 * layer.rounding]:
            column, bias = layer.kernel[:, unit], float(layer.bias[unit])
            sent = column != 0
            if sent.sum() < self.overlap:
                continue
            reading, error = column / bias, layer.rounding / abs(bias)
            slack = 6 * error + _SAME
            if reading[sent].min() < -slack or reading[sent].max() > 1 + slack:
                continue
            for client in found:
                both = sent & client.known
                other = layer.rounding / abs(float(layer.bias[client.units[0]]))
                apart = np.abs(reading - client.readings())[both]
                if len(apart) >= self.overlap and apart.max() <= 6 * (error + other) + _SAME:
                    break
            else:
                client = _Client(np.zeros(layer.inputs), np.zeros(layer.inputs))
                found.append(client)
            client.total[sent] += column[sent] * bias
            client.power[sent] += bias**2
            client.units.append(int(unit))
            client.least = min(client.least, float(np.abs(column[sent]).min()))
        return [c for c in found if len(c.units) > 1]


def _label(view: View, layer: DenseInput, x: np.ndarray, units: list[int]) -> int:
    """The label whose gradient in these units points most along theirs."""
    assert layer.bias is not None
    gradients = label_gradients(view, layer, x)[:, units]
    gradients /= np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-300)
    return int(np.argmax(gradients @ layer.bias[units]))
