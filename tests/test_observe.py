"""What each adversary sees under each stack, and that nothing more is in its view."""

import dataclasses
import pickle
from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.defense.stations import Defense
from fedpriv.procedure.procedure import Sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.position import Position, Seen
from fedpriv.threat.tap import Tap

SERVER, WIRE, OBSERVER = Adversary(), Adversary("eavesdropper"), Adversary("observer")
SETTINGS = {"batch_size": None, "weighting": "uniform"}


def aggregators(*members):
    return Adversary("aggregators", corrupted=members)


def see(federation, *adversaries, clients=None):
    """(observations by adversary, the next weights)."""
    state, record = federation.step(federation.start(), [Tap(a, clients=clients) for a in adversaries], evaluate=False)
    found = [[o for o in record.observations if o.view.adversary == a] for a in adversaries]
    return found, state.weights


@pytest.fixture
def plain(federate):
    """Each client's update, by client, as the server sees it without any defense."""

    def make(**options):
        (seen,), _ = see(federate(**{**SETTINGS, **options}), SERVER)
        return [o.view.observed for o in seen]

    return make


def test_server_and_wire_see_each_message_where_nothing_hides_it(federate, toy, parts, by_hand):
    federation = federate(**SETTINGS)
    w0 = federation.start().weights
    (server, wire, observer), after = see(federation, SERVER, WIRE, OBSERVER)
    for seen in (server, wire):
        assert [o.truth.clients for o in seen] == [(c,) for c in range(5)]
        for o, mine in zip(seen, parts.indices, strict=True):
            assert (o.view.kind, o.view.clients, o.view.payloads) == ("update", 1, None)
            np.testing.assert_allclose(
                o.view.observed, -0.1 * by_hand.gradient(w0, toy.x[mine], toy.y[mine]), atol=1e-6
            )
            np.testing.assert_array_equal(o.truth.x, toy.x[mine])
            np.testing.assert_array_equal(o.truth.y, toy.y[mine])
    (public,) = observer
    assert (public.view.kind, public.view.clients, public.truth.clients) == ("released", 5, (0, 1, 2, 3, 4))
    np.testing.assert_allclose(public.view.observed, after - w0, atol=1e-6)
    np.testing.assert_array_equal(public.truth.y, toy.y)


def test_a_tap_hears_only_the_clients_it_asks_for(federate):
    (server,), _ = see(federate(**SETTINGS), SERVER, clients=[4, 1])
    assert [o.truth.clients for o in server] == [(1,), (4,)]


def test_messages_are_seen_after_the_clients_defenses(federate, plain):
    updates = plain()
    (server, wire, observer), _ = see(federate(defenses=(Clip(norm=0.01),), **SETTINGS), SERVER, WIRE, OBSERVER)
    for u, at_server, on_wire in zip(updates, server, wire, strict=True):
        np.testing.assert_allclose(at_server.view.observed, u * 0.01 / np.linalg.norm(u), rtol=1e-5, atol=1e-8)
        np.testing.assert_array_equal(at_server.view.observed, on_wire.view.observed)
    assert np.linalg.norm(observer[0].view.observed) <= 0.01 * (1 + 1e-5)


def test_local_noise_is_in_the_message(federate, plain):
    (server,), _ = see(federate(defenses=(LocalDP(clip=100.0, noise_multiplier=0.02),), **SETTINGS), SERVER)
    noise = np.concatenate([o.view.observed - u for o, u in zip(server, plain(), strict=True)])
    assert np.std(noise) == pytest.approx(2.0, rel=0.15)


