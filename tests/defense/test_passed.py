"""What a station may give, and what happens to those that give something else."""

from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import ContextError, OverflowDetected, StackError
from fedpriv.base.lazy import tf
from fedpriv.defense.attrition import BernoulliAttrition, FixedAttrition, PartiesAttrition
from fedpriv.defense.domain import Domain, Real, Ring
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense, Station

PLAIN = {"batch_size": None, "weighting": "uniform"}


def test_stations_that_nobody_would_call_are_errors_when_the_class_is_made():
    with pytest.raises(StackError, match=r"Courier defines 'message'.*derives from .*Protocol"):

        class Courier(Defense):
            def message(self, value):
                return value

    with pytest.raises(StackError, match=r"Old defines 'next_state'.*Passed\(value, state"):

        class Old(Defense):
            def next_state(self, state, metrics, context):
                return state

    with pytest.raises(StackError, match="has a parameter 'step', which is the name of a station"):

        class Stepped(Defense):
            step: float = 1.0


class OnIntegers(Defense):
    """Takes ring elements, but at the update station, where there are none."""

    name: ClassVar[str] = "on_integers"
    takes: ClassVar[Domain] = Ring()

    def update(self, update, context):
        return update


class Parity(Defense):
    """Sees what the codec gave."""

    name: ClassVar[str] = "parity"
    takes: ClassVar[Domain] = Ring()

    def encode(self, contribution, context):
        assert contribution.dtype == tf.int64
        return Passed(contribution, log={"odd": tf.reduce_mean(tf.cast(contribution % 2, tf.float32))})


def test_a_defense_that_takes_integers_gets_integers_or_is_refused(federate):
    codec, sharing = SecretSharing().parts()
    with pytest.raises(StackError, match=r"on_integers .* acts at the update station.*override encode"):
        federate(defenses=(codec, OnIntegers(), sharing), **PLAIN)
    with pytest.raises(StackError, match=r"parity \(position 1\) takes integers mod m\[d\], but a client's update is"):
        federate(defenses=(Parity(), codec, sharing), **PLAIN)
    _, record = federate(defenses=(codec, Parity(), sharing), **PLAIN).step(
        federate(defenses=(codec, Parity(), sharing), **PLAIN).start(), evaluate=False
    )
    assert 0.3 < record.metrics["parity/odd"] < 0.7


class Says(Defense):
    """Returns whatever it is told to."""

    name: ClassVar[str] = "says"
    what: str = ""

    def update(self, update, context):
        answers = {
            "pair": (update, {}),
            "nothing": None,
            "vector log": Passed(update, log={"norms": update}),
            "undeclared": Passed(update, tally={"count": 1.0}),
        }
        return answers[self.what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pair", r"says returns a tuple from its update station; return the value, or Passed"),
        ("nothing", "says returns nothing from its update station"),
        ("vector log", r"says reports log 'norms' of shape \[51\] at its update station; it must be a scalar"),
        ("undeclared", r"says reports tally 'count' at its update station, which its tallies\(plan\) does not declare"),
    ],
)
def test_whoever_gives_something_else_is_named(federate, what, message):
    federation = federate(defenses=(Says(what=what),), **PLAIN)
    with pytest.raises(StackError, match=message):
        federation.start()


class Wrong(Defense):
    """Gives or does what its station does not allow."""

    name: ClassVar[str] = "wrong"
    how: str = ""

    def update(self, update, context):
        if self.how == "if":
            return update if tf.reduce_sum(update) > 0 else -update
        return {
            "short": update[:3],
            "double": tf.cast(update, tf.float64),
            "text": "hello",
            "empty": Passed(None),
            "words": Passed(update, log={"said": "hi"}),
        }[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", r"wrong gives a value of shape \[3\] from its update station, where it was given \[51\]"),
        ("double", "wrong gives float64 from its update station, where it was given float32"),
        ("text", "wrong fails at its update station|wrong gives"),
        ("empty", "wrong returns nothing from its update station"),
        ("words", "wrong reports log 'said'"),
        ("if", "wrong fails at its update station: .*use tf.where or tf.cond"),
    ],
)
def test_every_mistake_is_said_in_a_line_and_in_the_defenses_name(federate, how, message):
    federation = federate(defenses=(Wrong(how=how),), **PLAIN)
    with pytest.raises(StackError, match=message) as caught:
        federation.start()
    assert "\n" not in str(caught.value)


