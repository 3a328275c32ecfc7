"""Attacks that know the noise: the likelihood's closed forms, averaging as predicted, and failure where it is due."""

import numpy as np
import pytest
from fedpriv_attacks.answers.likelihood_ratio import LikelihoodRatio
from fedpriv_attacks.answers.loss_threshold import LossThreshold
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.maximum_posterior import MaximumPosterior
from fedpriv_attacks.parts.edge_density import EdgeDensity
from fedpriv_attacks.parts.informed import Informed
from fedpriv_attacks.parts.known_noise import KnownNoise, known_noise
from fedpriv_attacks.rounds.round_average import RoundAverage
from fedpriv_defenses.additive_noise import AdditiveNoise
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.compression.low_precision import LowPrecision
from fedpriv_defenses.compression.sign_sgd import SignSGD
from fedpriv_defenses.dp_sgd.dp_sgd import DPSGD
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from fedpriv_defenses.sparse import TopK

from fedpriv.account.bounds import GaussianTradeOff
from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.data.embedded import fashion_small
from fedpriv.models.zoo import lenet, mlp
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.stage import stage
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.goal import goal_of
from fedpriv.threat.replays import NOISE

#: Quick: an inversion whose error is that of the noise alone.
INNER = "dlg(restarts=1,objective=known_noise,labels=known,optimizer.max_evaluations=250)"
EQUAL = Procedure.fedsgd(weighting="uniform")
STANDS = Procedure.fedsgd(learning_rate=1e-9, weighting="uniform")


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(8,), activation="sigmoid")


def local(z):
    return (LocalDP(clip=1, noise_multiplier=z),)


def seen(model, data, *defenses, **options):
    return next(iter(Exposure(model, data, 1, 1, defenses=defenses, **options))).view


@pytest.mark.slow
def test_the_noise_in_a_view_follows_from_what_the_defenses_declare(model, data):
    z = LocalDP(clip=0.5, noise_multiplier=0.2)
    assert known_noise(seen(model, data, z)) == pytest.approx(0.1)
    both = seen(model, data, z, AdditiveNoise(stddev=0.3))
    assert known_noise(both) == pytest.approx(np.hypot(0.1, 0.3))
    assert known_noise(seen(model, data)) == 0
    sums = [z, SecretSharing(aggregators=3, range=8.0)]
    assert known_noise(seen(model, data, *sums, cohort=4)) == pytest.approx(0.1 / 2)


@pytest.mark.slow
def test_noise_on_the_sum_is_in_what_is_released_and_not_in_messages(model, data):
    central = CentralDP(clip=1, noise_multiplier=0.2)
    assert known_noise(seen(model, data, central, procedure=EQUAL)) == 0
    observer = seen(model, data, central, cohort=4, adversary=Adversary("observer"), procedure=EQUAL)
    assert known_noise(observer) == pytest.approx(0.2 / 4)


@pytest.mark.parametrize(
    "later",
    [
        Clip(norm=0.01),
        LocalDP(clip=1, noise_multiplier=0.1),
        TopK(fraction=0.1),
        SignSGD(),
        LowPrecision(format="int8"),
    ],
)
def test_noise_that_a_later_defense_changes_is_not_known(later, model, data):
    """So `informed` goes by what that one leaves open, and rounding that is fine beside the noise changes nothing."""
    view = seen(model, data, AdditiveNoise(stddev=0.001), later)
    with pytest.raises(CapabilityError, match=f"'{later.name}' changes an update after 'additive_noise'"):
        known_noise(view)
    objective, _ = Informed().prepared(view)
    assert type(objective) is not KnownNoise
    assert known_noise(seen(model, data, later, AdditiveNoise(stddev=0.001))) == pytest.approx(
        np.hypot(0.001, 0.1 if isinstance(later, LocalDP) else 0)
    )
    assert known_noise(seen(model, data, AdditiveNoise(stddev=0.001), LowPrecision())) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("client", "known"),
    [
        ({"learning_rate": 0.1}, 0.1 * 0.05 * np.sqrt(2)),
        ({"learning_rate": 0.1, "kind": "momentum"}, None),
        ({"learning_rate": 0.1, "weight_decay": 0.5}, None),
    ],
)
def test_noise_in_steps_adds_up_under_plain_sgd_alone(client, known, model, data):
    procedure = make_procedure(local_epochs=2, batch_size=None, weighting="uniform", client=client)
    view = seen(model, data, DPSGD(clip=0.05, noise_multiplier=1), procedure=procedure)
    if known is None:
        with pytest.raises(CapabilityError, match=f"client.kind={client.get('kind', 'sgd')} .* is no sum"):
            known_noise(view)
    else:
        assert known_noise(view) == pytest.approx(known)


