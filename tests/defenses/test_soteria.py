"""Soteria: its mask against the closed form, what it leaves alone, and the attack that sees its zeros."""

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.parts.consistent import Consistent
from fedpriv_defenses.soteria import Soteria, representation

from fedpriv.base.errors import CapabilityError, ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.data.loading import load as load_data
from fedpriv.models import load as load_model
from fedpriv.models.zoo import lenet, mlp
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure

EQUAL = Procedure.fedsgd(weighting="uniform")


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(20,), activation="sigmoid")


def seen(model, data, *stack, batch=1, procedure=EQUAL):
    return next(iter(Exposure(model, data, 1, batch, defenses=stack, procedure=procedure)))


def closed_form(model, flat, x):
    """A sigmoid layer's values s, and |dr/dx| = s (1 - s) |its column|."""
    kernel, bias = model.spec.unflatten_numpy(flat)[:2]
    values = 1 / (1 + np.exp(-(x.reshape(len(x), -1) @ kernel + bias)))
    return values, values * (1 - values) * np.linalg.norm(kernel, axis=0)


def test_features_and_their_slopes_are_those_of_the_closed_form(model, data):
    flat, x = model.initial_weights(0), data.floats(np.arange(3))
    weights = [tf.constant(w) for w in model.spec.unflatten_numpy(flat)]
    values, slopes = representation(model, weights, 2, tf.constant(x))
    expected = closed_form(model, flat, x)
    np.testing.assert_allclose(values, expected[0], rtol=1e-5)
    np.testing.assert_allclose(slopes, expected[1], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_of_each_example_the_features_with_the_largest_ratio_are_left_out(batch, model, data):
    plain, hidden = (seen(model, data, *stack, batch=batch) for stack in ((), (Soteria(rate=0.3),)))
    values, slopes = closed_form(model, plain.view.weights, plain.truth.x)
    kept = np.ones_like(values)
    np.put_along_axis(kept, np.argsort(-values / slopes, axis=1)[:, :6], 0, axis=1)
    before, after = (model.spec.unflatten_numpy(o.view.observed) for o in (plain, hidden))
    for i in (0, 1, 3):
        np.testing.assert_allclose(after[i], before[i], atol=1e-7)
    logits = (values @ (w := model.spec.unflatten_numpy(plain.view.weights))[2]) + w[3]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    blame = (p - np.eye(10)[plain.truth.y]) / batch
    np.testing.assert_allclose(after[2], -(values * kept).T @ blame, atol=1e-6)
    np.testing.assert_allclose(before[2], -values.T @ blame, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_what_was_left_out_is_open_and_all_else_is_matched(batch, model, data):
    """Of several examples an entry of the kernel may hold some, so that nothing of it is matched."""
    observation = seen(model, data, Soteria(rate=0.5), batch=batch)
    fitted, view = Consistent().prepared(observation.view)
    observed, truth = tf.constant(observation.view.observed), observation.truth
    y = tf.constant(truth.y)
    assert float(fitted(view.simulate(tf.constant(truth.x), y), observed, model.spec)) < 1e-9
    assert float(fitted(view.simulate(tf.constant(1 - truth.x), y), observed, model.spec)) > 0.01
    simulated = observation.view.simulate(tf.constant(truth.x), y).numpy()
    assert np.sum((simulated - observation.view.observed) ** 2) / np.sum(observation.view.observed**2) > 1e-3
    low, high = Soteria(rate=0.5).cells(observed, model.spec)
    assert np.isinf((high - low).numpy()).sum() == (200 if batch > 1 else 100)


def test_without_the_number_of_examples_the_rows_tell_of_several_unless_there_are_two_classes(data):
    """An example whose features are all left out is in the bias alone."""
    for classes, told in ((10, 100), (2, 40)):
        model = mlp((28, 28, 1), classes, hidden=(20,), activation="sigmoid")
        two = data.take(np.flatnonzero(data.y < 2)[:4]) if classes == 2 else data
        few = dataclasses.replace(two, num_classes=classes, class_names=two.class_names[:classes])
        one, several = (seen(model, few, Soteria(rate=0.5), batch=n).view.observed for n in (1, 2))
        open_ = [
            int(np.isinf(np.subtract(*Soteria(rate=0.5).cells(tf.constant(v), model.spec)[::-1])).sum())
            for v in (one, several)
        ]
        assert open_ == [told, 20 * classes]
        low, high = Soteria(rate=0.5).cells(tf.constant(one), model.spec, 1)
        assert int(np.isinf(high - low).sum()) == 10 * classes


@pytest.mark.slow
def test_over_several_steps_the_zeros_are_gone(model, data):
    observation = seen(model, data, Soteria(), batch=2, procedure=make_procedure(local_epochs=2, batch_size=None))
    with pytest.raises(CapabilityError, match="an update of one step alone"):
        Consistent().prepared(observation.view)


@pytest.mark.parametrize("name", ["bag_of_embeddings", "lstm(task=next_token)"])
def test_tokens_have_no_derivative_and_are_refused(name):
    texts = load_data("plays" if "lstm" in name else "sentences")[1]
    with pytest.raises(StackError, match="takes tokens, which have none; use images"):
        seen(load_model(name, texts), texts, Soteria())


def test_what_draws_is_refused_before_anything_runs(data):
    with pytest.raises(StackError, match=r"draws random numbers in training .*use one of the two"):
        seen(lenet((28, 28, 1), 10, dropout=0.5), data, Soteria())


def test_where_no_feature_has_a_slope_the_largest_are_left_out_and_that_is_said(data):
    model = mlp((28, 28, 1), 10, hidden=(10,), activation="relu")
    kernel, bias, *rest = model.spec.unflatten_numpy(model.initial_weights(0))
    levels = np.array([0.3, 0.1, 0.9, 0.2, 0.6, 0.4, 0.8, 0.5, 0.7, 1.0], np.float32)
    weights = model.spec.flatten_numpy([0 * kernel, bias + levels, *rest])  # an input moves nothing
    federation = Exposure(model, data, 1, 2, defenses=(Soteria(rate=0.4),), procedure=EQUAL).federation
    state, record = federation.step(federation.opened(0, weights), evaluate=False)
    moved = model.spec.unflatten_numpy(state.weights - weights)[2]
    np.testing.assert_array_equal(~moved.any(axis=1), levels > 0.65)
    assert any("no feature of 100.0% of the examples has a derivative" in said for said in record.warnings)


@pytest.mark.parametrize("text", ["soteria(rate=0)", "soteria(rate=1)", "soteria(rate=-1)"])
def test_impossible_rates_are_refused(text):
    with pytest.raises(ParameterError, match="rate"):
        defenses.create(text)


def test_a_model_without_a_dense_classifier_is_refused(data):
    keras = tf.keras
    from fedpriv.models.keras_model import from_keras

    model = from_keras(
        keras.Sequential(
            [
                keras.layers.Input((28, 28, 1)),
                keras.layers.Conv2D(10, 28),
                keras.layers.Reshape((10,)),
            ]
        )
    )
    with pytest.raises(StackError, match="defends the dense layer that comes last"):
        seen(model, data, Soteria())
