"""The last layer: what an update says about it, as a mean gradient over the examples, and what it predicts.

For cross-entropy at logits h W + b, with features h, predictions p and one-hot labels y, the mean gradients are
mean(h (p - y)^T) in the kernel W and mean(p - y) in the bias b. Those sums over examples are what label inference
reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Tensor
from fedpriv.defense.stations import Station
from fedpriv.federation.replay import divides_by_public_constant
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.view import View

#: Examples a forward pass takes at once.
CHUNK = 128


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The last layer of one view, in float64.

    Attributes:
      kernel: `[f, c]` mean gradient over the examples (or a positive multiple, see `read_last_layer`), or None.
      bias: `[c]` likewise, or None.
      kernel_weights, bias_weights: the broadcast values, or None.
      kernel_change, bias_change: the update.
      midpoints: where predictions are averaged, as fractions of the way from the broadcast to the client's weights:
        (0,) for one step, else the middle of each of equally long steps.
      notes: what about the reading is approximate, in words.
    """

    kernel: np.ndarray | None
    bias: np.ndarray | None
    kernel_weights: np.ndarray | None
    bias_weights: np.ndarray | None
    kernel_change: np.ndarray | None
    bias_change: np.ndarray | None
    midpoints: tuple[float, ...]
    notes: tuple[str, ...]

    def predictions(self, features: np.ndarray) -> np.ndarray:
        """Predictions `[m, c]` for features `[m, f]`, averaged over the midpoints. Needs kernel and bias."""
        assert self.kernel_weights is not None
        assert self.kernel_change is not None
        assert self.bias_weights is not None
        assert self.bias_change is not None
        total = np.zeros((len(features), len(self.bias_weights)))
        for t in self.midpoints:
            kernel = self.kernel_weights + t * self.kernel_change
            total += softmax(features @ kernel + self.bias_weights + t * self.bias_change)
        return total / len(self.midpoints)


def dense_parts(model: Model) -> tuple[slice | None, slice | None]:
    """Where the last layer's kernel and bias lie in the flat vector; None for what it lacks or is not dense."""
    kernel, bias = model.classifier_kernel(), model.classifier_bias()
    kinds = dict(zip(model.spec.offsets, model.layers, strict=False))
    kernel = kernel if kernel is not None and kinds.get(kernel.start, "dense") == "dense" else None
    bias = bias if bias is not None and kinds.get(bias.start, "dense") == "dense" else None
    return kernel, bias


def hidden_in_last_layer(view: View) -> int:
    """How many coordinates of the last layer a protocol hides."""
    if view.visible is None:
        return 0
    parts = [part for part in (view.model.classifier_kernel(), view.model.classifier_bias()) if part is not None]
    return sum(int(np.count_nonzero(~view.visible[part])) for part in parts)


def kept_back(view: View) -> bool:
    """Whether nothing came of the last layer, while others moved: it stays with the client, is frozen or left out."""
    assert view.observed is not None
    parts = [part for part in dense_parts(view.model) if part is not None]
    return bool(parts) and not any(np.any(view.observed[part]) for part in parts) and bool(np.any(view.observed))


def require_last_layer(view: View) -> None:
    """Raises CapabilityError where coordinates of the last layer are hidden: a label is read off all of them."""
    if hidden := hidden_in_last_layer(view):
        raise CapabilityError(
            f"{hidden} coordinates of the last layer are encrypted, and labels are read off all of them; use "
            "labels=joint, or labels=known with an adversary that knows them"
        )


def read_last_layer(view: View, scaled: bool = True) -> LastLayer:
    """The last layer's mean gradient over the examples behind `view`.

    Args:
      view: must hold a real update.
      scaled: divide by the learning rate and local steps, which needs the procedure; False leaves the unknown
        positive scale of the update.

    Raises:
      CapabilityError: the scale is asked for and unknown, see `gradient_scale`; or the layer did not move, or some of
        it is hidden.
      DivergenceError: the last layer's update is not finite.
    """
    assert view.observed is not None
    require_last_layer(view)
    scale, notes = gradient_scale(view) if scaled else (1.0, ())
    slices = dense_parts(view.model)
    shapes = ((-1, view.model.num_classes), (view.model.num_classes,))
    change: list[np.ndarray | None] = []
    weights: list[np.ndarray | None] = []
    for part, shape in zip(slices, shapes, strict=True):
        change.append(None if part is None else np.asarray(view.observed[part], np.float64).reshape(shape))
        weights.append(None if part is None else np.asarray(view.weights[part], np.float64).reshape(shape))
    moved = [c for c in change if c is not None]
    if not all(np.isfinite(c).all() for c in moved):
        raise DivergenceError(
            f"the last layer of the update of round {view.round} of model '{view.model.name}' is not finite, so it "
            "shows no labels; lower the client's learning rate"
        )
    if moved and not any(np.any(c) for c in moved):
        raise CapabilityError(
            f"the last layer of model '{view.model.name}' did not move in the update of round {view.round}, so it "
            "shows no labels; use 'joint', or an update from a client that trains the last layer"
        )
    steps = _most_steps(view)
    midpoints = tuple((s + 0.5) / steps for s in range(steps)) if 1 < steps <= 32 else (0.0,)
    if steps > 32:
        midpoints = tuple((s + 0.5) / 32 for s in range(32))
    gradient = [None if c is None else -c / scale for c in change]
    return LastLayer(gradient[0], gradient[1], weights[0], weights[1], change[0], change[1], midpoints, notes)