class Shrinking(Defense):
    """Gives back half of its state."""

    name: ClassVar[str] = "shrinking"

    def initial_state(self, plan):
        return (np.zeros(4, np.float32),)

    def aggregate(self, total, context):
        return Passed(total, state=(context.state[0][:2],))


def test_a_servers_state_keeps_its_shape(federate):
    federation = federate(defenses=(Shrinking(),), **PLAIN)
    with pytest.raises(StackError, match=r"shrinking gives a server state unlike its initial_state.*\[2\] in place of"):
        federation.step(federation.start(), evaluate=False)


class Rows(Defense):
    """Wants examples' own gradients, and another model."""

    per_example: ClassVar[bool] = True

    def gradient(self, gradient, context):
        return gradient

    def model(self, model, plan):
        return "no model"


class Bundle(Defense):
    """Stands for another."""

    name: ClassVar[str] = "bundle"

    def parts(self):
        return (Rows(),)


def test_parts_are_asked_like_defenses(federate):
    with pytest.raises(StackError, match="Rows gives a str from its model station"):
        federate(defenses=(Bundle(),), **PLAIN)


class Longer(Defense):
    """States a bound that it does not keep."""

    name: ClassVar[str] = "longer"

    def maps(self, given, plan):
        return Real(1e-6)

    def update(self, update, context):
        return 2 * update


def test_a_bound_that_is_stated_and_not_kept_stops_the_run(federate):
    federation = federate(defenses=(Longer(),), **PLAIN)
    with pytest.raises(StackError, match=r"round 0: longer states that an update is no longer than 1e-06, but that of"):
        federation.step(federation.start(), evaluate=False)


class Counting(Defense):
    """Adapts a bound by how many updates were below it, through the sum alone."""

    name: ClassVar[str] = "counting"

    def initial_state(self, plan):
        return (1.0, np.float32(0))

    def tallies(self, plan):
        return {"below": 1.0, "size": 12.0}

    def maps(self, given, plan):
        return given

    def update(self, update, context):
        below = tf.cast(tf.norm(update) < context.state[0], update.dtype)
        return Passed(update, tally={"below": below, "size": tf.cast(context.num_examples, update.dtype)})

    def aggregate(self, total, context):
        many = tf.cast(tf.maximum(context.count, 1), total.dtype)
        return Passed(total, state=(context.state[0] * 0.5, context.tally["size"] / many))


@pytest.mark.parametrize("protected", [False, True], ids=["in the clear", "under a secure sum"])
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_tallies_travel_with_the_update_and_feed_the_state(federate, parts, protected, weighting):
    defenses = (Counting(), *((SecretSharing(range=4.0),) if protected else ()))
    federation = federate(defenses=defenses, batch_size=None, weighting=weighting)
    state, _ = federation.step(federation.start(), evaluate=False)
    assert float(state.defenses[0][0]) == 0.5
    assert float(state.defenses[0][1]) == pytest.approx(parts.sizes.mean(), rel=1e-4)


class Memory(Defense):
    """Sends half of what it holds, and keeps the rest for the next time (error feedback)."""

    name: ClassVar[str] = "memory"

    def initial_client_state(self, plan):
        return (np.zeros(plan.spec.size, np.float32), np.int32(0))

    def update(self, update, context):
        whole = update + tf.cast(context.own[0], update.dtype)
        log = {"away": context.away, "slot": context.slot, "times": context.own[1]}
        return Passed(whole / 2, log=log, state=(whole / 2, context.own[1] + 1))


