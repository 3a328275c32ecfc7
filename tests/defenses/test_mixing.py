"""Mixing: coefficients and partners as the papers have them, targets that match, and what is refused."""

import numpy as np
import pytest
from fedpriv_defenses.mixing.instahide import InstaHide
from fedpriv_defenses.mixing.mixing import cycle, dirichlet
from fedpriv_defenses.mixing.mixup import MixUp

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.data.partition import Partition
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context
from fedpriv.federation.federation import Federation
from fedpriv.models.zoo import logistic
from fedpriv.procedure.procedure import make_procedure


@pytest.fixture(scope="module")
def data():
    return fashion_small()[0]


@pytest.fixture(scope="module")
def model():
    return logistic((28, 28, 1), 10)


def federated(model, data, *stack, size=4, clients=3, engine="graph", **options):
    parts = tuple(np.split(np.arange(size * clients), clients))
    procedure = make_procedure(**{"batch_size": None, "client": {"learning_rate": 0.1}, **options})
    return Federation(
        model, data.take(np.arange(size * clients)), Partition("p", parts), procedure, stack, seed=1, engine=engine
    )


def mixed(defense, model, x, y, seed=(1, 2)):
    """One batch through the defense: mixtures and their shares of classes."""
    plan = Plan.everybody(1, model.spec.size, max_examples=len(x))
    context = Context(plan=plan, seed=tf.constant(seed, tf.int64), model=model)
    return [a.numpy() for a in defense.batch(tf.constant(x), tf.constant(y), context).value]


def test_every_image_is_in_as_many_mixtures_and_in_none_twice():
    found = cycle(tf.constant([3, 4]), tf.constant(6), 3).numpy()
    np.testing.assert_array_equal(found[:, 0], np.arange(6))
    assert all(len(set(row)) == 3 for row in found.tolist())
    np.testing.assert_array_equal(np.bincount(found.ravel()), np.full(6, 3))


@pytest.mark.parametrize(("alpha", "parts"), [(0.2, 2), (1.0, 3), (5.0, 2)])
def test_coefficients_have_the_moments_of_their_distribution(alpha, parts):
    drawn = dirichlet(tf.constant([1, 2]), tf.constant(20000), parts, alpha).numpy()
    np.testing.assert_allclose(drawn.sum(1), 1, rtol=1e-12)
    mean = 1 / parts
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(drawn.var(0), mean * (1 - mean) / (parts * alpha + 1), rtol=0.06)


def test_tiny_alphas_leave_images_alone():
    drawn = dirichlet(tf.constant([1, 2]), tf.constant(500), 2, 1e-3).numpy()
    assert np.isfinite(drawn).all()
    assert np.mean(drawn.max(1) > 0.999) > 0.95


@pytest.mark.parametrize(("images", "largest"), [(2, 0.65), (4, 0.65), (3, 0.34)])
def test_no_coefficient_is_above_the_bound(images, largest):
    defense = InstaHide(images=images, largest=largest)
    drawn = defense.coefficients(tf.constant([5, 6]), tf.constant(5000)).numpy()
    np.testing.assert_allclose(drawn.sum(1), 1, rtol=1e-9)
    assert 0 <= drawn.min() <= drawn.max() <= largest + 1e-9
    if images == 2:  # uniform on [0.35, 0.65]
        np.testing.assert_allclose([drawn.mean(), drawn.var()], [0.5, 0.3**2 / 12], rtol=0.05)


def test_a_mixture_is_the_sum_that_its_target_says(model, data):
    x, y = data.floats(np.arange(4)), np.array([0, 1, 2, 3], np.int32)
    found, shares = mixed(MixUp(images=3), model, x, y)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal((shares > 0).sum(1), 3)
    np.testing.assert_allclose(found, np.tensordot(shares[:, :4], x, 1), atol=1e-5)


def test_hidden_mixtures_differ_from_plain_ones_by_signs_that_are_even(model, data):
    x, y = data.floats(np.arange(4)), np.array([0, 1, 2, 3], np.int32)
    found, shares = mixed(InstaHide(), model, x, y)
    plain = np.tensordot(shares[:, :4], x - 0.5, 1)
    np.testing.assert_allclose(np.abs(found - 0.5), np.abs(plain), atol=1e-5)
    flipped = np.sign(found - 0.5) != np.sign(plain)
    assert abs(flipped[np.abs(plain) > 1e-3].mean() - 0.5) < 0.05
    again, _ = mixed(InstaHide(), model, x, y, seed=(1, 3))
    assert np.mean(np.sign(again - 0.5) == np.sign(found - 0.5)) < 0.6


