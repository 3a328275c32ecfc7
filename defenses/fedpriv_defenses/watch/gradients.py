"""WatchGradients: whether a client's own gradient would show single examples."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Labels, Nested, Scalar, Tensor
from fedpriv.defense.stations import Context, Plan
from fedpriv.models.spec import Spec
from fedpriv_defenses.watch.watch import Watch

#: The share of a unit's gradient from which it counts as one example's own.
_OWN = 0.99


class WatchGradients(Watch):
    """Clients look at what single examples add to their gradient before they send it.

    On the first `examples` of the client, at the weights it was sent:

    - `dominance`: the largest example's gradient norm over the sum of the others', the largest over kernels: a
      signal-to-noise ratio of the disaggregation, after D-SNR of Garov, Dimitrov, Jovanović, Vechev 2024, "Hiding in
      Plain Sight", arXiv 2306.03013. 1 / (n - 1) where all n weigh the same; a batch of 1 says nothing (0).
    - `isolated`: the share of examples that have, in a dense layer, a unit nearly all of whose bias gradient (99%) is
      theirs, which therefore holds them in the clear, or the difference of two neighbouring units that does.
    - `silent`: the share of units of such a layer that no example moves, the largest over layers.

    It sees what an act does rather than how, and alarms as well at an honest server's model that happens to leak:
    wide ReLU layers and few examples. Acts that single out by decoding after the sum (SEER, arXiv 2306.03013) pass.
    """

    name: ClassVar[str] = "watch_gradients"
    paper: ClassVar[str] = "Garov et al. 2024, arXiv 2306.03013"
    measures: ClassVar[tuple[str, ...]] = ("dominance", "isolated", "silent")

    dominance: Annotated[float, Field(gt=0)] = Field(default=3.0, description="alarms above.")
    isolated: Annotated[float, Field(gt=0)] = Field(default=0.7, description="alarms above, a share of the examples.")
    silent: Annotated[float, Field(gt=0, le=1)] = Field(default=0.8, description="alarms above, a share of the units.")
    examples: Annotated[int, Field(ge=2)] = Field(default=32, description="how many of its examples it looks at.")

    def check(self, plan: Plan) -> None:
        """Raises StackError where no dense layer has a bias."""
        if not _biases(plan.spec):
            raise StackError(f"{self.name}: the model has no dense layer with a bias to look at; use watch_weights")

    def measured(self, x: Examples, y: Labels, context: Context) -> tuple[dict[str, Scalar], dict[str, Scalar], Nested]:
        """All three measures."""
        spec, model = context.plan.spec, context.model
        tensors = tuple(spec.unflatten(context.weights))
        biases, kernels = _biases(spec), [i for i, n in enumerate(spec.names) if n.endswith("kernel")]

        def one(example: tuple[Examples, Labels]) -> tuple[Tensor, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(tensors)
                loss = model.example_losses(tensors, example[0][None], example[1][None], training=False)
            found = tape.gradient(loss, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            norms = tf.stack([tf.norm(tf.convert_to_tensor(found[i])) for i in kernels])
            return norms, *(tf.convert_to_tensor(found[i]) for i in biases)

        shapes = [tf.TensorSpec([len(kernels)], spec.dtype)]
        shapes += [tf.TensorSpec(spec.shapes[i], spec.dtype) for i in biases]
        norms, *gradients = tf.map_fn(one, (x[: self.examples], y[: self.examples]), fn_output_signature=tuple(shapes))
        largest = tf.reduce_max(norms, axis=0)
        several = tf.shape(norms)[0] > 1
        zero = tf.zeros([], spec.dtype)
        dominance = tf.reduce_max(largest / tf.maximum(tf.reduce_sum(norms, axis=0) - largest, 1e-30 + 1e-6 * largest))
        isolated = tf.reduce_max(tf.stack([_isolated(g) for g in gradients]))
        values = {"dominance": tf.where(several, dominance, zero), "isolated": tf.where(several, isolated, zero)}
        values["silent"] = tf.reduce_max(tf.stack([_silent(g) for g in gradients]))
        alarms = {name: value > getattr(self, name) for name, value in values.items()}
        return values, alarms, ()


def _biases(spec: Spec) -> list[int]:
    """Biases of dense layers but the last, whose units are classes and are one example's own by its class."""
    found = [
        spec.names.index(bias)
        for name, shape in zip(spec.names, spec.shapes, strict=True)
        if name.endswith("kernel") and len(shape) == 2 and (bias := name[: -len("kernel")] + "bias") in spec.names
    ]
    return found[:-1] or found


def _isolated(gradients: Tensor) -> Scalar:
    """The share of rows of `gradients [n, units]` that alone make a column, or the difference of two neighbours."""
    sizes = tf.abs(gradients)
    noise = 1e-5 * tf.reduce_max(sizes, axis=1, keepdims=True)
    apart = tf.abs(gradients[:, 1:] - gradients[:, :-1])
    found = tf.concat([sizes, tf.where(apart > noise, apart, 0.0)], axis=1)
    total = tf.reduce_sum(found, axis=0)
    lone = (found > _OWN * total) & (found > 0)
    return tf.reduce_mean(tf.cast(tf.reduce_any(lone, axis=1), gradients.dtype))


def _silent(gradients: Tensor) -> Scalar:
    """The share of columns of `gradients [n, units]` that are zero."""
    return tf.reduce_mean(tf.cast(tf.reduce_all(tf.equal(gradients, 0), axis=0), gradients.dtype))
