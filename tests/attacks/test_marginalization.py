"""Functional marginalization: exact where it knows how its neighbours began, wrong or refused where it does not."""

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.data import fashion_small
from fedpriv.models import load
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.stage import stage
from fedpriv.rounds.trial import Inapplicable
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.goal import goal_of


@pytest.fixture(scope="module")
def model():
    return load("mlp(hidden=[64])", input_shape=fashion_small()[0].input_shape, num_classes=10)


@pytest.fixture(scope="module")
def attacked(model):
    """`attacked(topology, adversary, rounds, ...)`: the attack's only result, on six peers of one image each."""

    def run(topology, adversary, rounds=1, defenses=(), **parameters):
        exposure = Exposure(
            model=model,
            data=fashion_small()[1].take(np.arange(6)),
            trials=1,
            cohort=6,
            rounds=rounds,
            topology=topology,
            adversary=Adversary.parse(adversary),
            defenses=tuple(map(registry.defenses.create, defenses)),
            procedure=make_procedure(batch_size=None, client={"learning_rate": 0.1}),
            seed=1,
        )
        attack = registry.attacks.create("functional_marginalization", **{"inner": "first_layer", **parameters})
        (found,) = attempts(attack, exposure, seed=2)
        return found

    return run


def psnrs(found):
    return [row["psnr"] for row in found.result.score.rows()]


@pytest.mark.slow
def test_in_the_first_round_a_neighbour_reconstructs_as_a_server_would(attacked):
    found = attacked("gossip(graph=ring)", "neighbour(0)")
    assert found.truth.clients == (1, 5)  # those who send to it, and nobody else
    assert min(psnrs(found)) > 60
    assert found.result.finding.measures == {"determined": 1, "exact_coordinates": 1, "known": 1}


@pytest.mark.slow
def test_later_it_depends_on_what_else_it_was_sent(attacked):
    whole = attacked("gossip(graph=ring)", "neighbour(0,2,4,since=1)", 3)
    assert min(psnrs(whole)) > 40  # of everybody's neighbours, it is all
    assert whole.result.finding.measures["determined"] == 1
    assert {r["round"] for r in whole.result.finding.extra["recovered"]} == {2}
    part = attacked("gossip(graph=ring)", "neighbour(0,since=1)", 3)
    known = {"determined": 0, "exact_coordinates": 0, "known": pytest.approx(2 / 3)}
    assert part.result.finding.measures == known
    assert max(psnrs(part)) < min(psnrs(whole)) - 10
    blind = attacked("gossip(graph=ring)", "neighbour(0,since=1)", 3, estimate=False)
    assert isinstance(blind.result, Inapplicable)
    assert "Where its neighbours began is not known" in blind.result.reason


@pytest.mark.slow
def test_random_pairs_masks_and_noise_stop_it(attacked):
    pairs = attacked("gossip(graph=complete,protocol=gosgd(probability=1))", "neighbour(0,1,2,since=1)", 4)
    assert isinstance(pairs.result, Inapplicable)
    masked = attacked("gossip(graph=ring,masks=true)", "neighbour(0,since=1)", 3)
    assert isinstance(masked.result, Inapplicable)
    noisy = attacked("gossip(graph=ring)", "neighbour(0)", defenses=["local_dp(clip=1,noise_multiplier=0.1)"])
    assert max(psnrs(noisy)) < 20


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "least", "most"), [(30, 0.8, 1.0), (1, 0.0, 0.7)])
def test_membership_from_received_models(model, epochs, least, most):
    """What peers trained on for long shows in the models they send; after a short step it does not."""
    exposure = Exposure(
        model=model,
        data=fashion_small()[1].take(np.arange(300)),
        trials=2,
        cohort=4,
        batch=8,
        topology="gossip(graph=ring)",
        adversary=Adversary.parse("neighbour(0)"),
        procedure=make_procedure(
            batch_size=8, local_epochs=epochs, client={"learning_rate": 0.1 if epochs > 1 else 1e-3}
        ),
        seed=1,
    )
    attack = registry.attacks.create("loss_threshold")
    goal = goal_of(attack, "membership")
    staged = stage(exposure, goal, seed=0, auxiliary=64)
    scores = [a.applied().score for a in attempts(attack, staged, goal)]
    assert len(scores) == 4  # two neighbours in each of two trials
    assert least < goal.summarize(scores)["auc"] < most


def test_what_makes_no_attacked_rounds_is_said(model, toy):
    def exposure(topology, **options):
        return Exposure(model=model, data=toy, trials=1, topology=topology, **options)

    with pytest.raises(ParameterError, match="14 peers make no torus"):
        exposure("gossip(graph=torus)", cohort=14)
    with pytest.raises(ParameterError, match="all of a trial's clients take part in every round"):
        exposure("gossip(graph=ring)", cohort=3, clients=6)


def test_a_compressed_message_determines_no_update(attacked):
    found = attacked("gossip(graph=ring,protocol=choco(compression=top_k(fraction=0.5)))", "neighbour(0)")
    measures = found.result.finding.measures
    assert (measures["determined"], measures["known"]) == (0, 1)
    assert 0.1 < measures["exact_coordinates"] <= 0.5  # those of the half that were not 0
    assert not any(r["exact"] for r in found.result.finding.extra["recovered"])


@pytest.mark.slow
def test_one_round_of_several_is_told_from_a_beginning_that_nobody_knows(attacked):
    lone, both = (
        attacked("gossip(graph=ring)", f"neighbour(0,since={since})", rounds=3, estimate=False).result.reason
        for since in (2, 1)
    )
    assert "these views are of one round: give all rounds' as a dossier" in lone
    assert "of one round" not in both
