import json

import numpy as np
import pytest

from fedpriv.account.accounting import central_epsilon, noise_for, round_rdp
from fedpriv.account.budget import Budget, Guard
from fedpriv.account.calibration import calibrated
from fedpriv.account.ledger import Ledger
from fedpriv.account.phase import Phase
from fedpriv.account.search import smallest_multiplier
from fedpriv.base import registry
from fedpriv.base.errors import BudgetError, LedgerError, ParameterError, StackError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.event import RenyiEvent
from fedpriv.defense.line import Line
from fedpriv.procedure.procedure import Sampling
from tests.test_ledger import claim_of, setup_of

RARE = Sampling.poisson(1e-3)


def test_a_budget_is_read_from_text_and_fields():
    wanted = Budget(2.0, 1e-6)
    assert Budget.of("epsilon=2, delta=1e-6") == Budget.of({"epsilon": 2, "delta": 1e-6}) == Budget.of(wanted) == wanted
    assert Budget.of("epsilon=2, delta=1e-6, against=server, unit=client") == Budget(2.0, 1e-6, "server", "client")
    assert str(Budget.of(str(wanted))) == "epsilon=2, delta=1e-06"
    assert Budget.of(None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilon=2", "lacks delta; write it as 'epsilon=2, delta=1e-6'"),
        ("epsilon=2, delta=1", "delta=1.0 must lie strictly between 0 and 1"),
        ("epsilon=0, delta=1e-6", "must be a number above 0"),
        ("epsilon=inf, delta=1e-6", "must be a number above 0"),
        ("epsilon=two, delta=1e-6", "epsilon='two' is no number"),
        ("epsilon=2, detla=1e-6", "has no 'detla'. Did you mean 'delta'?"),
        ("epsilon=2, delta=1e-6, against=world", "against='world' is unknown"),
    ],
)
def test_a_budget_that_makes_no_sense_is_named(text, message):
    with pytest.raises(ParameterError, match=message):
        Budget.of(text)


@pytest.mark.slow
@pytest.mark.parametrize(("accountant", "expected"), [("rdp", 0.714), ("pld", 0.616)])
def test_published_noise_for_a_budget(accountant, expected):
    """(2, 1e-6) with q = 1e-3 over 1,500 rounds."""
    central = registry.defenses.create("central_dp(clip=0.3)")
    (found,) = calibrated([central], setup_of(RARE, 100_000), Budget(2.0, 1e-6), rounds=1500, accountant=accountant)
    assert found.noise_multiplier == pytest.approx(expected, abs=5e-4)
    assert found.clip == 0.3
    if accountant == "rdp":
        assert noise_for(2.0, rounds=1500, delta=1e-6, rate=1e-3) == pytest.approx(found.noise_multiplier, abs=2e-4)


