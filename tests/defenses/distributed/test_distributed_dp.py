"""Distributed differential privacy as a whole: sensitivity, noise, claims, and rounds under every secure sum."""

import math

import dp_accounting
import numpy as np
import pytest
from fedpriv_defenses.distributed.discrete_noise import DiscreteNoise
from fedpriv_defenses.distributed.distributed_dp import DistributedDP
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedpriv import make_defense
from fedpriv.base.errors import FedprivError, LedgerError, ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.defense.attrition import FixedAttrition, PartiesAttrition
from fedpriv.defense.line import Line
from fedpriv.defense.plan import Plan
from fedpriv.procedure.procedure import Sampling, Simulated

MECHANISMS = ["discrete_gaussian", "skellam"]
SECRET_SHARING = "secret_sharing(min_clients={})"


def line(plan, text="distributed_dp(clip=1, noise_multiplier=1)", protocol=SECRET_SHARING):
    return Line([make_defense(text), make_defense(protocol.format(plan.cohort))], plan)


def codec(plan, text="distributed_dp(clip=1, noise_multiplier=1)", protocol=SECRET_SHARING):
    return next(link for link in line(plan, text, protocol).links if isinstance(link, DiscreteNoise))


def plan_of(clients=10, size=30, **options):
    plan = Plan.everybody(clients, size)
    return Plan(**{**vars(plan), **options})


def contribution(update):
    return tf.constant(np.append(update, 1.0), tf.float32)


def summed(made, plan, updates, seed=0):
    """The decoded sum of the updates, in the ring."""
    run = tf.function(lambda x, s: made.quantize(x, plan, s)[0], autograph=False)
    total = np.zeros(plan.spec.size + 1, np.uint64)
    for i, update in enumerate(updates):
        total += run(contribution(update), tf.constant([seed, i], tf.int64)).numpy().view(np.uint64)
    total &= np.uint64((1 << made.bits) - 1)
    return made.decode(tf.constant(total.view(np.int64)), tf.constant(len(updates)), plan).numpy()[:-1]


# Sensitivity


SIZE = 24


@pytest.fixture(scope="module")
def worst():
    plan = plan_of(size=SIZE)
    made = [codec(plan, f"distributed_dp(clip=0.7, noise_multiplier=1, bits={b})") for b in (8, 16)]
    compiled = [
        tf.function(lambda x, s, one=one: one.rounded(x, plan, s)[0], autograph=False).get_concrete_function(
            tf.TensorSpec([SIZE + 1], tf.float32), tf.TensorSpec([2], tf.int64)
        )
        for one in made
    ]
    return [(one.sizes(plan), run) for one, run in zip(made, compiled, strict=True)]


values = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1e-45, 3e38, -3e38, 0.7])


@settings(max_examples=100)
@given(st.lists(values, min_size=SIZE, max_size=SIZE), st.integers(0, 2**40))
def test_no_update_moves_the_integer_sum_by_more_than_the_stated_bound(worst, update, seed):
    for at, run in worst:
        found = run(contribution(update), tf.constant([seed, 1], tf.int64)).numpy()
        assert np.isfinite(found).all()
        assert (found == np.round(found)).all()
        assert (found**2).sum() <= at.bound**2 * (1 + 1e-12)
        assert np.abs(found).sum() <= at.bound * min(at.bound, math.sqrt(SIZE)) * (1 + 1e-12)


def test_the_claims_are_for_that_bound():
    plan = plan_of()
    made = codec(plan)
    at = made.sizes(plan)
    by_relation = {c.relation: dict(c.event.parameters) for c in line(plan).claims()}
    assert by_relation["replace_special"]["l2"] == pytest.approx(at.bound, rel=1e-6)
    assert by_relation["replace_one"]["l2"] == pytest.approx(2 * at.bound, rel=1e-6)
    assert by_relation["replace_one"]["shares"] == 10
    assert by_relation["replace_one"]["variance"] >= (at.scale**2) / 10


def test_what_is_not_finite_counts_as_zeros_and_is_told():
    plan = plan_of()
    made = codec(plan)
    bad = np.ones(30)
    bad[3] = np.nan
    whole, _, finite, _ = made.rounded(contribution(bad), plan, tf.constant([1, 2], tf.int64))
    assert not whole.numpy().any()
    assert not bool(finite)
    assert not bool(made.quantize(contribution(bad), plan, tf.constant([1, 2], tf.int64))[1])