def test_central_noise_is_in_what_is_released_and_not_in_the_messages(federate, plain):
    updates = plain()
    federation = federate(defenses=(CentralDP(clip=100.0, noise_multiplier=0.1),), **SETTINGS)
    (server, observer), after = see(federation, SERVER, OBSERVER)
    for o, u in zip(server, updates, strict=True):
        np.testing.assert_allclose(o.view.observed, u, atol=1e-6)
    noise = observer[0].view.observed - np.mean(updates, 0)
    assert np.std(noise) == pytest.approx(10 / 5, rel=0.35)
    np.testing.assert_allclose(after - federation.start().weights, observer[0].view.observed, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("k", [2, 3])
def test_secret_sharing_leaves_the_sum_alone(federate, plain, parts, k, weighting):
    settings = {**SETTINGS, "weighting": weighting}
    protocol = SecretSharing(aggregators=k, range=1.0, compressed=False)
    federation = federate(defenses=(protocol,), **settings)
    step = protocol.parts()[0].steps(federation.plan).step
    some, everyone = aggregators(*range(k - 1)), aggregators(*range(k))
    (server, wire, observer, part, whole), _ = see(federation, SERVER, WIRE, OBSERVER, some, everyone)
    updates = plain(weighting=weighting)
    shares = np.ones(5) / 5 if weighting == "uniform" else parts.sizes / 30
    mean = sum(s * u.astype(np.float64) for s, u in zip(shares, updates, strict=True))

    for (only,), kind in ((server, "sum"), (part, "sum"), (observer, "released")):
        assert (only.view.kind, only.view.clients, len(only.truth.y)) == (kind, 5, 30)
        np.testing.assert_allclose(only.view.observed, mean, atol=step + 1e-7)
    assert server[0].view.payloads is None
    assert observer[0].view.payloads is None

    ((on_wire,),) = (wire,)
    assert (on_wire.view.kind, on_wire.view.observed) == ("shares", None)
    assert all(d.payload is None for d in on_wire.view.payloads)

    held = [d for d in part[0].view.payloads if d.phase == "share"]
    assert {(d.sender.index, d.receiver.index) for d in held} == {(c, a) for c in range(5) for a in range(k - 1)}
    shares = [np.frombuffer(d.payload, np.int32) for d in held if d.sender.index == 1]
    pooled = sum(s.astype(np.int64) for s in shares).astype(np.int32)
    decoded = pooled[:-1] * step
    assert abs(np.corrcoef(decoded, updates[1])[0, 1]) < 0.6  # 51 random numbers: five standard deviations is 0.7
    assert np.abs(decoded).max() > 0.05  # and spread over the whole ring, not of an update's size

    assert [o.truth.clients for o in whole] == [(c,) for c in range(5)]
    for o, u, weight in zip(whole, updates, parts.sizes / 12, strict=True):
        assert o.view.kind == "update"
        blur = step if weighting == "uniform" else step / weight
        np.testing.assert_allclose(o.view.observed, u, atol=blur + 1e-6)


def test_shares_are_fresh_every_time(federate):
    federation = federate(defenses=(SecretSharing(aggregators=2),), **SETTINGS)
    (first,), _ = see(federation, aggregators(0))
    (second,), _ = see(federation, aggregators(0))
    assert first[0].view.payloads[1].payload != second[0].view.payloads[1].payload
    np.testing.assert_array_equal(first[0].view.observed, second[0].view.observed)


def test_noise_over_a_secure_sum_hides_both(federate):
    stack = (CentralDP(clip=0.5, noise_multiplier=0.2), SecretSharing(aggregators=2, range=1.0))
    (server, observer), _ = see(federate(defenses=stack, **SETTINGS), SERVER, OBSERVER)
    assert (server[0].view.kind, observer[0].view.kind) == ("sum", "released")
    difference = observer[0].view.observed - server[0].view.observed
    assert np.std(difference) == pytest.approx(0.1 / 5, rel=0.35)


@pytest.mark.parametrize("members", [(2,), (0, 7), (-1,)])
def test_aggregators_that_do_not_exist(federate, members):
    with pytest.raises(CapabilityError, match=f"aggregator {members[-1]} does not exist: additive_sharing has 2"):
        federate(defenses=(SecretSharing(aggregators=2),)).run(1, taps=[Tap(aggregators(*members))])


def test_only_what_is_known_is_told(federate, parts):
    stack = (Clip(norm=1.0),)
    (blind, all_knowing), _ = see(
        federate(defenses=stack, **SETTINGS),
        Adversary(knows=frozenset()),
        Adversary(knows=frozenset({"labels", "num_examples", "procedure", "defense"})),
    )
    view = blind[1].view
    assert (view.labels, view.num_examples, view.procedure, view.client_rate) == (None, None, None, None)
    assert (view.defenses, view.states) == ((), ())
    with pytest.raises(CapabilityError, match="cannot replay"):
        view.simulate(blind[1].truth.x, blind[1].truth.y)
    with pytest.raises(CapabilityError, match="number of examples is unknown"):
        _ = view.total_examples
    view = all_knowing[1].view
    np.testing.assert_array_equal(view.labels, all_knowing[1].truth.y)
    assert view.labels is not all_knowing[1].truth.y
    assert (view.num_examples, view.client_rate, view.defenses) == ((12,), 0.1, stack)


@pytest.fixture(scope="module")
def normalized():
    """A model with batch normalization on 4x4 images."""
    from fedpriv.models.zoo import convnet

    return convnet((4, 4, 1), 3, width=4, norm="batch_train")


KNOWING = Adversary().knowing("batch_statistics")


@pytest.mark.slow
def test_batch_statistics_are_told_to_those_who_know_them(federate, normalized, toy, parts):
    (blind, knowing), _ = see(federate(model=normalized, **SETTINGS), SERVER, KNOWING)
    assert all(o.view.batch_statistics is None for o in blind)
    assert all(Capability.BATCH_STATISTICS not in o.view.capabilities for o in blind)
    for o, mine in zip(knowing, parts.indices, strict=True):
        view = o.view
        assert Capability.BATCH_STATISTICS in view.capabilities
        weights = normalized.spec.unflatten_numpy(view.weights)
        expected = normalized.moments(weights, toy.x[mine])
        assert len(view.batch_statistics) == 4
        for (mean, variance), (m, v) in zip(view.batch_statistics, expected, strict=True):
            np.testing.assert_allclose(mean, m, atol=1e-6)
            np.testing.assert_allclose(variance, v, atol=1e-6)
        copy = pickle.loads(pickle.dumps(dataclasses.replace(view, model=None)))  # a Keras model cannot be pickled
        np.testing.assert_array_equal(copy.batch_statistics[0][0], view.batch_statistics[0][0])


class Flip(Defense):
    """Changes the batch."""

    name: ClassVar[str] = "flip"

    def batch(self, x, y, context):
        return 1 - x, y


@pytest.mark.parametrize(
    ("options", "adversary", "says"),
    [
        ({"model": None, **SETTINGS}, KNOWING, "'logistic' has no batch normalization"),
        ({"batch_size": 4}, KNOWING, "a client of 5 examples makes 2 local steps"),
        ({**SETTINGS, "local_epochs": 3}, KNOWING, "makes 3 local steps"),
        ({**SETTINGS, "defenses": (SecretSharing(),)}, KNOWING, "a sum over clients"),
        (SETTINGS, OBSERVER.knowing("batch_statistics"), "a sum over clients"),
        ({**SETTINGS, "defenses": (Flip(),)}, KNOWING, "'flip' changes the batch"),
    ],
)
def test_batch_statistics_that_cannot_be_known_are_refused(
    federate, normalized, logistic_model, options, adversary, says
):
    options = {"model": normalized, **options}
    federation = federate(**{**options, "model": options["model"] or logistic_model})
    with pytest.raises(CapabilityError, match=says):
        federation.run(1, taps=[Tap(adversary)])


def test_another_client_sees_the_released_model_and_its_own_examples(federate, toy, parts):
    (mine, public), _ = see(federate(**SETTINGS), Adversary("client(3)"), OBSERVER)
    view, truth = mine[0].view, mine[0].truth
    np.testing.assert_array_equal(view.observed, public[0].view.observed)
    np.testing.assert_array_equal(view.own.x, toy.x[parts.indices[3]])
    np.testing.assert_array_equal(view.own.y, toy.y[parts.indices[3]])
    assert truth.clients == (0, 1, 2, 4)
    assert (view.kind, view.clients, view.total_examples, len(truth.y)) == ("released", 5, 22, 22)
    assert view.num_examples == (5, 12, 1, 8, 4)
    assert Capability.SINGLE_CLIENT not in view.capabilities


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3, 4])
@pytest.mark.parametrize("steps", [1, 2])
def test_its_own_examples_take_part_in_a_replay_without_being_looked_for(federate, double_model, number, steps):
    federation = federate(model=double_model, local_epochs=steps, **SETTINGS)
    (mine,), _ = see(federation, Adversary(f"client({number})"))
    view, truth = mine[0].view, mine[0].truth
    for y in (truth.y.astype(np.int32), np.eye(3)[truth.y]):
        np.testing.assert_allclose(view.simulate(truth.x, y), view.observed, rtol=1e-9, atol=1e-12)
    with pytest.raises(ParameterError, match="22 examples besides" if number == 3 else "besides the adversary's own"):
        view.simulate(np.zeros((30, 4, 4, 1)), np.zeros(30, np.int32))