@pytest.mark.parametrize(
    ("noise", "steps", "published"),
    [(1.3, 15 * 60_000 // 256, 1.19), (1.1, 60 * 60_000 // 256, 3.01), (0.7, 45 * 60_000 // 256, 7.10)],
)
def test_tf_privacys_table_for_mnist(noise, steps, published):
    """B = 256 of 60,000 at delta 1e-5; the table's epsilons are by Mironov's conversion of Renyi divergences."""
    event = dp_accounting.PoissonSampledDpEvent(256 / 60_000, dp_accounting.GaussianDpEvent(noise))
    orders, rdp = round_rdp(event, "add_or_remove_one")
    classic = np.min(steps * rdp - np.log(1e-5) / (np.asarray(orders) - 1))
    assert classic == pytest.approx(published, abs=0.01)
    found = central_epsilon(noise, rounds=steps, delta=1e-5, rate=256 / 60_000)
    assert 0.8 * published < found < published  # the conversion of 2020 is tighter


def test_any_mechanism_that_makes_claims_is_calibrated():
    """Of local noise the message is what the server sees; the sum's noise is sqrt(m) times as large."""
    local = registry.defenses.create("local_dp(clip=2)")
    plan = setup_of(Sampling.full(), 50)
    for against, scale in (("server", 1.0), ("released", 50**0.5)):
        budget = Budget(1.0, 1e-5, against)
        (found,) = calibrated([local], plan, budget, rounds=10)
        spent = central_epsilon(found.noise_multiplier * scale / 2, rounds=10, delta=1e-5, rate=1.0)
        assert spent == pytest.approx(1.0, rel=1e-3)
        assert spent <= 1.0


def test_what_cannot_be_calibrated_says_why():
    central, local = (registry.defenses.create(f"{name}(clip=1)") for name in ("central_dp", "local_dp"))
    plan = setup_of(RARE, 1000)
    with pytest.raises(ParameterError, match="give noise_multiplier, or a budget"):
        Line([central], plan)
    with pytest.raises(ParameterError, match="local_dp and central_dp leave noise_multiplier to the budget"):
        calibrated([local, central], plan, Budget(1.0, 1e-5), rounds=2)
    with pytest.raises(LedgerError, match="no defense claims anything against 'server'"):
        calibrated([central], plan, Budget(1.0, 1e-5, "server"), rounds=2)
    with pytest.raises(BudgetError, match="still spends more than epsilon=1e-07, delta=1e-05 over 1000 rounds"):
        calibrated([central], setup_of(Sampling.full(), 10), Budget(1e-7, 1e-5), rounds=1000)


def test_the_smallest_multiplier_is_the_smallest():
    found = smallest_multiplier(lambda z, by, interval: 3.0 / z**2, 0.5, "pld")
    assert 6**0.5 <= found <= 6**0.5 * 1.001
    with pytest.raises(LedgerError, match="nothing is known"):
        smallest_multiplier(never, 0.5, "rdp")


def test_noise_that_defenses_cannot_work_with_ends_the_search_or_is_said():
    def spent(most):
        def tried(z, by, interval):
            if z > most:
                raise ParameterError("too much for 16 bits")
            return 3.0 / z**2

        return tried

    assert smallest_multiplier(spent(2.5), 0.5, "rdp") == pytest.approx(6**0.5, rel=1e-3)
    with pytest.raises(ParameterError, match="too much for 16 bits"):
        smallest_multiplier(spent(2.0), 0.5, "rdp")


def never(multiplier, by, interval):
    raise LedgerError("nothing is known")


def ledger_of(multiplier=1.2, **rest):
    return Ledger(setup_of(), [claim_of(multiplier)], **rest)


def test_a_guard_stops_before_the_round_that_would_break_the_budget():
    ledger = ledger_of()
    limit = ledger.epsilon(1e-5, rounds=37).value
    guard = Guard(Budget(limit, 1e-5), ledger, 100)
    assert guard.allowed == 37
    ledger.spend(36)
    assert guard.stop() == ""
    ledger.spend()
    assert guard.stop().startswith("stopped after 37 of 100 rounds by the budget of epsilon=")
    assert ledger.epsilon(1e-5).value <= limit < ledger.epsilon(1e-5, rounds=38).value


def test_a_guard_stops_where_no_number_can_be_given_any_more():
    ledger = Ledger(setup_of(), [claim_of(checks=frozenset({"everyone arrives"}))])
    guard = Guard(Budget(5.0, 1e-5), ledger, 100)
    ledger.spend()
    assert guard.stop() == ""
    ledger.spend(broken=["everyone arrives"])
    assert "no epsilon can be justified any more" in guard.stop()


def test_a_budget_that_is_spent_already_is_an_error():
    ledger = ledger_of(earlier=ledger_with_rounds(90).phases())
    with pytest.raises(BudgetError, match=r"is spent already: epsilon is .* after 90 rounds"):
        Guard(Budget(1.5, 1e-5), ledger, 10)
    with pytest.raises(BudgetError, match="does not reach for one round"):
        Guard(Budget(0.1, 1e-5), ledger_of(0.5), 10)
    with pytest.raises(LedgerError, match="no defense makes a formal claim"):
        Guard(Budget(0.1, 1e-5), None, 10)
    central = registry.defenses.create("central_dp(clip=1)")
    with pytest.raises(BudgetError, match=r"is spent already: epsilon was 1\.9"):
        calibrated([central], setup_of(), Budget(1.5, 1e-5), rounds=2, earlier=ledger_with_rounds(90).phases())


def ledger_with_rounds(rounds):
    ledger = ledger_of()
    ledger.spend(rounds)
    return ledger


@pytest.mark.slow
def test_phases_add_up_under_other_noise_and_sampling():
    first, second = setup_of(), setup_of(Sampling.poisson(0.01))
    ledger = Ledger(first, [claim_of(1.2)])
    ledger.spend(40)
    after = ledger.then(second, [claim_of(2.0)])
    after.spend(60)
    for accountant in ("rdp", "pld"):
        own = {"rdp": dp_accounting.rdp.RdpAccountant, "pld": dp_accounting.pld.PLDAccountant}[accountant]()
        for rate, noise, rounds in ((120 / 3383, 1.2, 40), (0.01, 2.0, 60)):
            own.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), rounds)
        found = after.epsilon(1e-5, accountant=accountant)
        assert found.value == pytest.approx(own.get_epsilon(1e-5))
        assert found.rounds == 100