def gradient_scale(view: View) -> tuple[float, tuple[str, ...]]:
    """(s, notes) such that the observed update is minus s times the mean gradient over all examples.

    Exact for one local step of SGD or momentum. For several steps the gradients were taken at different weights, and
    their weighted mean stands for them; momentum and a proximal term are unrolled exactly. The notes say so.

    Raises:
      CapabilityError: the procedure is unknown, its optimizer is adaptive, a client stops before it has used all
        its examples, or examples of different clients weigh differently in the sum.
    """
    if view.procedure is None or view.client_rate is None or view.num_examples is None:
        raise CapabilityError(
            "counting labels needs the update's scale: the local procedure, its learning rate and the number of "
            f"examples, which this view does not give: {view.describe()} Use 'llg' or 'gradinversion', which need no "
            "scale, or an adversary that knows 'procedure' and 'num_examples'"
        )
    procedure, counts = view.procedure, view.num_examples
    check_linear(procedure)
    uniform = view.plan.weighting == "uniform"
    notes, weights = list(_defense_notes(view)), []
    for n in counts:
        steps, size = procedure.local_steps(n), procedure.batch_size or n
        if steps * size < n and steps < procedure.steps_per_epoch(n):
            raise CapabilityError(
                f"a client with {n} examples stops after {steps} steps of {size}, before it has used them all, so "
                "their labels cannot be counted; raise max_local_steps"
            )
        share = 1.0 / len(counts) if uniform else n / sum(counts)
        weights.append(share * _travelled(procedure, steps, view.client_rate) / n)
        if steps % procedure.steps_per_epoch(n) or (n % size and procedure.batch_size):
            notes.append("batches of unequal size, or a cut epoch, weigh examples unequally")
        if procedure.steps_per_epoch(n) > 1 and (procedure.client.kind == "momentum" or procedure.proximal):
            notes.append("momentum or the proximal term weighs early and late batches unequally")
    if not np.allclose(weights, weights[0], rtol=1e-9):
        raise CapabilityError(
            f"in this sum of {len(counts)} clients with {min(counts)} to {max(counts)} examples, examples of different "
            "clients weigh differently, so they cannot be counted together; use clients of equal size, one local "
            "step with weighting='examples', or 'joint'"
        )
    if _most_steps(view) > 1:
        notes.append(f"{_most_steps(view)} local steps are read as one mean gradient")
    scale = weights[0] * sum(counts)
    if view.kind == "released" and divides_by_public_constant(view.defenses, view.plan):
        scale *= len(counts) / view.plan.expected_cohort
    return scale, tuple(dict.fromkeys(notes))


def check_linear(procedure: Procedure | None) -> None:
    """Refuses client optimizers whose steps are not a multiple of the gradient.

    Raises:
      CapabilityError: an adaptive client optimizer.
    """
    if procedure is not None and not procedure.client.linear:
        raise CapabilityError(
            f"the client's optimizer is {procedure.client.nonlinearity}, so the update's magnitudes count no "
            "labels; 'idlg' (one example, signs only) and 'joint' still work"
        )


def predict(view: View, layer: LastLayer, x: np.ndarray) -> np.ndarray:
    """Predictions `[m, c]` of the view's model on examples `[m, *input_shape]`, averaged over the midpoints.

    Between the broadcast and the client's final weights the model is taken on the straight line.
    """
    observed = np.asarray(view.observed)
    total = np.zeros((len(x), view.model.num_classes))
    for t in layer.midpoints:
        flat = view.weights if t == 0.0 else (view.weights + t * observed).astype(view.weights.dtype)
        total += softmax(_logits(view.model, flat, x))
    return total / len(layer.midpoints)


def feature_sums(view: View, x: np.ndarray) -> np.ndarray:
    """`[m]`: the sum of the last layer's input features, for each example, at the broadcast weights.

    Features are inside the model; but with a kernel of ones and no bias, every logit is their sum.

    Raises:
      CapabilityError: the last layer is no plain dense one (its logits are not h W + b).
    """
    kernel, bias = dense_parts(view.model)
    assert kernel is not None
    flat = np.array(view.weights)
    flat[kernel] = 1
    if bias is not None:
        flat[bias] = 0
    logits = _logits(view.model, flat, x)
    if not np.allclose(logits, logits[:, :1], rtol=1e-4, atol=1e-6):
        raise CapabilityError(
            f"model '{view.model.name}' changes its logits after the last dense layer, so its features cannot be "
            "summed; use 'gradinversion' or 'llg', which need no simulation"
        )
    return logits.mean(1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _logits(model: Model, flat: np.ndarray, x: np.ndarray) -> np.ndarray:
    dtype = model.spec.dtype
    weights = model.spec.unflatten(tf.constant(flat, dtype))
    # In training mode, as the client computes its gradients.
    call: Callable[[Array], Tensor] = lambda part: model.apply(weights, tf.constant(part, dtype), True)  # noqa: E731
    parts = [call(x[i : i + CHUNK]).numpy() for i in range(0, len(x), CHUNK)]
    logits = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(logits).all():
        raise DivergenceError(
            f"model '{model.name}' predicts non-finite logits at the weights of this view, so nothing can be "
            "simulated; lower the learning rate"
        )
    return logits


def _most_steps(view: View) -> int:
    if view.procedure is None or view.num_examples is None:
        return 1
    return max(view.procedure.local_steps(n) for n in view.num_examples)


def _travelled(procedure: Procedure, steps: int, rate: float) -> float:
    """How far `steps` local steps go against a gradient that is 1 everywhere."""
    momentum = procedure.client.momentum if procedure.client.kind == "momentum" else 0.0
    velocity = distance = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0 - procedure.proximal * distance
        distance += rate * velocity
    return distance


def _defense_notes(view: View) -> list[str]:
    changing = (Station.BATCH, Station.GRADIENT, Station.UPDATE, Station.AGGREGATE)
    names = [d.name for d in view.defenses if any(d.acts_at(s) for s in changing)]
    return [f"read as it stands after {', '.join(names)}, whose change is not undone"] if names else []
