"""LightSecAgg as users name it, and in a federation."""

import numpy as np
import pytest
from fedpriv_defenses.fixed_point import FixedPoint
from fedpriv_defenses.secure_sum.coded_masking import CodedMasking
from fedpriv_defenses.secure_sum.light_secagg import LightSecAgg

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, StackError
from fedpriv.defense.attrition import PartiesAttrition
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.stations import Station
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.position import Coalition, Eavesdropper, Server
from fedpriv.threat.tap import Tap


def test_the_word_stands_for_two_links_that_are_named_themselves(make_plan):
    light = registry.defenses.create("light_secagg(colluders=2,dropouts=0.2,bits=24,range=2,min_clients=2)")
    codec, protocol = light.parts()
    assert codec == FixedPoint(bits=24, range=2.0)
    written = "coded_masking(colluders=2,dropouts=0.2,bits=24,min_clients=2)"
    assert protocol == CodedMasking(colluders=2, dropouts=0.2, bits=24, min_clients=2)
    assert protocol == registry.defenses.create(written)
    plan = make_plan()
    assert (light.takes, codec.maps(Real(), plan)) == (codec.takes, protocol.takes) == (Real(), Ring(24))
    assert light.stations == [Station.ENCODE, Station.MESSAGE]
    assert not light.replayable
    assert light.replay() is None
    assert light.claims(plan, Real()) == []
    # Each parameter belongs to a part, with the same limits and the same default.
    parts = {**FixedPoint.model_fields, **CodedMasking.model_fields}
    assert set(LightSecAgg.model_fields) == set(parts)
    for name, field in LightSecAgg.model_fields.items():
        assert (field.default, field.metadata) == (parts[name].default, parts[name].metadata)
    assert type(light)(**{k: v for k, v in light.config().items() if k != "name"}) == light


def test_it_is_checked_in_its_own_name(make_plan):
    with pytest.raises(ParameterError, match="light_secagg: bits=8 cannot hold a sum over 200 clients"):
        LightSecAgg(bits=8).check(make_plan(population=200))
    with pytest.raises(StackError, match="light_secagg: of 10 clients, colluders=8 is T=8 and dropouts=2 leaves U=8"):
        LightSecAgg(colluders=8, dropouts=2).check(make_plan())
    with pytest.raises(StackError, match=r"light_secagg: sums of 10 clients' integers mod 2\^64 .* use bits <= 57"):
        LightSecAgg(bits=64).check(make_plan())
    with pytest.raises(StackError, match="light_secagg wants min_clients=11"):
        LightSecAgg(min_clients=11).check(make_plan())


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("gone", [(), ("client 3",)])
def test_it_trains_to_the_same_bits_as_another_exact_sum(federate, gone, weighting):
    def trained(written):
        federation = federate(
            defenses=(registry.defenses.create(written),),
            attrition=PartiesAttrition(gone=gone),
            weighting=weighting,
            client={"learning_rate": 0.5},
        )
        return federation.run(2, evaluate_every=0)

    light = trained("light_secagg(colluders=2,dropouts=1,range=4)")
    other = trained("secret_sharing(range=4)")
    assert light.weights.tobytes() == other.weights.tobytes()
    assert [r.aborted for r in light.records] == [r.aborted for r in other.records]
    assert light.records[0].bytes_up > other.records[0].bytes_up > 0


def test_a_round_that_too_few_finish_leaves_the_model_as_it_was(federate):
    federation = federate(
        defenses=(LightSecAgg(colluders=2, dropouts=1),),
        attrition=PartiesAttrition(gone=["client 0", "client 1"]),
        weighting="uniform",
    )
    start = federation.start()
    state, record = federation.step(start, evaluate=False)
    assert state.weights.tobytes() == start.weights.tobytes()
    assert "3 of 5 clients are there, below the U=4" in record.aborted


def test_positions_see_what_the_protocol_leaves_them(federate):
    federation = federate(defenses=(LightSecAgg(colluders=2, dropouts=1, range=4.0),), weighting="uniform", seed=4)
    plain = federate(weighting="uniform", seed=4)
    start = plain.start()
    _, record = plain.step(start, [Tap(Adversary(Server()))], evaluate=False)
    updates = [o.view.observed for o in record.observations]
    assert len(updates) == 5

    def seen_at(position):
        _, record = federation.step(federation.start(), [Tap(Adversary(position))], evaluate=False)
        return [o.view for o in record.observations]

    step = federation.line.links[0].steps(federation.plan).step
    (view,) = seen_at(Server())
    assert (view.kind, view.payloads) == ("sum", None)
    np.testing.assert_allclose(view.observed, np.mean(updates, 0), atol=2 * step)
    (heard,) = seen_at(Eavesdropper())
    assert (heard.kind, heard.observed) == ("shares", None)
    (rest,) = seen_at(Coalition(members=("server", "client 0", "client 4")))
    assert rest.clients == 3
    np.testing.assert_allclose(rest.observed, np.mean(updates[1:4], 0), atol=2 * step)
    (last,) = seen_at(Coalition(members=("server", *(f"client {c}" for c in (0, 1, 2, 4)))))
    assert last.kind == "update"  # U = 4 of them
    np.testing.assert_allclose(last.observed, updates[3], atol=2 * step)
    (alone,) = seen_at(Coalition(members=("client 1", "client 2")))
    assert (alone.kind, alone.observed) == ("shares", None)
