import dataclasses

import numpy as np
import pytest

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.models import cross_entropy
from fedpriv.models.zoo import logistic


def test_cross_entropy_is_tensorflows():
    logits, labels = tf.random.stateless_normal([5, 4], [1, 2]), tf.constant([0, 3, 1, 2, 2])
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(logits, tf.one_hot(labels, 4)), expected, rtol=1e-5)


def test_cross_entropy_has_its_mixed_second_derivative():
    """d/dy of d/dlogits: softmax(logits) sum(y) - y has derivative p 1' - I, which the fused operation lacks."""
    logits, y = tf.constant([[0.3, -1.0, 2.0]]), tf.constant([[0.2, 0.5, 0.3]])
    with tf.GradientTape() as outer:
        outer.watch(y)
        with tf.GradientTape() as inner:
            inner.watch(logits)
            loss = tf.reduce_sum(cross_entropy(logits, y))
        first = inner.gradient(loss, logits)
    p = tf.nn.softmax(logits)[0].numpy()
    np.testing.assert_allclose(outer.jacobian(first, y)[0, :, 0], np.outer(p, np.ones(3)) - np.eye(3), atol=1e-6)


def test_cross_entropy_of_integers_has_its_second_derivative():
    """The Hessian in the logits is diag(p) - p p'."""
    logits, y = tf.constant([[0.3, -1.0, 2.0]]), tf.constant([2])
    with tf.GradientTape() as outer:
        outer.watch(logits)
        with tf.GradientTape() as inner:
            inner.watch(logits)
            loss = tf.reduce_sum(cross_entropy(logits, y))
        first = inner.gradient(loss, logits)
    p = tf.nn.softmax(logits)[0].numpy()
    np.testing.assert_allclose(outer.jacobian(first, logits)[0, :, 0], np.diag(p) - np.outer(p, p), atol=1e-6)


@pytest.mark.slow
def test_initial_weights_of_other_shapes_are_refused():
    model = logistic((4,), 2)
    broken = dataclasses.replace(model, initialize=lambda seed: model.initialize(seed)[::-1])
    with pytest.raises(ModelError, match="initializes shapes"):
        broken.initial_weights(0)
