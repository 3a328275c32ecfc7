"""Federated rounds under masked sums: the same models as under other secure sums, and what each adversary sees."""

import numpy as np
import pytest

from fedpriv.base.errors import CapabilityError, OverflowDetected, ParameterError, StackError
from fedpriv.data.embedded import fashion_small
from fedpriv.data.partition import Partition
from fedpriv.defense.attrition import FixedAttrition, PartiesAttrition
from fedpriv.federation.federation import Federation
from fedpriv.models.zoo import logistic
from fedpriv.procedure.procedure import make_procedure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap


@pytest.fixture(scope="module")
def data():
    train = fashion_small()[0]
    x = train.floats(slice(0, 24)).reshape(24, 7, 4, 7, 4, 1).mean((2, 4)).astype(np.float32)
    return type(train)("fashion_7", x, train.y[:24], 10)


def federation(data, *defenses, weighting="examples", **options):
    sizes = Partition("uneven", tuple(np.split(np.arange(24), [2, 6, 9, 14, 20])))
    procedure = make_procedure(batch_size=None, weighting=weighting, client={"learning_rate": 0.5})
    return Federation(logistic((7, 7, 1), 10), data, sizes, procedure, defenses, seed=1, **options)


def make(text):
    from fedpriv import make_defense

    return make_defense(text)


PROTOCOLS = ["secagg(range=2)", "secagg(range=2,active=true)", "secagg_plus(range=2,neighbours=2,threshold=1)"]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("attrition", [None, FixedAttrition(count=1)])
def test_models_are_those_of_secret_sharing_to_the_bit(data, protocol, attrition):
    options = {} if attrition is None else {"attrition": attrition}
    ours = federation(data, make(protocol), **options).run(2)
    if attrition is None:
        theirs = federation(data, make("secret_sharing(range=2)"), **options).run(2)
        assert np.array_equal(ours.weights, theirs.weights)
    assert [r.survivors for r in ours.records] == [6 if attrition is None else 5] * 2
    assert not any(r.aborted for r in ours.records)
    plain = federation(data).run(2)
    if attrition is None:
        np.testing.assert_allclose(ours.weights, plain.weights, atol=1e-6)


def seen(data, adversary, *defenses, **options):
    made = federation(data, *defenses, **options)
    _, record = made.step(made.start(), [Tap(Adversary(adversary))], evaluate=False)
    return record.observations


@pytest.mark.slow
def test_a_coalition_sees_the_sum_of_the_others_and_with_enough_clients_each_update(data):
    (alone,) = seen(data, "server", make("secagg(range=2)"))
    assert (alone.view.kind, alone.view.clients) == ("sum", 6)
    (rest,) = seen(data, "coalition(server,client 0,client 3)", make("secagg(range=2)"))
    assert (rest.view.kind, rest.view.clients) == ("sum", 4)
    assert rest.truth.clients == (1, 2, 4, 5)
    everything = seen(data, "coalition(server,client 0,client 1,client 2,client 3)", make("secagg(range=2)"))
    assert [o.truth.clients for o in everything] == [(4,), (5,)]
    plain = {o.truth.clients: o.view.observed for o in seen(data, "server")}
    for o in everything:
        assert o.view.kind == "update"
        np.testing.assert_allclose(o.view.observed, plain[o.truth.clients], atol=1e-6)


def test_a_coalition_needs_a_protocol_and_parties_that_exist(data):
    with pytest.raises(CapabilityError, match="no defense in this federation is a protocol"):
        seen(data, "coalition(server)")
    with pytest.raises(CapabilityError, match=r"pairwise_masking has no aggregator 0.* Known: client 0, server"):
        seen(data, "coalition(server,aggregator 0)", make("secagg(range=2)"))
    with pytest.raises(CapabilityError, match="client 6, but there are 6 clients"):
        seen(data, "coalition(server,client 6)", make("secagg(range=2)"))


def test_a_client_of_the_coalition_that_is_not_in_the_round_adds_nothing(data):
    made = federation(data, make("secagg(range=2)"))
    tap = Tap(Adversary("coalition(server,client 5)"))
    _, record = made.step(made.start(), [tap], evaluate=False, clients=[0, 1, 2])
    (observation,) = record.observations
    assert observation.truth.clients == (0, 1, 2)


def test_an_aborted_round_moves_nothing_and_the_next_goes_on(data):
    made = federation(data, make("secagg(range=2,threshold=0.9)"), attrition=FixedAttrition(count=3))
    history = made.run(2)
    assert all("below threshold=6" in r.aborted for r in history.records)
    assert np.array_equal(history.weights, made.start().weights)


