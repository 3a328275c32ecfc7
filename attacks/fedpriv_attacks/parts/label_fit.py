"""Label fit: the broadcast model's own opinion of the dummy examples should match their labels."""

from __future__ import annotations

from typing import ClassVar

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Scalar
from fedpriv_attacks.parts.priors import Prior, Scene


class LabelFit(Prior):
    """Mean squared distance between the model's class probabilities and the labels.

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
        labels = tf.one_hot(y, model.num_classes, dtype=x.dtype) if y.dtype.is_integer else tf.cast(y, x.dtype)
        probabilities = tf.nn.softmax(model.logits(scene.weights, x))
        distances = tf.reduce_sum(tf.math.squared_difference(probabilities, labels), -1)
        return tf.cast(self.weight, x.dtype) * tf.reduce_mean(distances)
