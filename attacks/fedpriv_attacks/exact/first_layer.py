"""First layer: examples read off the gradient of the dense layer that sees them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseInput, dense_input, find_dense_input
from fedpriv_attacks.exact.joint_labels import joint_labels
from fedpriv_attacks.exact.scale import Scaled, scale_by_replay
from fedpriv_attacks.exact.separation import Separated, separate
from fedpriv_attacks.exact.single_gradient import relative_misfit
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.labels.single import single_label

#: Angle in radians within which two gradients are the same, besides what rounding gives.
_SAME = 1e-4
#: Misfit up to which a share of the gradient is one example's, besides what rounding gives, and at most.
_ONE, _AT_MOST = 2e-5, 1e-3


@dataclass(frozen=True, eq=False)
class _Claim:
    """A separated example, its label, and how its share of the gradient differs from what it would cause.

    Attributes:
      angle: between the two, in radians.
      misfit: length of their difference over the latter's length; not-a-number where it is not known what one example
        weighs.
    """

    example: Separated
    label: int
    angle: float
    misfit: float

    @property
    def certified(self) -> bool:
        """Whether the share is that of one example, not of a mixture of several that fire the same units."""
        return self.misfit <= min(_ONE + 4 * self.example.error, _AT_MOST)


@dataclass(frozen=True, eq=False)
class _Read:
    """`x` `[m, inputs]`, labels or None, and what to say of them."""

    x: np.ndarray
    y: np.ndarray | None
    extra: dict[str, Any]


class FirstLayer(Attack):
    """The inputs of a first dense layer, in closed form from its gradient.

    The gradient of the kernel is x times dL/dz, that of the bias dL/dz, so a single example is the ratio of the two:
    Phong et al. 2018, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 13(5);
    Geiping et al. 2020, arXiv 2003.14053, Proposition 3.1. The ratio is taken as least squares over all units, exact
    to the update's rounding, for any activation and any number of local SGD steps.

    Without a bias a single example is known up to its length. That is found by replaying the client at every length
    an image in [0, 1] can have; where several lengths explain the update equally, `extra["ambiguous"]` is True.

    Of a batch, the examples are found that some unit of a ReLU layer fires for alone (see `separation.py`). It
    needs a bias. `extra["separated"]` says how many there are; the rest is not-a-number, never a guess. Two examples
    that always fire together look like one. `extra["certified"]` marks those that weigh in the gradient what one
    example with some label does, neither two nor a part: that is known for one local step of examples whose number is
    known, not clipped. It takes layers in which few units fire for an example to get an unmarked, false one.

    Labels: of a single example by the sign of the last layer's update; of a separated one by comparing its share of
    the first layer's gradient with that of each label at the broadcast weights, which is exact for one local step.

    Images are clipped to [0, 1], since they are known to lie there.
    """

    name: ClassVar[str] = "first_layer"
    paper: ClassVar[str] = "Phong et al. 2018; Geiping et al. 2020, arXiv 2003.14053; Boenisch et al. 2021, 2112.02918"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    @property
    def certified_only(self) -> bool:
        """Whether examples of a batch are left out that are not certified."""
        return False

    def attack(self, view: View, seed: int) -> Finding:
        """Reads the examples off the first layer.

        Returns:
          A finding with `x` `[n, *input_shape]`, not-a-number where an example was not separated; if the adversary
          does not know n, as many as were. Its `objective` is the replayed update's squared distance from the one
          observed, relative to the latter's square, where every example and label was found; else not-a-number.
          `extra` has `separated`, `expected_error` (standard deviation of a value, by example, from rounding) and
          `units` (for how many units each was alone). For a batch also `apart` (see `separation.py`) and
          `label_angles`, radians between an example's share of the gradient and the one that it causes with its label,
          `certified` (bool, by example), `misfits` (by example, the part of its share that one example's weight does
          not explain) and `uncertified` (how many are left out).
          Where logits depend on the batch (batch statistics), its labels are told together (`joint_labels.py`), if all
          its examples were found.
          For a single example `rank_one_residual`, the part of the kernel's gradient that one example does not
          explain, relative to its length; without a bias `scale`, `scales` (see `scale.py`) and `ambiguous`.

        Raises:
          CapabilityError: the first layer is not dense, the update is zero, or of several examples and the layer has
            no bias or no ReLU.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        checked_update(view)
        layer = dense_input(view)
        n = None if view.num_examples is None else view.total_examples
        if n == 1:
            read = _single(view, layer)
        else:
            read = _batch(view, layer, n, self.certified_only)
        shape = view.model.input_shape
        found = view.data_kind.settle(read.x.reshape(-1, *shape)).astype(np.float32)
        x = np.full((n or len(found), *shape), np.nan, np.float32)
        x[: len(found)] = found
        objective, y = float("nan"), read.y
        if n is not None and len(found) == n and view.procedure is not None:
            y = joint_labels(view, x) if y is None else y
            if y is not None:
                objective = relative_misfit(view, x, [int(label) for label in y])
        return Finding(
            x=x,
            y=y,
            objective=objective,
            seconds=time.perf_counter() - began,
            extra={"separated": len(found), **read.extra},
        )


