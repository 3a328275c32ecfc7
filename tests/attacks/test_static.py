"""A graph that serves many views holds nothing of any one of them, and says which defenses it replays each time."""

import copy
import pickle

import numpy as np
import pytest
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.inversion.matching import _CACHE
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS
from fedpriv_attacks.parts.priors import Custom, Scene
from fedpriv_attacks.parts.replay import Replay
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip

from fedpriv.base.errors import FedprivError, SharedGraphError
from fedpriv.base.lazy import tf
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.static import OF_ONE_VIEW

QUICK = LBFGS(max_evaluations=40)


def through_the_view(x, scene):
    """A prior that draws to something of the first view."""
    return tf.reduce_mean(x) * tf.constant(scene.view.observed[0], x.dtype)


def through_the_static(x, scene):
    """The same by another way."""
    return tf.reduce_mean(x) * tf.constant(scene.static.observed[0], x.dtype)


def brightness_from_the_update(x, scene):
    """Draws the mean pixel to a number that each update gives for itself: its last bias, squashed."""
    return tf.square(tf.reduce_mean(x) - tf.sigmoid(1.5 * scene.update[-1]))


@pytest.fixture(scope="module")
def seen():
    """Two clients' views, with equal statics."""
    from fedpriv.data.dataset import Dataset
    from fedpriv.models.zoo import logistic

    rng = np.random.default_rng(3)
    toy = Dataset("toy", rng.random((4, 4, 4, 1)).astype(np.float32), np.array([0, 1, 2, 0], np.int32), 3)
    views = [o.view for o in Exposure(logistic((4, 4, 1), 3), toy, trials=2)]
    assert views[0].static == views[1].static
    assert not np.array_equal(views[0].observed, views[1].observed)
    return views


def inversion(**parts):
    return Inversion(**{"optimizer": QUICK, "restarts": 1, **parts})


@pytest.mark.slow
@pytest.mark.parametrize("function", [through_the_view, through_the_static])
def test_a_prior_cannot_read_one_view(seen, function):
    with pytest.raises(SharedGraphError, match=r"serves many"):
        inversion(priors=[Custom(function=function, weight=1.0)]).run(seen[0])


@pytest.mark.slow
def test_a_prior_gets_each_view_s_own_update_through_one_graph(seen):
    """The same prior draws two clients' examples to two brightnesses, and the graph is compiled once."""
    attack = inversion(
        priors=[Custom(function=brightness_from_the_update, weight=1e6)],
        coordinates="pixels",
        optimizer=LBFGS(max_evaluations=200),
        target=0.0,
        tolerance=0.0,
    )
    findings = [attack.run(view) for view in seen]
    assert findings[0].compile_seconds > 0
    assert findings[1].compile_seconds == 0
    for finding, view in zip(findings, seen, strict=True):
        wanted = 1 / (1 + np.exp(-1.5 * float(view.observed[-1])))
        assert finding.x.mean() == pytest.approx(wanted, abs=0.05)  # pixels are clipped to [0, 1] at the end
    assert abs(findings[0].x.mean() - findings[1].x.mean()) > 0.1
    # The second answer is what it would have been without the first.
    _CACHE.clear()
    alone = attack.run(seen[1])
    np.testing.assert_array_equal(alone.x, findings[1].x)


class Nosy(Replay):
    """Reads what is not its own."""

    kind = "nosy"

    def __call__(self, static, sent, x, y, own):
        return static.simulate(sent.weights, sent.rate, x, y, sent.inputs) * float(static.labels[0])


def test_a_replay_cannot_read_one_view_either(seen):
    with pytest.raises(SharedGraphError, match="known labels come in as `y`"):
        inversion(replay=Nosy()).run(seen[0])


def test_static_has_none_of_a_view_s_own_fields(seen):
    static = seen[0].static
    for name in OF_ONE_VIEW:
        with pytest.raises(FedprivError, match=f"'{name}' belongs to one view"):
            getattr(static, name)
        assert not hasattr(static, name)
    with pytest.raises(AttributeError, match="no attribute 'obserbed'"):
        static.obserbed
    with pytest.raises(SharedGraphError, match="scene has no 'view'"):
        Scene(static, None, None).view
    assert copy.copy(static) == static


