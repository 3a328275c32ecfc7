"""DP-FTRL: the noise of prefix sums has the closed forms' variance, stays at the server, and is never drawn twice."""

import gc
import itertools

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.correlated.banded import banded_coefficients, prefix_deviations
from fedpriv_defenses.correlated.dp_ftrl import DPFTRL
from fedpriv_defenses.correlated.tree import grown, tree_levels, tree_variance
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.account.correlated import banded_sensitivity, tree_sensitivity
from fedpriv.base.errors import CheckpointError, ParameterError, StackError
from fedpriv.base.lazy import dp_accounting, tf
from fedpriv.defense.domain import Real
from fedpriv.defense.stations import Context
from fedpriv.procedure.procedure import Optimizer, Sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

CYCLIC = Sampling(kind="strategy", strategy="cyclic(size=1)")
BOTH = [DPFTRL(clip=1.0, noise_multiplier=2.0, **more) for more in ({}, {"mechanism": "banded", "bands": 3})]
NAMES = ["tree", "banded"]


def noises(defense, plan, rounds, seed=3):
    """What each round adds to a sum of zeros, `[rounds, d]`."""
    state, found = tuple(tf.constant(a) for a in defense.initial_state(plan)), []
    for number in range(rounds):
        seeds = tf.constant([seed, number], tf.int64)
        context = Context(plan=plan, seed=seeds, state=state, round=tf.constant(number))
        out = defense.aggregate(tf.zeros([plan.spec.size]), context)
        state = out.state
        found.append(out.value.numpy().astype(np.float64))
    return np.stack(found)


@pytest.fixture
def planned(make_plan):
    def make(rounds=16, d=20_000, population=60, sampling=None, **more):
        from dataclasses import replace

        sampling = sampling or Sampling(kind="strategy", strategy="cyclic(size=4)")
        return replace(make_plan(d=d, population=population, sampling=sampling), rounds=rounds, **more)

    return make


@pytest.mark.parametrize("restart", [None, 6])
def test_prefix_sums_of_a_tree_have_the_closed_forms_variance(planned, restart):
    defense = DPFTRL(clip=0.5, noise_multiplier=4.0, restart_every=restart)
    sums = np.cumsum(noises(defense, planned(), 16), axis=0)
    for number, total in enumerate(sums, start=1):
        whole, rest = divmod(number, restart) if restart else (0, number)
        variance = whole * tree_variance(restart or 0) + tree_variance(rest)
        # The deviation of 20,000 values lies within 2.5% of theirs, but in one of a million draws.
        assert total.std() == pytest.approx(2.0 * np.sqrt(variance), rel=0.025)
    assert [tree_variance(n) for n in (1, 2, 3, 4)] == pytest.approx([1, 2 / 3, 5 / 3, 4 / 7])


def test_the_tree_is_tf_privacys(planned):
    from tensorflow_privacy.privacy.dp_query.tree_aggregation import EfficientTreeAggregator

    drawn = iter(np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32))
    kept = []

    def fresh():
        kept.append(next(drawn))
        return tf.constant(kept[-1])

    with_theirs = EfficientTreeAggregator(fresh)
    tf.config.run_functions_eagerly(True)
    try:
        state, theirs = with_theirs.init_state(), []
        for _ in range(13):
            value, state = with_theirs.get_cumsum_and_update(state)
            theirs.append(value.numpy())
    finally:
        tf.config.run_functions_eagerly(False)
    given, nodes = iter(kept), tf.zeros([tree_levels(13), 7])
    for number, value in enumerate(theirs):
        ours, nodes = grown(nodes, tf.constant(number), lambda _: tf.constant(next(given)))
        np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("error", ["mean", "max"])
def test_prefix_sums_of_a_banded_matrix_have_the_closed_forms_variance(planned, error):
    defense = DPFTRL(clip=0.5, noise_multiplier=4.0, mechanism="banded", bands=5, error=error)
    column = np.array(banded_coefficients(16, 5, error))
    c = np.array([[column[i - j] if 0 <= i - j < 5 else 0.0 for j in range(16)] for i in range(16)])
    expected = np.linalg.norm(np.tril(np.ones((16, 16))) @ np.linalg.inv(c), axis=1)
    np.testing.assert_allclose(prefix_deviations(column, 16), expected, rtol=1e-9)
    sums = np.cumsum(noises(defense, planned(), 16), axis=0)
    np.testing.assert_allclose(sums.std(axis=1), 2.0 * expected, rtol=0.025)
    # Against any other noise of one client's sensitivity: columns have norm 1.
    assert np.linalg.norm(c, axis=0).max() == pytest.approx(1)