def test_public_images_leave_no_label(model, data):
    x, y = data.floats(np.arange(4)), np.array([0, 1, 2, 3], np.int32)
    found, shares = mixed(InstaHide(images=4, public="fashion_small", own=2, pool=50), model, x, y)
    np.testing.assert_array_equal((shares > 0).sum(1), 2)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert np.abs(np.abs(found - 0.5) - np.abs(np.tensordot(shares[:, :4], x - 0.5, 1))).max() > 0.05
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("text", ["mixup", pytest.param("instahide", marks=pytest.mark.slow)])
def test_a_linear_model_learns_from_mixtures_and_nothing_from_random_signs(text, model, data):
    federation = Federation(
        model,
        data.take(np.arange(200)),
        Partition("p", tuple(np.split(np.arange(200), 2))),
        make_procedure(batch_size=10, local_epochs=2, client={"learning_rate": 0.1}),
        (defenses.create(text),),
        test=fashion_small()[1].take(np.arange(500)),
        seed=1,
    )
    history = federation.run(5, evaluate_every=5)
    # Of values with random signs the mean says nothing, which is all that a linear model goes by.
    assert (history.accuracy > 0.45) == (text == "mixup")


def test_both_engines_train_on_the_same_mixtures(model, data):
    runs = []
    for engine in ("graph", "tff"):
        federation = federated(model, data, MixUp(), engine=engine)
        runs.append(federation.run(1, evaluate_every=0))
        federation.close()
    np.testing.assert_allclose(runs[0].weights, runs[1].weights, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "size", "options", "message"),
    [
        ("mixup", 1, {}, "a client of 1 examples has a batch of 1"),
        ("mixup", 5, {"batch_size": 2}, "a client of 5 examples in batches of 2 has a batch of 1"),
        ("instahide(images=4)", 3, {}, "mixes 4 images of a batch"),
        ("mixup", 4, {"batch_size": 2, "batch_selection": "poisson"}, "batch_selection=poisson may draw fewer"),
    ],
)
def test_batches_too_small_to_mix_are_refused(text, size, options, message, model, data):
    with pytest.raises(StackError, match=message):
        federated(model, data, defenses.create(text), size=size, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup(images=1)", "images"),
        ("mixup(alpha=0)", "alpha"),
        ("instahide(largest=0.5)", "largest=0.5 leaves 2 coefficients no way"),
        ("instahide(images=2,public=fashion_small)", "own=2 of images=2 leaves no public image"),
    ],
)
def test_impossible_parameters_are_refused(text, message):
    with pytest.raises(ParameterError, match=message):
        defenses.create(text)


def test_targets_that_are_no_classes_are_refused(data):
    import dataclasses

    from fedpriv.models.tasks.binary import Binary
    from fedpriv.models.tasks.regression import Regression

    whole = logistic((28, 28, 1), 2)
    for task in (Binary(), Regression()):
        other = dataclasses.replace(whole, task=task, num_classes=task.classes)
        with pytest.raises(StackError, match=f"mixes one-hot targets, but .* has the task '{task.name}'"):
            MixUp().model(other, None)


def test_tokens_are_refused():
    from fedpriv.data.loading import load
    from fedpriv.models import load as load_model

    texts, _ = load("sentences(tokenizer=characters,length=8)")
    with pytest.raises(StackError, match="takes tokens, which cannot be added"):
        MixUp().model(load_model("gpt(width=8,heads=2)", texts), None)


def test_public_data_must_fit_and_be_there(model):
    with pytest.raises(StackError, match="public data cannot be had"):
        InstaHide(images=3, public="no_such_data").model(model, None)
    with pytest.raises(StackError, match=r"examples have shape \[28, 28, 1\], but model"):
        InstaHide(images=3, public="fashion_small").model(logistic((7, 7, 1), 10), None)


def test_a_guarantee_for_examples_does_not_survive_mixing(model, data):
    from fedpriv_defenses.dp_sgd.dp_sgd import DPSGD

    federation = federated(model, data, MixUp(), DPSGD(clip=0.1, noise_multiplier=1.0), weighting="uniform")
    assert federation.line.claims() == []
    assert "may put several of them into one" in federation.line.refusals()[0]
