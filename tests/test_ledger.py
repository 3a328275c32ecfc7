import json
from dataclasses import replace

import pytest

from fedpriv.account.accounting import central_epsilon
from fedpriv.account.ledger import Claim, Ledger
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.event import RenyiEvent
from fedpriv.defense.stations import Plan
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling

POISSON = Sampling.poisson(120 / 3383)


def setup_of(sampling=POISSON, population=3383, weighting="uniform"):
    return Plan(
        spec=Spec(("w",), ((4,),)),
        population=population,
        cohort=sampling.largest(population),
        expected_cohort=sampling.expected(population),
        sampling=sampling,
        weighting=weighting,
        max_examples=100,
    )


def claim_of(multiplier=1.2, relation="add_or_remove_one", against="released", amplified=True, unit="client", **rest):
    event = dp_accounting.GaussianDpEvent(multiplier)
    return Claim(event=event, unit=unit, relation=relation, against=against, amplified=amplified, **rest)


def server_claim(event):
    return Claim(event=event, unit="client", relation="replace_one", against="server", amplified=False)


def test_composes_rounds_under_the_sampling_used():
    ledger = Ledger(setup_of(), [claim_of(assumes=("a secret cohort",))])
    assert ledger.epsilon(1e-5).value == 0
    ledger.spend(99)
    ledger.spend()
    found = ledger.epsilon(1e-5)
    assert found.value == pytest.approx(1.986, abs=1e-3)
    assert (found.unit, found.relation, found.accountant) == ("client", "add_or_remove_one", "rdp")
    assert (found.rounds, found.delta, found.against) == (100, 1e-5, "released")
    assert found.assumes == ("a secret cohort",)
    assert str(found).startswith("epsilon 1.986 at delta 1e-05 after 100 rounds (client level, add_or_remove_one")


def test_pld_is_tighter_and_rdp_remains_at_hand():
    ledger = Ledger(setup_of(), [claim_of()], accountant="pld")
    ledger.spend(100)
    assert ledger.epsilon(1e-5).value == pytest.approx(1.708, abs=1e-3)
    assert ledger.epsilon(1e-5, accountant="rdp").value == pytest.approx(1.986, abs=1e-3)
    assert ledger.epsilon(1e-5, rounds=1).value < 0.5


def test_fixed_size_and_full_participation():
    fixed = Ledger(setup_of(Sampling.fixed(120)), [claim_of(0.6, "replace_one")])
    fixed.spend(100)
    expected = central_epsilon(1.2, rounds=100, delta=1e-5, cohort=120, population=3383, sampling="fixed")
    assert fixed.epsilon(1e-5).value == pytest.approx(expected)
    full = Ledger(setup_of(Sampling.full()), [claim_of(10.0)])
    full.spend(10)
    assert full.epsilon(1e-5).value == pytest.approx(central_epsilon(10.0, rounds=10, delta=1e-5, rate=1.0))


def test_without_amplification_the_sampling_does_not_matter():
    one, other = (Ledger(setup_of(s), [claim_of(5.0, amplified=False)]) for s in (POISSON, Sampling.full()))
    assert one.epsilon(1e-5, rounds=3) == other.epsilon(1e-5, rounds=3)
    amplified = Ledger(setup_of(), [claim_of(5.0)])
    assert amplified.epsilon(1e-5, rounds=3).value < one.epsilon(1e-5, rounds=3).value


def test_the_strongest_of_several_claims_counts():
    ledger = Ledger(setup_of(), [claim_of(1.0), claim_of(2.0), claim_of(9.0, against="server", amplified=False)])
    assert ledger.epsilon(1e-5, rounds=50).value == Ledger(setup_of(), [claim_of(2.0)]).epsilon(1e-5, rounds=50).value


def test_a_guarantee_against_the_server_covers_what_is_released():
    message = claim_of(9.0, "replace_one", "server", amplified=False)
    ledger = Ledger(setup_of(), [message])
    against_server, released = ledger.epsilon(1e-5, "server", rounds=4), ledger.epsilon(1e-5, rounds=4)
    assert against_server.value == released.value == pytest.approx(central_epsilon(9, rounds=4, delta=1e-5, rate=1.0))
    assert (against_server.against, released.against) == ("server", "released")


