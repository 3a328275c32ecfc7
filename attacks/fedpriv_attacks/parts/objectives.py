"""Objectives: how far a simulated update is from the observed one.

An objective takes both flat updates `[d]`, already divided by the observed update's Euclidean norm, so that its
value does not depend on the client's learning rate or the number of local steps, and float32 neither overflows
nor underflows. It returns a scalar, lower is better, differentiable in the first argument. The formulas are written
for few passes over `[d]`, forwards and backwards: on small models these passes are a good part of an attack's time.
"""

from __future__ import annotations

import fnmatch
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar
from fedpriv.models.spec import Spec
from fedpriv_attacks.parts.component import Component, read, saved

if TYPE_CHECKING:
    from fedpriv.threat.view import View

#: Smallest norm divided by; updates have norm 1.
TINY = 1e-12


def _selection(value: Any) -> Any:
    """Written layer selections to a tuple of patterns, a slice's text or a fraction."""
    if isinstance(value, str) and ":" not in value:
        try:
            return float(value)
        except ValueError:
            return (value,)
    return tuple(value) if isinstance(value, list) else value


Layers = Annotated[
    float | str | tuple[str, ...] | None,
    BeforeValidator(_selection, json_schema_input_type=float | str | list[str] | None),
]


class Objective(Component):
    """Base of the objectives."""

    layers: Layers = Field(
        default=None,
        description="the weight tensors that count: None for all, names or patterns such as `conv*` or "
        "`[conv1/kernel,dense/*]`, a slice such as `:4` or `-2:` of the tensors in the model's order, or "
        "a fraction such as 0.5 for that share of them from the first (at least one).",
    )

    def __call__(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """The scalar distance of two updates `[d]`.

        Raises:
          ParameterError: `layers` selects nothing, or something the model does not have.
        """
        if self.layers is not None:
            chosen = self.chosen(spec)
            if len(chosen) < len(spec.names):
                parts = [tf.split(flat, spec.sizes) for flat in (simulated, observed)]
                simulated, observed = (tf.concat([p[i] for i in chosen], 0) for p in parts)
                spec = Spec(tuple(spec.names[i] for i in chosen), tuple(spec.shapes[i] for i in chosen), spec.dtype)
        return self.distance(simulated, observed, spec)

    def matched(self, simulated: Flat, direction: Flat, scale: Scalar, spec: Spec) -> Scalar:
        """As called, for an objective that goes by the units of the updates.

        Args:
          simulated: the simulated update `[d]`, in update units.
          direction: the observed one times `scale`, `[d]`.
          scale: 1 over its norm.
          spec: of both.
        """
        return self(simulated * scale, direction, spec)

    @abstractmethod
    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """The scalar distance of the selected parts; `spec` describes these."""

    def factor(self, view: View, norm: float) -> float:
        """What the distance is multiplied with for one view, whose observed update has this norm.

        Raises:
          CapabilityError: the view does not give what that takes.
        """
        return 1.0

    def prepared(self, view: View) -> tuple[Objective, View]:
        """This objective, and the view, as they are matched; by default as they are.

        Raises:
          CapabilityError: the view is none that it can match.
        """
        return self, view

    def floor(self, noise: float) -> float:
        """Its value at the truth when the updates differ by rounding alone, of squared norm `noise`; 0 if unknown.

        What an attack is content with: lower values are noise.
        """
        return 0.0

    def chosen(self, spec: Spec) -> list[int]:
        """Which of the model's weight tensors count."""
        names, what = spec.names, f"objective '{self.kind}': layers={self.layers}"
        if self.layers is None:
            return list(range(len(names)))
        if isinstance(self.layers, float):
            if not 0 < self.layers <= 1:
                raise ParameterError(f"{what}: a fraction lies in (0, 1]")
            return list(range(max(1, round(self.layers * len(names)))))
        if isinstance(self.layers, str):
            try:
                part = slice(*(int(p) if p.strip() else None for p in self.layers.split(":")))
                found = list(range(len(names)))[part]
            except (ValueError, TypeError):
                raise ParameterError(f"{what} is no slice; write start:stop, with either left out") from None
        else:
            for pattern in self.layers:
                if not fnmatch.filter(names, pattern):
                    raise ParameterError(
                        f"{what}: no weight tensor is named '{pattern}'.{did_you_mean(pattern, names)}"
                    )
            found = [i for i, n in enumerate(names) if any(fnmatch.fnmatchcase(n, p) for p in self.layers)]
        if not found:
            raise ParameterError(f"{what} selects none of the {len(names)} weight tensors")
        return found


class SquaredError(Objective):
    """Squared Euclidean distance, relative to the observed update's squared norm: 0 at the truth, 1 at no update.

    Zhu, Liu, Han 2019, "Deep Leakage from Gradients", arXiv 1906.08935. Layer weights are those of Geiping et al. 2020
    (arXiv 2003.14053), who let them fall with depth, among others.
    """

    kind: ClassVar[str] = "squared_error"
    paper: ClassVar[str] = "Zhu, Liu, Han 2019, arXiv 1906.08935"

    layer_weights: Literal["equal", "size", "decay"] | tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default="equal",
        description="`equal`, every entry the same; `size`, every weight tensor the same however many entries it has; "
        "`decay`, falling in a straight line from the first tensor to the last; or one number a tensor.",
    )

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        if self.layer_weights == "equal":
            # l2_loss is half the squared norm, and the only form of it whose gradient is a single pass.
            error = 2 * tf.nn.l2_loss(simulated - observed)
            return error if self.layers is None else error / tf.maximum(2 * tf.nn.l2_loss(observed), TINY)
        weights = self.weights(spec)
        error, whole = tf.zeros([], simulated.dtype), tf.zeros([], simulated.dtype)
        for w, s, o in zip(weights, tf.split(simulated, spec.sizes), tf.split(observed, spec.sizes), strict=True):
            error += w * tf.nn.l2_loss(s - o)
            whole += w * tf.nn.l2_loss(o)
        return error / tf.maximum(whole, TINY)

    def floor(self, noise: float) -> float:
        """The noise itself."""
        return noise

    def weights(self, spec: Spec) -> Sequence[float]:
        """One weight a tensor."""
        count = len(spec.sizes)
        if self.layer_weights == "size":
            return [1 / size for size in spec.sizes]
        if self.layer_weights == "decay":
            return [1 - i / count for i in range(count)]
        if self.layer_weights == "equal":
            return [1.0] * count
        if len(self.layer_weights) != count or not any(self.layer_weights):
            raise ParameterError(
                f"objective '{self.kind}': layer_weights has {len(self.layer_weights)} numbers for {count} weight "
                f"tensors ({', '.join(spec.names)}); give one each, not all zero"
            )
        return self.layer_weights


