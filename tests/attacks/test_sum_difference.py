"""Sums of several rounds subtracted: exact where it must be, and nothing where it must fail."""

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.rounds.sum_difference import SumDifference, isolate
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError, DivergenceError, ParameterError
from fedpriv.data.embedded import fashion_small
from fedpriv.defense.attrition import BernoulliAttrition
from fedpriv.models.zoo import mlp
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.tap import Tap

ATTACK = SumDifference(inner="first_layer")
SUM = SecretSharing(aggregators=3, range=4.0)


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(64,))


@pytest.fixture(scope="module")
def data():
    return fashion_small()[0]


def expose(model, data, **options):
    """Cohorts of 2 of 4 clients in 8 rounds, at a server's rate at which the model hardly moves."""
    rate = options.pop("rate", 1e-9)
    fields = {"trials": 1, "cohort": 2, "clients": 4, "rounds": 8, "defenses": (SUM,), **options}
    fields.setdefault("procedure", Procedure.fedsgd(learning_rate=rate, weighting="uniform"))
    return Exposure(model, data, **fields)


def steps(federation, cohorts, adversary="server", move=False):
    """The dossier of one adversary after rounds of these cohorts; the model stands still unless it is to move."""
    state, seen = federation.start(), []
    for cohort in cohorts:
        after, record = federation.step(state, [Tap(Adversary.parse(adversary))], evaluate=False, clients=cohort)
        seen += record.observations
        state = after
        if not move:
            state.weights = federation.start().weights
    return Dossier(tuple(o.view for o in seen)), seen


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "adversary"), [("uniform", "server"), ("examples", "aggregators(0)")])
def test_two_cohorts_that_differ_in_one_client_give_its_update(federate, weighting, adversary):
    options = {"batch_size": None, "weighting": weighting}
    bare = federate(**options)
    _, plain = steps(bare, [[1]])
    dossier, _ = steps(federate(defenses=(SecretSharing(range=1.0),), **options), [[0, 1, 3], [0, 3]], adversary)
    (one,) = isolate(dossier)
    expected = plain[0].view.observed
    assert one.members == ("client 1",)
    assert (one.view.kind, one.view.clients, one.view.num_examples) == ("update", 1, (12,))
    assert dict(one.rounds) == pytest.approx({0: 1.0, 1: -1.0})
    assert one.drift == 0
    # What is left is fixed-point rounding, and that of float32.
    np.testing.assert_allclose(one.view.observed, expected, atol=1e-6 * np.abs(expected).max() + 1e-7)


@pytest.mark.slow
def test_the_general_case_is_solved(federate):
    """No two cohorts differ in one client, but all of them together tell everybody's update."""
    options = {"batch_size": None, "weighting": "examples"}
    cohorts = [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1]]
    _, plain = steps(federate(**options), [[0, 1, 2, 3, 4]])
    dossier, _ = steps(federate(defenses=(SecretSharing(range=1.0),), **options), cohorts)
    found = isolate(dossier)
    assert [f.members for f in found] == [(f"client {i}",) for i in range(5)]
    by_client = {o.truth.clients: o.view.observed for o in plain}
    for i, one in enumerate(found):
        scale = np.abs(by_client[(i,)]).max()
        np.testing.assert_allclose(one.view.observed, by_client[(i,)], atol=1e-5 * scale + 1e-6)
        assert one.amplification == pytest.approx(np.sqrt(11) / 3)  # (2, 2, -1, -1, -1) / 3


@pytest.mark.slow
def test_the_nearest_rounds_are_subtracted(federate):
    """Client 1 can be had from rounds 0 and 1, or from 0 and 3, when the model has moved on."""
    federation = federate(defenses=(SecretSharing(range=1.0),), batch_size=None, weighting="uniform")
    dossier, _ = steps(federation, [[0, 1], [0], [2], [0]], move=True)
    one = next(f for f in isolate(dossier) if f.members == ("client 1",))
    taken = dict(one.rounds)
    assert taken[0] == pytest.approx(1.0)
    assert taken[1] < -0.9
    assert abs(taken.get(3, 0.0)) < 0.5 < -taken[1]
    assert one.view.round == 0


@pytest.mark.slow
def test_everybody_is_found_where_the_model_hardly_moves_and_not_where_it_runs(model, data):
    still = run_trial(ATTACK, expose(model, data).episodes(0)[0])
    assert all(i.psnr > 60 for i in still.score.images)
    assert still.score.label_accuracy == 1
    assert still.finding.measures["isolated"] == 1
    assert "It" in still.threat
    moving = run_trial(ATTACK, expose(model, data, rate=0.3).episodes(0)[0])
    assert moving.finding.measures["isolated"] == 1
    assert np.median([i.psnr for i in moving.score.images]) < 30