def test_but_not_the_other_way_round():
    with pytest.raises(LedgerError, match=r"no defense claims anything against 'server'.*add local_dp"):
        Ledger(setup_of(), [claim_of()]).epsilon(1e-5, "server")


def test_no_defense_never_means_zero():
    for rounds in (0, 1):
        with pytest.raises(LedgerError, match="makes a formal privacy claim, so epsilon is unbounded"):
            Ledger(setup_of(), []).epsilon(1e-5, rounds=rounds)


@pytest.mark.parametrize(
    ("plan", "claim", "accountant", "reason"),
    [
        (setup_of(), claim_of(0.0), "rdp", "noise multiplier is 0"),
        (setup_of(Sampling.fixed(9)), claim_of(1.0, "replace_one"), "pld", "use accountant='rdp', or Poisson"),
        (setup_of(Sampling.fixed(9)), claim_of(1.0), "rdp", "amplifies only guarantees stated for replace_one"),
        (setup_of(), claim_of(1.0, "replace_one"), "rdp", "amplifies only guarantees stated for add_or_remove_one"),
        (setup_of(weighting="examples"), claim_of(), "rdp", "use weighting='uniform'"),
        (setup_of(), claim_of(unit="example"), "rdp", "cohort sampling draws clients"),
    ],
)
def test_refuses_what_it_cannot_justify(plan, claim, accountant, reason):
    with pytest.raises(LedgerError, match=reason):
        Ledger(plan, [claim], accountant).epsilon(1e-5, rounds=1)


def test_refuses_events_that_are_not_private_or_not_understood():
    for event, reason in (
        (dp_accounting.NonPrivateDpEvent(), "not private"),
        (dp_accounting.UnsupportedDpEvent(), "cannot compose UnsupportedDpEvent"),
    ):
        claim = server_claim(event)
        with pytest.raises(LedgerError, match=reason):
            Ledger(setup_of(), [claim]).epsilon(1e-5, rounds=1)


def test_composed_events_are_one_claim():
    twice = dp_accounting.ComposedDpEvent([dp_accounting.GaussianDpEvent(8.0), dp_accounting.GaussianDpEvent(8.0)])
    ledger = Ledger(setup_of(), [server_claim(twice)])
    plain = Ledger(setup_of(), [claim_of(8.0, "replace_one", "server", amplified=False)])
    assert ledger.epsilon(1e-5, rounds=3).value == pytest.approx(plain.epsilon(1e-5, rounds=6).value)


def test_a_claim_that_holds_is_used_where_another_does_not():
    ledger = Ledger(setup_of(), [claim_of(1.0, "replace_one"), claim_of(1.2)])
    assert ledger.epsilon(1e-5, rounds=100).value == pytest.approx(1.986, abs=1e-3)


def test_objections_overrule_every_claim():
    with pytest.raises(LedgerError, match="no epsilon can be justified: the state leaks"):
        Ledger(setup_of(), [claim_of()], objections=["the state leaks"]).epsilon(1e-5)


def test_units_are_not_mixed():
    example = claim_of(3.0, "add_or_remove_one", amplified=False, unit="example")
    ledger = Ledger(setup_of(), [example, claim_of(1.2)])
    assert ledger.epsilon(1e-5, rounds=1).unit == "client"
    assert ledger.epsilon(1e-5, rounds=1, unit="example").unit == "example"
    with pytest.raises(LedgerError, match="no claim protects a single example against 'released'; claimed: client"):
        Ledger(setup_of(), [claim_of()]).epsilon(1e-5, unit="example")


def test_a_large_delta_is_named_as_an_assumption():
    ledger = Ledger(setup_of(), [claim_of()])
    assert any("above 1/3383" in a for a in ledger.epsilon(1e-3, rounds=1).assumes)
    assert ledger.epsilon(1e-5, rounds=1).assumes == ()


def test_bad_questions():
    ledger = Ledger(setup_of(), [claim_of()])
    with pytest.raises(ParameterError, match="delta=1"):
        ledger.epsilon(1)
    with pytest.raises(ParameterError, match="against='world'"):
        ledger.epsilon(1e-5, "world")
    with pytest.raises(ParameterError, match="rounds=-1"):
        ledger.spend(-1)
    with pytest.raises(ParameterError, match="accountant 'renyi'"):
        Ledger(setup_of(), [], accountant="renyi")