def test_users_are_told_how_safe_a_cohort_is(data):
    (note,) = federation(data, make("secagg_plus(range=2,neighbours=2,threshold=1)")).line.notes()
    assert note.startswith("defense 'neighbour_masking': 6 clients, each sharing keys with 2 others on a random graph")
    (note,) = federation(data, make("secagg(range=2)")).line.notes()
    assert note.endswith("and 4 recover a client's secrets: up to 3 may work with the server, and up to 2 may go")


@pytest.mark.slow
def test_an_update_that_does_not_fit_stops_the_run_or_costs_the_round(data):
    """Of six clients the one with 6 examples moves furthest; nobody learns anything of the others."""
    coarse = make("secagg(range=1e-3)")
    with pytest.raises(OverflowDetected, match=r"round 0: the contribution of client 0 exceeds .* fixed_point"):
        federation(data, coarse).run(1)
    made = federation(data, coarse, on_overflow="abort")
    _, record = made.step(made.start(), [Tap(Adversary("server"))], evaluate=False)
    assert "client 0 exceeds the fixed-point range" in record.aborted
    assert record.aborted.endswith("(phase 'masked_input')")
    assert (record.survivors, record.observations) == (0, [])
    assert np.array_equal(made.run(2).weights, made.start().weights)


def test_an_update_that_is_not_finite_costs_the_round(data):
    wild = make_procedure(batch_size=None, weighting="uniform", client={"learning_rate": 1e38}, local_epochs=9)
    sizes = Partition("even", tuple(np.split(np.arange(24), 6)))
    model = logistic((7, 7, 1), 10)
    made = Federation(model, data, sizes, wild, (make("secagg(range=2)"),), seed=1, on_nonfinite="abort")
    _, record = made.step(made.start(), evaluate=False)
    assert "is not finite" in record.aborted
    with pytest.raises(StackError, match="on_nonfinite='abort' needs a protocol"):
        Federation(model, data, sizes, wild, (), seed=1, on_nonfinite="abort")
    with pytest.raises(StackError, match="on_overflow='abort' needs a protocol"):
        Federation(model, data, sizes, wild, (make("fixed_point(range=1)"),), seed=1, on_overflow="abort")


def test_what_a_protocol_sends_down_is_counted(data):
    """6 clients: 2 keys and a sealed pair of shares of 5 others, and 4 bytes a survivor, besides the model."""
    made, plain = federation(data, make("secagg(range=2)")), federation(data)
    _, record = made.step(made.start(), evaluate=False)
    _, bare = plain.step(plain.start(), evaluate=False)
    assert record.bytes_down - bare.bytes_down == 6 * (5 * 68 + 5 * 100 + 6 * 4)


@pytest.mark.slow
def test_a_sum_over_one_client_is_warned_of(data):
    made = federation(data, make("secret_sharing(range=2)"))
    _, record = made.step(made.start(), evaluate=False, clients=[3])
    assert any("a sum over one client is its update" in w for w in record.warnings)
    _, record = made.step(made.start(), evaluate=False, clients=[3, 4])
    assert not record.warnings


def test_drop_outs_that_do_not_exist_are_refused(data):
    with pytest.raises(ParameterError, match="there is no client 6; there are 6 clients, numbered from 0"):
        federation(data, attrition=PartiesAttrition(gone=["client 6"]))


LIGHT = "light_secagg(range=1,colluders=2,dropouts=1)"


@pytest.mark.parametrize(
    "protocol",
    ["secagg(range=1)", "secagg_plus(range=1,neighbours=2,threshold=3,min_clients=1)", "secagg_plus(range=1)", LIGHT],
)
def test_no_epsilon_where_aborting_depends_on_how_many_came(data, protocol):
    parts = Partition("even", tuple(np.split(np.arange(24), 6)))
    sampling = {"kind": "poisson", "rate": 0.5}
    procedure = make_procedure(batch_size=None, weighting="uniform", sampling=sampling)
    defenses = (make("central_dp(clip=1,noise_multiplier=1)"), make(protocol))
    made = Federation(logistic((7, 7, 1), 10), data, parts, procedure, defenses, seed=1)
    assert any("whether a round is aborted depends on how many clients took part" in w for w in made.line.refusals())
    assert not [c for c in made.line.claims() if c.against == "released"]
