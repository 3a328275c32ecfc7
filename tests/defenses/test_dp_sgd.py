"""DP-SGD: noise and batches against closed forms, the account against dp-accounting and published numbers."""

from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from fedpriv_defenses.dp_sgd.account import kinds_of, worst
from fedpriv_defenses.dp_sgd.dp_sgd import DPSGD
from fedpriv_defenses.dp_sgd.mixture import renyi_divergence
from scipy import stats

from fedpriv.base.errors import LedgerError, ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.defense.walker import Walker
from fedpriv.federation.client import drawn_epochs
from fedpriv.procedure.procedure import Sampling, make_procedure
from fedpriv.testing import check_defense

ONE = Partition("one", (np.arange(30),))


def central(federate, defense, **options):
    """A federation of one client with all 30 examples."""
    fields = {"partition": ONE, "weighting": "uniform", "batch_size": 6, "batch_selection": "poisson", "rounds": 2}
    return federate(defenses=(defense,), **{**fields, **options})


def moved(federation, rounds=1):
    """The update of the first rounds."""
    state = first = federation.start()
    for _ in range(rounds):
        state, _ = federation.step(state, evaluate=False)
    return np.float64(state.weights) - first.weights


def rdp_epsilon(event, relation, delta=1e-5):
    accountant = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation[relation.upper()]
    )
    return accountant.compose(event).get_epsilon(delta)


def test_one_step_is_the_clipped_sum_and_noise_over_the_public_batch(federate, toy, by_hand):
    """Full batches: what the noise is, is what is left when the clipped mean is taken away."""
    options = {"batch_size": 30, "batch_selection": "shuffled", "client": {"learning_rate": 1.0}}
    noised = central(federate, DPSGD(clip=0.5, noise_multiplier=2.0), **options)
    start = np.float64(noised.start().weights)
    rows = np.array([by_hand.gradient(start, toy.x[i : i + 1], toy.y[i : i + 1]) for i in range(30)])
    clipped = rows * np.minimum(1, 0.5 / np.linalg.norm(rows, axis=1, keepdims=True))
    quiet = moved(central(federate, DPSGD(clip=0.5, noise_multiplier=0.0), **options))
    np.testing.assert_allclose(quiet, -clipped.sum(0) / 30, atol=1e-7)
    noise = moved(noised) - quiet
    assert stats.kstest(noise / (2.0 * 0.5 / 30), "norm").pvalue > 0.01
    assert noised.line.links[0].noise(noised.plan).scale == pytest.approx(2.0 * 0.5 / 30)


def batches(procedure, n, steps, secret=(1, 2)):
    x, y = tf.reshape(tf.range(n, dtype=tf.float32), [n, 1]), tf.range(n)
    epochs = drawn_epochs(x, y, tf.range(n), procedure, np.int32([3, 4]), np.int64(secret), "float32")

    @tf.function(autograph=False)
    def draw(step):
        return epochs(tf.constant(0))(step)

    return [tuple(np.asarray(a) for a in draw(tf.constant(i))) for i in range(steps)]


def test_poisson_batches_have_binomial_sizes_and_every_example_the_same_rate():
    drawn = batches(make_procedure(batch_size=5, batch_selection="poisson"), 40, 400)
    sizes = np.array([int(mask.sum()) for _, _, mask in drawn])
    counts = np.bincount(sizes, minlength=41)
    edges = [range(0, 3), *([k] for k in range(3, 8)), range(8, 41)]
    expected = [400 * stats.binom.pmf(list(edge), 40, 5 / 40).sum() for edge in edges]
    assert stats.chisquare([counts[list(edge)].sum() for edge in edges], expected).pvalue > 0.01
    chosen = np.concatenate([y[mask > 0] for _, y, mask in drawn])
    assert stats.chisquare(np.bincount(chosen, minlength=40)).pvalue > 0.01
    assert all(len(set(y.tolist())) == len(y) for _, y, mask in drawn if mask.any())
    empty = [(x, mask) for x, _, mask in batches(make_procedure(batch_size=1, batch_selection="poisson"), 3, 30)]
    assert {len(mask) for _, mask in empty if not mask.any()} == {1}