# Noise and the sum


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("bits", [12, 24])
def test_the_sum_is_that_of_the_updates_with_normal_noise(mechanism, bits):
    clients, size = 20, 3000
    plan = plan_of(clients, size)
    made = codec(plan, f"distributed_dp(clip=2, noise_multiplier=1.5, bits={bits}, mechanism={mechanism})")
    rng = np.random.default_rng(1)
    updates = rng.normal(size=(clients, size))
    updates *= rng.uniform(0.5, 2, (clients, 1)) / np.linalg.norm(updates, axis=1, keepdims=True)
    noise = summed(made, plan, updates) - updates.sum(0)
    extra = clients / 4 / made.sizes(plan).scale ** 2  # of rounding, at most
    wanted = 3.0**2
    assert wanted * 0.9 < noise.var() < (wanted + extra) * 1.1
    assert stats.kstest(noise / math.sqrt(wanted + extra / 2), "norm").pvalue > 1e-3


@pytest.mark.slow
def test_16_bits_suffice_at_a_setting_of_the_papers():
    """Distributed mean estimation: n = 100 vectors of norm c in 250 dimensions; the error over the Gaussian's is 1."""
    clients, size, z = 100, 250, 2.0
    plan = plan_of(clients, size)
    rng = np.random.default_rng(2)
    direction = rng.normal(size=size)
    updates = np.tile(10 * direction / np.linalg.norm(direction), (clients, 1))  # all alike: where sums are largest
    errors = {}
    for sigmas, seeds in ((1, 1), (4, 5)):
        text = f"distributed_dp(clip=10, noise_multiplier={z}, sigmas={sigmas}, mechanism=discrete_gaussian)"
        made = codec(plan, text)
        runs = [summed(made, plan, updates, seed) - updates.sum(0) for seed in range(seeds)]
        errors[sigmas] = np.square(runs).mean() / (10 * z) ** 2
    assert abs(errors[4] - 1) < 3 * math.sqrt(2 / (5 * size))
    assert errors[1] > 2  # a modulus so narrow that sums wrap


def test_clients_noise_is_sized_for_the_fewest_that_finish_less_those_who_collude():
    plan = plan_of(20)
    few = codec(plan, "distributed_dp(clip=1, noise_multiplier=1, colluding=2)", "secagg(min_clients=12)")
    assert few.least_clients == 12
    share = math.sqrt(few.sizes(plan).variance) / few.sizes(plan).scale
    assert share == pytest.approx(1 / math.sqrt(10), rel=1e-3)
    assert few.noise(plan).scale == pytest.approx(share)
    assert any("noise is sized for 10 of 20" in note for note in few.notes(plan))


def test_a_simulated_cohort_has_its_noise_and_its_account():
    small = plan_of(20, 2000, simulates=Simulated(cohort=2000, population=2000))
    large = plan_of(2000, 2000)
    simulating, simulated = codec(small), codec(large)
    a, b = simulating.sizes(small), simulated.sizes(large)
    assert a.variance == b.variance
    assert a.scale == pytest.approx(b.scale * 10)  # the root of 2000 / 20
    assert [c.event for c in line(small).claims()] == [c.event for c in line(large).claims()]
    noise = summed(simulating, small, np.zeros((20, 2000))) / 20
    assert noise.std() == pytest.approx(1 / 2000, rel=0.06)


def test_scale_is_that_of_the_papers_rule():
    from tensorflow_federated.python.aggregators.distributed_dp import _heuristic_scale_factor

    for clients, size, bits, z in ((100, 250, 16, 1.0), (50, 40000, 14, 0.5)):
        plan = plan_of(clients, size)
        made = codec(plan, f"distributed_dp(clip=3, noise_multiplier={z}, bits={bits}, sigmas=4)")
        theirs = _heuristic_scale_factor(3 * z / math.sqrt(clients), 3.0, bits, clients, size, 4.0)
        assert made.sizes(plan).scale == pytest.approx(float(theirs), rel=1e-6)
        assert made.sizes(plan).sigmas == pytest.approx(4, rel=1e-6)


def test_bits_are_as_few_as_rounding_allows():
    plan = plan_of(100, 10000)
    chosen = codec(plan, "distributed_dp(clip=1, noise_multiplier=1, bits=none)")
    assert 8 < chosen.bits < 20
    assert chosen.sizes(plan).stretched <= 1.01
    fewer = codec(plan, f"distributed_dp(clip=1, noise_multiplier=1, bits={chosen.bits - 1})").sizes(plan)
    assert fewer.stretched > 1.01 or 1 / (4 * fewer.variance) > 0.01


