"""Defenses as TFF aggregators: the same mean, and TFF's own federated averaging with them in place."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf, tff
from fedpriv.defense.stations import Defense
from fedpriv.engine.tff.aggregation import to_aggregation_factory
from fedpriv.engine.tff.pool import default_runtime
from fedpriv.federation.federation import Federation
from fedpriv.models.to_tff import to_functional_model
from fedpriv.procedure.procedure import make_procedure

VALUES = [[np.array([3.0, 0.0], np.float32), np.float32(4.0)], [np.array([0.3, 0.0], np.float32), np.float32(0.4)]]
TYPE = [tff.TensorType(np.float32, [2]), tff.TensorType(np.float32)]


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with default_runtime() as made:
        yield made


def process(*defenses, **options):
    factory = to_aggregation_factory(defenses, population=10, cohort=2, **options)
    return factory.create(tff.to_type(TYPE), tff.TensorType(np.float32))


def flat(value):
    return np.concatenate([np.ravel(v) for v in tf.nest.flatten(value)])


@pytest.mark.parametrize(("weighting", "shares"), [("examples", (3, 1)), ("uniform", (1, 1))])
def test_the_mean_is_that_of_the_clipped_values(weighting, shares):
    made = process(Clip(norm=1), weighting=weighting, max_examples=3)
    out = made.next(made.initialize(), VALUES, [3.0, 1.0])
    clipped = np.array([[0.6, 0, 0.8], [0.3, 0, 0.4]])
    np.testing.assert_allclose(flat(out.result), np.average(clipped, axis=0, weights=shares), atol=1e-6)
    assert out.measurements["clip/clipped"] == pytest.approx(0.5)
    assert out.measurements["clip/norm"] == pytest.approx((5 + 0.5) / 2)


class Marks(Defense):
    """Replaces every 0 by 5, by Python's own comparison."""

    name: ClassVar[str] = "marks"

    def update(self, update, context):
        return tf.where(update == 0, 5.0, update)


def test_comparisons_within_a_defense_are_of_values():
    # In graphs that TFF builds, == on tensors asks whether they are the same tensor.
    made = process(Marks(), weighting="uniform")
    out = made.next(made.initialize(), VALUES, [3.0, 1.0])
    np.testing.assert_allclose(flat(out.result), [1.65, 5, 2.2], rtol=1e-6)


@pytest.mark.slow
def test_noise_of_the_server_has_its_size_and_changes_from_round_to_round():
    made = process(CentralDP(clip=1, noise_multiplier=2), weighting="uniform", seed=3)
    state, drawn = made.initialize(), []
    for _ in range(60):
        out = made.next(state, VALUES, [1.0, 1.0])
        state = out.state
        drawn.append(flat(out.result) - [0.45, 0, 0.6])
    assert np.std(drawn) == pytest.approx(2 / 2, rel=0.2)  # clip x multiplier over the cohort
    assert len({tuple(d) for d in drawn}) == 60
    again = process(CentralDP(clip=1, noise_multiplier=2), weighting="uniform", seed=3)
    np.testing.assert_allclose(
        flat(again.next(again.initialize(), VALUES, [1.0, 1.0]).result) - [0.45, 0, 0.6], drawn[0]
    )


def test_noise_of_clients_differs_between_them_and_between_runs():
    made = process(LocalDP(clip=1, noise_multiplier=1), weighting="uniform")
    first, second = (flat(made.next(made.initialize(), VALUES, [1.0, 1.0]).result) for _ in range(2))
    assert not np.allclose(first, second)


def test_what_an_aggregator_cannot_do_is_refused():
    with pytest.raises(StackError, match="secret_sharing acts at the encode station"):
        process(SecretSharing(aggregators=3))
    with pytest.raises(StackError, match="weighting='uniform'"):
        process(CentralDP(clip=1, noise_multiplier=1), weighting="examples")
    factory = to_aggregation_factory([Clip(norm=1)], population=10, cohort=2)
    with pytest.raises(StackError, match="int32"):
        factory.create(tff.to_type([np.int32]), tff.TensorType(np.float32))


@pytest.mark.slow
def test_in_tffs_own_federated_averaging(toy, parts, logistic_model):
    clip = Clip(norm=0.02)
    procedure = make_procedure(local_epochs=1, batch_size=None, client={"learning_rate": 0.1}, weighting="examples")
    ours = Federation(logistic_model, toy, parts, procedure, (clip,), seed=2)
    start = ours.start()
    expected = ours.run(1).weights - start.weights
    learning = tff.learning.algorithms.build_weighted_fed_avg(
        model_fn=to_functional_model(logistic_model, seed=0),
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        model_aggregator=to_aggregation_factory([clip], population=5, cohort=5, max_examples=12),
    )
    state = learning.initialize()
    weights = tff.learning.models.ModelWeights(tuple(logistic_model.spec.unflatten_numpy(start.weights)), ())
    state = learning.set_model_weights(state, weights)
    clients = [tf.data.Dataset.from_tensors((toy.x[i], toy.y[i])) for i in parts.indices]
    state = learning.next(state, clients).state
    after = logistic_model.spec.flatten_numpy(list(learning.get_model_weights(state).trainable))
    assert np.linalg.norm(expected) > 0.005
    np.testing.assert_allclose(after - start.weights, expected, atol=1e-6)
