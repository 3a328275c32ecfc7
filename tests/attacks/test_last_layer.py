"""The last layer: its mean gradient is the true one whatever the procedure made of it, or it is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.labels.last_layer import dense_parts, feature_sums, gradient_scale, predict, read_last_layer

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import make_procedure

LABELS = [0, 3, 3, 1, 2, 3]


def one_step(helpers, model, x):
    """The true mean gradient of the last kernel and bias."""
    layer = read_last_layer(helpers.make_view(model, x, LABELS))
    return layer.kernel, layer.bias


@pytest.fixture
def small(helpers):
    model = helpers.dense(classes=4, dtype="float64")
    return model, helpers.smooth_images(6, model.input_shape)


def test_the_gradient_of_one_step_is_p_minus_y(helpers, small):
    model, x = small
    view = helpers.make_view(model, x, LABELS)
    layer = read_last_layer(view)
    p = predict(view, layer, x)
    np.testing.assert_allclose(layer.bias, (p - np.eye(4)[LABELS]).mean(0), atol=1e-12)
    assert layer.notes == ()
    assert layer.midpoints == (0.0,)


@pytest.mark.parametrize(
    "client",
    [
        {"kind": "sgd"},
        {"kind": "momentum", "momentum": 0.9},
    ],
    ids=lambda c: c["kind"],
)
@pytest.mark.parametrize("proximal", [0.0, 50.0])
@pytest.mark.parametrize("batch", [None, 3])
def test_several_short_steps_are_scaled_to_the_gradient(helpers, small, client, proximal, batch):
    model, x = small
    client = {**client, "learning_rate": 1e-4}
    procedure = make_procedure(local_epochs=4, batch_size=batch, client=client, proximal=proximal)
    layer = read_last_layer(helpers.make_view(model, x, LABELS, procedure))
    kernel, bias = one_step(helpers, model, x)
    unequal = batch is not None and (client["kind"] == "momentum" or proximal > 0)  # early and late batches
    tolerance = 4e-2 if unequal else 2e-3
    np.testing.assert_allclose(layer.bias, bias, atol=tolerance)
    np.testing.assert_allclose(layer.kernel, kernel, atol=tolerance)
    assert any("local steps are read as one mean gradient" in n for n in layer.notes)
    assert any("early and late batches" in n for n in layer.notes) == unequal


def test_a_sum_of_unequal_clients_is_the_mean_gradient_of_all(helpers, small):
    model, x = small
    view = helpers.make_view(model, x, LABELS)
    summed = dataclasses.replace(view, kind="sum", clients=2, num_examples=(2, 4))
    summed = dataclasses.replace(summed, observed=np.asarray(summed.simulate(x, np.array(LABELS, np.int32))))
    np.testing.assert_allclose(read_last_layer(summed).bias, one_step(helpers, model, x)[1], atol=1e-12)


def test_clients_whose_examples_weigh_differently_are_refused(helpers, small):
    model, x = small
    view = helpers.make_view(model, x, LABELS)
    uniform = dataclasses.replace(view.plan, weighting="uniform")
    with pytest.raises(CapabilityError, match=r"2 to 4 examples.*weigh differently"):
        gradient_scale(dataclasses.replace(view, kind="sum", clients=2, num_examples=(2, 4), plan=uniform))
    steps = make_procedure(local_epochs=1, batch_size=1, client={"learning_rate": 0.1}, proximal=0.5)
    with pytest.raises(CapabilityError, match="weigh differently"):
        gradient_scale(dataclasses.replace(view, kind="sum", clients=2, num_examples=(2, 4), procedure=steps))
    equal = dataclasses.replace(view, kind="sum", clients=2, num_examples=(3, 3), plan=uniform)
    assert gradient_scale(equal) == (pytest.approx(1.0), ())


def test_what_has_no_known_scale_is_refused(helpers, small):
    model, x = small
    view = helpers.make_view(model, x, LABELS)
    with pytest.raises(CapabilityError, match=r"procedure.*llg"):
        read_last_layer(dataclasses.replace(view, procedure=None, client_rate=None))
    assert read_last_layer(dataclasses.replace(view, procedure=None, client_rate=None), scaled=False).bias is not None
    adam = make_procedure(local_epochs=1, batch_size=None, client={"kind": "adam", "learning_rate": 0.01})
    with pytest.raises(CapabilityError, match="'adam'"):
        read_last_layer(dataclasses.replace(view, procedure=adam))
    cut = make_procedure(local_epochs=1, batch_size=1, max_local_steps=2, client={"learning_rate": 0.1})
    with pytest.raises(CapabilityError, match="stops after 2 steps"):
        read_last_layer(dataclasses.replace(view, procedure=cut))


def test_batches_of_unequal_size_are_noted(helpers, small):
    model, x = small
    procedure = make_procedure(local_epochs=2, batch_size=4, client={"learning_rate": 0.01})
    assert any("unequal size" in n for n in read_last_layer(helpers.make_view(model, x, LABELS, procedure)).notes)


def test_features_are_summed_without_being_seen(helpers):
    model = helpers.dense(shape=(4, 4, 1), hidden=5)
    view = helpers.make_view(model, helpers.smooth_images(1, model.input_shape), [2])
    x = helpers.smooth_images(3, model.input_shape, 1)
    weights = model.spec.unflatten_numpy(view.weights)
    hidden = 1 / (1 + np.exp(-(x.reshape(3, -1).astype(np.float64) @ weights[0] + weights[1])))
    np.testing.assert_allclose(feature_sums(view, x), hidden.sum(1), rtol=1e-5)


def test_logits_changed_after_the_last_layer_have_no_features_to_sum(helpers):
    plain = helpers.dense()

    def scaled(weights, x, training=False):
        return plain.apply(weights, x, training) * np.arange(1, 11, dtype=np.float32)

    model = dataclasses.replace(plain, name="scaled", apply=scaled)
    view = helpers.make_view(model, helpers.smooth_images(2, model.input_shape), [2, 1])
    with pytest.raises(CapabilityError, match="after the last dense layer"):
        feature_sums(view, helpers.smooth_images(2, model.input_shape))


def test_what_is_not_finite_or_did_not_move_is_named(helpers, small):
    model, x = small
    view = helpers.make_view(model, x, LABELS)
    broken = view.observed.copy()
    broken[-1] = np.inf
    with pytest.raises(DivergenceError, match="not finite"):
        read_last_layer(dataclasses.replace(view, observed=broken))
    with pytest.raises(CapabilityError, match="did not move"):
        read_last_layer(dataclasses.replace(view, observed=0 * broken[:1].repeat(len(broken)).clip(0, 1)))


def test_only_dense_layers_count():
    model = load_model("2nn", input_shape=(4, 4, 1), num_classes=3)
    kernel, bias = dense_parts(model)
    assert (kernel.stop - kernel.start, bias.stop - bias.start) == (600, 3)
    assert dense_parts(dataclasses.replace(model, layers=(*model.layers[:-1], "norm"))) == (kernel, None)
