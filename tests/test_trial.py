"""The truth is out of an attack's reach: an attack looks for it everywhere it can get to, and fails."""

import sys
from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import isolated, run_trial
from fedpriv.testing.references import holds, reachable
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.tap import Tap


def stack():
    """The frames that lead here, and what is in them."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append(frame)
        found.append(dict(frame.f_locals))
        frame = frame.f_back
    return found


class Burglar(Attack):
    """Looks through its view, its parameters and the whole stack of calls above it."""

    name: ClassVar[str] = "burglar"

    def attack(self, view, seed):
        things = [view, stack()]
        return Finding(x=None, y=np.zeros(1, int), extra={"things": things})


STACKS = {
    "none": ((), Adversary()),
    "clip": ((Clip(norm=0.1),), Adversary()),
    "labels known": ((), Adversary().knowing("labels")),
    "observer": ((), Adversary("observer")),
    "sum": ((SecretSharing(),), Adversary()),
    "coalition": ((SecretSharing(),), Adversary("aggregators", corrupted=(0,))),
    "eavesdropper": ((SecretSharing(),), Adversary("eavesdropper")),
}


def test_the_walk_finds_the_truth_where_it_is(federate):
    observation = federate().run(1, taps=[Tap()]).observations[1]
    x = observation.truth.x
    assert holds(observation, x)
    assert holds([{"deep": (lambda: observation.truth,)}], x)
    assert holds({"part": x[:1, :1]}, x)
    assert not holds({"other": 1 - x}, x)


@pytest.mark.slow
@pytest.mark.parametrize("case", STACKS)
def test_no_reference_leads_from_an_attack_to_the_truth(federate, case):
    defenses, adversary = STACKS[case]
    federation = federate(defenses=defenses, batch_size=4, local_epochs=2)
    observation = federation.run(1, taps=[Tap(adversary)]).observations[0]
    x = observation.truth.x
    hash(observation.view.static)
    if adversary.position != "eavesdropper":
        observation.view.simulate(np.zeros_like(x), observation.truth.y)  # leaves nothing behind either
    finding = isolated(Burglar(), observation.view)
    assert not holds(finding.extra["things"], x)
    if "labels" in adversary.knows:
        np.testing.assert_array_equal(observation.view.labels, observation.truth.y)


@pytest.mark.slow
def test_no_reference_leads_there_from_batch_statistics_either(federate):
    from fedpriv.models.zoo import convnet

    model = convnet((4, 4, 1), 3, width=4, norm="batch_train")
    federation = federate(model=model, batch_size=None)
    observation = federation.run(1, taps=[Tap(Adversary().knowing("batch_statistics"))]).observations[0]
    assert observation.view.batch_statistics is not None
    finding = isolated(Burglar(), observation.view)
    assert not holds(finding.extra["things"], observation.truth.x)


def test_without_the_thread_of_its_own_the_stack_would_lead_there(federate):
    observation = federate().run(1, taps=[Tap()]).observations[1]
    finding = Burglar().run(observation.view)
    assert holds(finding.extra["things"], observation.truth.x)


class Fixed(Attack):
    """Claims grey images, from one client's update only."""

    name: ClassVar[str] = "fixed"
    needs: ClassVar[frozenset] = frozenset({Capability.SINGLE_CLIENT, Capability.LABELS})
    fail: bool = False

    def attack(self, view, seed):
        if self.fail:
            raise ZeroDivisionError("inside")
        x = np.full((view.total_examples, *view.model.input_shape), 0.5, np.float32)
        return Finding(x, view.labels, extra={"seed": seed})


@pytest.mark.slow
def test_a_trial_runs_the_attack_and_scores_it(federate):
    observation = federate().run(1, taps=[Tap(Adversary().knowing("labels"))]).observations[1]
    trial = run_trial(Fixed(), observation, seed=7, threshold_db=5.0)
    assert trial.finding.extra["seed"] == 7
    assert trial.score.label_accuracy == 1.0
    assert len(trial.score.images) == 12
    expected = np.mean((observation.truth.x - 0.5) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(sorted(i.mse for i in trial.score.images), sorted(expected), rtol=1e-5)


def test_errors_come_out_of_the_thread(federate):
    view = federate().run(1, taps=[Tap(Adversary().knowing("labels"))]).observations[1].view
    with pytest.raises(ZeroDivisionError, match="inside"):
        isolated(Fixed(fail=True), view)
    blind = federate().run(1, taps=[Tap()]).observations[1]
    with pytest.raises(CapabilityError, match=r"'fixed' needs the examples' labels.*one client's update"):
        run_trial(Fixed(), blind)


@pytest.mark.slow
def test_trials_are_cohorts_of_their_own(toy, logistic_model):
    exposure = Exposure(logistic_model, toy, trials=3, batch=2, cohort=2)
    seen = list(exposure)
    assert [o.view.round for o in seen] == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(np.concatenate([o.truth.x for o in seen]), toy.x[:12])
    assert len({o.view.weights.tobytes() for o in seen}) == 3
    again = Exposure(logistic_model, toy, trials=3, batch=2, cohort=2).observe(1)
    assert [o.view.observed.tobytes() for o in again] == [o.view.observed.tobytes() for o in seen[2:4]]
    trained = Exposure(logistic_model, toy, 2, weights=np.ones(logistic_model.spec.size))
    assert all((o.view.weights == 1).all() for o in trained)


def test_a_schedule_does_not_follow_the_trials(toy, logistic_model):
    from fedpriv.procedure.procedure import make_procedure

    procedure = make_procedure(batch_size=None, client={"schedule": {"kind": "exponential", "decay": 0.1}})
    exposure = Exposure(logistic_model, toy, 3, procedure=procedure)
    assert {o.view.client_rate for o in exposure} == {1.0}


def test_trials_need_enough_images(toy, logistic_model):
    from fedpriv.base.errors import ParameterError

    with pytest.raises(ParameterError, match="need 32 images, but 'toy' has 30"):
        Exposure(logistic_model, toy, trials=4, batch=4, cohort=2)
    with pytest.raises(ParameterError, match="at least 1"):
        Exposure(logistic_model, toy, trials=0)


@pytest.mark.slow
def test_no_reference_leads_there_from_a_question_or_a_lab(logistic_model):
    """A lab that has trained holds the adversary's own data only; a question does not hold its answer."""
    from fedpriv.data.dataset import Dataset
    from fedpriv.metrics.goals.membership import Membership
    from fedpriv.metrics.goals.property import Property
    from fedpriv.rounds.stage import stage

    rng = np.random.default_rng(0)
    data = Dataset("big", rng.random((60, 4, 4, 1)).astype(np.float32), (np.arange(60) % 3).astype(np.int32), 3)
    exposure = Exposure(logistic_model, data, trials=2, batch=4)
    asked = Property(of="label:0", share=0.5)
    (observation, _) = stage(exposure, asked, auxiliary=20)
    view = observation.view
    view.lab.observe([[np.arange(4)], [np.arange(4, 8)]], view.weights)
    assert not holds(isolated(Burglar(), view).extra["things"], observation.truth.x)
    (observation, _) = stage(exposure, Membership(), auxiliary=20)
    inside = [t for t in reachable(observation.view) if isinstance(t, np.ndarray) and t.shape == (8,)]
    assert not any(t.dtype == bool for t in inside)
    assert holds(observation.view, observation.truth.x)  # as candidates, among others