def test_what_a_client_keeps_for_itself_comes_back_with_it(federate):
    plain, kept = federate(**PLAIN), federate(defenses=(Memory(),), **PLAIN)
    start = kept.start()
    first, record = kept.step(start, evaluate=False, clients=[0, 3])
    (bare, _) = plain.step(plain.start(), evaluate=False, clients=[0, 3])
    np.testing.assert_allclose(first.weights - start.weights, (bare.weights - start.weights) / 2, atol=1e-6)
    assert (record.metrics["memory/away"], record.metrics["memory/slot"]) == (-1, 0.5)
    assert record.metrics["client_states/first_time"] == 1
    second, record = kept.step(first, evaluate=False, clients=[1])
    third, record = kept.step(second, evaluate=False, clients=[3, 1, 4])
    assert record.metrics["client_states/first_time"] == pytest.approx(1 / 3)
    assert record.metrics["client_states/rounds_away"] == pytest.approx((2 + 1) / 2)
    assert {c: int(leaves[1]) for c, leaves in third.clients.leaves.items()} == {0: 1, 3: 2, 1: 2, 4: 1}


@pytest.mark.slow
def test_own_states_survive_a_checkpoint_to_the_bit(federate, tmp_path):
    from fedpriv.procedure.procedure import Sampling

    options = {"defenses": (Memory(),), "sampling": Sampling.fixed(2), **PLAIN}
    whole = federate(**options).run(6)
    federate(**options).run(3, checkpoint=tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o077 == 0
    rest = federate(**options).run(6, checkpoint=tmp_path / "a.ckpt")
    assert rest.weights.tobytes() == whole.weights.tobytes()
    assert [r.metrics for r in rest.records] == [r.metrics for r in whole.records]


class Everywhere(Defense):
    """Reads all that its stations may read."""

    name: ClassVar[str] = "everywhere"

    def broadcast(self, weights, context):
        assert int(context.round) == 0
        return weights

    def data(self, x, y, context):
        assert x.shape[1:] == (4, 4, 1)
        return tf.reverse(x, [1]), y

    def batch(self, x, y, context):
        return Passed((x, y), log={"weights": tf.norm(context.weights)})

    def gradient(self, gradient, context):
        return Passed(gradient, log={"x": tf.reduce_mean(context.x), "examples": tf.size(context.y)})

    def step(self, weights, context):
        return Passed(weights, log={"moved": tf.norm(weights - context.weights), "count": context.count})


def test_each_station_gets_what_its_context_promises(federate, toy):
    federation = federate(defenses=(Everywhere(),), batch_size=4)
    state, record = federation.step(federation.start(), evaluate=False)
    assert record.metrics["everywhere/examples"] <= 4
    assert record.metrics["everywhere/count"] == 5
    moved = np.linalg.norm(state.weights - federation.start().weights)
    assert record.metrics["everywhere/moved"] == pytest.approx(moved, rel=1e-5)
    upside_down = federate(train=type(toy)("flipped", toy.x[:, ::-1], toy.y, 3), batch_size=4)
    np.testing.assert_allclose(state.weights, upside_down.step(upside_down.start())[0].weights, atol=1e-6)


class Peeks(Defense):
    """Reads what does not exist at the update station."""

    name: ClassVar[str] = "peeks"

    def update(self, update, context):
        return update * tf.reduce_mean(context.x)


def test_a_context_refuses_what_does_not_exist_there(federate):
    with pytest.raises(ContextError, match=r"context\.x does not exist at this station; it exists at gradient"):
        federate(defenses=(Peeks(),), **PLAIN).start()


class Wider(Defense):
    """Trains a model in place of another."""

    name: ClassVar[str] = "wider"

    def model(self, model, plan):
        from fedpriv.models.zoo import mlp_2nn

        return mlp_2nn(model.input_shape, model.num_classes, hidden=[5])


def test_a_defense_may_replace_the_model(federate, logistic_model):
    federation = federate(defenses=(Wider(),))
    assert federation.plan.spec.size == 16 * 5 + 5 + 5 * 3 + 3 != logistic_model.spec.size
    assert federation.run(1).weights.shape == (federation.plan.spec.size,)


@pytest.mark.slow
def test_clients_that_drop_out_are_not_in_the_sum(federate):
    for defenses in ((), (SecretSharing(range=1.0),)):
        lossy = federate(defenses=defenses, attrition=FixedAttrition(count=2), **PLAIN)
        state, record = lossy.step(lossy.start(), evaluate=False)
        left = [c for c in range(5) if c not in record.lost]
        assert (len(record.lost), record.survivors, record.aborted) == (2, 3, "")
        some = federate(**PLAIN)
        expected, _ = some.step(some.start(), evaluate=False, clients=left)
        np.testing.assert_allclose(state.weights, expected.weights, atol=1e-5)


def test_an_aborted_round_costs_a_round_and_reveals_nothing(federate):
    from fedpriv.threat.adversary import Adversary
    from fedpriv.threat.tap import Tap

    sharing = SecretSharing(aggregators=3, range=1.0)
    federation = federate(defenses=(sharing,), attrition=PartiesAttrition(gone=("aggregator 1",)), **PLAIN)
    start = federation.start()
    state, record = federation.step(start, [Tap(), Tap(Adversary("observer"))], evaluate=False)
    assert "aggregator 1 of 3 gone" in record.aborted
    assert (state.round, record.survivors, record.observations) == (1, 0, [])
    assert state.weights.tobytes() == start.weights.tobytes()


def test_drop_outs_that_no_phase_has_are_refused_before_the_first_round(federate):
    from fedpriv.base.errors import ParameterError

    with pytest.raises(ParameterError, match="there is no phase 'unmask'"):
        federate(attrition=BernoulliAttrition(rate=0.1, phases=("unmask",))).start()


def test_a_secure_sum_refuses_more_clients_than_it_has_room_for(federate):
    from fedpriv.procedure.procedure import Sampling

    federation = federate(defenses=(SecretSharing(bits=12),), sampling=Sampling.fixed(2), **PLAIN)
    with pytest.raises(OverflowDetected, match="opened for 5 clients, but only a sum over 2"):
        federation.step(federation.start(), clients=[0, 1, 2, 3, 4])


def test_a_server_may_send_some_clients_other_weights(federate, by_hand, toy, parts):
    """What a malicious server does; each client trains from what it was sent."""
    from fedpriv.threat.tap import Tap

    federation = federate(**PLAIN)
    start = federation.start()
    planted = np.zeros_like(start.weights)
    _, record = federation.step(start, [Tap()], evaluate=False, sent={2: planted})
    for client, seen in enumerate(record.observations):
        base = planted if client == 2 else start.weights
        np.testing.assert_array_equal(seen.view.weights, base)
        gradient = by_hand.gradient(base, toy.x[parts.indices[client]], toy.y[parts.indices[client]])
        np.testing.assert_allclose(seen.view.observed, -0.1 * gradient, atol=1e-6)


def test_a_top_k_defense_is_short_and_counts_its_bits(federate, logistic_model):
    class TopK(Defense):
        name: ClassVar[str] = "top"
        k: int = 5

        def maps(self, given, plan):
            return given

        def update(self, update, context):
            _, kept = tf.math.top_k(tf.abs(update), self.k)
            mask = tf.scatter_nd(kept[:, None], tf.ones([self.k], update.dtype), tf.shape(update))
            return Passed(update * mask, bits=self.k * (32 + 6))

    federation = federate(defenses=(Clip(norm=1.0), TopK()), **PLAIN)
    _, record = federation.step(federation.start(), evaluate=False)
    assert record.bytes_up == -(-5 * 5 * 38 // 8)
    assert federation.line.bound == 1.0
    assert federation.defenses[1].stations == [Station.UPDATE]