def test_in_rounds_without_it_a_client_has_its_own_examples_still(federate):
    federation = federate(**SETTINGS)
    tap = Tap(Adversary("client(3)"))
    _, record = federation.step(federation.start(), [tap], evaluate=False, clients=[0, 1])
    (o,) = record.observations
    assert (o.truth.clients, o.view.own.slot, o.view.total_examples) == ((0, 1), None, 17)
    _, record = federation.step(federation.start(), [tap], evaluate=False, clients=[3])
    assert record.observations == []
    with pytest.raises(CapabilityError, match="adversary is client 9, but there are 5"):
        federation.run(1, taps=[Tap(Adversary("client(9)"))])


class Loudest(Position):
    """Sees the longest message alone: a position of a third party's."""

    sees_messages: ClassVar[bool] = True

    def who(self, acts=False):
        return "Someone near the loudest client"

    def sees(self, passage):
        longest = max(passage.chosen, key=lambda c: np.linalg.norm(passage.messages[c]))
        return [Seen((longest,), "update", passage.messages[longest])]


class Census(Knowledge):
    """How many of each class a client has: knowledge of a third party's."""

    def describe(self):
        return "how many examples of each class the client has"

    def fill(self, facts):
        return {"census": np.bincount(facts.labels, minlength=3)}


