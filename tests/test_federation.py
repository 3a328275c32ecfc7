from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import AbortError, CapabilityError, DataError, ModelError, ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.data.partition import Partition
from fedpriv.defense.attrition import PartiesAttrition
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense
from fedpriv.engine.graph import GraphEngine
from fedpriv.procedure.procedure import Optimizer, Procedure, Sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap


@pytest.mark.slow
def test_budgets_and_accounts_of_another_kind_are_named(federate, toy):
    central = {"defenses": (CentralDP(clip=0.1),), "weighting": "uniform", "rounds": 2}
    for budget in (2, (2, 1e-5)):
        with pytest.raises(ParameterError, match=r"budget=.* is none; write it as 'epsilon=2, delta=1e-6'"):
            federate(**central, budget=budget)
    made = federate(**central, budget="epsilon=9, delta=1e-3", seed=None)
    assert repr(made) == (
        f"Federation(model='{made.model.name}', train='{toy.name}', partition='{made.partition.name}', "
        f"clients={len(made.partition)}, defenses=[central_dp], rounds=2, budget='epsilon=9, delta=0.001')"
    )
    history = made.run(1)
    for earlier in (5, "x", history, ("x",)):
        with pytest.raises(ParameterError, match="holds no phases of an account"):
            federate(**central, budget="epsilon=20, delta=1e-3", earlier=earlier)
    again = federate(**central, budget="epsilon=20, delta=1e-3", earlier=history.ledger)
    assert again.earlier == history.ledger.phases()
    assert again.run(1).ledger.epsilon(1e-3).rounds == 2


def test_fedsgd_with_all_clients_is_a_centralized_gradient_step(federate, toy, by_hand):
    """With weights by example count, whatever the partition."""
    federation = federate(procedure=Procedure.fedsgd(0.5))
    w0 = federation.start().weights
    history = federation.run(2)
    w1 = w0 - 0.5 * by_hand.gradient(w0, toy.x, toy.y)
    w2 = w1 - 0.5 * by_hand.gradient(w1, toy.x, toy.y)
    np.testing.assert_allclose(history.weights, w2, atol=1e-6)