def test_the_objective_is_a_normal_log_likelihood(model, data):
    """Its difference between two updates is that of the densities' logarithms."""
    view = seen(model, data, *local(0.2))
    observed = np.asarray(view.observed, np.float64)
    norm = np.linalg.norm(observed)
    objective = KnownNoise()
    factor = objective.factor(view, norm)
    others = [np.zeros_like(observed), observed + 0.1]
    values = [
        factor * float(objective(tf.constant(o / norm), tf.constant(observed / norm), model.spec)) for o in others
    ]
    nats = [-float(np.sum((o - observed) ** 2) / (2 * 0.2**2)) for o in others]
    assert values[1] - values[0] == pytest.approx(nats[0] - nats[1], rel=1e-5)
    assert values[1] == pytest.approx(model.spec.size * 0.1**2 / (2 * 0.2**2), rel=1e-5)


def test_edges_have_a_density():
    """Twice as large differences cost twice as many nats; constants none."""
    flat = tf.ones([1, 4, 4, 1]) * 0.5
    step = tf.concat([tf.zeros([1, 4, 2, 1]), tf.ones([1, 4, 2, 1])], 2)
    prior = EdgeDensity(spread=0.1)
    scene = type("Nothing", (), {"unit": staticmethod(lambda x: x)})
    free = float(prior(flat, scene))
    whole, half = float(prior(step, scene)) - free, float(prior(step / 2, scene)) - free
    assert whole == pytest.approx(4 / 2 / 0.1, rel=0.02)
    assert whole / half == pytest.approx(2, rel=0.03)


def test_knowing_the_noise_beats_matching_without(model, data):
    exposure = Exposure(model, data, 1, 1, defenses=local(0.01), seed=1)
    errors = {}
    short = "lbfgs(memory=50,max_evaluations=250)"
    for attack in (MaximumPosterior(optimizer=short), DLG(restarts=1, optimizer=short)):
        results = [run_trial(attack, o, i) for i, o in enumerate(exposure)]
        errors[attack.name] = np.mean([image.mse for r in results for image in r.score.images])
        known = NOISE + "local_dp" in results[0].finding.replayed
        assert known == (attack.name == "maximum_posterior")
    assert errors["maximum_posterior"] < 0.9 * errors["dlg"]


@pytest.mark.slow
def test_on_the_network_of_dlg_knowing_the_noise_is_worth_several_decibels(data):
    exposure = Exposure(lenet((28, 28, 1), 10, init="uniform"), data, 2, 1, defenses=local(0.001), seed=1)
    errors = [
        np.mean([run_trial(attack, o, i).score.images[0].psnr for i, o in enumerate(exposure)])
        for attack in (MaximumPosterior(), DLG(restarts=1))
    ]
    assert errors[0] > errors[1] + 4


@pytest.mark.slow
def test_large_noise_leaves_it_nothing(model, data):
    attack = MaximumPosterior(optimizer="lbfgs(max_evaluations=50)")
    result = run_trial(attack, next(iter(Exposure(model, data, 1, 1, defenses=local(1.0)))), 0)
    assert result.score.images[0].psnr < 12


@pytest.mark.slow
def test_without_noise_there_is_no_likelihood(model, data):
    with pytest.raises(CapabilityError, match="add none"):
        MaximumPosterior().run(seen(model, data))
    with pytest.raises(CapabilityError, match="add none"):
        MaximumPosterior().run(seen(model, data, CentralDP(clip=1, noise_multiplier=1.0), procedure=EQUAL))
    blind = Adversary().without("defense")
    with pytest.raises(CapabilityError, match="add none"):
        MaximumPosterior().run(seen(model, data, *local(0.1), adversary=blind))


def rounds(model, data, z, count, procedure=STANDS, trials=1):
    exposure = Exposure(
        model,
        data,
        trials,
        1,
        rounds=count,
        defenses=local(z),
        procedure=procedure,
        adversary=Adversary().knowing("labels"),
    )
    episodes = [exposure.episodes(trial)[0] for trial in range(trials)]
    results = [run_trial(RoundAverage(inner=INNER), e, i) for i, e in enumerate(episodes)]
    assert all(r.finding.measures["rounds"] == count for r in results)
    return np.mean([image.mse for r in results for image in r.score.images])


@pytest.mark.slow
def test_noise_averages_out_as_predicted(model, data):
    """Squared error falls with the number of rounds, as if the noise had fallen with its root."""
    one, four, weaker = rounds(model, data, 1e-3, 1), rounds(model, data, 1e-3, 4), rounds(model, data, 5e-4, 1)
    assert one / four == pytest.approx(4, rel=0.3)
    assert weaker == pytest.approx(four, rel=0.3)


@pytest.mark.slow
def test_noise_averages_out_while_the_model_moves(model, data):
    moving = Procedure.fedsgd(learning_rate=0.1, weighting="uniform")
    # Nine rounds would bring a factor of nine if all showed as much as the first; one image's own factor varies.
    assert rounds(model, data, 1e-3, 9, moving) < rounds(model, data, 1e-3, 1) / 3


@pytest.mark.slow
def test_one_round_gains_nothing(model, data):
    exposure = Exposure(model, data, 1, 1, defenses=local(1e-2), procedure=STANDS)
    inner = DLG(restarts=1, objective=KnownNoise(), optimizer="lbfgs(max_evaluations=20)")
    alone = inner.run(exposure.observe(0)[0].view)
    joint = RoundAverage(inner=inner).run(exposure.episodes(0)[0].dossier, 0)
    assert joint.extra["statuses"] == alone.extra["statuses"]
    assert joint.evaluations == alone.evaluations