def _cosine(simulated: Flat, observed: Flat) -> Scalar:
    """Cosine of the angle between two vectors, 0 if either is zero; differentiable once, in the first."""

    # Written out, since TensorFlow multiplies long vectors slowly and differentiates this in twice as many passes.
    @tf.custom_gradient
    def cosine(s: Flat) -> Scalar:
        inverse = tf.math.rsqrt(tf.maximum(2 * tf.nn.l2_loss(s), TINY**2))
        of_observed = tf.math.rsqrt(tf.maximum(2 * tf.nn.l2_loss(observed), TINY**2))
        value = tf.reduce_sum(s * observed) * inverse * of_observed

        def gradient(upstream: Scalar) -> Flat:
            return observed * (upstream * inverse * of_observed) - s * (upstream * value * inverse * inverse)

        return value, gradient

    return cosine(simulated)


class Cosine(Objective):
    """1 minus the cosine of the angle between the updates: 0 at the truth, 1 at right angles, 2 at the opposite.

    Geiping, Bauermeister, Droege, Moeller 2020, "Inverting Gradients", arXiv 2003.14053. Blind to the update's length.
    """

    kind: ClassVar[str] = "cosine"
    paper: ClassVar[str] = "Geiping, Bauermeister, Droege, Moeller 2020, arXiv 2003.14053"

    per_layer: bool = Field(
        default=False,
        description="the mean over the weight tensors of 1 minus their cosines, each tensor an angle of its own; "
        "tensors that did not move are left out.",
    )
    least: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="share of the update's norm up to which a tensor counts as one that did not move, where each has "
        "an angle of its own. An attention's key biases have no gradient; what is observed of it is rounding.",
    )

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        if not self.per_layer:
            return 1 - _cosine(simulated, observed)
        pairs = zip(tf.split(simulated, spec.sizes), tf.split(observed, spec.sizes), strict=True)
        total, count = tf.zeros([], simulated.dtype), tf.zeros([], simulated.dtype)
        whole = tf.norm(observed)
        for s, o in pairs:
            moved = tf.cast(tf.norm(o) > self.least * whole, simulated.dtype)
            total += moved * (1 - _cosine(s, o))
            count += moved
        return total / tf.maximum(count, 1)

    def floor(self, noise: float) -> float:
        """1 - cos(a) for an angle whose square is the noise."""
        return noise / 2