def _single(view: View, layer: DenseInput) -> _Read:
    """One example: the layer's gradient has rank one."""
    label = _label_of_one(view)
    if layer.bias is not None:
        power = float(layer.bias @ layer.bias)
        if power == 0:
            raise CapabilityError(
                f"the bias '{layer.bias_name}' did not move though its kernel did, so this update is not of one "
                "example trained by plain SGD; use an attack that matches the update, such as 'dlg'"
            )
        x = layer.kernel @ layer.bias / power
        left = layer.kernel - np.outer(x, layer.bias)
        extra: dict[str, Any] = {
            "expected_error": [layer.rounding / float(np.sqrt(power))],
            "units": [int(np.count_nonzero(layer.bias))],
        }
    else:
        scaled = _without_bias(view, layer, label)
        x = scaled.scale * scaled.direction
        left = layer.kernel - np.outer(scaled.direction, scaled.direction @ layer.kernel)
        loud = float(np.linalg.norm(layer.kernel)) / max(scaled.scale, 1e-300)
        extra = {
            "expected_error": [layer.rounding / loud],
            "units": [int(np.count_nonzero(np.any(layer.kernel, 0)))],
            "scale": scaled.scale,
            "ambiguous": scaled.ambiguous,
            "scales": [list(pair) for pair in scaled.minima],
        }
    extra["rank_one_residual"] = float(np.linalg.norm(left) / np.linalg.norm(layer.kernel))
    return _Read(x[None], None if label is None else np.array([label], np.int32), extra)


def _label_of_one(view: View) -> int | None:
    if not view.model.task.softmax:
        return None
    if view.labels is not None:
        return int(view.labels[0])
    try:
        return single_label(np.asarray(view.observed), view.model).label
    except CapabilityError:  # no dense last layer, or one that did not move
        return None


def _without_bias(view: View, layer: DenseInput, label: int | None) -> Scaled:
    if label is None:
        raise CapabilityError(
            f"the first dense layer '{layer.kernel_name}' has no bias, so its gradient tells the example up to its "
            "length only, and finding that takes the label, which this update does not show; use an adversary that "
            "knows 'labels'"
        )
    left, _, _ = np.linalg.svd(layer.kernel, full_matrices=False)
    direction = left[:, 0] * (1.0 if left[:, 0].sum() >= 0 else -1.0)  # pixels are not negative
    return scale_by_replay(view, direction, label)