def test_batches_of_a_fixed_size_are_drawn_without_replacement_at_every_step():
    drawn = batches(make_procedure(batch_size=5, batch_selection="fixed"), 12, 200)
    assert all(len(set(y.tolist())) == 5 for _, y in drawn)
    assert stats.chisquare(np.bincount(np.concatenate([y for _, y in drawn]), minlength=12)).pvalue > 0.01
    assert (
        batches(make_procedure(batch_size=5, batch_selection="fixed"), 12, 1, (1, 3))[0][1].tolist()
        != drawn[0][1].tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["poisson", "fixed"])
def test_drawn_batches_divide_by_their_public_size(federate, toy, by_hand, selection):
    """Without a defense too: the mean of many first steps is the gradient of all examples."""
    options = {"batch_size": 3, "batch_selection": selection, "max_local_steps": 1, "client": {"learning_rate": 1e-3}}
    federation = federate(partition=ONE, **options)
    state, updates = federation.start(), []
    for number in range(300):  # the same weights in every round
        after, _ = federation.step(replace(state, round=number), evaluate=False)
        updates.append(np.float64(after.weights) - state.weights)
    gradient = by_hand.gradient(np.float64(state.weights), toy.x, toy.y)
    mean, error = np.mean(updates, 0) / -1e-3, np.std(updates, 0) / 1e-3 / 300**0.5
    assert np.abs((mean - gradient) / (error + 1e-4)).max() < 4.5


@pytest.mark.slow
def test_runs_resume_to_the_same_bits(federate, tmp_path):
    defense = DPSGD(clip=0.5, noise_multiplier=1.0)
    saved, federation = tmp_path / "run", central(federate, defense)
    once = federation.run(1, checkpoint=saved).weights
    resumed = central(federate, defense).run(2, checkpoint=saved)
    whole = federation.run(2)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    steps = once - federation.start().weights, whole.weights - once
    assert np.abs(steps[0] - steps[1]).max() > 0.01  # another round, other noise


@pytest.mark.slow
def test_the_tff_engine_trains_to_the_same_weights(federate):
    defense = DPSGD(clip=0.5, noise_multiplier=1.0)
    for selection in ("poisson", "fixed", "shuffled"):
        runs = [
            federate(defenses=(defense,), engine=engine, batch_size=1, batch_selection=selection, weighting="uniform")
            for engine in ("graph", "tff")
        ]
        graph, tff = (run.run(2).weights for run in runs)
        np.testing.assert_allclose(graph, tff, atol=1e-6)
        runs[1].close()


@pytest.mark.slow
def test_it_keeps_the_contract_of_defenses():
    check_defense(DPSGD(clip=0.5, noise_multiplier=0.1))


def test_views_replay_the_clip(federate, toy):
    from fedpriv.federation.replay import Replayed, replay_cohort, stand_ins

    quiet = DPSGD(clip=0.1, noise_multiplier=0.0)
    federation = central(federate, quiet, batch_size=10, batch_selection="shuffled", max_local_steps=1)
    line = federation.line
    known = tuple(d for d, _ in stand_ins([DPSGD(clip=0.1, noise_multiplier=1.0)], [()]))
    assert known == (quiet,)
    assert Walker(known, federation.plan).example_clip == line.example_clip
    who = Replayed(
        model=federation.model, plan=federation.plan, procedure=federation.procedure, num_examples=(30,), defenses=known
    )
    x, y, flat = tf.constant(toy.x), tf.constant(toy.y), tf.constant(federation.start().weights)
    found = replay_cohort(who, flat, 0.1, x, y, [()])
    rows = []
    for i in range(10):
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss = federation.model.example_losses(federation.model.spec.unflatten(flat), x[i : i + 1], y[i : i + 1])
        rows.append(np.asarray(tape.gradient(loss, flat)))
    rows = np.array(rows)
    clipped = rows * np.minimum(1, 0.1 / np.linalg.norm(rows, axis=1, keepdims=True))
    np.testing.assert_allclose(found, -0.1 * clipped.sum(0) / 10, atol=1e-7)


