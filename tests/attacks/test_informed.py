"""The objective that the known defenses call for: the same as the one a user would have named, and none unasked."""

import numpy as np
import pytest
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.parts.consistent import Consistent
from fedpriv_attacks.parts.informed import Informed
from fedpriv_attacks.parts.known_noise import KnownNoise
from fedpriv_attacks.parts.objectives import Cosine, Objective, Signed, SquaredError

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks, defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.experiment.setting import Exposed, Setting
from fedpriv.experiment.work import adaptive
from fedpriv.models.zoo import mlp
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.replays import CELLS
from tests.attacks.conftest import seen

BLIND = Adversary.parse("server(blind=[defense])")


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(12,), activation="sigmoid")


def value(objective: Objective, observation) -> float:
    """Times its factor, at examples that are not the truth."""
    fitted, view = objective.prepared(observation.view)
    spec = view.model.spec
    observed = np.asarray(view.observed)
    norm = float(np.linalg.norm(observed))
    simulated = view.simulate(tf.constant(1 - observation.truth.x), tf.constant(observation.truth.y))
    found = fitted(simulated / norm, tf.constant(observed / norm), spec)
    return fitted.factor(view, norm) * float(found)


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (("top_k(fraction=0.1)",), Consistent()),
        (("low_precision(format=int8)",), Consistent()),
        (("sign_sgd",), SquaredError()),
        (("qsgd(levels=1,bucket=1000000)",), Signed()),
        (("dgc(fraction=0.1)",), Consistent()),
        (("dgc(fraction=0.1,clip=0.01)",), SquaredError()),
        (("additive_noise(stddev=0.001)", "top_k(fraction=0.3)"), Consistent()),
        (("additive_noise(stddev=0.001)", "clip(norm=0.1)"), SquaredError()),
        (("additive_noise(stddev=0.001,distribution=laplace)", "top_k(fraction=0.3)"), Consistent()),
        (("qsgd", "additive_noise(stddev=0.001)"), SquaredError()),
        (("soteria", "additive_noise(stddev=0.001)"), SquaredError()),
        (("additive_noise(stddev=0.01)",), KnownNoise()),
        (("additive_noise(stddev=0.01,distribution=laplace)",), KnownNoise()),
        (("outpost",), KnownNoise()),
        (("local_dp(clip=1,noise_multiplier=0.1)", "low_precision"), KnownNoise()),
        (("qsgd",), SquaredError()),
        (("clip(norm=1)",), SquaredError()),
        ((), SquaredError()),
    ],
)
def test_it_is_the_objective_that_the_defenses_call_for(texts, named, model, data):
    observation = seen(model, data, *texts)
    assert value(Informed(), observation) == pytest.approx(value(named, observation), rel=1e-6)


def test_noise_on_the_sum_is_not_in_what_a_server_reads(model, data):
    observation = seen(model, data, "central_dp(clip=1,noise_multiplier=1)")
    assert isinstance(Informed().prepared(observation.view)[0], SquaredError)


def test_who_knows_no_defense_goes_by_the_other_objective_even_where_signs_show(model, data):
    observation = seen(model, data, "sign_sgd", adversary=BLIND)
    assert isinstance(Informed(otherwise="cosine").prepared(observation.view)[0], Cosine)
    with pytest.raises(CapabilityError, match="needs a view"):
        Informed()(tf.ones(3), tf.ones(3), model.spec)


def test_layers_go_along(model, data):
    fitted, _ = Informed(layers="-1:").prepared(seen(model, data, "qsgd(levels=1,bucket=1000000)").view)
    assert fitted == Signed(layers="-1:")
    plain, _ = Informed(layers="-1:").prepared(seen(model, data).view)
    assert plain == SquaredError(layers="-1:")


def test_it_is_written_and_read_like_any_part(model, data):
    attack = DLG(objective="informed(otherwise=cosine)")
    assert DLG(objective=attack.config()["objective"]).objective == Informed(otherwise=Cosine())


def test_it_is_not_its_own_otherwise():
    with pytest.raises(ParameterError, match="otherwise=informed never ends"):
        attacks.create("dlg(objective=informed(otherwise=informed))")


def test_an_attack_with_it_finds_what_the_one_with_the_named_objective_finds(model, data):
    observation = seen(model, data, "low_precision(format=int8)", adversary=Adversary.parse("server(knows=[labels])"))
    attack = DLG(restarts=1, labels="known", **{"optimizer.max_evaluations": 60})
    named, informed = (run_trial(attack.with_(objective=o), observation, 0) for o in (Consistent(), Informed()))
    np.testing.assert_array_equal(named.finding.x, informed.finding.x)
    assert named.finding.replayed == informed.finding.replayed


def test_every_defense_names_an_attack_that_can_be_made_or_none():
    known = attacks.names()
    for name in defenses.names():
        text = defenses.load(name).adaptive_attack
        assert not text or attacks.create(text).name in known, name
    assert defenses.load("soteria").adaptive_attack == "dlg(objective=consistent)"


@pytest.mark.parametrize("objective", ["squared_error", "consistent"])
def test_a_named_objective_counts_only_where_it_reckons_with_the_defense(objective):
    setting = Setting(attack=f"dlg(objective={objective})", defense=("soteria",), exposure=Exposed(images=1))
    assert not adaptive(setting, set())
    assert adaptive(setting, {CELLS + "soteria"})