def test_uniform_weighting_averages_the_clients_gradients(federate, toy, parts, by_hand):
    federation = federate(procedure=Procedure.fedsgd(0.5, weighting="uniform"))
    w0 = federation.start().weights
    mean = np.mean([by_hand.gradient(w0, toy.x[i], toy.y[i]) for i in parts.indices], 0)
    np.testing.assert_allclose(federation.run(1).weights, w0 - 0.5 * mean, atol=1e-6)
    assert np.abs(mean - by_hand.gradient(w0, toy.x, toy.y)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi", "adagrad"])
def test_server_optimizers_step_along_the_mean_update(federate, toy, by_hand, kind):
    """Two rounds of FedSGD with all clients, so that the server's pseudo-gradient is the full gradient."""
    rate, tau, schedule = 0.1, 0.05, {"kind": "exponential", "decay": 0.5}
    federation = federate(
        batch_size=None,
        client={"learning_rate": 1.0},
        server={"kind": kind, "learning_rate": rate, "epsilon": tau, "schedule": schedule},
    )
    w = federation.start().weights.astype(np.float64)
    a, v = 0.0, 0.0 if kind == "adam" else tau**2
    for t in (1, 2):
        g, r = by_hand.gradient(w, toy.x, toy.y), rate * 0.5 ** (t - 1)
        if kind == "momentum":
            a = 0.9 * a + g
            w = w - r * a
        elif kind == "adagrad":
            v = v + g**2
            w = w - r * g / (np.sqrt(v) + tau)
        else:
            a = 0.9 * a + 0.1 * g
            v = v + 0.01 * ((g**2 - v) if kind == "adam" else np.sign(g**2 - v) * g**2)
            w = w - r * np.sqrt(1 - 0.99**t) / (1 - 0.9**t) * a / (np.sqrt(v) + tau)
    np.testing.assert_allclose(federation.run(2).weights, w, atol=2e-5)


def test_the_clients_schedule_reaches_the_clients(federate):
    federation = federate(client={"learning_rate": 0.1, "schedule": {"kind": "cosine", "over": 2}})
    state, moves = federation.start(), []
    for _ in range(3):
        after, _ = federation.step(state, evaluate=False)
        moves.append(np.linalg.norm(after.weights - state.weights))
        state = after
    assert moves[0] > moves[1] > 0 == moves[2]


@pytest.mark.slow
def test_same_seed_same_bits_and_taps_change_none(federate, monkeypatch):
    calls = []
    cohort = GraphEngine.cohort

    def noting(self, task):
        calls.append(task.wanted)
        return cohort(self, task)

    monkeypatch.setattr(GraphEngine, "cohort", noting)

    def run(seed, taps=()):
        noise = LocalDP(clip=1.0, noise_multiplier=0.1)
        return federate(seed=seed, defenses=(noise,), batch_size=4, sampling=Sampling.fixed(3)).run(2, taps=taps)

    first, tapped = run(3), run(3, [Tap(rounds={1}), Tap(Adversary("observer"))])
    assert first.weights.tobytes() == tapped.weights.tobytes()
    assert first.observations == []
    assert len(tapped.observations) == 1 + 3 + 1
    assert [bool(wanted) for wanted in calls] == [False, False, False, True]
    assert first.weights.tobytes() != run(4).weights.tobytes()


def test_an_empty_poisson_cohort_leaves_the_model_and_the_server_alone(federate):
    momentum = {"kind": "momentum"}
    federation = federate(seed=1, sampling=Sampling.poisson(1e-9), server=momentum)
    start = federation.start()
    state, record = federation.step(start, [Tap()], evaluate=False)
    assert (record.cohort, record.survivors, record.observations) == (0, 0, [])
    assert record.loss is None  # no value is no value
    assert state.weights.tobytes() == start.weights.tobytes()
    assert state.round == 1


def test_central_dp_noises_even_an_empty_cohort(federate):
    """Otherwise the model would tell that nobody came."""
    federation = federate(
        defenses=(CentralDP(clip=1.0, noise_multiplier=2.0),), weighting="uniform", sampling=Sampling.poisson(1e-9)
    )
    start = federation.start()
    state, _ = federation.step(start, evaluate=False)
    assert np.all(state.weights != start.weights)


class Shift(Defense):
    """Adds to the weights sent, to each update and to the sum; notes the order."""

    name: ClassVar[str] = "shift"
    order: ClassVar[list] = []
    by: float = 0.0
    factor: float = 1.0

    def initial_state(self, plan):
        return (np.zeros(2, np.float32), 1.0)

    def tallies(self, plan):
        return {"n": 100.0}

    def broadcast(self, weights, context):
        self.order.append(("broadcast", self.by))
        return weights * self.factor + self.by

    def update(self, update, context):
        n = tf.cast(context.num_examples, tf.float32)
        seen = {"seen": context.state[0][0], "n": n}
        return Passed(update * self.factor + self.by, log=seen, tally={"n": n})

    def aggregate(self, total, context):
        self.order.append(("aggregate", self.by))
        state = context.state
        mean = context.tally["n"] / tf.cast(tf.maximum(context.count, 1), tf.float32)
        after = (state[0] + mean, state[1] / 3)
        return Passed(total * self.factor + self.by, log={"count": context.count}, state=after)


def test_stations_run_in_list_order_out_and_at_the_client_and_in_reverse_at_the_aggregate(federate, parts):
    """Ending at the client and at the server, both affine maps applied in each order give different numbers."""
    federation = federate(defenses=(Shift(by=1.0), Shift(by=0.0, factor=3.0)), weighting="uniform", batch_size=None)
    plain = federate(weighting="uniform", batch_size=None)
    start, bare = federation.start(), plain.start()
    Shift.order.clear()
    state, record = federation.step(start, [Tap()], evaluate=False)
    assert Shift.order == [("broadcast", 1.0), ("broadcast", 0.0), ("aggregate", 0.0), ("aggregate", 1.0)]
    sent = (start.weights + 1) * 3
    bare.weights = sent
    _, plain_record = plain.step(bare, [Tap()], evaluate=False)
    for defended, undefended in zip(record.observations, plain_record.observations, strict=True):
        np.testing.assert_array_equal(defended.view.weights, sent)
        np.testing.assert_allclose(defended.view.observed, (undefended.view.observed + 1) * 3, atol=1e-5)
    total = sum(o.view.observed.astype(np.float64) for o in record.observations)
    np.testing.assert_allclose(state.weights - start.weights, (total * 3 + 1) / 5, rtol=1e-5, atol=1e-5)


def test_states_are_broadcast_and_follow_the_metrics_of_their_own_defense(federate, parts):
    federation = federate(defenses=(Shift(), Shift()), batch_size=None)
    state, first = federation.step(federation.start(), evaluate=False)
    state, second = federation.step(state, evaluate=False)
    mean = parts.sizes.mean()
    assert first.metrics["shift/count"] == first.metrics["shift#2/count"] == 5
    assert (first.metrics["shift/seen"], second.metrics["shift#2/seen"]) == (0, pytest.approx(mean))
    for counts, rate in state.defenses:
        np.testing.assert_allclose(counts, [2 * mean, 2 * mean], rtol=1e-6)
        assert (counts.dtype, rate.dtype, float(rate)) == (np.float32, np.float32, pytest.approx(1 / 9))


class Counter(Defense):
    """Counts the rounds it is asked in."""

    def initial_state(self, plan):
        return (np.int32(0),)

    def aggregate(self, total, context):
        return Passed(total, state=(context.state[0] + 1,))


def test_a_round_without_survivors_moves_states_like_any_other(federate):
    """Otherwise a state would tell that nobody came."""
    federation = federate(defenses=(Counter(),), sampling=Sampling.poisson(1e-9))
    state, _ = federation.step(federation.start(), evaluate=False)
    assert [int(s[0]) for s in state.defenses] == [1]


class Rows(Defense):
    """Wants examples' own gradients."""

    per_example: ClassVar[bool] = True

    def gradient(self, gradient, context):
        return gradient


class Mean(Defense):
    """Wants the batch's."""

    def gradient(self, gradient, context):
        return gradient


def test_impossible_orders_are_refused_beforehand(federate):
    federate(defenses=(Rows(), Mean()))
    with pytest.raises(StackError, match=r"Mean \(position 1\).*Rows \(position 2\).*put Rows first"):
        federate(defenses=(Mean(), Rows()))
    with pytest.raises(StackError, match="not a Defense"):
        federate(defenses=("clip",))


def test_per_example_gradients_need_examples_that_do_not_mix(federate, toy):
    from fedpriv.models.keras_model import from_keras

    def build():
        layers = tf.keras.layers
        return tf.keras.Sequential(
            [tf.keras.Input((4, 4, 1)), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)]
        )

    mixing = from_keras(build, "bn", batch_norm="train")
    assert mixing.couples_examples
    assert not from_keras(build, "bn", batch_norm="eval").couples_examples
    with pytest.raises(StackError, match="batch statistics"):
        federate(model=mixing, defenses=(Rows(),))
    federate(model=mixing, defenses=(Mean(),))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_nonfinite": "dorp"}, ParameterError, "on_nonfinite='dorp'.*Did you mean 'drop'"),
        ({"on_abort": "go"}, ParameterError, "on_abort='go' is unknown.*Known: continue, stop"),
        ({"accountant": "pdl"}, ParameterError, "accountant='pdl'.*Did you mean 'pld'"),
        ({"sampling": Sampling.fixed(6)}, ParameterError, "cohort size 6 exceeds the population of 5"),
        ({"partition": Partition("p", ())}, DataError, "no clients"),
        ({"partition": Partition("p", (np.arange(3), np.arange(0)))}, DataError, "client 1 has no examples"),
        ({"partition": Partition("p", (np.array([3, 30]),))}, DataError, "example 30"),
    ],
)
def test_a_federation_is_checked_when_it_is_made(federate, options, error, message):
    with pytest.raises(error, match=message):
        federate(**options)


