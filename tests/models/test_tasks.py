"""Tasks: their losses are what their docstrings say, relaxed targets are differentiable, and misfits are named."""

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import ModelError, ParameterError, UnknownNameError
from fedpriv.base.lazy import tf
from fedpriv.models import load
from fedpriv.models.keras_model import from_keras
from fedpriv.models.task import create
from fedpriv.models.tasks.binary import Binary
from fedpriv.models.tasks.classes import Classes
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.models.tasks.regression import Regression

RNG = np.random.default_rng(3)
TASKS = [Classes(num_classes=4), Binary(), Regression(), Regression(targets=3), NextToken(num_classes=5, length=6)]


def targets(task, n=7):
    shape = (n, *task.target_shape)
    if task.discrete:
        return RNG.integers(0, task.classes, shape).astype(task.target_dtype)
    return RNG.normal(size=shape).astype(task.target_dtype)


def outputs(task, n=7):
    return tf.constant(RNG.normal(size=(n, *task.output_shape)), tf.float64)


def test_every_registered_task_is_tested_here():
    assert {t.name for t in TASKS} == set(registry.tasks.names())


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_target_survives_being_relaxed(task):
    y = targets(task)
    soft = task.soften(tf.constant(y))
    assert tuple(soft.shape) == (7, *task.relaxed_shape)
    np.testing.assert_array_equal(task.harden(soft.numpy()), y)
    # and what it costs as a relaxed target is what it costs as itself
    out = outputs(task)
    np.testing.assert_allclose(task.losses(out, soft), task.losses(out, tf.constant(y)), rtol=1e-6)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_the_mixed_derivative_of_relaxed_targets_is_right(task):
    out = outputs(task, 3)
    v = tf.constant(RNG.normal(size=(3, *task.relaxed_shape)), tf.float64)

    def slope(v):  # of the summed loss in the outputs, which is what an update shows
        with tf.GradientTape() as inner:
            inner.watch(out)
            loss = tf.reduce_sum(task.losses(out, task.relax(v)))
        return inner.gradient(loss, out)

    with tf.GradientTape() as tape:
        tape.watch(v)
        value = tf.reduce_sum(slope(v) ** 2)
    exact = tape.gradient(value, v).numpy()
    direction = RNG.normal(size=v.shape)
    step = 1e-5
    ahead, behind = (float(tf.reduce_sum(slope(v + s * step * direction) ** 2)) for s in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(np.sum(exact * direction)), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_right_prediction_has_the_best_quality(task):
    out = outputs(task)
    own = task.predict(out)
    best = 1.0 if task.quality.better == "higher" else 0.0
    np.testing.assert_allclose(task.qualities(out, own), np.full(7, best), atol=1e-12)
    assert task.problem(np.asarray(own)) is None


def test_one_logit_costs_what_two_with_a_zero_cost():
    z, y = tf.constant([[-30.0], [-1.0], [0.0], [2.0], [30.0]], tf.float64), tf.constant([1, 0, 1, 1, 0])
    pair = tf.concat([tf.zeros_like(z), z], axis=1)
    np.testing.assert_allclose(Binary().losses(z, y), Classes(num_classes=2).losses(pair, y), rtol=1e-12)
    np.testing.assert_array_equal(Binary().predict(z), [0, 0, 0, 1, 1])


def test_squared_error_and_its_quality_by_hand():
    out = tf.constant([[1.0, 2.0], [0.0, -1.0]], tf.float64)
    y = tf.constant([[0.0, 4.0], [0.0, 0.0]])
    task = Regression(targets=2)
    np.testing.assert_allclose(task.losses(out, y), [(1 + 4) / 2, 1 / 2])
    np.testing.assert_allclose(task.qualities(out, y), [(1 + 2) / 2, 1 / 2])


def test_the_next_token_is_a_class_at_each_place():
    task = NextToken(num_classes=5, length=6)
    out, y = outputs(task), targets(task)
    flat = Classes(num_classes=5).losses(tf.reshape(out, [-1, 5]), tf.reshape(tf.constant(y), [-1]))
    np.testing.assert_allclose(task.losses(out, tf.constant(y)), np.reshape(flat, (7, 6)).mean(1))
    assert "label 5" in task.problem(np.full((2, 6), 5))
    assert "shape [4]" in task.problem(np.zeros((2, 4), np.int32))


@pytest.mark.parametrize(
    ("task", "y", "says"),
    [
        (Binary(), np.array([0, 2]), "label 2"),
        (Binary(), np.array([0, -1]), "label -1"),
        (Classes(num_classes=3), np.array([0.5]), "float64"),
        (Regression(), np.array([0.5, np.nan]), "NaN"),
        (Regression(), np.zeros((2, 2)), r"shape [2]"),
    ],
)
def test_targets_that_do_not_fit_are_told_why(task, y, says):
    assert says in task.problem(y)


@pytest.mark.parametrize(
    ("task", "classes", "error", "says"),
    [
        ("regresion", 0, UnknownNameError, "Did you mean 'regression'"),
        ("binary", 3, ParameterError, "has 2 classes, but the data has 3"),
        ("regression", 2, ParameterError, "task=classes or task=binary"),
        ("classes", 0, ParameterError, "use task=regression"),
        ("classes(num_classes=4)", 3, ParameterError, "follows from the data"),
        ("regression(targets=0)", 0, ParameterError, "targets='0'"),
    ],
)
def test_a_task_that_does_not_fit_the_data_is_refused(task, classes, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(")):
        create(task, classes)


def test_the_data_says_which_task_where_nobody_does():
    assert create(None, 5) == Classes(num_classes=5)
    assert create(None, 0) == Regression()
    assert create("next_token(length=6)", 9) == NextToken(num_classes=9, length=6)


def one_output():
    return tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(1)])


def test_a_keras_model_of_one_output_needs_a_task():
    with pytest.raises(ModelError, match="task=binary"):
        from_keras(one_output, "mine")
    with pytest.raises(ModelError, match=r"1 outputs, but the data has 2 classes.*task=binary"):
        from_keras(one_output, "mine", num_classes=2)
    assert from_keras(one_output, "mine", num_classes=2, task="binary").num_classes == 2
    assert from_keras(one_output, "mine", num_classes=0).task == Regression()


def test_a_keras_model_of_sequences_is_one_too():
    def build():
        kl = tf.keras.layers
        return tf.keras.Sequential([tf.keras.Input((6,)), kl.Embedding(9, 4), kl.Dense(9)])

    model = from_keras(build, "bigram", num_classes=9, task="next_token(length=6)")
    x, y = RNG.integers(0, 9, (2, 4, 6))
    losses = model.example_losses(model.initialize(0), tf.constant(x, tf.float32), tf.constant(y))
    np.testing.assert_allclose(losses, np.full(4, np.log(9)), atol=0.1)  # it knows nothing yet


def test_a_loss_of_next_tokens_is_read_as_perplexity():
    task = NextToken(num_classes=7, length=2)
    loss = task.losses(tf.zeros([1, 2, 7]), tf.constant([[3, 4]]))
    assert task.read(float(loss[0]))["perplexity"] == pytest.approx(7)
    assert task.read(1e4) == {"perplexity": np.inf}
    assert [c.name for c in task.told] == list(task.read(0.0))
    assert Classes(num_classes=7).read(1.0) == {}


@pytest.mark.parametrize("text", ["mlp", "mlp(hidden=[7,5],activation=relu)", "logistic"])
@pytest.mark.parametrize(("task", "classes", "width"), [("binary", 2, 1), ("regression", 0, 1), ("classes", 4, 4)])
def test_perceptrons_fit_every_flat_task(text, task, classes, width):
    closing = text[:-1] + "," if text.endswith(")") else text + "("
    model = load(f"{closing}task={task})", (5,), classes)
    assert model.spec.shapes[-1] == (width,)
    assert model.task.name == task
    assert (model.classifier_bias() is not None) == (task == "classes")  # what is read there is a softmax's


def test_classifiers_say_so():
    with pytest.raises(ModelError, match=r"is a classifier.*'mlp'"):
        load("lenet", (8, 8, 1), 0)
