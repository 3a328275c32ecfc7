"""Robbing the Fed: what bins show of examples, by their law, certified, and where they show nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.malicious.imprint import module_of, slopes
from fedpriv_attacks.malicious.robbing import RobbingTheFed, RobbingTheFedAct

from fedpriv.base.errors import CapabilityError, FedprivError, ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.data.kinds.features import Features
from fedpriv.data.loading import load as load_data
from fedpriv.models import load
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Occasion
from fedpriv.threat.adversary import Adversary

#: Root mean square error above which a claim is no example.
WRONG = 0.03


@pytest.fixture(scope="module")
def fashion():
    return load_data("fashion_small")


@pytest.fixture(scope="module")
def network(fashion):
    return load("2nn(hidden=[32,32])", fashion[0])


def malicious(act="robbing_the_fed(bins=256)", held=4000):
    knows = f",knows=[auxiliary(data=fashion_small,examples={held})]" if held else ""
    return Adversary.parse(f"server(acts=[{act}]{knows})")


def judged(finding, x):
    """(examples found, wrong claims)."""
    x = x.reshape(len(x), -1)
    found = finding.x.reshape(len(finding.x), -1)
    found = found[np.isfinite(found).all(1)]
    if not len(found):
        return 0, 0
    errors = np.sqrt(np.mean(np.square(found[:, None] - x[None]), -1)).min(1)
    return int(np.sum(errors < WRONG)), int(np.sum(errors >= WRONG))


def seen(network, data, act="robbing_the_fed(bins=256)", held=4000, **more):
    more = {"trials": 1, "batch": 32, **more}
    (o,) = Exposure(network, data, adversary=malicious(act, held), **more)
    return o


def features(n, seed):
    """Features whose mean is exactly uniform on [0, 1], and nothing else about them is."""
    draws = np.random.default_rng(seed)
    x = draws.normal(size=(n, 16))
    return (x - x.mean(1, keepdims=True) + draws.uniform(0, 1, (n, 1))).astype(np.float32)


def planted(act, model, weights=None):
    changed = act.model(model)
    weights = changed.initial_weights(0) if weights is None else act.carried(weights, model, changed)
    return changed, act.broadcast(weights, Occasion(0, 0, changed.spec, changed))


def test_examples_are_alone_by_the_law(helpers):
    """(1 - 1/k)^(B-1) of a batch of B, over 50 batches, with an interval; and no claim that is none of them."""
    k, b, batches = 64, 32, 50
    act = RobbingTheFedAct(bins=k, quantiles="uniform", mean=0.5, spread=12**-0.5)
    changed, weights = planted(act, load("mlp(hidden=[24],activation=relu)", input_shape=(16,), num_classes=5))
    shares, claims = [], 0
    for seed in range(batches):
        x = features(b, seed)
        y = np.random.default_rng(seed).integers(0, 5, b)
        view = helpers.make_view(changed, x, y, weights=weights)
        view = dataclasses.replace(view, data_kind=Features(shape=(16,), low=-8, high=8))
        finding = RobbingTheFed().run(view)
        right, wrong = judged(finding, x)
        bins = np.minimum((x.mean(1) * k).astype(int), k - 1)
        alone = np.sum(np.bincount(bins, minlength=k) == 1)
        assert wrong == 0
        assert right == finding.extra["certified"]
        assert alone - right <= 2  # those whose loss has no slope, or on a border
        assert right <= alone + 2
        shares.append(right / b)
        claims += right
    law = (1 - 1 / k) ** (b - 1)
    assert finding.extra["condition"] == {"bins": k, "alone": pytest.approx(law)}
    half = 3 * np.std(shares, ddof=1) / np.sqrt(batches)
    assert half < 0.05
    assert abs(np.mean(shares) - law) < half + 0.01
    assert claims > 900


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ",skip=false,measurement=random"])
def test_images_come_near_the_law(fashion, network, more):
    """Exactly those are found that are alone in their bins, and these are about as many as for equal masses."""
    adversary = malicious(f"robbing_the_fed(bins=512{more})")
    shares = []
    for o in Exposure(network, fashion[1], trials=4, batch=64, adversary=adversary):
        finding = RobbingTheFed().run(o.view)
        right, wrong = judged(finding, o.truth.x)
        kernel, bias = o.view.model.spec.unflatten_numpy(o.view.weights)[:2]
        bins = np.sum(o.truth.x.reshape(64, -1) @ kernel[:784] + bias > 0, 1)
        assert (right, wrong) == (np.sum(np.bincount(bins) == 1), 0)
        assert np.median(finding.extra["expected_error"]) < 1e-4  # 80 dB
        shares.append(right / 64)
    assert np.mean(shares) == pytest.approx(finding.extra["condition"]["alone"], abs=0.06)


@pytest.mark.slow
def test_a_secure_sum_is_one_larger_batch_to_it(fashion, network):
    o = seen(network, fashion[1], batch=4, cohort=8, defenses=[defenses.create("secagg")])
    assert o.view.kind == "sum"
    right, wrong = judged(RobbingTheFed().run(o.view), o.truth.x)
    assert (right > 20, wrong) == (True, 0)


@pytest.mark.slow
def test_two_thresholds_hold_over_several_local_steps(fashion, network):
    procedure = make_procedure(local_epochs=3, batch_size=8)
    found = {}
    for act in ("robbing_the_fed(bins=256)", "robbing_the_fed(bins=256,sparse=true)"):
        o = seen(network, fashion[1], act, procedure=procedure)
        found[act], wrong = judged(RobbingTheFed().run(o.view), o.truth.x)
        assert wrong == 0
    cumulative, sparse = found.values()
    assert sparse > 18
    assert cumulative < sparse / 2


@pytest.mark.slow
def test_the_tff_engine_brings_the_same(fashion, network):
    found = [
        RobbingTheFed().run(seen(network, fashion[1], batch=8, engine=engine).view).x for engine in ("graph", "tff")
    ]
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["local_dp(clip=1,noise_multiplier=1)", "random_k(fraction=0.1)"])
def test_noise_and_missing_weights_leave_nothing_certified(fashion, network, defense):
    o = seen(network, fashion[1], defenses=[defenses.create(defense)])
    finding = RobbingTheFed().run(o.view)
    assert finding.extra["certified"] == 0
    assert finding.extra["reason"]
    assert "none of 0" not in finding.extra["reason"]
    assert not np.isfinite(finding.x).any()


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["clip(norm=1)", "per_layer_clip(total=1)"])
def test_clipping_does_not_help(fashion, network, defense):
    """A factor for a whole layer leaves the ratio of its kernel to its bias."""
    o = seen(network, fashion[1], defenses=[defenses.create(defense)])
    right, wrong = judged(RobbingTheFed().run(o.view), o.truth.x)
    assert (right > 20, wrong) == (True, 0)


@pytest.mark.slow
def test_readings_of_several_examples_are_claimed_only_if_asked_for(fashion, network):
    o = seen(network, fashion[1], "robbing_the_fed(bins=16)")
    careful, bold = (RobbingTheFed(claims=c).run(o.view) for c in ("certified", "all"))
    assert judged(careful, o.truth.x)[1] == 0
    assert judged(bold, o.truth.x)[1] > 3
    unchecked = seen(network, fashion[1], "robbing_the_fed(checks=0)")
    finding = RobbingTheFed().run(unchecked.view)
    assert finding.extra["certified"] == 0
    assert "no checks" in finding.extra["reason"]
    assert judged(RobbingTheFed(claims="all").run(unchecked.view), o.truth.x)[0] > 20


def test_the_model_behind_the_module_keeps_its_losses(fashion, network):
    """By as much as `change` says, to first order; without `skip` it sees the measurement alone."""
    weights = network.initial_weights(3)
    x, y = tf.constant(fashion[1].floats(np.arange(200))), tf.constant(fashion[1].y[:200].astype(np.int32))
    before = network.example_losses(network.spec.unflatten(tf.constant(weights)), x, y).numpy()
    for skip, near in ((True, True), (False, False)):
        changed, sent = planted(RobbingTheFedAct(bins=64, skip=skip), network, weights)
        after = changed.example_losses(changed.spec.unflatten(tf.constant(sent)), x, y).numpy()
        assert (np.median(np.abs(after - before)) < 0.15) == near


def test_how_it_shows(network):
    """Kernels of rank 1, and biases that rise like a ladder."""
    changed, sent = planted(RobbingTheFedAct(bins=64), network)
    first = module_of(changed)[1]
    kernel, bias, back, _ = changed.spec.unflatten_numpy(sent)[first : first + 4]
    assert np.linalg.matrix_rank(kernel) == np.linalg.matrix_rank(back) == 1
    assert (np.diff(bias) < 0).all()
    honest = changed.spec.unflatten_numpy(changed.initial_weights(0))[first]
    assert np.linalg.matrix_rank(honest) == 64


@pytest.mark.slow
def test_a_models_own_first_layer_can_be_made_the_module(fashion):
    """Nothing but the broadcast changes; 2 units a bin. Two weighings and a replay certify."""
    model = load("2nn(hidden=[256,32])", fashion[0])
    o = seen(model, fashion[1], "imprint")
    assert o.view.model is model
    finding = RobbingTheFed().run(o.view)
    right, wrong = judged(finding, o.truth.x)
    assert wrong == 0
    assert finding.extra["condition"] == {"bins": 128, "alone": pytest.approx((1 - 1 / 128) ** 31)}
    assert right == finding.extra["certified"] > 32 * finding.extra["condition"]["alone"] - 6
    kernel, bias, following = model.spec.unflatten_numpy(o.view.weights)[:3]
    assert (np.linalg.matrix_rank(kernel), np.linalg.matrix_rank(following)) == (1, 2)
    assert (np.diff(bias) <= 0).all()


@pytest.mark.slow
def test_where_a_models_own_layer_certifies_nothing(fashion):
    """Several local steps are not replayed; and what has no dense ReLU layer in front has no bins to make."""
    model = load("2nn(hidden=[64,32])", fashion[0])
    procedure = make_procedure(local_epochs=2, batch_size=4)
    o = seen(model, fashion[1], "imprint", batch=8, procedure=procedure)
    finding = RobbingTheFed().run(o.view)
    assert finding.extra["certified"] == 0
    assert "one local step" in finding.extra["reason"]
    with pytest.raises(CapabilityError, match="no dense layer that sees the raw example"):
        seen(load("convnet(width=4)", fashion[0]), fashion[1], "imprint", batch=1)
    with pytest.raises(CapabilityError, match="no bias or no ReLU"):
        seen(load("mlp", fashion[0]), fashion[1], "imprint", batch=1)


@pytest.mark.slow
def test_auxiliary_data_tell_where_thresholds_lie(fashion, network):
    """Known ones spread examples over more bins than assumed ones, and the threat line says so."""
    filled = []
    for held in (4000, 0):
        o = seen(network, fashion[1], held=held, batch=64)
        filled.append(RobbingTheFed().run(o.view).extra["filled"])
        assert ("auxiliary data" in o.view.adversary.describe()) == bool(held)
        assert "module of 256 bins" in o.view.adversary.describe()
    assert filled[0] > filled[1]


@pytest.mark.slow
def test_trained_weights_go_into_the_changed_model(fashion, network):
    weights = network.initial_weights(9)
    o = seen(network, fashion[1], weights=weights, batch=4)
    parts = o.view.model.spec.unflatten_numpy(o.view.weights)
    np.testing.assert_array_equal(network.spec.flatten_numpy(parts[4:]), weights)


@pytest.mark.slow
def test_what_cannot_be_is_named(fashion, network, helpers):
    honest = helpers.make_view(network, fashion[1].floats(np.arange(2)), np.array([0, 1]))
    with pytest.raises(CapabilityError, match=r"has none: let the adversary be server\(acts=\[robbing_the_fed\]\)"):
        RobbingTheFed().run(honest)
    act = RobbingTheFedAct(bins=8)
    changed, sent = planted(act, network)
    with pytest.raises(ModelError, match="module already"):
        act.model(changed)
    with pytest.raises(ParameterError, match="names no model"):
        act.broadcast(sent, Occasion(0, 0, changed.spec))
    with pytest.raises(ParameterError, match="give mean and spread"):
        planted(RobbingTheFedAct(measurement="random"), network)
    bare = helpers.make_view(changed, fashion[1].floats(np.arange(2)), np.array([0, 1]))
    with pytest.raises(CapabilityError, match="carry none: all clients behind the update must get it"):
        RobbingTheFed().run(bare)
    still = dataclasses.replace(bare, weights=sent, observed=np.append(np.zeros(changed.spec.size - 1), 1.0))
    with pytest.raises(CapabilityError, match="did not move"):
        RobbingTheFed().run(still)
    with pytest.raises(FedprivError, match="eavesdropper cannot do"):
        Adversary.parse("eavesdropper").acting("robbing_the_fed")


def test_slopes_are_each_examples_own(fashion, network):
    """What one example's loss changes by along a direction of the tensor, by central differences."""
    parts, rng = network.spec.unflatten_numpy(network.initial_weights(0)), np.random.default_rng(0)
    x, y, name = fashion[1].x[:3], fashion[1].y[:3], network.spec.names[1]
    found, where = slopes(network, parts, name, x, y), network.spec.names.index(network.spec.names[1])
    along, step = rng.normal(size=parts[where].shape), 1e-2
    changed = [[p + s * along if i == where else p for i, p in enumerate(parts)] for s in (step, -step)]
    up, down = (
        network.example_losses([tf.constant(p, tf.float32) for p in parts], tf.constant(x), tf.constant(y)).numpy()
        for parts in changed
    )
    np.testing.assert_allclose(found @ along, (up - down) / (2 * step), rtol=2e-2, atol=1e-3)
