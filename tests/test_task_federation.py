"""Federations whose loss is no softmax: both engines train them, and `simulate` is what the clients did."""

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.features import Features
from fedpriv.engine.tff.runtime import Runtime
from fedpriv.models import load
from fedpriv.models.to_tff import to_functional_model
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

N, D = 30, 6
RNG = np.random.default_rng(2)
X = RNG.normal(size=(N, D)).astype(np.float32)
SIGNAL = X @ RNG.normal(size=D) / 2
KIND = Features(shape=(D,), low=-8, high=8)
DATA = {
    "binary": Dataset("yes or no", X, (SIGNAL > 0).astype(np.int32), 2, kind=KIND),
    "regression": Dataset("how much", X, SIGNAL.astype(np.float32), 0, kind=KIND),
    "regression(targets=2)": Dataset("how much", X, np.stack([SIGNAL, X[:, 0]], 1).astype(np.float32), 0, kind=KIND),
}


@pytest.fixture(scope="module")
def address():
    runtime = Runtime()
    yield runtime.address
    runtime.close()


def options(task, model="mlp(hidden=[8])", **more):
    data = DATA[task]
    made = load(
        f"{model[:-1]},task={task})" if model.endswith(")") else f"{model}(task={task})", (D,), data.num_classes
    )
    return {"model": made, "train": data, "test": data, "client": {"learning_rate": 0.1}, **more}


def once_each(tasks, options, ids):
    """Every task and every option by default, and all pairs of them in the slow run: neither knows of the other."""
    return [
        pytest.param(task, option, id=f"{task}-{name}", marks=[pytest.mark.slow] * (j != i % len(options)))
        for i, task in enumerate(tasks)
        for j, (option, name) in enumerate(zip(options, ids, strict=True))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "defenses"),
    once_each(DATA, [(), (Clip(norm=0.05),), (Clip(norm=1), SecretSharing(aggregators=2))], ["none", "clip", "shared"]),
)
def test_both_engines_train_to_the_same_weights(federate, address, task, defenses):
    settings = options(task, batch_size=4, local_epochs=2, defenses=defenses)
    tff = {"engine": "tff", "engine_options": {"workers": [address]}}
    graph, other = (federate(**settings, **engine).run(3) for engine in ({}, tff))
    np.testing.assert_allclose(other.weights, graph.weights, atol=1e-5)
    for a, b in zip(graph.records, other.records, strict=True):
        assert (b.loss, b.test_loss) == pytest.approx((a.loss, a.test_loss), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("task", DATA)
def test_training_helps_and_its_quality_is_recorded(federate, task):
    records = federate(**options(task, batch_size=4)).run(12).records
    assert records[-1].test_loss < 0.7 * records[0].test_loss
    if task == "binary":
        assert records[-1].accuracy > 0.9
    else:  # an error is no accuracy, and must not be taken for one
        assert all(r.accuracy is None for r in records)
        assert records[-1].metrics["test_error"] < 0.7 * records[0].metrics["test_error"]


def test_one_step_of_logistic_and_of_linear_regression_by_hand(federate):
    for task in ("binary", "regression"):
        data = DATA[task]
        federation = federate(**options(task, "logistic", procedure=Procedure.fedsgd()))
        start = federation.start()
        kernel, bias = start.weights[:D].astype(np.float64), start.weights[D]
        out = X @ kernel + bias
        slope = 1 / (1 + np.exp(-out)) - data.y if task == "binary" else 2 * (out - data.y)
        gradient = np.append(X.T @ slope, slope.sum()) / N
        after, record = federation.step(start)
        rate = federation.procedure.server.learning_rate
        np.testing.assert_allclose(after.weights, start.weights - rate * gradient, atol=1e-5)
        wanted = np.logaddexp(0, out) - data.y * out if task == "binary" else (out - data.y) ** 2
        # the record's mean is over clients, of 5, 12, 1, 8 and 4 examples
        parts = np.split(wanted, np.cumsum([5, 12, 1, 8])[:])
        assert record.loss == pytest.approx(np.mean([p.mean() for p in parts]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("task", DATA)
@pytest.mark.parametrize(
    ("procedure", "defenses"),
    [
        pytest.param({"procedure": Procedure.fedsgd()}, (), id="fedsgd-none", marks=pytest.mark.slow),
        pytest.param({"procedure": Procedure.fedsgd()}, (Clip(norm=0.05),), id="fedsgd-clip"),
        pytest.param({"batch_size": None, "local_epochs": 3}, (), id="fedavg-none"),
        pytest.param(
            {"batch_size": None, "local_epochs": 3}, (Clip(norm=0.05),), id="fedavg-clip", marks=pytest.mark.slow
        ),
    ],
)
def test_at_the_truth_simulate_is_the_observation(federate, task, procedure, defenses):
    federation = federate(**options(task, **procedure, defenses=defenses))
    taps = [Tap(Adversary().knowing("labels"), rounds={1})]
    observations = federation.run(2, taps=taps, evaluate_every=0).observations
    assert len(observations) == 5
    for observation in observations:
        view, truth = observation.view, observation.truth
        np.testing.assert_allclose(view.simulate(truth.x, truth.y), view.observed, atol=1e-6)
        np.testing.assert_array_equal(view.labels, truth.y)
        assert truth.y.dtype == (np.int64 if task == "binary" else np.float32)
        assert view.data_kind == truth.kind == KIND


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("binary", "regression", "has 2 classes, but 'how much' has targets of type float32"),
        ("regression", "regression(targets=2)", r"quantities, but 'how much' has targets of shape \[2\]"),
    ],
)
def test_targets_of_another_task_are_refused(federate, model, data, says):
    with pytest.raises(ModelError, match=says):
        federate(**options(model) | {"train": DATA[data], "test": None})


@pytest.mark.parametrize("task", DATA)
def test_tff_s_own_process_takes_them_too(task):
    data, made = DATA[task], options(task)["model"]
    functional = to_functional_model(made, 0)
    weights = functional.initial_weights
    batch = tf.constant(data.x), tf.constant(data.y)
    out = functional.predict_on_batch(weights, batch[0], False)
    expected = np.mean(made.example_losses(list(weights[0]), *batch))
    assert float(functional.loss(out, batch[1])) == pytest.approx(float(expected), rel=1e-5)
    assert made.task.quality.name in {"accuracy", "error"}
