"""PerLayerClip: bounds each layer's part of an update by itself."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import pydantic
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.spec import Spec
from fedpriv_defenses.clip import Norm


class PerLayerClip(Defense):
    """Scales each layer's part of an update down to an L2 norm of its own.

    A layer is a kernel with its bias, and whatever else has the same name up to the last slash. The whole has norm at
    most the root of the sum of the squared bounds, which is what noise on the sum must cover: put `central_dp` after
    it, with that total as its clip. McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963, section 3.

    Formal guarantee: the output's L2 norm is at most the total (up to float rounding), which is a sensitivity and no
    privacy; see `clip`.

    Log: `norm`, of the whole before; `clipped`, the share of layers that were above their bound.
    """

    name: ClassVar[str] = "per_layer_clip"
    paper: ClassVar[str] = "McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963"
    adaptive_attack: ClassVar[str] = "dlg"

    norms: tuple[Norm, ...] | None = Field(
        default=None, description="the layers' bounds in their order, in update units; or give `total`."
    )
    total: Norm | None = Field(
        default=None, description="bound on the whole, divided among the layers as `split` says."
    )
    split: Literal["equal", "size"] = Field(
        default="equal",
        description=(
            "with `total`: `equal` bounds for all m layers, total / sqrt(m) (McMahan et al.), or in proportion to the "
            "root of a layer's `size`, as of updates whose coordinates are all alike."
        ),
    )

    @pydantic.model_validator(mode="after")
    def _one_bound(self) -> PerLayerClip:
        if (self.norms is None) == (self.total is None):
            raise ValueError("give norms, one a layer, or total, and not both")
        return self

    def check(self, plan: Plan) -> None:
        """Raises ParameterError unless there is a bound for each layer."""
        self.bounds(plan.spec)

    def bounds(self, spec: Spec) -> dict[str, float]:
        """Each layer's bound, by its name.

        Raises:
          ParameterError: there are other numbers of `norms` than of layers.
        """
        sizes = layers(spec)
        if self.norms is not None:
            if len(self.norms) != len(sizes):
                raise ParameterError(
                    f"{self.name}: norms has {len(self.norms)} bounds for {len(sizes)} layers ({', '.join(sizes)}); "
                    "give one each, or total"
                )
            return dict(zip(sizes, self.norms, strict=True))
        assert self.total is not None
        if self.split == "equal":
            return dict.fromkeys(sizes, self.total / math.sqrt(len(sizes)))
        return {name: self.total * math.sqrt(size / spec.size) for name, size in sizes.items()}

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most the root of the squared bounds' sum, and of any smaller bound it came with."""
        total = math.hypot(*self.bounds(plan.spec).values())
        known = given.l2 if isinstance(given, Real) else None
        return Real(total if known is None else min(total, known))

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`; a layer of zeros stays zero, with a zero (not undefined) derivative of its norm."""
        spec = context.plan.spec
        bounds = self.bounds(spec)
        parts = tf.split(update, list(spec.sizes))
        squares = {name: tf.zeros([], update.dtype) for name in bounds}
        for name, part in zip(spec.names, parts, strict=True):
            squares[layer_of(name)] += tf.reduce_sum(tf.square(part))
        scales, clipped = {}, []
        for name, bound in bounds.items():
            some = squares[name] > 0
            length = tf.sqrt(tf.where(some, squares[name], tf.ones_like(squares[name])))
            length = tf.where(some, length, tf.zeros_like(length))
            over = length > bound
            scale = tf.where(over, bound / tf.where(over, length, tf.ones_like(length)), tf.ones_like(length))
            # A norm beyond floats would scale to zero; not-a-number instead lets the engine name the client.
            scales[name] = tf.where(tf.math.is_finite(length), scale, length - length)
            clipped.append(tf.cast(over, update.dtype))
        value = tf.concat([part * scales[layer_of(name)] for name, part in zip(spec.names, parts, strict=True)], 0)
        norm = tf.sqrt(tf.add_n(list(squares.values())))
        return Passed(value, log={"norm": norm, "clipped": tf.add_n(clipped) / len(clipped)})


def layer_of(name: str) -> str:
    """The layer that a weight tensor belongs to."""
    return name.rpartition("/")[0] or name


def layers(spec: Spec) -> dict[str, int]:
    """Weights of each layer, by name, in the order they first appear."""
    found: dict[str, int] = {}
    for name, size in zip(spec.names, spec.sizes, strict=True):
        found[layer_of(name)] = found.get(layer_of(name), 0) + size
    return found
