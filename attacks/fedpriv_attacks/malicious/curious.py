"""Curious Abandon Honesty: trap weights at a first dense ReLU layer, and the single examples that they catch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.threat.acts import Act, Occasion
from fedpriv.threat.attack import Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import find_dense_input
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.inversion.matching import checked_update

Numbers = tuple[Annotated[int, Field(ge=0)], ...] | None

_PAPER = "Boenisch, Dziedzic, Schuster, Shamsabadi, Shumailov, Papernot 2023, arXiv 2112.02918"


class CuriousAct(Act):
    """Sends trap weights in place of the first dense layer's.

    Boenisch, Dziedzic, Schuster, Shamsabadi, Shumailov, Papernot 2023, "When the Curious Abandon Honesty: Federated
    Learning Is Not Private", EuroS&P, arXiv 2112.02918. Half of each unit's weights, chosen at random, are negative,
    -|N(0, deviation^2)|; the others are the same numbers in another order, positive and times `scale`, slightly below
    1. A unit then fires for few examples, often for one alone, whose ratio of gradients it gives. The bias is zero.

    How it shows: each column has exactly as many negative weights as positive ones, of the same sizes but for one
    factor, which no training gives; a client that sorts a column's absolute values sees pairs. Column sums are all
    negative. Most units are silent: a client that counts how many examples fire a unit finds a few per cent where an
    honest layer has half. The update is one client's or broadcast to all alike, so comparing broadcasts sees nothing.

    Attributes:
      scale: of the positive weights, relative to the negative ones.
      deviation: of the negative weights before the sign; None takes the broadcast kernel's root mean square.
      seed: of the draws.
      clients: ids of those who get it; None is everybody.
      rounds: rounds in which; None is every round.
    """

    name: ClassVar[str] = "curious"
    paper: ClassVar[str] = _PAPER

    scale: Annotated[float, Field(gt=0, le=1)] = 0.9
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    clients: Numbers = None
    rounds: Numbers = None

    def describe(self) -> str:
        """In words."""
        who = "every client" if self.clients is None else f"clients {list(self.clients)}"
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        return f"the weights it sends to {who}{when} (trap weights at the first dense layer: few examples fire a unit)"

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The planted weights `[d]`, for whom they are meant.

        Raises:
          CapabilityError: no dense layer with a bias and a ReLU sees the raw example.
          ParameterError: the occasion does not say of which model the weights are.
        """
        if self.clients is not None and occasion.client not in self.clients:
            return weights
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        model, spec = occasion.model, occasion.spec
        if model is None:
            raise ParameterError(f"act '{self.name}': the occasion names no model; give Occasion(..., model=model)")
        names = find_dense_input(model)
        if names.bias is None or not names.rectified:
            raise CapabilityError(
                f"act '{self.name}' needs a first dense layer with a bias and a ReLU, but '{names.kernel}' of model "
                f"'{model.name}' has {'no bias' if names.bias is None else 'no ReLU'}; use a model such as '2nn'"
            )
        found = weights.copy()
        kernel = found[spec.slice_of(names.kernel)].reshape(spec.shapes[spec.names.index(names.kernel)])
        size = self.deviation or float(np.sqrt(np.mean(np.square(kernel, dtype=np.float64))))
        kernel[...] = trap(kernel.shape[0], kernel.shape[1], size, self.scale, self.seed)
        found[spec.slice_of(names.bias)] = 0
        return found


def trap(inputs: int, units: int, deviation: float, scale: float, seed: int) -> np.ndarray:
    """Trap weights `[inputs, units]`; of an odd number of inputs each column leaves one at 0."""
    draws, half = np.random.default_rng(seed), inputs // 2
    kernel = np.zeros((inputs, units))
    for unit in range(units):
        order = draws.permutation(inputs)
        negative = np.abs(draws.normal(0.0, deviation, half))
        kernel[order[:half], unit] = -negative
        kernel[order[half : 2 * half], unit] = scale * draws.permutation(negative)
    return kernel


class Curious(FirstLayer):
    """Reads single examples off trap weights that act `curious` planted.

    Boenisch et al. 2023, arXiv 2112.02918; see the act `curious`, without which this attack is refused:
    `server(acts=[curious])`. It reads as `first_layer` does. Where units fire for few examples, two of a class may
    always fire together, in one ratio, and look like one; so an example is claimed only if it weighs in the update what
    one example does (`certified` in `first_layer`). That is not known over several local steps, of an unknown number
    of examples, and behind clipping: nothing is claimed there unless `claims` is `all`. Neither is an example that is
    in the batch twice.
    Sums over clients that all got the traps are one larger batch to it. Noise above a unit's gradient leaves nothing.
    """

    name: ClassVar[str] = "curious"
    paper: ClassVar[str] = _PAPER

    claims: Literal["certified", "all"] = Field(
        default="certified", description="which readings are claimed: those certified to be one example, or all."
    )

    @property
    def certified_only(self) -> bool:
        """Whether examples of a batch are left out that are not certified."""
        return self.claims == "certified"

    def attack(self, view: View, seed: int) -> Finding:
        """As `first_layer`; `measures` has `extracted`, the examples found; `extra` a `reason` where some are left out.

        Raises:
          CapabilityError: the weights carry no traps, or the update is zero throughout; else as `first_layer`.
          DivergenceError: the update is not finite.
        """
        names, spec = find_dense_input(view.model), view.model.spec
        shape = spec.shapes[spec.names.index(names.kernel)]
        kernel = view.weights[spec.slice_of(names.kernel)].reshape(shape)
        if not is_trap(kernel):
            raise CapabilityError(
                f"attack '{self.name}' reads what trap weights catch, but those of round {view.round} carry none: all "
                "clients behind the update must get them, in this round too; let the adversary be "
                "server(acts=[curious]), or use 'first_layer' or 'peel'"
            )
        checked_update(view)
        if not np.asarray(view.observed)[spec.slice_of(names.kernel)].any():  # no unit fired for anybody
            n = 0 if view.num_examples is None else view.total_examples
            x = np.full((n, *view.model.input_shape), np.nan, np.float32)
            reason = "no example fires any unit; plant them with a larger scale"
            found = {"separated": 0, "certified": [], "misfits": [], "uncertified": 0}
            return Finding(
                x=x, y=np.full(n, -1, np.int32), measures={"extracted": 0.0}, extra={**found, "reason": reason}
            )
        finding = super().attack(view, seed)
        left = finding.extra.get("uncertified", 0)
        reason = ""
        if left:
            known = Capability.SINGLE_STEP in view.capabilities and view.num_examples is not None and view.client_rate
            why = "do not weigh what one example does" if known else "cannot be weighed, which takes one local step"
            reason = f"{left} readings that {why} are left out: mixtures, or examples that are there twice"
        extra, measures = {"reason": reason, **finding.extra}, {"extracted": float(finding.extra["separated"])}
        return replace(finding, extra=extra, measures={**finding.measures, **measures})


def is_trap(kernel: np.ndarray) -> bool:
    """Whether every column's positive weights are its negative ones times one factor: also a client's check."""
    half = len(kernel) // 2
    down = np.sort(np.sort(kernel, axis=0)[:half], axis=0)
    up = -np.sort(-kernel, axis=0)[:half]
    if not half or not np.all(down < 0) or not np.all(up > 0):
        return False
    ratios = up / -down
    return bool(np.ptp(ratios) < 1e-4 * np.max(ratios))
