"""Selection strategies: who takes part when, and what the account makes of it."""

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP

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
