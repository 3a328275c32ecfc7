"""Label fit: the broadcast model's own opinion of the dummy examples should match their labels."""

from __future__ import annotations

from typing import ClassVar

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Scalar
from fedpriv_attacks.parts.priors import Prior, Scene


class LabelFit(Prior):
    """Mean squared distance between the model's own prediction, relaxed (such as class probabilities), and the labels.

    The label-based regularizer of CPL (Wei et al. 2020, "A Framework for Evaluating Gradient Leakage Attacks in
    Federated Learning", arXiv 2004.10397). It helps where the broadcast model classifies the private examples well,
    and misleads on an untrained one.
    """

    kind: ClassVar[str] = "label_fit"
    paper: ClassVar[str] = "Wei et al. 2020, arXiv 2004.10397"

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The penalty of `x [n, *input_shape]`; scalar."""
        model = scene.static.model
        y = scene.y
        task, outputs = model.task, model.logits(scene.weights, x)
        labels = tf.cast(task.soften(y) if y.dtype.is_integer else y, x.dtype)
        predicted = task.relax(tf.reshape(outputs, [-1, *task.relaxed_shape]))
        squares = tf.math.squared_difference(predicted, labels)
        distances = tf.reduce_sum(tf.reshape(squares, [tf.shape(x)[0], -1]), -1)
        return tf.cast(self.weight, x.dtype) * tf.reduce_mean(distances)
