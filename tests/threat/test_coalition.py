"""A coalition of a protocol's parties: what it sees is what its members hold together, without what is their own."""

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.procedure.procedure import Sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

SETTINGS = {"batch_size": None, "weighting": "uniform"}
AMONG = SecretSharing(among="clients", range=1.0)
COMMITTEE = SecretSharing(among="committee", committee=3, threshold=2, range=1.0, bits=24)


def see(federation, text, rounds=1):
    """The views of one adversary in each round."""
    adversary, state, found = Adversary.parse(text), federation.start(), []
    for _ in range(rounds):
        state, record = federation.step(state, [Tap(adversary)], evaluate=False)
        assert not record.aborted
        found.append(record.observations)
    return found


@pytest.fixture
def updates(federate):
    """Each client's update without any defense."""
    (seen,) = see(federate(**SETTINGS), "server")
    return [o.view.observed for o in seen]


def test_it_prints_as_it_is_written():
    assert str(Adversary.parse("coalition(client3, server)")) == "coalition(client 3,server)"
    assert Adversary.parse("coalition(server)").at.members == ("server",)
    with pytest.raises(ParameterError, match="'client' names no party; write 'server', 'aggregator 1' or 'client 3'"):
        Adversary.parse("coalition(client)")


def test_behind_no_protocol_it_is_refused(federate):
    with pytest.raises(CapabilityError, match="no defense in this federation is a protocol; add secret_sharing"):
        federate(**SETTINGS).run(1, taps=[Tap(Adversary.parse("coalition(server,client 0)"))])


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ("aggregator 2", r"additive_sharing has no aggregator 2\. Did you mean 'aggregator \d'\?"),
        ("key_holder 0", "additive_sharing has no key_holder 0"),
        ("client 5", "has client 5, but there are 5 clients, numbered from 0"),
    ],
)
def test_strangers_are_named(federate, members, says):
    with pytest.raises(CapabilityError, match=says):
        federate(defenses=(SecretSharing(),), **SETTINGS).run(1, taps=[Tap(Adversary.parse(f"coalition({members})"))])


def test_where_clients_hold_the_shares_there_are_no_aggregators(federate):
    with pytest.raises(CapabilityError, match=r"additive_sharing has no aggregators: .* coalition\(server,client 0\)"):
        federate(defenses=(AMONG,), **SETTINGS).run(1, taps=[Tap(Adversary.parse("aggregators(0)"))])


@pytest.mark.slow
@pytest.mark.parametrize(
    "defense", [AMONG, COMMITTEE, SecretSharing(range=1.0)], ids=["clients", "committee", "others"]
)
def test_clients_take_their_own_contributions_out_of_the_servers_sum(federate, updates, defense):
    federation = federate(defenses=(defense,), **SETTINGS)
    step = defense.codec().steps(federation.plan).step
    drawn = defense.protocol().holders(range(5), 0, 0)
    inside = sorted(set(range(5)) - {p.index for p in drawn if p.role == "client"}) or [3]
    member = inside[0]
    ((seen,),) = see(federation, f"coalition(server,client {member})")
    others = [c for c in range(5) if c != member]
    assert (seen.view.kind, seen.view.clients, seen.truth.clients) == ("sum", 4, tuple(others))
    mean = np.mean([updates[c] for c in others], 0)
    np.testing.assert_allclose(seen.view.observed, mean, atol=2 * step + 1e-6)


def test_all_clients_but_one_see_the_last_ones_update(federate, updates):
    ((seen,),) = see(federate(defenses=(AMONG,), **SETTINGS), "coalition(client 0,client 1,client 3,client 4)")
    assert (seen.truth.clients, seen.view.clients) == ((2,), 1)
    np.testing.assert_allclose(seen.view.observed, updates[2], atol=1e-4)


@pytest.mark.slow
def test_a_whole_committee_sees_every_update_but_its_own(federate, updates):
    federation = federate(defenses=(COMMITTEE,), **SETTINGS)
    pair = COMMITTEE.protocol().holders(range(5), 0, 0)[:2]  # two of three are enough
    (seen,) = see(federation, f"coalition({pair[0]},{pair[1]})")
    others = [c for c in range(5) if c not in {p.index for p in pair}]
    assert [o.truth.clients for o in seen] == [(c,) for c in others]
    for o, c in zip(seen, others, strict=True):
        assert o.view.kind == "update"
        np.testing.assert_allclose(o.view.observed, updates[c], atol=1e-4)


def test_a_client_outside_the_cohort_adds_nothing(federate):
    federation = federate(defenses=(AMONG,), sampling=Sampling.fixed(2), **SETTINGS)
    sums = see(federation, "server", rounds=4)
    assert 0 < sum(0 in server.truth.clients for (server,) in sums) < 4
    for text in ("coalition(server,client 0)", "coalition(client 0)"):
        for seen, (server,) in zip(see(federation, text, rounds=4), sums, strict=True):
            taking_part = 0 in server.truth.clients
            if taking_part:
                (only,) = seen
                assert only.truth.clients == tuple(c for c in server.truth.clients if c != 0)
            elif "server" in text:
                (only,) = seen
                assert only.truth.clients == server.truth.clients
                np.testing.assert_array_equal(only.view.observed, server.view.observed)
            else:
                assert seen == []