def test_phases_survive_json():
    ledger = ledger_with_rounds(40)
    after = ledger.then(setup_of(), [claim_of(2.0)])
    after.spend(3)
    again = Ledger(setup_of(), [claim_of(2.0)])
    again.restore(json.loads(json.dumps(after.state())))
    assert again.epsilon(1e-5) == after.epsilon(1e-5)
    assert again.epsilon(1e-5).value > ledger.epsilon(1e-5).value


def test_phases_of_renyi_bounds_survive_json():
    from dataclasses import replace

    bound = replace(
        claim_of(), event=RenyiEvent("skellam", (("scale", 3.0),), lambda order: order / 18 + order**2 / 999)
    )
    ledger = Ledger(setup_of(), [bound])
    ledger.spend(7)
    (phase,) = ledger.phases()
    again = Phase.restored(json.loads(json.dumps(phase.state())))
    found, expected = (Ledger(setup_of(), [], earlier=[p]).epsilon(1e-5) for p in (again, phase))
    assert found == expected
    assert found.value == pytest.approx(ledger.epsilon(1e-5).value)


def test_a_phase_without_a_guarantee_leaves_none():
    careless = Ledger(setup_of(), [])
    careless.spend(1)
    after = careless.then(setup_of(), [claim_of(2.0)])
    with pytest.raises(LedgerError, match="an earlier phase of 1 rounds gives no number: no defense in the stack"):
        after.epsilon(1e-5, rounds=1)


def test_phases_under_different_relations_are_added_up_as_groups():
    ledger = Ledger(setup_of(Sampling.full()), [claim_of(30.0)])
    ledger.spend(1)
    after = ledger.then(setup_of(Sampling.full()), [claim_of(30.0, "replace_one")])
    found = after.epsilon(1e-5, rounds=1)
    one, two = (central_epsilon(z, rounds=1, delta=0.5e-5, rate=1.0) for z in (15.0, 30.0))
    assert found.value == pytest.approx(one + two)
    assert (found.relation, found.route[:3]) == ("replace_one", "the")


def test_groups_through_the_ledger():
    ledger = Ledger(setup_of(Sampling.full()), [claim_of(30.0)])
    found = ledger.epsilon(1e-5, rounds=4, group=5)
    assert found.value == pytest.approx(central_epsilon(6.0, rounds=4, delta=1e-5, rate=1.0))
    assert "groups of 5 clients" in str(found)
    with pytest.raises(ParameterError, match="group=0"):
        ledger.epsilon(1e-5, rounds=4, group=0)


def test_rho_and_mu_stand_beside_epsilon_where_they_hold():
    full, rare = (Ledger(setup_of(s), [claim_of(4.0)]) for s in (Sampling.full(), RARE))
    assert "zCDP rho 0.5, GDP mu 1)" in str(full.epsilon(1e-5, rounds=16))
    assert rare.epsilon(1e-5, rounds=16).rho is None
    assert full.concentrated(rounds=16).mu == pytest.approx(1.0)


def test_sampling_amplifies_once():
    event = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
    from dataclasses import replace

    twice = replace(claim_of(), event=event)
    with pytest.raises(LedgerError, match="is sampled already, and sampling amplifies once"):
        Ledger(setup_of(), [twice]).epsilon(1e-5, rounds=1)


def test_epsilons_over_rounds_and_deltas():
    ledger = ledger_of()
    growing = [e.value for e in ledger.over_rounds(1e-5, [0, 1, 10, 100])]
    assert growing == sorted(growing)
    assert growing[0] == 0
    falling = [e.value for e in ledger.epsilons([1e-7, 1e-5, 1e-3], rounds=10)]
    assert falling == sorted(falling, reverse=True)
    assert ledger.rounds_within(growing[2], 1e-5, 1000) == 10


BUDGETED = {"defenses": (registry.defenses.create("central_dp(clip=0.5)"),), "weighting": "uniform", "rounds": 4}


def test_a_federation_calibrates_the_noise_that_is_left_open(federate):
    made = federate(**BUDGETED, budget="epsilon=3, delta=1e-3", seed=1)
    assert made.calibrated == {"central_dp": made.defenses[0].noise_multiplier}
    assert made.ledger().epsilon(1e-3, rounds=4).value == pytest.approx(3.0, rel=1e-3)
    assert made.config()["budget"] == "epsilon=3, delta=0.001"
    assert "budget" not in federate().config()
    with pytest.raises(ParameterError, match="give rounds, or noise_multiplier"):
        federate(**{**BUDGETED, "rounds": None}, budget="epsilon=3, delta=1e-3")
    with pytest.raises((ParameterError, StackError), match="or a budget that it is set by"):
        federate(**BUDGETED)