@pytest.mark.slow
def test_the_account_is_dp_accountings_of_the_composed_steps(federate):
    steps = {"poisson": 5, "fixed": 5, "shuffled": 1}
    gaussian, sampled = dp_accounting.GaussianDpEvent, dp_accounting.PoissonSampledDpEvent
    one = {
        "poisson": sampled(0.2, gaussian(4.0)),
        "fixed": dp_accounting.SampledWithoutReplacementDpEvent(30, 6, gaussian(2.0)),
        "shuffled": gaussian(2.0),
    }
    for selection, event in one.items():
        federation = central(federate, DPSGD(clip=0.5, noise_multiplier=4.0), batch_selection=selection)
        relation = "add_or_remove_one" if selection == "poisson" else "replace_one"
        ledger = federation.ledger()
        ledger.spend(3)
        found = ledger.epsilon(1e-5, against="server")
        expected = rdp_epsilon(dp_accounting.SelfComposedDpEvent(event, 3 * steps[selection]), relation)
        if selection == "fixed":  # or no amplification, where its theorem is loose
            plain = dp_accounting.SelfComposedDpEvent(gaussian(2.0), 15)
            expected = min(expected, rdp_epsilon(plain, relation))
        assert found.value == pytest.approx(expected, rel=1e-9)
        assert (found.unit, found.relation) == ("example", relation)
        assert ledger.epsilon(1e-5).value == found.value


def test_tf_privacys_published_table():
    """Its epsilons (tutorials/README of TF Privacy, delta 1e-5) were converted from RDP as Mironov 2017 does."""
    published = {(1.3, 15): 1.19, (1.1, 60): 3.01, (0.7, 45): 7.10}
    for (multiplier, epochs), value in published.items():
        procedure = make_procedure(
            batch_size=256, batch_selection="poisson", local_epochs=epochs, max_local_steps=epochs * 60000 // 256
        )
        event = next(iter(DPSGD(clip=1, noise_multiplier=multiplier).claims(plan_of(procedure, (60000,)), None))).event
        accountant = dp_accounting.rdp.RdpAccountant([1 + x / 10 for x in range(1, 100)] + list(range(12, 64)))
        orders = np.array(accountant.orders)
        rdp = np.array(accountant.compose(event).rdp)
        assert np.min(rdp + np.log(1e5) / (orders - 1)) == pytest.approx(value, rel=0.01)


def plan_of(procedure, sizes, **more):
    from fedpriv.defense.plan import Plan
    from fedpriv.models.spec import Spec

    return Plan(
        spec=Spec(("w",), ((3,),)),
        population=len(sizes),
        cohort=len(sizes),
        expected_cohort=float(len(sizes)),
        sampling=more.pop("sampling", Sampling.full()),
        weighting="uniform",
        max_examples=max(sizes),
        sizes=tuple(sorted(set(sizes))),
        procedure=procedure,
        **more,
    )


@pytest.mark.slow
def test_the_client_with_the_weakest_guarantee_counts(federate):
    procedure = make_procedure(batch_size=50, batch_selection="poisson")
    sizes = (100, 500, 1000)
    epsilons = {}
    for n in sizes:
        (claim,) = DPSGD(clip=1, noise_multiplier=1.0).claims(plan_of(procedure, (n,)), None)
        epsilons[n] = rdp_epsilon(claim.event, claim.relation)
    claims = DPSGD(clip=1, noise_multiplier=1.0).claims(plan_of(procedure, sizes), None)
    from fedpriv.account.ledger import Ledger

    def epsilon(accountant):
        ledger = Ledger(plan_of(procedure, sizes), claims, accountant)
        ledger.spend()
        return ledger.epsilon(1e-5).value

    assert epsilon("rdp") == pytest.approx(max(epsilons.values()), rel=1e-9)
    assert [k.examples for k in kinds_of(procedure, (100, 110, 60))] == [60, 110]