@pytest.mark.parametrize("protocol", ["secret_sharing(threshold=2,aggregators=3)", "light_secagg", "paillier"])
def test_no_signed_integer_leaves_the_modulus_where_that_would_show(protocol):
    plan = plan_of(10, 40)
    made = codec(plan, protocol=protocol)
    at = made.sizes(plan)
    from fedpriv_defenses.distributed.sampler import reach, table

    most = at.bound + table(made.mechanism, at.variance).largest
    assert (10 if protocol == "paillier" else 1) * most < 2 ** (at.bits - 1)
    assert most <= at.bound + reach(made.mechanism, at.variance)


# Claims


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_epsilon_tends_to_that_of_central_noise(mechanism):
    plan = plan_of(100, 5000)
    found = []
    for bits in (13, 16, 24):
        text = f"distributed_dp(clip=1, noise_multiplier=3, bits={bits}, mechanism={mechanism})"
        claim = next(c for c in line(plan, text).claims() if c.relation == "replace_special")
        orders = dp_accounting.rdp.RdpAccountant().orders
        rdp = [claim.event.curve(a) for a in orders]
        found.append(dp_accounting.rdp.compute_epsilon(orders, rdp, 1e-6)[0])
    central = dp_accounting.rdp.RdpAccountant().compose(dp_accounting.GaussianDpEvent(3.0)).get_epsilon(1e-6)
    assert found == sorted(found, reverse=True)
    assert central <= found[-1] < central * 1.005
    assert found[1] < central * 1.01


def federation(federate, text, protocol="secagg(min_clients=5)", **options):
    options = {"weighting": "uniform", "batch_size": None, **options}
    return federate(defenses=(make_defense(text), make_defense(protocol)), **options)


PLAIN = "distributed_dp(clip=1, noise_multiplier=2)"


@pytest.mark.slow
def test_the_ledger_has_an_epsilon_against_the_server_and_says_how_many_clients_it_counts_on(federate):
    history = federation(federate, PLAIN).run(2)
    for against in ("server", "released"):
        found = history.ledger.epsilon(1e-5, against)
        assert found.relation == "replace_special"
        assert any("no sum of fewer than 5 clients" in a for a in found.assumes)
        assert any("2^-100" in a or "2^-9" in a or "2^-8" in a for a in found.assumes)
    assert history.records[-1].epsilon == pytest.approx(found.value)
    assert "outer_quarter" in " ".join(history.records[0].metrics)


@pytest.mark.slow
def test_a_client_that_drops_out_costs_no_privacy(federate):
    text = "distributed_dp(clip=1, noise_multiplier=2)"
    whole = federation(federate, text, "secagg(min_clients=4)").run(1)
    less = federation(federate, text, "secagg(min_clients=4)", attrition=FixedAttrition(count=1)).run(1)
    assert less.records[0].survivors == 4
    assert whole.ledger.epsilon(1e-5).value == less.ledger.epsilon(1e-5).value < math.inf
    gone = federation(federate, text, "secagg(min_clients=4)", attrition=FixedAttrition(count=2)).run(1)
    assert gone.records[0].aborted
    assert np.array_equal(gone.weights, federation(federate, text).start().weights)
    assert gone.ledger.epsilon(1e-5).value == whole.ledger.epsilon(1e-5).value


@pytest.mark.slow
def test_cohorts_of_a_fixed_size_amplify_against_those_who_see_models_alone(federate):
    sampled = federation(federate, PLAIN, "secagg(min_clients=2)", sampling=Sampling.fixed(2))
    history = sampled.run(1)
    released, server = (history.ledger.epsilon(0.01, against) for against in ("released", "server"))
    assert released.value <= server.value
    amplified = [c for c in sampled.line.claims() if c.against == "released"]
    assert len(amplified) == 1
    plain = next(c for c in sampled.line.claims() if c.relation == "replace_one" and c.against == "server")
    assert amplified[0].event.curve(2.0) < plain.event.curve(2.0)
    named = federation(
        federate,
        PLAIN,
        "secagg(min_clients=1)",
        sampling=Sampling.fixed(2),
        attrition=PartiesAttrition(gone="client 0"),
    )
    records = named.run(4).records
    assert any("drop-outs are alike" in r.broken() for r in records)
    assert not any("drop-outs are alike" in r.broken() for r in sampled.run(4).records)


def test_poisson_cohorts_have_a_claim_without_amplification(federate):
    made = federation(federate, PLAIN, "secagg(min_clients=2)", sampling=Sampling.poisson(0.8))
    assert not made.line.refusals()
    assert {c.against for c in made.line.claims()} == {"server"}


