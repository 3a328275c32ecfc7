import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fedpriv.base.lazy import tf, tff
from fedpriv.models.model import cross_entropy
from fedpriv.models.resnet import resnet20
from fedpriv.models.to_tff import to_functional_model
from fedpriv.models.zoo import logistic, mlp_2nn

X = np.random.default_rng(0).uniform(size=(5, 6, 6, 1)).astype("float32")
Y = np.array([0, 1, 2, 1, 0], "int32")


def test_same_logits_loss_and_initial_weights():
    model = mlp_2nn((6, 6, 1), 3)
    functional = to_functional_model(model, seed=4)
    trainable, other = functional.initial_weights
    assert other == ()
    for ours, theirs in zip(model.initialize(4), trainable, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    logits = functional.predict_on_batch(functional.initial_weights, X, training=True)
    np.testing.assert_allclose(logits, model.apply(trainable, X, True), atol=1e-6)
    losses = cross_entropy(logits, tf.constant(Y)).numpy()
    assert float(functional.loss(logits, tf.constant(Y))) == pytest.approx(losses.mean(), rel=1e-6)
    weighted = functional.loss(logits, tf.constant(Y), tf.constant([1, 0, 0, 0, 3]))
    assert float(weighted) == pytest.approx((losses[0] + 3 * losses[4]) / 4, rel=1e-6)


def test_metrics_over_two_batches():
    functional = to_functional_model(logistic((2,), 2), seed=0)
    state = functional.initialize_metrics_state()
    for logits, labels in [([[3.0, 0.0], [0.0, 3.0]], [0, 0]), ([[3.0, 0.0]], [0])]:
        output = tff.learning.models.BatchOutput(loss=0.0, predictions=tf.constant(logits), num_examples=len(labels))
        state = functional.update_metrics_state(state, tf.constant(labels), output)
    metrics = functional.finalize_metrics(state)
    assert float(metrics["accuracy"]) == pytest.approx(2 / 3)
    assert int(metrics["num_examples"]) == 3
    right, wrong = np.log1p(np.exp(-3)), np.log1p(np.exp(3))
    assert float(metrics["loss"]) == pytest.approx((2 * right + wrong) / 3, rel=1e-5)


@pytest.mark.slow
def test_inside_a_tff_computation():
    """TFF traces in a plain graph; a model whose normalization Keras would update is traced there too."""
    model = resnet20((6, 6, 1), 3, norm="batch_train")
    functional = to_functional_model(model, seed=1)

    @tff.tensorflow.computation(np.float32, tff.TensorType(np.float32, X.shape))
    def scaled(by, x):
        return by * functional.predict_on_batch(functional.initial_weights, x, training=True)

    assert str(scaled.type_signature) == "(<by=float32,x=float32[5,6,6,1]> -> float32[5,3])"


def test_as_a_model_with_variables():
    model = mlp_2nn((6, 6, 1), 3)
    with_variables = tff.learning.models.model_from_functional(to_functional_model(model, seed=2))
    output = with_variables.forward_pass((tf.constant(X), tf.constant(Y)))
    logits = model.apply(model.initialize(2), X, True)
    np.testing.assert_allclose(output.predictions, logits, atol=1e-6)
    assert float(output.loss) == pytest.approx(float(tf.reduce_mean(cross_entropy(logits, tf.constant(Y)))), rel=1e-5)


@pytest.mark.slow
def test_federated_averaging_builds():
    process = tff.learning.algorithms.build_weighted_fed_avg(
        to_functional_model(mlp_2nn((6, 6, 1), 3), seed=0),
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    )
    assert "float32[36,200]" in str(process.initialize.type_signature)


ROUND = """
import sys
import numpy as np
from fedpriv.base.lazy import tf, tff
from fedpriv.models.model import cross_entropy
from fedpriv.models.to_tff import to_functional_model
from fedpriv.models.zoo import logistic

model = logistic((4,), 3)
process = tff.learning.algorithms.build_weighted_fed_avg(
    to_functional_model(model, seed=0),
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.5),
    server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
)
rng = np.random.default_rng(0)
clients = [(rng.uniform(size=(n, 4)).astype("float32"), rng.integers(3, size=n).astype("int32")) for n in (2, 6)]
state = process.initialize()
output = process.next(state, [tf.data.Dataset.from_tensors(c) for c in clients])
got = np.concatenate([w.reshape(-1) for w in output.state.global_model_weights.trainable])

w = tf.constant(model.initial_weights(0))
expected = 0
for x, y in clients:
    with tf.GradientTape() as tape:
        tape.watch(w)
        loss = tf.reduce_mean(cross_entropy(model.logits(w, x, True), tf.constant(y)))
    expected += len(y) / 8 * (w - 0.5 * tape.gradient(loss, w))
np.testing.assert_allclose(got, expected, atol=1e-6)
metrics = output.metrics["client_work"]["train"]
assert metrics["num_examples"] == 8, metrics
assert set(metrics) == {"accuracy", "loss", "num_examples"}, metrics
print("one round matches", flush=True)
"""


@pytest.mark.slow
def test_one_round_of_federated_averaging(tmp_path):
    """TFF's worker may outlive its parent, so all runs in a process group that is ended here, and no pipe is used."""
    log = tmp_path / "log"
    with log.open("w") as out:
        child = subprocess.Popen([sys.executable, "-c", ROUND], stdout=out, stderr=out, start_new_session=True)
        try:
            child.wait(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    assert "one round matches" in log.read_text(), log.read_text()[-3000:]