@pytest.mark.slow
def test_events_of_other_batches_are_told_apart():
    """Clients of two sizes, whose weakest is known by its Renyi divergence alone."""
    from fedpriv.account.composition import Composition

    def epsilon(selection, **more):
        options = {"batch_size": 10, "local_epochs": 3, "max_local_steps": 200, **more}
        kinds = kinds_of(make_procedure(batch_selection=selection, **options), (500, 1500))
        events[selection] = worst(kinds, 4.0)[1]
        return Composition([(events[selection], 10)], "replace_one", "rdp").epsilon(1e-5)

    events = {}
    assert epsilon("fixed") == pytest.approx(3.888, abs=1e-3)
    assert epsilon("shuffled") == pytest.approx(15.85, abs=1e-2)
    assert events["fixed"] != events["shuffled"]
    assert dict(events["shuffled"].parameters)["epochs_1"] == 2


def test_rounds_count_as_often_as_the_selection_lets_a_client_take_part():
    """And cohort sampling, which the server sees, amplifies nothing."""
    procedure = make_procedure(batch_size=10, batch_selection="poisson")
    sizes = (100,) * 8
    sampled = plan_of(procedure, sizes, sampling=Sampling.fixed(2))
    (claim,) = DPSGD(clip=1, noise_multiplier=1.0).claims(sampled, None)
    assert not claim.amplified
    assert claim.run is None


def test_cohorts_given_by_hand_void_what_the_selection_limits():
    """Every round then counts."""
    from fedpriv.account.ledger import Ledger

    procedure, sizes = make_procedure(batch_size=10, batch_selection="poisson"), (100,) * 40
    defense = DPSGD(clip=1, noise_multiplier=2.0)
    found = {}
    for name, sampling, broken in (
        ("drawn", Sampling(kind="strategy", strategy="cyclic(size=4)"), ()),
        ("given", Sampling(kind="strategy", strategy="cyclic(size=4)"), {"cohorts are drawn"}),
        ("full", Sampling.full(), ()),
    ):
        plan = plan_of(procedure, sizes, sampling=sampling)
        ledger = Ledger(plan, defense.claims(plan, None))
        ledger.spend(9)
        ledger.spend(1, broken=broken)
        found[name] = ledger.epsilon(1e-5, against="server")
    assert found["given"].value == found["full"].value > 1.5 * found["drawn"].value
    assert any("by the selection" in a for a in found["drawn"].assumes)
    assert not any("by the selection" in a for a in found["given"].assumes)


def test_a_users_records_are_bounded_counted_and_accounted(federate, toy):
    users = np.array([f"u{i // 6}" for i in range(30)])
    data = Dataset("toy", toy.x, toy.y, toy.num_classes, keys=users)
    federation = central(federate, DPSGD(clip=0.5, noise_multiplier=6.0, per_user=3), train=data)
    kept = federation.partition.indices[0]
    assert np.bincount(kept // 6).tolist() == [3] * 5
    assert "15 of 30 examples left out" in federation.partition.name
    ledger = federation.ledger()
    ledger.spend(2)
    found = ledger.epsilon(1e-5, against="server")
    assert (found.unit, found.relation) == ("user", "add_or_remove_one")
    # Steps of 6 of 15 examples: more than for one record, less than for three that always come together.
    one = dp_accounting.PoissonSampledDpEvent(6 / 15, dp_accounting.GaussianDpEvent(6.0))
    three = dp_accounting.PoissonSampledDpEvent(6 / 15, dp_accounting.GaussianDpEvent(2.0))
    low, high = (rdp_epsilon(dp_accounting.SelfComposedDpEvent(e, 6), "add_or_remove_one") for e in (one, three))
    assert low < found.value < high
    with pytest.raises(Exception, match="does not say whose its examples are"):
        central(federate, DPSGD(clip=0.5, noise_multiplier=6.0, per_user=3))
    halves = Partition("halves", (np.arange(15), np.arange(15, 30)))
    with pytest.raises(Exception, match="several clients"):
        central(federate, DPSGD(clip=0.5, noise_multiplier=6.0, per_user=3), train=data, partition=halves)


@pytest.mark.parametrize("selection", ["poisson", "fixed", "shuffled"])
def test_a_user_is_accounted_with_all_the_records_that_may_be_kept(selection):
    """However few users have in this data."""
    procedure = make_procedure(batch_size=100, batch_selection=selection)
    defense = DPSGD(clip=1, noise_multiplier=1.0, per_user=5)
    few, many = (defense.claims(plan_of(procedure, (10_000,), records_per_user=n), None) for n in (1, 5))
    assert [claim.event for claim in few] == [claim.event for claim in many]
    assert all("a user of at most 5 examples" in claim.assumes[0] for claim in few)


def test_the_mixtures_divergence_is_the_sampled_gaussians_for_one_record_and_a_whole_users_without_sampling():
    from dp_accounting.rdp import rdp_privacy_accountant

    for order in (1.5, 2.0, 5.0, 20.0):
        expected = rdp_privacy_accountant._compute_rdp_poisson_subsampled_gaussian(0.05, 1.2, [order])[0]
        assert renyi_divergence(order, 1.2, 1, 0.05) == pytest.approx(expected, rel=1e-4)
        assert renyi_divergence(order, 1.2, 3, 1.0) == pytest.approx(order * 9 / 2 / 1.44)
        assert renyi_divergence(order, 1.2, 3, 0.999999) == pytest.approx(order * 9 / 2 / 1.44, rel=1e-3)


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        ({}, {"weighting": "examples"}, "use weighting='uniform'"),
        ({"noise_multiplier": None}, {}, "budget"),
        ({}, {"batch_size": 31}, "use batch_size=30 or less"),
        ({}, {"batch_size": 31, "batch_selection": "shuffled"}, "use batch_size=30 or less"),
        ({"microbatch": 2}, {}, "use batch_selection=fixed"),
        ({"microbatch": 7}, {"batch_selection": "fixed"}, "larger than a batch of 6"),
    ],
)
def test_what_could_give_no_guarantee_is_refused(federate, parameters, options, message):
    with pytest.raises((ParameterError, StackError), match=message):
        central(federate, DPSGD(**{"clip": 0.5, "noise_multiplier": 1.0, **parameters}), **options)