def test_the_state_survives_json_and_only_fits_the_same_federation():
    ledger = Ledger(setup_of(), [claim_of()])
    ledger.spend(42)
    saved = json.loads(json.dumps(ledger.state()))
    again = Ledger(setup_of(), [claim_of()])
    again.restore(saved)
    assert again.rounds == 42
    assert again.epsilon(1e-5) == ledger.epsilon(1e-5)
    for other in (Ledger(setup_of(), [claim_of(1.3)]), Ledger(setup_of(Sampling.full()), [claim_of()])):
        with pytest.raises(LedgerError, match="saved ledger"):
            other.restore(saved)


def test_describe_says_what_it_rests_on():
    text = Ledger(setup_of(), [claim_of(assumes=("the cohort is secret",))]).describe()
    assert "each of 3383 clients with probability" in text
    assert "It assumes that the cohort is secret." in text
    assert "amplified by sampling" in text
    assert "epsilon is unbounded" in Ledger(setup_of(Sampling.full()), []).describe()


def test_describe_says_events_in_words_and_each_assumption_once():
    noise = dp_accounting.GaussianDpEvent(0.5000000000000001)
    events = (
        dp_accounting.SelfComposedDpEvent(noise, 1),
        RenyiEvent("sum of skellam noises", (("variance", 2.0000000001),), lambda order: order),
    )
    claims = [replace(claim_of(assumes=("it is so", f"it is {i}")), event=event) for i, event in enumerate(events)]
    text = Ledger(setup_of(), claims).describe()
    assert "Gaussian noise of multiplier 0.5 a round" in text
    assert "sum of skellam noises (variance 2) a round" in text
    assert [text.count(said) for said in ("Event", "it is so", "it is 0", "it is 1")] == [0, 1, 1, 1]


def test_an_epsilon_is_asked_for_one_relation_and_says_what_it_left_out():
    renyi = RenyiEvent("noise", (("variance", 1.0),), lambda order: order / 2)
    claims = [
        replace(claim_of(amplified=False), event=renyi),
        replace(claim_of(amplified=False), relation="replace_one"),
    ]
    ledger = Ledger(setup_of(), claims)
    assert ledger.epsilon(1e-5, rounds=3, relation="replace_one").relation == "replace_one"
    assert not ledger.epsilon(1e-5, rounds=3).instead
    found = ledger.epsilon(1e-5, rounds=3, accountant="pld")
    assert found.relation == "replace_one"
    assert "by another claim, for one gives no number: no privacy loss distribution is known of noise" in str(found)
    with pytest.raises(LedgerError, match="only under add_or_remove_one, replace_one"):
        ledger.epsilon(1e-5, rounds=3, relation="replace_special")
    for relation in ("x", "replace"):
        with pytest.raises(ParameterError, match="is unknown"):
            ledger.epsilon(1e-5, rounds=3, relation=relation)
    with pytest.raises(ParameterError, match="delta=x must"):
        ledger.epsilon("x")


def test_a_claim_about_a_whole_run_is_asked_for_that_run():
    """Noise that is drawn once costs the same however many rounds show it; composed it would grow."""
    once = claim_of(2.0, amplified=False, run=lambda rounds: dp_accounting.GaussianDpEvent(2.0))
    ledger, composed = Ledger(setup_of(), [once]), Ledger(setup_of(), [claim_of(2.0, amplified=False)])
    one = composed.epsilon(1e-5, rounds=1).value
    assert ledger.epsilon(1e-5, rounds=1).value == ledger.epsilon(1e-5, rounds=500).value == pytest.approx(one)
    assert composed.epsilon(1e-5, rounds=500).value > 10 * one
    assert ledger.epsilon(1e-5, rounds=0).value == 0


def test_what_holds_against_the_server_holds_for_what_it_releases():
    server, released = claim_of(9.0, "replace_one", "server", amplified=False), claim_of(0.5, amplified=False)
    assert Ledger(setup_of(), [server, released]).epsilon(1e-5, rounds=1).value == pytest.approx(
        Ledger(setup_of(), [server]).epsilon(1e-5, rounds=1).value
    )