@pytest.mark.slow
def test_batches_that_stay_together_leave_no_single_client(model, data):
    paired = {"selection": "batch_partition(size=2,batch=2)"}
    finding = run_trial(ATTACK, expose(model, data, **paired).episodes(0)[0])
    assert finding.finding.measures["isolated"] == 0
    assert all(i.psnr == 0 for i in finding.score.images)
    groups = isolate(expose(model, data, **paired).episodes(0)[0].dossier, 2)
    assert [len(g.members) for g in groups] == [2, 2]
    assert {g.view.kind for g in groups} == {"sum"}


@pytest.mark.slow
def test_the_sum_of_a_batch_is_not_hidden_by_it(model, data):
    wide = mlp((28, 28, 1), 10, hidden=(400,), activation="relu")
    exposure = expose(wide, data, selection="batch_partition(size=2,batch=2)")
    trial = run_trial(SumDifference(inner="first_layer", group=2), exposure.episodes(0)[0])
    assert all(i.psnr > 60 for i in trial.score.images)


@pytest.mark.slow
def test_drop_outs_break_batches_and_the_run_says_so(model, data):
    exposure = expose(
        model,
        data,
        rounds=12,
        selection="batch_partition(size=2,batch=2)",
        attrition=BernoulliAttrition(rate=0.3, phases=("input",)),
    )
    (episode,) = exposure.episodes(0)
    assert any("arrived without all of their clients" in w for w in episode.warnings)
    assert run_trial(ATTACK, episode).finding.measures["isolated"] > 0


@pytest.mark.slow
def test_noise_of_each_client_hides_what_subtraction_leaves(model, data):
    noised = (LocalDP(clip=1.0, noise_multiplier=0.01), SUM)
    trial = run_trial(ATTACK, expose(model, data, defenses=noised).episodes(0)[0])
    assert trial.finding.measures["isolated"] == 1
    assert np.median([i.psnr for i in trial.score.images]) < 20


def test_who_does_not_know_who_is_in_a_sum_is_refused(federate):
    federation = federate(defenses=(SecretSharing(range=1.0),), batch_size=None)
    for text in ("observer(knows=[num_examples])", "server(identified=false)", "client(0)"):
        dossier, _ = steps(federation, [[1, 2], [1]], text)
        with pytest.raises(CapabilityError, match=r"to know who is in which sum.*server whose clients connect under"):
            ATTACK.run(dossier)


def test_counts_are_needed_where_clients_are_weighed_by_them(federate):
    federation = federate(defenses=(SecretSharing(range=1.0),), batch_size=None, weighting="examples")
    dossier, _ = steps(federation, [[0, 1], [0]], "server(blind=[num_examples])")
    with pytest.raises(CapabilityError, match="needs the number of examples"):
        ATTACK.run(dossier)


def test_one_round_is_refused(federate):
    dossier, _ = steps(federate(defenses=(SecretSharing(range=1.0),)), [[0, 1]])
    with pytest.raises(CapabilityError, match="needs views of 2 rounds"):
        ATTACK.run(dossier)


@pytest.mark.slow
def test_an_inner_attack_that_never_applies_is_told(federate):
    federation = federate(defenses=(SecretSharing(range=1.0),), batch_size=None, weighting="uniform", local_epochs=2)
    dossier, _ = steps(federation, [[0, 1], [0]])
    with pytest.raises(CapabilityError, match="applies to none of the 2 updates that 'sum_difference' isolated"):
        SumDifference(inner="spear").run(dossier)


@pytest.mark.slow
def test_a_sum_that_is_not_finite_is_named(federate):
    dossier, _ = steps(federate(defenses=(SecretSharing(range=1.0),), batch_size=None), [[0, 1], [0]])
    spoiled = [dataclasses.replace(v, observed=np.full_like(v.observed, np.nan)) for v in dossier.pages]
    with pytest.raises(DivergenceError, match="round 0 is not finite"):
        ATTACK.run(Dossier(tuple(spoiled)))


def test_labels_that_are_known_go_with_their_client(federate, toy, parts):
    federation = federate(defenses=(SecretSharing(range=1.0),), batch_size=None, weighting="uniform")
    dossier, _ = steps(federation, [[0, 1, 3], [0, 3]], "server(knows=[labels])")
    (one,) = isolate(dossier)
    np.testing.assert_array_equal(one.view.labels, toy.y[parts.indices[1]])


def test_attempts_give_it_a_trial_s_rounds_and_refuse_attacks_on_one(model, data):
    exposure = expose(model, data, trials=2)
    found = list(attempts(ATTACK, exposure))
    assert [a.trial for a in found] == [0, 1]
    assert [a.units for a in found] == [4, 4]
    assert all(i.psnr > 60 for a in found for i in a.applied().score.images)
    with pytest.raises(ParameterError, match="'first_layer' looks at one view, but the adversary listens in rounds=8"):
        list(attempts(ATTACK.inner, exposure))


def test_what_it_brings_is_the_inner_attack_s():
    assert SumDifference(inner="ggl").brings() == SumDifference(inner="ggl").inner.brings()
    assert SumDifference(inner="ggl").brings()
