"""Soteria: the classifier's gradient without those features that tell most of the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Tensor, Tensors
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec

#: An update of one example has rows of the classifier's kernel that differ in direction by rounding alone.
_ALONE = 1e-3


class Soteria(Defense):
    """Of each example's features those with the largest |r_i| / |dr_i/dx| are left out of the classifier's gradient.

    Sun, Li, Wang, Yang, Li, Chen 2021, "Soteria: Provable Defense against Privacy Leakage in Federated Learning from
    Representation Perspective", CVPR, arXiv 2012.06043. r `[features]` is the input of the last dense layer. A
    representation r' that differs from r in few places, and whose input would be farthest from x to first order, is r
    with those features set to zero (their Theorem on p = 0, q = 2). An example's gradient of the layer's kernel is r
    times that of the logits; here it is r' times that. All other layers' gradients stay as they are.

    Where no feature of an example has a slope (all units saturated, or a layer without a derivative in between), those
    with the largest |r_i| are left out, and a warning says for how many examples. Tokens have no derivative at all, so
    models of tokens are refused.

    So it hides features in one layer and nothing elsewhere. Balunović, Dimitrov, Staab, Vechev 2022 (arXiv 2111.04706)
    match all other entries; so does `objective=consistent`, which sees in the zeros which ones were left out.

    Costs one backward pass a feature, since each feature's derivative in the input is needed: many times a plain step.
    For the same reason a replay leaves it out. Formal guarantee: none; the theorem is about one layer's representation.
    Log: `pruned`, the part of the features left out that were not zero, and `flat`, the part of the examples without
    any slope.
    """

    name: ClassVar[str] = "soteria"
    paper: ClassVar[str] = "Sun et al. 2021, arXiv 2012.06043"
    adaptive_attack: ClassVar[str] = "dlg(objective=consistent)"
    per_example: ClassVar[bool] = True
    replayable: ClassVar[bool] = False
    only_once: ClassVar[bool] = True

    rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.8, description="part of the features that is left out, of each example."
    )

    def model(self, model: Model, plan: Plan | None) -> Model:
        """The model as it is, if its features have derivatives in the input.

        Raises:
          StackError: it takes tokens, has several outputs an example, or draws random numbers in training.
        """
        if model.embedding is not None:
            raise StackError(
                f"{self.name} goes by the derivatives of features in the input, but model '{model.name}' takes tokens, "
                "which have none; use images or other features, or freeze(layers=...) to leave a layer out"
            )
        if len(model.task.output_shape) != 1:
            raise StackError(
                f"{self.name} defends one vector of features an example, but model '{model.name}' gives outputs of "
                f"shape {list(model.task.output_shape)}; use task=classes"
            )
        if model.draws:
            raise StackError(
                f"{self.name} goes by the features that enter the last layer, but model '{model.name}' draws random "
                f"numbers in training ('{model.draws[0].name}'), so that those differ from the ones it can compute; "
                "use one of the two"
            )
        return model

    def warn(self, log: Mapping[str, float]) -> str:
        """That some examples' features had no slopes to go by."""
        flat = log.get("flat", 0.0)
        if not flat > 0:
            return ""
        return (
            f"no feature of {flat:.1%} of the examples has a derivative in the input, so that the largest features "
            "were left out of their gradients; other weights or activations have slopes"
        )

    def check(self, plan: Plan) -> None:
        """Raises StackError where no dense layer of a classifier comes last."""
        self._kernel(plan.spec)

    def notes(self, plan: Plan) -> Sequence[str]:
        """What it costs."""
        features = self._kernel(plan.spec)[1][0]
        return [f"soteria takes {features} backward passes more in every local step, one a feature"]

    def _kernel(self, spec: Spec) -> tuple[int, tuple[int, int]]:
        """(The last kernel's place, its shape `[features, classes]`)."""
        for i in range(len(spec.names) - 1, max(len(spec.names) - 3, -1), -1):
            shape = spec.shapes[i]
            if len(shape) == 2:
                return i, (shape[0], shape[1])
            if len(shape) != 1:
                break
        last = spec.names[-1] if spec.names else "nothing"
        raise StackError(
            f"{self.name} defends the dense layer that comes last, but this model ends in '{last}' of shape "
            f"{list(spec.shapes[-1]) if spec.names else []}; use a model with a dense classifier"
        )

    def gradient(self, gradient: Tensor, context: Context) -> Passed:
        """`[b, d]` to `[b, d]`, with rows of zeros in the classifier's kernel."""
        spec = context.plan.spec
        place, (features, outputs) = self._kernel(spec)
        weights = spec.unflatten(context.weights)
        x = tf.cast(context.x, spec.dtype)
        values, slopes = representation(context.model, weights, place, x)
        flat = tf.reduce_all(slopes <= 0, axis=1)
        ratio = tf.where(flat[:, None], tf.abs(values), tf.math.divide_no_nan(tf.abs(values), slopes))
        # A feature that no input moves hides nothing by staying, and one that is zero has nothing to hide.
        count = min(features - 1, max(1, round(self.rate * features)))
        most = tf.math.top_k(ratio, count, sorted=False).indices
        rows = tf.shape(ratio)[0]
        where = tf.stack([tf.repeat(tf.range(rows), count), tf.reshape(most, [-1])], axis=1)
        kept = 1 - tf.scatter_nd(where, tf.ones_like(where[:, 0], spec.dtype), [rows, features])
        start = spec.offsets[place]
        before, kernel, after = tf.split(
            gradient, [start, features * outputs, spec.size - start - features * outputs], 1
        )
        masked = tf.reshape(kernel, [-1, features, outputs]) * tf.stop_gradient(kept)[:, :, None]
        out = tf.concat([before, tf.reshape(masked, [-1, features * outputs]), after], axis=1)
        lost = tf.reduce_sum(tf.cast(tf.logical_and(kept == 0, values != 0), spec.dtype))
        return Passed(
            tf.where(tf.math.is_finite(gradient), out, gradient),
            log={
                "pruned": lost / tf.cast(rows * features, spec.dtype),
                "flat": tf.reduce_mean(tf.cast(flat, spec.dtype)),
            },
        )

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat]:
        """Of the classifier's kernel, what is zero is not known, or nothing of it is; all else is as it was.

        Of several examples an entry may be the sum of some alone. Where nobody says how many there are: one example's
        kernel gradient is the product of its features and its error, so that all rows are multiples of one, and of the
        bias. With two outputs or fewer every error is a multiple of every other, and nothing is told.
        """
        place, (features, outputs) = self._kernel(spec)
        start, size = spec.offsets[place], features * outputs
        inside = np.zeros(spec.size, bool)
        inside[start : start + size] = True
        rows = tf.reshape(sent[start : start + size], [features, outputs])
        if spec.sizes[-1] == outputs and place == len(spec.sizes) - 2:
            rows = tf.concat([rows, sent[None, start + size :]], 0)
        one = tf.gather(rows, tf.argmax(tf.reduce_sum(tf.square(rows), 1)))
        along = tf.math.divide_no_nan(tf.linalg.matvec(rows, one), tf.reduce_sum(tf.square(one)))
        beside = tf.nn.l2_loss(rows - along[:, None] * one)
        several = (beside > _ALONE**2 * tf.nn.l2_loss(rows)) | (outputs <= 2)
        if examples is not None:
            several = tf.constant(examples > 1)
        left = tf.logical_and(tf.equal(sent, 0) | several, tf.constant(inside))
        none = tf.fill(tf.shape(sent), tf.cast(np.inf, sent.dtype))
        return tf.where(left, -none, sent), tf.where(left, none, sent)