def test_batch_statistics_and_orders_that_clip_too_late_are_refused(federate):
    from fedpriv.models.keras_model import from_keras

    def build():
        kl = tf.keras.layers
        return tf.keras.Sequential([tf.keras.Input((4, 4, 1)), kl.BatchNormalization(), kl.Flatten(), kl.Dense(3)])

    defense = DPSGD(clip=0.5, noise_multiplier=1.0)
    mixing = from_keras(build, "bn", batch_norm="train")
    with pytest.raises(StackError, match="group normalization"):
        central(federate, defense, model=mixing, batch_selection="fixed")
    with pytest.raises(StackError, match="may draw a batch of no examples"):
        federate(model=mixing, batch_size=1, batch_selection="poisson")
    with pytest.raises(StackError, match=r"each clip examples' gradients"):
        federate(defenses=(defense, defense), weighting="uniform", batch_size=1)
    with pytest.raises(ParameterError, match="needs a batch_size"):
        make_procedure(batch_size=None, batch_selection="poisson")


def test_clipping_alone_and_what_comes_before_the_clip_earn_no_epsilon(federate):
    from fedpriv.defense.stations import Defense

    class Mixes(Defense):
        def batch(self, x, y, context):
            return (x + x[::-1]) / 2, y

    ledger = central(federate, DPSGD(clip=0.5, noise_multiplier=0.0)).ledger()
    with pytest.raises(LedgerError):
        ledger.epsilon(1e-5, rounds=1)
    mixed = federate(
        defenses=(Mixes(), DPSGD(clip=0.5, noise_multiplier=1.0)), partition=ONE, weighting="uniform", batch_size=6
    )
    with pytest.raises(LedgerError, match="may put several of them into one"):
        mixed.ledger().epsilon(1e-5, rounds=1)


def test_examples_that_are_not_finite_are_said_and_add_nothing(federate, toy):
    x = toy.x.copy()
    x[3] = 1e30
    data = Dataset("toy", x, toy.y, toy.num_classes, kind=None)
    options = {"batch_size": 30, "batch_selection": "shuffled", "train": data, "test": None}
    federation = central(federate, DPSGD(clip=0.5, noise_multiplier=0.0), **options)
    _, record = federation.step(federation.start())
    assert record.metrics["dp_sgd/nonfinite"] == pytest.approx(1 / 30)
    assert any("not finite" in warning for warning in record.warnings)
