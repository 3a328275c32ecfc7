"""Label inference: the sign rule is exact for one example, with and without a bias, and after local steps."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.labels.single import single_label

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.models import load as load_model
from fedpriv.models.model import cross_entropy


def gradient_function(model):
    @tf.function(autograph=False)
    def gradient(flat, x, y):
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss = tf.reduce_mean(cross_entropy(model.logits(flat, x, True), y))
        return tape.gradient(loss, flat)

    return gradient


def right(model, draws, seed=0):
    """How many of `draws` random labels on random images at random weights are found."""
    gradient, rng, count = gradient_function(model), np.random.default_rng(seed), 0
    for draw in range(draws):
        x = rng.uniform(size=(1, *model.input_shape)).astype(model.spec.dtype)
        label = int(rng.integers(model.num_classes))
        g = gradient(model.initial_weights(draw), x, tf.constant([label])).numpy()
        count += single_label(-rng.uniform(1e-4, 10) * g, model).label == label
    return count


KINDS = {
    "lenet": lambda h: load_model("lenet(init=uniform)", input_shape=(32, 32, 3), num_classes=100),
    "2nn": lambda h: load_model("2nn", input_shape=(28, 28, 1), num_classes=10),
    "kernel only": lambda h: h.dense(bias=False),
    "kernel only, signed features": lambda h: h.dense(bias=False, activation="tanh"),
    "two classes": lambda h: h.dense(classes=2),
    "two classes, kernel only": lambda h: h.dense(classes=2, bias=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_40_labels_is_right(helpers, kind):
    assert right(KINDS[kind](helpers), 40) == 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_1000_labels_is_right(helpers, kind):
    assert right(KINDS[kind](helpers), 1000, seed=1) == 1000


def test_the_label_survives_several_local_steps(helpers):
    model = helpers.dense()
    for draw in range(20):
        x, y = helpers.smooth_images(1, model.input_shape, draw), [draw % 10]
        view = helpers.make_view(model, x, y, helpers.local_steps(5, 0.05), seed=draw)
        found = single_label(view.observed, model)
        assert (found.label, found.source) == (draw % 10, "bias")
        assert 0 < found.margin <= 1


def test_noise_far_above_the_update_hides_the_label(helpers):
    model = helpers.dense(classes=100, hidden=8)
    rng = np.random.default_rng(0)
    wrong = 0
    for draw in range(20):
        view = helpers.make_view(model, helpers.smooth_images(1, model.input_shape, draw), [draw], seed=draw)
        wrong += single_label(view.observed + rng.normal(0, 10.0, view.observed.shape), model).label != draw
    assert wrong >= 15


def test_a_last_layer_that_did_not_move_shows_nothing(helpers):
    model = helpers.dense()
    with pytest.raises(CapabilityError, match="did not move"):
        single_label(np.zeros(model.spec.size), model)


def test_an_update_that_is_not_finite_is_named(helpers):
    model = helpers.dense()
    with pytest.raises(DivergenceError, match="not finite"):
        single_label(np.full(model.spec.size, np.nan), model)


def test_a_model_without_a_dense_last_layer_is_refused(helpers):
    import dataclasses

    from fedpriv.models.spec import Spec

    model = dataclasses.replace(helpers.dense(), spec=Spec(("kernel",), ((3, 3, 1, 7),)))
    with pytest.raises(CapabilityError, match="dense last layer"):
        single_label(np.ones(63), model)