@pytest.mark.slow
def test_whose_updates_they_are_must_be_known(model, data):
    exposure = Exposure(
        model, data, 1, 1, 2, rounds=2, defenses=local(0.01), procedure=STANDS, adversary=Adversary("observer")
    )
    dossier = exposure.episodes(0)[0].dossier
    with pytest.raises(CapabilityError, match="same clients"):
        RoundAverage(inner="dlg").run(dossier)
    found = RoundAverage(inner="dlg(restarts=1,optimizer.max_evaluations=5)", same_cohort=True).run(dossier)
    assert found.x.shape == (2, 28, 28, 1)
    with pytest.raises(ValueError, match="by optimization"):
        RoundAverage(inner="first_layer")


def asked(attack, exposure, auxiliary=150):
    goal = goal_of(attack, "membership")
    results = [run_trial(attack, o, i, goal) for i, o in enumerate(stage(exposure, goal, auxiliary=auxiliary))]
    return goal.summarize([r.score for r in results]), results


@pytest.mark.slow
def test_a_candidates_own_gradient_tells_more_than_its_loss(model, data):
    exposure = Exposure(model, data, 3, 8, defenses=local(0.03))
    row, results = asked(LikelihoodRatio(), exposure)
    assert row["auc"] > 0.95
    assert row["auc"] > asked(LossThreshold(), exposure)[0]["auc"] + 0.1
    assert set(results[0].finding.replayed) == {"local_dp", NOISE + "local_dp"}
    assert row["tpr"] < GaussianTradeOff(2 / 0.03).tpr(0.01)


@pytest.mark.slow
def test_noise_hides_a_member_and_the_bound_holds(model, data):
    """At multiplier 2 the bound on the advantage is 2 Phi(1/2) - 1; what is measured stays under it."""
    row, results = asked(LikelihoodRatio(swaps=1), Exposure(model, data, 6, 8, defenses=local(2.0)))
    low, high = row["auc_interval"]
    assert low < 0.5 < high
    assert row["advantage_interval"][0] < GaussianTradeOff(1.0).advantage
    assert np.median([r.finding.measures["separation"] for r in results]) < 1.0


@pytest.mark.slow
def test_membership_in_sums_and_in_several_steps(model, data):
    steps = Procedure(local_epochs=3, client={"learning_rate": 0.1}, weighting="uniform")
    shared = (*local(0.01), SecretSharing(aggregators=3, range=8.0))
    row, _ = asked(LikelihoodRatio(), Exposure(model, data, 2, 4, 2, procedure=steps, defenses=shared))
    assert row["auc"] > 0.8


def test_it_is_not_asked_about_a_whole_training(model, data):
    goal = goal_of(LikelihoodRatio(), "membership(of=model,candidates=5)")
    train = fashion_small()[0]
    observation = next(iter(stage(Exposure(model, data, 1, 4), goal, members=train)))
    with pytest.raises(CapabilityError, match="whole training"):
        LikelihoodRatio().run(observation.view)


@pytest.mark.slow
def test_the_likelihood_is_squared_under_normal_and_absolute_under_laplace_noise(model, data):
    for distribution in ("gaussian", "laplace"):
        view = seen(model, data, AdditiveNoise(stddev=0.2, distribution=distribution), procedure=EQUAL)
        norm = float(np.linalg.norm(view.observed))
        objective, same = KnownNoise().prepared(view)
        assert same is view
        rng = np.random.default_rng(0)
        a, b = (rng.normal(size=view.update_size).astype(np.float32) for _ in range(2))
        value = float(objective(tf.constant(a / norm), tf.constant(b / norm), view.model.spec))
        wanted = np.sum((a - b) ** 2) / (2 * 0.2**2)
        if distribution == "laplace":
            wanted = np.sum(np.abs(a - b)) * np.sqrt(2) / 0.2
        assert objective.factor(view, norm) * value == pytest.approx(wanted, rel=1e-4)
    both = seen(model, data, AdditiveNoise(stddev=0.2, distribution="laplace"), *local(0.1), procedure=EQUAL)
    assert KnownNoise().prepared(both)[0] == KnownNoise()


@pytest.mark.slow
def test_under_laplace_noise_its_own_likelihood_reads_more(data):
    model = lenet((28, 28, 1), 10, init="uniform")
    stack, errors = (AdditiveNoise(stddev=3e-3, distribution="laplace"),), {}
    known = Adversary().knowing("labels")
    for name in ("squared_error", "known_noise"):
        attack = DLG(restarts=1, objective=name, labels="known", **{"optimizer.max_evaluations": 200})
        exposed = Exposure(model, data, 3, 1, defenses=stack, procedure=EQUAL, adversary=known)
        errors[name] = np.mean([run_trial(attack, one, 0).score.images[0].mse for one in exposed])
    assert errors["known_noise"] < errors["squared_error"]