def representation(model: Model, weights: Tensors, kernel: int, x: Examples) -> tuple[Tensor, Tensor]:
    """Each example's features before a last dense layer, and the norms of their derivatives in the input.

    The layer is given a kernel that passes one feature on, and no bias, so that any model's features can be had
    without its inside.

    Args:
      model: one that ends in that layer, its activation the loss's.
      weights: in the spec's shapes.
      kernel: which of them is the layer's kernel `[features, outputs]`.
      x: `[b, *input_shape]`.

    Returns:
      (features `[b, features]`, norms `[b, features]`).
    """
    features, outputs = (int(n) for n in weights[kernel].shape)
    blank = [tf.zeros_like(w) if i > kernel else w for i, w in enumerate(weights)]

    def one(feature: Tensor) -> tuple[Tensor, Tensor]:
        passing = tf.one_hot(feature, features, dtype=x.dtype)[:, None] * tf.one_hot(0, outputs, dtype=x.dtype)[None]
        given = [passing if i == kernel else w for i, w in enumerate(blank)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = model.apply(given, x, True)[:, 0]
        slope = tf.convert_to_tensor(tape.gradient(value, x, unconnected_gradients="zero"))
        axes = list(range(1, len(x.shape)))
        return value, tf.sqrt(tf.reduce_sum(tf.square(slope), axis=axes))

    found = tf.map_fn(one, tf.range(features), fn_output_signature=(x.dtype, x.dtype))
    return tf.transpose(found[0]), tf.transpose(found[1])
