"""What an attack needs besides its view is the adversary's, or stands in the threat line as brought in."""

import numpy as np
import pytest
from fedpriv_attacks.inversion.generative import GGL, GIAS
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.labels.attack import LabelsOnly
from fedpriv_attacks.labels.batch import Bias, LLGPlus
from fedpriv_attacks.modern import Modern
from fedpriv_attacks.parts.initializers import Analytic, Image
from fedpriv_attacks.parts.latent import Latent
from fedpriv_attacks.parts.optimizers.first_order import Adam
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP

from fedpriv.base.errors import CapabilityError
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Auxiliary, Generator


@pytest.fixture(scope="module")
def public(tmp_path_factory, toy):
    """Auxiliary data in a file; the last examples are of another kind than the first."""
    path = tmp_path_factory.mktemp("public") / "toy.npz"
    np.savez(path, x=np.concatenate([toy.x, 1 - toy.x]), y=np.concatenate([toy.y, toy.y]))
    return str(path)


def exposed(toy, model, text="server", *defenses):
    procedure = make_procedure(batch_size=None, client={"learning_rate": 1.0}, weighting="uniform")
    return next(
        iter(Exposure(model, toy, 1, 6, procedure=procedure, adversary=Adversary.parse(text), defenses=defenses))
    )


@pytest.mark.slow
@pytest.mark.parametrize("inference", [LLGPlus, Bias])
def test_auxiliary_data_are_the_same_whoever_has_them(toy, logistic_model, public, inference):
    brought = inference(auxiliary=public, per_class=5)
    held = inference(auxiliary="held", per_class=5)
    assert brought.brings() == (Auxiliary(data=public),)
    assert held.brings() == ()
    assert held.requirements() - brought.requirements() == {Capability.AUXILIARY}
    knowing = exposed(toy, logistic_model, f"server(knows=[auxiliary({public})])").view
    np.testing.assert_array_equal(brought(knowing).evidence, held(knowing).evidence)
    with pytest.raises(CapabilityError, match="needs auxiliary data of the same kind"):
        held(exposed(toy, logistic_model).view)


def test_no_more_auxiliary_data_than_the_adversary_has(toy, logistic_model, public):
    few = exposed(toy, logistic_model, f"server(knows=[auxiliary({public},examples=6)])").view
    (known,) = few.adversary.held(Auxiliary)
    x, y = known.load(logistic_model)
    np.testing.assert_array_equal(x, toy.x[:6])
    np.testing.assert_array_equal(y, toy.y[:6])
    x, y = known.load(logistic_model, per_class=1)
    assert len(y) == len(set(y)) == len(set(toy.y[:6]))
    many = exposed(toy, logistic_model, f"server(knows=[auxiliary({public})])").view
    assert not np.array_equal(LLGPlus()(few).evidence, LLGPlus()(many).evidence)


def test_which_of_several_must_be_said(toy, logistic_model, public):
    text = f"server(knows=[auxiliary({public}),auxiliary({public},examples=9)])"
    with pytest.raises(CapabilityError, match="knows 2; let it know"):
        LLGPlus()(exposed(toy, logistic_model, text).view)


def test_generators_are_brought_in_or_held():
    fashion = Generator(source="fashion")
    assert GGL().brings() == GIAS().brings() == (fashion,)
    assert Inversion().brings() == ()
    held = GGL(coordinates="latent(generator=held)")
    assert held.brings() == ()
    assert Capability.GENERATOR in held.requirements() - GGL().requirements()
    with pytest.raises(CapabilityError, match="the adversary's generator"):
        held.coordinates.decoder()


@pytest.mark.slow
def test_the_adversary_s_generator_is_used():
    """The same finding, whether the attack brings the generator in or the adversary has it."""
    from fedpriv.data.embedded import fashion_small
    from fedpriv.models.zoo import logistic

    _, data = fashion_small()
    quick = {"optimizer": Adam(steps=3), "restarts": 1}
    exposures = {
        text: Exposure(logistic((28, 28, 1), 10), data, 1, adversary=Adversary.parse(text)).observe(0)[0]
        for text in ("server", "server(knows=[generator(fashion)])", "server(knows=[generator(a),generator(b)])")
    }
    plain, knowing, several = exposures.values()
    brought = run_trial(GGL(coordinates=Latent(spread=0.3), **quick), plain, seed=1)
    held = run_trial(GGL(coordinates=Latent(spread=0.3, generator="held"), **quick), knowing, seed=1)
    np.testing.assert_array_equal(brought.finding.x, held.finding.x)
    assert "The attack brings in: a generator of examples of the same kind ('fashion')" in brought.threat
    assert "brings in" not in held.threat
    assert "; a generator of examples of the same kind ('fashion')" in held.threat
    with pytest.raises(CapabilityError, match="knows 2; write which"):
        GGL(coordinates=Latent(generator="held"), **quick).run(several.view)
    with pytest.raises(CapabilityError, match="a generator of examples of the same kind"):
        GGL(coordinates=Latent(generator="held"), **quick).run(plain.view)


def test_what_is_brought_in_is_gathered_from_all_parts(public):
    knows = (Auxiliary(data=public),)
    attack = LabelsOnly(inference=f"llg_plus(auxiliary={public})")
    assert attack.brings() == knows
    assert Inversion(labels=f"bias(auxiliary={public})").brings() == knows
    assert Image(source="stranger.png").brings() == (Auxiliary(data="stranger.png"),)
    assert Analytic(attack=f"labels(inference=llg_plus(auxiliary={public}))").brings() == knows
    assert Modern(attacks=[attack, GGL()]).brings() == (*knows, Generator(source="fashion"))
    assert Modern().brings() == ()


@pytest.mark.slow
def test_a_trial_says_what_was_replayed_and_what_was_not(toy, logistic_model):
    quick = Inversion(optimizer="lbfgs(max_evaluations=3)", restarts=1)
    defenses = (Clip(norm=0.5), LocalDP(clip=0.4, noise_multiplier=0.1))
    observation = exposed(toy, logistic_model, "server", *defenses)
    trial = run_trial(quick, observation)
    assert (trial.replayed, trial.ignored) == (("clip", "local_dp"), ())
    trial = run_trial(LabelsOnly(inference="llg"), observation)
    assert (trial.replayed, trial.ignored) == ((), ("clip", "local_dp"))
    assert trial.threat == Adversary().describe()
    blind = exposed(toy, logistic_model, "server(blind=[defense])", *defenses)
    trial = run_trial(quick, blind)
    assert (trial.replayed, trial.ignored) == ((), ())