def test_models_must_fit_the_data(federate):
    from fedpriv.models.zoo import logistic

    with pytest.raises(ModelError, match=r"\(5, 5, 1\).*'toy' has \(4, 4, 1\)"):
        federate(model=logistic((5, 5, 1), 3))
    with pytest.raises(ModelError, match="2 classes, but 'toy' has label 2"):
        federate(model=logistic((4, 4, 1), 2))
    with pytest.raises(ModelError, match=r"weights of shape \(3,\)"):
        federate().start(np.zeros(3))


def test_taps_and_cohorts_that_do_not_exist_are_refused_before_training(federate, monkeypatch):
    monkeypatch.setattr(GraphEngine, "cohort", lambda *_, **__: pytest.fail("trained"))
    federation = federate()
    with pytest.raises(CapabilityError, match=r"coalition of aggregators.*secret_sharing"):
        federation.run(1, taps=[Tap(Adversary("aggregators", corrupted=(0,)), rounds={9})])
    with pytest.raises(ParameterError, match="client 5, but there are 5"):
        federation.run(1, taps=[Tap(clients=[2, 5])])
    for wrong in ([5], [1, 1], [-1]):
        with pytest.raises(ParameterError, match="each once"):
            federation.step(federation.start(), clients=wrong)


def test_evaluation_and_stopping(federate):
    federation = federate()
    history = federation.run(5, evaluate_every=2)
    assert [r.accuracy is not None for r in history.records] == [False, True, False, True, True]
    assert [r.accuracy is not None for r in federation.run(3, evaluate_every=0).records] == [False, False, True]
    assert len(federation.run(5, stop_when=lambda r: r.round == 1).records) == 2
    assert history.accuracy == history.records[-1].accuracy
    best = max(r.accuracy for r in history.records if r.accuracy is not None)
    assert history.rounds_to(best) == 1 + next(r.round for r in history.records if r.accuracy == best)
    assert history.rounds_to(1.1) is None


