"""Rounds that are run to be attacked together: who takes part, what is looked for, and what leads nowhere."""

from itertools import pairwise

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import ParameterError
from fedpriv.defense.attrition import FixedAttrition
from fedpriv.experiment.setting import Exposed, Setting
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import Inapplicable, isolated
from fedpriv.testing.references import holds
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.observe import episodes
from fedpriv.threat.tap import Tap
from tests.test_trial import Fixed
from tests.threat.test_dossier import Archivist

SUM = SecretSharing(range=4.0)
FEDSGD = Procedure.fedsgd(weighting="uniform")


def expose(model, data, **options):
    fields = {"trials": 2, "cohort": 2, "clients": 4, "rounds": 3, "defenses": (SUM,), "procedure": FEDSGD, **options}
    return Exposure(model, data, **fields)


def test_a_trial_has_clients_of_its_own_and_rounds_of_one_run(toy, logistic_model):
    exposure = expose(logistic_model, toy, batch=2)
    for trial in range(2):
        (episode,) = exposure.episodes(trial)
        pages, members, matrix = episode.dossier.participation()
        assert episode.dossier.rounds == (3 * trial, 3 * trial + 1, 3 * trial + 2)
        assert matrix.sum(1).tolist() == [2, 2, 2]
        assert set(members) <= {f"client {c}" for c in range(4 * trial, 4 * trial + 4)}
        np.testing.assert_array_equal(episode.truth.x, toy.x[8 * trial : 8 * trial + 8])
        # The server steps from one round to the next by its rate times the mean that it saw.
        for before, after in pairwise(pages):
            np.testing.assert_allclose(after.weights, before.weights + 0.1 * before.observed, atol=1e-6)
    assert not np.array_equal(exposure.episodes(0)[0].dossier.pages[0].weights, pages[0].weights)


@pytest.mark.slow
def test_one_round_is_what_it_always_was(toy, logistic_model):
    before = Exposure(logistic_model, toy, trials=2, cohort=2, procedure=FEDSGD)
    after = expose(logistic_model, toy, rounds=1, clients=2, defenses=())
    assert [o.view.observed.tobytes() for o in before] == [o.view.observed.tobytes() for o in after]


@pytest.mark.slow
def test_who_is_in_a_sum_is_known_to_whom_clients_send_and_to_nobody_else(federate):
    knowing = ["server", "aggregators(0)", "coalition(aggregator 0)"]
    others = ["observer", "client(0)", "eavesdropper", "server(identified=false)"]
    federation = federate(batch_size=None, defenses=(SUM,))
    taps = [Tap(Adversary.parse(text)) for text in (*knowing, *others)]
    seen = federation.run(1, taps=taps, evaluate_every=0).observations
    told = {str(o.view.adversary): o for o in seen}
    assert len(told) == len(taps)
    for text, tap in zip((*knowing, *others), taps, strict=True):
        assert tap.adversary.at.names_members() == (text in knowing)
        o = told[str(tap.adversary)]
        assert o.view.members == (tuple(f"client {c}" for c in o.truth.clients) if text in knowing else None)
    assert {o.truth.clients for o in seen if o.view.members} == {(0, 1, 2, 3, 4)}


@pytest.mark.slow
def test_single_updates_have_members_where_they_are_linked(toy, logistic_model):
    for text, known in [("server", True), ("server(identified=false)", False), ("eavesdropper(persistent=true)", True)]:
        exposure = expose(logistic_model, toy, defenses=(), adversary=Adversary.parse(text))
        for o in exposure.observe(0):
            assert o.view.members == ((o.view.pseudonym,) if known else None)


@pytest.mark.slow
def test_no_reference_leads_from_an_episode_s_dossier_to_its_truth(toy, logistic_model):
    for text in ("server", "aggregators(0)", "observer"):
        exposure = expose(logistic_model, toy, adversary=Adversary.parse(text))
        (episode,) = exposure.episodes(0)
        episode.dossier.participation()
        for view in episode.dossier.pages:
            hash(view.static)
        finding = isolated(Archivist(), episode.dossier)
        assert not holds(finding.extra["things"], episode.truth.x)
        assert holds(episode, episode.truth.x)


def test_a_run_s_own_rounds_make_episodes_too(federate, toy, parts):
    federation = federate(batch_size=None, defenses=(SUM,))
    seen = federation.run(2, taps=[Tap(), Tap(Adversary("observer"))], evaluate_every=0).observations
    server, observer = episodes(federation, seen)
    assert (server.dossier.adversary.position, observer.dossier.adversary.position) == ("server", "observer")
    np.testing.assert_array_equal(server.truth.x, toy.x)
    (only,) = episodes(federation, seen[:1], clients=[1])
    np.testing.assert_array_equal(only.truth.y, toy.y[parts.indices[1]])


@pytest.mark.slow
def test_a_sum_that_never_came_out_is_an_outcome(toy, logistic_model):
    gone = FixedAttrition(count=1, phase="input")
    exposure = Exposure(
        logistic_model,
        toy,
        trials=1,
        cohort=2,
        procedure=FEDSGD,
        defenses=(SecretSharing(min_clients=2),),
        attrition=gone,
    )
    (attempt,) = attempts(Fixed(), exposure)
    assert isinstance(attempt.result, Inapplicable)
    assert "the adversary saw nothing" in attempt.result.reason
    assert "2" in attempt.result.reason
    left = Exposure(logistic_model, toy, trials=1, cohort=2, procedure=FEDSGD, defenses=(SUM,), attrition=gone)
    assert len(left.observe(0)[0].truth.clients) == 1


def test_impossible_cohorts_are_refused_with_the_way_out(toy, logistic_model):
    with pytest.raises(ParameterError, match="cohort=5 exceeds the trial's clients=4; choose at most 4"):
        expose(logistic_model, toy, cohort=5)
    with pytest.raises(ParameterError, match=r"'batch_partition\(size=4,batch=2\)' draws 4 clients .* but cohort=2"):
        expose(logistic_model, toy, selection="batch_partition(size=4,batch=2)")
    with pytest.raises(ParameterError, match="rounds=0 a trial"):
        expose(logistic_model, toy, rounds=0)
    with pytest.raises(ValueError, match=r"images=6 is no multiple of batch=1 x clients=4; try 8"):
        Exposed(images=6, clients=4, cohort=2)
    with pytest.raises(ValueError, match="cohort=8 exceeds"):
        Exposed(images=8, clients=4, cohort=8)


def test_a_setting_says_rounds_in_its_threat_line_and_refuses_attacks_on_one():
    how = {"images": 8, "clients": 4, "cohort": 2, "rounds": 5}
    setting = Setting(attack="sum_difference", exposure=how)
    assert "It listens in 5 rounds of the same 4 clients, and sees who is in each sum." in setting.exposure.threat()
    assert setting.exposure.trials == 2
    blind = Setting(attack="sum_difference", exposure={**how, "adversary": "server(identified=false)"})
    assert "It listens in 5 rounds of the same 4 clients." in blind.exposure.threat()
    assert setting.exposure.procedure().server.learning_rate == 0.1
    with pytest.raises(ValueError, match=r"attack 'dlg' looks at one view, but exposure\.rounds=5"):
        Setting(attack="dlg", exposure=how)
    plain = Setting(attack="dlg", exposure={"images": 8})
    assert not {"rounds", "clients", "selection", "attrition", "server"} & plain.exposure.identity().keys()