@pytest.mark.slow
def test_no_epsilon_where_clients_are_left_out_or_the_round_is_called_off_over_their_data(federate):
    dropping = federation(federate, PLAIN, on_nonfinite="drop")
    with pytest.raises(LedgerError, match="leaves clients out"):
        dropping.ledger().epsilon(1e-5)
    aborting = federation(
        federate, PLAIN, "secagg(min_clients=5)", on_nonfinite="abort", attrition=FixedAttrition(count=1)
    )
    history = aborting.run(1)
    assert history.records[0].aborted
    with pytest.raises(LedgerError, match="rounds are finished"):
        history.ledger.epsilon(1e-5)


# Lines that cannot be


@pytest.mark.parametrize(
    ("defenses", "options", "message"),
    [
        ([PLAIN], {}, "put a secure sum behind it"),
        ([PLAIN, "secagg"], {"weighting": "examples"}, "weighting='uniform'"),
        (["distributed_dp(clip=1, noise_multiplier=none)", "secagg"], {}, "give noise_multiplier, or a budget"),
        ([PLAIN, "secagg(bits=24)"], {}, "leave bits out"),
        ([PLAIN, "secagg(range=2)"], {}, "leave range out"),
        ([PLAIN, "ckks(fraction=0.5)"], {}, "hides the whole contribution"),
        (["distributed_dp(clip=1, noise_multiplier=1, bits=40)", "ckks"], {}, "cannot sum integers of 40 bits"),
        (["distributed_dp(clip=1, noise_multiplier=1, colluding=5)", "secagg(min_clients=5)"], {}, "colluding=5"),
        (["distributed_dp(clip=1, noise_multiplier=1, scale=1e6)", "secagg"], {}, "use scale <="),
        (["distributed_dp(clip=1, noise_multiplier=1, scale=0.01)", "secagg"], {}, "more bits"),
        (
            ["distributed_dp(clip=1, noise_multiplier=1, scale=4000)", "light_secagg(min_clients=4)"],
            {},
            "sums of signed integers",
        ),
        ([PLAIN, "clip(norm=1)", "secagg"], {}, "order that works"),
    ],
)
def test_what_does_not_fit_is_named_with_a_way_out(federate, defenses, options, message):
    with pytest.raises((StackError, ParameterError), match=message):
        federate(defenses=tuple(map(make_defense, defenses)), **{"weighting": "uniform", **options})


def test_too_few_bits_for_cohort_and_noise():
    with pytest.raises(ParameterError, match="more bits"):
        line(plan_of(100, 200_000), "distributed_dp(clip=1, noise_multiplier=1, bits=10)")
    with pytest.raises(ParameterError, match="use bits >="):
        line(plan_of(5000, 10), "distributed_dp(clip=1, noise_multiplier=1, bits=8)")


@pytest.mark.parametrize(
    "given", ["clip=0", "clip=-1", "noise_multiplier=0", "noise_multiplier=-2", "bits=7", "scale=0", "beta=1"]
)
def test_parameters_that_are_not_positive_are_refused(given):
    merged = {"clip": "1", "noise_multiplier": "1"} | dict([given.split("=")])
    with pytest.raises(FedprivError, match=given.split("=", maxsplit=1)[0]):
        make_defense(f"distributed_dp({', '.join(f'{k}={v}' for k, v in merged.items())})")


def test_a_budget_sets_the_noise():
    open_ = make_defense("distributed_dp(clip=1, noise_multiplier=none)")
    assert isinstance(open_, DistributedDP)
    assert open_.with_(noise_multiplier=2.0).parts()[1].noise_multiplier == 2.0


def test_secure_sums_without_it_keep_their_encoding(federate):
    made = federate(defenses=(make_defense("secagg(range=2)"),), weighting="uniform")
    assert [link.name for link in made.line.links] == ["fixed_point", "pairwise_masking"]


# Engines


@pytest.mark.slow
def test_the_same_models_on_both_engines_and_under_protocols_that_wrap(federate):
    kept = []
    for engine, protocol in (("graph", "secagg"), ("graph", "secret_sharing"), ("tff", "secagg")):
        made = federation(federate, PLAIN, f"{protocol}(min_clients=5)", engine=engine)
        try:
            kept.append(made.run(2).weights)
        finally:
            made.close()
    assert np.array_equal(kept[0], kept[1])
    np.testing.assert_allclose(kept[0], kept[2], atol=2e-3)  # a rounding that goes the other way moves one integer
