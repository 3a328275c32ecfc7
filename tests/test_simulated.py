"""A simulated federation: a small cohort's noise stands for a large one's, and every epsilon says so."""

from types import SimpleNamespace

import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.correlated.dp_ftrl import DPFTRL
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.tff_aggregators import TFFDP

from fedpriv.account.accounting import central_epsilon
from fedpriv.base.errors import ParameterError, StackError
from fedpriv.experiment.report import _notes
from fedpriv.experiment.setting import Setting
from fedpriv.procedure.procedure import Sampling, Simulated
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

LARGE = Simulated(cohort=400, population=100_000)
NOISY = CentralDP(clip=1.0, noise_multiplier=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "poisson"])
def test_the_account_is_the_large_federations_and_the_noise_the_small_ones(federate, kind):
    small = Sampling.fixed(4) if kind == "fixed" else Sampling.poisson(0.8)
    federation = federate(defenses=(NOISY,), weighting="uniform", sampling=small, simulates=LARGE, batch_size=None)
    history = federation.run(2, taps=[Tap(Adversary("observer"))])
    stddev = 2.0 * 4 / 400
    assert history.records[0].metrics["central_dp/noise_stddev"] == pytest.approx(stddev)
    assert federation.line.links[0].noise(federation.plan).scale == pytest.approx(stddev)
    found = history.ledger.epsilon(1e-7)
    expected = central_epsilon(2.0, rounds=2, delta=1e-7, cohort=400, population=100_000, sampling=kind)
    assert found.value == pytest.approx(expected)
    # The view holds the noise that was added: little.
    view = history.observations[0].view
    quiet = federate(
        defenses=(CentralDP(clip=1.0, noise_multiplier=0.0),), weighting="uniform", sampling=small, batch_size=None
    )
    clean = quiet.run(1, taps=[Tap(Adversary("observer"))]).observations[0].view.observed
    spread = (view.observed - clean).std() * 4
    assert spread == pytest.approx(stddev, rel=5 / np.sqrt(2 * clean.size))


def test_it_is_said_wherever_an_epsilon_is_shown(federate):
    federation = federate(defenses=(NOISY,), weighting="uniform", sampling=Sampling.fixed(4), simulates=LARGE)
    said = "cohort 400 of 100,000 simulated with 4; no guarantee for the clients that took part"
    ledger = federation.ledger()
    assert said in str(ledger.epsilon(1e-7, rounds=3))
    assert said in ledger.describe()
    assert any(said in a for a in ledger.epsilon(1e-7, rounds=3).assumes)
    real = federate(defenses=(NOISY,), weighting="uniform", sampling=Sampling.fixed(4)).ledger()
    assert "simulated" not in real.describe() + str(real.epsilon(1e-7, rounds=3))


def test_correlated_noise_is_accounted_by_the_large_federations_participation(federate):
    defense = DPFTRL(clip=1.0, noise_multiplier=2.0)
    cyclic = Sampling(kind="strategy", strategy="cyclic(size=1)")
    options = {"defenses": (defense,), "weighting": "uniform", "sampling": cyclic, "rounds": 20}
    large = federate(**options, simulates=Simulated(cohort=50, population=1000))
    claim, small = large.line.claims()[0], federate(**options).line.claims()[0]
    assert claim.run(20).noise_multiplier > small.run(20).noise_multiplier
    assert large.line.links[0].stddev(large.plan) == pytest.approx(2.0 / 50)
    assert any("20 or more apart" in a for a in claim.assumes)


def test_where_it_has_no_meaning_it_is_refused(federate):
    options = {"weighting": "uniform", "simulates": LARGE}
    with pytest.raises(StackError, match=r"local_dp protects each message by itself"):
        federate(defenses=(LocalDP(clip=1.0, noise_multiplier=1.0),), **options)
    with pytest.raises(StackError, match=r"no defense here adds any; add central_dp"):
        federate(defenses=(Clip(norm=1.0),), **options)
    with pytest.raises(StackError, match=r"no defense here adds any"):
        federate(defenses=(TFFDP(noise_multiplier=1.0, clip=1.0),), engine="tff", **options)
    with pytest.raises(ValueError, match=r"cohort=5 exceeds its population=3"):
        Simulated(cohort=5, population=3)
    apart = Sampling(kind="strategy", strategy="min_separation(size=1,separation=3)")
    with pytest.raises(ParameterError, match=r"needs 900 clients.*and there are 500"):
        federate(
            defenses=(NOISY,), weighting="uniform", sampling=apart, simulates=Simulated(cohort=300, population=500)
        )


def test_it_is_written_in_files_and_said_in_reports():
    setting = Setting.model_validate(
        {"training": {"rounds": 1, "simulates": {"cohort": 400, "population": 100_000}}, "secure_rng": True}
    )
    assert setting.training.procedure(10).simulates == LARGE
    assert setting.training_identity()["secure_rng"] is True
    plain = Setting.model_validate({"training": {"rounds": 1}})
    assert "secure_rng" not in plain.training_identity()
    assert "simulates" not in plain.training_identity()["training"]
    said = "cohort 400 of 100,000 simulated with 4; no guarantee for the clients that took part"
    arm = SimpleNamespace(results=[SimpleNamespace(facts={"simulated": said})])
    assert _notes([arm]) == [f"Epsilon is a larger federation's: {said}."]
