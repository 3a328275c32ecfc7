"""The loop that attacks: numbers, seeds, and what does not apply."""

from typing import ClassVar

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.data.dataset import Dataset
from fedpriv.metrics.disclosed import Controlled, disclosed
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import Inapplicable, Trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Attack
from fedpriv.threat.finding import Finding
from fedpriv.threat.goal import goal_of


class Noting(Attack):
    """Finds nothing and notes its seeds; leaves out every third."""

    name: ClassVar[str] = "noting"
    seeds: ClassVar[list[int]] = []

    def attack(self, view, seed):
        self.seeds.append(seed)
        if len(self.seeds) % 3 == 0:
            raise CapabilityError("it is the third")
        return Finding(x=np.zeros((1, *view.model.input_shape), np.float32), y=np.zeros(1, np.int32))


def exposure(toy, logistic_model, **more):
    return Exposure(logistic_model, toy, trials=2, cohort=2, seed=5, **more)


def test_each_observation_has_a_number_a_seed_of_its_own_and_an_outcome(toy, logistic_model):
    Noting.seeds.clear()
    made = list(attempts(Noting(), exposure(toy, logistic_model), seed=9))
    assert [(a.trial, a.number) for a in made] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert Noting.seeds == [integer_seed(9, Purpose.ATTACK, k) for k in range(4)]
    assert [type(a.result) for a in made] == [Trial, Trial, Inapplicable, Trial]
    assert [a.units for a in made] == [1] * 4
    assert made[0].applied() is made[0].result
    with pytest.raises(CapabilityError, match="it is the third"):
        made[2].applied()
    np.testing.assert_array_equal(np.concatenate([a.truth.x for a in made]), toy.x[:4])


def test_an_adversary_that_does_not_exist_is_an_outcome_each_trial(toy, logistic_model):
    Noting.seeds.clear()
    nobody = exposure(toy, logistic_model, adversary=Adversary.parse("aggregators(0)"))
    made = list(attempts(Noting(), nobody))
    assert [(a.trial, a.number, a.units) for a in made] == [(0, 0, None), (1, 1, None)]
    assert Noting.seeds == []
    with pytest.raises(CapabilityError, match="secret_sharing"):
        made[0].truth
    shared = exposure(toy, logistic_model, defenses=(SecretSharing(aggregators=2),))
    assert [a.units for a in attempts(Noting(), shared)] == [2, 2]


class Blind(Attack):
    """Claims what it always claims, whatever it is given."""

    name: ClassVar[str] = "blind"
    given: ClassVar[list[bytes]] = []

    def attack(self, view, seed):
        self.given.append(view.observed.tobytes())
        x = np.random.default_rng(seed).random((view.total_examples, *view.model.input_shape))
        return Finding(x=x.astype(np.float32), y=np.zeros(view.total_examples, np.int32), evaluations=3, seconds=1.0)


class Wary(Blind):
    """Refuses an update that it saw in no round that was run."""

    name: ClassVar[str] = "wary"
    known: ClassVar[set[bytes]] = set()

    def attack(self, view, seed):
        if view.observed.tobytes() not in self.known:
            raise CapabilityError("it looks like noise")
        return super().attack(view, seed)


def gave_away(made, generative=False):
    trials = [
        Controlled(
            score=a.result.score,
            control=getattr(a.control, "score", None),
            reason=getattr(a.control, "reason", ""),
            batch=a.trial,
            run=0,
        )
        for a in made
        if isinstance(a.result, Trial)
    ]
    return disclosed(goal_of(Blind()), trials, generative)


@pytest.mark.slow
def test_a_control_is_the_same_attack_with_the_same_seed_on_noise(toy, logistic_model):
    def made(**more):
        return list(attempts(Blind(), exposure(toy, logistic_model), seed=9, **more))

    assert [a.control for a in made()] == [None] * 4
    Blind.given.clear()
    found, again = made(control="noise"), made(control="noise")
    assert (
        Blind.given[:8] == Blind.given[8:]
    )  # noise is the trial's, so that controls of two attacks are paired as well
    assert len(set(Blind.given)) == 8
    assert [a.control.finding.evaluations for a in found] == [3] * 4
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.control.finding.x, one.result.finding.x)
        assert one.control.score.rows() == other.control.score.rows()
    told = gave_away(found)
    assert (told.gain, told.shown, told.pair.pairs, told.evaluations, told.seconds) == (0, False, 4, 12, 4.0)
    assert "image by image the same; what is drawn is the attack's, not the update's" in told.sentence()
    assert "the generator's" in gave_away(found, generative=True).sentence()
    assert gave_away(made()) is None


def test_what_an_exact_attack_finds_is_the_updates(toy, logistic_model):
    made = list(attempts(FirstLayer(), exposure(toy, logistic_model), seed=9, control="noise"))
    told = gave_away(made)
    assert told.gain > 40
    assert told.shown is True
    assert "the update gave away" in told.sentence()


def test_an_attack_that_refuses_noise_has_no_control_and_says_why(toy, logistic_model):
    rounds = exposure(toy, logistic_model)
    Wary.known = {o.view.observed.tobytes() for o in rounds}
    made = list(attempts(Wary(), rounds, seed=9, control="noise"))
    assert [type(a.result) for a in made] == [Trial] * 4
    assert {a.control.reason for a in made} == {"it looks like noise"}
    assert gave_away(made).sentence() == "There is no control: it looks like noise."
    Wary.known = set()
    assert [a.control for a in attempts(Wary(), rounds, seed=9, control="noise")] == [None] * 4


@pytest.mark.slow
def test_dlg_draws_from_the_update_and_not_from_itself():
    """A strong signal: on a sigmoid LeNet an update gives the image away, and noise of its norm does not."""
    from fedpriv_attacks.inversion.dlg import DLG

    from fedpriv.data.loading import load
    from fedpriv.models.zoo import lenet

    test = load("fashion_small")[1]
    small = Dataset("small", test.floats(np.arange(2))[:, 8:20, 8:20], test.y[:2], test.num_classes)
    rounds = Exposure(lenet((12, 12, 1), 10, init="uniform"), small, trials=2)
    attack = DLG(restarts=1, **{"optimizer.max_evaluations": 120})
    told = gave_away(attempts(attack, rounds, seed=1, control="noise"))
    assert told.gain > 15
    assert told.interval[0] > 10