def _batch(view: View, layer: DenseInput, n: int | None, certified_only: bool) -> _Read:
    """Several examples, or an unknown number."""
    many = "an unknown number of" if n is None else str(n)
    if layer.bias is None:
        raise CapabilityError(
            f"the first dense layer '{layer.kernel_name}' has no bias, so of {many} examples not even the lengths can "
            "be told; use clients with one example, or 'dlg'"
        )
    if Capability.SOFTMAX not in view.capabilities:
        raise CapabilityError(
            f"separating {many} examples takes {Capability.SOFTMAX.value}, but model '{view.model.name}' has task "
            f"'{view.model.task.name}'; use clients with one example, or 'dlg'"
        )
    names = find_dense_input(view.model)
    if not names.rectified:
        raise CapabilityError(
            f"every unit of the first dense layer '{layer.kernel_name}' of model '{view.model.name}' responds to "
            f"every example, so none of {many} examples can be separated; that takes a ReLU after the layer, as in "
            "'2nn'. Use clients with one example, 'cocktail_party' or 'dlg'"
        )
    one_step = Capability.SINGLE_STEP in view.capabilities
    weights = weights_of_one(view, layer)
    claims = [_claim(view, layer, s, weights) for s in separate(layer, n, not one_step)]
    claims = [c for c in claims if len(c.example.units) > 1 or (one_step and c.angle < _SAME + 30 * c.example.error)]
    every = len(claims)
    if certified_only:
        claims = [c for c in claims if c.certified]
    uncertified = every - len(claims)
    claims.sort(key=lambda c: (-len(c.example.units), c.angle))
    kept: list[_Claim] = []
    for claim in claims:
        if all(abs(float(claim.example.own @ k.example.own)) < 0.99 for k in kept):
            kept.append(claim)
    kept = kept[:n]
    x = np.stack([c.example.x for c in kept]) if kept else np.zeros((0, layer.inputs))
    extra = {
        "expected_error": [c.example.error for c in kept],
        "units": [len(c.example.units) for c in kept],
        "apart": [c.example.apart for c in kept],
        "label_angles": [c.angle for c in kept],
        "misfits": [c.misfit for c in kept],
        "certified": [c.certified for c in kept],
        "uncertified": uncertified,
    }
    if view.model.couples_examples:  # alone, an example gives another gradient than it gave in its batch
        return _Read(x, None, {k: v for k, v in extra.items() if k != "label_angles"})
    return _Read(x, np.array([c.label for c in kept], np.int32), extra)


def _claim(view: View, layer: DenseInput, one: Separated, weights: Sequence[float]) -> _Claim:
    """The label whose gradient in the layer's pre-activations is the example's own share, and how far it is from it."""
    gradients = label_gradients(view, layer, one.x)
    lengths = np.maximum(np.linalg.norm(gradients, axis=1), 1e-300)
    # A difference of unit vectors resolves small angles, which the cosine does not.
    directions = gradients / lengths[:, None]
    angles = np.linalg.norm(directions - one.signal / max(float(np.linalg.norm(one.signal)), 1e-300), axis=1)
    label = int(np.argmin(angles))
    if not len(weights) or view.model.couples_examples:
        return _Claim(one, label, float(angles[label]), float("nan"))
    assert layer.bias is not None
    units = list(one.units)
    # Several lone units are proof enough, and sharper than the share along the own direction, which others may blur.
    lone = len(units) > 1
    seen, expected = (layer.bias[units], gradients[:, units]) if lone else (one.signal, gradients)
    sizes = np.maximum(np.linalg.norm(expected, axis=1), 1e-9 * lengths)
    misfits = np.min([np.linalg.norm(seen / w - expected, axis=1) / sizes for w in weights], axis=0)
    best = int(np.argmin(misfits))
    fitting = _Claim(one, best, float(angles[best]), float(misfits[best]))
    return fitting if fitting.certified else _Claim(one, label, float(angles[label]), float(misfits[label]))


def weights_of_one(view: View, layer: DenseInput) -> tuple[float, ...]:
    """What one example's gradient may be multiplied by in the layer's: a number for each size of client.

    None at all where that is not known: without the numbers of examples or the rate, over several local steps. A client
    that clips multiplies by less, so that nothing fits.
    """
    counts = view.num_examples
    if counts is None or not layer.rate_known or Capability.SINGLE_STEP not in view.capabilities:
        return ()
    if view.plan.weighting == "examples":
        return (1 / sum(counts),)
    return tuple(sorted({1 / (len(counts) * n) for n in counts if n}))


def label_gradients(view: View, layer: DenseInput, x: np.ndarray) -> np.ndarray:
    """The gradient in the layer's pre-activations that each label causes for an example: `[classes, units]`."""
    model, dtype = view.model, view.model.spec.dtype
    weights = [tf.constant(w) for w in model.spec.unflatten_numpy(np.asarray(view.weights, dtype))]
    bias = weights[model.spec.names.index(layer.bias_name or "")]
    given_x = tf.constant(x.reshape(1, *model.input_shape), dtype)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(bias)
        given = [bias if n == layer.bias_name else w for n, w in zip(model.spec.names, weights, strict=True)]
        logits = tf.reshape(model.apply(given, given_x, True), [-1])
    # The gradient of cross-entropy in the bias is that of the logits, weighed by p - y.
    by_logit = tape.jacobian(logits, bias, experimental_use_pfor=False).numpy().astype(np.float64)
    factors = tf.nn.softmax(logits).numpy().astype(np.float64) - np.eye(model.num_classes)
    return np.asarray(factors @ by_logit)