def test_more_bands_leave_less_noise_and_none_leaves_what_independent_noise_does():
    errors = [np.mean(prefix_deviations(np.array(banded_coefficients(200, b)), 200) ** 2) for b in (1, 2, 8, 32, 200)]
    assert errors[0] == pytest.approx(201 / 2)
    assert all(more < less for less, more in itertools.pairwise(errors))
    # Fichtenberger, Henzinger, Upadhyay 2023: their explicit factorization, which no optimum is worse than.
    f = np.cumprod([1.0, *[(2 * j - 1) / (2 * j) for j in range(1, 200)]])
    explicit = np.mean(prefix_deviations(f / np.linalg.norm(f), 200) ** 2)
    assert errors[-1] <= explicit * (1 + 1e-9)
    assert errors[-1] > 0.8 * explicit
    largest = prefix_deviations(np.array(banded_coefficients(200, 32, "max")), 200)[-1]
    assert largest <= prefix_deviations(np.array(banded_coefficients(200, 32, "mean")), 200)[-1] * (1 + 1e-6)


def test_what_is_claimed_is_the_run_under_the_participation_there_is(planned):
    tree = DPFTRL(clip=0.5, noise_multiplier=7.0)
    zeroed, replaced = tree.claims(planned(rounds=60), Real(0.5))
    assert (zeroed.relation, replaced.relation, zeroed.amplified) == ("replace_special", "replace_one", False)
    for rounds in (1, 15, 16, 60):
        expected = 7.0 / tree_sensitivity(rounds, -(-rounds // 15), 15)
        assert zeroed.run(rounds) == dp_accounting.GaussianDpEvent(pytest.approx(expected))
        assert replaced.run(rounds).noise_multiplier == pytest.approx(expected / 2)
    banded = DPFTRL(clip=0.5, noise_multiplier=7.0, mechanism="banded", bands=15)
    column = np.array(banded_coefficients(60, 15))
    c = np.array([[column[i - j] if 0 <= i - j < 15 else 0.0 for j in range(60)] for i in range(60)])
    found = banded.claims(planned(rounds=60), Real(0.5))[0].run(60).noise_multiplier
    assert found <= 7.0 / banded_sensitivity(c, 4, 15)
    assert found == pytest.approx(7.0 / banded_sensitivity(c, 4, 15), rel=0.02)
    # Rounding that lengthens an update counts.
    assert tree.claims(planned(), Real(0.55))[0].run(1).noise_multiplier == pytest.approx(7.0 / 1.1)
    (added,) = tree.claims(planned(sampling=Sampling.poisson(0.5)), Real(0.5))
    assert added.relation == "add_or_remove_one"
    assert added.run(9).noise_multiplier == pytest.approx(7.0 / tree_sensitivity(9, 9, 1))


def test_the_well_known_notebooks_account(federate):
    """z = 7, 2,000 rounds, at most 6 participations 313 rounds apart: zCDP 0.81, epsilon 8.90 at 1e-10."""
    multiplier = 7.0 / tree_sensitivity(2000, 6, 314)
    assert 1 / (2 * multiplier**2) == pytest.approx(0.81, abs=0.005)


@pytest.mark.parametrize("defense", BOTH, ids=NAMES)
def test_it_trains_with_any_server_optimizer_under_a_secure_sum(federate, defense):
    federation = federate(
        defenses=(defense, SecretSharing()),
        weighting="uniform",
        sampling=CYCLIC,
        rounds=6,
        server=Optimizer(kind="adam", learning_rate=0.1),
    )
    history = federation.run(6)
    assert np.isfinite(history.weights).all()
    assert history.ledger.epsilon(1e-5).relation == "replace_special"
    assert history.records[0].metrics["dp_ftrl/signal_to_noise"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("defense", BOTH, ids=NAMES)
def test_the_server_moves_by_the_sum_and_the_noise(federate, defense):
    options = {"weighting": "uniform", "sampling": CYCLIC, "rounds": 5, "batch_size": None}
    noised = federate(defenses=(defense,), **options)
    first = noised.run(1).weights
    quiet = federate(defenses=(Clip(norm=1.0),), **options).run(1).weights
    noise = (first - quiet).astype(np.float64)
    assert np.linalg.norm(noise) == pytest.approx(noised.run(1).records[0].metrics["dp_ftrl/noise_norm"], rel=1e-3)


def reachable(root):
    """All arrays and tensors that an object leads to."""
    seen, todo, found = set(), [root], []
    while todo:
        one = todo.pop()
        plain = type(one).__module__ in ("builtins", "typing") and callable(one)
        if id(one) in seen or isinstance(one, type) or plain:
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            found.append(one)
        elif tf.is_tensor(one):
            found.append(np.asarray(one))
        elif len(seen) < 20_000 and type(one).__name__ not in ("module", "Registry", "function"):
            todo += gc.get_referents(one)
    return found


@pytest.mark.parametrize("defense", BOTH, ids=NAMES)
def test_the_noise_that_is_kept_never_leaves_the_server(federate, defense, monkeypatch):
    federation = federate(defenses=(defense,), weighting="uniform", sampling=CYCLIC, rounds=5)
    state, _ = federation.step(federation.start())
    kept = [a for a in tf.nest.flatten(state.defenses) if a.size and np.any(a)]
    assert kept
    tasks, cohort = [], federation._engine.cohort
    monkeypatch.setattr(federation._engine, "cohort", lambda task: (tasks.append(task), cohort(task))[1])
    taps = [Tap(Adversary("server")), Tap(Adversary("observer"))]
    _, record = federation.step(state, taps)
    assert [tuple(s) for s in tasks[0].states] == [()]
    assert record.observations
    rows = [r for a in kept for r in np.atleast_2d(a) if np.any(r)]
    for seen in record.observations:
        for states in seen.view.states:
            assert tf.nest.flatten(states) == []
        held = reachable(seen.view)
        assert any(np.array_equal(a, seen.view.observed) for a in held if a.shape == seen.view.observed.shape)
        for array in held:
            for row in np.atleast_2d(array):
                assert not any(row.shape == r.shape and np.array_equal(row, r) for r in rows)


@pytest.mark.slow
@pytest.mark.parametrize("defense", [pytest.param(BOTH[0], marks=pytest.mark.slow), BOTH[1]], ids=NAMES)
def test_a_resumed_run_gives_the_same_bits_and_draws_nothing_twice(federate, defense, tmp_path):
    options = {"defenses": (defense,), "weighting": "uniform", "sampling": CYCLIC, "rounds": 6}
    whole, drawn = federate(**options), []
    state = whole.start()
    for _ in range(6):
        state, _ = whole.step(state)
        drawn.append(np.concatenate([a.ravel() for a in tf.nest.flatten(state.defenses)]))
    path = tmp_path / "run.ckpt"
    federate(**options).run(3, checkpoint=path)
    history = federate(**options).run(6, checkpoint=path)
    np.testing.assert_array_equal(history.weights, state.weights)
    d = whole.plan.spec.size
    fresh = [np.unique(np.setdiff1d(b, a)) for a, b in itertools.pairwise(drawn)]
    assert all(len(f) >= d for f in fresh)
    if defense.mechanism == "banded":
        with pytest.raises(CheckpointError, match="rounds"):  # another matrix
            federate(**{**options, "rounds": 9}).run(9, checkpoint=path)


def test_mistakes_are_named(federate, planned):
    with pytest.raises(ValueError, match="bands are for mechanism=banded"):
        DPFTRL(clip=1.0, bands=3)
    with pytest.raises(ValueError, match="restart_every is for mechanism=tree"):
        DPFTRL(clip=1.0, mechanism="banded", restart_every=3)
    banded = DPFTRL(clip=1.0, noise_multiplier=1.0, mechanism="banded", bands=16)
    with pytest.raises(ParameterError, match=r"bands=16 exceeds the 15 rounds.*cyclic\(size=...\)"):
        banded.check(planned())
    with pytest.raises(ParameterError, match="none is planned"):
        banded.check(planned(rounds=None))
    with pytest.raises(ParameterError, match="noise_multiplier"):
        DPFTRL(clip=1.0).check(planned())
    with pytest.raises(StackError, match="uniform"):
        DPFTRL(clip=1.0, noise_multiplier=1.0).check(planned(weighting="examples"))
    tree = federate(defenses=(DPFTRL(clip=1.0, noise_multiplier=1.0),), weighting="uniform", rounds=5)
    with pytest.raises(ParameterError, match=r"dp_ftrl has room for 7 rounds, and 8 are asked for"):
        tree.run(8)
    unlimited = DPFTRL(clip=1.0, noise_multiplier=1.0).notes(planned(sampling=Sampling.full()))
    assert any("nothing limits how often" in note for note in unlimited)
