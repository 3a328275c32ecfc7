import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.parts.batch_norm_prior import BatchNormStatistics
from fedpriv_attacks.parts.priors import Scene

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.models.zoo import convnet
from fedpriv.threat.attack import Capability

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def model():
    return convnet(SHAPE, 3, width=4, norm="batch_train", dtype="float64")


@pytest.fixture(scope="module")
def view(helpers, model):
    """The update of three images, and their statistics."""
    x = helpers.smooth_images(3, SHAPE, 1).astype("float64")
    view = helpers.make_view(model, x, [0, 1, 2])
    known = model.moments(model.spec.unflatten_numpy(view.weights), x)
    known = tuple((m.numpy(), v.numpy()) for m, v in known)
    return x, dataclasses.replace(view, batch_statistics=known)


def penalty(prior, view, x):
    weights = tf.constant(view.weights)
    tensors = tuple(tf.constant(t) for t in prior.tensors(view))
    return prior(tf.constant(x), Scene(view.static, weights, None, tensors=tensors))


def test_zero_at_the_truth_in_any_order_and_nowhere_near(view):
    x, seen = view
    for power in (1, 2):
        prior = BatchNormStatistics(power=power)
        assert float(penalty(prior, seen, x)) == pytest.approx(0, abs=1e-10)
        assert float(penalty(prior, seen, x[::-1])) == pytest.approx(0, abs=1e-10)
        assert float(penalty(prior, seen, 1 - x)) > 1e-2


def test_it_is_the_sum_over_layers(view, model):
    x, seen = view
    found = model.moments(model.spec.unflatten_numpy(seen.weights), 1 - x)
    squares = [
        [np.sum((a.numpy() - b) ** 2) for a, b in zip(own, known, strict=True)]
        for own, known in zip(found, seen.batch_statistics, strict=True)
    ]
    by_layer = np.sum(squares, 1)
    got = float(penalty(BatchNormStatistics(weight=2, first=3), seen, 1 - x))
    assert got == pytest.approx(2 * (3 * by_layer[0] + by_layer[1:].sum()), rel=1e-9)
    roots = np.sqrt(squares).sum(1)
    got = float(penalty(BatchNormStatistics(power=1, first=1), seen, 1 - x))
    assert got == pytest.approx(roots.sum(), rel=1e-3)


@pytest.mark.parametrize("power", [1, 2])
def test_its_derivative_is_right(view, power):
    x, seen = view
    prior, rng = BatchNormStatistics(power=power), np.random.default_rng(0)
    at, direction = rng.uniform(size=x.shape), rng.normal(size=x.shape)
    with tf.GradientTape() as tape:
        variable = tf.constant(at)
        tape.watch(variable)
        value = prior(
            variable,
            Scene(seen.static, tf.constant(seen.weights), None, tensors=tuple(map(tf.constant, prior.tensors(seen)))),
        )
    h = 1e-7  # small, so that hardly any ReLU changes its side
    slope = float(penalty(prior, seen, at + h * direction) - penalty(prior, seen, at - h * direction)) / (2 * h)
    assert np.sum(tape.gradient(value, variable) * direction) == pytest.approx(slope, rel=1e-5)


@pytest.mark.slow
def test_a_compiled_attack_takes_each_views_own_statistics(helpers, view, model):
    """Views with other statistics share one graph, and the prior pulls the examples' statistics to those of each."""
    from fedpriv_attacks.inversion.inversion import Inversion
    from fedpriv_attacks.labels.inference import Known
    from fedpriv_attacks.parts.optimizers.first_order import Adam

    x, seen = view
    seen = dataclasses.replace(seen, labels=np.arange(3), adversary=seen.adversary.knowing("labels"))
    weights = model.spec.unflatten_numpy(seen.weights)
    other = tuple((m.numpy(), v.numpy()) for m, v in model.moments(weights, 1 - x))
    views = seen, dataclasses.replace(seen, batch_statistics=other)
    attack = Inversion(priors=(BatchNormStatistics(),), labels=Known(), optimizer=Adam(steps=60, learning_rate=0.02))
    findings = [attack.run(v) for v in views]
    assert findings[0].compile_seconds > 0
    assert findings[1].compile_seconds == 0
    without = attack.with_(priors=()).run(seen)

    def away(finding, of):
        return float(penalty(BatchNormStatistics(), of, finding.x.astype("float64")))

    assert away(findings[0], views[0]) < 0.5 * away(without, views[0])
    assert away(findings[1], views[1]) < away(findings[0], views[1])
    with pytest.raises(CapabilityError, match="batch-norm statistics of the client's batch"):
        attack.run(dataclasses.replace(seen, batch_statistics=None))


def test_running_statistics_of_a_trained_model(helpers, view):
    x, _ = view
    frozen = convnet(SHAPE, 3, width=4, norm="batch_eval", dtype="float64")
    weights = frozen.initial_weights(0)
    own = tuple((m.numpy(), v.numpy()) for m, v in frozen.moments(frozen.spec.unflatten_numpy(weights), x))
    trained = dataclasses.replace(frozen, running=own)
    seen = helpers.make_view(trained, x, [0, 1, 2], weights=weights)
    prior = BatchNormStatistics(source="running")
    assert prior.requirements() <= seen.capabilities
    assert float(penalty(prior, seen, x)) == pytest.approx(0, abs=1e-10)
    fresh = helpers.make_view(frozen, x, [0, 1, 2])
    assert not prior.requirements() & fresh.capabilities
    with pytest.raises(CapabilityError, match="initial mean 0 and variance 1"):
        prior.tensors(fresh)


def test_what_is_not_known_is_refused(helpers, view, model):
    x, seen = view
    assert BatchNormStatistics().requirements() == {Capability.BATCH_STATISTICS}
    blind = dataclasses.replace(seen, batch_statistics=None)
    with pytest.raises(CapabilityError, match="adversary that knows 'batch_statistics'"):
        BatchNormStatistics().tensors(blind)
    with pytest.raises(CapabilityError, match="normalizes with the batch's own"):
        BatchNormStatistics(source="running").tensors(seen)
    plain = helpers.make_view(helpers.dense(SHAPE), x, [0, 1, 2])
    for source in ("batch", "running"):
        with pytest.raises(CapabilityError, match="has no batch normalization"):
            BatchNormStatistics(source=source).tensors(plain)
