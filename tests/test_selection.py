"""Selection strategies: who takes part when, and what the account makes of it."""

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.account.accounting import central_epsilon
from fedpriv.base.errors import ParameterError
from fedpriv.procedure.procedure import Procedure, Sampling
from fedpriv.procedure.sampling import cohort

CYCLIC = Sampling(kind="strategy", strategy="cyclic(size=2)")


def test_a_cycle_takes_everybody_once_and_keeps_the_distance():
    rounds = [cohort(CYCLIC, 10, 3, r) for r in range(20)]
    assert sorted(np.concatenate(rounds[:5])) == list(range(10))
    for client in range(10):
        taken = [r for r, ids in enumerate(rounds) if client in ids]
        assert np.diff(taken).tolist() == [5, 5, 5]
    assert any(list(a) != list(b) for a, b in zip(rounds, [cohort(CYCLIC, 10, 4, r) for r in range(20)], strict=True))


def test_leftovers_sit_out_and_never_break_the_distance():
    rounds = [cohort(Sampling(kind="strategy", strategy="cyclic(size=3)"), 10, 0, r) for r in range(9)]
    assert all(len(r) == 3 for r in rounds)
    assert len(set(np.concatenate(rounds).tolist())) == 9


def test_it_runs_and_amplifies_nothing(federate):
    noise = CentralDP(clip=1.0, noise_multiplier=8.0)
    federation = federate(sampling=CYCLIC, weighting="uniform", defenses=(noise,))
    assert federation.plan.expected_cohort == 2
    history = federation.run(2)
    assert [r.cohort for r in history.records] == [2, 2]
    found = history.ledger.epsilon(1e-5)
    # One client replaces another, so the sensitivity is twice the clip, and every round counts in full.
    assert found.relation == "replace_one"
    assert found.value == pytest.approx(central_epsilon(4.0, rounds=2, delta=1e-5, rate=1.0))
    assert "each at most every 2 rounds" in history.ledger.describe()


def test_it_is_written_like_any_other_and_plain_sampling_as_before():
    assert Sampling.fixed(3).model_dump(mode="json") == {"kind": "fixed", "size": 3, "rate": None}
    assert CYCLIC.model_dump(mode="json")["strategy"] == "cyclic(size=2)"
    assert Procedure(sampling=CYCLIC.model_dump(mode="json")).sampling == CYCLIC
    with pytest.raises(ValueError, match=r"no selection is named 'cylic'.*Did you mean 'cyclic'"):
        Sampling(kind="strategy", strategy="cylic(size=2)")
    with pytest.raises(ValueError, match="strategy sampling needs strategy"):
        Sampling(kind="strategy")


def test_a_cohort_beyond_the_population_is_refused(federate):
    with pytest.raises(ParameterError, match=r"cyclic\(size=9\) exceeds the population of 5 clients"):
        federate(sampling=Sampling(kind="strategy", strategy="cyclic(size=9)"))


def apart(separation, size=3, limit=""):
    return Sampling(kind="strategy", strategy=f"min_separation(size={size},separation={separation}{limit})")


@pytest.mark.slow
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 9))
def test_min_separation_keeps_the_distance_and_draws_anew(separation, size, seed):
    population = 25
    rounds = [cohort(apart(separation, size), population, seed, r) for r in range(30)]
    assert all(len(np.unique(ids)) == size for ids in rounds)
    for client in range(population):
        taken = [r for r, ids in enumerate(rounds) if client in ids]
        assert (np.diff(taken) >= separation).all()
    np.testing.assert_array_equal(rounds[7], cohort(apart(separation, size), population, seed, 7))


def test_min_separation_is_random_among_those_that_may_come_again():
    counts = np.zeros(20)
    for seed in range(40):
        for r in range(10):
            counts[cohort(apart(3), 20, seed, r)] += 1
    # 1,200 of them fall evenly on 20 clients: 60 each, within 5 deviations.
    assert np.abs(counts - 60).max() < 5 * np.sqrt(60)
    assert list(cohort(apart(3), 20, 0, 0)) != list(cohort(apart(3), 20, 1, 0))


def test_participations_are_limited_and_refused_before_the_first_round(federate):
    limited = apart(2, size=1, limit=",max_participations=2")
    rounds = [cohort(limited, 6, 1, r) for r in range(12)]
    assert np.unique(np.concatenate(rounds), return_counts=True)[1].max() == 2
    rule = limited.selection
    assert (rule.apart(6), rule.participations(6, 12), rule.participations(6, 3)) == (2, 2, 2)
    assert CYCLIC.selection.participations(10, 11) == 3
    federation = federate(sampling=limited, weighting="uniform")
    with pytest.raises(ParameterError, match=r"only \d of 5 clients may take part again; train for at most"):
        federation.run(30)
    with pytest.raises(ParameterError, match=r"needs 6 clients.*and there are 5; choose a separation of at most 2"):
        federate(sampling=apart(3, size=2))