def test_positions_and_knowledge_of_other_packages(federate, plain):
    here = Loudest.__module__
    adversary = Adversary.parse(f"{here}:Loudest(knows=[{here}:Census])")
    (seen,), _ = see(federate(**SETTINGS), adversary)
    ((view, truth),) = [(o.view, o.truth) for o in seen]
    norms = [np.linalg.norm(u) for u in plain()]
    assert truth.clients == (int(np.argmax(norms)),)
    np.testing.assert_array_equal(view.told["census"], np.bincount(truth.y, minlength=3))
    assert "how many examples of each class" in adversary.describe()


def test_dropped_clients_are_behind_no_view(federate, toy):
    from fedpriv.data.dataset import Dataset

    x = toy.x.copy()
    x[6] = np.nan
    federation = federate(train=Dataset("bad", x, toy.y, 3), on_nonfinite="drop", **SETTINGS)
    (server, observer), _ = see(federation, SERVER, OBSERVER)
    assert [o.truth.clients for o in server] == [(0,), (2,), (3,), (4,)]
    assert observer[0].view.num_examples == (5, 1, 8, 4)


def test_adversaries_are_checked():
    with pytest.raises(ParameterError, match="Did you mean 'server'"):
        Adversary("sever")
    with pytest.raises(ParameterError, match="Did you mean 'labels'"):
        Adversary(knows=frozenset({"label"}))
    with pytest.raises(ParameterError, match="needs its members"):
        Adversary("aggregators")
    with pytest.raises(ParameterError, match="names aggregators"):
        Adversary("server", corrupted=(0,))
    with pytest.raises(ParameterError, match="takes an Adversary"):
        Tap("server")


@pytest.mark.slow
def test_how_many_came_is_secret_from_an_observer_where_cohorts_differ_in_size(federate):
    """A claim for random cohorts takes their size for unpublished, so no view may publish it."""
    blind = Adversary("observer", knows=frozenset({"procedure", "defense"}))
    poisson = {**SETTINGS, "sampling": Sampling.poisson(0.5)}
    (told, untold, server), _ = see(federate(**poisson), OBSERVER, blind, SERVER)
    came = len(server)
    assert came > 1
    assert (told[0].view.clients, len(told[0].view.num_examples)) == (came, came)  # it was given that knowledge
    assert (untold[0].view.clients, untold[0].view.num_examples) == (None, None)
    assert "a secret number of clients" in untold[0].view.describe()
    (fixed,), _ = see(federate(**{**SETTINGS, "sampling": Sampling.fixed(3)}), blind)
    assert fixed[0].view.clients == 3
    leaving = federate(**{**SETTINGS, "sampling": Sampling.fixed(3)}, attrition="bernoulli(rate=0.1)")
    assert see(leaving, blind)[0][0][0].view.clients is None
    other = Adversary("client(4)", knows=frozenset({"procedure", "defense"}))
    (own,), _ = see(federate(**SETTINGS, sampling=Sampling.full()), other)
    assert own[0].view.own.slot == 4
    (own,), _ = see(federate(**SETTINGS, sampling=Sampling.poisson(0.999)), other)
    assert (own[0].view.own.slot, own[0].view.clients) == (0, None)