def test_nothing_of_a_view_is_reachable_from_its_static(seen):
    """Its whole pickle, but for the model, is smaller than one update, and knows neither weights nor update."""
    import dataclasses

    view = seen[0]
    bare = pickle.dumps(dataclasses.replace(view.static, model=None))
    for array in (view.observed, view.weights):
        assert array.tobytes() not in bare
        assert array[:4].tobytes() not in bare


@pytest.mark.slow
def test_a_compiled_attack_holds_nothing_of_a_view(seen):
    """Not in the graph, where constants are, nor in what it has captured."""
    inversion(priors=["total_variation"]).run(seen[0])
    compiled = next(reversed(_CACHE.values())).run
    graph = compiled.graph.as_graph_def().SerializeToString()
    for array in (seen[0].observed, seen[0].weights, seen[0].observed / np.linalg.norm(seen[0].observed)):
        assert array[:4].astype(np.float32).tobytes() not in graph
    assert not compiled.captured_inputs


def exposed(toy, model, *defenses, steps=1, **options):
    procedure = make_procedure(local_epochs=steps, batch_size=None, client={"learning_rate": 1.0}, weighting="uniform")
    return [o.view for o in Exposure(model, toy, 2, procedure=procedure, defenses=defenses, **options)]


@pytest.mark.slow
def test_replays_are_measured_from_the_cache_too(toy, logistic_model):
    """The stand-in runs while the graph is traced; the second view takes the graph, and says so as well."""
    views = exposed(toy, logistic_model, Clip(norm=0.5))
    _CACHE.clear()
    first, second = (inversion().run(view) for view in views)
    assert second.compile_seconds == 0
    assert first.replayed == second.replayed == ("clip",)
    assert inversion(replay="one_gradient").run(views[0]).replayed == ("clip",)


@pytest.mark.slow
def test_an_adversary_that_does_not_know_the_defense_replays_none(toy, logistic_model):
    from fedpriv.threat.adversary import Adversary

    views = exposed(toy, logistic_model, Clip(norm=0.5), adversary=Adversary().without("defense"))
    assert inversion().run(views[0]).replayed == ()


def test_attacks_that_do_not_replay_are_seen_not_to(toy, logistic_model):
    from fedpriv.base import registry

    views = exposed(toy, logistic_model, Clip(norm=0.5))
    assert registry.attacks.create("labels").run(views[0]).replayed == ()


@pytest.mark.slow
def test_noise_levels_share_a_graph_and_its_measure(toy, logistic_model):
    one, two = (exposed(toy, logistic_model, CentralDP(clip=0.5, noise_multiplier=z))[0] for z in (0.5, 1.0))
    assert one.static == two.static
    assert inversion().run(one).replayed == inversion().run(two).replayed == ("central_dp",)


def test_states_go_in_as_tensors(federate, double_model):
    """A defense whose state changes from round to round: one static, and each round is replayed with its own."""
    from fedpriv.threat.tap import Tap
    from tests.test_view import HalfRate

    federation = federate(model=double_model, batch_size=None, defenses=(HalfRate(),))
    seen = federation.run(2, taps=[Tap(clients=[1])], evaluate_every=0).observations
    assert len(seen) == 2
    assert seen[0].view.static == seen[1].view.static
    for o in seen:
        np.testing.assert_allclose(o.view.simulate(o.truth.x, o.truth.y), o.view.observed, rtol=1e-9, atol=1e-12)
    crossed = seen[1].view.static.simulate(
        seen[1].view.weights, seen[1].view.client_rate, seen[1].truth.x, seen[1].truth.y, seen[0].view.inputs()
    )
    np.testing.assert_allclose(crossed, 4 * seen[1].view.observed, rtol=1e-9)