def test_training_learns_and_defenses_report(federate):
    history = federate(defenses=(Clip(norm=0.5),), local_epochs=3, batch_size=5, client={"learning_rate": 0.5}).run(15)
    assert history.records[-1].test_loss < 0.7 * history.records[0].test_loss
    assert history.records[0].metrics["clip/clipped"] <= 1
    assert history.records[0].bytes_down == 5 * 4 * len(history.weights)
    assert "observations" not in history.records[0].row()


def test_config_is_the_identity(federate):
    base = federate().config()
    assert base == federate().config()
    for other in (
        {"seed": 1},
        {"batch_size": 3},
        {"defenses": (Clip(norm=1.0),)},
        {"on_nonfinite": "drop"},
        {"partition": Partition("ragged", (np.arange(30),))},
    ):
        assert federate(**other).config() != base
    assert federate(procedure=Procedure(server=Optimizer(learning_rate=0.5))).config() != base


AFTER_SENDING = PartiesAttrition(gone=["client 1"], phase="publish")


def test_a_round_that_cannot_be_finished_costs_a_round_and_training_goes_on(federate):
    sharing = SecretSharing(among="clients", range=1.0)
    history = federate(defenses=(sharing,), attrition=AFTER_SENDING, batch_size=None).run(2)
    assert [r.aborted for r in history.records] == [
        "client 1 of 5 gone, and all are needed; run the round again (phase 'publish')"
    ] * 2
    start = federate(batch_size=None).start().weights
    np.testing.assert_array_equal(history.weights, start)  # it moves nothing
    goes_on = federate(
        defenses=(sharing.with_(threshold=4),), attrition=AFTER_SENDING, batch_size=None, on_abort="stop"
    ).run(2)
    assert [r.aborted for r in goes_on.records] == ["", ""]
    assert np.abs(goes_on.weights - start).max() > 1e-3


@pytest.mark.slow
def test_a_run_may_stop_at_the_first_such_round_and_be_resumed_beyond_it(federate, tmp_path):
    class LeavesIn1(PartiesAttrition):
        def alive(self, phase, parties, round, seed):
            return super().alive(phase, parties, round, seed) if round == 1 else parties

    leaving = LeavesIn1(gone=["aggregator 0"], phase="publish")
    settings = {"defenses": (SecretSharing(range=1.0),), "attrition": leaving, "batch_size": None}
    file = tmp_path / "run"
    says = r"round 1 was aborted: aggregator 0 of 2 gone.*phase 'publish'.*on_abort='continue'"
    with pytest.raises(AbortError, match=says):
        federate(**settings, on_abort="stop").run(3, checkpoint=file)
    resumed = federate(**settings).run(3, checkpoint=file)
    assert [bool(r.aborted) for r in resumed.records] == [False, True, False]
    np.testing.assert_array_equal(resumed.weights, federate(**settings).run(3).weights)


class Sized(Defense):
    """Computes with how many came."""

    name: ClassVar[str] = "sized"

    def step(self, weights, context):
        return weights + tf.cast(context.count, weights.dtype)


@pytest.mark.slow
def test_a_cohorts_size_in_the_model_ends_claims_that_assume_it_unpublished(federate):
    from fedpriv.base.errors import LedgerError

    noise = CentralDP(clip=1.0, noise_multiplier=1.0)
    options = {"weighting": "uniform", "sampling": Sampling.poisson(0.5)}
    assert federate(defenses=(noise,), **options).run(1).records[0].epsilon > 0
    told = federate(defenses=(Sized(), noise), **options).run(1)
    assert (told.records[0].size_used, told.records[0].epsilon) == (True, None)
    with pytest.raises(LedgerError, match="cohort sizes stay unpublished, which did not hold in round 0"):
        told.ledger.epsilon(1e-5)
    fixed = federate(defenses=(Sized(), noise), weighting="uniform", sampling=Sampling.fixed(3)).run(1)
    assert fixed.records[0].epsilon > 0  # their size is public
