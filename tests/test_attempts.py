"""The loop that attacks: numbers, seeds, and what does not apply."""

from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import Inapplicable, Trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Attack
from fedpriv.threat.finding import Finding


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
