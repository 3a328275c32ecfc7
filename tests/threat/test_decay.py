"""What weight decay adds to one step is taken out; where it cannot be known, nothing is."""

import numpy as np
import pytest

from fedpriv import make_attack
from fedpriv.base.errors import CapabilityError
from fedpriv.base.registry import defenses
from fedpriv.data.dataset import Dataset
from fedpriv.models import load
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.decay import undecayed

RATE, DECAY = 0.1, 0.05


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return Dataset("made", rng.uniform(size=(12, 6, 6, 1)).astype(np.float32), np.arange(12, dtype=np.int32) % 4, 4)


@pytest.fixture(scope="module")
def model(data):
    return load("mlp(hidden=[60],activation=relu)", data)


def seen(model, data, decay, *given, adversary="server", **more):
    fields = {"batch_size": None, "client": {"learning_rate": RATE, "weight_decay": decay, **more.pop("client", {})}}
    procedure = make_procedure(**fields, **{k: more.pop(k) for k in ("local_epochs", "proximal") if k in more})
    who = Adversary.parse(adversary)
    return next(iter(Exposure(model, data, 1, procedure=procedure, defenses=given, adversary=who, seed=0, **more)))


@pytest.mark.parametrize(
    "more", [{"batch": 3}, {"batch": 1, "cohort": 3}, {"batch": 1, "client": {"kind": "momentum"}}]
)
def test_the_update_is_that_of_one_step_without_decay(model, data, more):
    summed = [defenses.create("secret_sharing(aggregators=3)")] if "cohort" in more else []
    with_decay, without = (seen(model, data, d, *summed, **dict(more)).view for d in (DECAY, 0.0))
    assert np.abs(with_decay.observed - without.observed).max() > 1e-3
    plain = undecayed(with_decay)
    np.testing.assert_allclose(plain.observed, without.observed, atol=2e-5 if summed else 1e-7)
    assert plain.procedure == without.procedure
    assert with_decay.procedure.client.weight_decay == DECAY


@pytest.mark.parametrize("attack", ["first_layer", "peel", "spear", "rgap"])
def test_exact_attacks_read_what_they_read_without_decay(model, data, attack):
    observation = seen(model, data, DECAY, batch=1)
    finding = make_attack(attack).run(observation.view)
    np.testing.assert_allclose(finding.x, observation.truth.x, atol=1e-3)


def test_labels_are_counted_under_decay(model, data):
    observation = seen(model, data, DECAY, batch=4)
    finding = make_attack("labels").run(observation.view)
    assert sorted(finding.y) == sorted(observation.truth.y)


@pytest.mark.parametrize(
    ("given", "more"),
    [([], {"local_epochs": 2}), (["clip(norm=1)"], {}), ([], {"client": {"kind": "adam"}})],
)
def test_nothing_is_taken_out_of_what_is_no_plain_step(model, data, given, more):
    observation = seen(model, data, DECAY, *map(defenses.create, given), batch=1, **more)
    assert undecayed(observation.view) is observation.view
    with pytest.raises(CapabilityError, match=r"weight_decay|scales every weight"):
        make_attack("first_layer").run(observation.view)


def test_clients_with_weights_of_their_own_decay_differently(model, data):
    who = "server(acts=[suppression(target=[0])])"
    summed = defenses.create("secret_sharing(aggregators=3)")
    observation = seen(model, data, DECAY, summed, batch=1, cohort=2, adversary=who)
    assert undecayed(observation.view) is observation.view
    assert undecayed(seen(model, data, DECAY, batch=1, adversary=who).view).procedure.client.weight_decay == 0


def test_who_does_not_know_of_a_clip_claims_nothing_false(model, data):
    observation = seen(
        model, data, DECAY, defenses.create("clip(norm=0.1)"), batch=4, adversary="server(blind=[defense])"
    )
    assert undecayed(observation.view) is not observation.view
    for attack in ("first_layer", "peel", "spear(seconds=2)"):
        finding = make_attack(attack).run(observation.view)
        if finding.x is not None:
            for x in finding.x[np.isfinite(finding.x).all((1, 2, 3))]:
                assert np.abs(observation.truth.x - x).max((1, 2, 3)).min() < 0.02