def test_a_run_stops_by_its_budget_and_a_resumed_one_keeps_to_it(federate, tmp_path):
    noisy = (registry.defenses.create("central_dp(clip=0.5,noise_multiplier=4)"),)
    limit = federate(**{**BUDGETED, "defenses": noisy}).ledger().epsilon(1e-3, rounds=2).value
    told = {**BUDGETED, "defenses": noisy, "budget": Budget(limit, 1e-3), "seed": 1}
    history = federate(**told).run(4, checkpoint=tmp_path / "a.ckpt")
    assert len(history.records) == 2
    assert history.stopped.startswith("stopped after 2 of 4 rounds by the budget")
    assert history.records[-1].warnings[-1] == history.stopped
    again = federate(**told).run(4, checkpoint=tmp_path / "a.ckpt")
    assert (len(again.records), again.stopped) == (2, history.stopped)


def test_training_goes_on_from_what_was_spent_with_other_noise(federate, tmp_path):
    from fedpriv.rounds.checkpoint import Checkpoint

    first = federate(**BUDGETED, budget="epsilon=3, delta=1e-3", seed=1)
    first.run(4, checkpoint=tmp_path / "a.ckpt")
    saved = Checkpoint.load(tmp_path / "a.ckpt")
    second = federate(**BUDGETED, budget="epsilon=5, delta=1e-3", seed=1, earlier=saved.spent)
    assert second.seed != first.seed  # the same noise on other weights would cancel
    assert second.ledger().epsilon(1e-3, rounds=4).value == pytest.approx(5.0, rel=1e-3)
    assert second.ledger().epsilon(1e-3, rounds=4).rounds == 8


def test_rounds_without_a_defense_leave_no_number_for_what_comes_after(federate, tmp_path):
    from fedpriv.rounds.checkpoint import Checkpoint

    history = federate(defenses=(registry.defenses.create("clip(norm=1)"),), seed=1).run(1, checkpoint=tmp_path / "a")
    saved = Checkpoint.load(tmp_path / "a").spent
    assert saved == history.spent
    assert [phase.rounds for phase in saved] == [1]
    noisy = {**BUDGETED, "defenses": (registry.defenses.create("central_dp(clip=0.5,noise_multiplier=4)"),)}
    after = federate(**noisy, seed=1, earlier=saved)
    with pytest.raises(LedgerError, match="an earlier phase of 1 rounds gives no number: no defense in it made"):
        after.ledger().epsilon(1e-3, rounds=1)
    with pytest.raises(LedgerError, match="the weights that it released are unprotected"):
        federate(**BUDGETED, budget="epsilon=3, delta=1e-3", earlier=saved)
    assert federate().run(0).spent == ()
    quiet = federate(earlier=saved, seed=1, topology="gossip(graph=ring)")
    assert quiet.ledger().earlier == saved


def test_a_checkpoint_that_says_nothing_of_what_its_rounds_spent_gives_no_number(federate, tmp_path):
    from fedpriv.rounds.checkpoint import Checkpoint

    federate(seed=1).run(1, checkpoint=tmp_path / "a")
    silent = Checkpoint.load(tmp_path / "a")
    silent.spent = ()
    silent.save(tmp_path / "b")
    assert Checkpoint.load(tmp_path / "b").spent == Phase.undefended(1)


def test_a_phase_remembers_that_its_seed_was_chosen(federate):
    from fedpriv.account.ledger import PUBLISHED_SEED

    noisy = {**BUDGETED, "defenses": (registry.defenses.create("central_dp(clip=0.5,noise_multiplier=4)"),)}
    first = federate(**noisy, seed=3).ledger()
    first.spend(2)
    earlier = tuple(Phase.restored(json.loads(json.dumps(phase.state()))) for phase in first.phases())
    drawn = federate(**noisy, seed=None, earlier=earlier).ledger()
    assert PUBLISHED_SEED in drawn.epsilon(1e-3, rounds=1).assumes
    assert PUBLISHED_SEED in drawn.describe()
    went_on = first.then(first.plan, first.claims)
    assert went_on.epsilon(1e-3, rounds=1).assumes.count(PUBLISHED_SEED) == 1
    secret = federate(**noisy, seed=None).ledger()
    secret.spend(2)
    assert PUBLISHED_SEED not in secret.then(secret.plan, secret.claims).epsilon(1e-3, rounds=1).assumes