class Angular(Objective):
    """The angle between the updates as a fraction of pi: 0 at the truth, 1/2 at right angles, 1 at the opposite.

    Unlike the cosine's, its slope does not fade near the truth. The arc cosine is not differentiable at 0 and pi, and
    inexact near them; the angle is taken as 2 atan2(|u - v|, |u + v|) of the unit vectors u and v (Kahan 2006, "How
    futile are mindless assessments of roundoff"), with both lengths rounded off below `smoothing`.
    """

    kind: ClassVar[str] = "angular"
    paper: ClassVar[str] = "Kahan 2006 (the formula)"

    smoothing: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-4,
        description="angle in radians below which the objective is a parabola rather than a cone.",
    )

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        u = simulated * tf.math.rsqrt(tf.maximum(2 * tf.nn.l2_loss(simulated), TINY**2))
        v = observed * tf.math.rsqrt(tf.maximum(2 * tf.nn.l2_loss(observed), TINY**2))
        apart, along = (tf.sqrt(2 * tf.nn.l2_loss(w) + self.smoothing**2) for w in (u - v, u + v))
        least = 2 * math.atan2(self.smoothing, math.sqrt(4 + self.smoothing**2))
        return (2 * tf.math.atan2(apart, along) - least) / (math.pi - 2 * least)

    def floor(self, noise: float) -> float:
        """The angle whose square is the noise, unless the smoothing has flattened it."""
        return max(0.0, math.sqrt(noise) - self.smoothing) / math.pi


class L1(Objective):
    """Sum of absolute differences, relative to the observed update's: 0 at the truth, 1 at no update.

    As in Deng et al. 2021, "TAG: Gradient Attack on Transformer-based Language Models" (arXiv 2103.06819), who add it
    to the squared error. Less moved by the few largest entries.
    """

    kind: ClassVar[str] = "l1"
    paper: ClassVar[str] = "Deng et al. 2021, arXiv 2103.06819"

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        whole = tf.reduce_sum(tf.abs(observed))
        return tf.reduce_sum(tf.abs(simulated - observed)) / tf.maximum(whole, TINY)


class SquaredAndAbsolute(Objective):
    """Squared Euclidean distance plus `alpha` times the absolute one, tensor by tensor; each relative to the observed
    update's own.

    Deng et al. 2021, "TAG: Gradient Attack on Transformer-based Language Models", EMNLP Findings, arXiv 2103.06819: the
    many small entries of a transformer's gradient count in the absolute distance and vanish in the squared one. The
    paper's factor is the larger the nearer a tensor is to the input, by numbers that it does not give; here it falls in
    a straight line from the model's first tensor to its last.
    """

    kind: ClassVar[str] = "squared_and_absolute"
    paper: ClassVar[str] = "Deng et al. 2021, arXiv 2103.06819"

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="what the absolute distance counts beside the squared one."
    )
    decay: bool = Field(
        default=True, description="whether its factor falls in a straight line from the first tensor to the last."
    )

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        squared = 2 * tf.nn.l2_loss(simulated - observed) / tf.maximum(2 * tf.nn.l2_loss(observed), TINY)
        count = len(spec.sizes)
        factors = np.repeat([1 - i / count if self.decay else 1.0 for i in range(count)], spec.sizes)
        weighed = tf.constant(factors, simulated.dtype)
        absolute = tf.reduce_sum(weighed * tf.abs(simulated - observed))
        return squared + self.alpha * absolute / tf.maximum(tf.reduce_sum(weighed * tf.abs(observed)), TINY)

    def floor(self, noise: float) -> float:
        """That of both, where errors are spread as the update is."""
        return noise + self.alpha * math.sqrt(noise)


class Masked(Objective):
    """Another objective, on the entries where the observed update is not zero.

    For updates that were pruned or cut to their largest entries, where a zero says only that an entry was left out.
    """

    kind: ClassVar[str] = "masked"

    inner: Annotated[Objective, read("objective"), saved] = Field(
        default_factory=lambda: Cosine(),
        description="the objective.",
    )
    threshold: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="absolute value, relative to the update's norm, up to which an entry counts as zero.",
    )

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        mask = tf.cast(tf.abs(observed) > self.threshold, simulated.dtype)
        return self.inner(simulated * mask, observed * mask, spec)

    def factor(self, view: View, norm: float) -> float:
        """The inner objective's."""
        return self.inner.factor(view, norm)

    def floor(self, noise: float) -> float:
        """The inner objective's."""
        return self.inner.floor(noise)


class Signed(Objective):
    """How much of the simulated update's energy has the wrong sign: 0 at the truth, 1 at the opposite.

    For updates of which only the signs were sent. Where the signs agree, an entry costs nothing, whatever its size;
    where they do not, its square. That is the one-sided squared loss of one-bit compressed sensing (Jacques, Laska,
    Boufounos, Baraniuk 2013, arXiv 1104.3160), relative to the simulated update's squared norm. Entries where the
    observed update is zero do not count.
    """

    kind: ClassVar[str] = "signed"
    paper: ClassVar[str] = "Jacques, Laska, Boufounos, Baraniuk 2013, arXiv 1104.3160"

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`."""
        sign = tf.sign(observed)
        turned = simulated * sign
        wrong = tf.nn.l2_loss(tf.nn.relu(-turned))
        return wrong / tf.maximum(tf.nn.l2_loss(turned), TINY**2)
